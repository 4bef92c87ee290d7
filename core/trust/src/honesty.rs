//! When honesty pays: the inequality between what a cheat gains and what it risks, for people; and what escrow it asks for, in whole numbers,
//! for settlement.

use crate::policy::floors;
use ol_protocol::calibration::{Counts, LENGTHS};
use ol_protocol::parameters::Parameters;

const MILLION: u128 = 1_000_000;

/// What a cheated task is taken to bring over an honest one, in millionths of its price: what computing it costs.
const GAIN_PPM: u128 = 700_000;

/// How many auditors are taken not to collude with a node, in millionths.
const HONEST_PPM: u128 = 800_000;

/// The share of tasks of the network's own, in millionths, where tenants let nothing become public: it costs as many millionths of all computation, and
/// fewer would ask for more escrow than [`HELD_TIMES`].
pub const OWN_PPM: u32 = 1_000;

/// Pay is held for at most so many times the tasks that the rule says. Where that isn't enough, it deters as far as it goes.
const HELD_TIMES: u32 = 10;

/// The chance that a task that evidence could take no escrow for is followed by one of the network's own, in millionths, if `open_ppm` of the last results
/// can take escrow: their share comes to [`OWN_PPM`] where tenants let nothing become public, and none are made where twice that is public.
pub const fn own_chance_ppm(open_ppm: u32) -> u32 {
    (2 * OWN_PPM).saturating_sub(open_ppm)
}

/// After how many later tasks of its node pay is released so that honesty pays: as the rule says, and more where what can become public is so rare that the
/// inequality asks for more. `open_ppm` of the results can take escrow, and audits see `seen_ppm` of a million cheats.
///
/// Source: [`Stakes::stake_needed`], for a node whose every task pays its share of the same price.
pub fn held_tasks(parameters: &Parameters, open_ppm: u32, seen_ppm: u32) -> u32 {
    let Parameters { audit, escrow, split, .. } = parameters;
    // Where nothing becomes public, holding more would deter nobody.
    if !audit.deterrent || open_ppm < OWN_PPM / 8 || split.node_bp == 0 {
        return escrow.tasks;
    }
    let drawn = u128::from(open_ppm) * u128::from(floors(audit.rate_ppm, open_ppm).public);
    let lost = drawn * u128::from(seen_ppm) * HONEST_PPM / MILLION;
    // The gain is in 10^-6, what is lost in 10^-18, and a node's share of a price in 10^-4.
    let stake_ppm = if lost == 0 { u128::MAX } else { (GAIN_PPM * MILLION.pow(3)).div_ceil(lost) };
    let needed = stake_ppm.saturating_sub(GAIN_PPM).div_ceil(u128::from(split.node_bp) * MILLION / 10_000);
    let most = escrow.tasks.saturating_mul(HELD_TIMES);
    u32::try_from(needed).unwrap_or(u32::MAX).clamp(escrow.tasks, most)
}

/// What is at stake for who cheats in one task. Money in prices of a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stakes {
    /// What a cheated task brings over an honest one if it stands.
    pub gain: f64,
    /// Chance that a task is audited.
    pub rate: f64,
    /// Chance that an audit of a cheated task sees it and is believed.
    pub detection: f64,
    /// Chance that the loss follows once it is seen.
    pub certainty: f64,
    /// What is lost then.
    pub stake: f64,
}

impl Stakes {
    /// The least rate of audits at which cheating does not pay: `gain / (detection certainty (stake + gain))`. Above 1, or infinite, where none
    /// is enough.
    ///
    /// Source: cheating a task at a time gains `gain` in it and loses `stake + gain` with chance `rate detection certainty`.
    pub fn rate_needed(&self) -> f64 {
        self.gain / (self.detection * self.certainty * (self.stake + self.gain))
    }

    /// How many times the rate is what is needed: honesty pays above 1.
    pub fn margin(&self) -> f64 {
        self.rate / self.rate_needed()
    }

    /// The least stake at which cheating does not pay at the rate there is.
    pub fn stake_needed(&self) -> f64 {
        self.gain / (self.rate * self.detection * self.certainty) - self.gain
    }
}

/// Of the faults that are found at an unblemished node, the share whose results may become public, if so many of a million results may.
pub fn public_share_of_faults(rate_ppm: u32, public_ppm: u32) -> f64 {
    let drawn = f64::from(public_ppm) / 1e6 * f64::from(floors(rate_ppm, public_ppm).public);
    if rate_ppm == 0 { 0.0 } else { drawn / f64::from(rate_ppm) }
}

/// The share of a calibration's cheats that lie where no honest answer did, among answers of 32 to 127 tokens, or of the longest that were
/// measured. `None` where no cheat was measured, or only vectors were: evidence about those takes no escrow.
pub fn detection(lengths: &[Counts; LENGTHS]) -> Option<f64> {
    seen_ppm(lengths).map(|ppm| f64::from(ppm) / 1e6)
}

