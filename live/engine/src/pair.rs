//! Measuring a prover against a verifier: how far from 0 margins are when one engine checks what another generated.
//!
//! What honest provers show is what an audit must let pass; what cheats show is what it can tell apart. Figures by the
//! CPU clock of the process: run a measurement in a process that does nothing else.

mod tasks;

use serde::Serialize;

use crate::calls::{Answer as Generated, begin, cpu_s, embed, score};
use crate::task::{Engine, Error, GenerateTask, Prompt, ScoreTask};
use crate::variant::narrowed;
use tasks::Tasks;

/// Where margins are clipped before they are averaged, in nats: one token far off must not hide how all others are.
pub const CLIP_NATS: f32 = 1.0;
/// Tasks given to an engine at once, as a multiple of its slots, so that slots seldom wait for the longest answer.
const AHEAD: u32 = 4;
/// Texts embedded in one call.
const TEXTS: u32 = 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Answers, or texts of an embedding model.
    pub answers: u32,
    /// Longest answer, at least 1; some are limited to a quarter.
    pub tokens_max: u32,
    /// Decides prompts, settings and the seeds of tasks.
    pub seed: u64,
}

/// Kinds of sampling settings, in equal shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settings {
    /// Temperature 0.
    Greedy,
    /// Above temperature 0, from the whole vocabulary.
    Sampled,
    /// Above temperature 0, with top-k, top-p or min-p.
    Truncated,
}

impl Settings {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Greedy, Self::Sampled, Self::Truncated];
}

/// One answer and what its check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// How its tokens were to be sampled.
    pub settings: Settings,
    /// For each output token, how far in nats it is from being the one to choose; infinite where no verifier's could be.
    pub margins: Vec<f32>,
    /// The claimed end holds.
    pub finish_fits: bool,
    /// How many steps each log-probability byte of the prover lies from the verifier's.
    pub byte_steps: Vec<u8>,
    /// CPU seconds of this process while it was generated, its share by tokens of those generated together.
    pub generate_cpu_s: f64,
    /// CPU seconds of this process while it was checked.
    pub score_cpu_s: f64,
}

impl Answer {
    /// How many log-probability bytes lie at most so many steps from the verifier's.
    #[must_use]
    pub fn bytes_within(&self, steps: u8) -> usize {
        self.byte_steps.iter().filter(|apart| **apart <= steps).count()
    }

    /// The mean of the clipped margins, in nats, 0 to [`CLIP_NATS`].
    #[must_use]
    pub fn clipped_mean(&self) -> f64 {
        clipped_means(&self.margins).last().unwrap_or(0.0)
    }
}

/// The mean of the clipped margins of the first, the first two, and so on up to all tokens, in nats.
pub fn clipped_means(margins: &[f32]) -> impl Iterator<Item = f64> {
    let mut sum = 0.0;
    (1_u32..).zip(margins).map(move |(count, margin)| {
        // `min` gives the limit for a margin that is no number.
        sum += f64::from(margin.min(CLIP_NATS));
        sum / f64::from(count)
    })
}

/// Generates the answers of a plan with one engine and checks them with another, which must have the same vocabulary and
/// may have other weights or numerics: prompts are rendered by the prover. `tolerance` in nats, as in [`ScoreTask`];
/// `progress` hears how many answers are done.
///
/// # Errors
/// What an engine reports, for instance a context that is too short or a model without a chat template.
pub fn observe(
    prover: &dyn Engine,
    verifier: &dyn Engine,
    plan: &Plan,
    tolerance: f32,
    progress: &mut dyn FnMut(u32),
) -> Result<Vec<Answer>, Error> {
    let tasks = Tasks { plan };
    let mut answers = Vec::with_capacity(plan.answers as usize);
    while (answers.len() as u32) < plan.answers {
        let first = answers.len() as u32;
        let last = plan.answers.min(first + AHEAD * prover.slots().max(1));
        for given in generate(prover, (first..last).map(|case| tasks.task(case)))? {
            answers.push(given.check(&prover.variant().numerics, verifier, tolerance)?);
            progress(answers.len() as u32);
        }
    }
    Ok(answers)
}

