//! Pairs of provers and verifiers, with tiny models.

use std::sync::Arc;

use crate::gguf::{self, F32};
use ol_engine::pair::{Answer, Plan, Settings, observe, observe_vectors};
use ol_engine::{Cheat, Engine, Model, Options, Rounding, requantise, start};

const TOLERANCE: f32 = 0.05;

fn plan(answers: u32) -> Plan {
    Plan { answers, tokens_max: 160, seed: 7 }
}

fn engine(model: Model, cheat: Option<Cheat>) -> Arc<dyn Engine> {
    start(Arc::new(model), Options { slots: 8, threads: 2, cheat })
}

fn tiny(cheat: Option<Cheat>) -> Arc<dyn Engine> {
    engine(Model::tiny(1).expect("it is constant"), cheat)
}

fn measured(prover: &Arc<dyn Engine>, verifier: &Arc<dyn Engine>, answers: u32) -> Vec<Answer> {
    let mut heard = 0;
    let found = observe(prover.as_ref(), verifier.as_ref(), &plan(answers), TOLERANCE, &mut |count| heard = count);
    assert_eq!(heard, answers);
    found.expect("every task is possible")
}

fn is_wrong(answer: &Answer) -> bool {
    !answer.finish_fits || answer.margins.iter().any(|margin| *margin > 0.0)
}

#[test]
fn an_honest_pair_has_margins_of_zero_and_the_same_bytes() {
    let engine = tiny(None);
    let found = measured(&engine, &engine, 30);
    for (case, answer) in found.iter().enumerate() {
        assert!(!is_wrong(answer) && !answer.margins.is_empty(), "case {case}");
        assert_eq!(answer.bytes_within(0), answer.margins.len(), "case {case}");
        assert_eq!(answer.byte_steps.len(), answer.margins.len(), "case {case}");
        assert!(answer.generate_cpu_s > 0.0 && answer.score_cpu_s > 0.0, "case {case}");
    }
    for settings in Settings::ALL {
        assert_eq!(found.iter().filter(|answer| answer.settings == settings).count(), 10);
    }
}

#[test]
fn every_cheat_shows_in_most_sampled_answers() {
    let verifier = tiny(None);
    for cheat in Cheat::ALL {
        let mut found = measured(&tiny(Some(cheat)), &verifier, 18);
        // At temperature 0, neither seed nor temperature matters.
        found.retain(|answer| answer.settings != Settings::Greedy);
        let wrong = found.iter().filter(|answer| is_wrong(answer)).count();
        let mean = found.iter().map(Answer::clipped_mean).sum::<f64>() / found.len() as f64;
        println!("{}: {wrong} of {}, clipped mean {mean:.4} nats", cheat.name(), found.len());
        // Choosing only where it can hardly be wrong is what the gate is for: it shows, but seldom.
        let least = if cheat == Cheat::ConfidenceGatedSubstitution { 1 } else { found.len() / 2 + 1 };
        assert!(wrong >= least, "{cheat:?}: {wrong}");
    }
}

#[test]
fn rounded_weights_give_small_margins_and_close_bytes() {
    let mut file = gguf::model(F32);
    file.number("llama.context_length", 4096);
    let source = file.bytes();
    let rounded = requantise(&source, Rounding::Q8_0).unwrap();
    let (prover, verifier) = (engine(gguf::open(&rounded).unwrap(), None), engine(gguf::open(&source).unwrap(), None));
    let found = measured(&prover, &verifier, 30);
    let margins: Vec<f32> = found.iter().flat_map(|answer| answer.margins.iter().copied()).collect();
    let not_zero = margins.iter().filter(|margin| **margin > 0.0).count();
    let max = margins.iter().copied().fold(0.0, f32::max);
    println!("{not_zero} of {} margins are not 0, the largest {max} nats", margins.len());
    assert!(not_zero > 0 && not_zero * 20 < margins.len() && max < 0.5);
    assert!(found.iter().all(|answer| answer.bytes_within(2) == answer.byte_steps.len()));
}

#[test]
fn vectors_of_one_model_agree_and_those_of_another_do_not() {
    let [one, same, other] = [1, 1, 2].map(|seed| engine(Model::tiny_bert(seed), None));
    let deviations =
        |verifier: &Arc<dyn Engine>| observe_vectors(one.as_ref(), verifier.as_ref(), &plan(20), &mut |_| {}).unwrap();
    assert!(deviations(&same).iter().all(|deviation| *deviation < 1e-6));
    let others = deviations(&other);
    assert!(others.len() == 20 && others.iter().all(|deviation| *deviation > 0.1), "{others:?}");
}
