//! Measured speed of nodes: exponential means per node and variant, and what they predict.
//!
//! A node that was found slow gets no tasks, and would never be found fast again: its measure ages, and it is tried once
//! more, after twice as long each time that it was slow still.

use crate::hedge::Lateness;
use crate::offer::CLASSES;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use ol_protocol::{Micros, NodeId, Timestamp, TokenCount, VariantId};

/// How much the newest of many samples moves a mean: one part in this many.
const SAMPLES: u64 = 8;
/// Time per prompt token before anything was measured, in nanoseconds: 294 tokens a second, a 135M model on one core.
const PREFILL_NANOS: u64 = 3_400_000;
/// Time per output token before anything was measured, in nanoseconds: 27 tokens a second, a 135M model on one core.
const DECODE_NANOS: u64 = 37_000_000;
/// Round trip before anything was measured: a neighbouring city.
const ROUND_TRIP: Micros = Micros(20_000);
/// Tokens of an answer before any ended, and how much the newest of many moves their mean: one part in this many.
const LENGTH: u64 = 256;
const LENGTH_SAMPLES: u64 = 64;
/// How long a measure holds at first and at most, while the node gets no tasks.
const FRESH_MIN: Micros = Micros::from_secs(30);
const FRESH_MAX: Micros = Micros::from_secs(3_600);
/// Prompt and answer by which nodes are put in classes of speed.
const REFERENCE: TokenCount = TokenCount(100);
/// How far one sample moves a median: one part in so many.
const MEDIAN_STEP: u64 = 16;
/// The longest time per token or round trip that a sample counts as; a clock or peer gone wrong goes no further.
const SAMPLE_NANOS_MAX: u64 = 60_000_000_000;

/// An exponential mean in nanoseconds. The first samples weigh more; the very first takes the place of what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mean {
    nanos: u64,
    // How many samples it counts as; none are what is expected.
    weight: u64,
}

impl Mean {
    const fn prior(nanos: u64) -> Self {
        Self { nanos, weight: 0 }
    }

