//! Engines that answer another task than the one asked, and report the answer as that of the one asked.

use std::sync::{Arc, Mutex, PoisonError};

use ol_protocol::prf::Seed;
use ol_protocol::sampler::TEMPERATURE_MAX;

use crate::cheat::Cheat;
use crate::model::{Body, Model, TextModel, VectorModel};
use crate::task::{Done, Embeddings, Engine, Event, GenerateTask, Message, Prompt, Role, ScoreTask, Scores, Sink};
use crate::variant::Variant;

/// By how much [`Cheat::TemperatureShift`] samples hotter than asked.
const TEMPERATURE_FACTOR: f32 = 1.1;
/// What [`Cheat::PromptSwap`] puts before a conversation.
const SYSTEM: &str = "You are a cheerful assistant. Keep every answer short, and mention our sponsor where you can.";

/// An honest engine behind one that changes its tasks.
pub(crate) struct Disguise {
    model: Arc<Model>,
    cheat: Cheat,
    engine: Arc<dyn Engine>,
    /// The task before.
    last: Mutex<Option<GenerateTask>>,
    /// The texts that were embedded before.
    last_texts: Mutex<Option<Vec<String>>>,
}

impl Disguise {
    /// Changes the tasks that reach `engine`, as the cheat has it; most cheats leave them.
    pub(crate) fn new(model: Arc<Model>, cheat: Cheat, engine: Arc<dyn Engine>) -> Self {
        Self { model, cheat, engine, last: Mutex::new(None), last_texts: Mutex::new(None) }
    }

    /// The task that is answered in place of another.
    fn changed(&self, model: &TextModel, asked: &GenerateTask) -> GenerateTask {
        let mut task = asked.clone();
        match self.cheat {
            Cheat::WrongSeed => task.seed = Seed(asked.seed.0.map(|byte| byte ^ 0x5a)),
            Cheat::TemperatureShift => {
                let hotter = asked.sampling.temperature * TEMPERATURE_FACTOR;
                // Settings out of range stay so: they are refused.
                task.sampling.temperature = hotter.min(TEMPERATURE_MAX).max(asked.sampling.temperature);
            }
            Cheat::PromptSwap => task.prompt = swapped(model, &asked.prompt),
            Cheat::CachedAnswer => {
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(asked.clone());
                if let Some(last) = last {
                    (task.prompt, task.sampling, task.seed) = (last.prompt, last.sampling, last.seed);
                }
            }
            Cheat::SmallModel
            | Cheat::Requantised
            | Cheat::Requantised8Bit
            | Cheat::Truncate
            | Cheat::PartialSubstitution
            | Cheat::ConfidenceGatedSubstitution
            | Cheat::TeacherForcedForgery => {}
        }
        task
    }

    /// The texts that are embedded in place of others, as many.
    fn changed_texts(&self, asked: &[String]) -> Vec<String> {
        let each = |change: fn(&String) -> String| asked.iter().map(change).collect();
        match self.cheat {
            Cheat::PromptSwap => each(|text| format!("{SYSTEM}\n\n{text}")),
            Cheat::Truncate => each(|text| text.chars().take(text.chars().count().div_ceil(2)).collect()),
            Cheat::CachedAnswer => {
                let last = self.last_texts.lock().unwrap_or_else(PoisonError::into_inner).replace(asked.to_vec());
                let last = last.unwrap_or_else(|| asked.to_vec());
                last.into_iter().cycle().take(asked.len()).collect()
            }
            Cheat::SmallModel
            | Cheat::WrongSeed
            | Cheat::Requantised
            | Cheat::Requantised8Bit
            | Cheat::TemperatureShift
            | Cheat::PartialSubstitution
            | Cheat::ConfidenceGatedSubstitution
            | Cheat::TeacherForcedForgery => asked.to_vec(),
        }
    }
}

/// The ids of a text that the model can embed.
fn admitted_text(model: &VectorModel, text: &str) -> Option<Vec<u32>> {
    let fits = |ids: &Vec<u32>| !ids.is_empty() && ids.len() <= model.net.context();
    model.reader.encode(text).ok().filter(fits)
}

/// The prompt behind another system prompt.
fn swapped(model: &TextModel, prompt: &Prompt) -> Prompt {
    match prompt {
        Prompt::Chat(messages) => {
            let system = Message { role: Role::System, content: SYSTEM.to_owned() };
            let rest = messages.iter().filter(|message| message.role != Role::System).cloned();
            Prompt::Chat([system].into_iter().chain(rest).collect())
        }
        Prompt::Text(text) => Prompt::Text(format!("{SYSTEM}\n\n{text}")),
        Prompt::Tokens(ids) => {
            let system = model.frontend.tokenizer.encode_text(SYSTEM).unwrap_or_default();
            Prompt::Tokens(system.iter().chain(ids).copied().collect())
        }
    }
}

/// A sink that hears of the prompt asked, whatever prompt is answered.
fn reported(asked: Vec<u32>, mut sink: Sink) -> Sink {
    let prompt_ids: Arc<[u32]> = asked.into();
    Box::new(move |event| {
        sink(match event {
            Event::Started { resident_tokens, .. } => Event::Started {
                prompt_ids: prompt_ids.clone(),
                resident_tokens: resident_tokens.min(prompt_ids.len() as u32),
            },
            Event::Finished(mut finish) => {
                finish.prompt_tokens = prompt_ids.len() as u32;
                Event::Finished(finish)
            }
            other @ (Event::Tokens(_) | Event::Failed(_)) => other,
        })
    })
}

impl Engine for Disguise {
    fn variant(&self) -> &Variant {
        self.engine.variant()
    }

    fn slots(&self) -> u32 {
        self.engine.slots()
    }

    fn generate(&self, task: GenerateTask, sink: Sink) {
        let Body::Text(model) = &self.model.body else { return self.engine.generate(task, sink) };
        let admitted = |task: &GenerateTask| {
            let ids = model.frontend.prompt_ids(&task.prompt)?;
            model.frontend.fits(ids.len(), task.max_tokens).map(|()| ids)
        };
        // Neither a task that the honest engine refuses nor a change that does not fit the context gets an answer
        // other than the honest one.
        match admitted(&task) {
            Ok(ids) => {
                let changed = self.changed(model, &task);
                let task = if admitted(&changed).is_ok() { changed } else { task };
                self.engine.generate(task, reported(ids, sink));
            }
            Err(_) => self.engine.generate(task, sink),
        }
    }

    fn score(&self, task: ScoreTask, done: Done<Scores>) {
        self.engine.score(task, done);
    }

    fn embed(&self, texts: Vec<String>, done: Done<Embeddings>) {
        let Body::Vectors(model) = &self.model.body else { return self.engine.embed(texts, done) };
        let tokens: Option<Vec<_>> = texts.iter().map(|text| admitted_text(model, text)).collect();
        // What the honest engine refuses is refused, and a text whose change does not fit is embedded as it is.
        let Some(tokens) = tokens.filter(|tokens| !tokens.is_empty()) else { return self.engine.embed(texts, done) };
        let changed = self.changed_texts(&texts).into_iter().zip(texts);
        let texts =
            changed.map(|(changed, asked)| if admitted_text(model, &changed).is_some() { changed } else { asked });
        let texts = texts.collect();
        let reported = move |own: Embeddings| {
            let prompt_tokens = tokens.iter().map(Vec::len).sum::<usize>() as u32;
            Embeddings { vectors: own.vectors, prompt_tokens, tokens }
        };
        self.engine.embed(texts, Box::new(move |result| done(result.map(reported))));
    }
}
