//! What a ledger on a disk adds to the time of a request: two gateways, one with and one without, asked request by request.

use super::children::{Gateway, Process};
use super::load::{self, Connection};
use super::{gateway, progress};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::Path;

/// Pairs that are asked before any is counted.
const WARM_UP: u32 = 500;

/// Quantile of the normal distribution for an interval of 95 %.
const Z_95: f64 = 1.96;

// A gateway with one node, and a connection over which one thing is asked at a time: a request waits for nothing but its own.
struct Side {
    gateway: Gateway,
    _node: Process,
}

impl Side {
    fn start(folder: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let gateway = Gateway::start(&folder.join("gateway"), more)?;
        let node = gateway.node(1, &folder.join("node"))?;
        Ok(Self { gateway, _node: node })
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        gateway::joined(&self.gateway, 1).await?;
        let asked = load::chat(self.gateway.address, &self.gateway.key, 1, false);
        load::open(&asked, 1).await?.pop().context("no connection")
    }
}

async fn microseconds(connection: &mut Connection) -> anyhow::Result<f64> {
    Ok(connection.ask().await?.took.as_nanos() as f64 / 1e3)
}

/// Medians of `pairs` requests to both sides and of the differences within each pair. Either side comes first in every other
/// pair. The interval of the median is of order statistics: half the pairs, give or take `1.96 sqrt(pairs) / 2`.
pub(super) fn added(folder: &Path, pairs: u32) -> anyhow::Result<Value> {
    let (with, without) =
        (Side::start(&folder.join("with"), &[])?, Side::start(&folder.join("without"), &["--in-memory"])?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bar = progress::bar(u64::from(pairs));
    bar.set_message("latency with and without");
    let (mut latencies, mut differences) = ((Vec::new(), Vec::new()), Vec::new());
    runtime.block_on(async {
        let (mut with, mut without) = (with.connect().await?, without.connect().await?);
        for pair in 0..WARM_UP + pairs {
            let (one, other);
            if pair % 2 == 0 {
                one = microseconds(&mut with).await?;
                other = microseconds(&mut without).await?;
            } else {
                other = microseconds(&mut without).await?;
                one = microseconds(&mut with).await?;
            }
            if pair >= WARM_UP {
                latencies.0.push(one);
                latencies.1.push(other);
                differences.push(one - other);
                bar.inc(1);
            }
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    let of = |values: &mut Vec<f64>, share: f64| quantile(values, share).context("no pair was asked for");
    let reach = Z_95 / 2.0 / f64::from(pairs).sqrt();
    Ok(json!({
        "latency_us_p50": of(&mut latencies.0, 0.5)?,
        "latency_us_p50_in_memory": of(&mut latencies.1, 0.5)?,
        "latency_us_p99": of(&mut latencies.0, 0.99)?,
        "latency_us_p99_in_memory": of(&mut latencies.1, 0.99)?,
        "latency_added_us_p50": of(&mut differences, 0.5)?,
        "latency_added_us_p50_interval_95": [of(&mut differences, 0.5 - reach)?, of(&mut differences, 0.5 + reach)?],
        "latency_added_us_quartiles": [of(&mut differences, 0.25)?, of(&mut differences, 0.75)?],
        "latency_pairs": pairs,
    }))
}

fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len().saturating_sub(1) as f64).round() as usize;
    values.get(at).map(|value| (value * 10.0).round() / 10.0)
}
