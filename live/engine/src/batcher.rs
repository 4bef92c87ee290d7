//! The worker of an engine: continuous batching of generations, with checks at low priority between steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use rayon::prelude::*;

use crate::cheat::{Cheat, Rows};
use crate::compute::Compute;
use crate::disguise::Disguise;
use crate::generation::Choice;
use crate::kept::Kept;
use crate::llama::Span;
use crate::model::{Body, Model, TextModel, VectorModel};
use crate::scoring::Scoring;
use crate::sequence::{Draw, Sequence};
use crate::task::{Done, Embeddings, Engine, Error, Event, GenerateTask, ScoreTask, Scores, Sink};
use crate::variant::{Kind, Variant};

/// Tasks of one kind that may wait for a slot: more would wait longer than any client does.
const WAITING_MAX: usize = 1024;
/// Prompt tokens of one step when nobody waits for a next token.
const PREFILL_ROWS: usize = 256;
/// Prompt tokens of one step while others generate: about 0.2 s of one core for 135 M parameters.
const SHARED_PREFILL_ROWS: usize = 64;
/// Positions checked at a time; bounds the memory of logits.
const SCORE_ROWS: usize = 256;
/// Steps of running generations between two shares of checking, so that checks get on however busy the engine is.
const SCORE_EVERY: u32 = 16;
/// Positions checked in such a share.
const SHARED_SCORE_ROWS: usize = 32;
/// Texts embedded in one call.
const TEXTS_MAX: usize = 2048;

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Generations at the same time, at least 1.
    pub slots: u32,
    /// Threads that compute; 0 is one per core.
    pub threads: u32,
    /// How the engine cheats, if it does.
    pub cheat: Option<Cheat>,
}

impl Default for Options {
    fn default() -> Self {
        Self { slots: 8, threads: 0, cheat: None }
    }
}

/// Starts an engine on its own thread. It ends when the handle is dropped; tasks in progress then fail.
#[must_use]
pub fn start(model: Arc<Model>, options: Options) -> Arc<dyn Engine> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let (variant, slots) = (model.variant.clone(), options.slots.max(1));
    let honest = model.clone();
    let worker = move || match dishonest(&honest, options.cheat) {
        Some(body) => run(&body, options, &receiver),
        None => run(&honest.body, options, &receiver),
    };
    if thread::Builder::new().name("engine".to_owned()).spawn(worker).is_err() {
        tracing::error!("the system gives no thread for an engine");
    }
    let engine = Arc::new(Handle { variant, slots, sender });
    match options.cheat {
        Some(cheat) => Arc::new(Disguise::new(model, cheat, engine)),
        None => engine,
    }
}

/// What a cheating engine runs instead of the model.
fn dishonest(model: &Model, cheat: Option<Cheat>) -> Option<Body> {
    match (&model.body, cheat) {
        (Body::Text(text), Some(cheat)) => {
            Some(Body::Text(Box::new(TextModel { net: cheat.weights(&text.net), frontend: text.frontend.clone() })))
        }
        (Body::Vectors(vectors), Some(cheat)) => {
            let (net, reader) = (cheat.encoder(&vectors.net), vectors.reader.clone());
            Some(Body::Vectors(Box::new(VectorModel { net, reader })))
        }
        (Body::Vectors(_) | Body::Text(_), None) => None,
    }
}

enum Command {
    Generate(GenerateTask, Sink),
    Score(ScoreTask, Done<Scores>),
    Embed(Vec<String>, Done<Embeddings>),
}

impl Command {
    fn refuse(self, error: Error) {
        match self {
            Self::Generate(_, mut sink) => {
                sink(Event::Failed(error));
            }
            Self::Score(_, done) => done(Err(error)),
            Self::Embed(_, done) => done(Err(error)),
        }
    }
}

struct Handle {
    variant: Variant,
    slots: u32,
    sender: SyncSender<Command>,
}

impl Handle {
    fn send(&self, command: Command) {
        match self.sender.try_send(command) {
            Ok(()) => {}
            Err(TrySendError::Full(command)) => command.refuse(Error::Busy { waiting: WAITING_MAX as u32 }),
            Err(TrySendError::Disconnected(command)) => command.refuse(Error::Ended),
        }
    }
}

