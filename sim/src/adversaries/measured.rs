//! How far the answers of each cheat lie from what the verifier computes, as it was measured.
//!
//! Source: pairs of the default model (smollm2-135m-instruct, embedded-f32/1) with a prover that cheats, 32 answers of up to 128
//! tokens each, seed 7, eleven or ten of each group of sampling settings: `openledger bench trust` (docs/bench/2026-11-verdicts.md). Each answer counts in the
//! bin of its mean margin, clipped at a nat.

use crate::random::Random;
use ol_protocol::calibration::{BINS, Calibration, Counts, LENGTHS, SETTINGS};
use ol_protocol::key::Signature;
use ol_protocol::{NetworkId, NodeId, Timestamp, VariantId};

/// Tokens of honest answers to the same tasks.
pub(super) const TOKENS: [usize; 32] = [
    47, 128, 128, 89, 128, 32, 32, 128, 20, 32, 128, 128, 13, 106, 45, 32, 32, 128, 128, 12, 32, 18, 32, 38, 12, 32,
    33, 23, 17, 128, 14, 32,
];

/// By bin, of all measured answers: without a margin above 0.05 nats, and with one.
const OVER_LIMIT: [[usize; 2]; BINS] =
    [[1_084, 0], [0, 0], [0, 0], [3, 0], [13, 4], [3, 22], [0, 9], [0, 83], [0, 87], [0, 108]];

/// As many honest answers of each group of settings as a calibration counts, in the shares that were measured.
const HONEST_ANSWERS: u32 = 1_000;

/// What an answer was made with, by its effect on the margins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    SmallModel,
    WrongSeed,
    FourBit,
    EightBit,
    Truncated,
    WarmerSampling,
    OtherPrompt,
    OneInTen,
    Gated,
    Forged,
    Cached,
}

type Table = [[u32; BINS]; SETTINGS];

/// The same arithmetic on both sides.
const EXACT: Table = [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]; SETTINGS];

/// Another arithmetic: an honest prover with the model's Q8_0 file, a verifier with its Q4_1 file.
const NOISY: Table = [[8, 0, 0, 0, 2, 1, 0, 0, 0, 0], [3, 0, 0, 0, 5, 2, 0, 1, 0, 0], [4, 0, 0, 1, 0, 4, 0, 1, 0, 0]];

impl Kind {
    pub(super) const ALL: [Self; 11] = [
        Self::SmallModel,
        Self::WrongSeed,
        Self::FourBit,
        Self::EightBit,
        Self::Truncated,
        Self::WarmerSampling,
        Self::OtherPrompt,
        Self::OneInTen,
        Self::Gated,
        Self::Forged,
        Self::Cached,
    ];

    // By settings: temperature 0, no truncation, truncation.
    const fn table(self) -> Table {
        match self {
            Self::SmallModel => {
                [[0, 0, 0, 0, 0, 0, 0, 0, 1, 10], [0, 0, 0, 0, 0, 0, 0, 0, 0, 11], [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]]
            }
            Self::WrongSeed => {
                [[11, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 3, 8], [0, 0, 0, 0, 0, 0, 0, 0, 1, 9]]
            }
            Self::FourBit => {
                [[1, 0, 0, 0, 0, 1, 0, 1, 7, 1], [0, 0, 0, 0, 0, 0, 0, 0, 8, 3], [0, 0, 0, 0, 0, 0, 0, 2, 7, 1]]
            }
            // Rounding the weights to Q8_0 gives what the Q8_0 file gives.
            Self::EightBit => NOISY,
            Self::Truncated => {
                [[3, 0, 0, 0, 0, 0, 0, 8, 0, 0], [1, 0, 0, 0, 0, 0, 0, 10, 0, 0], [0, 0, 0, 0, 0, 0, 0, 10, 0, 0]]
            }
            Self::WarmerSampling => {
                [[11, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 1, 0, 8, 0, 0], [0, 0, 0, 0, 1, 4, 4, 1, 0, 0]]
            }
            Self::OtherPrompt => {
                [[2, 0, 0, 0, 0, 1, 1, 1, 5, 1], [0, 0, 0, 0, 0, 1, 2, 7, 1, 0], [0, 0, 0, 0, 1, 2, 0, 6, 1, 0]]
            }
            Self::OneInTen => {
                [[6, 0, 0, 0, 0, 0, 1, 3, 1, 0], [3, 0, 0, 0, 0, 0, 0, 5, 3, 0], [0, 0, 0, 0, 0, 0, 0, 7, 3, 0]]
            }
            Self::Gated => {
                [[10, 0, 0, 0, 0, 0, 0, 0, 1, 0], [3, 0, 0, 0, 0, 0, 0, 4, 3, 1], [1, 0, 0, 0, 1, 1, 1, 5, 1, 0]]
            }
            Self::Forged => {
                [[0, 0, 0, 0, 0, 0, 0, 0, 8, 3], [0, 0, 0, 0, 0, 0, 0, 0, 3, 8], [0, 0, 0, 0, 0, 0, 0, 0, 6, 4]]
            }
            Self::Cached => {
                [[1, 0, 0, 0, 0, 0, 0, 0, 1, 9], [0, 0, 0, 0, 0, 0, 0, 0, 2, 9], [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]]
            }
        }
    }
}

