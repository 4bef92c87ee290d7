//! One check in progress: teacher-forced prefill over prompt and output, margins from the logits.

use ol_protocol::sampler::{self, log_prob_byte, log_sum_exp};
use rayon::prelude::*;

use crate::attention::Cache;
use crate::llama::Span;
use crate::model::TextModel;
use crate::task::{Done, Error, FinishReason, ScoreTask, Scores};
use crate::text::TextState;

/// One check in progress.
pub(crate) struct Scoring {
    task: ScoreTask,
    done: Done<Scores>,
    prompt_ids: Vec<u32>,
    /// Prompt and output up to the last id that is checked: what the model sees.
    ids: Vec<u32>,
    cache: Cache,
    margins: Vec<f32>,
    log_prob_bytes: Vec<u8>,
}

impl Scoring {
    /// Starts a check. `None` if it is over already: refused, or an output that no engine of this model can give.
    pub(crate) fn start(model: &TextModel, task: ScoreTask, done: Done<Scores>) -> Option<Self> {
        let prompt_ids = match Self::admit(model, &task) {
            Ok(ids) => ids,
            Err(error) => {
                done(Err(error));
                return None;
            }
        };
        let (frontend, count) = (&model.frontend, task.until.min(task.output.len()));
        let length = u32::try_from(task.output.len()).unwrap_or(u32::MAX);
        if frontend.known(&task.output).is_err() || frontend.fits(prompt_ids.len(), length).is_err() {
            let (margins, log_prob_bytes) = (vec![f32::INFINITY; count], vec![u8::MAX; count]);
            done(Ok(Scores { prompt_ids, margins, log_prob_bytes, finish_fits: false }));
            return None;
        }
        let ids = prompt_ids.iter().chain(&task.output[..count - 1]).copied().collect();
        let cache = model.net.cache();
        let (margins, log_prob_bytes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Some(Self { task, done, prompt_ids, ids, cache, margins, log_prob_bytes })
    }

    fn admit(model: &TextModel, task: &ScoreTask) -> Result<Vec<u32>, Error> {
        task.sampling.validated()?;
        if task.output.is_empty() || task.until == 0 {
            return Err(Error::Empty);
        }
        model.frontend.prompt_ids(&task.prompt)
    }

    /// Checks up to `rows` more positions. Whether some are left.
    pub(crate) fn advance(&mut self, model: &TextModel, rows: usize, threads: usize) -> bool {
        let start = self.cache.len();
        let end = self.ids.len().min(start + rows);
        let first = self.prompt_ids.len() - 1;
        let wanted: Vec<usize> = (start.max(first)..end).map(|position| position - start).collect();
        let span = Span { cache: &mut self.cache, ids: &self.ids[start..end] };
        let logits = model.net.forward(&mut [span], &wanted, threads);
        let rows: Vec<&[f32]> = logits.chunks_exact(model.net.shape.vocabulary).collect();
        let offset = self.margins.len();
        let task = &self.task;
        let check = |(row, logits): (usize, &&[f32])| check(task, offset + row, logits);
        let found: Vec<(f32, u8)> = if threads > 1 {
            rows.par_iter().enumerate().map(check).collect()
        } else {
            rows.iter().enumerate().map(check).collect()
        };
        for (margin, byte) in found {
            self.margins.push(margin);
            self.log_prob_bytes.push(byte);
        }
        end < self.ids.len()
    }

    /// Reports what was found.
    pub(crate) fn finish(self, model: &TextModel) {
        let finish_fits = ending(model, &self.task) == Some(self.task.finish);
        let Self { prompt_ids, margins, log_prob_bytes, .. } = self;
        (self.done)(Ok(Scores { prompt_ids, margins, log_prob_bytes, finish_fits }));
    }

    /// Ends the check with an error.
    pub(crate) fn fail(self, error: Error) {
        (self.done)(Err(error));
    }
}

/// Margin and log-probability byte of the output token number `index`.
fn check(task: &ScoreTask, index: usize, logits: &[f32]) -> (f32, u8) {
    let id = task.output[index];
    let margin = sampler::margin(logits, &task.sampling, &task.seed, index as u32, id, task.tolerance);
    (margin, log_prob_byte(logits[id as usize] - log_sum_exp(logits)))
}

/// How these output ids end, if they end exactly at the last one.
fn ending(model: &TextModel, task: &ScoreTask) -> Option<FinishReason> {
    let mut text = TextState::new(&task.stop);
    for (index, id) in task.output.iter().enumerate() {
        let is_last = index + 1 == task.output.len();
        let end = if model.frontend.tokenizer.is_end(*id) {
            Some(FinishReason::Stop)
        } else if text.push(model.frontend.bytes(*id)).stopped {
            Some(FinishReason::StopString)
        } else {
            (index + 1 >= task.max_tokens as usize).then_some(FinishReason::Length)
        };
        if end.is_some() || is_last {
            return end.filter(|_| is_last);
        }
    }
    None
}
