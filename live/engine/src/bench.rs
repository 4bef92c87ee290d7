//! What an engine costs, by the CPU clock of the process: run it in a process that does nothing else.

use std::sync::Arc;

use ol_protocol::prf::Seed;
use ol_protocol::sampler::Sampling;
use serde::Serialize;

use crate::batcher::{Options, start};
use crate::calls::{Answer, begin, cpu_s, embed, score};
use crate::model::Model;
use crate::task::{Engine, Error, GenerateTask, Prompt, ScoreTask};

/// Prompt and output of the generation that scoring is compared with.
const LENGTH: u32 = 128;
/// Prompt tokens of the prefill measurement.
const PREFILL_TOKENS: u32 = 512;
/// How far an audit's draw may reach into such an output, each as likely.
const REACHES: [usize; 4] = [32, 64, 96, 128];
/// Sequences generated together.
const SEQUENCES: u32 = 8;
/// Measurements of each figure; the best counts, as others disturb the machine.
const ROUNDS: usize = 3;

/// Texts embedded in one call.
const TEXTS: usize = 64;

/// Figures of one engine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Public model id.
    pub model: String,
    /// Arithmetic.
    pub numerics: String,
    /// Threads that computed.
    pub threads: u32,
    /// Prompt tokens per CPU second, 512 at once.
    pub prefill_tokens_per_cpu_s: f64,
    /// Output tokens per CPU second, one sequence after a prompt of 128 tokens.
    pub decode_tokens_per_cpu_s: f64,
    /// Output tokens per second of wall time, the same.
    pub decode_tokens_per_s: f64,
    /// Output tokens per CPU second, eight sequences together.
    pub decode_8_sequences_tokens_per_cpu_s: f64,
    /// CPU seconds to generate 128 tokens after 128.
    pub generate_128_128_cpu_s: f64,
    /// CPU seconds to score the same.
    pub score_128_128_cpu_s: f64,
    /// Their ratio.
    pub score_over_generate: f64,
    /// CPU seconds to score the same as far as the draw of an audit reaches, in the mean.
    pub score_drawn_128_128_cpu_s: f64,
    /// CPU seconds to generate one of eight such answers together.
    pub generate_8_together_128_128_cpu_s: f64,
    /// Scoring all of an answer over generating it with seven others.
    pub score_over_generate_together: f64,
    /// Scoring it as far as the draw reaches, over the same.
    pub score_drawn_over_generate_together: f64,
}

/// Measures an engine of this model; `threads` as in [`Options`].
///
/// # Errors
/// What the engine reports, for instance a context that is too short.
pub fn run(model: Arc<Model>, threads: u32, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let engine = start(model, Options { slots: SEQUENCES, threads, cheat: None });
    let engine = engine.as_ref();
    progress("prefill");
    let prefill = best(|| timed(|| answer(engine, PREFILL_TOKENS, 1)).map(|(cpu_s, _)| cpu_s))?;
    progress("decode");
    let (mut decode, mut wall, mut generate, mut last) = (f64::MAX, f64::MAX, f64::MAX, None);
    for _ in 0..ROUNDS {
        let (cpu_s, answer) = timed(|| answer(engine, LENGTH, LENGTH))?;
        let rest = f64::from(answer.finish.output_tokens.max(2) - 1);
        decode = decode.min(answer.decode_cpu_s / rest);
        wall = wall.min(answer.decode_wall_s / rest);
        generate = generate.min(cpu_s);
        last = Some(answer);
    }
    progress("score");
    let checked = last.map(|answer| check(&answer)).ok_or(Error::Empty)?;
    let scoring = best(|| timed(|| score(engine, checked.clone())).map(|(cpu_s, _)| cpu_s))?;
    let mut drawn = 0.0;
    for until in REACHES {
        let part = ScoreTask { until, ..checked.clone() };
        drawn += best(|| timed(|| score(engine, part.clone())).map(|(cpu_s, _)| cpu_s))? / REACHES.len() as f64;
    }
    progress("decode 8 sequences");
    let decode_together = best(|| together(engine, 4, 64))? / 64.0;
    let generate_together = best(|| together(engine, LENGTH, LENGTH))?;
    let variant = engine.variant();
    Ok(Report {
        model: variant.name.clone(),
        numerics: variant.numerics.clone(),
        threads,
        prefill_tokens_per_cpu_s: f64::from(PREFILL_TOKENS) / prefill,
        decode_tokens_per_cpu_s: 1.0 / decode,
        decode_tokens_per_s: 1.0 / wall,
        decode_8_sequences_tokens_per_cpu_s: 1.0 / decode_together,
        generate_128_128_cpu_s: generate,
        score_128_128_cpu_s: scoring,
        score_over_generate: scoring / generate,
        score_drawn_128_128_cpu_s: drawn,
        generate_8_together_128_128_cpu_s: generate_together,
        score_over_generate_together: scoring / generate_together,
        score_drawn_over_generate_together: drawn / generate_together,
    })
}

