//! How much the audits of a node, taken together, speak against it: an e-process in integers.
//!
//! Tokens within an answer depend on each other, so an answer is one observation: the bin of its mean margin. How much
//! likelier the bin is with a cheat than with an honest node are its odds; by the honest distribution they are 1 in the mean, or less.
//! A bet that starts with w and is multiplied by the odds of each answer grows beyond w x with chance 1 / x at most,
//! however long one waits, if the node is honest (Ville's inequality). Bets are opened at every answer, with weights that add up to 1, so
//! that a node that turns late is found as well as one that cheats from its first day: 1 / n (n + 1) for answer number n of a month.
//! Each is made three times: against who cheats always, in an eighth, and in a sixty-fourth of its answers.
//!
//! Sources: Ville 1939; mixtures over starting times as in Shin, Ramdas and Rinaldo, "E-detectors" (arXiv 2203.03532).

use ol_protocol::bytes::{self, Reader, Writer};
use ol_protocol::calibration::{BINS, Calibration, Counts, LENGTHS};
use ol_protocol::{Epoch, Micros};

/// One, in the fixed-point numbers of bets: 32 bits after the point.
const ONE: u64 = 1 << 32;

/// One, in the fixed-point numbers of odds.
pub const ODDS_ONE: u64 = 1_000_000;

/// What the bets have to grow to until the node is found to cheat: an honest one in a thousand gets there in a month.
const CONVICTING: u64 = 1_000;

/// What they have to grow to until all of the node's results are audited: an honest one in twenty gets there in a month.
const WATCHED: u64 = 20;

/// Halvings of the share of answers that each bet takes to be cheated.
const SHARES: [u32; 3] = [0, 3, 6];

/// Length of a month, after which evidence is too old: every node begins anew.
const MONTH: Micros = Micros::from_secs(30 * 86_400);

/// How much likelier each bin of each class of lengths is with a cheat than with an honest node, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odds([[u64; BINS]; LENGTHS]);

impl Odds {
    /// Nothing speaks against anyone.
    pub const NONE: Self = Self([[0; BINS]; LENGTHS]);

    /// From measured answers. The honest share of a bin is taken from above: no sampling settings have more of it, but once in a
    /// thousand measurements. Of a length that was not measured with all settings, answers say nothing: their odds are 1.
    pub fn new(calibration: &Calibration) -> Self {
        Self(calibration.lengths.map(|counts| core::array::from_fn(|bin| odds(&counts, bin))))
    }

    /// The odds of one answer, in millionths.
    pub const fn of(&self, length_class: usize, bin: usize) -> u64 {
        self.0[length_class][bin]
    }
}

fn odds(counts: &Counts, bin: usize) -> u64 {
    if counts.honest.iter().any(|honest| honest.iter().all(|count| *count == 0)) {
        return ODDS_ONE;
    }
    let cheats: u64 = counts.cheats.iter().map(|count| u64::from(*count)).sum();
    // Half an answer more in each bin than there were: none is impossible.
    let (of_cheats, whole) = (2 * u64::from(counts.cheats[bin]) + 1, 2 * cheats + BINS as u64);
    let by_settings = counts.honest.iter().map(|honest| {
        let answers: u64 = honest.iter().map(|count| u64::from(*count)).sum();
        let most = at_most(honest[bin].into()).min(answers).max(1);
        u128::from(of_cheats) * u128::from(answers * ODDS_ONE) / (u128::from(whole) * u128::from(most))
    });
    u64::try_from(by_settings.min().unwrap_or(0)).unwrap_or(u64::MAX)
}

/// The mean of a Poisson number that is `seen` or less with chance 1 / 1,000 at most: 7 for none, else some 3.25 standard deviations
/// above.
const fn at_most(seen: u64) -> u64 {
    seen + (169 * seen).isqrt().div_ceil(4) + 7
}

/// The bets against a node in a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suspicion {
    // One for each of `SHARES`.
    bets: [u64; SHARES.len()],
    answers: u32,
    month: u64,
}

impl Suspicion {
    /// Nothing is known.
    pub const NONE: Self = Self { bets: [0; SHARES.len()], answers: 0, month: 0 };

    /// After one more answer with these odds, in millionths.
    pub fn after(self, odds_micro: u64, epoch: Epoch, epoch_length: Micros) -> Self {
        let month = epoch.0.saturating_mul(epoch_length.0) / MONTH.0;
        let Self { mut bets, answers, .. } = if month == self.month { self } else { Self::default() };
        let number = u64::from(answers) + 1;
        let new = u128::from(ONE / (number * (number + 1)).max(1));
        for (bet, halvings) in bets.iter_mut().zip(SHARES) {
            let factor = ODDS_ONE - (ODDS_ONE >> halvings) + (odds_micro >> halvings);
            let grown = (u128::from(*bet) + new) * u128::from(factor) / u128::from(ODDS_ONE);
            *bet = u64::try_from(grown).unwrap_or(u64::MAX);
        }
        Self { bets, answers: answers.saturating_add(1), month }
    }

    /// Whether an honest node gets here in one month of a thousand at most.
    pub fn convicts(&self) -> bool {
        self.worth() >= CONVICTING * ONE
    }

    /// Whether all of its results are audited.
    pub fn is_watched(&self) -> bool {
        self.worth() >= WATCHED * ONE
    }

    /// What the bets against it grew to, each begun with a third: how much likelier the answers are with a cheat. 0 and above.
    pub fn against(&self) -> f64 {
        self.worth() as f64 / ONE as f64
    }

    fn worth(&self) -> u64 {
        self.bets.iter().map(|bet| bet / SHARES.len() as u64).fold(0, u64::saturating_add)
    }

