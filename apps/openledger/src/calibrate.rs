//! `openledger calibrate`.

use crate::calibrations::{self, Subject};
use crate::config::{Config, Role};
use crate::home::Home;
use crate::logging::say;
use crate::models::{self, Models, Run};
use crate::{flags, logging};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use ol_engine::Cheat;
use ol_node::calibrate::{self, Size};
use ol_protocol::calibration::{Calibration, LENGTHS};
use ol_trust::Odds;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Measure what honest answers look like to an auditor, so that others can be told from them.
///
/// The referee whose data folder this is says it to its gateway from its next start on. Without a model named here, the default models
/// are measured, each against itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// GGUF file that provers run, if it is not the auditors': the same model with other weights. With --llama-server, that server's file.
    #[arg(long, value_name = "FILE")]
    prover_model: Option<PathBuf>,
    /// Honest answers to measure; of each kind of cheat one for fifty of them, but six at least.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_500, value_parser = clap::value_parser!(u32).range(30..=1_000_000))]
    answers: u32,
    /// Longest answer, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 160, value_parser = clap::value_parser!(u32).range(8..=4_096))]
    tokens: u32,
    #[command(flatten)]
    computing: flags::Computing,
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    working: flags::Working,
}

/// Runs `openledger calibrate`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = flags::load(Role::Node, &args.common, None, None, Some(&args.working), None)?;
    args.computing.over(&mut config);
    logging::start(&config.log, config.log_format)?;
    let data = Home::open(&config.data_dir)?;
    let models = Models::load(&config, &data)?;
    let threads = config.threads.map_or(0, std::num::NonZero::get);
    let run = |cheat| Run { slots: config.slots.get(), threads, cheat };
    let size = Size { honest: args.answers, of_each_cheat: args.answers.div_ceil(50).max(6), tokens_max: args.tokens };
    let mut rows = Vec::new();
    match (&config.llama_server, &args.prover_model) {
        (Some(address), path) => {
            let of_prover = Config { model: path.clone().or_else(|| config.model.clone()), ..config.clone() };
            let provers = models::with_server(&of_prover, &data, address, run(None))?;
            let prover = provers.first().context("a llama-server answers with one model")?;
            let Subject { engine, mut cheats } = models.text_subject(run(None));
            rows.push(one(args, &data, prover.as_ref(), engine.as_ref(), &mut cheats, size)?);
        }
        (None, None) => {
            for Subject { engine, mut cheats } in models.subjects(run(None)) {
                rows.push(one(args, &data, engine.as_ref(), engine.as_ref(), &mut cheats, size)?);
            }
        }
        (None, Some(path)) => {
            let options = ol_engine::Options { slots: config.slots.get(), threads, cheat: None };
            let prover = ol_engine::start(Arc::new(models::named(path, None)?), options);
            let Subject { engine, mut cheats } = models.text_subject(run(None));
            rows.push(one(args, &data, prover.as_ref(), engine.as_ref(), &mut cheats, size)?);
        }
    }
    if args.json {
        say(json!({ "calibrations": rows }).to_string());
    }
    Ok(ExitCode::SUCCESS)
}

fn one(
    args: &Args,
    data: &Home,
    prover: &dyn ol_engine::Engine,
    verifier: &dyn ol_engine::Engine,
    cheats: &mut calibrate::Cheats<'_>,
    size: Size,
) -> anyhow::Result<Value> {
    let about = calibrations::about(prover, verifier);
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} answers {elapsed} (left: {eta})")?;
    let bar = ProgressBar::new(size.answers(Cheat::ALL.len()).into()).with_style(style);
    bar.set_message(prover.variant().name.clone());
    let began = Instant::now();
    let mut heard = |answers| bar.set_position(u64::from(answers));
    let measured = calibrate::calibrate(prover, verifier, cheats, size, ol_drive::clock::now(), &mut heard)?;
    bar.finish_and_clear();
    let path = calibrations::keep(data, about.clone(), &measured)?;
    if !args.json {
        say(format!("{about}: measured in {} s", began.elapsed().as_secs()));
        tell(&measured);
        say(format!("kept in {}; a referee of this folder says it from its next start on", path.display()));
    }
    Ok(json!({
        "about": about,
        "file": path,
        "seconds": began.elapsed().as_secs(),
        "prover": measured.prover.to_string(),
        "verifier": measured.verifier.to_string(),
        "tolerance_micro_nats": measured.tolerance_micro,
        "log_prob_steps": measured.log_prob_steps,
        "lengths": measured.lengths.iter().zip(odds(&measured)).map(|(counts, odds)| json!({
            "honest": counts.honest, "cheats": counts.cheats, "odds": odds,
        })).collect::<Vec<_>>(),
    }))
}

fn odds(measured: &Calibration) -> [Vec<f64>; LENGTHS] {
    let table = Odds::new(measured);
    let of = |length, bin| table.of(length, bin) as f64 / ol_trust::suspicion::ODDS_ONE as f64;
    std::array::from_fn(|length| (0..ol_protocol::calibration::BINS).map(|bin| of(length, bin)).collect())
}

// By length and mean margin: how many answers there were, and how much likelier a cheat's is there.
fn tell(measured: &Calibration) {
    const LENGTH_NAMES: [&str; LENGTHS] = ["under 8", "8 to 31", "32 to 127", "128 and more"];
    const BIN_NAMES: [&str; 10] = ["0", "<=16u", "<=64u", "<=256u", "<=1m", "<=4m", "<=16m", "<=66m", "<=262m", "more"];
    say(format!("{:14}{}", "mean, nats", BIN_NAMES.map(|name| format!("{name:>9}")).concat()));
    for ((name, counts), odds) in LENGTH_NAMES.iter().zip(&measured.lengths).zip(odds(measured)) {
        let row = |what: &str, cells: Vec<String>| {
            say(format!("{what:14}{}", cells.iter().map(|cell| format!("{cell:>9}")).collect::<String>()));
        };
        let honest = |bin: usize| counts.honest.iter().map(|settings| settings[bin]).sum::<u32>();
        row(&format!("{name} honest"), (0..BIN_NAMES.len()).map(|bin| honest(bin).to_string()).collect());
        row("       cheats", counts.cheats.iter().map(u32::to_string).collect());
        row("         odds", odds.iter().map(|odds| format!("{odds:.2}")).collect());
    }
}
