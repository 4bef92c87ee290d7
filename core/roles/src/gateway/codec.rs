//! What an event log holds of a gateway: what it started from and every input, in canonical bytes, so that the same
//! machine can be fed the same events again.
//!
//! Signatures that were checked before an input was made are not checked again: a log is replayed by who recorded it.

use super::Setup;
use super::event::{Input, Match, Submission, TrustFloor};
use crate::node::FailCode;
use crate::settler::{Fault, Settler};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_protocol::batch::{BATCH_MAX, BatchHeader, SignedBatch, VerifiedBatch};
use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::Commitment;
use ol_protocol::evidence::Evidence;
use ol_protocol::parameters::ParameterChange;
use ol_protocol::prf::Seed;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::seal::Seal;
use ol_protocol::top_up::Slice;
use ol_protocol::variant::Assurance;
use ol_protocol::verdict::Verdict;
use ol_protocol::{
    AuditId, Digest, GatewayId, MicroCredits, Micros, NodeId, OperatorId, Price, Region, TaskId, TenantId, Timestamp,
    TokenCount, VariantId,
};
use ol_sched::residency::PREFIXES_MAX;
use ol_sched::{Limits, Prefix, Rule, Tier, Where};

/// Most variants of a node that are read: far more than one can offer.
const VARIANTS_MAX: usize = 65_536;

/// Longest order that is read, in bytes: what a node sends back may be longer than what it was given.
const ORDER_BYTES_MAX: usize = 65_536;

/// Longest signed batch that is read, in bytes.
const BATCH_BYTES_MAX: usize = BatchHeader::BYTES + 64 + BATCH_MAX * Commitment::BYTES;

/// Longest record that is read, in bytes: evidence is the longest, and has its own limit.
const RECORD_BYTES_MAX: usize = 65_535;

/// Version of these bytes.
const VERSION: u16 = 4;

/// What a gateway started from: a snapshot, if there was one, and the records after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// When it started.
    pub now: Timestamp,
    /// Its key.
    pub gateway: GatewayId,
    /// Its secret.
    pub master: [u8; 32],
    /// Seed of near-tie randomisation.
    pub seed: Seed,
    /// The settler right after some close; without one the records begin with the genesis.
    pub snapshot: Option<Vec<u8>>,
    /// Records after that close.
    pub records: Vec<Record>,
    /// The next batch of each node that the log has batches of.
    pub next_batch: BTreeMap<NodeId, u64>,
    /// Time limits of attempts.
    pub limits: Limits,
}

impl Origin {
    /// Replays the records: what [`super::Gateway::new`] takes.
    pub fn setup(self) -> Result<Setup, Fault> {
        let Self { gateway, master, seed, snapshot, records, next_batch, limits, .. } = self;
        let settler = Settler::from_log(snapshot.as_deref(), records)?;
        Ok(Setup { gateway, master, seed, settler, next_batch, limits, rule: Rule::Cost })
    }

    /// Canonical bytes. They hold the gateway's secret.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(VERSION).u64(self.now.0).raw(&self.gateway.0).raw(&self.master).raw(&self.seed.0);
        w.u8(u8::from(self.snapshot.is_some())).bytes(self.snapshot.as_deref().unwrap_or_default());
        w.u64(self.records.len() as u64);
        for record in &self.records {
            w.bytes(&record.to_bytes());
        }
        w.u64(self.next_batch.len() as u64);
        for (node, next) in &self.next_batch {
            w.raw(&node.0).u64(*next);
        }
        let Limits { first_token, between_tokens, total, output_max } = self.limits;
        w.u64(first_token.0).u64(between_tokens.0).u64(total.0).u32(output_max.0);
        w.finish()
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        match r.u16()? {
            VERSION => {}
            other => return Err(Error::Unknown { what: "version of a gateway's setup", value: u64::from(other) }),
        }
        let (now, gateway) = (Timestamp(r.u64()?), GatewayId(r.array()?));
        let (master, seed) = (r.array()?, Seed(r.array()?));
        let known = truth(&mut r)?;
        let snapshot = r.bytes("snapshot", usize::MAX)?;
        let snapshot = known.then(|| snapshot.to_vec());
        let records = read_records(&mut r)?;
        let count = r.u64()?;
        let next_batch = (0..count).map(|_| Ok((NodeId(r.array()?), r.u64()?))).collect::<Result<_, _>>()?;
        let limits = Limits {
            first_token: Micros(r.u64()?),
            between_tokens: Micros(r.u64()?),
            total: Micros(r.u64()?),
            output_max: TokenCount(r.u32()?),
        };
        r.finish()?;
        Ok(Self { now, gateway, master, seed, snapshot, records, next_batch, limits })
    }
}

