//! Stated probabilities held against what was true of them.

use crate::trust::Cheats;
use serde::Serialize;

/// How well stated trust values and the truth agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reliability {
    /// Who the hostile nodes were.
    pub cheats: Cheats,
    /// Results.
    pub results: u64,
    /// Share of them that was right.
    pub right: f64,
    /// Mean square of the distance between what was stated and 1 for a right result, 0 for a wrong one.
    pub brier: f64,
    /// The same for stating the share of right results of each, which is what is known without looking at any node.
    pub brier_of_the_mean: f64,
    /// By what was stated, the most doubtful first; those without results are left out.
    pub bins: Vec<Bin>,
}

/// Results of which about the same was stated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    /// The least that was stated.
    pub from: f64,
    /// How many.
    pub results: u64,
    /// What was stated of them, in the mean.
    pub stated: f64,
    /// Share of them that was right.
    pub right: f64,
    /// Interval of 95 % of the same; a node's wrong results are one event.
    pub right_interval_95: [f64; 2],
}

/// Lower ends of the bins.
const FROM: [f64; Tally::BINS] = [0.0, 0.5, 0.9, 0.97, 0.99, 0.997, 0.999, 0.999_5, 0.999_8];

/// Counts by what was stated.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    results: [u64; Self::BINS],
    stated: [f64; Self::BINS],
    wrong: [u64; Self::BINS],
    // Squares of each node's wrong results.
    squares: [u64; Self::BINS],
    error: f64,
}

impl Tally {
    /// How many bins there are.
    pub(crate) const BINS: usize = 9;

    /// Counts a result, and tells in which bin it is: a wrong one is counted when its node leaves.
    pub(crate) fn add(&mut self, stated: f64, is_right: bool) -> usize {
        let bin = FROM.iter().rposition(|from| stated >= *from).unwrap_or(0);
        self.results[bin] += 1;
        self.stated[bin] += stated;
        let miss = stated - f64::from(u8::from(is_right));
        self.error += miss * miss;
        bin
    }

    /// Counts a node's wrong results.
    pub(crate) fn leave(&mut self, wrong: &[u32; Self::BINS]) {
        for (bin, wrong) in wrong.iter().enumerate() {
            let wrong = u64::from(*wrong);
            self.wrong[bin] += wrong;
            self.squares[bin] += wrong * wrong;
        }
    }

    pub(crate) fn reliability(&self, cheats: Cheats) -> Reliability {
        let results: u64 = self.results.iter().sum();
        let wrong: u64 = self.wrong.iter().sum();
        let right = 1.0 - wrong as f64 / results.max(1) as f64;
        Reliability {
            cheats,
            results,
            right,
            brier: self.error / results.max(1) as f64,
            brier_of_the_mean: right * (1.0 - right),
            bins: (0..Self::BINS).filter(|bin| self.results[*bin] > 0).map(|bin| self.bin(bin)).collect(),
        }
    }

    fn bin(&self, bin: usize) -> Bin {
        let (results, wrong) = (self.results[bin] as f64, self.wrong[bin] as f64);
        let reach = 1.96 * libm::sqrt(self.squares[bin] as f64);
        let right = |wrong: f64| (1.0 - wrong / results).clamp(0.0, 1.0);
        Bin {
            from: FROM[bin],
            results: self.results[bin],
            stated: self.stated[bin] / results,
            right: right(wrong),
            right_interval_95: [right(wrong + reach), right(wrong - reach)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_where_they_were_stated() {
        let mut tally = Tally::default();
        for (stated, is_right) in [(0.95, true), (0.95, true), (0.9, false), (0.2, false)] {
            assert_eq!(tally.add(stated, is_right), if stated < 0.5 { 0 } else { 2 });
        }
        tally.leave(&[1, 0, 1, 0, 0, 0, 0, 0, 0]);
        let found = tally.reliability(Cheats::Mixed);
        assert_eq!((found.results, found.right, found.bins.len()), (4, 0.5, 2));
        let doubtful = &found.bins[0];
        assert_eq!((doubtful.results, doubtful.stated, doubtful.right), (1, 0.2, 0.0));
        assert_eq!((found.bins[1].results, found.bins[1].right), (3, 1.0 - 1.0 / 3.0));
        let expected = (2.0 * 0.05 * 0.05 + 0.9 * 0.9 + 0.2 * 0.2) / 4.0;
        assert!((found.brier - expected).abs() < 1e-12);
        assert_eq!(found.brier_of_the_mean, 0.25);
    }
}
