//! One generation in progress on the embedded arithmetic.

use ol_protocol::sampler::{self, log_sum_exp};

use crate::attention::Cache;
use crate::cheat::{Cheat, Rows};
use crate::generation::{Choice, Generation};
use crate::kept::{Kept, Resident};
use crate::model::TextModel;
use crate::task::{Error, GenerateTask, Sink};

/// What the choice of a token depends on, besides logits.
pub(crate) struct Draw<'a> {
    task: &'a GenerateTask,
    index: u32,
    cheat: Option<Cheat>,
}

impl Draw<'_> {
    /// The token that these logits give.
    pub(crate) fn choose(&self, model: &TextModel, rows: Rows<'_>) -> Choice {
        let honest = (rows.model, rows.model);
        let (sampled, logits) = self.cheat.map_or(honest, |cheat| cheat.logits(self.task, self.index, rows));
        let early = self.cheat.is_some_and(|cheat| cheat.ends_at(self.index, self.task.max_tokens));
        let id = match model.frontend.tokenizer.end().filter(|_| early) {
            Some(end) => end,
            None => sampler::pick(sampled, &self.task.sampling, &self.task.seed, self.index),
        };
        Choice::of(logits, log_sum_exp(logits), id, self.task.top_logprobs)
    }
}

/// One generation in progress, with what the model has seen of it.
pub(crate) struct Sequence {
    generation: Generation,
    pub(crate) cache: Cache,
    cheat: Option<Cheat>,
}

impl Sequence {
    /// Starts a generation where a kept cache ends, or at its beginning. `None` if it is over already: refused, cancelled, or nothing left
    /// to do.
    pub(crate) fn start(
        model: &TextModel,
        cheat: Option<Cheat>,
        kept: &mut Kept,
        task: GenerateTask,
        sink: Sink,
    ) -> Option<Self> {
        let mut found = None;
        let generation = Generation::start(&model.frontend, task, sink, |task, prompt| {
            // The logits of the last id are what the next token is chosen from.
            let limit = if task.resume.is_empty() { prompt.len() - 1 } else { prompt.len() };
            found = task.scope.and_then(|scope| kept.take(scope, prompt, limit));
            found.as_ref().map_or(0, Resident::tokens) as u32
        });
        let Some(generation) = generation else {
            found.into_iter().for_each(|unused| kept.put(unused));
            return None;
        };
        let cache = found.map_or_else(|| model.net.cache(), Resident::into_cache);
        Some(Self { generation, cache, cheat })
    }

    /// Leaves its cache to those that come after.
    pub(crate) fn leave(self, kept: &mut Kept) {
        if let Some(scope) = self.generation.task().scope {
            kept.put(Resident::new(scope, self.generation.ids(), self.cache));
        }
    }

    /// Ids that the model has not seen.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.generation.ids()[self.cache.len()..]
    }

    /// The next ids and the cache they go to; at most `limit`.
    pub(crate) fn next_span(&mut self, limit: usize) -> (&mut Cache, &[u32]) {
        let ids = self.generation.ids();
        let start = self.cache.len();
        let end = ids.len().min(start + limit);
        (&mut self.cache, &ids[start..end])
    }

    /// What the choice of the next token depends on, besides logits.
    pub(crate) fn draw(&self) -> Draw<'_> {
        Draw { task: self.generation.task(), index: self.generation.outputs(), cheat: self.cheat }
    }

    /// Delivers a token. Whether the sequence goes on.
    pub(crate) fn accept(&mut self, model: &TextModel, choice: Choice) -> bool {
        self.generation.accept(&model.frontend, choice)
    }

    /// Ends the sequence with an error.
    pub(crate) fn fail(self, error: Error) {
        self.generation.fail(error);
    }
}
