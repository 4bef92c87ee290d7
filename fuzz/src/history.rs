//! A small log with every kind of record, as a gateway writes it.

use crate::formats::{genesis, vector, whole};
use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::calibration::Calibration;
use ol_protocol::key::SecretKey;
use ol_protocol::merkle::{leaf_hash, root};
use ol_protocol::parameters::ParameterChange;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record, Ruling};
use ol_protocol::tile::push_entry;
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::verdict::Verdict;
use ol_protocol::{AuditId, Digest, Epoch, Timestamp};
use ol_roles::Settler;
use ol_roles::settler::Reveal;
use ol_trust::draw;

/// The secret of every epoch.
const SECRET: [u8; 32] = [0x73; 32];

/// What every close reveals.
pub(crate) fn reveal() -> Reveal {
    let seal = draw::seal(&SECRET);
    Reveal { draw_secret: SECRET, nonce_secret: SECRET, next_draw_seal: seal, next_nonce_seal: seal }
}

/// A key of the examples: 1 is the issuer's, 2 the gateway's, 4 the node's, 5 the referee's.
pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32])
}

fn receipt(epoch: Epoch, attempt: u8) -> Receipt {
    let mut receipt = Receipt::from_bytes(&vector("receipt")).expect("it is a vector");
    receipt.commitment.epoch = epoch;
    receipt.commitment.attempt = attempt;
    receipt
}

fn batch(receipts: &[Receipt], sequence: u64) -> Record {
    let header = whole(&vector("batch header"), BatchHeader::read).expect("it is a vector");
    let header = BatchHeader { sequence, epoch: receipts[0].commitment.epoch, ..header };
    let signed = SignedBatch::sign(&key(4), header, receipts.iter().map(|it| it.commitment.clone()).collect());
    let leaves: Vec<Digest> = receipts.iter().map(|it| leaf_hash(&it.to_bytes())).collect();
    Record::Batch(CountersignedBatch::sign(&key(2), signed.header, signed.signature, root(&leaves)))
}

fn close(settler: &mut Settler, at: Timestamp) -> Record {
    let (epoch, reveal) = (settler.epoch(), reveal());
    settler.close(at, &reveal).expect("an open epoch closes");
    let Reveal { draw_secret, nonce_secret, next_draw_seal, next_nonce_seal } = reveal;
    let state = settler.digest();
    Record::Close(Close { epoch, at, draw_secret, nonce_secret, next_draw_seal, next_nonce_seal, state })
}

/// The records, and the accounts after them.
pub(crate) fn records() -> (Vec<Record>, Settler) {
    let genesis = genesis();
    let (born, length) = (genesis.born_at.0, genesis.epoch.0);
    let mut records = vec![Record::Genesis(genesis)];
    let mut settler = Settler::begin(&records[0]).expect("the vector is a genesis");
    let verdict = Verdict::from_bytes(&vector("verdict")).expect("it is a vector");
    let change = whole(&vector("change of parameters"), ParameterChange::read).expect("it is a vector");
    let first = [receipt(settler.epoch(), 0), receipt(settler.epoch(), 1)];
    let id = |attempt| AttemptId { task: first[0].commitment.task, attempt };
    let mut epoch = vec![
        Record::TopUp(Slice::whole(TopUp::from_bytes(&vector("top-up")).expect("it is a vector"))),
        Record::Parameters(change),
        Record::Receipt(first[0].clone()),
        Record::Receipt(first[1].clone()),
        batch(&first, 0),
        Record::Calibration(Calibration::from_bytes(&vector("calibration")).expect("it is a vector")),
        Record::Audit { subject: id(0), outcome: AuditOutcome::Verdict { verdict, ruling: Ruling::Passed } },
    ];
    epoch.iter().for_each(|record| drop(settler.apply(record).expect("it follows")));
    epoch.push(close(&mut settler, Timestamp(born + length)));
    records.append(&mut epoch);
    let late = AuditOutcome::Unauditable { audit: AuditId([0x41; 16]) };
    epoch.push(Record::Audit { subject: id(1), outcome: late });
    epoch.iter().for_each(|record| drop(settler.apply(record).expect("it follows")));
    epoch.push(close(&mut settler, Timestamp(born + 2 * length)));
    records.append(&mut epoch);
    (records, settler)
}

/// A tile of records.
pub(crate) fn bundle(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| push_entry(&mut bytes, &record.to_bytes()).expect("records are short"));
    bytes
}

/// The records of a bundle without its width: as many as there are.
pub(crate) fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        Some(entry)
    })
    .collect()
}
