//! Helpers of the engine's tests.

use std::sync::Arc;
use std::sync::mpsc::channel;

use ol_engine::{
    Embeddings, Engine, Error, Event, Finish, FinishReason, Flow, GenerateTask, Prompt, Sampling, ScoreTask, Scores,
    Seed, Token,
};

const ANSWERS: &str = "every task ends with a result";

/// A whole generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) resident_tokens: u32,
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

/// Starts a generation; the result comes when it is asked for.
pub(crate) fn begin(engine: &Arc<dyn Engine>, task: GenerateTask) -> impl FnOnce() -> Result<Answer, Error> + use<> {
    let (sender, receiver) = channel();
    let sink = move |event| {
        if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop }
    };
    engine.generate(task, Box::new(sink));
    move || {
        let (mut prompt_ids, mut resident, mut tokens) = (Vec::new(), 0, Vec::new());
        loop {
            match receiver.recv().expect(ANSWERS) {
                Event::Started { prompt_ids: ids, resident_tokens } => {
                    (prompt_ids, resident) = (ids.to_vec(), resident_tokens)
                }
                Event::Tokens(next) => tokens.extend(next),
                Event::Finished(finish) => return Ok(Answer { prompt_ids, resident_tokens: resident, tokens, finish }),
                Event::Failed(error) => return Err(error),
            }
        }
    }
}

pub(crate) fn generate(engine: &Arc<dyn Engine>, task: GenerateTask) -> Answer {
    begin(engine, task)().expect("the task is possible")
}

pub(crate) fn score_as(
    engine: &Arc<dyn Engine>,
    task: &GenerateTask,
    output: Vec<u32>,
    finish: FinishReason,
) -> Scores {
    score_until(engine, task, output, finish, usize::MAX)
}

pub(crate) fn score_until(
    engine: &Arc<dyn Engine>,
    task: &GenerateTask,
    output: Vec<u32>,
    finish: FinishReason,
    until: usize,
) -> Scores {
    let (sender, receiver) = channel();
    let check = ScoreTask {
        prompt: task.prompt.clone(),
        output,
        sampling: task.sampling,
        seed: task.seed,
        stop: task.stop.clone(),
        max_tokens: task.max_tokens,
        tolerance: 0.05,
        finish,
        until,
    };
    engine.score(check, Box::new(move |found| sender.send(found).expect("the test waits")));
    receiver.recv().expect(ANSWERS).expect("the check is possible")
}

pub(crate) fn score(engine: &Arc<dyn Engine>, task: &GenerateTask, answer: &Answer) -> Scores {
    score_as(engine, task, answer.ids(), answer.finish.reason)
}

pub(crate) fn embed(engine: &Arc<dyn Engine>, texts: &[&str]) -> Result<Embeddings, Error> {
    let (sender, receiver) = channel();
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    engine.embed(texts, Box::new(move |found| sender.send(found).expect("the test waits")));
    receiver.recv().expect(ANSWERS)
}