fn read_records(r: &mut Reader<'_>) -> Result<Vec<Record>, Error> {
    let count = r.u64()?;
    (0..count).map(|_| Record::from_bytes(r.bytes("record", RECORD_BYTES_MAX)?)).collect()
}

fn truth(r: &mut Reader<'_>) -> Result<bool, Error> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::Unknown { what: "truth value", value: u64::from(other) }),
    }
}

impl Input {
    /// Canonical bytes: a tag, then what the case holds.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::NodeJoined { node, operator, referee, variants, region } => {
                w.u8(0).raw(&node.0).raw(&operator.0).u8(u8::from(*referee));
                Region::write(*region, &mut w);
                w.u32(variants.len() as u32);
                variants.iter().fold(&mut w, |w, variant| w.raw(&variant.0))
            }
            Self::NodeLeft { node } => w.u8(1).raw(&node.0),
            Self::NodeDraining { node } => w.u8(2).raw(&node.0),
            Self::Granted { node, variant, total } => w.u8(3).raw(&node.0).raw(&variant.0).u64(*total),
            Self::Withdrawn { node, variant, total } => w.u8(26).raw(&node.0).raw(&variant.0).u64(*total),
            Self::RoundTrip { node, took } => w.u8(4).raw(&node.0).u64(took.0),
            Self::Submitted(submission) => write_submission(w.u8(5), submission),
            Self::Started { node, attempt, prompt_tokens, resident_tokens } => {
                write_attempt(w.u8(6).raw(&node.0), attempt).u32(prompt_tokens.0).u32(resident_tokens.0)
            }
            Self::Progress { node, attempt, count, added } => {
                write_attempt(w.u8(7).raw(&node.0), attempt).u32(count.0).u32(added.0)
            }
            Self::Done { node, commitment, relayed } => {
                w.u8(8).raw(&node.0).raw(&commitment.to_bytes()).raw(&relayed.0)
            }
            Self::Failed { node, attempt, code } => write_attempt(w.u8(9).raw(&node.0), attempt).u8(fail_code(*code)),
            Self::ClientGone { task } => w.u8(10).raw(&task.0),
            Self::Responded { task, response } => w.u8(11).raw(&task.0).raw(&response.0),
            Self::Batch { batch, orders, matches } => {
                w.u8(12).bytes(&batch.batch().to_bytes()).u32(orders.len() as u32);
                let w = orders.iter().fold(&mut w, |w, order| w.bytes(order));
                matches.iter().fold(w.u32(matches.len() as u32), write_match)
            }
            Self::Durable { append } => w.u8(13).u64(*append),
            Self::Verdict { node, verdict, agrees } => {
                w.u8(14).raw(&node.0).raw(&verdict.to_bytes()).u8(u8::from(*agrees))
            }
            Self::Sealed { node, seal } => w.u8(25).raw(&node.0).raw(&seal.to_bytes()),
            Self::AuditRefused { node, audit } => w.u8(15).raw(&node.0).raw(&audit.0),
            Self::PayloadLost { audit } => w.u8(16).raw(&audit.0),
            Self::TopUp(slice) => w.u8(17).bytes(&slice.to_bytes()),
            Self::Change(change) => w.u8(20).raw(&change.to_bytes()),
            Self::Calibrated(calibration) => w.u8(22).raw(&calibration.to_bytes()),
            Self::NoFunds { tenant, is_unknown } => w.u8(21).raw(&tenant.0).u8(u8::from(*is_unknown)),
            Self::Evidence(evidence) => w.u8(23).raw(&evidence.to_bytes()),
            Self::Published { tenant, task } => w.u8(24).raw(&tenant.0).raw(&task.0),
            Self::Misbehaved { node } => w.u8(18).raw(&node.0),
            Self::Tick => w.u8(19),
        };
        w.finish()
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let input = Self::read(&mut r)?;
        r.finish()?;
        Ok(input)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match r.u8()? {
            0 => Self::read_joined(r)?,
            1 => Self::NodeLeft { node: node(r)? },
            2 => Self::NodeDraining { node: node(r)? },
            3 => Self::Granted { node: node(r)?, variant: VariantId(r.array()?), total: r.u64()? },
            26 => Self::Withdrawn { node: node(r)?, variant: VariantId(r.array()?), total: r.u64()? },
            4 => Self::RoundTrip { node: node(r)?, took: Micros(r.u64()?) },
            5 => Self::Submitted(read_submission(r)?),
            6 => Self::read_started(r)?,
            7 => Self::Progress { node: node(r)?, attempt: attempt(r)?, count: tokens(r)?, added: tokens(r)? },
            8 => Self::Done { node: node(r)?, commitment: Commitment::read(r)?, relayed: Digest(r.array()?) },
            9 => Self::Failed { node: node(r)?, attempt: attempt(r)?, code: read_fail_code(r)? },
            10 => Self::ClientGone { task: TaskId(r.array()?) },
            11 => Self::Responded { task: TaskId(r.array()?), response: Digest(r.array()?) },
            12 => Self::read_batch(r)?,
            13 => Self::Durable { append: r.u64()? },
            14 => Self::Verdict { node: node(r)?, verdict: Verdict::read(r)?, agrees: truth(r)? },
            25 => Self::Sealed { node: node(r)?, seal: Seal::read(r)? },
            15 => Self::AuditRefused { node: node(r)?, audit: AuditId(r.array()?) },
            16 => Self::PayloadLost { audit: AuditId(r.array()?) },
            17 => Self::TopUp(Slice::from_bytes(r.bytes("top-up", RECORD_BYTES_MAX)?)?),
            20 => Self::Change(ParameterChange::read(r)?),
            22 => Self::Calibrated(Box::new(Calibration::read(r)?)),
            23 => Self::Evidence(Evidence::read(r)?),
            24 => Self::Published { tenant: TenantId(r.array()?), task: TaskId(r.array()?) },
            21 => Self::NoFunds { tenant: TenantId(r.array()?), is_unknown: truth(r)? },
            18 => Self::Misbehaved { node: node(r)? },
            19 => Self::Tick,
            other => return Err(Error::Unknown { what: "input of a gateway", value: u64::from(other) }),
        })
    }

    fn read_joined(r: &mut Reader<'_>) -> Result<Self, Error> {
        let (node, operator, referee, region) = (node(r)?, OperatorId(r.array()?), truth(r)?, Region::read(r)?);
        let count = count(r, "list of variants", VARIANTS_MAX)?;
        let variants = (0..count).map(|_| r.array().map(VariantId)).collect::<Result<_, _>>()?;
        Ok(Self::NodeJoined { node, operator, referee, variants, region })
    }

    fn read_started(r: &mut Reader<'_>) -> Result<Self, Error> {
        let (node, attempt) = (node(r)?, attempt(r)?);
        Ok(Self::Started { node, attempt, prompt_tokens: tokens(r)?, resident_tokens: tokens(r)? })
    }

    fn read_batch(r: &mut Reader<'_>) -> Result<Self, Error> {
        let batch = SignedBatch::from_bytes(r.bytes("batch", BATCH_BYTES_MAX)?)?;
        let count = count(r, "list of orders", BATCH_MAX)?;
        let order = |_| r.bytes("order", ORDER_BYTES_MAX).map(<[u8]>::to_vec);
        let orders = (0..count).map(order).collect::<Result<_, _>>()?;
        let count = self::count(r, "list of matches", BATCH_MAX)?;
        let matches = (0..count).map(|_| read_match(r)).collect::<Result<_, _>>()?;
        Ok(Self::Batch { batch: VerifiedBatch::trusted(batch), orders, matches })
    }
}

