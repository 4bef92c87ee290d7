//! The engine with the real models, in the folder that OPENLEDGER_MODELS names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ol_engine::{Cheat, Message, Model, Options, Prompt, Role, margins, start};

use crate::support::{generate, score, task};

fn models() -> PathBuf {
    std::env::var_os("OPENLEDGER_MODELS").map(PathBuf::from).expect("OPENLEDGER_MODELS names the folder of models")
}

fn smollm2() -> Arc<Model> {
    Arc::new(Model::open_gguf(&models().join("smollm2-135m-instruct-q4_1.gguf")).expect("a good file"))
}

#[test]
#[ignore = "needs the downloaded models"]
fn smollm2_answers_a_question() {
    let begin = Instant::now();
    let model = smollm2();
    println!("opened in {:?}: {:?}", begin.elapsed(), model.variant());
    let engine = start(model, Options::default());
    let mut question = task("", 0.0, 0, 24);
    let content = "What is the capital of France?".to_owned();
    question.prompt = Prompt::Chat(vec![Message { role: Role::User, content }]);
    let answer = generate(&engine, question);
    println!("{:?} after {:?}", answer.text(), begin.elapsed());
    assert!(answer.text().contains("Paris"));
}

#[test]
#[ignore = "needs the downloaded models"]
fn honest_margins_of_smollm2_stay_under_the_limit() {
    let found = margins::measure(smollm2(), 2_000, 0, &mut |_| {}).unwrap();
    println!("{found:#?}");
    assert_eq!((found.over_limit, found.ends_differing), (0, 0));
}

#[test]
#[ignore = "needs the downloaded models"]
fn every_cheat_shows_in_the_margins_of_smollm2() {
    let model = smollm2();
    let auditor = start(model.clone(), Options::default());
    for cheat in Cheat::ALL {
        let cheater = start(model.clone(), Options { cheat: Some(cheat), ..Options::default() });
        let mut first = Vec::new();
        for (seed, subject) in (0..).zip(["a lighthouse", "tides", "the Roman roads", "bees", "a lost key", "snow"]) {
            let mut question = task("", 1.0, seed, 64);
            let content = format!("Write a few sentences about {subject}.");
            question.prompt = Prompt::Chat(vec![Message { role: Role::User, content }]);
            let answer = generate(&cheater, question.clone());
            let scores = score(&auditor, &question, &answer);
            first.push(scores.margins.iter().position(|margin| *margin > 0.05));
        }
        println!("{cheat:?}: first token over the limit, by answer: {first:?}");
        let least = if cheat == Cheat::Requantised8Bit { 0 } else { 3 };
        assert!(first.iter().flatten().count() >= least, "{cheat:?}");
    }
}
