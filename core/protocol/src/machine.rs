//! The contract between the core and whatever drives it.

use crate::unit::Timestamp;
use alloc::vec::Vec;

/// A deterministic state machine: the same inputs at the same times give the same outputs.
///
/// A driver feeds one input, carries out what is in `out`, then waits for the next input or the deadline; at the
/// deadline it feeds the input that the machine names for the passing of time.
pub trait Machine {
    /// What can happen to it.
    type Input;
    /// What it wants done.
    type Output;

    /// Takes one input and appends what is to be done. Total: a stale, repeated or hostile input has an ordinary
    /// outcome.
    fn handle(&mut self, now: Timestamp, input: Self::Input, out: &mut Vec<Self::Output>);

    /// When the machine wants to hear of the passing of time, if nothing else happens before.
    fn deadline(&self) -> Option<Timestamp>;
}
