//! `openledger bench trust --embeddings`.

use super::trust::Args;
use super::verdicts::{Seen, false_positives, verdicts};
use super::{machine, progress};
use crate::config::{Config, Role};
use crate::home::Home;
use crate::logging::say;
use crate::models::Models;
use crate::{calibrations, flags, logging};
use anyhow::Context as _;
use ol_engine::pair::{Plan, observe_vectors};
use ol_engine::{Cheat, Options, start};
use ol_node::calibrate::micro;
use ol_protocol::calibration::{BINS, bin};
use ol_trust::Odds;
use ol_trust::judge::EMBEDDING_DEVIATION_MICRO_MAX;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures the embedding model in place of the other.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = flags::load(Role::Node, &args.common, None, None, None, None)?;
    logging::start(&config.log, config.log_format)?;
    let embedding_model = args.model.clone().or(config.embedding_model);
    // Text is not continued here: a random model stands in for one that would be.
    let config = Config { embedding_model, model: Some(PathBuf::from("tiny")), ..config };
    let data = Home::open(&config.data_dir)?;
    let models = Models::load(&config, &data)?;
    let run = |cheat| Options { threads: args.threads, cheat, ..Options::default() };
    let verifier = start(models.vectors(), run(None));
    let variant = ol_node::content::variant(verifier.variant()).id();
    let calibration = calibrations::load(&data)?.into_iter().find(|of| (of.prover, of.verifier) == (variant, variant));
    let odds = Odds::new(&calibration.context("this model is not calibrated: run openledger calibrate first")?);
    let provers: Vec<Option<Cheat>> = [None].into_iter().chain(Cheat::OF_VECTORS.map(Some)).collect();
    let size = |prover: &Option<Cheat>| if prover.is_none() { args.honest } else { args.answers };
    let bar = progress::bar(provers.iter().map(|prover| u64::from(size(prover))).sum());
    let (mut rows, mut honest) = (Vec::new(), Vec::new());
    for prover in provers {
        let name = prover.map_or("honest", Cheat::name);
        bar.set_message(name);
        let plan = Plan { answers: size(&prover), tokens_max: 1, seed: args.seed };
        let first = bar.position();
        let mut heard = |texts| bar.set_position(first + u64::from(texts));
        let engine = start(models.vectors(), run(prover));
        let found = observe_vectors(engine.as_ref(), verifier.as_ref(), &plan, &mut heard)?;
        let deviations: Vec<u32> = found.into_iter().map(micro).collect();
        let seen: Vec<Seen> = deviations.iter().map(|deviation| Seen::of_vector(*deviation, &odds)).collect();
        rows.push(row(name, deviations, &seen));
        if prover.is_none() {
            honest = seen;
        }
    }
    bar.finish_and_clear();
    let record = machine::stamp(json!({
        "model": verifier.variant().name,
        "numerics": verifier.variant().numerics,
        "threads": args.threads,
        "seed": args.seed,
        "false_positives": false_positives(&honest),
        "rows": rows,
    }));
    if args.json {
        say(record.to_string())
    } else {
        tell(&record)
    }
    Ok(ExitCode::SUCCESS)
}

fn row(name: &str, mut deviations: Vec<u32>, seen: &[Seen]) -> Value {
    let seen: Vec<Vec<Seen>> = seen.iter().map(|one| vec![*one]).collect();
    let audits = |uses_limit| {
        let found = verdicts(&seen, uses_limit);
        json!({ "p50": found["audits_p50"], "p90": found["audits_p90"], "not_in_300_pct": found["not_in_300_audits_pct"] })
    };
    let mut bins = [0_u32; BINS];
    deviations.iter().for_each(|deviation| bins[bin((*deviation).into())] += 1);
    deviations.sort_unstable();
    let quantile = |share: f64| deviations[(share * (deviations.len() - 1) as f64).round() as usize];
    let over = deviations.iter().filter(|deviation| **deviation > EMBEDDING_DEVIATION_MICRO_MAX).count();
    json!({
        "row": name,
        "texts": deviations.len(),
        "deviation_micro": { "p10": quantile(0.1), "p50": quantile(0.5), "p90": quantile(0.9), "max": quantile(1.0) },
        "texts_by_bin": bins,
        "over_limit_share": over as f64 / deviations.len() as f64,
        "audits": audits(true),
        "audits_by_bets_alone": audits(false),
    })
}

fn tell(record: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let audits = |value: &Value| value.to_string().replace("null", "never");
    say(format!("{}, {}: deviations of cosines in millionths", text(&record["model"]), text(&record["numerics"])));
    say(format!(
        "{:<20}{:>8}{:>10}{:>10}{:>10}{:>10}{:>9}{:>9}",
        "", "texts", "p10", "p50", "max", "> limit", "audits", "by bets"
    ));
    for row in record["rows"].as_array().into_iter().flatten() {
        let of = &row["deviation_micro"];
        say(format!(
            "{:<20}{:>8}{:>10}{:>10}{:>10}{:>10.3}{:>9}{:>9}",
            text(&row["row"]),
            row["texts"].to_string(),
            of["p10"].to_string(),
            of["p50"].to_string(),
            of["max"].to_string(),
            row["over_limit_share"].as_f64().unwrap_or_default(),
            audits(&row["audits"]["p50"]),
            audits(&row["audits_by_bets_alone"]["p50"]),
        ));
    }
}