/// Whose arithmetic the verifier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verifier {
    /// The prover's: honest margins are 0, and one above the limit fails at once.
    SameVariant,
    /// Another: honest margins are those of a Q8_0 file under a Q4_1 verifier, and only the bets convict.
    OtherVariant,
}

impl Verifier {
    const fn honest(self) -> Table {
        match self {
            Self::SameVariant => EXACT,
            Self::OtherVariant => NOISY,
        }
    }

    /// The bin of an answer made so, or of an honest one. With noise and cheat the wider of both counts.
    pub(super) fn bin(self, made: Option<Kind>, random: &mut Random) -> usize {
        let settings = random.below(SETTINGS);
        let honest = sample(&self.honest()[settings], random);
        made.map_or(honest, |kind| honest.max(sample(&kind.table()[settings], random)))
    }

    /// Whether an answer with that mean fails by itself: as many of a bin as were measured.
    pub(super) fn fails_at_once(self, bin: usize, random: &mut Random) -> bool {
        let [under, over] = OVER_LIMIT[bin];
        match self {
            Self::SameVariant => over > 0 && random.below(under + over) >= under,
            Self::OtherVariant => false,
        }
    }

    /// What the referee would have measured: honest answers in these shares, and all cheats mixed.
    pub(super) fn calibration(self) -> Calibration {
        let honest = self.honest().map(|settings| {
            let answers: u32 = settings.iter().sum();
            settings.map(|count| count * HONEST_ANSWERS / answers)
        });
        let mut cheats = [0; BINS];
        for settings in Kind::ALL.iter().flat_map(|kind| kind.table()) {
            cheats.iter_mut().zip(settings).for_each(|(sum, count)| *sum += count);
        }
        Calibration {
            network: NetworkId([1; 32]),
            referee: NodeId([2; 32]),
            prover: VariantId([3; 32]),
            verifier: VariantId([4; 32]),
            measured_at: Timestamp(0),
            tolerance_micro: 0,
            log_prob_steps: 2,
            lengths: [Counts { honest, cheats }; LENGTHS],
            signature: Signature([0; 64]),
        }
    }
}

fn sample(counts: &[u32; BINS], random: &mut Random) -> usize {
    let mut left = random.below(counts.iter().sum::<u32>() as usize) as u32;
    let reached = counts.iter().position(|count| {
        let here = left < *count;
        left = left.saturating_sub(*count);
        here
    });
    reached.unwrap_or(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Use;

    #[test]
    fn every_cheat_was_measured_in_as_many_answers() {
        for table in Kind::ALL.map(Kind::table).into_iter().chain([NOISY]) {
            assert_eq!(table.map(|settings| settings.iter().sum::<u32>()), [11, 11, 10], "{table:?}");
        }
    }

    #[test]
    fn the_limit_fails_wide_answers_and_no_exact_one() {
        let mut random = Random::new(1, Use::Adversaries);
        let mut failed =
            |verifier: Verifier, bin| (0..2_500).filter(|_| verifier.fails_at_once(bin, &mut random)).count();
        assert_eq!((failed(Verifier::SameVariant, 0), failed(Verifier::SameVariant, 7)), (0, 2_500));
        // 22 of 25; five standard errors are 81.
        assert!(failed(Verifier::SameVariant, 5).abs_diff(2_200) < 81);
        assert_eq!(failed(Verifier::OtherVariant, 9), 0);
    }

    #[test]
    fn bins_are_sampled_by_their_shares() {
        let mut random = Random::new(1, Use::Adversaries);
        let narrow = (0..30_000).filter(|_| sample(&NOISY[1], &mut random) == 5).count();
        // Two of eleven; five standard errors are 334.
        assert!(narrow.abs_diff(5_454) < 334, "{narrow}");
    }

    #[test]
    fn noise_hides_no_wider_margin() {
        let mut random = Random::new(1, Use::Adversaries);
        let wide = |_| Verifier::OtherVariant.bin(Some(Kind::SmallModel), &mut random) >= 8;
        assert!((0..1_000).all(wide));
    }
}