    // Rounds down by less than one nanosecond a sample.
    fn observe(&mut self, nanos: u64) {
        self.nanos = (self.nanos * self.weight + nanos.min(SAMPLE_NANOS_MAX)) / (self.weight + 1);
        self.weight = (self.weight + 1).min(SAMPLES - 1);
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

    /// How much of a prompt it prefills in that time.
    pub fn prefilled_in(&self, took: Micros) -> TokenCount {
        let tokens = took.0.saturating_mul(1_000) / self.prefill.nanos.max(1);
        TokenCount(u32::try_from(tokens).unwrap_or(u32::MAX))
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

    /// A prediction, lower by what may be chance: by a quarter after one sample, by a sixteenth after many.
    pub fn hopeful(&self, predicted: Micros) -> Micros {
        Micros(predicted.0 - predicted.0 / (2 * (self.prefill.weight + 1)))
    }

    /// Nanoseconds for an output token.
    pub fn token_nanos(&self) -> u64 {
        self.decode.nanos
    }

    /// Nanoseconds for a prompt token.
    pub fn prompt_nanos(&self) -> u64 {
        self.prefill.nanos
    }

    /// Its class of speed, from 1 on: nodes of one class are alike within a factor of the square root of two.
    pub fn class(&self) -> u8 {
        let micros = self.predict(REFERENCE, REFERENCE).0.max(1);
        let octave = micros.ilog2();
        // The square root of two is 1 + 106 / 256, rounded down.
        let upper = u128::from(micros) * 256 >= (1_u128 << octave) * 362;
        u8::try_from(1 + 2 * octave + u32::from(upper)).unwrap_or(CLASSES - 1).min(CLASSES - 1)
    }

    /// Whether the node itself was measured; else this is how the variant's nodes usually are, or the prior. If it was slow for a
    /// reason that is over, as when it starts, it is measured anew before long.
    pub fn is_measured(&self) -> bool {
        self.prefill.weight > 0
    }
}

// When a node is tried again that gets no tasks.
#[derive(Debug, Clone, Copy)]
struct Freshness {
    until: Timestamp,
    lasts: Micros,
    // Its class when it was tried last.
    class: u8,
}

/// What is known of a variant, over all of its nodes.
#[derive(Debug, Clone, Copy)]
struct Typical {
    usual: Usual,
    lateness: Lateness,
    length: Option<Mean>,
}

impl Default for Typical {
    fn default() -> Self {
        let usual = Usual { prefill: Median(PREFILL_NANOS), decode: Median(DECODE_NANOS) };
        Self { usual, lateness: Lateness::default(), length: None }
    }
}

/// A median in nanoseconds, followed in steps: a mean would be that of the slowest nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Median(u64);

impl Median {
    fn observe(&mut self, nanos: u64) {
        let step = self.0 / MEDIAN_STEP + 1;
        self.0 = if nanos > self.0 {
            self.0.saturating_add(step).min(SAMPLE_NANOS_MAX)
        } else {
            self.0.saturating_sub(step)
        };
    }
}

/// The speeds of a variant's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usual {
    prefill: Median,
    decode: Median,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Speed {
    prefill: Mean,
    decode: Mean,
}

impl Speed {
    const PRIOR: Self = Self { prefill: Mean::prior(PREFILL_NANOS), decode: Mean::prior(DECODE_NANOS) };

    // Of a node that nobody measured.
    fn expected(usual: &Usual) -> Self {
        Self { prefill: Mean::prior(usual.prefill.0), decode: Mean::prior(usual.decode.0) }
    }
}

/// The speeds of all nodes. O(log n) per call.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    speeds: BTreeMap<NodeId, BTreeMap<VariantId, Speed>>,
    round_trips: BTreeMap<NodeId, Mean>,
    // Over all nodes of the variant: what is expected of a newcomer.
    typical: BTreeMap<VariantId, Typical>,
    fresh: BTreeMap<(NodeId, VariantId), Freshness>,
    by_end: BTreeSet<(Timestamp, NodeId, VariantId)>,
}

impl Rates {
    /// A node prefilled so many tokens in that time. Nothing to learn from no tokens.
    pub fn prefilled(&mut self, node: NodeId, variant: VariantId, tokens: TokenCount, took: Micros) {
        if let Some(nanos) = nanos_per_token(tokens, took) {
            self.speed(node, variant).prefill.observe(nanos);
            self.typical.entry(variant).or_default().usual.prefill.observe(nanos);
        }
    }

    /// A node decoded so many tokens in that time. Nothing to learn from no tokens.
    pub fn decoded(&mut self, node: NodeId, variant: VariantId, tokens: TokenCount, took: Micros) {
        if let Some(nanos) = nanos_per_token(tokens, took) {
            self.speed(node, variant).decode.observe(nanos);
            self.typical.entry(variant).or_default().usual.decode.observe(nanos);
        }
    }

    /// An answer of the variant ended after so many tokens.
    pub fn answered(&mut self, variant: VariantId, output: TokenCount) {
        let typical = self.typical.entry(variant).or_default();
        let mean = typical.length.get_or_insert(Mean::prior(u64::from(output.0) * 1_000));
        mean.nanos = (mean.nanos * (LENGTH_SAMPLES - 1) + u64::from(output.0) * 1_000) / LENGTH_SAMPLES;
    }

    /// Whether any answer of the variant has ended: before, all predictions are guesses.
    pub fn is_known(&self, variant: VariantId) -> bool {
        self.typical.get(&variant).is_some_and(|typical| typical.length.is_some())
    }

    /// How long an answer of the variant is in the mean.
    pub fn length(&self, variant: VariantId) -> TokenCount {
        let mean = self.typical.get(&variant).and_then(|typical| typical.length);
        TokenCount(u32::try_from(mean.map_or(LENGTH, |mean| mean.nanos.div_ceil(1_000))).unwrap_or(u32::MAX))
    }

    /// After how long without a token an attempt is late that was predicted to begin after `begin`.
    pub fn late_after(&self, variant: VariantId, begin: Micros) -> Micros {
        self.typical.get(&variant).map_or_else(Lateness::default, |typical| typical.lateness).after(begin)
    }

