//! Receipts as JSON: built from the log, and checked again by anyone, offline.

use super::quote;
use super::trust::{self, Subject};
use ol_protocol::batch::{BatchHeader, CountersignedBatch};
use ol_protocol::certificate::Certificate;
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{Domain, digest, salted};
use ol_protocol::id::{hex, unhex};
use ol_protocol::key::Signature;
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::variant::Variant;
use ol_protocol::verdict::Verdict;
use ol_protocol::{
    Digest, Epoch, GatewayId, MicroCredits, Micros, NetworkId, Price, Salt, TaskId, TenantId, TokenCount, merkle,
};
use ol_store::{Attempt, Error, Read};
use serde_json::{Map, Value, json};
use std::str::FromStr;

/// Version of the document.
const VERSION: &str = "receipt/1";

/// Longest description of a variant: three names of 128 bytes and a digest, with room.
const VARIANT_BYTES_MAX: usize = 1_024;

/// The level of an audit that could not be held.
const UNAUDITABLE: &str = "unauditable";

/// The receipt of a task and what its trust is stated of, or `None` while it is not in the log or is another tenant's.
pub(super) fn build(
    read: &dyn Read,
    (tenant, task): (TenantId, TaskId),
    (network, gateway): (NetworkId, GatewayId),
) -> Result<Option<(Value, Subject)>, Error> {
    let mut found = read.task(task)?;
    // What the gateway paid itself was no part of the answer.
    found.attempts.retain(|attempt| attempt.receipt.charge.tenant == tenant);
    if found.attempts.is_empty() {
        return Ok(None);
    }
    let facts = read.facts(task)?.and_then(|f| serde_json::from_slice::<Value>(&f.bytes).ok()).unwrap_or_default();
    let attempts = found.attempts.iter().map(|a| attempt(read, a, &facts)).collect::<Result<Vec<Value>, Error>>()?;
    let audits = found
        .audits
        .iter()
        .map(|(index, subject, outcome)| audit(read, *index, *subject, outcome))
        .collect::<Result<Vec<Value>, Error>>()?;
    let covered = read.latest_checkpoint()?.map_or(0, |note| note.size);
    let Some(subject) = trust::subject(&found, covered, &facts) else { return Ok(None) };
    let mut document = json!({
        "version": VERSION,
        "task": task.to_string(),
        "network": network.to_string(),
        "gateway": gateway.to_string(),
        "variant": facts["variant"],
        "model": facts["model"],
        "assurance": facts["assurance"],
        "salt": facts["salt"],
        "attempts": attempts,
        "audits": audits,
    });
    if !facts["quote"].is_null() {
        document["quote"] = facts["quote"].clone();
    }
    Ok(Some((document, subject)))
}

// Where a record is in the log, once a checkpoint covers it.
fn place_in_log(read: &dyn Read, index: u64) -> Result<Value, Error> {
    let Some(note) = read.checkpoint_over(index)? else { return Ok(Value::Null) };
    Ok(json!({
        "record": index,
        "size": note.size,
        "path": texts(&read.inclusion(index, note.size)?.unwrap_or_default()),
        "checkpoint": note.text,
    }))
}

fn audit(read: &dyn Read, index: u64, subject: AttemptId, outcome: &AuditOutcome) -> Result<Value, Error> {
    let log = place_in_log(read, index)?;
    Ok(match outcome {
        AuditOutcome::Verdict { verdict, ruling } => json!({
            "attempt": subject.attempt,
            "level": verdict.level.name(),
            "ruling": ruling.name(),
            "auditor": verdict.auditor.to_string(),
            "operator": verdict.operator.to_string(),
            "scored_tokens": verdict.scored_tokens.0,
            "worst_margin_micro_nats": verdict.worst_margin_micro,
            "verdict": hex(&verdict.to_bytes()),
            "log": log,
        }),
        AuditOutcome::Unauditable { audit } => json!({
            "attempt": subject.attempt,
            "level": UNAUDITABLE,
            "audit": audit.to_string(),
            "log": log,
        }),
    })
}

