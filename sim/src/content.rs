//! Modelled content: which node family made which part of an answer. Honest nodes of one variant give the same tokens,
//! so their parts are one.

use crate::world::VARIANT;
use ol_protocol::calibration::{self, Calibration, Counts};
use ol_protocol::digest::{Domain, digest, output_root, prompt_digest};
use ol_protocol::evidence::Evidence;
use ol_protocol::key::Signature;
use ol_protocol::prf::Seed;
use ol_protocol::record::AttemptId;
use ol_protocol::seed::seed_digest;
use ol_protocol::{Digest, NetworkId, NodeId, Salt, TaskId, Timestamp};

/// An honest answer's mean margin lies anywhere below this.
pub(crate) const HONEST_MARGINS_MICRO: usize = 256;

/// What the referee would have measured: three thousand such answers in each group of settings.
pub(crate) fn calibration(network: NetworkId, referee: NodeId) -> Calibration {
    let honest = [[12, 187, 563, 2_238, 0, 0, 0, 0, 0, 0]; calibration::SETTINGS];
    let counts = Counts { honest, cheats: [1, 1, 1, 1, 1, 1, 1, 300, 1, 1] };
    Calibration {
        network,
        referee,
        prover: VARIANT,
        verifier: VARIANT,
        measured_at: Timestamp(1),
        tolerance_micro: 50_000,
        log_prob_steps: 2,
        lengths: [counts; calibration::LENGTHS],
        signature: Signature([0; 64]),
    }
}

/// Who made tokens: 0 is every honest node.
pub(crate) type Maker = u64;

/// The honest maker.
pub(crate) const HONEST: Maker = 0;

/// An answer so far, as ends of parts with their makers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content(Vec<(u32, Maker)>);

impl Content {
    pub(crate) fn count(&self) -> u32 {
        self.0.last().map_or(0, |(end, _)| *end)
    }

    pub(crate) fn extend(&mut self, added: u32, maker: Maker) {
        let end = self.count() + added;
        match self.0.last_mut() {
            _ if added == 0 => {}
            Some(last) if last.1 == maker => last.0 = end,
            Some(_) | None => self.0.push((end, maker)),
        }
    }

    /// The first `count` tokens; `None` if there are fewer.
    pub(crate) fn first(&self, count: u32) -> Option<Self> {
        if count > self.count() {
            return None;
        }
        let mut first = Self::default();
        for &(end, maker) in &self.0 {
            let added = end.min(count).saturating_sub(first.count());
            first.extend(added, maker);
        }
        Some(first)
    }

    /// How many tokens at the front are the same in both.
    pub(crate) fn common(&self, other: &Self) -> u32 {
        let most = self.count().min(other.count());
        let ends = self.0.iter().chain(&other.0).map(|(end, _)| (*end).min(most));
        ends.filter(|end| self.first(*end) == other.first(*end)).max().unwrap_or(0)
    }

    /// How many tokens from `from` on are not honest.
    pub(crate) fn foreign_after(&self, from: u32) -> u32 {
        let mut begin = 0;
        let mut foreign = 0;
        for &(end, maker) in &self.0 {
            if maker != HONEST {
                foreign += end.saturating_sub(begin.max(from));
            }
            begin = end;
        }
        foreign
    }

    pub(crate) fn root(&self, task: &TaskId) -> Digest {
        output_root(&salt(task), &self.ids())
    }

    // Each part as its end and its maker.
    fn ids(&self) -> Vec<u32> {
        self.0.iter().flat_map(|(end, maker)| [*end, *maker as u32, (*maker >> 32) as u32]).collect()
    }

    /// What opens the commitment to this answer.
    pub(crate) fn evidence(&self, subject: AttemptId) -> Evidence {
        let task = &subject.task;
        let (template, parameters) = (TEMPLATE.to_vec(), Vec::new());
        let (prompt, output) = (Vec::new(), self.ids());
        Evidence { subject, salt: salt(task), seed: noise(task), template, parameters, prompt, output }
    }
}

const TEMPLATE: &[u8] = b"modelled";

fn salt(task: &TaskId) -> Salt {
    Salt(digest(Domain::Salt, &[&task.0]).0)
}

fn noise(task: &TaskId) -> Seed {
    Seed(digest(Domain::Nonce, &[&task.0]).0)
}

pub(crate) fn prompt(task: &TaskId) -> Digest {
    prompt_digest(&salt(task), &[], TEMPLATE, &[])
}

pub(crate) fn seed(task: &TaskId) -> Digest {
    seed_digest(&salt(task), &noise(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_parts_are_one_whoever_made_them() {
        let (mut whole, mut parts) = (Content::default(), Content::default());
        whole.extend(9, HONEST);
        parts.extend(4, HONEST);
        parts.extend(5, HONEST);
        assert_eq!(whole, parts);
        parts.extend(3, 7);
        assert_eq!((parts.foreign_after(0), parts.foreign_after(10)), (3, 2));
        assert_eq!(parts.first(9).as_ref(), Some(&whole));
        assert_eq!(parts.first(13), None);
        assert_eq!((parts.common(&whole), whole.common(&parts)), (9, 9));
        let mut other = Content::default();
        other.extend(4, HONEST);
        other.extend(9, 8);
        assert_eq!((parts.common(&other), parts.common(&Content::default())), (4, 0));
    }
}
