//! Adversaries side by side: what each gains, when it is found, what honest ones pay for it, and whether it profits.
//!
//! Each is a policy in code against the gateways' own rules: draws by a node's standing, bets by measured odds, rulings by auditor
//! and referee, the breaker's quarantine, pay in escrow. Money is in parts of what a node is paid for an honest task. A row says
//! that an adversary profits if its income is above an honest node's with 95 % confidence; nothing is claimed for other adversaries.

mod answers;
mod auditors;
mod cheat;
mod gateway;
pub mod interval;
mod measured;
mod service;

pub use measured::Verifier;

use serde::Serialize;

/// What an honest node spends on a task: the rest is what it works for.
///
/// Source: the honesty inequality's own example, in which who computes nothing gains 0.7 of the price.
const COMPUTE: f64 = 0.7;

/// What scoring as far as a draw reaches costs, as a share of computing the answer, where eight are computed together (docs/bench/2026-11-prefixes.md).
const SCORING: f64 = 0.43;

/// How much is simulated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Decides everything that is random.
    pub seed: u64,
    /// Operators of each adversary.
    pub operators: u32,
    /// Honest ones.
    pub honest: u32,
    /// How long each works, in simulated seconds.
    pub span_s: u64,
}

impl Setting {
    /// 5,000 tasks of each operator: enough for a sleeper to be found, and for what it gained before to count.
    pub fn new(seed: u64) -> Self {
        Self { seed, operators: 300, honest: 2_000, span_s: 10_000 }
    }
}

/// What came of one adversary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Who.
    pub adversary: &'static str,
    /// Who audits its answers, where it gives any.
    pub verifier: Option<Verifier>,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// What one cheated task brings over an honest one if it stands, of an honest task's pay.
    pub gain_per_task: Option<f64>,
    /// Median over those that were found: tasks since it began, the first cheated one included.
    pub found_after_tasks_p50: Option<f64>,
    /// The same of audits.
    pub found_after_audits_p50: Option<f64>,
    /// Those that were never found, of those that began.
    pub never_found_pct: Option<f64>,
    /// Interval of 95 % of the same, by Clopper and Pearson.
    pub never_found_pct_interval_95: Option<[f64; 2]>,
    /// Income as a share of what an honest operator earns in the same time.
    pub income_vs_honest: f64,
    /// Interval of 95 % of its mean.
    pub income_vs_honest_interval_95: [f64; 2],
    /// Whether all of that interval is above 1.
    pub profits: bool,
    /// The same where a share of the tasks may become public, so that some of its faults take its escrow. Empty for who gives no answers.
    pub where_public: Vec<WherePublic>,
    /// What others pay for it.
    pub cost_to_honest: Cost,
    /// What is assumed, and what is not modelled.
    pub limits: &'static str,
}

/// What an adversary has where tasks may become public.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WherePublic {
    /// Share of the tasks.
    pub share: f64,
    /// Income as a share of what an honest operator earns in the same time.
    pub income_vs_honest: f64,
    /// Interval of 95 % of its mean.
    pub income_vs_honest_interval_95: [f64; 2],
    /// Whether all of that interval is above 1.
    pub profits: bool,
}

/// What an adversary costs those who are honest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Audits of a thousand of its tasks, the referee's included; for auditors, audits done again of a thousand.
    pub audits_per_1000_tasks: f64,
    /// Wrong results of a thousand that did not fail.
    pub wrong_results_per_1000_tasks: f64,
    /// Honest results that failed.
    pub wrongly_failed: Option<u64>,
    /// Upper bound of 95 % of the same, in a million results.
    pub wrongly_failed_ppm_max_95: Option<f64>,
    /// How much later an honest node's result is settled, or a client served, in the mean.
    pub delay_s_mean: f64,
}

impl Cost {
    /// Nothing.
    const NONE: Self = Self {
        audits_per_1000_tasks: 0.0,
        wrong_results_per_1000_tasks: 0.0,
        wrongly_failed: None,
        wrongly_failed_ppm_max_95: None,
        delay_s_mean: 0.0,
    };
}

/// How far it is: done and in all.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// All of them, the honest first. Under a minute in release builds.
pub fn compare(setting: &Setting, progress: &mut Progress<'_>) -> Vec<Row> {
    let others: [fn(&Setting) -> Vec<Row>; 3] = [auditors::compare, service::compare, gateway::compare];
    let all = (2 * cheat::Cheat::ALL.len() + others.len()) as u64;
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, all);
    };
    let mut rows = answers::compare(setting, &mut step);
    for compare in others {
        rows.extend(compare(setting));
        step();
    }
    rows
}

fn round(value: f64) -> f64 {
    libm::round(value * 1e3) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_table() {
        let setting = Setting { operators: 3, honest: 3, span_s: 600, ..Setting::new(1) };
        let rows = |seed| compare(&Setting { seed, ..setting.clone() }, &mut |_, _| {});
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
        assert_eq!(rows(1)[0].adversary, "honest");
    }
}