fn attempt(read: &dyn Read, attempt: &Attempt, facts: &Value) -> Result<Value, Error> {
    let count = u64::from(attempt.batch.header.count);
    let first = attempt.batch_index.saturating_sub(count);
    let receipts: Vec<Receipt> = read
        .page(first..attempt.batch_index)?
        .into_iter()
        .filter_map(|record| match record {
            Record::Receipt(receipt) => Some(receipt),
            _ => None,
        })
        .collect();
    let commitments: Vec<Digest> = receipts.iter().map(|r| r.commitment.leaf()).collect();
    let leaves: Vec<Digest> = receipts.iter().map(|r| merkle::leaf_hash(&r.to_bytes())).collect();
    let place = usize::from(attempt.place);
    let path = |leaves: &[Digest]| merkle::inclusion(leaves, place).unwrap_or_default();
    let node = attempt.receipt.commitment.node.to_string();
    Ok(json!({
        "commitment": commitment(&attempt.receipt.commitment),
        "charge": charge(&attempt.receipt.charge),
        "batch": batch(&attempt.batch),
        "place": attempt.place,
        "commitment_path": texts(&path(&commitments)),
        "receipt_path": texts(&path(&leaves)),
        "certificate": facts["certificates"][node],
        "log": place_in_log(read, attempt.index)?,
    }))
}

fn texts(path: &[Digest]) -> Vec<String> {
    path.iter().map(ToString::to_string).collect()
}

const fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfText => "end_of_text",
        Finish::StopString => "stop_string",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::Embedded => "embedded",
    }
}

fn commitment(c: &Commitment) -> Value {
    json!({
        "network": c.network.to_string(), "gateway": c.gateway.to_string(), "node": c.node.to_string(),
        "operator": c.operator.to_string(), "task": c.task.to_string(), "attempt": c.attempt,
        "epoch": c.epoch.0, "variant": c.variant.to_string(), "sampler_version": c.sampler_version,
        "prompt": c.prompt.to_string(), "seed": c.seed.to_string(), "output": c.output.to_string(),
        "log_probs": c.log_probs.to_string(), "finish": finish_name(c.finish),
        "prompt_tokens": c.prompt_tokens.0, "output_tokens": c.output_tokens.0, "resumed_from": c.resumed_from.0,
        "first_token_us": c.first_token.0, "total_us": c.total.0,
    })
}

fn charge(c: &Charge) -> Value {
    let mut charge = json!({
        "tenant": c.tenant.to_string(), "request": c.request.to_string(), "response": c.response.to_string(),
        "prompt_tokens": c.prompt_tokens.0, "output_tokens": c.output_tokens.0,
        "prompt_micro_credits_per_million": c.price.prompt_per_million.0,
        "output_micro_credits_per_million": c.price.output_per_million.0,
        "amount_micro_credits": c.amount.0,
    });
    if c.public {
        charge["public"] = true.into();
    }
    if c.with_audit {
        charge["with_audit"] = true.into();
    }
    if let Some(region) = &c.region {
        charge["region"] = region.name().into();
    }
    charge
}

fn batch(b: &CountersignedBatch) -> Value {
    json!({
        "sequence": b.header.sequence, "epoch": b.header.epoch.0, "count": b.header.count,
        "root": b.header.root.to_string(), "node_signature": hex(&b.node_signature.0),
        "receipts_root": b.receipts_root.to_string(), "gateway_signature": hex(&b.gateway_signature.0),
    })
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked, in words.
    pub what: String,
    /// What came of it.
    pub result: Outcome,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It does not, and this is wrong.
    Fails(String),
    /// It can't be checked yet, for this reason.
    Open(String),
}

/// Text that is no receipt document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not an object.
    #[error("not a receipt: {0}")]
    NotAReceipt(String),
    /// A field is missing or of another form.
    #[error("field {0} is missing or malformed")]
    Field(String),
    /// The receipt isn't in the log yet.
    #[error("the receipt is still pending: fetch it again in a few seconds")]
    Pending,
}

