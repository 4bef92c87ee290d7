//! Measured speed of nodes: exponential means per node and variant, and what they predict.

use alloc::collections::BTreeMap;
use ol_protocol::{Micros, NodeId, TokenCount, VariantId};

/// How much the newest of many samples moves a mean: one part in this many.
const SAMPLES: u64 = 8;
/// Samples before a node counts as measured: the first may be of a cold start.
const TRIALS: u64 = 3;
/// Time per prompt token before anything was measured, in nanoseconds: 294 tokens a second, a 135M model on one core.
const PREFILL_NANOS: u64 = 3_400_000;
/// Time per output token before anything was measured, in nanoseconds: 27 tokens a second, a 135M model on one core.
const DECODE_NANOS: u64 = 37_000_000;
/// Round trip before anything was measured: a neighbouring city.
const ROUND_TRIP: Micros = Micros(20_000);
/// The longest time per token or round trip that a sample counts as; a clock or peer gone wrong goes no further.
const SAMPLE_NANOS_MAX: u64 = 60_000_000_000;

/// An exponential mean in nanoseconds. The first samples weigh more, so that a prior is soon outvoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mean {
    nanos: u64,
    samples: u64,
}

impl Mean {
    const fn prior(nanos: u64) -> Self {
        Self { nanos, samples: 0 }
    }

    // Rounds down by less than one nanosecond a sample.
    fn observe(&mut self, nanos: u64) {
        self.samples = (self.samples + 1).min(SAMPLES - 1);
        let weight = self.samples + 1;
        self.nanos = (self.nanos * self.samples + nanos.min(SAMPLE_NANOS_MAX)) / weight;
    }
}

/// The speed of one node at one variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    prefill: Mean,
    decode: Mean,
    round_trip: Micros,
}

impl Default for Rate {
    fn default() -> Self {
        Self { prefill: Mean::prior(PREFILL_NANOS), decode: Mean::prior(DECODE_NANOS), round_trip: ROUND_TRIP }
    }
}

impl Rate {
    /// Time to prefill so many tokens, without round trip.
    pub fn prefill(&self, prompt: TokenCount) -> Micros {
        Micros(self.prefill.nanos.saturating_mul(u64::from(prompt.0)) / 1_000)
    }

    /// Time that a node takes to prefill and decode so many tokens, without round trip and queue.
    pub fn predict(&self, prompt: TokenCount, output: TokenCount) -> Micros {
        let decode = self.decode.nanos.saturating_mul(u64::from(output.0)) / 1_000;
        self.prefill(prompt).saturating_add(Micros(decode))
    }

    /// Time of a message there and back.
    pub fn round_trip(&self) -> Micros {
        self.round_trip
    }

    /// Whether the node itself was measured often enough; else this is mostly how the variant's nodes are on average, or
    /// the prior.
    pub fn is_measured(&self) -> bool {
        self.prefill.samples >= TRIALS
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Speed {
    prefill: Mean,
    decode: Mean,
}

impl Speed {
    const PRIOR: Self = Self { prefill: Mean::prior(PREFILL_NANOS), decode: Mean::prior(DECODE_NANOS) };

    // As expected of a node that nobody measured.
    fn unmeasured(&self) -> Self {
        Self { prefill: Mean::prior(self.prefill.nanos), decode: Mean::prior(self.decode.nanos) }
    }
}

/// The speeds of all nodes. O(log n) per call.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    speeds: BTreeMap<NodeId, BTreeMap<VariantId, Speed>>,
    round_trips: BTreeMap<NodeId, Mean>,
    // Over all nodes of the variant: what is expected of a newcomer.
    typical: BTreeMap<VariantId, Speed>,
}

impl Rates {
    /// A node prefilled so many tokens in that time. Nothing to learn from no tokens.
    pub fn prefilled(&mut self, node: NodeId, variant: VariantId, tokens: TokenCount, took: Micros) {
        if let Some(nanos) = nanos_per_token(tokens, took) {
            self.observe(node, variant, |speed| speed.prefill.observe(nanos));
        }
    }

    /// A node decoded so many tokens in that time. Nothing to learn from no tokens.
    pub fn decoded(&mut self, node: NodeId, variant: VariantId, tokens: TokenCount, took: Micros) {
        if let Some(nanos) = nanos_per_token(tokens, took) {
            self.observe(node, variant, |speed| speed.decode.observe(nanos));
        }
    }