/// [`detection`] in millionths.
pub fn seen_ppm(lengths: &[Counts; LENGTHS]) -> Option<u32> {
    const USUAL: usize = 2;
    let of = |counts: &Counts| {
        let all: u64 = counts.cheats.iter().copied().map(u64::from).sum();
        let is_honest = |bin: usize| counts.honest.iter().any(|settings| settings[bin] > 0);
        let seen = counts.cheats.iter().enumerate().filter(|(bin, _)| !is_honest(*bin));
        let seen: u64 = seen.map(|(_, n)| u64::from(*n)).sum();
        (seen * 1_000_000).checked_div(all).and_then(|ppm| u32::try_from(ppm).ok())
    };
    // Vectors are all in the first class.
    of(&lengths[USUAL]).or_else(|| lengths[1..].iter().rev().find_map(of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::calibration::SETTINGS;

    const STAKES: Stakes = Stakes { gain: 0.7, rate: 0.01, detection: 0.95, certainty: 1.0, stake: 102.0 };

    #[test]
    fn the_rate_and_the_stake_that_are_needed_are_where_cheating_neither_gains_nor_loses() {
        let balance = |s: &Stakes| s.gain - s.rate * s.detection * s.certainty * (s.stake + s.gain);
        assert!(balance(&Stakes { rate: STAKES.rate_needed(), ..STAKES }).abs() < 1e-12);
        assert!(balance(&Stakes { stake: STAKES.stake_needed(), ..STAKES }).abs() < 1e-12);
        assert!(STAKES.margin() > 1.0 && balance(&STAKES) < 0.0);
        let private = Stakes { certainty: 0.0, ..STAKES };
        assert_eq!((private.rate_needed(), private.margin()), (f64::INFINITY, 0.0));
    }

    #[test]
    fn most_faults_are_public_where_few_results_are() {
        assert_eq!(public_share_of_faults(10_000, 0), 0.0);
        assert!((public_share_of_faults(10_000, 20_000) - 0.755).abs() < 1e-3);
        assert!((public_share_of_faults(10_000, 1_000) - 0.1).abs() < 1e-3);
        assert!((public_share_of_faults(10_000, 1_000_000) - 1.0).abs() < 1e-9);
        assert_eq!(public_share_of_faults(0, 20_000), 0.0);
    }

    fn held(open_ppm: u32, seen_ppm: u32) -> u32 {
        held_tasks(&Parameters::DEFAULT, open_ppm, seen_ppm)
    }

    #[test]
    fn pay_is_held_for_as_many_tasks_as_honesty_needs() {
        // Where a fiftieth is public, what docs/adr/0020 says is enough; where a thousandth is, 1,023 prices are needed.
        assert_eq!([20_000, 10_000, OWN_PPM, OWN_PPM / 8].map(|open| held(open, 855_000)), [180, 180, 1_204, 1_800]);
        let share = f64::from(Parameters::DEFAULT.split.node_bp) / 1e4;
        for open_ppm in [700, 1_000, 2_000, 3_000] {
            let public = f64::from(floors(10_000, open_ppm).public) / 1e6;
            let rate = f64::from(open_ppm) / 1e6 * public;
            let stakes = |tasks: u32| Stakes {
                gain: 0.7,
                rate,
                detection: 0.855 * 0.8,
                certainty: 1.0,
                stake: f64::from(tasks) * share,
            };
            let tasks = held(open_ppm, 855_000);
            assert!(stakes(tasks).margin() >= 1.0 && stakes(tasks - 1).margin() < 1.0, "{open_ppm}: {tasks}");
        }
        // Worse detection asks for more; where nothing is public, or nobody wants it, more would be held for nothing.
        assert_eq!((held(OWN_PPM, 700_000), held(OWN_PPM, 0)), (1_470, 1_800));
        assert_eq!((held(0, 855_000), held(OWN_PPM / 8 - 1, 855_000)), (180, 180));
        let mut plain = Parameters::DEFAULT;
        plain.audit.deterrent = false;
        assert_eq!(held_tasks(&plain, OWN_PPM, 855_000), 180);
    }

    #[test]
    fn own_tasks_give_way_to_what_tenants_let_become_public() {
        assert_eq!([0, OWN_PPM, 2 * OWN_PPM, u32::MAX].map(own_chance_ppm), [2_000, 1_000, 0, 0]);
    }

    #[test]
    fn cheats_are_seen_where_no_honest_answer_was() {
        let honest = [[9, 1, 0, 0, 0, 0, 0, 0, 0, 0]; SETTINGS];
        let mut lengths = [Counts::default(); LENGTHS];
        assert_eq!(detection(&lengths), None);
        lengths[1] = Counts { honest, cheats: [2, 2, 0, 0, 0, 0, 0, 0, 0, 4] };
        assert_eq!(detection(&lengths), Some(0.5));
        lengths[2] = Counts { honest, cheats: [1, 0, 0, 0, 0, 0, 0, 0, 0, 3] };
        assert_eq!(detection(&lengths), Some(0.75));
    }
}