#[derive(Clone)]
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str) -> Result<Self, Unreadable> {
        let map = value.as_object().ok_or_else(|| Unreadable::Field(path.to_owned()))?;
        Ok(Self { map, path: path.to_owned() })
    }

    fn wrong(&self, name: &str) -> Unreadable {
        Unreadable::Field(if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) })
    }

    fn value(&self, name: &str) -> Result<&'a Value, Unreadable> {
        self.map.get(name).ok_or_else(|| self.wrong(name))
    }

    fn child(&self, name: &str) -> Result<Fields<'a>, Unreadable> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Fields::of(self.value(name)?, &path)
    }

    fn text(&self, name: &str) -> Result<&'a str, Unreadable> {
        self.value(name)?.as_str().ok_or_else(|| self.wrong(name))
    }

    fn id<T: FromStr>(&self, name: &str) -> Result<T, Unreadable> {
        self.text(name)?.parse().map_err(|_| self.wrong(name))
    }

    fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<T, Unreadable> {
        let number = self.value(name)?.as_u64().ok_or_else(|| self.wrong(name))?;
        T::try_from(number).map_err(|_| self.wrong(name))
    }

    fn signature(&self, name: &str) -> Result<Signature, Unreadable> {
        let mut bytes = [0; 64];
        unhex(self.text(name)?, &mut bytes).ok_or_else(|| self.wrong(name))?;
        Ok(Signature(bytes))
    }

    fn path(&self, name: &str) -> Result<Vec<Digest>, Unreadable> {
        let list = self.value(name)?.as_array().ok_or_else(|| self.wrong(name))?;
        let one = |v: &Value| v.as_str().and_then(|t| t.parse().ok()).ok_or_else(|| self.wrong(name));
        list.iter().take(merkle::PATH_MAX + 1).map(one).collect()
    }
}

fn read_commitment(f: &Fields<'_>) -> Result<Commitment, Unreadable> {
    let finish = match f.text("finish")? {
        "end_of_text" => Finish::EndOfText,
        "stop_string" => Finish::StopString,
        "length" => Finish::Length,
        "cancelled" => Finish::Cancelled,
        "embedded" => Finish::Embedded,
        _ => return Err(f.wrong("finish")),
    };
    Ok(Commitment {
        network: f.id("network")?,
        gateway: f.id("gateway")?,
        node: f.id("node")?,
        operator: f.id("operator")?,
        task: f.id("task")?,
        attempt: f.number("attempt")?,
        epoch: Epoch(f.number("epoch")?),
        variant: f.id("variant")?,
        sampler_version: f.number("sampler_version")?,
        prompt: f.id("prompt")?,
        seed: f.id("seed")?,
        output: f.id("output")?,
        log_probs: f.id("log_probs")?,
        finish,
        prompt_tokens: TokenCount(f.number("prompt_tokens")?),
        output_tokens: TokenCount(f.number("output_tokens")?),
        resumed_from: TokenCount(f.number("resumed_from")?),
        first_token: Micros(f.number("first_token_us")?),
        total: Micros(f.number("total_us")?),
    })
}

fn read_charge(f: &Fields<'_>) -> Result<Charge, Unreadable> {
    Ok(Charge {
        tenant: f.id("tenant")?,
        request: f.id("request")?,
        response: f.id("response")?,
        prompt_tokens: TokenCount(f.number("prompt_tokens")?),
        output_tokens: TokenCount(f.number("output_tokens")?),
        price: Price {
            prompt_per_million: MicroCredits(f.number("prompt_micro_credits_per_million")?),
            output_per_million: MicroCredits(f.number("output_micro_credits_per_million")?),
        },
        amount: MicroCredits(f.number("amount_micro_credits")?),
        public: mark(f, "public")?,
        with_audit: mark(f, "with_audit")?,
        region: f.map.contains_key("region").then(|| f.id("region")).transpose()?,
    })
}

// Only true ones are written.
fn mark(f: &Fields<'_>, name: &'static str) -> Result<bool, Unreadable> {
    f.map.get(name).map_or(Ok(false), |value| value.as_bool().ok_or_else(|| f.wrong(name)))
}

fn read_batch(f: &Fields<'_>, c: &Commitment) -> Result<CountersignedBatch, Unreadable> {
    let header = BatchHeader {
        network: c.network,
        gateway: c.gateway,
        node: c.node,
        operator: c.operator,
        sequence: f.number("sequence")?,
        epoch: Epoch(f.number("epoch")?),
        count: f.number("count")?,
        root: f.id("root")?,
    };
    Ok(CountersignedBatch {
        header,
        node_signature: f.signature("node_signature")?,
        receipts_root: f.id("receipts_root")?,
        gateway_signature: f.signature("gateway_signature")?,
    })
}

