//! Vectors of the signed formats and of what is derived from them: one example each, from fixed keys. A changed line is a
//! change of the format, and asks for a new format version: receipts and logs that exist were signed in the old one.

use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::bytes::Reader;
use ol_protocol::calibration::{Calibration, Counts, LENGTHS, SETTINGS};
use ol_protocol::certificate::Certificate;
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{Domain, output_root, prompt_digest, salted, vectors_root};
use ol_protocol::evidence::{EVIDENCE_BYTES_MAX, Evidence};
use ol_protocol::genesis::Genesis;
use ol_protocol::id::hex;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::merkle;
use ol_protocol::parameters::{AuditRule, EscrowRule, ParameterChange, Parameters, PayoutRule, Split};
use ol_protocol::prf::Seed;
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record, Ruling};
use ol_protocol::sampler::{SAMPLER_VERSION, Sampling};
use ol_protocol::seal::Seal;
use ol_protocol::seed::{derive, nonce, nonce_secret, salt, seed_digest};
use ol_protocol::tenant::TenantEntry;
use ol_protocol::ticket::Ticket;
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::variant::{Assurance, Variant, Work};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, Salt,
    TaskId, TenantId, Timestamp, TokenCount,
};
use proptest::prelude::*;

const VECTORS: &str = include_str!("vectors/formats.hex");
const TENANT: TenantId = TenantId([0x54; 16]);
const TASK: TaskId = TaskId([0x4b; 16]);
const MASTER: [u8; 32] = [0x6d; 32];
const BORN: Timestamp = Timestamp(1_767_225_600_000_000);

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

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn issuer() -> SecretKey {
    key(1)
}

fn gateway() -> SecretKey {
    key(2)
}

fn operator() -> SecretKey {
    key(3)
}

fn node() -> SecretKey {
    key(4)
}

fn referee() -> SecretKey {
    key(5)
}

fn owner() -> SecretKey {
    key(8)
}

fn genesis() -> Genesis {
    Genesis {
        issuer: IssuerId(issuer().public()),
        referee: NodeId(referee().public()),
        referee_operator: OperatorId(key(6).public()),
        born_at: BORN,
        epoch: Micros::from_secs(600),
        parameters: PARAMETERS,
        gateway: GatewayId(gateway().public()),
        owner: OwnerId([0; 32]),
        signature: Signature([0; 64]),
    }
    .of(GatewayId(gateway().public()), &owner())
}

fn variant() -> Variant {
    Variant {
        model: "smollm2-135m-instruct".into(),
        weights: Digest([0x77; 32]),
        quantisation: "Q4_1".into(),
        numerics: "embedded-f32/1".into(),
        work: Work::Generate,
        assurance: Assurance::Seeded,
        context_tokens: 2_048,
    }
}

fn task_salt() -> Salt {
    salt(&MASTER, &TASK)
}

fn output() -> Vec<u32> {
    (0..33).map(|i| i * 1_000 + 7).collect()
}

fn certificate() -> Certificate {
    Certificate::issue(&operator(), genesis().network(), NodeId(node().public()), BORN)
}

fn top_up() -> TopUp {
    let owner = OwnerId(owner().public());
    TopUp::issue(&issuer(), genesis().network(), owner, TENANT, MicroCredits(10_000_000), 1)
}

fn tenant_entry() -> TenantEntry {
    TenantEntry {
        network: genesis().network(),
        owner: OwnerId([0; 32]),
        tenant: TENANT,
        name: "alice".into(),
        key: Some(Digest([0x61; 32])),
        requests_per_minute: 60,
        tokens_per_minute: 0,
        issued_at: BORN,
        signature: Signature([0; 64]),
    }
    .signed(&owner())
}

fn slice() -> Slice {
    Slice { top_up: top_up(), from: MicroCredits(1_000_000), amount: MicroCredits(2_000_000) }
}

fn prompt() -> Digest {
    let sampling = Sampling { temperature: 0.75, top_p: 0.875, top_k: 40, min_p: 0.0625 };
    prompt_digest(&task_salt(), &[1, 2, 49_151], b"chatml", &sampling.to_bytes())
}