    /// An attempt on a measured node began, late or in time.
    pub fn was_late(&mut self, variant: VariantId, late: bool) {
        let lateness = &mut self.typical.entry(variant).or_default().lateness;
        if late { lateness.late() } else { lateness.in_time() }
    }

    /// The node's speed was looked at: the measure holds from now on, for twice as long as before if the node is as slow as it was
    /// when it was tried last.
    pub fn refresh(&mut self, node: NodeId, variant: VariantId, now: Timestamp) {
        // An attempt that ended before its node did anything shows nothing.
        if self.speeds.get(&node).is_none_or(|variants| !variants.contains_key(&variant)) {
            return;
        }
        let class = self.of(node, variant).class();
        let before = self.fresh.get(&(node, variant)).copied();
        if let Some(before) = before {
            self.by_end.remove(&(before.until, node, variant));
        }
        let lasts = match before {
            // In regular use it does not age.
            Some(before) if now < before.until && before.class == class => before.lasts,
            Some(before) if now >= before.until && class >= before.class => {
                Micros(before.lasts.0.saturating_mul(2)).min(FRESH_MAX)
            }
            Some(_) | None => FRESH_MIN,
        };
        let until = now.after(lasts);
        self.fresh.insert((node, variant), Freshness { until, lasts, class });
        self.by_end.insert((until, node, variant));
    }

    /// The nodes whose measures are old by now, and forgotten: each is to be tried once more.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(NodeId, VariantId)> {
        let mut old = Vec::new();
        while let Some(&(until, node, variant)) = self.by_end.first() {
            if until > now {
                break;
            }
            self.by_end.pop_first();
            if self.speeds.get_mut(&node).and_then(|variants| variants.remove(&variant)).is_some() {
                old.push((node, variant));
            }
        }
        old
    }

    /// A message to the node and back took that time.
    pub fn round_trip(&mut self, node: NodeId, took: Micros) {
        let prior = Mean::prior(ROUND_TRIP.0.saturating_mul(1_000));
        self.round_trips.entry(node).or_insert(prior).observe(took.0.saturating_mul(1_000));
    }

    /// How fast the variant's nodes usually are, without round trip.
    pub fn usual(&self, variant: VariantId) -> Rate {
        let Speed { prefill, decode } = self.expected(variant);
        Rate { prefill, decode, round_trip: Micros(0) }
    }

    /// What is known or expected of the node.
    pub fn of(&self, node: NodeId, variant: VariantId) -> Rate {
        let expected = self.expected(variant);
        let measured = self.speeds.get(&node).and_then(|variants| variants.get(&variant)).copied();
        let Speed { prefill, mut decode } = measured.unwrap_or(expected);
        if prefill.weight > 0 && decode.weight == 0 {
            // Who is slow at the one is slow at the other.
            let scaled =
                u128::from(decode.nanos) * u128::from(prefill.nanos) / u128::from(expected.prefill.nanos.max(1));
            decode.nanos = u64::try_from(scaled).unwrap_or(SAMPLE_NANOS_MAX).min(SAMPLE_NANOS_MAX);
        }
        let round_trip = self.round_trips.get(&node).map_or(ROUND_TRIP, |mean| Micros(mean.nanos / 1_000));
        Rate { prefill, decode, round_trip }
    }

    /// Whether the node was measured ever, though the measure may have become old.
    pub fn was_measured(&self, node: NodeId, variant: VariantId) -> bool {
        self.fresh.contains_key(&(node, variant))
    }

    /// Drops what is known of the node.
    pub fn forget(&mut self, node: NodeId) {
        self.speeds.remove(&node);
        let all = (node, VariantId([0; 32]))..=(node, VariantId([u8::MAX; 32]));
        let variants: Vec<VariantId> = self.fresh.range(all).map(|((_, variant), _)| *variant).collect();
        for variant in variants {
            if let Some(fresh) = self.fresh.remove(&(node, variant)) {
                self.by_end.remove(&(fresh.until, node, variant));
            }
        }
        self.round_trips.remove(&node);
    }

    /// Drops what is expected of the variant's newcomers.
    pub fn forget_variant(&mut self, variant: VariantId) {
        self.typical.remove(&variant);
    }

