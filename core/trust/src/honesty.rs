//! When honesty pays: the inequality between what a cheat gains and what it risks. For people and policies; nothing that is signed or settled
//! depends on it.

use crate::policy::floors;
use ol_protocol::calibration::{Counts, LENGTHS};

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
/// measured. `None` where no cheat was measured.
pub fn detection(lengths: &[Counts; LENGTHS]) -> Option<f64> {
    const USUAL: usize = 2;
    let of = |counts: &Counts| {
        let all: u32 = counts.cheats.iter().sum();
        let is_honest = |bin: usize| counts.honest.iter().any(|settings| settings[bin] > 0);
        let seen: u32 = counts.cheats.iter().enumerate().filter(|(bin, _)| !is_honest(*bin)).map(|(_, n)| n).sum();
        (all > 0).then(|| f64::from(seen) / f64::from(all))
    };
    of(&lengths[USUAL]).or_else(|| lengths.iter().rev().find_map(of))
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