fn commitment(attempt: u8) -> Commitment {
    let salt = task_salt();
    Commitment {
        network: genesis().network(),
        gateway: GatewayId(gateway().public()),
        node: NodeId(node().public()),
        operator: OperatorId(operator().public()),
        task: TASK,
        attempt,
        epoch: Epoch(7),
        variant: variant().id(),
        sampler_version: SAMPLER_VERSION,
        prompt: prompt(),
        seed: seed_digest(&salt, &derive(&TENANT, Some(42), &prompt(), &[0; 32])),
        output: output_root(&salt, &output()),
        log_probs: salted(Domain::LogProbs, &salt, &[12; 33]),
        finish: Finish::StopString,
        prompt_tokens: TokenCount(3),
        output_tokens: TokenCount(33),
        resumed_from: TokenCount(u32::from(attempt)),
        first_token: Micros(20_000),
        total: Micros(400_000),
    }
}

fn header() -> BatchHeader {
    BatchHeader {
        network: genesis().network(),
        gateway: GatewayId(gateway().public()),
        node: NodeId(node().public()),
        operator: OperatorId(operator().public()),
        sequence: 5,
        epoch: Epoch(7),
        count: 0,
        root: Digest([0; 32]),
    }
}

fn signed_batch() -> SignedBatch {
    SignedBatch::sign(&node(), header(), vec![commitment(0), commitment(1)])
}

fn receipt(attempt: u8) -> Receipt {
    let price = Price { prompt_per_million: MicroCredits(2_000_000), output_per_million: MicroCredits(8_000_001) };
    let charge = Charge {
        tenant: TENANT,
        request: salted(Domain::Request, &task_salt(), b"{\"model\":\"m\"}"),
        response: salted(Domain::Response, &task_salt(), b"{\"choices\":[]}"),
        prompt_tokens: TokenCount(3),
        output_tokens: TokenCount(32),
        price,
        amount: MicroCredits(263),
        public: false,
        with_audit: false,
        region: None,
    };
    Receipt { commitment: commitment(attempt), charge }
}

fn receipts_root() -> Digest {
    merkle::root(&[0, 1].map(|attempt| merkle::leaf_hash(&receipt(attempt).to_bytes())))
}

fn countersigned() -> CountersignedBatch {
    let batch = signed_batch();
    CountersignedBatch::sign(&gateway(), batch.header, batch.signature, receipts_root())
}

fn verdict() -> Verdict {
    let claimed = commitment(0);
    let unsigned = Verdict {
        network: claimed.network,
        audit: AuditId([0x41; 16]),
        auditor: NodeId(referee().public()),
        operator: OperatorId(key(6).public()),
        level: Level::Referee,
        variant: claimed.variant,
        prompt: claimed.prompt,
        seed: claimed.seed,
        output: claimed.output,
        log_probs: salted(Domain::LogProbs, &task_salt(), &[13; 33]),
        prompt_tokens: TokenCount(3),
        output_tokens: TokenCount(33),
        scored_tokens: TokenCount(33),
        worst_margin_micro: 12,
        margin_sum_micro: 34,
        finish_fits: true,
        signature: Signature([0; 64]),
    };
    unsigned.sign(&referee())
}

fn verdict_of_a_part() -> Verdict {
    Verdict { scored_tokens: TokenCount(32), ..verdict() }.sign(&referee())
}

fn change_of_weighing() -> ParameterChange {
    let audit = AuditRule { by_charge: true, ..PARAMETERS.audit };
    ParameterChange::issue(&issuer(), genesis().network(), Epoch(9), Parameters { audit, ..PARAMETERS })
}

fn change_to_deterrent() -> ParameterChange {
    let audit = AuditRule { deterrent: true, ..PARAMETERS.audit };
    ParameterChange::issue(&issuer(), genesis().network(), Epoch(9), Parameters { audit, ..PARAMETERS })
}

fn change() -> ParameterChange {
    let payout = PayoutRule { threshold: MicroCredits(1_100_000) };
    ParameterChange::issue(&issuer(), genesis().network(), Epoch(9), Parameters { payout, ..PARAMETERS })
}

