//! Auditors that do not audit: lazy, lying and silent ones.

use super::measured::TOKENS;
use super::{COMPUTE, Cost, Row, SCORING, Setting, interval, round};
use crate::random::{Random, Use};
use ol_protocol::parameters::{AuditRule, Split};
use ol_protocol::record::Ruling;
use ol_protocol::verdict::Level;
use ol_protocol::{Epoch, Micros};
use ol_trust::judge::{Known, Votes};
use ol_trust::suspicion::ODDS_ONE;
use ol_trust::{Fault, Judgement, Suspicion, agrees, ruling};

/// Audits of each auditor.
const AUDITS: u64 = 1_000;

/// Chance that a byte made up lies within the steps of the honest one: twice what was measured between unrelated answers.
const GUESSED: f64 = 0.5;

/// Time that an auditor has, as in `core/roles/src/gateway/limits.rs`.
const AUDIT_LIMIT_S: f64 = 120.0;

/// Auditors that a gateway has at hand, and how many of them never answer.
const AUDITORS: usize = 20;
const SILENT: usize = 4;

/// What an auditor does instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auditor {
    Lazy,
    Lying,
    Griefing,
}

/// All of them.
pub(super) fn compare(setting: &Setting) -> Vec<Row> {
    [Auditor::Lazy, Auditor::Lying, Auditor::Griefing].map(|auditor| row(setting, auditor)).into()
}

// What became of one auditor's audits.
#[derive(Debug, Default)]
struct Life {
    paid: u64,
    again: u64,
    found: Option<u64>,
    wrongly_failed: u64,
    delay_s: f64,
}

/// One of them.
pub(super) fn row(setting: &Setting, auditor: Auditor) -> Row {
    let mut random = Random::new(setting.seed ^ (64 + auditor as u64) << 33, Use::Adversaries);
    let lives: Vec<Life> = (0..setting.operators).map(|_| live(setting, auditor, &mut random)).collect();
    let all = AUDITS * u64::from(setting.operators);
    // An audit's pay, and what it costs who computes: neither of these does.
    let pay = f64::from(AuditRule::DEFAULT.pay_bp) / f64::from(Split::DEFAULT.node_bp);
    let honest = pay - SCORING * COMPUTE;
    let incomes: Vec<f64> = lives.iter().map(|life| life.paid as f64 * pay / (honest * AUDITS as f64)).collect();
    let (income, income_95) = interval::mean(&incomes);
    let found: Vec<f64> = lives.iter().filter_map(|life| life.found).map(|at| at as f64).collect();
    let never = (lives.len() - found.len()) as u64;
    let share = interval::share(never, lives.len() as u64);
    let wrongly_failed = lives.iter().map(|life| life.wrongly_failed).sum();
    let of = |sum: u64| round(sum as f64 * 1e3 / all as f64);
    Row {
        adversary: auditor.name(),
        verifier: None,
        what: auditor.what(),
        gain_per_task: Some(round(SCORING * COMPUTE)),
        found_after_tasks_p50: None,
        found_after_audits_p50: interval::median(found),
        never_found_pct: Some(round(never as f64 * 100.0 / lives.len().max(1) as f64)),
        never_found_pct_interval_95: Some(share.map(|share| round(share * 100.0))),
        income_vs_honest: round(income),
        income_vs_honest_interval_95: income_95.map(round),
        profits: income_95[0] > 1.0,
        where_public: Vec::new(),
        cost_to_honest: Cost {
            audits_per_1000_tasks: of(lives.iter().map(|life| life.again).sum()),
            wrong_results_per_1000_tasks: 0.0,
            wrongly_failed: Some(wrongly_failed),
            wrongly_failed_ppm_max_95: Some(round(interval::poisson_max(wrongly_failed) * 1e6 / all as f64)),
            delay_s_mean: round(lives.iter().map(|life| life.delay_s).sum::<f64>() / all as f64),
        },
        limits: auditor.limits(),
    }
}

