//! `openledger bench margins`.

use super::engine::load;
use super::{machine, progress};
use crate::flags;
use crate::logging::say;
use ol_engine::margins;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure honest margins.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Tokens to generate and check, at least.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    tokens: u64,
    /// GGUF file to measure instead of the default model; `tiny` is a random model that needs no download.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Threads that compute.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    threads: u32,
    #[command(flatten)]
    common: flags::Common,
}

/// Runs `openledger bench margins`. Fails if an honest answer would have failed its audit.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Vectors are not measured: a random model stands in for theirs.
    let no_vectors = PathBuf::from("tiny");
    let models = load(&args.common, args.model.as_ref(), args.model.as_ref().map(|_| &no_vectors))?;
    let bar = progress::bar(args.tokens);
    bar.set_message("tokens");
    let began = Instant::now();
    let found = margins::measure(models.text(), args.tokens, args.threads, &mut |tokens| bar.set_position(tokens))?;
    bar.finish_and_clear();
    let mut record = serde_json::to_value(&found)?;
    if let Some(fields) = record.as_object_mut() {
        fields.insert("threads".to_owned(), json!(args.threads));
        fields.insert("seconds".to_owned(), json!(began.elapsed().as_secs()));
    }
    let record = machine::stamp(record);
    if args.json {
        say(record.to_string());
    } else {
        say(format!("{}, {}: {} tokens of {} answers", found.model, found.numerics, found.tokens, found.answers));
        say(format!("largest margin {} nats; {} margins are not exactly 0", found.max_nats, found.not_zero));
        say(format!("{} over the limit of an audit", found.over_limit));
        say(format!("{} log-probability bytes and {} ends differ", found.bytes_differing, found.ends_differing));
    }
    let honest = found.over_limit == 0 && found.ends_differing == 0;
    Ok(if honest { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
