//! A node that is honest until it is trusted. For tests and demonstrations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::task::{Done, Embeddings, Engine, GenerateTask, ScoreTask, Scores, Sink};
use crate::variant::Variant;

struct Sleeper {
    honest: Arc<dyn Engine>,
    cheat: Arc<dyn Engine>,
    left: AtomicU32,
}

/// An engine that generates so many honest texts and then what the other one gives, which claims to be the same. It checks and embeds
/// honestly.
#[must_use]
pub fn sleeper(honest: Arc<dyn Engine>, cheat: Arc<dyn Engine>, honest_first: u32) -> Arc<dyn Engine> {
    Arc::new(Sleeper { honest, cheat, left: AtomicU32::new(honest_first) })
}

impl Engine for Sleeper {
    fn variant(&self) -> &Variant {
        self.honest.variant()
    }

    fn slots(&self) -> u32 {
        self.honest.slots()
    }

    fn generate(&self, task: GenerateTask, sink: Sink) {
        let one_less = |left: u32| left.checked_sub(1);
        let is_honest = self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        if is_honest { self.honest.generate(task, sink) } else { self.cheat.generate(task, sink) }
    }

    fn score(&self, task: ScoreTask, done: Done<Scores>) {
        self.honest.score(task, done);
    }

    fn embed(&self, texts: Vec<String>, done: Done<Embeddings>) {
        self.honest.embed(texts, done);
    }
}
