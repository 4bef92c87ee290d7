//! An engine that answers at once with a fixed text, for measuring coordination alone.

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

/// An engine that answers at once, on the caller's thread, with a fixed text.
#[derive(Debug)]
pub struct Instant {
    variant: Variant,
    slots: u32,
    tokens: u32,
}

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
        Self { variant, slots, tokens }
    }

    fn prompt_ids(prompt: &Prompt) -> Vec<u32> {
        let bytes = match prompt {
            Prompt::Tokens(ids) => return ids.clone(),
            Prompt::Text(text) => text.len(),
            Prompt::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
        };
        (0..=(bytes / BYTES_PER_TOKEN) as u32).map(|id| id & 0xffff).collect()
    }
}

impl Engine for Instant {
    fn variant(&self) -> &Variant {
        &self.variant
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn generate(&self, task: GenerateTask, mut sink: Sink) {
        let prompt_ids = Self::prompt_ids(&task.prompt);
        let prompt_tokens = prompt_ids.len() as u32;
        let output_tokens = self.tokens.min(task.max_tokens);
        if sink(Event::Started { prompt_ids: prompt_ids.into() }) == Flow::Stop {
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

    fn score(&self, task: ScoreTask, done: Done<Scores>) {
        let count = task.output.len();
        done(Ok(Scores {
            prompt_ids: Self::prompt_ids(&task.prompt),
            margins: vec![0.0; count],
            log_prob_bytes: vec![log_prob_byte(LOG_PROB); count],
            finish_fits: true,
        }));
    }

    fn embed(&self, _texts: Vec<String>, done: Done<Embeddings>) {
        done(Err(Error::WrongKind { kind: Kind::Generate }));
    }
}
