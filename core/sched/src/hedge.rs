//! Second attempts: when one is late, and how many there may be.
//!
//! An attempt is late when it takes longer than nearly all do, of what was predicted for it. A second one then begins on
//! another node; who brings the next token first goes on. A share of all work is the most that may be done twice: where
//! everything is late, more work makes it later.
//!
//! Source: J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013, for waiting as long as most requests take
//! before the second is sent; H. Robbins, S. Monro, "A Stochastic Approximation Method", Ann. Math. Statist. 22(3), 1951,
//! for following a quantile without keeping samples.

use ol_protocol::Micros;

/// What a task earns for second attempts: one part in so many of the time that it takes.
const SHARE: u64 = 25;
/// The most that is saved up, in time of a usual node: a node with all its slots dies, or many slow down at once.
const SAVED_MAX: Micros = Micros::from_secs(60);
/// What a gateway begins with: nodes that nobody measured are late more often.
const SAVED_FIRST: Micros = Micros::from_secs(20);

/// One task in so many may go first to a node that nobody measured; so many are saved up, for nodes that come all at once.
const TRIAL_ONE_IN: u64 = 10;
const TRIALS_SAVED_MAX: u64 = 100;

/// One attempt in so many may count as late.
const LATE_ONE_IN: u64 = 50;
/// How far one observation moves the limit: one part in so many.
const STEP: u64 = 20;
/// The limit's bounds and what it begins with, in thousandths of what was predicted.
const MILLI_MIN: u64 = 1_500;
const MILLI_FIRST: u64 = 3_000;
const MILLI_MAX: u64 = 20_000;
/// What is never late: a machine's pause, or a packet that was sent twice.
const PAUSE: Micros = Micros::from_millis(100);

/// How much may be computed twice, in time of a usual node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    saved: Micros,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { saved: SAVED_FIRST }
    }
}

impl Allowance {
    /// A task began that usually takes so long.
    pub fn earn(&mut self, work: Micros) {
        self.saved = self.saved.saturating_add(Micros(work.0 / SHARE)).min(SAVED_MAX);
    }

    /// Whether so much may be computed twice now.
    pub fn has(&self, work: Micros) -> bool {
        self.saved > work
    }

    /// So much is computed twice.
    pub fn spend(&mut self, work: Micros) {
        self.saved = Micros(self.saved.0.saturating_sub(work.0));
    }
}

/// How many tasks may go first to nodes that nobody measured. Keys are free: without a limit strangers could have every task once, and
/// do nothing with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trials {
    saved: u64,
}

impl Default for Trials {
    fn default() -> Self {
        Self { saved: TRIALS_SAVED_MAX * TRIAL_ONE_IN }
    }
}

impl Trials {
    /// A task began.
    pub fn earn(&mut self) {
        self.saved = (self.saved + 1).min(TRIALS_SAVED_MAX * TRIAL_ONE_IN);
    }

    /// Whether another node may be tried.
    pub fn has(&self) -> bool {
        self.saved >= TRIAL_ONE_IN
    }

    /// A node is tried.
    pub fn spend(&mut self) {
        self.saved = self.saved.saturating_sub(TRIAL_ONE_IN);
    }
}

/// When an attempt is late, learned from all attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lateness {
    milli: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { milli: MILLI_FIRST }
    }
}

impl Lateness {
    /// After how long without a token an attempt is late that was predicted to begin after `begin`.
    pub fn after(&self, begin: Micros) -> Micros {
        Micros(begin.0.saturating_mul(self.milli) / 1_000).saturating_add(PAUSE)
    }

    /// An attempt began in time.
    pub fn in_time(&mut self) {
        self.milli = (self.milli - self.milli / (STEP * LATE_ONE_IN)).max(MILLI_MIN);
    }

    /// An attempt was late.
    pub fn late(&mut self) {
        self.milli = (self.milli + self.milli / STEP * (LATE_ONE_IN - 1) / LATE_ONE_IN).min(MILLI_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twenty_fifth_of_all_work_may_be_done_twice() {
        let mut allowance = Allowance::default();
        let mut twice = 0;
        for _ in 0..10_000 {
            allowance.earn(Micros::from_secs(1));
            while allowance.has(Micros(100_000)) {
                allowance.spend(Micros(100_000));
                twice += 100_000;
            }
        }
        assert!((20_000_000 + 400_000_000_u64).abs_diff(twice) <= 100_000, "{twice}");
    }

    #[test]
    fn a_burst_is_bounded() {
        let mut allowance = Allowance::default();
        (0..1_000_000).for_each(|_| allowance.earn(Micros::from_secs(1)));
        assert!(allowance.has(Micros(SAVED_MAX.0 - 1)) && !allowance.has(SAVED_MAX));
        allowance.spend(Micros(u64::MAX));
        assert!(!allowance.has(Micros(0)));
    }

    #[test]
    fn one_task_in_ten_may_go_to_a_stranger() {
        let mut trials = Trials::default();
        let mut tried = 0;
        for _ in 0..10_000 {
            trials.earn();
            if trials.has() {
                trials.spend();
                tried += 1;
            }
        }
        assert_eq!(tried, 1_099, "the first is earned when all is saved up");
    }

    #[test]
    fn the_limit_settles_where_one_in_fifty_is_late() {
        let mut lateness = Lateness::default();
        // Times from 0 to 10 times the prediction, each as likely: the 98th percentile is 9.8 times.
        let mut late = 0;
        for index in 0..200_000_u64 {
            let took = index * 7_919 % 10_000;
            if took > lateness.milli {
                lateness.late();
                late += u64::from(index >= 100_000);
            } else {
                lateness.in_time();
            }
        }
        assert!(lateness.milli.abs_diff(9_800) < 600, "{lateness:?}");
        assert!(late.abs_diff(2_000) < 400, "{late}");
    }

    #[test]
    fn the_limit_has_bounds() {
        let mut lateness = Lateness::default();
        (0..100_000).for_each(|_| lateness.in_time());
        assert_eq!(lateness.after(Micros::from_secs(1)), Micros(1_600_000));
        (0..100_000).for_each(|_| lateness.late());
        assert_eq!(lateness.after(Micros::from_secs(1)), Micros(20_100_000));
        assert!(lateness.after(Micros(u64::MAX)) >= Micros(u64::MAX / 1_000));
    }
}
