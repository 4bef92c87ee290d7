//! The engine over a server that answers well: what comes out is what the embedded engine gives.

use std::sync::Arc;

use ol_engine::{Error, FinishReason, Kind, Message, Model, Prompt, Role, Sampling, ScoreTask, Seed};
use ol_llama::{NUMERICS, TOP};

use crate::fake::Fake;
use crate::support::{Answer, begin, generate, options, score, start, task, tiny};

fn embedded() -> Arc<dyn ol_engine::Engine> {
    ol_engine::start(Arc::new(Model::tiny(1).unwrap()), ol_engine::Options::default())
}

/// Log-probabilities on the way through text may differ in the last bit; everything else is equal.
fn assert_same(ours: &Answer, theirs: &Answer) {
    assert_eq!((ours.ids(), ours.text(), &ours.finish), (theirs.ids(), theirs.text(), &theirs.finish));
    assert_eq!(ours.prompt_ids, theirs.prompt_ids);
    for (a, b) in ours.tokens.iter().zip(&theirs.tokens) {
        assert!((a.log_prob - b.log_prob).abs() < 1e-4, "{a:?} {b:?}");
        assert_eq!(a.top.len(), b.top.len());
    }
}

#[test]
fn the_variant_is_the_files_with_numerics_and_limits_of_its_own() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 9));
    let mut expected = Model::tiny(1).unwrap().variant().clone();
    expected.numerics = NUMERICS.to_owned();
    expected.context_tokens = 128;
    assert_eq!((engine.variant(), engine.slots()), (&expected, 2));
    assert_eq!(ol_engine::sampled_of(&engine.variant().numerics), Some(TOP));
}

#[test]
fn tokens_are_those_of_the_embedded_engine_where_top_k_is_within_what_the_server_gives() {
    let fake = Fake::good();
    let (ours, theirs) = (start(tiny(), &options(&fake.address, 2)), embedded());
    for seed in 0..6 {
        let mut question = task("", [0.0, 0.7, 1.3][seed as usize % 3], seed, 24);
        question.prompt = Prompt::Chat(vec![Message { role: Role::User, content: format!("Number {seed}") }]);
        question.sampling = Sampling { top_k: 40, top_p: 0.9, min_p: 0.01, ..question.sampling };
        question.top_logprobs = 3;
        let answer = generate(&ours, question.clone());
        assert_same(&answer, &generate(&theirs, question.clone()));
        assert_eq!(answer, generate(&ours, question.clone()), "the same seed gives the same tokens");
        let scores = score(&theirs, &question, &answer, 0.001);
        assert!(scores.finish_fits && scores.margins.iter().all(|margin| *margin == 0.0), "{:?}", scores.margins);
    }
}

#[test]
fn a_resumed_output_goes_on_where_the_earlier_one_ended() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 1));
    let whole = generate(&engine, task("abc", 1.0, 3, 20));
    let mut rest = task("abc", 1.0, 3, 20);
    rest.resume = whole.ids()[..7].to_vec();
    let rest = generate(&engine, rest);
    assert_eq!((rest.ids(), &rest.finish), (whole.ids()[7..].to_vec(), &whole.finish));
}

#[test]
fn stop_strings_end_the_output_and_are_not_delivered() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 1));
    let whole = generate(&engine, task("abc", 1.0, 5, 30));
    let text = whole.text();
    let middle: String = text.chars().skip(4).take(2).collect();
    let mut stopped = task("abc", 1.0, 5, 30);
    stopped.stop = vec![middle.clone()];
    let stopped = generate(&engine, stopped);
    assert_eq!(stopped.finish.reason, FinishReason::StopString);
    assert_eq!(stopped.text(), text[..text.find(&middle).unwrap()]);
}

#[test]
fn a_task_begins_without_what_the_server_keeps_of_others() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 1));
    (0..2).for_each(|_| assert_eq!(generate(&engine, task("abc", 0.0, 1, 3)).ids().len(), 3));
    // The first of all is the check of the server's model.
    assert_eq!(*fake.seen.cached.lock().unwrap(), [false, false, true, true, false, true, true]);
}

#[test]
fn sequences_run_together_in_slots_of_their_own_and_the_rest_waits() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 2));
    let pending: Vec<_> = (0..5).map(|seed| begin(&engine, task("abc", 1.0, seed, 10))).collect();
    let together: Vec<_> = pending.into_iter().map(|pending| pending().unwrap().ids()).collect();
    let alone: Vec<_> = (0..5).map(|seed| generate(&engine, task("abc", 1.0, seed, 10)).ids()).collect();
    assert_eq!(together, alone);
    let mut slots = fake.seen.slots.lock().unwrap().clone();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots, [0, 1]);
}

#[test]
fn what_does_not_fit_and_what_it_cannot_do_is_refused() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 1));
    let too_long = Error::TooLong { prompt_tokens: 3, max_tokens: 126, context_tokens: 128 };
    assert_eq!(begin(&engine, task("abc", 0.0, 0, 126))().unwrap_err(), too_long);
    let (sender, receiver) = std::sync::mpsc::channel();
    engine.embed(vec!["a".to_owned()], Box::new(move |found| sender.send(found).unwrap()));
    assert_eq!(receiver.recv().unwrap(), Err(Error::WrongKind { kind: Kind::Generate }));
    let check = ScoreTask {
        prompt: Prompt::Text("a".to_owned()),
        output: vec![1],
        sampling: Sampling::GREEDY,
        seed: Seed([0; 32]),
        stop: Vec::new(),
        max_tokens: 1,
        tolerance: 0.0,
        finish: FinishReason::Length,
        until: usize::MAX,
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    engine.score(check, Box::new(move |found| sender.send(found).unwrap()));
    assert_eq!(receiver.recv().unwrap(), Err(Error::CannotScore));
}

#[test]
fn tasks_in_progress_and_waiting_fail_when_the_engine_ends() {
    let fake = Fake::good();
    let engine = start(tiny(), &options(&fake.address, 1));
    let pending: Vec<_> = (0..3).map(|seed| begin(&engine, task("abc", 1.0, seed, 120))).collect();
    drop(engine);
    for pending in pending {
        assert!(matches!(pending(), Ok(_) | Err(Error::Ended)));
    }
}