fn write_match<'w>(w: &'w mut Writer, held: &Match) -> &'w mut Writer {
    match held {
        Match::Unknown => w.u8(0),
        Match::Until(count) => w.u8(1).u32(count.0),
        Match::Other => w.u8(2),
    }
}

fn read_match(r: &mut Reader<'_>) -> Result<Match, Error> {
    match r.u8()? {
        0 => Ok(Match::Unknown),
        1 => Ok(Match::Until(tokens(r)?)),
        2 => Ok(Match::Other),
        other => Err(Error::Unknown { what: "match", value: u64::from(other) }),
    }
}

fn node(r: &mut Reader<'_>) -> Result<NodeId, Error> {
    r.array().map(NodeId)
}

fn attempt(r: &mut Reader<'_>) -> Result<AttemptId, Error> {
    Ok(AttemptId { task: TaskId(r.array()?), attempt: r.u8()? })
}

fn tokens(r: &mut Reader<'_>) -> Result<TokenCount, Error> {
    r.u32().map(TokenCount)
}

fn count(r: &mut Reader<'_>, what: &'static str, max: usize) -> Result<usize, Error> {
    match r.u32()? as usize {
        length if length > max => Err(Error::TooLong { what, length, max }),
        length => Ok(length),
    }
}

fn write_attempt<'a>(w: &'a mut Writer, id: &AttemptId) -> &'a mut Writer {
    w.raw(&id.task.0).u8(id.attempt)
}

