//! `openledger bench engine`.

use super::{machine, progress};
use crate::config::Role;
use crate::home::Home;
use crate::logging::say;
use crate::models::Models;
use crate::{flags, logging};
use ol_engine::bench;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Steps of a measurement.
const STEPS: u64 = 6;

/// Measure an engine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// GGUF file to measure instead of the default model; `tiny` is a random model that needs no download.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Folder of an embedding model instead of the default one, or `tiny`.
    #[arg(long, value_name = "FOLDER")]
    embedding_model: Option<PathBuf>,
    /// Threads that compute.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    threads: u32,
    #[command(flatten)]
    common: flags::Common,
}

/// Loads the models that the flags name.
pub(super) fn load(
    common: &flags::Common,
    model: Option<&PathBuf>,
    embedding_model: Option<&PathBuf>,
) -> anyhow::Result<Models> {
    let mut config = flags::load(Role::Node, common, None, None, None, None)?;
    config.model = model.cloned().or(config.model);
    config.embedding_model = embedding_model.cloned().or(config.embedding_model);
    logging::start(&config.log, config.log_format)?;
    Models::load(&config, &Home::open(&config.data_dir)?)
}

/// Runs `openledger bench engine`.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let bar = progress::bar(STEPS);
    bar.set_message("load");
    let began = Instant::now();
    let models = load(&args.common, args.model.as_ref(), args.embedding_model.as_ref())?;
    let load_seconds = began.elapsed().as_secs_f64();
    let text = bench::run(models.text(), args.threads, &mut |step| {
        bar.inc(1);
        bar.set_message(step.to_owned());
    })?;
    bar.set_message("embed");
    let vectors = bench::run_embed(models.vectors(), args.threads)?;
    bar.finish_and_clear();
    let mut record = serde_json::to_value(&text)?;
    if let Some(fields) = record.as_object_mut() {
        fields.insert("load_seconds".to_owned(), json!(load_seconds));
        fields.insert("embedding".to_owned(), serde_json::to_value(&vectors)?);
    }
    let record = machine::stamp(record);
    if args.json {
        say(record.to_string())
    } else {
        tell(&record)
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(record: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let rows = [
        ("prefill, tokens a CPU second", &record["prefill_tokens_per_cpu_s"]),
        ("decode, tokens a CPU second", &record["decode_tokens_per_cpu_s"]),
        ("decode, tokens a second", &record["decode_tokens_per_s"]),
        ("decode of 8 together, tokens a CPU second", &record["decode_8_sequences_tokens_per_cpu_s"]),
        ("scoring / generating, 128 + 128 tokens", &record["score_over_generate"]),
        ("the same, generated with 7 others", &record["score_over_generate_together"]),
        ("the same, as far as audits are drawn", &record["score_drawn_over_generate_together"]),
        ("embedding, tokens a CPU second", &record["embedding"]["tokens_per_cpu_s"]),
        ("embedding, texts a CPU second", &record["embedding"]["texts_per_cpu_s"]),
        ("loading both models, seconds", &record["load_seconds"]),
    ];
    say(format!("{}, {} threads", record["model"].as_str().unwrap_or_default(), record["threads"]));
    for (what, value) in rows {
        say(format!("{what:<44}{:>10.2}", number(value)));
    }
}
