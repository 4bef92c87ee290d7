//! Sampling that can be checked: Gumbel-max in a fixed order, and the margin an auditor computes.
//!
//! The chosen token is a function of logits, settings, seed and step alone: argmax of l_v + T g_v over the allowed
//! tokens. Specified in docs/protocol/sampling.md; vectors in core/protocol/tests/vectors.
//!
//! Source: DiFR, arXiv 2511.20621 (Token-DiFR), for the margin. Deviations: the rule at truncation boundaries.

use alloc::vec::Vec;
use core::cmp::Ordering;

use thiserror::Error;

use crate::prf::{Noise, Seed, gumbel};

/// Version of everything in this module; named in all signed bytes.
pub const SAMPLER_VERSION: u16 = 1;
/// Highest temperature: above it, text is noise.
pub const TEMPERATURE_MAX: f32 = 2.0;
/// Length of the canonical bytes.
pub const SAMPLING_BYTES: usize = 16;

/// Ids sorted in the first go; every further one is four times as large.
const RANK_FIRST: usize = 64;
/// Lowest log-probability a byte can tell apart.
const BYTE_FLOOR_NATS: f32 = 16.0;

/// What is wrong with sampling settings.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum Error {
    /// Not a number from 0 to [`TEMPERATURE_MAX`].
    #[error("temperature {value} is not in 0 to {TEMPERATURE_MAX}")]
    Temperature {
        /// As given.
        value: f32,
    },
    /// Not a number from 0 to 1.
    #[error("top_p {value} is not in 0 to 1")]
    TopP {
        /// As given.
        value: f32,
    },
    /// Not a number from 0 to 1.
    #[error("min_p {value} is not in 0 to 1")]
    MinP {
        /// As given.
        value: f32,
    },
}

/// Settings of one task's sampling, applied in the order temperature, top-k, top-p, min-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 (plain argmax) to [`TEMPERATURE_MAX`].
    pub temperature: f32,
    /// Smallest set of likeliest tokens with this mass; 1 is off.
    pub top_p: f32,
    /// This many likeliest tokens; 0 is off.
    pub top_k: u32,
    /// Tokens at least this likely relative to the likeliest; 0 is off.
    pub min_p: f32,
}

impl Sampling {
    /// Plain argmax.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0 };

    /// These settings if all are in range.
    ///
    /// # Errors
    /// Names the first setting out of range; a negative zero is out of range, as bytes are canonical.
    pub fn validated(self) -> Result<Self, Error> {
        let within = |value: f32, max: f32| value.is_sign_positive() && value <= max;
        if !within(self.temperature, TEMPERATURE_MAX) {
            return Err(Error::Temperature { value: self.temperature });
        }
        if !within(self.top_p, 1.0) {
            return Err(Error::TopP { value: self.top_p });
        }
        if !within(self.min_p, 1.0) {
            return Err(Error::MinP { value: self.min_p });
        }
        Ok(self)
    }

    /// Canonical bytes: temperature, top_p, top_k, min_p, each four bytes little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SAMPLING_BYTES] {
        let mut out = [0; SAMPLING_BYTES];
        out[..4].copy_from_slice(&self.temperature.to_le_bytes());
        out[4..8].copy_from_slice(&self.top_p.to_le_bytes());
        out[8..12].copy_from_slice(&self.top_k.to_le_bytes());
        out[12..].copy_from_slice(&self.min_p.to_le_bytes());
        out
    }

    /// Settings from canonical bytes.
    ///
    /// # Errors
    /// As [`Sampling::validated`].
    pub fn from_bytes(bytes: &[u8; SAMPLING_BYTES]) -> Result<Self, Error> {
        let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Self {
            temperature: f32::from_le_bytes(four(0)),
            top_p: f32::from_le_bytes(four(4)),
            top_k: u32::from_le_bytes(four(8)),
            min_p: f32::from_le_bytes(four(12)),
        }
        .validated()
    }

    /// Whether some tokens may be left out before the noise is added.
    fn truncates(&self, vocabulary: usize) -> bool {
        self.top_p < 1.0 || self.min_p > 0.0 || (self.top_k > 0 && (self.top_k as usize) < vocabulary)
    }
}