fn calibration() -> Calibration {
    let honest = [[3_000, 1, 0, 0, 0, 0, 0, 0, 0, 0]; SETTINGS];
    let counts = Counts { honest, cheats: [1, 0, 0, 0, 0, 0, 0, 100, 100, 100] };
    let unsigned = Calibration {
        network: genesis().network(),
        referee: NodeId(referee().public()),
        prover: commitment(0).variant,
        verifier: commitment(0).variant,
        measured_at: Timestamp(BORN.0 + 1_000_000),
        tolerance_micro: 50_000,
        log_prob_steps: 2,
        lengths: [counts; LENGTHS],
        signature: Signature([0; 64]),
    };
    unsigned.sign(&referee())
}

fn public_receipt() -> Receipt {
    let Receipt { commitment, charge } = receipt(0);
    Receipt { commitment, charge: Charge { public: true, ..charge } }
}

fn audited_receipt() -> Receipt {
    let Receipt { commitment, charge } = receipt(0);
    Receipt { commitment, charge: Charge { with_audit: true, ..charge } }
}

fn receipt_in_a_region() -> Receipt {
    let Receipt { commitment, charge } = receipt(0);
    Receipt { commitment, charge: Charge { region: "eu-north-1".parse().ok(), ..charge } }
}

fn evidence() -> Evidence {
    Evidence {
        subject: AttemptId { task: TASK, attempt: 0 },
        salt: task_salt(),
        seed: Seed([0x5e; 32]),
        template: b"chat".to_vec(),
        parameters: vec![1, 2, 3],
        prompt: vec![1, 2, 3],
        output: output()[..33].to_vec(),
    }
}

fn seal() -> Seal {
    Seal::new(&verdict(), &referee())
}

fn records() -> [(&'static str, Record); 12] {
    let subject = AttemptId { task: TASK, attempt: 0 };
    let unauditable = AuditOutcome::Unauditable { audit: AuditId([0x41; 16]) };
    let close = Close {
        epoch: Epoch(7),
        at: Timestamp(BORN.0 + 4_800_000_000),
        draw_secret: [0xd7; 32],
        nonce_secret: nonce_secret(&MASTER, Epoch(7)),
        next_draw_seal: Digest([0xd8; 32]),
        next_nonce_seal: Digest([0xe8; 32]),
        state: Digest([0x5a; 32]),
    };
    [
        ("record genesis", Record::Genesis(genesis())),
        ("record top-up", Record::TopUp(slice())),
        ("record receipt", Record::Receipt(receipt(0))),
        ("record batch", Record::Batch(countersigned())),
        (
            "record audit",
            Record::Audit { subject, outcome: AuditOutcome::Verdict { verdict: verdict(), ruling: Ruling::Unstated } },
        ),
        ("record unauditable", Record::Audit { subject, outcome: unauditable }),
        ("record close", Record::Close(close)),
        ("record parameters", Record::Parameters(change())),
        (
            "record ruled audit",
            Record::Audit { subject, outcome: AuditOutcome::Verdict { verdict: verdict(), ruling: Ruling::Passed } },
        ),
        ("record calibration", Record::Calibration(calibration())),
        ("record evidence", Record::Evidence(evidence())),
        ("record sealed", Record::Sealed { subject, seals: [seal(), seal(), seal()] }),
    ]
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        network: genesis().network(),
        gateway: gateway().public(),
        size: 1_234,
        root: Digest([0x10; 32]),
        epoch: Epoch(7),
        state: Digest([0x5a; 32]),
        draw_seal: Digest([0xd8; 32]),
        nonce_seal: Digest([0xe8; 32]),
    }
}

fn ticket() -> Ticket {
    let address = "gateway.example:8081".into();
    Ticket { address, gateway: GatewayId(gateway().public()), network: genesis().network() }
}

/// What a reader makes of bytes: the canonical bytes of the value, and whether its signatures hold if it has any.
struct Value {
    bytes: Vec<u8>,
    holds: Option<bool>,
}

type Read = fn(&[u8]) -> Option<Value>;

