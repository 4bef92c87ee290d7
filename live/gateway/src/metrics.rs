//! Counters and histograms of the HTTP side, as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds: from a relayed token to a long answer.
const BOUNDS_US: [u64; 14] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
];

/// What the HTTP side counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Requests by route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Refusals of the limits that no tenant agreed on, by limit.
    limited: Mutex<BTreeMap<&'static str, u64>>,
    /// From the request's arrival to the end of its response.
    pub(crate) duration: Histogram,
    /// From the request's arrival to the first token.
    pub(crate) first_token: Histogram,
    /// Between tokens, averaged over an answer.
    pub(crate) per_token: Histogram,
    /// Tokens of prompts.
    pub(crate) input_tokens: AtomicU64,
    /// Tokens of answers.
    pub(crate) output_tokens: AtomicU64,
    /// Tasks under way.
    pub(crate) running: AtomicU64,
    /// Connections open.
    pub(crate) connections: AtomicU64,
}

/// Durations in buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(at) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        let mut below = 0;
        for (bound, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", *bound as f64 / 1e6)?;
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}")
    }
}

impl Metrics {
    /// Counts a response.
    pub(crate) fn answered(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    /// Counts a refusal by a limit.
    pub(crate) fn refused(&self, limit: &'static str) {
        *self.limited.lock().unwrap_or_else(PoisonError::into_inner).entry(limit).or_default() += 1;
    }

    /// Everything as Prometheus text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::with_capacity(8 << 10);
        self.write(&mut out).expect("a string takes all text");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let name = "openledger_http_requests_total";
        writeln!(out, "# HELP {name} HTTP responses by route and status.\n# TYPE {name} counter")?;
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(out, "{name}{{route=\"{route}\",status=\"{status}\"}} {count}")?;
        }
        let name = "openledger_http_limited_total";
        writeln!(out, "# HELP {name} Refusals by limits on reading the log and receipts.\n# TYPE {name} counter")?;
        for (limit, count) in self.limited.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(out, "{name}{{limit=\"{limit}\"}} {count}")?;
        }
        let name = "openledger_tokens_total";
        writeln!(out, "# HELP {name} Tokens of finished tasks.\n# TYPE {name} counter")?;
        for (kind, count) in [("input", &self.input_tokens), ("output", &self.output_tokens)] {
            writeln!(out, "{name}{{gen_ai_token_type=\"{kind}\"}} {}", count.load(Ordering::Relaxed))?;
        }
        for (name, help, gauge) in [
            ("openledger_http_connections", "Connections open.", &self.connections),
            ("openledger_http_tasks_running", "Tasks under way.", &self.running),
        ] {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}", gauge.load(Ordering::Relaxed))?;
        }
        let duration = "gen_ai_server_request_duration_seconds";
        self.duration.write(duration, "Arrival of a request to the end of its answer.", out)?;
        let first = "gen_ai_server_time_to_first_token_seconds";
        self.first_token.write(first, "Arrival of a request to its first token.", out)?;
        let rest = "gen_ai_server_time_per_output_token_seconds";
        self.per_token.write(rest, "Time for each token after the first.", out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_cumulatively() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_secs(500));
        let mut out = String::new();
        histogram.write("x", "Help.", &mut out).unwrap();
        assert!(
            out.starts_with(
                "# HELP x Help.\n# TYPE x histogram\nx_bucket{le=\"0.001\"} 0\nx_bucket{le=\"0.0025\"} 1\n"
            )
        );
        assert!(out.ends_with("x_bucket{le=\"120\"} 1\nx_bucket{le=\"+Inf\"} 2\nx_sum 500.002\nx_count 2\n"));
    }
}
