//! The engine's thread: tasks wait for a slot, each running one asks the server for its next step.

use std::collections::{HashMap, VecDeque};
use std::error::Error as StdError;
use std::sync::Arc;
use std::thread;

use ol_engine::{
    Choice, Done, Embeddings, Engine, Error as TaskError, Event, Frontend, GenerateTask, Generation, Kind, Outline,
    ScoreTask, Scores, Sink, Variant, narrowed,
};
use ol_protocol::sampler;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};

use crate::check::{self, Server};
use crate::client::Client;
use crate::error::Error;
use crate::steps::{Limits, NUMERICS, Span, Steps};

/// Tasks that may wait for a slot, as in the embedded engine: more would wait longer than any client does.
const WAITING_MAX: usize = 1024;

/// How an engine uses a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is: `http://HOST:PORT`.
    pub address: String,
    /// Generations at the same time, at least 1; never more than the server has slots.
    pub slots: u32,
    /// How long it may take.
    pub limits: Limits,
}

/// Starts an engine for this model on a thread of its own, once the server has been found to have loaded the same model.
/// Waits for a server that is loading, at most 300 s. The engine ends when the handle is dropped; tasks in progress then
/// fail.
///
/// # Errors
/// Says what is wrong with the server, and what to do.
pub fn connect(outline: Outline, options: &Options) -> Result<Arc<dyn Engine>, Error> {
    let address = || Error::Address { address: options.address.clone() };
    let client = Client::new(&options.address).ok_or_else(address)?;
    let steps = Steps::new(client, options.limits, &outline.frontend);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let (ready, checked) = std::sync::mpsc::channel();
    let slots = options.slots.max(1);
    let work = move || match runtime.block_on(check::server(&steps, &outline)) {
        Ok(server) => {
            let worker = Worker::new(steps, frontend(&outline, server));
            // Nobody waits any more only if the caller is gone; then the engine ends at once.
            let (handle, commands) = Handle::new(&outline, server, slots);
            let slots = handle.slots;
            drop(ready.send(Ok(handle)));
            worker.run(&runtime, slots, commands);
        }
        Err(error) => drop(ready.send(Err(error))),
    };
    thread::Builder::new().name("llama".to_owned()).spawn(work).map_err(Error::Thread)?;
    let ended = |_| Error::Thread(std::io::Error::other("the thread ended"));
    Ok(Arc::new(checked.recv().map_err(ended)??))
}

/// Shortest context of a slot that [`contexts`] gives: shorter ones hold no conversation, and each is a variant of its own.
pub const CONTEXT_LEAST: u32 = 1 << 10;

/// The contexts of slots that engines over a llama-server state, from [`CONTEXT_LEAST`] to `most` tokens: powers of two alone, so that nodes whose
/// servers are set up a little differently serve one variant, and one measurement holds for a few variants. An engine over shorter slots states
/// a shorter one, which is not among these.
pub fn contexts(most: u32) -> impl Iterator<Item = u32> {
    core::iter::successors(Some(CONTEXT_LEAST), |context| context.checked_mul(2)).take_while(move |next| *next <= most)
}

// Of a slot that holds so many tokens, what is used.
const fn stated(context_tokens: u32) -> u32 {
    match context_tokens.checked_ilog2() {
        Some(power) => 1 << power,
        None => 0,
    }
}

type Command = (GenerateTask, Sink);

fn refuse((_, mut sink): Command, error: TaskError) {
    sink(Event::Failed(error));
}

struct Handle {
    variant: Variant,
    slots: u32,
    sender: mpsc::Sender<Command>,
}

/// The model's, as far as a slot of the server holds it.
fn frontend(outline: &Outline, server: Server) -> Frontend {
    let most = outline.frontend.context_tokens().min(server.context_tokens);
    outline.frontend.clone().within(stated(most))
}

impl Handle {
    fn new(outline: &Outline, server: Server, slots: u32) -> (Self, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(WAITING_MAX);
        let frontend = frontend(outline, server);
        let variant = Variant {
            name: outline.name.clone(),
            weights: outline.weights,
            quantisation: outline.quantisation.clone(),
            numerics: NUMERICS.to_owned(),
            kind: Kind::Generate,
            context_tokens: frontend.context_tokens(),
            vocabulary: frontend.vocabulary(),
        };
        (Self { variant, slots: slots.min(server.slots), sender }, commands)
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
        match self.sender.try_send((task, sink)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(command)) => refuse(command, BUSY),
            Err(mpsc::error::TrySendError::Closed(command)) => refuse(command, TaskError::Ended),
        }
    }

    fn score(&self, _: ScoreTask, done: Done<Scores>) {
        done(Err(TaskError::CannotScore));
    }

    fn embed(&self, _: Vec<String>, done: Done<Embeddings>) {
        done(Err(TaskError::WrongKind { kind: Kind::Generate }));
    }
}

