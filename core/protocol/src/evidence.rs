//! What opens a commitment that its own node's variant refutes: with it anyone can run the model and see.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::commitment::Commitment;
use crate::digest::{output_root, prompt_digest};
use crate::id::{Salt, TaskId};
use crate::prf::Seed;
use crate::record::AttemptId;
use crate::seed::seed_digest;
use alloc::vec::Vec;

/// Longest evidence in bytes: a record has to fit into an entry of a log tile, whose length is a `u16`.
pub const EVIDENCE_BYTES_MAX: usize = 60_000;

/// Longest name of a template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 16;

/// Longest sampling parameters, in bytes: four stop strings of 256 bytes, several times over.
const PARAMETERS_BYTES_MAX: usize = 4_096;

/// The content of an attempt that the referee found bad, opened for everybody. It needs no signature: either it is what
/// the node committed to, or it says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Which attempt.
    pub subject: AttemptId,
    /// The salt of the task's digests.
    pub salt: Salt,
    /// The sampling seed.
    pub seed: Seed,
    /// The name of the template that rendered the prompt.
    pub template: Vec<u8>,
    /// What decides an output beside prompt and seed, in canonical bytes.
    pub parameters: Vec<u8>,
    /// Rendered prompt ids.
    pub prompt: Vec<u32>,
    /// Output ids of the task so far.
    pub output: Vec<u32>,
}

// It may be published, and still is a prompt.
impl core::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Evidence({}, {} + {} tokens)", self.subject.task, self.prompt.len(), self.output.len())
    }
}

impl Evidence {
    /// Whether this is the content that the commitment is to: its attempt, prompt, parameters, seed and output. A hash for each 32
    /// tokens of output, and three.
    pub fn opens(&self, commitment: &Commitment) -> bool {
        let subject = AttemptId { task: commitment.task, attempt: commitment.attempt };
        self.subject == subject
            && prompt_digest(&self.salt, &self.prompt, &self.template, &self.parameters) == commitment.prompt
            && seed_digest(&self.salt, &self.seed) == commitment.seed
            && output_root(&self.salt, &self.output) == commitment.output
    }

    /// Whether it can be a record.
    pub fn fits(&self) -> bool {
        let short = self.template.len() <= TEMPLATE_BYTES_MAX && self.parameters.len() <= PARAMETERS_BYTES_MAX;
        short && self.to_bytes().len() <= EVIDENCE_BYTES_MAX
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.subject.task.0).u8(self.subject.attempt).raw(&self.salt.0).raw(&self.seed.0);
        w.bytes(&self.template).bytes(&self.parameters);
        for ids in [&self.prompt, &self.output] {
            w.u32(u32::try_from(ids.len()).unwrap_or(u32::MAX));
            ids.iter().fold(&mut w, |w, id| w.u32(*id));
        }
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        let subject = AttemptId { task: TaskId(r.array()?), attempt: r.u8()? };
        let (salt, seed) = (Salt(r.array()?), Seed(r.array()?));
        let template = r.bytes("template", TEMPLATE_BYTES_MAX)?.to_vec();
        let parameters = r.bytes("sampling parameters", PARAMETERS_BYTES_MAX)?.to_vec();
        let (prompt, output) = (read_ids(r)?, read_ids(r)?);
        let evidence = Self { subject, salt, seed, template, parameters, prompt, output };
        let length = evidence.to_bytes().len();
        match length > EVIDENCE_BYTES_MAX {
            true => Err(Error::TooLong { what: "evidence", length, max: EVIDENCE_BYTES_MAX }),
            false => Ok(evidence),
        }
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let evidence = Self::read(&mut r)?;
        r.finish()?;
        Ok(evidence)
    }
}

fn read_ids(r: &mut Reader<'_>) -> Result<Vec<u32>, Error> {
    let length = r.u32()? as usize;
    if length > EVIDENCE_BYTES_MAX / 4 {
        return Err(Error::TooLong { what: "list of tokens", length, max: EVIDENCE_BYTES_MAX / 4 });
    }
    (0..length).map(|_| r.u32()).collect()
}