/// The token that these logits, settings, seed and step give. NaN counts as minus infinity; no logits give 0.
#[must_use]
pub fn pick(logits: &[f32], sampling: &Sampling, seed: &Seed, t: u32) -> u32 {
    if sampling.temperature == 0.0 || logits.is_empty() {
        return argmax(logits);
    }
    let race = Race::new(logits, sampling, seed, t);
    if sampling.truncates(logits.len()) {
        let (cut, ranking) = truncation(logits, sampling);
        race.winner_among(&ranking.order[..cut.count]).0
    } else {
        race.winner_of_all().0
    }
}

/// How far, in nats, `chosen` is from being the token that these logits give: 0 if it is.
///
/// A token within `tolerance` of a truncation boundary counts as allowed or absent, whichever favours the prover; one
/// further outside has at least its distance to the boundary. Infinite for an id outside the vocabulary.
#[must_use]
pub fn margin(logits: &[f32], sampling: &Sampling, seed: &Seed, t: u32, chosen: u32, tolerance: f32) -> f32 {
    let Some(own) = logits.get(chosen as usize).copied().filter(|logit| logit.is_finite()) else {
        return f32::INFINITY;
    };
    if sampling.temperature == 0.0 {
        return value(logits[argmax(logits) as usize]) - own;
    }
    let race = Race::new(logits, sampling, seed, t);
    let (best, outside) = if sampling.truncates(logits.len()) {
        let (cut, ranking) = truncation(logits, sampling);
        let certain = cut.certain(&ranking, tolerance);
        (race.winner_among(&ranking.order[..certain]).1, cut.outside(&ranking, chosen))
    } else {
        (race.winner_of_all().1, 0.0)
    };
    let lost = (best - race.score(chosen)).max(0.0) as f32;
    if outside > tolerance { lost.max(outside) } else { lost }
}

/// Raw log-softmax (temperature 1, no truncation) of one token, in nats; minus infinity outside the vocabulary.
#[must_use]
pub fn log_prob(logits: &[f32], id: u32) -> f32 {
    let Some(own) = logits.get(id as usize) else { return f32::NEG_INFINITY };
    *own - log_sum_exp(logits)
}

/// ln sum exp of all logits: `log_prob(logits, id)` is `logits[id]` less this.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let top = value(logits.get(argmax(logits) as usize).copied().unwrap_or(f32::NEG_INFINITY));
    let mass: f64 = logits.iter().map(|logit| f64::from(libm::expf(value(*logit) - top))).sum();
    (f64::from(top) + libm::log(mass)) as f32
}

/// The byte that a receipt holds for a log-probability: round(255 sqrt(min(-lp, 16) / 16)), halves up.
#[must_use]
pub fn log_prob_byte(log_prob: f32) -> u8 {
    let nats = if log_prob.is_nan() { BYTE_FLOOR_NATS } else { (-log_prob).clamp(0.0, BYTE_FLOOR_NATS) };
    libm::floorf(255.0 * libm::sqrtf(nats / BYTE_FLOOR_NATS) + 0.5) as u8
}

/// The likeliest token; the lower id of equals.
#[must_use]
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut top = f32::NEG_INFINITY;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > top {
            best = id;
            top = *logit;
        }
    }
    best as u32
}

/// The `count` likeliest tokens, likeliest first, the lower id of equals first.
#[must_use]
pub fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ranking = Ranking::new(logits);
    let count = count.min(logits.len());
    ranking.sort_to(count);
    ranking.order.truncate(count);
    ranking.order
}

/// A logit with NaN as minus infinity.
fn value(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit }
}

/// The race for the largest l_v + T g_v.
struct Race<'a> {
    logits: &'a [f32],
    temperature: f64,
    noise: Noise,
    /// Upper bound of T g by the leading zeros of the complement of a word.
    bounds: [f64; 33],
}

