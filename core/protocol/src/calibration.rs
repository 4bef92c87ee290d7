//! What honest answers of one variant look like when another variant scores them, measured by the referee. It decides what
//! an audit's measurements say; without it they say nothing.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{NetworkId, NodeId, VariantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::{Timestamp, TokenCount};
use alloc::vec::Vec;

/// Bins of an answer's mean margin.
pub const BINS: usize = 10;

/// Classes of answers by their length.
pub const LENGTHS: usize = 4;

/// Groups of sampling settings that are counted apart: temperature 0, no truncation, top-k, top-p or min-p.
pub const SETTINGS: usize = 3;

/// Most that one token adds to a sum of margins, in millionths of a nat: a single token says no more than that it is wrong.
pub const MARGIN_CLIP_MICRO: u32 = 1_000_000;

/// The bin of a mean margin (for vectors, a deviation) in millionths: 0 alone, then up to 16, and four times as far with each.
pub const fn bin(mean_micro: u64) -> usize {
    let quarters = match mean_micro {
        0 => return 0,
        micro => (u64::BITS - ((micro - 1) >> 4).leading_zeros()).div_ceil(2) as usize,
    };
    if quarters + 1 < BINS { quarters + 1 } else { BINS - 1 }
}

/// The class of an answer's scored tokens: under 8, 32, 128, and more. The fewer, the further a mean is spread.
pub const fn length_class(scored: TokenCount) -> usize {
    match scored.0 {
        0..=7 => 0,
        8..=31 => 1,
        32..=127 => 2,
        _ => 3,
    }
}

/// Answers of one class of lengths, by the bin of their mean margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Honest answers, by settings.
    pub honest: [[u32; BINS]; SETTINGS],
    /// Answers of cheats, as many of each kind.
    pub cheats: [u32; BINS],
}

/// Measured distributions of one pair of prover and verifier. A later one replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// The network.
    pub network: NetworkId,
    /// Who vouches for it: the network's referee.
    pub referee: NodeId,
    /// The variant whose answers are scored.
    pub prover: VariantId,
    /// The variant that scores them.
    pub verifier: VariantId,
    /// When it was measured.
    pub measured_at: Timestamp,
    /// Within so many millionths of a nat of a truncation's boundary, a token counts as the prover needs it.
    pub tolerance_micro: u32,
    /// So many steps of the log-probability scale lie 99 in a hundred honest bytes of prover and verifier apart at most.
    pub log_prob_steps: u8,
    /// The answers, by [`length_class`].
    pub lengths: [Counts; LENGTHS],
    /// The referee's signature.
    pub signature: Signature,
}

impl Calibration {
    /// Length of the canonical bytes.
    pub const BYTES: usize = 2 + 4 * 32 + 8 + 4 + 1 + LENGTHS * (SETTINGS + 1) * BINS * 4 + 64;

    /// Signs it, replacing whatever signature it carries.
    pub fn sign(mut self, referee: &SecretKey) -> Self {
        self.signature = referee.sign(Domain::Calibration, &self.body());
        self
    }

    /// Checks the signature; whether the signer is the network's referee is the caller's to check.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.referee.0, Domain::Calibration, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "referee", what: "calibration" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let calibration = Self::read(&mut r)?;
        r.finish()?;
        Ok(calibration)
    }

    /// Reads canonical bytes from the front of `r`; the signature is not checked.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        let mut calibration = Self {
            network: NetworkId(r.array()?),
            referee: NodeId(r.array()?),
            prover: VariantId(r.array()?),
            verifier: VariantId(r.array()?),
            measured_at: Timestamp(r.u64()?),
            tolerance_micro: r.u32()?,
            log_prob_steps: r.u8()?,
            lengths: [Counts::default(); LENGTHS],
            signature: Signature([0; 64]),
        };
        for counts in &mut calibration.lengths {
            for count in counts.honest.iter_mut().flatten().chain(&mut counts.cheats) {
                *count = r.u32()?;
            }
        }
        calibration.signature = Signature(r.array()?);
        Ok(calibration)
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.network.0).raw(&self.referee.0).raw(&self.prover.0).raw(&self.verifier.0);
        w.u64(self.measured_at.0).u32(self.tolerance_micro).u8(self.log_prob_steps);
        for counts in &self.lengths {
            for count in counts.honest.iter().flatten().chain(&counts.cheats) {
                w.u32(*count);
            }
        }
        w.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_grow_fourfold() {
        let edges = [0, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144];
        for (at, edge) in edges.into_iter().enumerate() {
            assert_eq!((bin(edge), bin(edge + 1)), (at, at + 1), "{edge}");
        }
        assert_eq!((bin(1_048_577), bin(u64::MAX)), (BINS - 1, BINS - 1));
    }

    #[test]
    fn lengths_have_classes() {
        let classes = [0, 7, 8, 31, 32, 127, 128, u32::MAX].map(|tokens| length_class(TokenCount(tokens)));
        assert_eq!(classes, [0, 0, 1, 1, 2, 2, 3, 3]);
    }
}
