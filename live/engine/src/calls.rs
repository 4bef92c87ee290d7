//! Calls of an engine that wait for the whole result, for measurements.

use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use crate::task::{Done, Embeddings, Engine, Error, Event, Finish, Flow, GenerateTask, ScoreTask, Scores};

/// CPU seconds of all threads of this process.
pub(crate) fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// A generation in progress.
pub(crate) struct Pending {
    receiver: Receiver<(f64, Instant, Event)>,
}

/// A whole generation.
pub(crate) struct Answer {
    pub(crate) prompt: Vec<u32>,
    pub(crate) output: Vec<u32>,
    pub(crate) log_prob_bytes: Vec<u8>,
    pub(crate) finish: Finish,
    /// CPU seconds of the process from the first token to the end.
    pub(crate) decode_cpu_s: f64,
    /// The same by the wall clock.
    pub(crate) decode_wall_s: f64,
}

/// Starts a generation.
pub(crate) fn begin(engine: &dyn Engine, task: GenerateTask) -> Pending {
    let (sender, receiver) = channel();
    let sink =
        move |event| if sender.send((cpu_s(), Instant::now(), event)).is_ok() { Flow::Continue } else { Flow::Stop };
    engine.generate(task, Box::new(sink));
    Pending { receiver }
}

impl Pending {
    /// Waits for the end.
    pub(crate) fn wait(self) -> Result<Answer, Error> {
        let (mut prompt, mut output, mut log_prob_bytes, mut first) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (cpu, wall, event) in self.receiver {
            match event {
                Event::Started { prompt_ids, .. } => prompt = prompt_ids.to_vec(),
                Event::Tokens(tokens) => {
                    first = first.or(Some((cpu, wall)));
                    output.extend(tokens.iter().map(|token| token.id));
                    log_prob_bytes.extend(tokens.iter().map(|token| token.log_prob_byte));
                }
                Event::Finished(finish) => {
                    let (first_cpu, first_wall) = first.unwrap_or((cpu, wall));
                    let (decode_cpu_s, decode_wall_s) = (cpu - first_cpu, (wall - first_wall).as_secs_f64());
                    return Ok(Answer { prompt, output, log_prob_bytes, finish, decode_cpu_s, decode_wall_s });
                }
                Event::Failed(error) => return Err(error),
            }
        }
        Err(Error::Ended)
    }
}

/// Scores an output and waits for the result.
pub(crate) fn score(engine: &dyn Engine, task: ScoreTask) -> Result<Scores, Error> {
    wait(|done| engine.score(task, done))
}

/// Embeds texts and waits for the result.
pub(crate) fn embed(engine: &dyn Engine, texts: Vec<String>) -> Result<Embeddings, Error> {
    wait(|done| engine.embed(texts, done))
}

fn wait<T: Send + 'static>(call: impl FnOnce(Done<T>)) -> Result<T, Error> {
    let (sender, receiver) = channel();
    // The receiver waits below: it can't be gone.
    call(Box::new(move |found| drop(sender.send(found))));
    receiver.recv().unwrap_or(Err(Error::Ended))
}
