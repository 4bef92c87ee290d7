//! Values that are signed or are parts of what is: one form for each, and no signature but the one that was made.

use crate::{Heap, Target};
use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::bytes::{Error, Reader};
use ol_protocol::calibration::Calibration;
use ol_protocol::certificate::Certificate;
use ol_protocol::commitment::Commitment;
use ol_protocol::genesis::Genesis;
use ol_protocol::parameters::ParameterChange;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AuditOutcome, Record};
use ol_protocol::sampler::{SAMPLING_BYTES, Sampling};
use ol_protocol::seal::Seal;
use ol_protocol::tenant::TenantEntry;
use ol_protocol::ticket::Ticket;
use ol_protocol::top_up::TopUp;
use ol_protocol::variant::Variant;
use ol_protocol::verdict::Verdict;
use ol_protocol::{Digest, Epoch, MicroCredits, NodeId, Price, TaskId, TenantId, TokenCount, VariantId};
use ol_roles::order::Order;
use ol_trust::Odds;
use std::sync::LazyLock;

/// The committed vectors: one example of each format, under keys that nobody has.
const VECTORS: &str = include_str!("../../core/protocol/tests/vectors/formats.hex");

/// Under which the example of an order is sealed.
const MASTER: [u8; 32] = [9; 32];

/// The targets.
pub const TARGETS: [Target; 17] = [
    small(
        "certificate",
        || vec![vector("certificate")],
        |bytes| {
            canonical(bytes, Certificate::from_bytes, Certificate::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small(
        "top-up",
        || vec![vector("top-up")],
        |bytes| {
            canonical(bytes, TopUp::from_bytes, TopUp::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small(
        "tenant",
        || vec![vector("tenant entry")],
        |bytes| {
            canonical(bytes, TenantEntry::from_bytes, TenantEntry::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small(
        "commitment",
        || vec![vector("commitment")],
        |bytes| {
            canonical(bytes, Commitment::from_bytes, Commitment::to_bytes, |_| false);
        },
    ),
    small(
        "batch-header",
        || vec![vector("batch header")],
        |bytes| {
            canonical(bytes, |b| whole(b, BatchHeader::read), BatchHeader::to_bytes, |_| false);
        },
    ),
    small(
        "batch",
        || vec![vector("signed batch")],
        |bytes| {
            canonical(bytes, SignedBatch::from_bytes, SignedBatch::to_bytes, |it| it.clone().verify().is_ok());
        },
    ),
    small(
        "countersigned-batch",
        || vec![vector("countersigned batch")],
        |bytes| {
            let read = |b: &[u8]| whole(b, CountersignedBatch::read);
            canonical(bytes, read, CountersignedBatch::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small(
        "receipt",
        || vec![vector("receipt")],
        |bytes| {
            let receipt = canonical(bytes, Receipt::from_bytes, Receipt::to_bytes, |_| false);
            receipt.map(|receipt| receipt.charge_fits());
        },
    ),
    small(
        "verdict",
        || vec![vector("verdict")],
        |bytes| {
            canonical(bytes, Verdict::from_bytes, Verdict::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small(
        "seal",
        || vec![vector("seal")],
        |bytes| {
            canonical(bytes, Seal::from_bytes, Seal::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small(
        "calibration",
        || vec![vector("calibration")],
        |bytes| {
            let calibration =
                canonical(bytes, Calibration::from_bytes, Calibration::to_bytes, |it| it.verify().is_ok());
            calibration.map(|calibration| Odds::new(&calibration));
        },
    ),
    small(
        "variant",
        || vec![vector("variant")],
        |bytes| {
            canonical(bytes, Variant::from_bytes, Variant::to_bytes, |_| false);
        },
    ),
    small(
        "parameters",
        || vec![vector("change of parameters")],
        |bytes| {
            let read = |b: &[u8]| whole(b, ParameterChange::read);
            canonical(bytes, read, ParameterChange::to_bytes, |it| it.verify().is_ok());
        },
    ),
    small("record", records, |bytes| {
        let record = canonical(bytes, Record::from_bytes, Record::to_bytes, |it| is_signed(it) && it.verify().is_ok());
        if let Some(Record::Audit { outcome: AuditOutcome::Verdict { verdict, .. }, .. }) = record {
            assert!(verdict.verify().is_err() || verdict.to_bytes() == vector("verdict"), "a verdict of nobody");
        }
    }),
    small("ticket", || vec![vector("ticket")], read_ticket),
    small(
        "order",
        || vec![order().seal(&MASTER)],
        |bytes| {
            if let Some(order) = Order::open(bytes, &MASTER) {
                assert_eq!(
                    (order.seal(&MASTER).as_slice(), order),
                    (bytes, self::order()),
                    "an order that nobody sealed"
                );
            }
        },
    ),
    small(
        "sampling",
        || vec![Sampling::GREEDY.to_bytes().to_vec()],
        |bytes| {
            let Ok(bytes) = <&[u8; SAMPLING_BYTES]>::try_from(bytes) else { return };
            if let Ok(sampling) = Sampling::from_bytes(bytes) {
                assert_eq!(&sampling.to_bytes(), bytes, "two forms of one value");
            }
        },
    ),
];

const fn small(name: &'static str, seeds: fn() -> Vec<Vec<u8>>, read: fn(&[u8])) -> Target {
    Target { name, seeds, read, heap: Heap::SMALL }
}

static EXAMPLES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| VECTORS.lines().filter_map(example).collect());

fn example(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, digits) = line.split_once(": ")?;
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("vectors are hexadecimal");
    Some((name, (0..digits.len()).step_by(2).map(byte).collect()))
}

fn records() -> Vec<Vec<u8>> {
    EXAMPLES.iter().filter(|(name, _)| name.starts_with("record ")).map(|(_, bytes)| bytes.clone()).collect()
}

/// The example of a format.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    EXAMPLES.iter().find(|(found, _)| *found == name).expect("there is such a vector").1.clone()
}

/// Reads a value that others contain, and nothing after it.
pub(crate) fn whole<T>(bytes: &[u8], read: fn(&mut Reader<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let mut r = Reader::new(bytes);
    let value = read(&mut r)?;
    r.finish()?;
    Ok(value)
}

// A value has one form, and whoever has no key makes no signature that holds.
fn canonical<T>(
    bytes: &[u8],
    read: fn(&[u8]) -> Result<T, Error>,
    write: fn(&T) -> Vec<u8>,
    holds: fn(&T) -> bool,
) -> Option<T> {
    let value = read(bytes).ok()?;
    assert_eq!(write(&value), bytes, "two forms of one value");
    if holds(&value) {
        assert!(EXAMPLES.iter().any(|(_, example)| example == bytes), "a signature that nobody made");
    }
    Some(value)
}

// Whether whoever made the record signed the whole of it: an auditor signs without knowing whose work it was, and the
// issuer without knowing which part of a top-up a gateway will take.
const fn is_signed(record: &Record) -> bool {
    match record {
        Record::Genesis(_) | Record::Batch(_) | Record::Parameters(_) | Record::Calibration(_) => true,
        Record::TopUp(_)
        | Record::Audit { .. }
        | Record::Receipt(_)
        | Record::Close(_)
        | Record::Evidence(_)
        | Record::Sealed { .. } => false,
    }
}

// Space round a ticket and capitals in its ids are people's; what is printed reads as the same.
fn read_ticket(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string().parse(), Ok(ticket), "a ticket that reads otherwise when printed");
    }
}

fn order() -> Order {
    Order {
        epoch: Epoch(12),
        boot: 13,
        task: TaskId([1; 16]),
        attempt: 2,
        node: NodeId([3; 32]),
        variant: VariantId([4; 32]),
        tenant: TenantId([5; 16]),
        request: Digest([6; 32]),
        price: Price { prompt_per_million: MicroCredits(7), output_per_million: MicroCredits(8) },
        prompt_tokens_max: TokenCount(9),
        output_tokens_max: TokenCount(10),
        resumed_from: TokenCount(11),
        public: false,
        region: None,
    }
}

/// The genesis of the examples.
pub(crate) fn genesis() -> Genesis {
    whole(&vector("genesis"), Genesis::read).expect("it is a vector")
}