    /// A message to the node and back took that time.
    pub fn round_trip(&mut self, node: NodeId, took: Micros) {
        let prior = Mean::prior(ROUND_TRIP.0.saturating_mul(1_000));
        self.round_trips.entry(node).or_insert(prior).observe(took.0.saturating_mul(1_000));
    }

    /// What is known or expected of the node.
    pub fn of(&self, node: NodeId, variant: VariantId) -> Rate {
        let measured = self.speeds.get(&node).and_then(|variants| variants.get(&variant)).copied();
        let Speed { prefill, decode } = measured.unwrap_or_else(|| self.expected(variant));
        let round_trip = self.round_trips.get(&node).map_or(ROUND_TRIP, |mean| Micros(mean.nanos / 1_000));
        Rate { prefill, decode, round_trip }
    }

    /// Drops what is known of the node.
    pub fn forget(&mut self, node: NodeId) {
        self.speeds.remove(&node);
        self.round_trips.remove(&node);
    }

    /// Drops what is expected of the variant's newcomers.
    pub fn forget_variant(&mut self, variant: VariantId) {
        self.typical.remove(&variant);
    }

    fn expected(&self, variant: VariantId) -> Speed {
        self.typical.get(&variant).map_or(Speed::PRIOR, Speed::unmeasured)
    }

    fn observe(&mut self, node: NodeId, variant: VariantId, sample: impl Fn(&mut Speed)) {
        let expected = self.expected(variant);
        sample(self.speeds.entry(node).or_default().entry(variant).or_insert(expected));
        sample(self.typical.entry(variant).or_insert(Speed::PRIOR));
    }
}

// Rounded down.
fn nanos_per_token(tokens: TokenCount, took: Micros) -> Option<u64> {
    took.0.saturating_mul(1_000).checked_div(u64::from(tokens.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIANT: VariantId = VariantId([9; 32]);
    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    #[test]
    fn an_unmeasured_node_is_expected_to_be_a_small_model_on_one_core() {
        let rate = Rates::default().of(A, VARIANT);
        assert_eq!(rate, Rate::default());
        assert_eq!(rate.predict(TokenCount(100), TokenCount(10)), Micros(340_000 + 370_000));
        assert!(!rate.is_measured());
    }

    #[test]
    fn equal_samples_become_the_prediction() {
        let mut rates = Rates::default();
        for _ in 0..100 {
            rates.prefilled(A, VARIANT, TokenCount(100), Micros(10_000));
            rates.decoded(A, VARIANT, TokenCount(10), Micros(20_000));
            rates.round_trip(A, Micros(500));
        }
        let rate = rates.of(A, VARIANT);
        let predicted = rate.predict(TokenCount(1_000), TokenCount(100)).0;
        assert!(predicted.abs_diff(300_000) < 300, "{predicted}");
        assert!(rate.round_trip().0.abs_diff(500) < 2, "{rate:?}");
        assert!(rate.is_measured());
    }

    #[test]
    fn a_newcomer_is_expected_to_be_like_the_others() {
        let mut rates = Rates::default();
        for _ in 0..100 {
            rates.decoded(A, VARIANT, TokenCount(10), Micros(20_000));
        }
        let (known, new) = (rates.of(A, VARIANT), rates.of(B, VARIANT));
        assert_eq!(new.predict(TokenCount(0), TokenCount(50)), known.predict(TokenCount(0), TokenCount(50)));
        assert!(!new.is_measured());
    }

    #[test]
    fn absurd_samples_are_bounded_and_empty_ones_ignored() {
        let mut rates = Rates::default();
        rates.decoded(A, VARIANT, TokenCount(0), Micros(u64::MAX));
        assert_eq!(rates.of(A, VARIANT), Rate::default());
        for _ in 0..100 {
            rates.prefilled(A, VARIANT, TokenCount(1), Micros(u64::MAX));
            rates.round_trip(A, Micros(u64::MAX));
        }
        let rate = rates.of(A, VARIANT);
        assert!(rate.round_trip() <= Micros(60_000_000), "{rate:?}");
        assert!(rate.predict(TokenCount(u32::MAX), TokenCount(u32::MAX)).0 <= u64::MAX / 1_000 * 2);
    }

    #[test]
    fn a_forgotten_node_is_a_newcomer() {
        let mut rates = Rates::default();
        rates.prefilled(A, VARIANT, TokenCount(1), Micros(1));
        rates.round_trip(A, Micros(1));
        rates.forget(A);
        rates.forget_variant(VARIANT);
        assert_eq!(rates.of(A, VARIANT), Rate::default());
    }
}
