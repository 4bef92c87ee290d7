//! Helpers of these tests.

use std::sync::Arc;
use std::sync::mpsc::channel;

use ol_engine::{
    Engine, Error, Event, Finish, Flow, GenerateTask, Outline, Prompt, Sampling, ScoreTask, Scores, Seed, Token,
};
use ol_llama::{Limits, Options, connect};

const ANSWERS: &str = "every task ends with a result";

/// A whole generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) finish: Finish,
}

impl Answer {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    pub(crate) fn text(&self) -> String {
        self.tokens.iter().map(|token| token.text.as_str()).chain([self.finish.text.as_str()]).collect()
    }
}

pub(crate) fn task(prompt: &str, temperature: f32, seed: u8, max_tokens: u32) -> GenerateTask {
    GenerateTask {
        prompt: Prompt::Text(prompt.to_owned()),
        sampling: Sampling { temperature, ..Sampling::GREEDY },
        seed: Seed([seed; 32]),
        max_tokens,
        stop: Vec::new(),
        top_logprobs: 0,
        resume: Vec::new(),
        scope: None,
    }
}

pub(crate) fn options(address: &str, slots: u32) -> Options {
    Options { address: address.to_owned(), slots, limits: Limits::default() }
}

pub(crate) fn tiny() -> Outline {
    Outline::tiny(1).expect("the tiny model is constant")
}

pub(crate) fn start(outline: Outline, options: &Options) -> Arc<dyn Engine> {
    connect(outline, options).expect("a good server")
}

/// The chain of reasons why there is no engine.
pub(crate) fn refusal(outline: Outline, options: &Options) -> String {
    let Err(error) = connect(outline, options) else { panic!("the server is relied on") };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Starts a generation; the result comes when it is asked for.
pub(crate) fn begin(engine: &Arc<dyn Engine>, task: GenerateTask) -> impl FnOnce() -> Result<Answer, Error> + use<> {
    let (sender, receiver) = channel();
    let sink = move |event| {
        if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop }
    };
    engine.generate(task, Box::new(sink));
    move || {
        let (mut prompt_ids, mut tokens) = (Vec::new(), Vec::new());
        loop {
            match receiver.recv().expect(ANSWERS) {
                Event::Started { prompt_ids: ids, .. } => prompt_ids = ids.to_vec(),
                Event::Tokens(next) => tokens.extend(next),
                Event::Finished(finish) => return Ok(Answer { prompt_ids, tokens, finish }),
                Event::Failed(error) => return Err(error),
            }
        }
    }
}

pub(crate) fn generate(engine: &Arc<dyn Engine>, task: GenerateTask) -> Answer {
    begin(engine, task)().expect("the task is possible")
}

/// Checks an answer as an auditor does who knows how many tokens the server's engine chose from.
pub(crate) fn score(auditor: &Arc<dyn Engine>, task: &GenerateTask, answer: &Answer, tolerance: f32) -> Scores {
    let (sender, receiver) = channel();
    let check = ScoreTask {
        prompt: task.prompt.clone(),
        output: answer.ids(),
        sampling: ol_engine::narrowed(task.sampling, ol_llama::NUMERICS),
        seed: task.seed,
        stop: task.stop.clone(),
        max_tokens: task.max_tokens,
        tolerance,
        finish: answer.finish.reason,
        until: usize::MAX,
    };
    auditor.score(check, Box::new(move |found| sender.send(found).expect("the test waits")));
    receiver.recv().expect(ANSWERS).expect("the check is possible")
}