    /// Writes its canonical bytes.
    pub fn write(&self, w: &mut Writer) {
        for bet in self.bets {
            w.u64(bet);
        }
        w.u32(self.answers).u64(self.month);
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, bytes::Error> {
        Ok(Self { bets: [r.u64()?, r.u64()?, r.u64()?], answers: r.u32()?, month: r.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use ol_protocol::calibration::SETTINGS;
    use ol_protocol::key::Signature;
    use ol_protocol::{NetworkId, NodeId, Timestamp, VariantId};
    use proptest::prelude::*;

    const EPOCH: Micros = Micros::from_secs(60);

    fn calibration(honest: [[u32; BINS]; SETTINGS], cheats: [u32; BINS]) -> Calibration {
        Calibration {
            network: NetworkId([1; 32]),
            referee: NodeId([2; 32]),
            prover: VariantId([3; 32]),
            verifier: VariantId([4; 32]),
            measured_at: Timestamp(5),
            tolerance_micro: 6,
            log_prob_steps: 2,
            lengths: [Counts { honest, cheats }; LENGTHS],
            signature: Signature([0; 64]),
        }
    }

    fn exact(answers: u32) -> Odds {
        let honest = [answers, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Odds::new(&calibration([honest; SETTINGS], [0, 0, 0, 0, 0, 0, 50, 50, 50, 50]))
    }

    fn through(odds: impl IntoIterator<Item = u64>) -> Suspicion {
        odds.into_iter().fold(Suspicion::default(), |bets, odds| bets.after(odds, Epoch(1), EPOCH))
    }

    // Answers in a row until a node is convicted.
    fn answers_until(odds: impl IntoIterator<Item = u64>) -> Option<usize> {
        let mut bets = Suspicion::default();
        odds.into_iter().position(|odds| {
            bets = bets.after(odds, Epoch(1), EPOCH);
            bets.convicts()
        })
    }

    #[test]
    fn the_bound_on_a_count_is_one() {
        // Poisson's distribution function, summed by its own recursion.
        for seen in (0..60).chain([100, 300, 1_000, 5_000]) {
            let mean = at_most(seen) as f64;
            let mut log_term = -mean;
            let mut chance = libm::exp(log_term);
            for k in 1..=seen {
                log_term += libm::log(mean / k as f64);
                chance += libm::exp(log_term);
            }
            assert!(chance <= 1e-3, "{seen}: {chance}");
        }
    }

    #[test]
    fn a_full_cheat_is_convicted_by_its_second_answer_and_an_honest_node_is_not() {
        let odds = exact(3_000);
        assert!(odds.of(1, 0) < ODDS_ONE && odds.of(1, 7) > 50 * ODDS_ONE);
        assert_eq!(answers_until([odds.of(1, 7); 5]), Some(1));
        let honest = through([odds.of(1, 0); 10_000]);
        assert!(!honest.is_watched() && honest.against() < 0.1, "{}", honest.against());
    }

    #[test]
    fn one_bad_answer_is_watched_and_few_measured_answers_prove_less() {
        assert!(through([exact(3_000).of(2, 8)]).is_watched());
        let until = |answers| answers_until([exact(answers).of(2, 8); 50]).unwrap();
        assert!(until(100) > until(1_000) && until(1_000) > until(10_000));
        assert!(!through([exact(0).of(2, 8); 1_000]).is_watched(), "nothing was measured");
    }

    #[test]
    fn who_turns_late_or_cheats_seldom_is_found_too() {
        let odds = exact(30_000);
        let sleeper = core::iter::repeat_n(odds.of(2, 0), 1_000).chain([odds.of(2, 8); 9]);
        assert!(answers_until(sleeper).is_some_and(|at| at < 1_006));
        let seldom = (0..5_000).map(|at| odds.of(2, if at % 64 == 63 { 8 } else { 0 }));
        assert!(answers_until(seldom).is_some_and(|at| at < 64 * 20));
    }

    #[test]
    fn settings_that_were_not_measured_say_nothing() {
        let mut honest = [[3_000, 0, 0, 0, 0, 0, 0, 0, 0, 0]; SETTINGS];
        honest[1] = [0; BINS];
        let odds = Odds::new(&calibration(honest, [0, 0, 0, 0, 0, 0, 0, 0, 0, 900]));
        assert!((0..BINS).all(|bin| odds.of(0, bin) == ODDS_ONE));
    }

    #[test]
    fn a_month_begins_anew() {
        let old = through([exact(3_000).of(1, 7)]);
        let later = Epoch(MONTH.0 / EPOCH.0 + 1);
        let new = old.after(ODDS_ONE, later, EPOCH);
        assert!(old.is_watched() && !new.is_watched());
        assert_eq!(new, Suspicion::default().after(ODDS_ONE, later, EPOCH));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn odds_are_fair_by_every_distribution_within_the_bounds(
            honest in prop::array::uniform3(prop::array::uniform10(0..4_000u32)),
            cheats in prop::array::uniform10(0..500u32),
        ) {
            // The share of each bin as it was seen: the mean of the odds is 1 at most.
            let odds = Odds::new(&calibration(honest, cheats));
            for settings in honest {
                let answers: u64 = settings.iter().map(|count| u64::from(*count)).sum();
                let mean: u128 = settings.iter().enumerate()
                    .map(|(bin, count)| u128::from(*count) * u128::from(odds.of(0, bin))).sum();
                prop_assert!(mean <= u128::from(answers) * u128::from(ODDS_ONE), "{mean} of {answers}");
            }
        }

        #[test]
        fn a_bet_grows_with_the_odds(odds in prop::collection::vec(0..5_000_000u64, 1..40), more in 1..1_000_000u64) {
            let higher: Vec<u64> = odds.iter().map(|odds| odds + more).collect();
            prop_assert!(through(higher).worth() >= through(odds).worth());
        }
    }
}
