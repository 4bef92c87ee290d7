//! An engine that answers at once with a fixed text, for measuring coordination alone.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use ol_protocol::sampler::log_prob_byte;

use crate::task::{
    Done, Embeddings, Engine, Error, Event, Finish, FinishReason, Flow, GenerateTask, Prompt, ScoreTask, Scores, Sink,
    Token,
};
use crate::variant::{Kind, Variant};

/// Bytes that count as one prompt token.
const BYTES_PER_TOKEN: usize = 4;
/// The log-probability of every token.
const LOG_PROB: f32 = -1.0;

/// An engine that answers at once, from a thread of its own, with a fixed text.
#[derive(Debug)]
pub struct Instant {
    variant: Variant,
    slots: u32,
    tokens: u32,
    jobs: Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Instant {
    /// An engine whose answers have `tokens` tokens, or `max_tokens` if that is less.
    #[must_use]
    pub fn new(slots: u32, tokens: u32) -> Self {
        let variant = Variant {
            name: "instant".to_owned(),
            weights: [0; 32],
            quantisation: "none".to_owned(),
            numerics: "instant/1".to_owned(),
            kind: Kind::Generate,
            context_tokens: 1 << 20,
            vocabulary: 1 << 16,
        };
        let (jobs, waiting) = channel::<Job>();
        // Without its thread every task fails like those of an engine that ended.
        drop(
            thread::Builder::new().name("instant".to_owned()).spawn(move || waiting.into_iter().for_each(|job| job())),
        );
        Self { variant, slots, tokens, jobs }
    }
}

impl Engine for Instant {
    fn variant(&self) -> &Variant {
        &self.variant
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn generate(&self, task: GenerateTask, sink: Sink) {
        let tokens = self.tokens;
        // The thread ends after the engine only.
        drop(self.jobs.send(Box::new(move || answer(tokens, &task, sink))));
    }

    fn score(&self, task: ScoreTask, done: Done<Scores>) {
        drop(self.jobs.send(Box::new(move || done(Ok(agree(&task))))));
    }

    fn embed(&self, _texts: Vec<String>, done: Done<Embeddings>) {
        drop(self.jobs.send(Box::new(move || done(Err(Error::WrongKind { kind: Kind::Generate })))));
    }
}

fn answer(tokens: u32, task: &GenerateTask, mut sink: Sink) {
    let prompt_ids = prompt_ids(&task.prompt);
    let prompt_tokens = prompt_ids.len() as u32;
    let output_tokens = tokens.min(task.max_tokens);
    if sink(Event::Started { prompt_ids: prompt_ids.into(), resident_tokens: 0 }) == Flow::Stop {
        return;
    }
    let log_prob_byte = log_prob_byte(LOG_PROB);
    let token = |id| Token { id, text: "word ".to_owned(), log_prob: LOG_PROB, log_prob_byte, top: Vec::new() };
    for id in task.resume.len() as u32..output_tokens {
        if sink(Event::Tokens(vec![token(id)])) == Flow::Stop {
            return;
        }
    }
    let finish = Finish { reason: FinishReason::Length, text: String::new(), prompt_tokens, output_tokens };
    sink(Event::Finished(finish));
}

fn agree(task: &ScoreTask) -> Scores {
    let count = task.output.len();
    Scores {
        prompt_ids: prompt_ids(&task.prompt),
        margins: vec![0.0; count],
        log_prob_bytes: vec![log_prob_byte(LOG_PROB); count],
        finish_fits: true,
    }
}

fn prompt_ids(prompt: &Prompt) -> Vec<u32> {
    let bytes = match prompt {
        Prompt::Tokens(ids) => return ids.clone(),
        Prompt::Text(text) => text.len(),
        Prompt::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
    };
    (0..=(bytes / BYTES_PER_TOKEN) as u32).map(|id| id & 0xffff).collect()
}