fn unsigned(bytes: Vec<u8>) -> Value {
    Value { bytes, holds: None }
}

fn signed(bytes: Vec<u8>, holds: bool) -> Value {
    Value { bytes, holds: Some(holds) }
}

// Reads a value that others contain, and nothing after it.
fn whole<T, E>(bytes: &[u8], read: fn(&mut Reader<'_>) -> Result<T, E>) -> Option<T> {
    let mut r = Reader::new(bytes);
    let value = read(&mut r).ok()?;
    r.finish().ok().map(|()| value)
}

fn read_record(bytes: &[u8]) -> Option<Value> {
    Record::from_bytes(bytes).ok().map(|record| unsigned(record.to_bytes()))
}

fn read_checkpoint(bytes: &[u8]) -> Option<Value> {
    let note = std::str::from_utf8(bytes).ok()?;
    let opened = Checkpoint::open(note, genesis().network(), gateway().public()).ok()?;
    Some(unsigned(opened.sign(&gateway()).into_bytes()))
}

fn read_ticket(bytes: &[u8]) -> Option<Value> {
    let ticket: Ticket = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    Some(unsigned(ticket.to_string().into_bytes()))
}

/// Every format with a reader: name, the example's bytes, the reader.
fn formats() -> Vec<(&'static str, Vec<u8>, Read)> {
    let mut formats: Vec<(&'static str, Vec<u8>, Read)> = vec![
        ("certificate", certificate().to_bytes(), |b| {
            Certificate::from_bytes(b).ok().map(|c| signed(c.to_bytes(), c.verify().is_ok()))
        }),
        ("top-up", top_up().to_bytes(), |b| {
            TopUp::from_bytes(b).ok().map(|t| signed(t.to_bytes(), t.verify().is_ok()))
        }),
        ("tenant entry", tenant_entry().to_bytes(), |b| {
            TenantEntry::from_bytes(b).ok().map(|t| signed(t.to_bytes(), t.verify().is_ok()))
        }),
        ("commitment", commitment(0).to_bytes(), |b| Commitment::from_bytes(b).ok().map(|c| unsigned(c.to_bytes()))),
        ("batch header", signed_batch().header.to_bytes(), |b| {
            whole(b, BatchHeader::read).map(|h| unsigned(h.to_bytes()))
        }),
        ("signed batch", signed_batch().to_bytes(), |b| {
            SignedBatch::from_bytes(b).ok().map(|s| signed(s.to_bytes(), s.verify().is_ok()))
        }),
        ("countersigned batch", countersigned().to_bytes(), |b| {
            whole(b, CountersignedBatch::read).map(|c| signed(c.to_bytes(), c.verify().is_ok()))
        }),
        ("receipt", receipt(0).to_bytes(), |b| Receipt::from_bytes(b).ok().map(|r| unsigned(r.to_bytes()))),
        ("public receipt", public_receipt().to_bytes(), |b| {
            Receipt::from_bytes(b).ok().map(|r| unsigned(r.to_bytes()))
        }),
        ("receipt with an audit", audited_receipt().to_bytes(), |b| {
            Receipt::from_bytes(b).ok().map(|r| unsigned(r.to_bytes()))
        }),
        ("receipt in a region", receipt_in_a_region().to_bytes(), |b| {
            Receipt::from_bytes(b).ok().map(|r| unsigned(r.to_bytes()))
        }),
        ("verdict", verdict().to_bytes(), |b| {
            Verdict::from_bytes(b).ok().map(|v| signed(v.to_bytes(), v.verify().is_ok()))
        }),
        ("verdict of a part", verdict_of_a_part().to_bytes(), |b| {
            Verdict::from_bytes(b).ok().map(|v| signed(v.to_bytes(), v.verify().is_ok()))
        }),
        ("seal", seal().to_bytes(), |b| Seal::from_bytes(b).ok().map(|s| signed(s.to_bytes(), s.verify().is_ok()))),
        ("calibration", calibration().to_bytes(), |b| {
            Calibration::from_bytes(b).ok().map(|c| signed(c.to_bytes(), c.verify().is_ok()))
        }),
        ("evidence", evidence().to_bytes(), |b| Evidence::from_bytes(b).ok().map(|e| unsigned(e.to_bytes()))),
        ("variant", variant().to_bytes(), |b| Variant::from_bytes(b).ok().map(|v| unsigned(v.to_bytes()))),
        ("change of parameters", change().to_bytes(), |b| {
            whole(b, ParameterChange::read).map(|c| signed(c.to_bytes(), c.verify().is_ok()))
        }),
        ("change of weighing", change_of_weighing().to_bytes(), |b| {
            whole(b, ParameterChange::read).map(|c| signed(c.to_bytes(), c.verify().is_ok()))
        }),
        ("change to deterrent", change_to_deterrent().to_bytes(), |b| {
            whole(b, ParameterChange::read).map(|c| signed(c.to_bytes(), c.verify().is_ok()))
        }),
        ("genesis", genesis().to_bytes(), |b| whole(b, Genesis::read).map(|g| unsigned(g.to_bytes()))),
    ];
    formats.extend(records().map(|(name, record)| (name, record.to_bytes(), read_record as Read)));
    formats.push(("checkpoint", checkpoint().sign(&gateway()).into_bytes(), read_checkpoint));
    formats.push(("ticket", ticket().to_string().into_bytes(), read_ticket));
    formats
}

/// Digests, ids and secrets that follow from the examples.
fn derived() -> Vec<(&'static str, [u8; 32])> {
    let (salt, request) = (task_salt(), salted(Domain::Request, &task_salt(), b"{}"));
    let secret = nonce_secret(&MASTER, Epoch(7));
    let root_of = |count: usize| output_root(&salt, &output()[..count]).0;
    vec![
        ("network id", genesis().network().0),
        ("variant id", variant().id().0),
        ("task salt", salt.0),
        ("nonce secret", secret),
        ("nonce", nonce(&secret, 3)),
        ("seed of client", derive(&TENANT, Some(42), &request, &nonce(&secret, 3)).0),
        ("seed of gateway", derive(&TENANT, None, &request, &nonce(&secret, 3)).0),
        ("seed digest", seed_digest(&salt, &derive(&TENANT, Some(42), &request, &[0; 32])).0),
        ("prompt digest", prompt().0),
        ("output root of 0", root_of(0)),
        ("output root of 1", root_of(1)),
        ("output root of 32", root_of(32)),
        ("output root of 33", root_of(33)),
        ("vectors root", vectors_root(&salt, &[vec![0.5, -0.25], vec![1.0, 0.0]]).0),
        ("log-probs digest", salted(Domain::LogProbs, &salt, &[0, 127, 255]).0),
        ("request digest", request.0),
        ("response digest", salted(Domain::Response, &salt, b"{}").0),
        ("leaf of commitment", commitment(0).leaf().0),
        ("batch root", signed_batch().header.root.0),
        ("receipts root", receipts_root().0),
        ("leaf of record", Record::Genesis(genesis()).leaf().0),
    ]
}

fn lines() -> String {
    let formats = formats().into_iter().map(|(name, bytes, _)| format!("{name}: {}\n", hex(&bytes)));
    formats.chain(derived().into_iter().map(|(name, bytes)| format!("{name}: {}\n", hex(&bytes)))).collect()
}

#[test]
fn every_format_has_the_committed_bytes() {
    assert_eq!(lines(), VECTORS, "\n{}", lines());
}

#[test]
fn every_format_is_read_back_and_its_signatures_hold() {
    for (name, bytes, read) in formats() {
        let value = read(&bytes).expect(name);
        assert_eq!((value.bytes, value.holds.unwrap_or(true)), (bytes, true), "{name}");
    }
}

#[test]
fn a_cut_format_is_unreadable() {
    for (name, bytes, read) in formats() {
        for length in 0..bytes.len() {
            // Without its mark a receipt is another one, under another leaf.
            let has_mark = matches!(name, "public receipt" | "receipt with an audit" | "receipt in a region");
            let is_another = has_mark && length == Receipt::BYTES;
            assert_eq!(read(&bytes[..length]).is_some(), is_another, "{name} cut to {length}");
        }
    }
}

#[test]
fn a_format_with_something_after_it_is_unreadable() {
    for (name, mut bytes, read) in formats() {
        bytes.push(b'0');
        assert!(read(&bytes).is_none(), "{name}");
    }
}

#[test]
fn a_changed_byte_is_unreadable_or_another_value_and_no_signature_over_it_holds() {
    for (name, bytes, read) in formats() {
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            // Hexadecimal of a ticket may be written in capitals: there only the lowest bit always changes the value.
            changed[at] ^= if name == "ticket" { 1 } else { 1 << (at % 8) };
            let Some(value) = read(&changed) else { continue };
            assert_eq!(value.bytes, changed, "{name}, byte {at}");
            assert_ne!(value.holds, Some(true), "{name}, byte {at}");
            assert_ne!(name, "checkpoint", "byte {at} of a checkpoint is not signed");
        }
    }
}

