//! Sealed draws: which results are audited, and by whom, is fixed before the results are and known only afterwards.
//!
//! The gateway publishes the seal of an epoch's secret before the epoch, draws with the secret as roots come in, and
//! reveals it in the epoch's close, so that anyone can draw again.

use ol_protocol::digest::{Domain, digest};
use ol_protocol::{Digest, Epoch, NodeId, TokenCount};

/// A probability as a count out of 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chance(u64);

impl Chance {
    /// Nothing is drawn.
    pub const NEVER: Self = Self(0);
    /// Everything is drawn.
    pub const ALWAYS: Self = Self(1 << 32);

    /// Out of a million, rounded down; everything from a million on.
    pub const fn per_million(ppm: u32) -> Self {
        if ppm >= 1_000_000 { Self::ALWAYS } else { Self(((ppm as u64) << 32) / 1_000_000) }
    }

    /// Whether a number that is uniform over all of its values draws.
    pub const fn takes(self, number: u32) -> bool {
        (number as u64) < self.0
    }

    /// Out of a million, rounded up: gives back what [`Chance::per_million`] was given.
    pub const fn to_ppm(self) -> u32 {
        ((self.0 * 1_000_000).div_ceil(1 << 32)) as u32
    }
}

/// What is published of a secret before its epoch.
pub fn seal(secret: &[u8; 32]) -> Digest {
    digest(Domain::Draw, &[b"seal", secret])
}

/// The secret of an epoch, from one that is never revealed.
pub fn secret(master: &[u8; 32], epoch: Epoch) -> [u8; 32] {
    digest(Domain::Draw, &[b"secret", master, &epoch.0.to_le_bytes()]).0
}

/// Whether the result at `leaf` of a node's batch is audited. One hash.
pub fn drawn(secret: &[u8; 32], batch_root: &Digest, leaf: u16, chance: Chance) -> bool {
    let Digest([a, b, c, d, ..]) = digest(Domain::Draw, &[b"draw", secret, &batch_root.0, &leaf.to_le_bytes()]);
    chance.takes(u32::from_le_bytes([a, b, c, d]))
}

/// Tokens in a step of [`reach`].
const REACH_STEP: u32 = 32;

/// How far an audit of so many tokens may reach: multiples of 32, and all.
pub fn reaches(tokens: TokenCount) -> impl Iterator<Item = TokenCount> {
    (1..=tokens.0.div_ceil(REACH_STEP)).map(move |step| TokenCount(step.saturating_mul(REACH_STEP).min(tokens.0)))
}

/// How many of an output's tokens the audit of the result scores, from the first on: a multiple of 32 or all, each as likely. So a token is as likely to
/// be scored as there are tokens from it to the end, whatever part a node cheats in costs it as much for what it gains, and scoring costs half of
/// what all of a long output would. One hash.
pub fn reach(secret: &[u8; 32], batch_root: &Digest, leaf: u16, tokens: TokenCount) -> TokenCount {
    let parts: [&[u8]; 4] = [b"reach", secret, &batch_root.0, &leaf.to_le_bytes()];
    let Digest([a, b, c, d, ..]) = digest(Domain::Draw, &parts);
    let steps = u64::from(tokens.0.div_ceil(REACH_STEP));
    // Below `steps`, which is at most 2^27: uniform but for less than one part in 32.
    let step = (u64::from(u32::from_le_bytes([a, b, c, d])) * steps) >> 32;
    TokenCount((step as u32 + 1).saturating_mul(REACH_STEP).min(tokens.0))
}