impl<'a> Race<'a> {
    fn new(logits: &'a [f32], sampling: &Sampling, seed: &Seed, t: u32) -> Self {
        let temperature = f64::from(sampling.temperature);
        // -ln u >= 1 - u >= 2^-(zeros + 1), hence g <= (zeros + 1) ln 2; a millionth covers the rounding.
        let bounds = core::array::from_fn(|zeros| temperature * (zeros as f64 + 1.000_001) * core::f64::consts::LN_2);
        Self { logits, temperature, noise: Noise::new(seed, t), bounds }
    }

    fn score(&self, id: u32) -> f64 {
        self.score_of(id, self.noise.word(id))
    }

    fn score_of(&self, id: u32, word: u32) -> f64 {
        f64::from(value(self.logits[id as usize])) + self.temperature * gumbel(word)
    }

    /// The winner of the whole vocabulary and its score, computing logarithms only where an id could still win.
    fn winner_of_all(&self) -> (u32, f64) {
        let first = argmax(self.logits);
        let mut best = (first, self.score(first));
        for (block, logits) in self.logits.chunks(4).enumerate() {
            let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            if top + self.bounds[32] < best.1 {
                continue;
            }
            let words = self.noise.block(block as u32);
            for (offset, (logit, word)) in logits.iter().zip(words).enumerate() {
                if f64::from(*logit) + self.bounds[(!word).leading_zeros() as usize] >= best.1 {
                    self.enter((block * 4 + offset) as u32, word, &mut best);
                }
            }
        }
        best
    }

    fn winner_among(&self, ids: &[u32]) -> (u32, f64) {
        let mut best = (ids.first().copied().unwrap_or(0), f64::NEG_INFINITY);
        for id in ids {
            self.enter(*id, self.noise.word(*id), &mut best);
        }
        best
    }

    fn enter(&self, id: u32, word: u32, best: &mut (u32, f64)) {
        let score = self.score_of(id, word);
        if score > best.1 || (score == best.1 && id < best.0) {
            *best = (id, score);
        }
    }
}

/// Ids by falling logit, lower ids first among equals; sorted only as far as asked.
struct Ranking<'a> {
    logits: &'a [f32],
    order: Vec<u32>,
    sorted: usize,
}

impl<'a> Ranking<'a> {
    fn new(logits: &'a [f32]) -> Self {
        Self { logits, order: (0..logits.len() as u32).collect(), sorted: 0 }
    }

    fn logit(&self, rank: usize) -> f32 {
        value(self.logits[self.order[rank] as usize])
    }

    /// Sorts at least the first `count` ids.
    fn sort_to(&mut self, count: usize) {
        if count <= self.sorted {
            return;
        }
        let logits = self.logits;
        let by_rank = |a: &u32, b: &u32| {
            let (x, y) = (value(logits[*a as usize]), value(logits[*b as usize]));
            y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(b))
        };
        let mut target = RANK_FIRST;
        while target < count {
            target *= 4;
        }
        let rest = &mut self.order[self.sorted..];
        let wanted = target - self.sorted;
        let head = if wanted < rest.len() { rest.select_nth_unstable_by(wanted, by_rank).0 } else { rest };
        head.sort_unstable_by(by_rank);
        self.sorted = target.min(self.order.len());
    }

    fn is_before(&self, rank: usize, id: u32) -> bool {
        let (x, y) = (self.logit(rank), value(self.logits[id as usize]));
        x > y || (x == y && self.order[rank] < id)
    }
}

/// Where the allowed prefix of the ranking ends, by each rule.
struct Truncation {
    /// Length of the allowed prefix, at least 1.
    count: usize,
    /// Length of the prefix that top-k alone allows.
    by_k: usize,
    /// Length of the prefix that top-p allows, and the exponentials behind it.
    by_p: usize,
    mass: Option<Mass>,
    /// Lowest logit that min-p allows.
    floor: f32,
}

/// Probability mass of the tokens that top-k leaves.
struct Mass {
    temperature: f32,
    top: f32,
    top_p: f64,
    total: f64,
}

impl Mass {
    fn of(&self, logit: f32) -> f64 {
        f64::from(libm::expf((logit - self.top) / self.temperature))
    }

