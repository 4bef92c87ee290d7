//! Random numbers of a simulation: a counter through the sampler's own pseudo-random function, one stream for each use,
//! so that another use of one doesn't change what the others give.

use ol_protocol::Micros;
use ol_protocol::prf::{Noise, Seed};

/// What random numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Hosts = 1,
    Arrivals = 2,
    Links = 3,
    Churn = 4,
    Engines = 5,
    Audits = 6,
    Hostile = 7,
    Store = 8,
    Policies = 9,
    Adversaries = 10,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Random {
    noise: Noise,
    drawn: u32,
}

impl Random {
    pub(crate) fn new(seed: u64, what: Use) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8] = 0x51;
        Self { noise: Noise::new(&Seed(bytes), what as u32), drawn: 0 }
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.drawn = self.drawn.wrapping_add(1);
        self.noise.word(self.drawn)
    }

    /// In (0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        ol_protocol::prf::uniform(self.word())
    }

    /// Below `bound`; 0 for a bound of 0. The bias is under bound / 2^32.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.word()) * bound as u64) >> 32) as usize
    }

    /// Whether something of that chance happens.
    pub(crate) fn happens(&mut self, chance: f64) -> bool {
        self.unit() < chance
    }

    /// Normal, of mean 0 and standard deviation 1: G. Box, M. Muller, Ann. Math. Statist. 29(2), 1958.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(self.unit()));
        radius * libm::cos(core::f64::consts::TAU * self.unit())
    }

    /// Exponential, rounded down to whole numbers.
    pub(crate) fn exponential(&mut self, mean: f64) -> u64 {
        (-libm::log(self.unit()) * mean) as u64
    }

    /// An exponential span.
    pub(crate) fn span(&mut self, mean: Micros) -> Micros {
        Micros(self.exponential(mean.0 as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_spans_have_their_mean() {
        let mut random = Random::new(1, Use::Links);
        let n = 20_000;
        let sum: u64 = (0..n).map(|_| random.span(Micros(10_000)).0).sum();
        // Five standard errors of the mean are 354.
        assert!((sum / n).abs_diff(10_000) < 354, "{}", sum / n);
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = |seed, what| Random::new(seed, what).word();
        assert_ne!(first(1, Use::Links), first(1, Use::Churn));
        assert_ne!(first(1, Use::Links), first(2, Use::Links));
    }
}