const BUSY: TaskError = TaskError::Busy { waiting: WAITING_MAX as u32 };

/// What all sequences use.
struct Shared {
    steps: Steps,
    frontend: Frontend,
}

struct Worker {
    shared: Arc<Shared>,
    waiting: VecDeque<Command>,
    running: JoinSet<()>,
    /// The slot of each running sequence.
    held: HashMap<Id, u32>,
    free: Vec<u32>,
}

impl Worker {
    fn new(steps: Steps, frontend: Frontend) -> Self {
        let shared = Arc::new(Shared { steps, frontend });
        let (waiting, running, held) = (VecDeque::new(), JoinSet::new(), HashMap::new());
        Self { shared, waiting, running, held, free: Vec::new() }
    }

    fn run(mut self, runtime: &Runtime, slots: u32, commands: mpsc::Receiver<Command>) {
        self.free = (0..slots).rev().collect();
        runtime.block_on(self.serve(commands));
    }

    async fn serve(mut self, mut commands: mpsc::Receiver<Command>) {
        let (alive, ended) = watch::channel(());
        loop {
            self.start(&ended);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) if self.waiting.len() < WAITING_MAX => self.waiting.push_back(command),
                    Some(command) => refuse(command, BUSY),
                    None => break,
                },
                Some(finished) = self.running.join_next_with_id() => {
                    let id = match finished {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    };
                    self.free.extend(self.held.remove(&id));
                }
            }
        }
        drop(alive);
        while self.running.join_next().await.is_some() {}
        self.waiting.into_iter().for_each(|command| refuse(command, TaskError::Ended));
    }

    /// Gives free slots to those who wait.
    fn start(&mut self, ended: &watch::Receiver<()>) {
        while !self.waiting.is_empty()
            && let Some(slot) = self.free.pop()
        {
            let Some((task, sink)) = self.waiting.pop_front() else { return };
            let (shared, mut ended) = (self.shared.clone(), ended.clone());
            let handle = self.running.spawn(async move {
                let Some(generation) = Generation::start(&shared.frontend, task, sink, |_, _| 0) else { return };
                generate(&shared, generation, slot, &mut ended).await;
            });
            self.held.insert(handle.id(), slot);
        }
    }
}

/// Asks for steps until the output is complete, its receiver has enough, the server fails or the engine ends.
async fn generate(shared: &Shared, mut generation: Generation, slot: u32, ended: &mut watch::Receiver<()>) {
    let mut span = Span::First;
    loop {
        let step = tokio::select! {
            step = shared.steps.next(generation.ids(), slot, span) => step,
            _ = ended.changed() => return generation.fail(TaskError::Ended),
        };
        match step {
            Ok(log_probs) => {
                let choice = choose(&generation, &log_probs);
                if !generation.accept(&shared.frontend, choice) {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn StdError, "the llama-server failed in a step");
                return generation.fail(TaskError::Server);
            }
        }
        span = Span::Next;
    }
}

/// The token that these log-probabilities give. They are the server's, so their sum is that of the whole vocabulary.
fn choose(generation: &Generation, log_probs: &[f32]) -> Choice {
    let task = generation.task();
    let sampling = narrowed(task.sampling, NUMERICS);
    let id = sampler::pick(log_probs, &sampling, &task.seed, generation.outputs());
    Choice::of(log_probs, 0.0, id, task.top_logprobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stated_contexts_are_powers_of_two_that_the_slot_holds() {
        let stated_of = [0, 1, 1023, 1024, 2730, 8192, u32::MAX].map(stated);
        assert_eq!(stated_of, [0, 1, 512, 1024, 2048, 8192, 1 << 31]);
        assert_eq!(contexts(8191).collect::<Vec<_>>(), [1024, 2048, 4096]);
        assert_eq!(contexts(8192).last(), Some(8192));
        assert_eq!(contexts(1023).count(), 0);
    }
}