    /// ln of the odds of a share, less that of top-p: how far beyond the boundary a cumulative mass is, in nats.
    fn beyond(&self, cumulative: f64) -> f32 {
        let odds = |share: f64| {
            let share = share.clamp(1e-12, 1.0 - 1e-12);
            libm::log(share / (1.0 - share))
        };
        (odds(cumulative / self.total) - odds(self.top_p)) as f32
    }
}

/// The allowed prefix of the ranking; the ranking is sorted at least one past it, where there is one.
fn truncation<'a>(logits: &'a [f32], sampling: &Sampling) -> (Truncation, Ranking<'a>) {
    let mut ranking = Ranking::new(logits);
    ranking.sort_to(1);
    let by_k = if sampling.top_k == 0 { logits.len() } else { (sampling.top_k as usize).min(logits.len()) };
    let top = ranking.logit(0);
    let mut cut = Truncation { count: by_k, by_k, by_p: by_k, mass: None, floor: f32::NEG_INFINITY };
    if sampling.top_p < 1.0 {
        let (by_p, mass) = nucleus(&mut ranking, by_k, top, sampling);
        (cut.by_p, cut.mass) = (by_p, Some(mass));
    }
    cut.count = cut.by_p;
    if sampling.min_p > 0.0 {
        cut.floor = (f64::from(top) + f64::from(sampling.temperature) * libm::log(f64::from(sampling.min_p))) as f32;
        cut.count = prefix(&mut ranking, cut.count, |logit| logit >= cut.floor);
    }
    let needed = if by_k < logits.len() { by_k } else { cut.count };
    ranking.sort_to((needed + 1).min(logits.len()));
    (cut, ranking)
}

/// Length of the longest prefix, up to `limit` and at least 1, whose logits all pass.
fn prefix(ranking: &mut Ranking<'_>, limit: usize, mut passes: impl FnMut(f32) -> bool) -> usize {
    let mut rank = 0;
    while rank < limit {
        ranking.sort_to(rank + 1);
        if !passes(ranking.logit(rank)) {
            break;
        }
        rank += 1;
    }
    rank.max(1)
}

/// The prefix that top-p allows of the first `by_k` tokens. The total is summed by rising id.
fn nucleus(ranking: &mut Ranking<'_>, by_k: usize, top: f32, sampling: &Sampling) -> (usize, Mass) {
    let mut mass = Mass { temperature: sampling.temperature, top, top_p: f64::from(sampling.top_p), total: 0.0 };
    mass.total = if by_k == ranking.logits.len() {
        ranking.logits.iter().map(|logit| mass.of(value(*logit))).sum()
    } else {
        ranking.sort_to(by_k);
        let mut ids = ranking.order[..by_k].to_vec();
        ids.sort_unstable();
        ids.iter().map(|id| mass.of(value(ranking.logits[*id as usize]))).sum()
    };
    let enough = mass.top_p * mass.total;
    let mut before = 0.0;
    let count = prefix(ranking, by_k, |logit| {
        let inside = before < enough;
        before += mass.of(logit);
        inside
    });
    (count, mass)
}

impl Truncation {
    /// Length of the prefix whose tokens stay allowed if every log-probability moves by `tolerance`.
    fn certain(&self, ranking: &Ranking<'_>, tolerance: f32) -> usize {
        let next = |count: usize| {
            if count < ranking.sorted { ranking.logit(count) } else { f32::NEG_INFINITY }
        };
        let (next_k, next_p) = (next(self.by_k), next(self.by_p));
        let mut before = 0.0;
        let mut certain = 0;
        for rank in 0..self.count {
            let logit = ranking.logit(rank);
            let mut inside = f32::INFINITY;
            if self.by_k < ranking.order.len() {
                inside = inside.min(logit - next_k);
            }
            if let Some(mass) = &self.mass {
                // The first token is never cut by its mass; it is uncertain only where another may take its place.
                let by_mass = if rank > 0 { -mass.beyond(before) } else { f32::INFINITY };
                inside = inside.min(by_mass).min(logit - next_p);
                before += mass.of(logit);
            }
            if inside.min(logit - self.floor) <= tolerance {
                break;
            }
            certain = rank + 1;
        }
        certain
    }

