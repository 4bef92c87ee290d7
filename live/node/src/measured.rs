//! What scoring an output says of the attempt that it is of: the numbers of a verdict, whoever asks for them.

use crate::calibrate;
use ol_engine::Scores;
use ol_protocol::commitment::Finish;
use ol_protocol::digest::{output_root, vectors_root};
use ol_protocol::{Digest, Salt};

pub(crate) struct Measured {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) output: Digest,
    pub(crate) worst_micro: u32,
    pub(crate) sum_micro: u64,
    pub(crate) finish_fits: bool,
    pub(crate) output_tokens: u32,
    pub(crate) scored: u32,
}

impl Measured {
    /// Of the part of a text that comes after `resumed_from` tokens: what an earlier attempt is answerable for is not this one's.
    pub(crate) fn text(salt: &Salt, output: &[u32], resumed_from: u32, finish: Finish, scores: &Scores) -> Self {
        let own = own(scores, resumed_from);
        let added = output.len().saturating_sub(resumed_from as usize);
        Self {
            prompt_ids: scores.prompt_ids.clone(),
            output: output_root(salt, output),
            worst_micro: own.iter().map(|margin| calibrate::micro(*margin)).max().unwrap_or(0),
            sum_micro: calibrate::clipped_sum_micro(own),
            // A cancelled attempt stops wherever it was.
            finish_fits: finish == Finish::Cancelled || scores.finish_fits,
            output_tokens: u32::try_from(added).unwrap_or(u32::MAX),
            scored: u32::try_from(own.len()).unwrap_or(u32::MAX),
        }
    }

    /// Of vectors, which have no output tokens.
    pub(crate) fn vectors(salt: &Salt, vectors: &[Vec<f32>], prompt_ids: Vec<u32>, worst_micro: u32) -> Self {
        let output = vectors_root(salt, vectors);
        Self { prompt_ids, output, worst_micro, sum_micro: 0, finish_fits: true, output_tokens: 0, scored: 0 }
    }
}

/// The margins of those checked tokens that an attempt added.
pub(crate) fn own(scores: &Scores, resumed_from: u32) -> &[f32] {
    scores.margins.get(resumed_from as usize..).unwrap_or_default()
}
