//! What runs of a variant, and what follows from it for a task that has no node yet: how soon a slot comes free, and how
//! fast the node will be that has it.
//!
//! A slow node that is idle is often no gift: who waits a moment for a fast one is served sooner. Only where many wait is
//! a slow one the better choice for somebody.
//!
//! Source: W. Lin, P. R. Kumar, "Optimal Control of a Queueing System with Two Heterogeneous Servers", IEEE Trans.
//! Automatic Control 29(8), 1984: the slow server is used from a length of the queue on. The wait is Little's law over
//! what runs now; the speed is the harmonic mean, in which slow nodes weigh as little as they do.

use ol_protocol::Micros;

/// Reciprocals are kept in parts of one in this many: of a microsecond to a day each is known to a millionth.
const ONE: u64 = 1 << 42;

/// How many times slower than usual a node is that may be passed by. Nodes less slow are always used: if all waited for the
/// fastest, these would be all there is, and everybody would wait.
pub(crate) const SLOW: u64 = 2;

/// What waiting gains at least: less is within what predictions err by.
const GAINED: Micros = Micros::from_millis(50);

/// What an attempt adds to what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    // Reciprocals of the time that it takes in all, and of the time for an output token.
    end: u64,
    token: u64,
}

impl Share {
    /// Of an attempt that is predicted to take so long, on a node that takes so many nanoseconds for a token.
    pub fn new(end: Micros, token_nanos: u64) -> Self {
        Self { end: ONE / end.0.max(1), token: ONE / token_nanos.max(1) }
    }
}

/// What runs of one variant. O(1) per call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    running: u64,
    ends: u64,
    tokens: u64,
}

impl Flow {
    /// An attempt begins.
    pub fn begin(&mut self, share: Share) {
        self.running += 1;
        self.ends = self.ends.saturating_add(share.end);
        self.tokens = self.tokens.saturating_add(share.token);
    }

    /// An attempt ended, however.
    pub fn end(&mut self, share: Share) {
        self.running = self.running.saturating_sub(1);
        self.ends = self.ends.saturating_sub(share.end);
        self.tokens = self.tokens.saturating_sub(share.token);
    }

    /// Whether nothing runs.
    pub const fn is_idle(&self) -> bool {
        self.running == 0
    }

    /// How long the last of so many waiting tasks waits until its slot comes free; `None` if nothing runs.
    pub fn wait(&self, waiting: u64) -> Option<Micros> {
        waiting.saturating_mul(ONE).checked_div(self.ends).map(Micros)
    }

    /// How long a task takes that runs, in the harmonic mean.
    pub fn service(&self) -> Option<Micros> {
        self.running.saturating_mul(ONE).checked_div(self.ends).map(Micros)
    }

    /// How many nanoseconds a token takes where work is done now, in the harmonic mean.
    pub fn token_nanos(&self) -> Option<u64> {
        self.running.saturating_mul(ONE).checked_div(self.tokens)
    }

    /// Whether a task is served sooner by a node that is not free yet, than in `end` by the free one at hand, which takes
    /// `token_nanos` for a token. So many wait, with it.
    pub fn is_worth_waiting(&self, waiting: u64, end: Micros, token_nanos: u64) -> bool {
        let (Some(wait), Some(usual)) = (self.wait(waiting), self.token_nanos()) else { return false };
        if token_nanos <= usual.saturating_mul(SLOW) {
            return false;
        }
        let elsewhere = u128::from(end.0) * u128::from(usual) / u128::from(token_nanos.max(1));
        u128::from(wait.0) + elsewhere + u128::from(GAINED.0) < u128::from(end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: u64 = 10_000_000;
    const SLOW_NANOS: u64 = 100_000_000;

    fn flow(running: u64) -> Flow {
        let mut flow = Flow::default();
        (0..running).for_each(|_| flow.begin(Share::new(Micros::from_secs(1), FAST)));
        flow
    }

    #[test]
    fn what_runs_says_when_a_slot_comes_free() {
        let flow = flow(4);
        let near = |is: Option<u64>, to: u64| is.is_some_and(|is| is.abs_diff(to) <= to / 10_000);
        assert!(near(flow.wait(1).map(|wait| wait.0), 250_000), "{flow:?}");
        assert!(near(flow.wait(40).map(|wait| wait.0), 10_000_000), "{flow:?}");
        assert!(near(flow.service().map(|service| service.0), 1_000_000) && near(flow.token_nanos(), FAST), "{flow:?}");
    }

    #[test]
    fn a_slow_node_hardly_counts_as_one_that_comes_free() {
        let mut flow = flow(1);
        flow.begin(Share::new(Micros::from_secs(10), SLOW_NANOS));
        let wait = flow.wait(1).expect("two run");
        assert!(wait.0.abs_diff(909_090) < 10, "{wait:?}");
    }

    #[test]
    fn a_slow_node_is_passed_by_until_enough_wait() {
        let flow = flow(4);
        let slow = Micros::from_secs(10);
        assert!(flow.is_worth_waiting(1, slow, SLOW_NANOS));
        assert!(flow.is_worth_waiting(35, slow, SLOW_NANOS));
        assert!(!flow.is_worth_waiting(36, slow, SLOW_NANOS));
        // Not for a few milliseconds.
        assert!(!flow.is_worth_waiting(1, Micros(310_000), 100_000_000));
        assert!(!flow.is_worth_waiting(1, Micros::from_secs(1), FAST));
    }

    #[test]
    fn where_nothing_runs_nobody_is_waited_for() {
        let mut flow = flow(1);
        flow.end(Share::new(Micros::from_secs(1), FAST));
        assert_eq!(flow, Flow::default());
        assert_eq!((flow.wait(1), flow.service(), flow.token_nanos()), (None, None, None));
        assert!(!flow.is_worth_waiting(1, Micros::from_secs(100), SLOW_NANOS));
    }

    #[test]
    fn absurd_figures_are_bounded() {
        let mut flow = Flow::default();
        flow.begin(Share::new(Micros(0), 0));
        flow.begin(Share::new(Micros(u64::MAX), u64::MAX));
        assert!(flow.wait(u64::MAX).is_some());
        flow.end(Share::new(Micros(0), 0));
        assert_eq!(flow.wait(1), None);
    }
}
