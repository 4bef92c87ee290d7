//! A small world to fill stores with: one gateway, two nodes, true signatures.

use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::merkle;
use ol_protocol::parameters::{AuditRule, EscrowRule, ParameterChange, Parameters, PayoutRule, Split};
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record, Ruling};
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NetworkId, NodeId, OperatorId, OwnerId, Price,
    TaskId, TenantId, Timestamp, TokenCount, VariantId,
};
use ol_store::{Appended, Identity, Note, Payload};

// Their own, so that other defaults leave the vectors alone.
const PARAMETERS: Parameters = Parameters {
    split: Split { node_bp: 8_500, verification_bp: 200, reserve_bp: 500, gateway_bp: 800 },
    audit: AuditRule {
        newcomer_tasks: 3,
        rate_ppm: 200_000,
        by_charge: false,
        deterrent: false,
        margin_micro_max: 50_000,
        cross_audit_operators_min: 5,
        pay_bp: 2_000,
    },
    escrow: EscrowRule { hold: Micros(3_600_000_000), tasks: 70 },
    payout: PayoutRule { threshold: MicroCredits(1_000_000) },
};

pub(crate) fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32])
}

pub(crate) fn gateway() -> GatewayId {
    GatewayId(key(1).public())
}

pub(crate) fn node(byte: u8) -> NodeId {
    NodeId(key(byte).public())
}

pub(crate) fn task(number: u64) -> TaskId {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    TaskId(bytes)
}

pub(crate) fn genesis() -> Genesis {
    Genesis {
        issuer: IssuerId(key(2).public()),
        referee: node(3),
        referee_operator: OperatorId(key(4).public()),
        born_at: Timestamp(1),
        epoch: Micros::from_secs(10),
        parameters: PARAMETERS,
        gateway: gateway(),
        owner: OwnerId([0; 32]),
        signature: Signature([0; 64]),
    }
    .of(gateway(), &owner())
}

pub(crate) fn owner() -> SecretKey {
    key(5)
}

pub(crate) fn network() -> NetworkId {
    genesis().network()
}

pub(crate) fn identity() -> Identity {
    Identity { network: Some(network()), gateway: gateway() }
}

pub(crate) fn top_up(serial: u64) -> Record {
    let (to, owner) = (TenantId([3; 16]), OwnerId(owner().public()));
    Record::TopUp(Slice::whole(TopUp::issue(&key(2), network(), owner, to, MicroCredits(1_000), serial)))
}

pub(crate) fn receipt(node_byte: u8, task: TaskId, attempt: u8) -> Receipt {
    let commitment = Commitment {
        network: network(),
        gateway: gateway(),
        node: node(node_byte),
        operator: OperatorId(key(4).public()),
        task,
        attempt,
        epoch: Epoch(0),
        variant: VariantId([5; 32]),
        sampler_version: 1,
        prompt: Digest([1; 32]),
        seed: Digest([2; 32]),
        output: Digest([3; 32]),
        log_probs: Digest([4; 32]),
        finish: Finish::Length,
        prompt_tokens: TokenCount(10),
        output_tokens: TokenCount(20),
        resumed_from: TokenCount(0),
        first_token: Micros(5),
        total: Micros(50),
    };
    let charge = Charge {
        tenant: TenantId([3; 16]),
        request: Digest([5; 32]),
        response: Digest([6; 32]),
        prompt_tokens: TokenCount(10),
        output_tokens: TokenCount(20),
        price: Price::default(),
        amount: MicroCredits(0),
        public: false,
        with_audit: false,
        region: None,
    };
    Receipt { commitment, charge }
}

/// Receipts and their batch record, signed by node and gateway.
pub(crate) fn batch(node_byte: u8, sequence: u64, receipts: Vec<Receipt>) -> Vec<Record> {
    let header = BatchHeader {
        network: network(),
        gateway: gateway(),
        node: node(node_byte),
        operator: OperatorId(key(4).public()),
        sequence,
        epoch: Epoch(0),
        count: 0,
        root: Digest([0; 32]),
    };
    let commitments = receipts.iter().map(|receipt| receipt.commitment.clone()).collect();
    let signed = SignedBatch::sign(&key(node_byte), header, commitments);
    let leaves: Vec<Digest> = receipts.iter().map(|receipt| merkle::leaf_hash(&receipt.to_bytes())).collect();
    let countersigned = CountersignedBatch::sign(&key(1), signed.header, signed.signature, merkle::root(&leaves));
    receipts.into_iter().map(Record::Receipt).chain([Record::Batch(countersigned)]).collect()
}

/// A batch of first attempts at tasks with the numbers from `first` on.
pub(crate) fn tasks(node_byte: u8, sequence: u64, first: u64, count: u64) -> Vec<Record> {
    batch(node_byte, sequence, (first..first + count).map(|number| receipt(node_byte, task(number), 0)).collect())
}

pub(crate) fn verdict(subject: AttemptId) -> Record {
    let verdict = Verdict {
        network: network(),
        audit: AuditId([8; 16]),
        auditor: node(3),
        operator: OperatorId(key(4).public()),
        level: Level::Referee,
        variant: VariantId([5; 32]),
        prompt: Digest([1; 32]),
        seed: Digest([2; 32]),
        output: Digest([3; 32]),
        log_probs: Digest([4; 32]),
        prompt_tokens: TokenCount(10),
        output_tokens: TokenCount(20),
        scored_tokens: TokenCount(20),
        worst_margin_micro: 7,
        margin_sum_micro: 70,
        finish_fits: true,
        signature: Signature([0; 64]),
    };
    Record::Audit {
        subject,
        outcome: AuditOutcome::Verdict { verdict: verdict.sign(&key(3)), ruling: Ruling::Unstated },
    }
}

pub(crate) fn change(from: u64) -> Record {
    Record::Parameters(ParameterChange::issue(&key(2), network(), Epoch(from), PARAMETERS))
}

pub(crate) fn close(epoch: u64) -> Record {
    Record::Close(Close {
        epoch: Epoch(epoch),
        at: Timestamp(epoch),
        draw_secret: [1; 32],
        nonce_secret: [2; 32],
        next_draw_seal: Digest([3; 32]),
        next_nonce_seal: Digest([4; 32]),
        state: Digest([5; 32]),
    })
}

/// The checkpoint over a log that ends with the close of an epoch.
pub(crate) fn note(epoch: u64, log: &Appended) -> Note {
    let checkpoint = Checkpoint {
        network: network(),
        gateway: gateway().0,
        size: log.size,
        root: log.root,
        epoch: Epoch(epoch),
        state: Digest([5; 32]),
        draw_seal: Digest([3; 32]),
        nonce_seal: Digest([4; 32]),
    };
    Note { epoch: Epoch(epoch), size: log.size, text: checkpoint.sign(&key(1)) }
}

pub(crate) fn payload(number: u64, created: u64) -> Payload {
    Payload {
        attempt: AttemptId { task: task(number), attempt: 0 },
        created: Timestamp(created),
        prompt: b"a very secret prompt".to_vec(),
        output: vec![9; 40],
    }
}

pub(crate) fn root_of(records: &[Record]) -> Digest {
    merkle::root(&records.iter().map(Record::leaf).collect::<Vec<_>>())
}