fn live(setting: &Setting, auditor: Auditor, random: &mut Random) -> Life {
    let mut life = Life::default();
    // How many audits go to others while it is not asked.
    let missed = auditor.left_out_s() * AUDITS / setting.span_s;
    let mut number = 1;
    while number <= AUDITS {
        let paid = match auditor {
            Auditor::Lazy => passes_unseen(random),
            Auditor::Lying => {
                life.wrongly_failed += u64::from(is_framed());
                false
            }
            Auditor::Griefing => {
                life.delay_s += waited(random);
                false
            }
        };
        life.paid += u64::from(paid);
        life.again += u64::from(!paid);
        life.found = life.found.or((!paid).then_some(number));
        number += if paid { 1 } else { 1 + missed };
    }
    life
}

// Whether bytes that nobody computed agree with the prover's: else the referee audits, and is the only one whose word ends it.
fn passes_unseen(random: &mut Random) -> bool {
    let tokens = TOKENS[random.below(TOKENS.len())];
    let prover = vec![0; tokens];
    let guessed: Vec<u8> = (0..tokens).map(|_| if random.happens(GUESSED) { 0 } else { u8::MAX }).collect();
    agrees(Level::CrossAudit, &prover, &guessed, 2)
}

// Whether an accusation of an honest node stands.
fn is_framed() -> bool {
    let known = Known {
        suspicion: Suspicion::NONE,
        is_accused: false,
        votes: Votes::default(),
        epoch: Epoch(1),
        epoch_length: Micros::from_secs(60),
    };
    let lie = Judgement::Failed(Fault::Margin { worst_micro: u32::MAX });
    let first = ruling(lie, Level::CrossAudit, &known);
    let accused = Known { is_accused: first == Some(Ruling::Accused), ..known };
    // What the referee measures of an honest answer.
    let last = ruling(Judgement::Fits { odds_micro: ODDS_ONE / 2 }, Level::Referee, &accused);
    last == Some(Ruling::Failed)
}

// Seconds that pass until somebody answers: auditors are asked in a drawn order, each once.
fn waited(random: &mut Random) -> f64 {
    // This audit was drawn for one of the silent.
    let (mut silent, mut others, mut waited) = (SILENT - 1, AUDITORS - 1, AUDIT_LIMIT_S);
    while silent > 0 && random.below(others) < silent {
        silent -= 1;
        others -= 1;
        waited += AUDIT_LIMIT_S;
    }
    waited
}

impl Auditor {
    const fn name(self) -> &'static str {
        match self {
            Self::Lazy => "lazy auditor",
            Self::Lying => "lying auditor",
            Self::Griefing => "griefing auditor",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Lazy => "Passes every result without computing, with log-probabilities that it makes up.",
            Self::Lying => "Says of every honest result that it is bad, without computing.",
            Self::Griefing => "Takes every audit and never answers.",
        }
    }

    // Seconds for which it is not asked once it was contradicted, or did not answer (docs/adr/0023).
    const fn left_out_s(self) -> u64 {
        match self {
            Self::Lazy | Self::Lying => 86_400,
            Self::Griefing => 3_600,
        }
    }

    const fn limits(self) -> &'static str {
        match self {
            Self::Lazy => {
                "Half of the made-up bytes are taken to be near; found means unpaid, and not asked for a day."
            }
            Self::Lying => {
                "The referee is honest and there is one; found means unpaid, and not asked for a day; each lie costs an audit more."
            }
            Self::Griefing => {
                "Four of twenty auditors are silent; no pay, and not asked for an hour. Settlement waits, the client does not."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(auditor: Auditor) -> Row {
        row(&Setting { operators: 30, ..Setting::new(5) }, auditor)
    }

    #[test]
    fn who_does_not_compute_is_not_paid() {
        for auditor in [Auditor::Lazy, Auditor::Lying, Auditor::Griefing] {
            let row = of(auditor);
            assert!(!row.profits && row.income_vs_honest < 0.01, "{row:?}");
            assert_eq!((row.found_after_audits_p50, row.never_found_pct), (Some(1.0), Some(0.0)));
        }
    }

    #[test]
    fn nobody_is_framed_by_an_auditor() {
        assert_eq!(of(Auditor::Lying).cost_to_honest.wrongly_failed, Some(0));
    }

    #[test]
    fn silence_delays_by_some_time_limits() {
        // 120 s, and again with chance 3 / 19 and less; but of a thousand audits it is asked for three.
        let delay = of(Auditor::Griefing).cost_to_honest.delay_s_mean;
        assert!((0.40..0.44).contains(&delay), "{delay}");
    }
}
