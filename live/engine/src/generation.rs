//! One generation in progress, but for its arithmetic: ids, text, stop strings and events.

use std::sync::Arc;

use ol_protocol::sampler::{self, log_prob_byte};

use crate::frontend::Frontend;
use crate::task::{Error, Event, Finish, FinishReason, Flow, GenerateTask, Sink, Token};
use crate::text::TextState;

/// One token chosen from logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    id: u32,
    log_prob: f32,
    top: Vec<(u32, f32)>,
}

impl Choice {
    /// The token `id` of these logits, `total` being their [`sampler::log_sum_exp`], and the `count` likeliest beside it.
    ///
    /// # Panics
    /// If there is no logit of this id.
    #[must_use]
    pub fn of(logits: &[f32], total: f32, id: u32, count: u8) -> Self {
        let log_prob = |id: u32| logits[id as usize] - total;
        let likeliest = if count == 0 { Vec::new() } else { sampler::likeliest(logits, count.into()) };
        let top = likeliest.into_iter().map(|id| (id, log_prob(id))).collect();
        Self { id, log_prob: log_prob(id), top }
    }
}

/// One generation in progress, but for its arithmetic.
pub struct Generation {
    task: GenerateTask,
    sink: Sink,
    text: TextState,
    /// Prompt, then output.
    ids: Vec<u32>,
    prompt_tokens: usize,
}

impl Generation {
    /// Starts a generation. `resident` is asked how many tokens of the prompt need not be computed. `None` if it is over already: refused,
    /// cancelled, or nothing left to do.
    #[must_use]
    pub fn start(
        frontend: &Frontend,
        mut task: GenerateTask,
        mut sink: Sink,
        resident: impl FnOnce(&GenerateTask, &[u32]) -> u32,
    ) -> Option<Self> {
        let mut ids = match Self::admit(frontend, &mut task) {
            Ok(ids) => ids,
            Err(error) => {
                sink(Event::Failed(error));
                return None;
            }
        };
        let resident_tokens = resident(&task, &ids);
        if sink(Event::Started { prompt_ids: Arc::from(ids.as_slice()), resident_tokens }) == Flow::Stop {
            return None;
        }
        let prompt_tokens = ids.len();
        let text = TextState::new(&task.stop);
        let resume = std::mem::take(&mut task.resume);
        let mut end = (task.max_tokens == 0).then_some(FinishReason::Length);
        ids.reserve(task.max_tokens as usize);
        let mut generation = Self { task, sink, text, ids, prompt_tokens };
        for id in resume {
            end = generation.append(frontend, id).1;
        }
        match end {
            Some(reason) => {
                generation.finish(reason);
                None
            }
            None => Some(generation),
        }
    }

    fn admit(frontend: &Frontend, task: &mut GenerateTask) -> Result<Vec<u32>, Error> {
        task.sampling = task.sampling.validated()?;
        let ids = frontend.prompt_ids(&task.prompt)?;
        frontend.fits(ids.len(), task.max_tokens)?;
        frontend.known(&task.resume)?;
        task.resume.truncate(task.max_tokens as usize);
        Ok(ids)
    }

    /// What was asked, without what an earlier attempt delivered.
    #[must_use]
    pub const fn task(&self) -> &GenerateTask {
        &self.task
    }

    /// Ids of the prompt, then of the output so far.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Output ids so far: the number of the next step.
    #[must_use]
    pub fn outputs(&self) -> u32 {
        (self.ids.len() - self.prompt_tokens) as u32
    }

    /// Delivers a token. Whether the generation goes on.
    pub fn accept(&mut self, frontend: &Frontend, choice: Choice) -> bool {
        let (text, end) = self.append(frontend, choice.id);
        let label = |id: u32| String::from_utf8_lossy(frontend.bytes(id)).into_owned();
        let token = Token {
            id: choice.id,
            text,
            log_prob: choice.log_prob,
            log_prob_byte: log_prob_byte(choice.log_prob),
            top: choice.top.into_iter().map(|(id, log_prob)| (id, label(id), log_prob)).collect(),
        };
        let flow = (self.sink)(Event::Tokens(vec![token]));
        match (flow, end) {
            (Flow::Stop, _) => false,
            (Flow::Continue, None) => true,
            (Flow::Continue, Some(reason)) => {
                self.finish(reason);
                false
            }
        }
    }

    /// Adds an output id: the text it makes deliverable, and whether it ends the output.
    fn append(&mut self, frontend: &Frontend, id: u32) -> (String, Option<FinishReason>) {
        self.ids.push(id);
        if frontend.tokenizer.is_end(id) {
            return (String::new(), Some(FinishReason::Stop));
        }
        let piece = self.text.push(frontend.bytes(id));
        let end = if piece.stopped {
            Some(FinishReason::StopString)
        } else {
            (self.outputs() >= self.task.max_tokens).then_some(FinishReason::Length)
        };
        (piece.text, end)
    }

    fn finish(&mut self, reason: FinishReason) {
        let text = match reason {
            FinishReason::Stop | FinishReason::Length => self.text.finish(),
            FinishReason::StopString => String::new(),
        };
        let (prompt_tokens, output_tokens) = (self.prompt_tokens as u32, self.outputs());
        (self.sink)(Event::Finished(Finish { reason, text, prompt_tokens, output_tokens }));
    }

    /// Ends the generation with an error.
    pub fn fail(mut self, error: Error) {
        (self.sink)(Event::Failed(error));
    }
}