/// Checks a receipt document, and request and response bytes against it where they are given.
pub fn verify(document: &Value, request: Option<&[u8]>, response: Option<&[u8]>) -> Result<Vec<Check>, Unreadable> {
    let outer = Fields::of(document, "").map_err(|_| Unreadable::NotAReceipt("not a JSON object".into()))?;
    // As the API gives it, the document stands inside of an answer that says whether it is ready.
    let top = match outer.map.get("receipt") {
        Some(inner) => {
            read_wrapper(&outer)?;
            Fields::of(inner, "")?
        }
        None => outer.clone(),
    };
    match top.map.get("version").and_then(Value::as_str) {
        Some(VERSION) => {}
        Some(other) => return Err(Unreadable::NotAReceipt(format!("version {other:?} is unknown here"))),
        None => return Err(Unreadable::NotAReceipt("it has no version".into())),
    }
    let (network, gateway, task): (NetworkId, GatewayId, TaskId) =
        (top.id("network")?, top.id("gateway")?, top.id("task")?);
    let salt: Option<Salt> = if top.value("salt")?.is_null() { None } else { Some(top.id("salt")?) };
    let list = top.value("attempts")?.as_array().ok_or_else(|| top.wrong("attempts"))?;
    if list.is_empty() {
        return Err(top.wrong("attempts"));
    }
    let mut checks = Vec::new();
    let mut receipts = Vec::new();
    for (number, value) in list.iter().enumerate() {
        let fields = Fields::of(value, &format!("attempts[{number}]"))?;
        let receipt = verify_attempt(&fields, number, network, gateway, task, &mut checks)?;
        receipts.push(receipt);
    }
    verify_wrapper(&outer, task, &mut checks);
    verify_variant(&top, &receipts, &mut checks)?;
    verify_quote(&top, &receipts, &mut checks)?;
    verify_audits(&top, &receipts, network, gateway, &mut checks)?;
    if let Some(last) = receipts.last() {
        verify_bytes("request", request, salt, Domain::Request, last.charge.request, &mut checks);
        verify_bytes("response", response, salt, Domain::Response, last.charge.response, &mut checks);
    }
    Ok(checks)
}

fn verify_attempt(
    f: &Fields<'_>,
    number: usize,
    network: NetworkId,
    gateway: GatewayId,
    task: TaskId,
    checks: &mut Vec<Check>,
) -> Result<Receipt, Unreadable> {
    let commitment = read_commitment(&f.child("commitment")?)?;
    let charge = read_charge(&f.child("charge")?)?;
    let batch = read_batch(&f.child("batch")?, &commitment)?;
    let place: u64 = f.number("place")?;
    let count = u64::from(batch.header.count);
    let receipt = Receipt { commitment, charge };
    let name = format!("attempt {number}");
    let mut check = |what: String, holds: bool, wrong: &str| {
        let result = if holds { Outcome::Holds } else { Outcome::Fails(wrong.to_owned()) };
        checks.push(Check { what, result });
    };
    let c = &receipt.commitment;
    check(
        format!("{name}: the commitment is for this task, gateway and network"),
        (c.network, c.gateway, c.task) == (network, gateway, task),
        "it names another task, gateway or network",
    );
    check(
        format!("{name}: the node's commitment is under the root of its batch"),
        merkle::verify_inclusion(&batch.header.root, count, place, &c.leaf(), &f.path("commitment_path")?),
        "the node did not commit to these values: a field of the commitment or its proof was changed",
    );
    check(
        format!("{name}: node {} signed the batch's root", c.node.short()),
        ol_protocol::batch::check_node(&batch.header, &batch.node_signature).is_ok(),
        "the signature is not the node's over this batch",
    );
    let leaf = merkle::leaf_hash(&receipt.to_bytes());
    check(
        format!("{name}: commitment and charge are under the root that the gateway countersigned"),
        merkle::verify_inclusion(&batch.receipts_root, count, place, &leaf, &f.path("receipt_path")?),
        "the gateway did not countersign these values: a field of the charge or its proof was changed",
    );
    check(
        format!("{name}: gateway {} countersigned the batch", gateway.short()),
        batch.verify().is_ok(),
        "the signature is not the gateway's over this batch",
    );
    check(
        format!(
            "{name}: {} micro-credits are the price of {} prompt and {} output tokens",
            receipt.charge.amount.0, receipt.charge.prompt_tokens.0, receipt.charge.output_tokens.0
        ),
        receipt.charge_fits(),
        "the amount is not the price of these tokens, or more tokens are charged than the node counted",
    );
    verify_certificate(f, &name, &receipt, network, checks)?;
    let leaf = Record::Receipt(receipt.clone()).leaf();
    verify_log(f, format!("{name}: the receipt"), &leaf, network, gateway, checks)?;
    Ok(receipt)
}

