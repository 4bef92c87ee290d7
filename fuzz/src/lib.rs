//! Every parser of bytes that others made, with what must hold of whatever it reads.
//!
//! libFuzzer drives a [`Target`] from `fuzz/run`; this package's tests do it over the seeds and changed copies of them,
//! so that no target rots.

mod bert;
pub mod change;
pub mod engine;
pub mod formats;
pub mod frames;
pub mod gateway;
mod gguf;
mod history;
pub mod log;
pub mod restart;

/// One parser, and what must hold of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Valid inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads an input; panics if something does not hold.
    pub read: fn(&[u8]),
    /// What reading may take from the heap.
    pub heap: Heap,
}

/// A bound on memory: what an input doesn't back with bytes of its own is not to be allocated.
#[derive(Debug, Clone, Copy)]
pub struct Heap {
    /// Bytes for any input.
    pub fixed: usize,
    /// Bytes for each byte of the input.
    pub per_byte: usize,
}

impl Heap {
    /// Parsers of small values: some copies of the input, and what a map or a list is ahead of its items.
    pub(crate) const SMALL: Self = Self { fixed: 256 << 10, per_byte: 32 };

    /// Bytes for an input of this length.
    pub const fn bytes(&self, input: usize) -> usize {
        self.fixed + self.per_byte * input
    }
}

/// All targets.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    let parts: [&[Target]; 6] =
        [&formats::TARGETS, &log::TARGETS, &restart::TARGETS, &frames::TARGETS, &gateway::TARGETS, &engine::TARGETS];
    parts.into_iter().flatten()
}