/// An answer to be checked.
struct Given {
    settings: Settings,
    task: GenerateTask,
    answer: Generated,
    cpu_s: f64,
}

/// Generates answers to several tasks together.
fn generate(prover: &dyn Engine, tasks: impl Iterator<Item = (Settings, GenerateTask)>) -> Result<Vec<Given>, Error> {
    let began = cpu_s();
    let pending: Vec<_> = tasks.map(|(settings, task)| (settings, task.clone(), begin(prover, task))).collect();
    let mut given = Vec::with_capacity(pending.len());
    for (settings, task, pending) in pending {
        given.push(Given { settings, task, answer: pending.wait()?, cpu_s: 0.0 });
    }
    let tokens: usize = given.iter().map(|given| given.answer.output.len()).sum();
    let cpu_s_per_token = (cpu_s() - began) / tokens.max(1) as f64;
    for given in &mut given {
        given.cpu_s = cpu_s_per_token * given.answer.output.len() as f64;
    }
    Ok(given)
}

impl Given {
    fn check(self, numerics: &str, verifier: &dyn Engine, tolerance: f32) -> Result<Answer, Error> {
        let Self { settings, task, answer, cpu_s: generate_cpu_s } = self;
        let began = cpu_s();
        let check = ScoreTask {
            prompt: Prompt::Tokens(answer.prompt),
            output: answer.output,
            sampling: narrowed(task.sampling, numerics),
            seed: task.seed,
            stop: task.stop,
            max_tokens: task.max_tokens,
            tolerance,
            finish: answer.finish.reason,
            until: usize::MAX,
        };
        let scores = score(verifier, check)?;
        let score_cpu_s = cpu_s() - began;
        let both = answer.log_prob_bytes.iter().zip(&scores.log_prob_bytes);
        let byte_steps = both.map(|(own, other)| own.abs_diff(*other)).collect();
        let (margins, finish_fits) = (scores.margins, scores.finish_fits);
        Ok(Answer { settings, margins, finish_fits, byte_steps, generate_cpu_s, score_cpu_s })
    }
}

/// Embeds the texts of a plan with both engines: for each text 1 - cosine of the two vectors, 0 to 2; 2 if they differ in
/// length. `progress` hears how many texts are done.
///
/// # Errors
/// What an engine reports.
pub fn observe_vectors(
    prover: &dyn Engine,
    verifier: &dyn Engine,
    plan: &Plan,
    progress: &mut dyn FnMut(u32),
) -> Result<Vec<f32>, Error> {
    let tasks = Tasks { plan };
    // Who answers with what it had before has had something then.
    embed(prover, vec![tasks.text(plan.answers)])?;
    let mut deviations = Vec::with_capacity(plan.answers as usize);
    while (deviations.len() as u32) < plan.answers {
        let first = deviations.len() as u32;
        let texts: Vec<String> = (first..plan.answers.min(first + TEXTS)).map(|case| tasks.text(case)).collect();
        let (proven, verified) = (embed(prover, texts.clone())?, embed(verifier, texts)?);
        deviations.extend(proven.vectors.iter().zip(&verified.vectors).map(|(a, b)| deviation(a, b)));
        progress(deviations.len() as u32);
    }
    Ok(deviations)
}

fn deviation(a: &[f32], b: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = product(a, b) / (product(a, a) * product(b, b)).sqrt();
    if a.len() == b.len() && cosine.is_finite() { (1.0 - cosine).clamp(0.0, 2.0) as f32 } else { 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_clipped_margins_and_of_every_prefix() {
        let means: Vec<f64> = clipped_means(&[0.0, f32::INFINITY, 0.5, f32::NAN]).collect();
        assert_eq!(means, [0.0, 0.5, 0.5, 0.625]);
    }

    #[test]
    fn vectors_deviate_by_their_angle_whatever_their_length() {
        assert_eq!(deviation(&[1.0, 0.0], &[2.0, 0.0]), 0.0);
        assert_eq!(deviation(&[1.0, 0.0], &[0.0, 1.0]), 1.0);
        assert_eq!(deviation(&[1.0], &[1.0, 0.0]), 2.0);
        assert_eq!(deviation(&[0.0], &[0.0]), 2.0);
    }
}
