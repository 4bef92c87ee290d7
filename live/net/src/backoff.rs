//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Exponential back-off with full jitter: a delay is drawn evenly from zero to a bound that doubles from one failure to
/// the next. Pure: randomness comes from the caller.
///
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// # Deviations
/// A quarter of the bound is always waited, so that a gateway that refuses is not asked again at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Default for Backoff {
    /// From a quarter of a second to half a minute.
    fn default() -> Self {
        Self::new(Duration::from_millis(250), Duration::from_secs(30))
    }
}

impl Backoff {
    /// Bounds of the first delay and of every delay.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The delay after one more failure; `random` is 64 even bits.
    pub fn next(&mut self, random: u64) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
        bound / 4 + (bound * 3 / 4).mul_f64(fraction)
    }

    /// After a link that worked: the next delay is a first one again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(400), Duration::from_millis(1000));
        let least: Vec<u128> = (0..4).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(least, [100, 200, 250, 250]);
        backoff.reset();
        let most: Vec<u128> = (0..4).map(|_| backoff.next(u64::MAX).as_micros().div_ceil(1000)).collect();
        assert_eq!(most, [400, 800, 1000, 1000]);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff { failures: u32::MAX, ..Backoff::default() };
        assert_eq!(backoff.next(0), Duration::from_millis(7500));
    }
}