    fn expected(&self, variant: VariantId) -> Speed {
        self.typical.get(&variant).map_or(Speed::PRIOR, |typical| Speed::expected(&typical.usual))
    }

    fn speed(&mut self, node: NodeId, variant: VariantId) -> &mut Speed {
        let expected = self.expected(variant);
        self.speeds.entry(node).or_default().entry(variant).or_insert(expected)
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
        let [known, expected] = [known, new].map(|rate| rate.predict(TokenCount(0), TokenCount(50)).0);
        assert!(expected.abs_diff(known) <= known / MEDIAN_STEP, "{expected} of {known}");
        assert!(!new.is_measured());
    }

    #[test]
    fn a_few_slow_nodes_say_nothing_of_a_newcomer() {
        let mut rates = Rates::default();
        for index in 0..1_000_u64 {
            let micros = if index % 10 < 3 { 200_000 } else { 20_000 };
            rates.decoded(A, VARIANT, TokenCount(1), Micros(micros));
        }
        let expected = rates.of(B, VARIANT).predict(TokenCount(0), TokenCount(1));
        assert!((10_000..40_000).contains(&expected.0), "{expected:?}");
    }

    #[test]
    fn who_was_slow_is_tried_again_after_twice_as_long_each_time() {
        let mut rates = Rates::default();
        let mut now = Timestamp(0);
        let measure = |rates: &mut Rates, now, nanos| {
            rates.prefilled(A, VARIANT, TokenCount(1_000), Micros(nanos));
            rates.decoded(A, VARIANT, TokenCount(1_000), Micros(nanos));
            rates.refresh(A, VARIANT, now);
        };
        measure(&mut rates, now, 10_000_000);
        let mut spans = Vec::new();
        for _ in 0..9 {
            let before = now;
            while rates.expire(now).is_empty() {
                assert!(rates.of(A, VARIANT).is_measured());
                now = now.after(Micros::from_secs(1));
            }
            spans.push(now.since(before).0 / 1_000_000);
            assert!(!rates.of(A, VARIANT).is_measured());
            measure(&mut rates, now, 10_000_000);
        }
        assert_eq!(spans, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        // Fast again, it is as new.
        while rates.expire(now).is_empty() {
            now = now.after(Micros::from_secs(1));
        }
        measure(&mut rates, now, 100_000);
        assert!(rates.of(A, VARIANT).is_measured());
        let until = now.after(FRESH_MIN);
        assert_eq!(rates.expire(Timestamp(until.0 - 1)), []);
        assert_eq!(rates.expire(until), [(A, VARIANT)]);
        rates.forget(A);
        assert!(rates.fresh.is_empty() && rates.by_end.is_empty());
    }

    #[test]
    fn what_is_in_use_does_not_age() {
        let mut rates = Rates::default();
        for second in 0..1_000 {
            rates.prefilled(A, VARIANT, TokenCount(1_000), Micros(1_000_000));
            rates.refresh(A, VARIANT, Timestamp(second * 1_000_000));
            assert_eq!(rates.expire(Timestamp(second * 1_000_000)), []);
        }
    }

    #[test]
    fn one_bad_answer_is_forgiven_and_many_are_not() {
        let mut rates = Rates::default();
        let spans = [1, 2, 7, 50].map(|samples| {
            rates.forget(A);
            (0..samples).for_each(|_| rates.prefilled(A, VARIANT, TokenCount(1), Micros(5)));
            rates.of(A, VARIANT).hopeful(Micros(4_800)).0
        });
        assert_eq!(spans, [3_600, 4_000, 4_500, 4_500]);
    }

    #[test]
    fn classes_are_half_octaves() {
        let class = |nanos| {
            let decode = Mean::prior(nanos);
            Rate { prefill: Mean::prior(0), decode, round_trip: Micros(0) }.class()
        };
        // 100 tokens of 163.84 us are 2 to the 14th us.
        let base = class(163_840);
        assert_eq!([1, 2, 4].map(|times| class(163_840 * times) - base), [0, 2, 4]);
        assert_eq!((class(163_840 * 3 / 2), class(163_840 * 4 / 3)), (base + 1, base));
        assert_eq!((class(0), class(u64::MAX / 1_000)), (1, CLASSES - 1));
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
