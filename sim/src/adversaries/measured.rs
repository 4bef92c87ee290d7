//! How far the answers of each cheat lie from what the verifier computes, as it was measured.
//!
//! Source: pairs of the default model (smollm2-135m-instruct, embedded-f32/1) with a prover that cheats, 15 answers of up to 128
//! tokens each, seed 1, five of each group of sampling settings: `openledger calibrate` and `ol_engine::pair` with each
//! `ol_engine::cheat::Cheat`, as in docs/adr/0019. Each answer counts in the bin of its mean margin, clipped at a nat.

use crate::random::Random;
use ol_protocol::calibration::{BINS, Calibration, Counts, LENGTHS, SETTINGS};
use ol_protocol::key::Signature;
use ol_protocol::{NetworkId, NodeId, Timestamp, VariantId};

/// Tokens of the honest answers among them.
pub(super) const TOKENS: [usize; 15] = [35, 128, 113, 128, 128, 17, 35, 31, 55, 44, 32, 65, 75, 100, 128];

/// From this bin on every one of the 210 answers had one margin above 0.05 nats, and no other had.
const OVER_LIMIT: usize = 4;

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
const EXACT: Table = [[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]; SETTINGS];

/// Another arithmetic: an honest prover with the model's Q8_0 file, a verifier with its Q4_1 file.
const NOISY: Table = [[3, 0, 0, 1, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 3, 1, 0, 0, 0], [3, 0, 0, 0, 0, 2, 0, 0, 0, 0]];

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
                [[0, 0, 0, 0, 0, 0, 0, 0, 1, 4], [0, 0, 0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 0, 0, 5]]
            }
            Self::WrongSeed => {
                [[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 0, 3, 2]]
            }
            Self::FourBit => {
                [[0, 0, 0, 0, 0, 0, 0, 1, 4, 0], [0, 0, 0, 0, 0, 0, 0, 0, 3, 2], [0, 0, 0, 0, 0, 0, 0, 0, 4, 1]]
            }
            // Rounding the weights to Q8_0 gives what the Q8_0 file gives.
            Self::EightBit => NOISY,
            Self::Truncated => [[0, 0, 0, 0, 0, 0, 0, 5, 0, 0]; SETTINGS],
            Self::WarmerSampling => {
                [[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 2, 3, 0, 0], [1, 0, 0, 0, 1, 1, 0, 2, 0, 0]]
            }
            Self::OtherPrompt => {
                [[3, 0, 0, 1, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0, 1, 2, 0, 0], [0, 0, 0, 0, 0, 1, 3, 0, 1, 0]]
            }
            Self::OneInTen => {
                [[0, 0, 0, 0, 0, 0, 0, 5, 0, 0], [0, 0, 0, 0, 0, 0, 0, 3, 2, 0], [1, 0, 0, 0, 0, 0, 0, 4, 0, 0]]
            }
            Self::Gated => {
                [[0, 0, 0, 0, 0, 1, 2, 2, 0, 0], [1, 0, 0, 0, 0, 0, 1, 1, 2, 0], [2, 0, 0, 0, 0, 0, 1, 2, 0, 0]]
            }
            Self::Forged => {
                [[0, 0, 0, 0, 0, 0, 0, 1, 4, 0], [0, 0, 0, 0, 0, 0, 0, 0, 2, 3], [0, 0, 0, 0, 0, 0, 0, 1, 3, 1]]
            }
            Self::Cached => {
                [[1, 0, 0, 0, 0, 0, 0, 0, 1, 3], [0, 0, 0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 0, 0, 5]]
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

    /// Whether an answer with that mean fails by itself.
    pub(super) const fn fails_at_once(self, bin: usize) -> bool {
        match self {
            Self::SameVariant => bin >= OVER_LIMIT,
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
    fn every_cheat_was_measured_in_fifteen_answers() {
        for table in Kind::ALL.map(Kind::table).into_iter().chain([EXACT, NOISY]) {
            assert!(table.iter().all(|settings| settings.iter().sum::<u32>() == 5), "{table:?}");
        }
    }

    #[test]
    fn bins_are_sampled_by_their_shares() {
        let mut random = Random::new(1, Use::Adversaries);
        let narrow = (0..30_000).filter(|_| sample(&NOISY[1], &mut random) == 5).count();
        // Three of five; five standard errors are 424.
        assert!(narrow.abs_diff(18_000) < 424, "{narrow}");
    }

    #[test]
    fn noise_hides_no_wider_margin() {
        let mut random = Random::new(1, Use::Adversaries);
        let wide = |_| Verifier::OtherVariant.bin(Some(Kind::SmallModel), &mut random) >= 8;
        assert!((0..1_000).all(wide));
    }
}