/// An example with some bytes replaced, and cut or prolonged.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), prop_oneof![Just(0), Just(1), Just(255), any::<u8>()]);
    let changes = prop::collection::vec(change, 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..40);
    (0..shared().len(), changes, any::<prop::sample::Index>(), any::<bool>(), tail).prop_map(
        |(which, changes, cut, cuts, tail)| {
            let mut bytes = shared()[which].1.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
                bytes.extend(tail);
            }
            bytes
        },
    )
}

// What binary readers take is canonical: no value has two forms.
fn check_total(bytes: &[u8]) {
    for (name, _, read) in shared() {
        let Some(value) = read(bytes) else { continue };
        if !matches!(*name, "checkpoint" | "ticket") {
            assert_eq!(value.bytes, bytes, "{name}");
        }
    }
}

fn shared() -> &'static [(&'static str, Vec<u8>, Read)] {
    static FORMATS: std::sync::LazyLock<Vec<(&'static str, Vec<u8>, Read)>> = std::sync::LazyLock::new(formats);
    &FORMATS
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_are_unreadable_or_canonical_for_every_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_total(&bytes);
    }

    #[test]
    fn mutated_examples_are_unreadable_or_canonical_for_every_reader(bytes in mutated()) {
        check_total(&bytes);
    }

    #[test]
    fn arbitrary_text_is_no_ticket_or_one_that_reads_what_it_prints(line in "(ol1:)?[a-z0-9.:\\[\\]+é]{0,24}(/[0-9a-fA-F]{64}){0,3}\\PC{0,4}") {
        if let Ok(ticket) = line.parse::<Ticket>() {
            prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
    }
}

#[test]
fn evidence_opens_its_own_commitment_and_no_other() {
    let evidence = evidence();
    let of = Commitment {
        prompt: prompt_digest(&evidence.salt, &evidence.prompt, &evidence.template, &evidence.parameters),
        seed: seed_digest(&evidence.salt, &evidence.seed),
        output: output_root(&evidence.salt, &evidence.output),
        ..commitment(0)
    };
    assert!(evidence.opens(&of) && evidence.fits());
    let changes: [fn(&mut Evidence); 7] = [
        |e| e.subject.attempt = 1,
        |e| e.salt.0[0] ^= 1,
        |e| e.seed.0[0] ^= 1,
        |e| e.template.push(b'x'),
        |e| e.parameters.push(0),
        |e| e.prompt.push(0),
        |e| e.output.truncate(32),
    ];
    for change in changes {
        let mut other = evidence.clone();
        change(&mut other);
        assert!(!other.opens(&of), "{other:?}");
    }
}

#[test]
fn evidence_that_is_too_long_for_a_log_tile_is_refused() {
    let long = Evidence { output: vec![7; EVIDENCE_BYTES_MAX / 4], ..evidence() };
    assert!(!long.fits());
    assert!(Evidence::from_bytes(&long.to_bytes()).is_err());
    let mut endless = evidence().to_bytes();
    let at = endless.len() - 33 * 4 - 4;
    endless[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Evidence::from_bytes(&endless).is_err());
}
