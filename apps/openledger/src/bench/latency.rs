//! What a ledger on a disk adds to the time of a request: the same gateway with one and with none, in turns.

use super::children::{Gateway, Process};
use super::load::{self, Asked};
use super::{gateway, measure, progress};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Length of a turn.
const TURN: Duration = Duration::from_secs(1);

/// Requests at the same time: one, so that a request waits for nothing but its own.
const IN_FLIGHT: usize = 1;

// A gateway with one node, and what it is asked.
struct Side {
    gateway: Gateway,
    _node: Process,
    asked: Asked,
}

impl Side {
    fn start(folder: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let gateway = Gateway::start(&folder.join("gateway"), more)?;
        let node = gateway.node(1, &folder.join("node"))?;
        let asked = load::chat(gateway.address, &gateway.key, 1, false);
        Ok(Self { gateway, _node: node, asked })
    }

    async fn turn(&self) -> anyhow::Result<f64> {
        Ok(measure::floor(&self.asked, IN_FLIGHT, TURN).await?.latency_us_p50)
    }
}

/// Median latencies of `rounds` turns of both sides, and of the differences between neighbours. Turns change their order, so
/// that neither side always comes first.
pub(super) fn added(folder: &Path, rounds: u32) -> anyhow::Result<Value> {
    let (with, without) =
        (Side::start(&folder.join("with"), &[])?, Side::start(&folder.join("without"), &["--in-memory"])?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bar = progress::bar(u64::from(rounds));
    bar.set_message("latency with and without");
    let (mut latencies, mut differences) = ((Vec::new(), Vec::new()), Vec::new());
    runtime.block_on(async {
        for side in [&with, &without] {
            gateway::joined(&side.gateway, 1).await?;
            side.turn().await?;
        }
        for round in 0..rounds {
            let (first, second) = if round % 2 == 0 { (&with, &without) } else { (&without, &with) };
            let (one, two) = (first.turn().await?, second.turn().await?);
            let (with, without) = if round % 2 == 0 { (one, two) } else { (two, one) };
            latencies.0.push(with);
            latencies.1.push(without);
            differences.push(with - without);
            bar.inc(1);
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    let of = |values: &mut Vec<f64>, share: f64| quantile(values, share).context("no round was asked for");
    Ok(json!({
        "latency_us_p50": of(&mut latencies.0, 0.5)?,
        "latency_us_p50_in_memory": of(&mut latencies.1, 0.5)?,
        "latency_added_us_p50": of(&mut differences, 0.5)?,
        "latency_added_us_quartiles": [of(&mut differences, 0.25)?, of(&mut differences, 0.75)?],
        "latency_rounds": rounds,
    }))
}

fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len().saturating_sub(1) as f64).round() as usize;
    values.get(at).map(|value| (value * 10.0).round() / 10.0)
}
