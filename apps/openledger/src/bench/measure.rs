//! One phase of a measurement, and the medians of several.

use super::children::{Gateway, Process};
use super::load::{self, Asked};
use anyhow::bail;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for the last batches of a phase to be in the log.
const LOG_LIMIT: Duration = Duration::from_secs(20);

/// Time between two looks at what is in the log.
const LOOK: Duration = Duration::from_millis(200);

/// Between a receipt's count and its commit.
const COMMIT: Duration = Duration::from_millis(100);

/// What one phase gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Phase {
    /// Tasks answered.
    pub(super) tasks: u64,
    /// Processor time of the gateway's process from the first request until the last receipt is in the log.
    pub(super) cpu_us_per_task: f64,
    /// The same by thread name.
    pub(super) by_thread: BTreeMap<String, f64>,
    /// Tasks answered in a second.
    pub(super) tasks_per_second: f64,
    /// Median time of an answer.
    pub(super) latency_us_p50: f64,
    /// Time that one answer in a hundred exceeds.
    pub(super) latency_us_p99: f64,
    /// Median time of a stream's first token.
    pub(super) first_token_us_p50: f64,
    /// Receipts put in the log.
    pub(super) receipts: u64,
    /// Audits drawn.
    pub(super) audits_drawn: u64,
    /// Audits passed.
    pub(super) audits_passed: u64,
    /// Messages and bytes between gateway and nodes for a task, audits, batches and pings included.
    pub(super) frames_per_task: f64,
    /// Bytes are those before TLS.
    pub(super) bytes_per_task: f64,
}

/// Counts of a gateway.
#[derive(Debug, Clone, Copy)]
struct Counts {
    receipts: u64,
    drawn: u64,
    passed: u64,
    open: u64,
    frames: u64,
    bytes: u64,
}

/// The value of one metric.
pub(super) async fn metric(gateway: &Gateway, name: &str) -> anyhow::Result<u64> {
    let text = load::get(gateway.address, "/metrics").await?;
    Ok(value(&text, name))
}

fn value(text: &str, name: &str) -> u64 {
    let find = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(find).unwrap_or(0)
}

async fn counts(gateway: &Gateway) -> anyhow::Result<Counts> {
    let text = load::get(gateway.address, "/metrics").await?;
    Ok(Counts {
        receipts: value(&text, "openledger_receipts_logged_total"),
        drawn: value(&text, "openledger_audits_drawn_total"),
        passed: value(&text, "openledger_audits_passed_total"),
        open: value(&text, "openledger_audits_open"),
        frames: value(&text, "openledger_link_frames_sent_total")
            + value(&text, "openledger_link_frames_received_total"),
        bytes: value(&text, "openledger_link_bytes_sent_total") + value(&text, "openledger_link_bytes_received_total"),
    })
}

/// Measures a gateway phase by phase; knows how many receipts its log must come to.
pub(super) struct Meter<'a> {
    gateway: &'a Gateway,
    tasks: u64,
}

impl<'a> Meter<'a> {
    /// Before anything is asked.
    pub(super) const fn new(gateway: &'a Gateway) -> Self {
        Self { gateway, tasks: 0 }
    }

    /// Asks for a time, and waits until everything that this led to is in the log.
    pub(super) async fn phase(&mut self, asked: &Asked, in_flight: usize, time: Duration) -> anyhow::Result<Phase> {
        let connections = load::open(asked, in_flight).await?;
        self.tasks += in_flight as u64;
        let before = self.logged().await?;
        let cpu_before = self.gateway.process.cpu_ns();
        let mut phase = of(&load::run(connections, time).await)?;
        self.tasks += phase.tasks;
        let after = self.logged().await?;
        tokio::time::sleep(COMMIT).await;
        phase.by_thread = per_task(&cpu_before, &self.gateway.process, phase.tasks);
        phase.cpu_us_per_task = phase.by_thread.values().sum();
        phase.receipts = after.receipts - before.receipts;
        phase.audits_drawn = after.drawn - before.drawn;
        phase.audits_passed = after.passed - before.passed;
        phase.frames_per_task = (after.frames - before.frames) as f64 / phase.tasks as f64;
        phase.bytes_per_task = (after.bytes - before.bytes) as f64 / phase.tasks as f64;
        Ok(phase)
    }

    // Until nothing is on its way: every task's receipt is in the log, and no audit is open.
    async fn logged(&self) -> anyhow::Result<Counts> {
        let began = Instant::now();
        loop {
            let now = counts(self.gateway).await?;
            if now.receipts >= self.tasks && now.open == 0 {
                return Ok(now);
            }
            if began.elapsed() > LOG_LIMIT {
                bail!("{} receipts wanted after {} s, but there are {now:?}", self.tasks, LOG_LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Asks a bare server for a time.
pub(super) async fn floor(asked: &Asked, in_flight: usize, time: Duration) -> anyhow::Result<Phase> {
    of(&load::run(load::open(asked, in_flight).await?, time).await)
}

fn per_task(before: &BTreeMap<String, u64>, process: &Process, tasks: u64) -> BTreeMap<String, f64> {
    let spent = |name: &String, ns: u64| ns.saturating_sub(before.get(name).copied().unwrap_or(0));
    let us = |name: &String, ns: u64| spent(name, ns) as f64 / 1e3 / tasks as f64;
    process.cpu_ns().iter().map(|(name, ns)| (name.clone(), us(name, *ns))).collect()
}

fn of(answers: &load::Answers) -> anyhow::Result<Phase> {
    if let Some(first) = answers.failures.first() {
        bail!("{} connections failed, the first because: {first}", answers.failures.len());
    }
    let tasks = answers.latency_us.len() as u64;
    Ok(Phase {
        tasks,
        tasks_per_second: tasks as f64 / answers.took.as_secs_f64(),
        latency_us_p50: quantile(&answers.latency_us, 0.5),
        latency_us_p99: quantile(&answers.latency_us, 0.99),
        first_token_us_p50: quantile(&answers.first_token_us, 0.5),
        ..Phase::default()
    })
}

fn quantile(values: &[u64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).map_or(0.0, |value| *value as f64)
}

/// The median of a figure over rounds.
pub(super) fn median(phases: &[Phase], figure: impl Fn(&Phase) -> f64) -> f64 {
    let mut values: Vec<f64> = phases.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(upper), 0) => f64::midpoint(values[middle - 1], *upper),
        (Some(value), _) => *value,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_of_sorted_values() {
        let phases = [3.0, 1.0, 2.0, 10.0].map(|cpu_us_per_task| Phase { cpu_us_per_task, ..Phase::default() });
        assert_eq!(median(&phases, |phase| phase.cpu_us_per_task), 2.5);
        assert_eq!(median(&phases[..3], |phase| phase.cpu_us_per_task), 2.0);
        assert_eq!(quantile(&[5, 1, 9], 0.5), 5.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a_total x\na_total_more 7\na_total 5\n";
        assert_eq!(value(text, "a_total"), 5);
    }
}
