//! `openledger calibrate`.

use crate::calibrations::{self, Subject};
use crate::config::{Config, Role};
use crate::home::Home;
use crate::logging::say;
use crate::models::{self, Models, Run};
use crate::{flags, logging};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use ol_engine::{Engine, Variant};
use ol_node::calibrate::{self, Size};
use ol_protocol::VariantId;
use ol_protocol::calibration::{Calibration, LENGTHS};
use ol_trust::Odds;
use serde_json::{Value, json};
use std::collections::BTreeSet;
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
    let mut rows = Vec::new();
    match (&config.llama_server, &args.prover_model) {
        (Some(address), path) => {
            let of_prover = Config { model: path.clone().or_else(|| config.model.clone()), ..config.clone() };
            let provers = models::with_server(&of_prover, &data, address, run(None))?;
            let prover = provers.first().context("a llama-server answers with one model")?;
            rows.push(one(args, &data, prover.as_ref(), models.text_subject(run(None)))?);
        }
        (None, None) => {
            for subject in models.subjects(run(None)) {
                rows.push(one(args, &data, subject.engine.clone().as_ref(), subject)?);
            }
        }
        (None, Some(path)) => {
            let options = ol_engine::Options { slots: config.slots.get(), threads, cheat: None };
            let prover = ol_engine::start(Arc::new(models::named(path, None)?), options);
            rows.push(one(args, &data, prover.as_ref(), models.text_subject(run(None)))?);
        }
    }
    if args.json {
        say(json!({ "calibrations": rows }).to_string());
    }
    Ok(ExitCode::SUCCESS)
}

// One prover by the engine of auditors, and what is kept of it.
fn one(args: &Args, data: &Home, prover: &dyn Engine, by: Subject) -> anyhow::Result<Value> {
    let Subject { engine: verifier, mut cheats } = by;
    let size = Size { honest: args.answers, of_each_cheat: args.answers.div_ceil(50).max(6), tokens_max: args.tokens };
    let about = calibrations::about(prover, verifier.as_ref());
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} answers {elapsed} (left: {eta})")?;
    let bar = ProgressBar::new(size.answers(cheats.len()).into()).with_style(style);
    bar.set_message(prover.variant().name.clone());
    let began = Instant::now();
    let (now, mut heard) = (ol_drive::clock::now(), |answers| bar.set_position(u64::from(answers)));
    let measured = calibrate::calibrate(prover, verifier.as_ref(), &mut cheats, size, now, &mut heard)?;
    bar.finish_and_clear();
    let provers = provers(prover.variant(), verifier.variant());
    let mut files = Vec::with_capacity(provers.len());
    for (prover, context_tokens) in &provers {
        let about = if provers.len() > 1 { format!("{about}, {context_tokens} tokens a slot") } else { about.clone() };
        files.push(calibrations::keep(data, about, &Calibration { prover: *prover, ..measured.clone() })?);
    }
    if !args.json {
        say(format!("{about}: measured in {} s", began.elapsed().as_secs()));
        tell(&measured);
        let paths = files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        say(format!("kept in {paths}; a referee of this folder says it from its next start on"));
    }
    Ok(json!({
        "about": about,
        "files": files,
        "seconds": began.elapsed().as_secs(),
        "provers": provers.iter().map(|(prover, _)| prover.to_string()).collect::<Vec<_>>(),
        "verifier": measured.verifier.to_string(),
        "tolerance_micro_nats": measured.tolerance_micro,
        "log_prob_steps": measured.log_prob_steps,
        "lengths": measured.lengths.iter().zip(odds(&measured)).map(|(counts, odds)| json!({
            "honest": counts.honest, "cheats": counts.cheats, "odds": odds,
        })).collect::<Vec<_>>(),
    }))
}

// The variants that a measurement holds for, with their contexts: how long a llama-server's slots are changes no margin.
fn provers(of: &Variant, by: &Variant) -> Vec<(VariantId, u32)> {
    let with =
        |context_tokens| (ol_node::content::variant(&Variant { context_tokens, ..of.clone() }).id(), context_tokens);
    let own = [of.context_tokens].into_iter();
    if of.numerics != ol_llama::NUMERICS {
        return own.map(with).collect();
    }
    let contexts: BTreeSet<u32> = ol_llama::contexts(by.context_tokens).chain(own).collect();
    contexts.into_iter().map(with).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use ol_engine::Kind;

    fn variant(numerics: &str, context_tokens: u32) -> Variant {
        Variant {
            name: "m".into(),
            weights: [7; 32],
            quantisation: "F32".into(),
            numerics: numerics.into(),
            kind: Kind::Generate,
            context_tokens,
            vocabulary: 300,
        }
    }

    #[test]
    fn a_measurement_of_a_server_holds_for_slots_of_every_length() {
        let (auditor, server) = (variant("embedded-f32/1", 8_192), variant(ol_llama::NUMERICS, 2_048));
        let id = |context| (ol_node::content::variant(&variant(ol_llama::NUMERICS, context)).id(), context);
        assert_eq!(provers(&server, &auditor), [1_024, 2_048, 4_096, 8_192].map(id));
        let short = provers(&variant(ol_llama::NUMERICS, 512), &auditor);
        assert!(short.len() == 5 && short.contains(&id(512)));
        assert_eq!(provers(&auditor, &auditor), [(ol_node::content::variant(&auditor).id(), 8_192)]);
    }
}