    /// How far outside the allowed set a token is, in nats; 0 inside.
    fn outside(&self, ranking: &Ranking<'_>, id: u32) -> f32 {
        let last = self.count - 1;
        if !ranking.is_before(last, id) {
            return 0.0;
        }
        let logit = value(ranking.logits[id as usize]);
        let mut distance = (self.floor - logit).max(0.0);
        if self.by_k < ranking.order.len() && ranking.is_before(self.by_k - 1, id) {
            distance = distance.max(ranking.logit(self.by_k - 1) - logit);
        }
        if let Some(mass) = &self.mass
            && ranking.is_before(self.by_p - 1, id)
        {
            let before: f64 = (0..ranking.logits.len() as u32)
                .filter(|other| {
                    let x = value(ranking.logits[*other as usize]);
                    x > logit || (x == logit && *other < id)
                })
                .map(|other| mass.of(value(ranking.logits[other as usize])))
                .sum();
            let by_mass = mass.beyond(before.min(mass.total));
            distance = distance.max(by_mass.min(ranking.logit(self.by_p - 1) - logit).max(0.0));
        }
        distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// Logits from -8 to 8 that need no arithmetic beyond one conversion.
    fn logits(count: u32, salt: u8) -> Vec<f32> {
        let noise = Noise::new(&Seed([salt; 32]), u32::MAX);
        (0..count).map(|v| noise.word(v).cast_signed() as f32 / 268_435_456.0).collect()
    }

    fn settings(case: u32) -> Sampling {
        Sampling {
            temperature: [0.0, 0.3, 0.7, 1.0, 1.5][case as usize % 5],
            top_p: [1.0, 0.9, 0.5, 0.0][case as usize % 4],
            top_k: [0, 1, 7, 40][case as usize % 3],
            min_p: [0.0, 0.05, 1.0][case as usize % 7 % 3],
        }
    }

    /// The definition, word for word: sort everything, cut, add the noise to everything left.
    fn defined(logits: &[f32], s: &Sampling, seed: &Seed, t: u32) -> u32 {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let l = |id: u32| logits[id as usize];
        ids.sort_by(|a, b| l(*b).partial_cmp(&l(*a)).unwrap().then(a.cmp(b)));
        if s.temperature == 0.0 {
            return ids[0];
        }
        let top = l(ids[0]);
        if s.top_k > 0 {
            ids.truncate(s.top_k as usize);
        }
        let mass = |id: u32| f64::from(libm::expf((l(id) - top) / s.temperature));
        if s.top_p < 1.0 {
            let mut by_id = ids.clone();
            by_id.sort_unstable();
            let enough = f64::from(s.top_p) * by_id.iter().map(|id| mass(*id)).sum::<f64>();
            let mut before = 0.0;
            let kept = ids.iter().take_while(|id| {
                let inside = before < enough;
                before += mass(**id);
                inside
            });
            let kept = kept.count().max(1);
            ids.truncate(kept);
        }
        if s.min_p > 0.0 {
            let floor = (f64::from(top) + f64::from(s.temperature) * libm::log(f64::from(s.min_p))) as f32;
            ids.retain(|id| l(*id) >= floor);
        }
        ids.sort_unstable();
        let noise = Noise::new(seed, t);
        let score = |id: u32| f64::from(l(id)) + f64::from(s.temperature) * noise.gumbel(id);
        *ids.iter().rev().max_by(|a, b| score(**a).partial_cmp(&score(**b)).unwrap()).unwrap()
    }

    #[test]
    fn skipping_hopeless_tokens_changes_nothing() {
        for case in 0..600 {
            let logits = logits(50 + case * 7, case as u8);
            let (sampling, seed) = (settings(case), Seed([case as u8; 32]));
            let expected = defined(&logits, &sampling, &seed, case);
            assert_eq!(pick(&logits, &sampling, &seed, case), expected, "case {case} {sampling:?}");
            assert_eq!(margin(&logits, &sampling, &seed, case, expected, 0.0), 0.0, "case {case}");
        }
    }

    #[test]
    fn logits_moved_within_half_the_tolerance_keep_the_margin_within_it() {
        let tolerance = 0.05;
        for case in 0..600 {
            let honest = logits(300, case as u8);
            let moved: Vec<f32> = honest
                .iter()
                .enumerate()
                .map(|(v, l)| l + tolerance * 0.2 * (Noise::new(&Seed([9; 32]), case).uniform(v as u32) as f32 - 0.5))
                .collect();
            let (sampling, seed) = (settings(case), Seed([case as u8; 32]));
            let chosen = pick(&moved, &sampling, &seed, case);
            let found = margin(&honest, &sampling, &seed, case, chosen, tolerance);
            assert!(found <= tolerance, "case {case} {sampling:?}: {found}");
        }
    }

    #[test]
    fn a_token_beyond_a_boundary_has_its_distance_as_margin() {
        let mut logits = vec![-20.0_f32; 50];
        (logits[3], logits[7], logits[9]) = (5.0, 4.0, 1.0);
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 2, min_p: 0.0 };
        assert!(margin(&logits, &sampling, &Seed::default(), 0, 9, 0.05) >= 3.0);
        let greedy = Sampling::GREEDY;
        assert_eq!(margin(&logits, &greedy, &Seed::default(), 0, 7, 0.05), 1.0);
        assert_eq!(margin(&logits, &greedy, &Seed::default(), 0, 50, 0.05), f32::INFINITY);
    }