fn verify_quote(top: &Fields<'_>, receipts: &[Receipt], checks: &mut Vec<Check>) -> Result<(), Unreadable> {
    let Some(said) = top.map.get("quote") else { return Ok(()) };
    let is_kept = quote::is_kept(said, receipts).ok_or_else(|| top.wrong("quote"))?;
    let result = outcome(is_kept, "the quote is another tenant's or variant's, or the price is another one");
    checks.push(Check { what: "the price is that of the quote".into(), result });
    Ok(())
}

fn verify_log(
    f: &Fields<'_>,
    name: String,
    leaf: &Digest,
    network: NetworkId,
    gateway: GatewayId,
    checks: &mut Vec<Check>,
) -> Result<(), Unreadable> {
    let what = format!("{name} is in the gateway's log, under a signed checkpoint");
    if f.value("log")?.is_null() {
        let result = Outcome::Open("its epoch has not closed yet: fetch the receipt again later".into());
        checks.push(Check { what, result });
        return Ok(());
    }
    let log = f.child("log")?;
    let result = match Checkpoint::open(log.text("checkpoint")?, network, gateway.0) {
        Err(error) => Outcome::Fails(error.to_string()),
        Ok(checkpoint) => {
            let index: u64 = log.number("record")?;
            let holds = log.number::<u64>("size")? == checkpoint.size
                && merkle::verify_inclusion(&checkpoint.root, checkpoint.size, index, leaf, &log.path("path")?);
            outcome(holds, "the checkpoint's root is not over this record at this place")
        }
    };
    checks.push(Check { what, result });
    Ok(())
}

fn outcome(holds: bool, wrong: &str) -> Outcome {
    if holds { Outcome::Holds } else { Outcome::Fails(wrong.to_owned()) }
}

// What stands round the receipt has no proof, so that it may say one thing only.
fn read_wrapper(outer: &Fields<'_>) -> Result<(), Unreadable> {
    match (outer.text("object")?, outer.text("status")?) {
        ("receipt", "ready") => Ok(()),
        ("receipt", "pending") => Err(Unreadable::Pending),
        ("receipt", _) => Err(outer.wrong("status")),
        _ => Err(outer.wrong("object")),
    }
}

// The answer round the receipt names its task too.
fn verify_wrapper(outer: &Fields<'_>, task: TaskId, checks: &mut Vec<Check>) {
    if outer.map.contains_key("receipt") {
        let holds = outer.map.get("id").and_then(Value::as_str) == Some(task.to_string().as_str());
        let result = outcome(holds, "the answer round the receipt is for another task");
        checks.push(Check { what: "the receipt is the one that was asked for".into(), result });
    }
}

// The commitment names a variant by its digest: what it says of model and assurance is what the digest is over.
fn verify_variant(top: &Fields<'_>, receipts: &[Receipt], checks: &mut Vec<Check>) -> Result<(), Unreadable> {
    let text = |name: &str| top.map.get(name).and_then(Value::as_str).unwrap_or_default();
    let what = format!("the attempts ran model {:?}, assurance {:?}", text("model"), text("assurance"));
    if top.value("variant")?.is_null() {
        let nothing_said = text("model").is_empty() && text("assurance").is_empty();
        let result = match nothing_said {
            true => Outcome::Open("the document does not describe the variant".into()),
            false => Outcome::Fails("the document names a model without the variant that proves it".into()),
        };
        checks.push(Check { what, result });
        return Ok(());
    }
    let variant = bytes_of(text("variant"), VARIANT_BYTES_MAX).and_then(|bytes| Variant::from_bytes(&bytes).ok());
    let holds = variant.is_some_and(|variant| {
        (variant.model.as_str(), variant.assurance.name()) == (text("model"), text("assurance"))
            && receipts.iter().all(|receipt| receipt.commitment.variant == variant.id())
    });
    checks.push(Check { what, result: outcome(holds, "the commitment is for another variant") });
    Ok(())
}

fn bytes_of(text: &str, max: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; text.len() / 2];
    (bytes.len() <= max && unhex(text, &mut bytes).is_some()).then_some(bytes)
}