/// Figures of an engine that turns text into vectors.
#[derive(Clone, Debug, Serialize)]
pub struct EmbedReport {
    /// Public model id.
    pub model: String,
    /// Arithmetic.
    pub numerics: String,
    /// Threads that computed.
    pub threads: u32,
    /// Tokens of one text.
    pub text_tokens: u32,
    /// Texts per CPU second.
    pub texts_per_cpu_s: f64,
    /// Tokens per CPU second.
    pub tokens_per_cpu_s: f64,
}

/// Measures an engine of this model with short texts; `threads` as in [`Options`].
///
/// # Errors
/// What the engine reports.
pub fn run_embed(model: Arc<Model>, threads: u32) -> Result<EmbedReport, Error> {
    let engine = start(model, Options { slots: 1, threads, cheat: None });
    let text = "A sentence of average length, such as people search for every day. ".repeat(2);
    let texts = vec![text; TEXTS];
    let tokens = embed(engine.as_ref(), texts.clone())?.prompt_tokens;
    let cpu_s = best(|| timed(|| embed(engine.as_ref(), texts.clone())).map(|(cpu_s, _)| cpu_s))?;
    let variant = engine.variant();
    Ok(EmbedReport {
        model: variant.name.clone(),
        numerics: variant.numerics.clone(),
        threads,
        text_tokens: tokens / TEXTS as u32,
        texts_per_cpu_s: TEXTS as f64 / cpu_s,
        tokens_per_cpu_s: f64::from(tokens) / cpu_s,
    })
}

fn best(mut measure: impl FnMut() -> Result<f64, Error>) -> Result<f64, Error> {
    (0..ROUNDS).try_fold(f64::MAX, |least, _| Ok(least.min(measure()?)))
}

/// CPU seconds and the result.
fn timed<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(f64, T), Error> {
    let cpu = cpu_s();
    let result = work()?;
    Ok((cpu_s() - cpu, result))
}

fn task(engine: &dyn Engine, prompt_tokens: u32, max_tokens: u32, seed: u8) -> GenerateTask {
    let vocabulary = engine.variant().vocabulary;
    // Ids all over the vocabulary: their text makes no sense, so that nothing ends early.
    let ids = (0..prompt_tokens).map(|index| 300 + (index * 7919 + u32::from(seed) * 31) % 20_000);
    GenerateTask {
        prompt: Prompt::Tokens(ids.map(|id| id % vocabulary).collect()),
        sampling: Sampling { temperature: 1.0, ..Sampling::GREEDY },
        seed: Seed([seed; 32]),
        max_tokens,
        stop: Vec::new(),
        top_logprobs: 0,
        resume: Vec::new(),
        scope: None,
    }
}

fn answer(engine: &dyn Engine, prompt_tokens: u32, max_tokens: u32) -> Result<Answer, Error> {
    begin(engine, task(engine, prompt_tokens, max_tokens, 1)).wait()
}

fn check(answer: &Answer) -> ScoreTask {
    ScoreTask {
        prompt: Prompt::Tokens(answer.prompt.clone()),
        output: answer.output.clone(),
        sampling: Sampling { temperature: 1.0, ..Sampling::GREEDY },
        seed: Seed([1; 32]),
        stop: Vec::new(),
        max_tokens: LENGTH,
        tolerance: 0.05,
        finish: answer.finish.reason,
        until: usize::MAX,
    }
}

/// CPU seconds of one of several answers that are generated together, had all of them the length that was asked for.
fn together(engine: &dyn Engine, prompt_tokens: u32, max_tokens: u32) -> Result<f64, Error> {
    let cpu = cpu_s();
    let begin = |seed| begin(engine, task(engine, prompt_tokens, max_tokens, seed as u8));
    let pending: Vec<_> = (0..SEQUENCES).map(begin).collect();
    let mut tokens = 0;
    for answer in pending {
        tokens += answer.wait()?.finish.output_tokens;
    }
    Ok((cpu_s() - cpu) / f64::from(tokens.max(1)) * f64::from(max_tokens))
}