fn write_submission<'a>(w: &'a mut Writer, submission: &Submission) -> &'a mut Writer {
    let Submission { task, tenant, variant, prompt_tokens_max, output_tokens_max, price, .. } = submission;
    let Submission { deadline, request, public, floor, max_price, prefixes, .. } = submission;
    w.raw(&task.0).raw(&tenant.0).raw(&variant.0).u32(prompt_tokens_max.0).u32(output_tokens_max.0);
    w.u64(price.prompt_per_million.0)
        .u64(price.output_per_million.0)
        .u64(deadline.0)
        .raw(&request.0)
        .u8(u8::from(*public));
    match floor {
        None => w.u8(0),
        Some(TrustFloor { value_ppm, assurance }) => w.u8(1).u32(*value_ppm).u8(assurance.to_byte()),
    };
    match max_price {
        None => w.u8(0),
        Some(max) => w.u8(1).u64(max.0),
    };
    w.u8(u8::from(submission.place.bound().is_some()));
    Region::write(submission.place.region(), w);
    w.u8(tier_code(submission.tier));
    prefixes.iter().fold(w.u32(prefixes.len() as u32), |w, prefix| w.raw(&prefix.digest.0).u32(prefix.tokens.0))
}

fn read_submission(r: &mut Reader<'_>) -> Result<Submission, Error> {
    Ok(Submission {
        task: TaskId(r.array()?),
        tenant: TenantId(r.array()?),
        variant: VariantId(r.array()?),
        prompt_tokens_max: tokens(r)?,
        output_tokens_max: tokens(r)?,
        price: Price { prompt_per_million: MicroCredits(r.u64()?), output_per_million: MicroCredits(r.u64()?) },
        deadline: Micros(r.u64()?),
        request: Digest(r.array()?),
        public: truth(r)?,
        floor: match truth(r)? {
            false => None,
            true => Some(TrustFloor { value_ppm: r.u32()?, assurance: Assurance::from_byte(r.u8()?)? }),
        },
        max_price: match truth(r)? {
            false => None,
            true => Some(MicroCredits(r.u64()?)),
        },
        place: read_place(r)?,
        tier: read_tier(r)?,
        prefixes: read_prefixes(r)?,
    })
}

fn read_place(r: &mut Reader<'_>) -> Result<Where, Error> {
    match (truth(r)?, Region::read(r)?) {
        (false, None) => Ok(Where::Anywhere),
        (false, Some(region)) => Ok(Where::Preferably(region)),
        (true, Some(region)) => Ok(Where::Only(region)),
        (true, None) => Err(Error::Unknown { what: "place of a task", value: 1 }),
    }
}

const fn tier_code(tier: Tier) -> u8 {
    match tier {
        Tier::Standard => 0,
        Tier::Two => 1,
        Tier::Three => 2,
    }
}

fn read_tier(r: &mut Reader<'_>) -> Result<Tier, Error> {
    match r.u8()? {
        0 => Ok(Tier::Standard),
        1 => Ok(Tier::Two),
        2 => Ok(Tier::Three),
        other => Err(Error::Unknown { what: "tier", value: u64::from(other) }),
    }
}

fn read_prefixes(r: &mut Reader<'_>) -> Result<Vec<Prefix>, Error> {
    let count = count(r, "list of prefixes", PREFIXES_MAX)?;
    (0..count).map(|_| Ok(Prefix { digest: Digest(r.array()?), tokens: tokens(r)? })).collect()
}

const fn fail_code(code: FailCode) -> u8 {
    match code {
        FailCode::Invalid => 0,
        FailCode::Overloaded => 1,
        FailCode::Draining => 2,
        FailCode::UnknownVariant => 3,
        FailCode::Internal => 4,
    }
}

fn read_fail_code(r: &mut Reader<'_>) -> Result<FailCode, Error> {
    Ok(match r.u8()? {
        0 => FailCode::Invalid,
        1 => FailCode::Overloaded,
        2 => FailCode::Draining,
        3 => FailCode::UnknownVariant,
        4 => FailCode::Internal,
        other => return Err(Error::Unknown { what: "reason of a failure", value: u64::from(other) }),
    })
}
