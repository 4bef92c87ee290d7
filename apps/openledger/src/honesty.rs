//! `openledger ledger honesty`: whether honesty pays under a log's own rules, for each role and variant.

use crate::inspect::credits;
use crate::logging::say;
use ol_gateway::driver::PROMPTS;
use ol_protocol::VariantId;
use ol_protocol::parameters::Parameters;
use ol_roles::Settler;
use ol_trust::honesty::{Stakes, detection, public_share_of_faults};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::ExitCode;

/// What is assumed of who cheats.
#[derive(Debug, clap::Args)]
pub(crate) struct HonestyArgs {
    /// What a cheated task brings over an honest one, in hundredths of its price: 70 is what computing it costs.
    #[arg(long, value_name = "PER CENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(1..=100))]
    gain: u8,
    /// How many auditors of a hundred collude with the node.
    #[arg(long, value_name = "PER CENT", default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=99))]
    colluding: u8,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What scoring as far as a draw reaches costs of generating where eight answers are generated together (docs/bench/2026-11-prefixes.md), and generating of
/// a task's price.
const SCORING: f64 = 0.43;
const GENERATING: f64 = 0.7;

struct Row {
    role: &'static str,
    of: String,
    stakes: Stakes,
    note: &'static str,
}

/// Prints the table.
pub(crate) fn tell(settler: &Settler, args: &HonestyArgs) -> anyhow::Result<ExitCode> {
    let rows = rows(settler, args);
    let (open, held) = (f64::from(open_ppm(settler)) / 1e6, settler.held_tasks());
    let own = settler.ledger().totals().own;
    let finite = |number: f64| number.is_finite().then_some(number);
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|Row { role, of, stakes, note }| {
                json!({
                    "role": role, "of": of, "gain": stakes.gain, "rate": stakes.rate, "detection": stakes.detection,
                    "certainty": stakes.certainty, "stake": stakes.stake, "rate_needed": finite(stakes.rate_needed()),
                    "margin": finite(stakes.margin()), "stake_needed": finite(stakes.stake_needed()), "note": note,
                })
            })
            .collect();
        let colluding = f64::from(args.colluding) / 100.0;
        let of_all = json!({ "public_share": open, "held_tasks": held, "own_micro_credits": own.0, "colluding": colluding, "rows": rows });
        say(of_all.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say(format!(
        "{:.2} % of the last results may become public; pay is held for {held} later tasks; the network's own tasks cost {} credits so far; \
         {} % of the auditors collude",
        open * 100.0,
        credits(own.0.into()),
        args.colluding
    ));
    say(format!(
        "{:<8} {:<9} {:>6} {:>9} {:>9} {:>7} {:>9}",
        "role", "of", "gain", "stake", "audited", "needed", "margin"
    ));
    for Row { role, of, stakes, note } in &rows {
        let percent = |share: f64| if share <= 1.0 { format!("{:.2} %", share * 100.0) } else { "no rate".to_owned() };
        say(format!(
            "{role:<8} {of:<9} {:>6.3} {:>9.1} {:>9} {:>7} {:>9.2}  {}",
            stakes.gain,
            stakes.stake,
            percent(stakes.rate),
            percent(stakes.rate_needed()),
            stakes.margin(),
            if stakes.margin() > 1.0 { "honesty pays" } else { note }
        ));
    }
    if rows.iter().all(|row| row.role != "node") {
        say("no variant that was measured has served anything yet");
    }
    advise(settler.parameters(), open_ppm(settler), &rows);
    Ok(ExitCode::SUCCESS)
}

fn rows(settler: &Settler, args: &HonestyArgs) -> Vec<Row> {
    let Parameters { split, audit, .. } = *settler.parameters();
    let rate = f64::from(audit.rate_ppm) / 1e6;
    let gain = f64::from(args.gain) / 100.0;
    let honest = 1.0 - f64::from(args.colluding) / 100.0;
    let share = public_share_of_faults(audit.rate_ppm, open_ppm(settler));
    let stake = f64::from(settler.held_tasks()) * f64::from(split.node_bp) / 1e4;
    let mut rows: Vec<Row> = Vec::new();
    let served: BTreeSet<VariantId> = settler.standings().map(|(_, variant, _)| variant).collect();
    for calibration in settler.calibrations().filter(|of| served.contains(&of.prover)) {
        let Some(detection) = detection(&calibration.lengths) else { continue };
        let is_same = calibration.prover == calibration.verifier;
        let certainty = if is_same { share } else { 0.0 };
        let stakes = Stakes { gain, rate, detection: detection * honest, certainty, stake };
        let note = match (is_same, share > 0.0) {
            (true, true) => "cheating pays",
            (true, false) => "cheating pays until it is found: no result may become public",
            (false, _) => "cheating pays until it is found: no evidence against another variant than the referee's",
        };
        rows.push(Row { role: "node", of: calibration.prover.short(), stakes, note });
    }
    // Its log-probabilities are held against the prover's in each audit; who has not computed has none that agree.
    let pay = f64::from(audit.pay_bp) / 1e4;
    let lazy = Stakes { gain: SCORING * GENERATING, rate: 1.0, detection: 1.0, certainty: 1.0, stake: pay };
    rows.push(Row { role: "auditor", of: "lazy".to_owned(), stakes: lazy, note: "guessing pays" });
    // It is named by everybody who draws again, and has nothing in escrow.
    let skips = Stakes { gain: rate * pay, rate: 1.0, detection: 1.0, certainty: 0.0, stake: 0.0 };
    rows.push(Row {
        role: "gateway",
        of: "skips".to_owned(),
        stakes: skips,
        note: "it is named by verify --draws, and nothing is at stake",
    });
    rows
}

// What deters over as long as pay is held; where nobody counts so far back, over the last epochs.
fn open_ppm(settler: &Settler) -> u32 {
    if settler.parameters().audit.deterrent { settler.open_ppm() } else { settler.public_ppm() }
}

// What would make honesty pay for the nodes that it doesn't pay.
fn advise(parameters: &Parameters, open: u32, rows: &[Row]) {
    let poor = rows.iter().filter(|row| row.role == "node" && row.stakes.certainty > 0.0 && row.stakes.margin() <= 1.0);
    let node_share = f64::from(parameters.split.node_bp) / 1e4;
    if open == 0 {
        say(format!(
            "no result may become public yet: tenants say so in their requests, and the gateway asks for tasks of its own if it has prompts ({PROMPTS})"
        ));
    }
    let tasks = poor.map(|row| (row.stakes.stake_needed() / node_share).ceil()).fold(0.0, f64::max);
    if tasks > 0.0 {
        say(format!(
            "to make it pay, hold pay for {tasks} tasks in place of {}: openledger issue parameters --set escrow.tasks=NUMBER, a tenth at a time",
            parameters.escrow.tasks
        ));
    }
}