    #[test]
    fn another_seed_or_temperature_shows_in_the_margins() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let (mut other_seed, mut other_temperature) = (0, 0);
        for t in 0..200 {
            let logits = logits(400, t as u8);
            let chosen = pick(&logits, &sampling, &Seed([1; 32]), t);
            other_seed += u32::from(margin(&logits, &sampling, &Seed([2; 32]), t, chosen, 0.05) > 0.05);
            let hot = Sampling { temperature: 1.3, ..sampling };
            other_temperature += u32::from(margin(&logits, &hot, &Seed([1; 32]), t, chosen, 0.05) > 0.05);
        }
        assert!(other_seed > 150, "{other_seed}");
        assert!(other_temperature > 3, "{other_temperature}");
    }

    #[test]
    fn sampled_tokens_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0];
        let sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let mut counts = [0_u32; 3];
        for t in 0..30_000 {
            counts[pick(&logits, &sampling, &Seed([5; 32]), t) as usize] += 1;
        }
        for (id, count) in counts.iter().enumerate() {
            let expected = libm::expf(log_prob(&logits, id as u32));
            assert!((f64::from(*count) / 30_000.0 - f64::from(expected)).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_and_bytes_return() {
        let good = Sampling { temperature: 0.7, top_p: 0.9, top_k: 40, min_p: 0.05 };
        assert_eq!(Sampling::from_bytes(&good.to_bytes()), Ok(good));
        for value in [-0.0, -1.0, 2.1, f32::INFINITY, f32::NAN] {
            assert!(Sampling { temperature: value, ..good }.validated().is_err(), "{value}");
        }
        assert_eq!(Sampling { top_p: 1.5, ..good }.validated(), Err(Error::TopP { value: 1.5 }));
        assert_eq!(Sampling { min_p: -0.5, ..good }.validated(), Err(Error::MinP { value: -0.5 }));
    }

    #[test]
    fn logits_that_are_no_numbers_never_win() {
        let logits = [f32::NAN, 1.0, f32::NEG_INFINITY, 0.5];
        for t in 0..50 {
            let sampling = settings(t);
            assert!([1, 3].contains(&pick(&logits, &sampling, &Seed::default(), t)), "{sampling:?}");
        }
        assert_eq!(pick(&[], &Sampling::GREEDY, &Seed::default(), 0), 0);
        assert_eq!(pick(&[], &settings(1), &Seed::default(), 0), 0);
    }

    #[test]
    fn the_byte_of_a_log_probability_covers_its_range() {
        let bytes = [0.0, -0.0, -1.0, -16.0, -99.0, 0.1, f32::NAN, f32::NEG_INFINITY].map(log_prob_byte);
        assert_eq!(bytes, [0, 0, 64, 255, 255, 0, 255, 255]);
    }
}
