//! Gateways that audit less or more than their sealed secrets draw, found by whoever draws again.

use super::{COMPUTE, Cost, Row, SCORING, Setting, interval, round};
use crate::random::{Random, Use};
use ol_protocol::parameters::{AuditRule, Split};
use ol_protocol::{Digest, Epoch};
use ol_trust::Chance;
use ol_trust::draw::{drawn, seal, secret};

/// Batches of an epoch, and results of each.
const BATCHES: u32 = 8;
const RESULTS: u16 = 256;

/// What a gateway does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    Skipping,
    Excusing,
    Adding,
}

/// What the log says of one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Verdict,
    Unauditable,
}

/// All of them.
pub(super) fn compare(setting: &Setting) -> Vec<Row> {
    [Gateway::Skipping, Gateway::Excusing, Gateway::Adding].map(|gateway| row(setting, gateway)).into()
}

/// One of them.
pub(super) fn row(setting: &Setting, gateway: Gateway) -> Row {
    let mut random = Random::new(setting.seed ^ (96 + gateway as u64) << 33, Use::Adversaries);
    let chance = Chance::per_million(AuditRule::DEFAULT.rate_ppm);
    let epochs: Vec<Epochs> = (0..setting.operators).map(|_| check(gateway, chance, &mut random)).collect();
    let found: Vec<f64> = epochs.iter().filter_map(|epoch| epoch.found).map(|at| at as f64).collect();
    let never = (epochs.len() - found.len()) as u64;
    let results = f64::from(BATCHES) * f64::from(RESULTS);
    // Its share of the charges; what it saves is the referee's work, or what it takes is an auditor's pay.
    let of_pay = |bp: u16| f64::from(bp) / f64::from(Split::DEFAULT.node_bp);
    let share = of_pay(Split::DEFAULT.gateway_bp);
    let each = match gateway {
        Gateway::Skipping | Gateway::Excusing => SCORING * COMPUTE,
        Gateway::Adding => of_pay(AuditRule::DEFAULT.pay_bp),
    };
    let incomes: Vec<f64> =
        epochs.iter().map(|epoch| 1.0 + epoch.false_ones as f64 * each / (share * results)).collect();
    let (income, income_95) = interval::mean(&incomes);
    Row {
        adversary: gateway.name(),
        verifier: None,
        what: gateway.what(),
        gain_per_task: Some(round(each)),
        found_after_tasks_p50: None,
        found_after_audits_p50: interval::median(found),
        never_found_pct: Some(round(never as f64 * 100.0 / epochs.len().max(1) as f64)),
        never_found_pct_interval_95: Some(
            interval::share(never, epochs.len() as u64).map(|share| round(share * 100.0)),
        ),
        income_vs_honest: round(income),
        income_vs_honest_interval_95: income_95.map(round),
        profits: income_95[0] > 1.0,
        where_public: Vec::new(),
        cost_to_honest: Cost::NONE,
        limits: gateway.limits(),
    }
}

// An epoch, checked from outside.
struct Epochs {
    false_ones: u64,
    // Which of the drawn or stated audits gave it away, counted in the log's order.
    found: Option<u64>,
}

fn check(gateway: Gateway, chance: Chance, random: &mut Random) -> Epochs {
    let mut master = [0; 32];
    master.chunks_exact_mut(4).for_each(|bytes| bytes.copy_from_slice(&random.word().to_le_bytes()));
    let (of_epoch, sealed) = (secret(&master, Epoch(1)), seal(&secret(&master, Epoch(1))));
    let (mut audits, mut false_ones, mut found) = (0, 0, None);
    for batch in 0..BATCHES {
        let mut root = [0; 32];
        root[..4].copy_from_slice(&batch.to_le_bytes());
        root[4..8].copy_from_slice(&random.word().to_le_bytes());
        for leaf in 0..RESULTS {
            let is_drawn = drawn(&of_epoch, &Digest(root), leaf, chance);
            let said = gateway.says(is_drawn, chance, random);
            audits += u64::from(is_drawn || said != Said::Nothing);
            false_ones += u64::from(is_drawn != (said == Said::Verdict));
            // What `verify --log --draws` refuses: the revealed secret is the sealed one, and draws otherwise.
            let again = seal(&of_epoch) == sealed && drawn(&of_epoch, &Digest(root), leaf, chance);
            if again != (said != Said::Nothing) {
                found = found.or(Some(audits));
            }
        }
    }
    Epochs { false_ones, found }
}

impl Gateway {
    // What it writes of a result.
    fn says(self, is_drawn: bool, chance: Chance, random: &mut Random) -> Said {
        match (self, is_drawn) {
            (Self::Skipping, true) if random.happens(0.5) => Said::Nothing,
            (Self::Excusing, true) if random.happens(0.5) => Said::Unauditable,
            (Self::Adding, false) if chance.takes(random.word()) => Said::Verdict,
            (Self::Skipping | Self::Excusing | Self::Adding, true) => Said::Verdict,
            (Self::Skipping | Self::Excusing | Self::Adding, false) => Said::Nothing,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Skipping => "gateway that skips audits",
            Self::Excusing => "gateway that calls audits impossible",
            Self::Adding => "gateway that reports audits that were not drawn",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Skipping => "Has every second drawn result audited, and says nothing of the others.",
            Self::Excusing => "Has every second drawn result audited, and says that the others could not be.",
            Self::Adding => "Has a friend paid for as many audits again as were drawn.",
        }
    }

    const fn limits(self) -> &'static str {
        match self {
            Self::Skipping => {
                "Found means named by verify --draws, a day later, if anybody runs it: no sanction follows. Its owner runs the referee."
            }
            Self::Excusing => {
                "Such records are shown by verify --draws and refused by nobody; how many are too many is left to the reader."
            }
            Self::Adding => "Found means named by verify --draws, if anybody runs it: no sanction follows.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gateway: Gateway) -> Row {
        row(&Setting { operators: 100, ..Setting::new(4) }, gateway)
    }

    #[test]
    fn what_is_skipped_or_added_is_seen_by_who_draws_again_and_excuses_are_not() {
        assert!(of(Gateway::Skipping).never_found_pct_interval_95.is_some_and(|[_, high]| high < 5.0));
        assert!(of(Gateway::Adding).never_found_pct_interval_95.is_some_and(|[_, high]| high < 5.0));
        assert_eq!(of(Gateway::Excusing).never_found_pct, Some(100.0));
    }
}
