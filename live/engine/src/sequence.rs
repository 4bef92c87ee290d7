//! One generation in progress.

use std::sync::Arc;

use ol_protocol::sampler::{self, log_prob_byte, log_sum_exp};

use crate::attention::Cache;
use crate::cheat::Cheat;
use crate::model::TextModel;
use crate::task::{Error, Event, Finish, FinishReason, Flow, GenerateTask, Prompt, Sink, Token};
use crate::text::TextState;

/// The ids of a prompt.
pub(crate) fn prompt_ids(model: &TextModel, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    let ids = match prompt {
        Prompt::Chat(messages) => {
            let missing = || Error::Template { detail: "the model has no chat template".to_owned() };
            model.tokenizer.encode(&model.template.as_ref().ok_or_else(missing)?.render(messages)?)?
        }
        Prompt::Text(text) => model.tokenizer.encode_text(text)?,
        Prompt::Tokens(ids) => ids.clone(),
    };
    known(model, &ids)?;
    if ids.is_empty() { Err(Error::Empty) } else { Ok(ids) }
}

/// Whether the model has all these ids.
pub(crate) fn known(model: &TextModel, ids: &[u32]) -> Result<(), Error> {
    let vocabulary = model.net.shape.vocabulary as u32;
    match ids.iter().find(|id| **id >= vocabulary) {
        Some(id) => Err(Error::UnknownToken { id: *id, vocabulary }),
        None => Ok(()),
    }
}

/// Whether prompt and output fit the context.
pub(crate) fn fits(model: &TextModel, prompt_tokens: usize, max_tokens: u32) -> Result<(), Error> {
    let context_tokens = model.net.shape.context as u32;
    let prompt_tokens = prompt_tokens.try_into().unwrap_or(u32::MAX);
    if u64::from(prompt_tokens) + u64::from(max_tokens) > u64::from(context_tokens) {
        return Err(Error::TooLong { prompt_tokens, max_tokens, context_tokens });
    }
    Ok(())
}

/// One token chosen from logits.
pub(crate) struct Choice {
    id: u32,
    log_prob: f32,
    top: Vec<(u32, f32)>,
}

/// What the choice of a token depends on, besides logits.
pub(crate) struct Draw<'a> {
    task: &'a GenerateTask,
    index: u32,
    cheat: Option<Cheat>,
}

impl Draw<'_> {
    /// The token that these logits give.
    pub(crate) fn choose(&self, model: &TextModel, logits: &[f32]) -> Choice {
        let early = self.cheat.is_some_and(|cheat| cheat.ends_at(self.index, self.task.max_tokens));
        let id = match model.tokenizer.end().filter(|_| early) {
            Some(end) => end,
            None => sampler::pick(logits, &self.task.sampling, &self.task.seed, self.index),
        };
        let total = log_sum_exp(logits);
        let log_prob = |id: u32| logits[id as usize] - total;
        let top = likeliest(logits, self.task.top_logprobs).into_iter().map(|id| (id, log_prob(id))).collect();
        Choice { id, log_prob: log_prob(id), top }
    }
}

/// One generation in progress.
pub(crate) struct Sequence {
    task: GenerateTask,
    sink: Sink,
    text: TextState,
    pub(crate) cache: Cache,
    /// Prompt, then output.
    ids: Vec<u32>,
    prompt_tokens: usize,
    cheat: Option<Cheat>,
}

impl Sequence {
    /// Starts a generation. `None` if it is over already: refused, cancelled, or nothing left to do.
    pub(crate) fn start(
        model: &TextModel,
        cheat: Option<Cheat>,
        mut task: GenerateTask,
        mut sink: Sink,
    ) -> Option<Self> {
        let mut ids = match Self::admit(model, &mut task) {
            Ok(ids) => ids,
            Err(error) => {
                sink(Event::Failed(error));
                return None;
            }
        };
        if sink(Event::Started { prompt_ids: Arc::from(ids.as_slice()) }) == Flow::Stop {
            return None;
        }
        let prompt_tokens = ids.len();
        if let Some(cheat) = cheat {
            task.seed = cheat.seed(task.seed);
        }
        let text = TextState::new(&task.stop);
        let resume = std::mem::take(&mut task.resume);
        let mut end = (task.max_tokens == 0).then_some(FinishReason::Length);
        let cache = model.net.cache();
        ids.reserve(task.max_tokens as usize);
        let mut sequence = Self { task, sink, text, cache, ids, prompt_tokens, cheat };
        for id in resume {
            end = sequence.append(model, id).1;
        }
        match end {
            Some(reason) => {
                sequence.finish(reason);
                None
            }
            None => Some(sequence),
        }
    }

    fn admit(model: &TextModel, task: &mut GenerateTask) -> Result<Vec<u32>, Error> {
        task.sampling = task.sampling.validated()?;
        let ids = prompt_ids(model, &task.prompt)?;
        fits(model, ids.len(), task.max_tokens)?;
        known(model, &task.resume)?;
        task.resume.truncate(task.max_tokens as usize);
        Ok(ids)
    }

    /// Ids that the model has not seen.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.ids[self.cache.len()..]
    }

    /// The next ids and the cache they go to; at most `limit`.
    pub(crate) fn next_span(&mut self, limit: usize) -> (&mut Cache, &[u32]) {
        let start = self.cache.len();
        let end = self.ids.len().min(start + limit);
        (&mut self.cache, &self.ids[start..end])
    }

    fn outputs(&self) -> u32 {
        (self.ids.len() - self.prompt_tokens) as u32
    }

    /// What the choice of the next token depends on, besides logits.
    pub(crate) fn draw(&self) -> Draw<'_> {
        Draw { task: &self.task, index: self.outputs(), cheat: self.cheat }
    }

    /// Delivers a token. Whether the sequence goes on.
    pub(crate) fn accept(&mut self, model: &TextModel, choice: Choice) -> bool {
        let (text, end) = self.append(model, choice.id);
        let label = |id: u32| String::from_utf8_lossy(model.tokenizer.bytes(id)).into_owned();
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
    fn append(&mut self, model: &TextModel, id: u32) -> (String, Option<FinishReason>) {
        self.ids.push(id);
        if model.tokenizer.is_end(id) {
            return (String::new(), Some(FinishReason::Stop));
        }
        let piece = self.text.push(model.tokenizer.bytes(id));
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

    /// Ends the sequence with an error.
    pub(crate) fn fail(mut self, error: Error) {
        (self.sink)(Event::Failed(error));
    }
}

fn likeliest(logits: &[f32], count: u8) -> Vec<u32> {
    if count == 0 { Vec::new() } else { sampler::likeliest(logits, count.into()) }
}