/// An auditor's place in the order for one result: the lowest with an offer audits. One hash.
pub fn rank(secret: &[u8; 32], batch_root: &Digest, leaf: u16, auditor: &NodeId) -> u64 {
    let parts: [&[u8]; 5] = [b"rank", secret, &batch_root.0, &leaf.to_le_bytes(), &auditor.0];
    let Digest([a, b, c, d, e, f, g, h, ..]) = digest(Domain::Draw, &parts);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Clean audits beyond which more make no auditor likelier.
const MERIT_MAX: u32 = 99;

/// The weight of an operator in the draw of auditors: one, and one more for each clean audit of its nodes' own work, to a hundred. A new key costs
/// nothing and weighs next to nothing; many nodes weigh no more than a few.
pub fn merit(clean_audits: impl Iterator<Item = u32>) -> u64 {
    1 + u64::from(clean_audits.fold(0, u32::saturating_add).min(MERIT_MAX))
}

/// One of several, each with a chance in proportion to its weight; nothing if all weights are 0. One hash. `turn` counts the draws for one result.
pub fn pick<'a, T>(
    secret: &[u8; 32],
    batch_root: &Digest,
    leaf: u16,
    turn: u32,
    among: &'a [(T, u64)],
) -> Option<&'a T> {
    let parts: [&[u8]; 5] = [b"pick", secret, &batch_root.0, &leaf.to_le_bytes(), &turn.to_le_bytes()];
    let Digest([a, b, c, d, e, f, g, h, ..]) = digest(Domain::Draw, &parts);
    let number = u128::from(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    let total: u128 = among.iter().map(|(_, weight)| u128::from(*weight)).sum();
    // A uniform number of 64 bits in place of one below the total: the shares are off by less than 2^-50 for totals below 16,384.
    let mut left = (number * total) >> 64;
    among.iter().find_map(|(one, weight)| {
        let weight = u128::from(*weight);
        let is_it = left < weight;
        left = left.saturating_sub(weight);
        is_it.then_some(one)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    const SECRET: [u8; 32] = [7; 32];

    fn root(n: u16) -> Digest {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        Digest(bytes)
    }

    fn count(secret: &[u8; 32], chance: Chance) -> u32 {
        let leaves = (0..200).flat_map(|r| (0..256).map(move |leaf| (r, leaf)));
        leaves.filter(|(r, leaf)| drawn(secret, &root(*r), *leaf, chance)).count() as u32
    }

    #[test]
    fn results_are_drawn_as_often_as_the_chance_says() {
        let n = 200.0 * 256.0;
        for ppm in [10_000, 200_000, 500_000] {
            let p = f64::from(ppm) / 1e6;
            let drawn = f64::from(count(&SECRET, Chance::per_million(ppm)));
            // Five standard errors of a binomial.
            let bound = 5.0 * (n * p * (1.0 - p)).sqrt();
            assert!((drawn - n * p).abs() < bound, "{drawn} drawn, {} expected, bound {bound}", n * p);
        }
    }

    #[test]
    fn always_and_never_are_exact() {
        assert_eq!(count(&SECRET, Chance::ALWAYS), 200 * 256);
        assert_eq!(count(&SECRET, Chance::NEVER), 0);
        assert_eq!(Chance::per_million(1_000_000), Chance::ALWAYS);
        assert_eq!(Chance::per_million(u32::MAX), Chance::ALWAYS);
    }

    #[test]
    fn a_higher_chance_draws_all_that_a_lower_one_draws() {
        let (low, high) = (Chance::per_million(100_000), Chance::per_million(300_000));
        assert!(
            (0..=u16::MAX).all(|leaf| !drawn(&SECRET, &root(0), leaf, low) || drawn(&SECRET, &root(0), leaf, high))
        );
    }

    #[test]
    fn a_chance_gives_back_its_parts_per_million() {
        for ppm in [0, 1, 3, 20_000, 199_999, 200_000, 333_333, 999_999, 1_000_000] {
            assert_eq!(Chance::per_million(ppm).to_ppm(), ppm);
        }
    }

    #[test]
    fn every_epoch_has_its_own_secret_and_its_seal_reveals_no_other() {
        let first = secret(&SECRET, Epoch(1));
        assert_ne!(first, secret(&SECRET, Epoch(2)));
        assert_ne!(first, secret(&[8; 32], Epoch(1)));
        assert_ne!(seal(&first).0, first);
        assert_ne!(seal(&first), seal(&secret(&SECRET, Epoch(2))));
    }

    #[test]
    fn each_auditor_is_first_about_as_often_as_the_others() {
        let auditors: Vec<NodeId> = (0..5).map(|n| NodeId([n; 32])).collect();
        let mut first = [0u32; 5];
        for leaf in 0..10_000 {
            let winner = (0..5).min_by_key(|i| rank(&SECRET, &root(3), leaf, &auditors[*i]));
            first[winner.unwrap()] += 1;
        }
        // 2,000 expected of each; five standard errors are 200.
        assert!(first.iter().all(|n| n.abs_diff(2_000) < 200), "{first:?}");
    }

    #[test]
    fn an_audit_reaches_as_far_as_any_number_of_steps_equally_often() {
        let reached = |tokens| {
            let mut counts = alloc::collections::BTreeMap::new();
            (0..10_000).for_each(|leaf| {
                *counts.entry(reach(&SECRET, &root(5), leaf, TokenCount(tokens)).0).or_insert(0u32) += 1
            });
            counts
        };
        assert_eq!(reached(0).into_iter().collect::<Vec<_>>(), [(0, 10_000)]);
        assert_eq!(reached(31).into_iter().collect::<Vec<_>>(), [(31, 10_000)]);
        let counts = reached(130);
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [32, 64, 96, 128, 130]);
        // 2,000 expected of each; five standard errors are 200.
        assert!(counts.values().all(|n| n.abs_diff(2_000) < 200), "{counts:?}");
        assert_eq!(reach(&SECRET, &root(5), 1, TokenCount(u32::MAX)).0 % 32, 0);
    }

    #[test]
    fn operators_are_picked_by_their_merit_and_none_by_many_nodes() {
        let veteran = merit(core::iter::repeat_n(50, 40));
        assert_eq!((veteran, merit([99].into_iter()), merit(core::iter::empty())), (100, 100, 1));
        let among = [("veteran", veteran), ("another", 100), ("newcomer", 1), ("nobody", 0)];
        let picked = |name| (0..10_000).filter(|leaf| pick(&SECRET, &root(4), *leaf, 0, &among) == Some(&name)).count();
        let (veteran, newcomer) = (picked("veteran"), picked("newcomer"));
        // Five standard errors: 4,975 and 50 are expected.
        assert!(veteran.abs_diff(4_975) < 250 && newcomer.abs_diff(50) < 36, "{veteran} {newcomer}");
        assert_eq!((picked("nobody"), veteran + newcomer + picked("another")), (0, 10_000));
        assert_eq!(pick(&SECRET, &root(4), 0, 0, &[("nobody", 0)]), None);
        let turns: Vec<_> = (0..40).map(|turn| pick(&SECRET, &root(4), 0, turn, &among)).collect();
        assert!(turns.contains(&Some(&"veteran")) && turns.contains(&Some(&"another")));
    }

    // Computed with Python's hashlib from the description of the digests alone.
    #[test]
    fn seals_secrets_draws_and_ranks_have_fixed_values() {
        assert_eq!(seal(&SECRET).to_string(), "641fd4162f52c1e3d9a53084bdb3d7f11e23195d79cab421651bf9e4669b23e3");
        let third = Digest(secret(&SECRET, Epoch(3))).to_string();
        assert_eq!(third, "c5eef543382be8625a94fab5299c0cde5928211cf2e7587e6c278c42004aa736");
        let fifth = Chance::per_million(200_000);
        let leaves: Vec<u16> = (0..64).filter(|leaf| drawn(&SECRET, &root(9), *leaf, fifth)).collect();
        assert_eq!(leaves, [2, 4, 8, 10, 13, 16, 23, 30, 31, 39, 41, 43, 44, 50, 54, 55, 58, 62, 63]);
        assert_eq!(rank(&SECRET, &root(9), 258, &NodeId([1; 32])), 0x866506cb769d7c17);
        let picked = (0..8).filter_map(|turn| pick(&SECRET, &root(9), 258, turn, &[('a', 1), ('b', 3)]));
        assert_eq!(picked.collect::<alloc::string::String>(), "baabaabb");
    }
}