impl Engine for Handle {
    fn variant(&self) -> &Variant {
        &self.variant
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn generate(&self, task: GenerateTask, sink: Sink) {
        self.send(Command::Generate(task, sink));
    }

    fn score(&self, task: ScoreTask, done: Done<Scores>) {
        self.send(Command::Score(task, done));
    }

    fn embed(&self, texts: Vec<String>, done: Done<Embeddings>) {
        self.send(Command::Embed(texts, done));
    }
}

fn run(body: &Body, options: Options, receiver: &Receiver<Command>) {
    let compute = Compute::new(options.threads);
    match body {
        Body::Text(model) => TextWorker::new(model, options, compute).run(receiver),
        Body::Vectors(model) => {
            for command in receiver {
                match command {
                    Command::Embed(texts, done) => done(compute.run(|threads| embed(model, &texts, threads))),
                    other => other.refuse(Error::WrongKind { kind: Kind::Embed }),
                }
            }
        }
    }
}

fn embed(model: &VectorModel, texts: &[String], threads: usize) -> Result<Embeddings, Error> {
    if texts.is_empty() {
        return Err(Error::Empty);
    }
    if texts.len() > TEXTS_MAX {
        return Err(Error::Busy { waiting: texts.len() as u32 });
    }
    let tokens = texts.iter().map(|text| model.reader.encode(text)).collect::<Result<Vec<_>, _>>()?;
    let context_tokens = model.net.context() as u32;
    for ids in &tokens {
        let prompt_tokens = ids.len().try_into().unwrap_or(u32::MAX);
        if prompt_tokens > context_tokens {
            return Err(Error::TooLong { prompt_tokens, max_tokens: 0, context_tokens });
        }
        check_ids(ids, model.net.vocabulary())?;
    }
    let vectors = if threads > 1 && tokens.len() > 1 {
        tokens.par_iter().map(|ids| model.net.embed(ids, 1)).collect()
    } else {
        tokens.iter().map(|ids| model.net.embed(ids, threads)).collect()
    };
    let prompt_tokens = tokens.iter().map(Vec::len).sum::<usize>() as u32;
    Ok(Embeddings { vectors, prompt_tokens, tokens })
}

// A tokenizer of any file may make nothing of a text, or number its tokens with gaps.
fn check_ids(ids: &[u32], vocabulary: u32) -> Result<(), Error> {
    match ids.iter().find(|id| **id >= vocabulary) {
        Some(id) => Err(Error::UnknownToken { id: *id, vocabulary }),
        None if ids.is_empty() => Err(Error::Empty),
        None => Ok(()),
    }
}

struct TextWorker<'a> {
    model: &'a TextModel,
    options: Options,
    compute: Compute,
    waiting: VecDeque<(GenerateTask, Sink)>,
    active: Vec<Sequence>,
    kept: Kept,
    checks: VecDeque<(ScoreTask, Done<Scores>)>,
    check: Option<Scoring>,
    steps: u32,
}

impl<'a> TextWorker<'a> {
    fn new(model: &'a TextModel, options: Options, compute: Compute) -> Self {
        let (waiting, checks) = (VecDeque::new(), VecDeque::new());
        let kept = Kept::new(&model.net);
        Self { model, options, compute, waiting, active: Vec::new(), kept, checks, check: None, steps: 0 }
    }

    fn run(mut self, receiver: &Receiver<Command>) {
        while self.receive(receiver) {
            self.admit();
            self.step();
            self.check();
        }
        self.end();
    }

    fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty() && self.checks.is_empty() && self.check.is_none()
    }

    /// Takes what has come, waiting for it if there is nothing to do. Whether the handle is still there.
    fn receive(&mut self, receiver: &Receiver<Command>) -> bool {
        if self.is_idle() {
            match receiver.recv() {
                Ok(command) => self.take(command),
                Err(_) => return false,
            }
        }
        loop {
            match receiver.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, command: Command) {
        let busy = Error::Busy { waiting: WAITING_MAX as u32 };
        match command {
            Command::Generate(task, sink) if self.waiting.len() < WAITING_MAX => self.waiting.push_back((task, sink)),
            Command::Score(task, done) if self.checks.len() < WAITING_MAX => self.checks.push_back((task, done)),
            Command::Embed(_, done) => done(Err(Error::WrongKind { kind: Kind::Generate })),
            other @ (Command::Generate(..) | Command::Score(..)) => other.refuse(busy),
        }
    }

    fn admit(&mut self) {
        while self.active.len() < self.options.slots.max(1) as usize {
            let Some((task, sink)) = self.waiting.pop_front() else { return };
            self.active.extend(Sequence::start(self.model, self.options.cheat, &mut self.kept, task, sink));
        }
    }

    /// One forward pass over the next ids of all sequences, and the tokens that it gives.
    fn step(&mut self) {
        if self.active.is_empty() {
            return;
        }
        self.steps = self.steps.wrapping_add(1);
        let is_shared = self.active.iter().any(|sequence| sequence.pending().len() == 1);
        let mut rows = if is_shared { SHARED_PREFILL_ROWS } else { PREFILL_ROWS };
        let (mut spans, mut wanted, mut total) = (Vec::new(), Vec::new(), 0);
        for sequence in &mut self.active {
            let pending = sequence.pending().len();
            let count = if pending == 1 { 1 } else { pending.min(rows) };
            rows -= if pending == 1 { 0 } else { count };
            total += count;
            wanted.push((count == pending).then(|| total - 1));
            let (cache, ids) = sequence.next_span(count);
            spans.push(Span { cache, ids });
        }
        let (model, positions) = (self.model, wanted.iter().copied().flatten().collect::<Vec<_>>());
        spans.retain(|span| !span.ids.is_empty());
        let exit = self.options.cheat.and_then(|cheat| cheat.exit(&model.net));
        let [logits, draft] = self.compute.run(|threads| match exit {
            Some(exit) => model.net.forward_with_exit(exit, &mut spans, &positions, threads),
            None => [model.net.forward(&mut spans, &positions, threads), Vec::new()],
        });
        self.deliver(&wanted, &logits, if exit.is_some() { &draft } else { &logits });
    }

    fn deliver(&mut self, wanted: &[Option<usize>], logits: &[f32], draft: &[f32]) {
        let (model, vocabulary) = (self.model, self.model.net.shape.vocabulary);
        let ready = self.active.iter().zip(wanted).filter(|(_, wanted)| wanted.is_some());
        let draws = ready.map(|(sequence, _)| sequence.draw());
        let rows = logits.chunks_exact(vocabulary).zip(draft.chunks_exact(vocabulary));
        let rows = rows.map(|(model, draft)| Rows { model, draft });
        let jobs: Vec<(Draw<'_>, Rows<'_>)> = draws.zip(rows).collect();
        let choose = |(draw, rows): &(Draw<'_>, Rows<'_>)| draw.choose(model, *rows);
        let choices: Vec<Choice> = if jobs.len() > 1 && self.compute.threads() > 1 {
            self.compute.run(|_| jobs.par_iter().map(choose).collect())
        } else {
            jobs.iter().map(choose).collect()
        };
        let mut choices = choices.into_iter();
        let mut wanted = wanted.iter();
        let ended = self.active.extract_if(.., |sequence| {
            let choice = wanted.next().copied().flatten().and_then(|_| choices.next());
            choice.is_some_and(|choice| !sequence.accept(model, choice))
        });
        ended.for_each(|sequence| sequence.leave(&mut self.kept));
    }

    /// A share of checking, if it is due.
    fn check(&mut self) {
        let is_busy = !self.active.is_empty();
        if is_busy && !self.steps.is_multiple_of(SCORE_EVERY) {
            return;
        }
        if self.check.is_none() {
            let next = self.checks.pop_front();
            self.check = next.and_then(|(task, done)| Scoring::start(self.model, task, done));
        }
        let Some(check) = &mut self.check else { return };
        let rows = if is_busy { SHARED_SCORE_ROWS } else { SCORE_ROWS };
        let model = self.model;
        if !self.compute.run(|threads| check.advance(model, rows, threads))
            && let Some(check) = self.check.take()
        {
            check.finish(model);
        }
    }

    fn end(self) {
        self.active.into_iter().for_each(|sequence| sequence.fail(Error::Ended));
        self.check.into_iter().for_each(|check| check.fail(Error::Ended));
        self.waiting.into_iter().for_each(|(task, sink)| Command::Generate(task, sink).refuse(Error::Ended));
        self.checks.into_iter().for_each(|(task, done)| Command::Score(task, done).refuse(Error::Ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, Reader};
    use crate::tokenizer::FileTokenizer;

    fn embedded(vocabulary: &str, text: &str) -> Result<Embeddings, Error> {
        let file = format!(
            r#"{{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
                "model":{{"type":"BPE","vocab":{vocabulary},"merges":[]}}}}"#
        );
        let Body::Vectors(mut model) = Model::tiny_bert(1).body else { panic!("a text model") };
        model.reader = Reader::File(Arc::new(FileTokenizer::from_bytes(file.as_bytes()).unwrap()));
        embed(&model, &[text.to_owned()], 1)
    }

    #[test]
    fn a_text_without_tokens_and_a_token_without_weights_are_refused() {
        assert_eq!(embedded(r#"{"a":1}"#, "b"), Err(Error::Empty));
        assert_eq!(embedded(r#"{"a":258}"#, "a"), Err(Error::UnknownToken { id: 258, vocabulary: 258 }));
        assert!(embedded(r#"{"a":257}"#, "a").is_ok());
    }
}
