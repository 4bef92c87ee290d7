//! Auditors that do not audit. For tests and demonstrations.

use std::str::FromStr;
use std::sync::Arc;

use crate::cheat::UnknownCheat;
use crate::model::{Body, Model};
use crate::task::{Done, Embeddings, Engine, GenerateTask, ScoreTask, Scores, Sink};
use crate::variant::Variant;

/// What an auditor says that computes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FalseAuditor {
    /// That all is well.
    Lazy,
    /// That all is wrong.
    Lying,
}

/// Margin that a liar claims, in nats: as of another model.
const CLAIMED_NATS: f32 = 5.0;

/// The byte that it claims for each log-probability: the commonest, of tokens that were all but certain.
const CLAIMED_BYTE: u8 = 0;

impl FalseAuditor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Lazy, Self::Lying];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Lying => "lying",
        }
    }
}

impl FromStr for FalseAuditor {
    type Err = UnknownCheat;

    fn from_str(name: &str) -> Result<Self, UnknownCheat> {
        Self::ALL.into_iter().find(|auditor| auditor.name() == name).ok_or(UnknownCheat)
    }
}

struct Pretence {
    honest: Arc<dyn Engine>,
    model: Arc<Model>,
    says: FalseAuditor,
}

/// An engine over the model that generates and embeds as `honest` does, and checks nothing that it says it checked. What costs little it gets right:
/// the prompt's ids, of which every verdict holds a digest.
#[must_use]
pub fn false_auditor(honest: Arc<dyn Engine>, model: Arc<Model>, says: FalseAuditor) -> Arc<dyn Engine> {
    Arc::new(Pretence { honest, model, says })
}

impl Engine for Pretence {
    fn variant(&self) -> &Variant {
        self.honest.variant()
    }

    fn slots(&self) -> u32 {
        self.honest.slots()
    }

    fn generate(&self, task: GenerateTask, sink: Sink) {
        self.honest.generate(task, sink);
    }

    fn score(&self, task: ScoreTask, done: Done<Scores>) {
        let Body::Text(text) = &self.model.body else { return self.honest.score(task, done) };
        let count = task.until.min(task.output.len());
        let margin = match self.says {
            FalseAuditor::Lazy => 0.0,
            FalseAuditor::Lying => CLAIMED_NATS,
        };
        done(text.frontend.prompt_ids(&task.prompt).map(|prompt_ids| Scores {
            prompt_ids,
            margins: vec![margin; count],
            log_prob_bytes: vec![CLAIMED_BYTE; count],
            finish_fits: true,
        }));
    }

    fn embed(&self, texts: Vec<String>, done: Done<Embeddings>) {
        self.honest.embed(texts, done);
    }
}