fn verify_audits(
    top: &Fields<'_>,
    receipts: &[Receipt],
    network: NetworkId,
    gateway: GatewayId,
    checks: &mut Vec<Check>,
) -> Result<(), Unreadable> {
    let list = top.value("audits")?.as_array().ok_or_else(|| top.wrong("audits"))?;
    for (number, value) in list.iter().enumerate() {
        let f = Fields::of(value, &format!("audits[{number}]"))?;
        let attempt: u8 = f.number("attempt")?;
        let receipt = receipts.iter().find(|r| r.commitment.attempt == attempt).ok_or_else(|| f.wrong("attempt"))?;
        let outcome = match f.text("level")? {
            UNAUDITABLE => AuditOutcome::Unauditable { audit: f.id("audit")? },
            _ => {
                let names = [
                    Ruling::Passed,
                    Ruling::Failed,
                    Ruling::Accused,
                    Ruling::VotedFor,
                    Ruling::VotedAgainst,
                    Ruling::Unstated,
                ];
                let said = f.text("ruling")?;
                let ruling = names.into_iter().find(|ruling| ruling.name() == said).ok_or_else(|| f.wrong("ruling"))?;
                AuditOutcome::Verdict { verdict: verify_verdict(&f, receipt, network, checks)?, ruling }
            }
        };
        let subject = AttemptId { task: receipt.commitment.task, attempt };
        let leaf = Record::Audit { subject, outcome }.leaf();
        verify_log(&f, format!("attempt {attempt}: its audit"), &leaf, network, gateway, checks)?;
    }
    Ok(())
}

fn verify_verdict(
    f: &Fields<'_>,
    receipt: &Receipt,
    network: NetworkId,
    checks: &mut Vec<Check>,
) -> Result<Verdict, Unreadable> {
    let bytes = bytes_of(f.text("verdict")?, Verdict::BYTES_MAX).ok_or_else(|| f.wrong("verdict"))?;
    let verdict = Verdict::from_bytes(&bytes).map_err(|_| f.wrong("verdict"))?;
    let same = (verdict.level.name(), verdict.auditor, verdict.operator)
        == (f.text("level")?, f.id("auditor")?, f.id("operator")?)
        && verdict.scored_tokens.0 == f.number::<u32>("scored_tokens")?
        && verdict.worst_margin_micro == f.number::<u32>("worst_margin_micro_nats")?;
    let c = &receipt.commitment;
    let holds = same && verdict.network == network && verdict.verify().is_ok();
    let by = if verdict.variant == c.variant { "this variant" } else { "another variant" };
    let what = format!(
        "attempt {}: node {} signed its verdict ({}) by {by}",
        c.attempt,
        verdict.auditor.short(),
        verdict.level.name()
    );
    checks.push(Check { what, result: outcome(holds, "the verdict is not this auditor's, or says something else") });
    Ok(verdict)
}

fn verify_certificate(
    f: &Fields<'_>,
    name: &str,
    receipt: &Receipt,
    network: NetworkId,
    checks: &mut Vec<Check>,
) -> Result<(), Unreadable> {
    let c = &receipt.commitment;
    let what = format!("{name}: operator {} certified node {}", c.operator.short(), c.node.short());
    if f.value("certificate")?.is_null() {
        let result = Outcome::Open("the document carries no certificate".into());
        checks.push(Check { what, result });
        return Ok(());
    }
    let mut bytes = [0; Certificate::BYTES];
    let text = f.text("certificate").unwrap_or_default();
    let certificate = unhex(text, &mut bytes).and_then(|()| Certificate::from_bytes(&bytes).ok());
    let holds = certificate.is_some_and(|certificate| {
        (certificate.node, certificate.operator, certificate.network) == (c.node, c.operator, network)
            && certificate.verify().is_ok()
    });
    checks.push(Check { what, result: outcome(holds, "the certificate is not this operator's for this node") });
    Ok(())
}

fn verify_bytes(
    name: &str,
    bytes: Option<&[u8]>,
    salt: Option<Salt>,
    domain: Domain,
    said: Digest,
    checks: &mut Vec<Check>,
) {
    let Some(bytes) = bytes else { return };
    let what = format!("these are the bytes of the {name}");
    let result = match salt {
        None => Outcome::Fails("the document has no salt, without which bytes can't be compared".into()),
        Some(salt) if salted(domain, &salt, &digest(domain, &[bytes]).0) == said => Outcome::Holds,
        Some(_) => Outcome::Fails(format!("the receipt binds other {name} bytes than these")),
    };
    checks.push(Check { what, result });
}
