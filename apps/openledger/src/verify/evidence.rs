//! `openledger verify --log --evidence FOLDER` and `openledger verify --rescore EVIDENCE.json`: what took nodes' escrow, for anyone to check
//! with nothing but the model.

use super::log::{self, Asked};
use super::source::Source;
use crate::config::Config;
use crate::home::Home;
use crate::logging::say;
use crate::models;
use anyhow::{Context as _, ensure};
use ol_engine::Options;
use ol_node::rescore::rescore;
use ol_protocol::NodeId;
use ol_protocol::batch::{SignedBatch, VerifiedBatch};
use ol_protocol::commitment::Commitment;
use ol_protocol::evidence::Evidence;
use ol_protocol::id::{hex, unhex_all};
use ol_protocol::parameters::AuditRule;
use ol_protocol::record::{AttemptId, AuditOutcome, Record};
use ol_protocol::verdict::{Level, Verdict};
use ol_trust::Judgement;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Version of the file.
const VERSION: &str = "evidence/1";

/// Checks a whole log and writes each piece of evidence in it to a file of its own.
pub(super) async fn collect(source: &Source, asked: &Asked<'_>, folder: &Path) -> anyhow::Result<()> {
    let mut found = BTreeMap::new();
    let (follower, _) = log::follow(source, asked, |_, record| {
        if let Record::Evidence(evidence) = record {
            found.insert(evidence.subject, evidence.clone());
        }
        Ok(())
    })
    .await
    .context("the log does NOT hold")?;
    if found.is_empty() {
        say("the log holds; there is no evidence in it");
        return Ok(());
    }
    // What it is about came before: of a whole log too much to keep until then.
    let mut about = About { wanted: found.keys().copied().collect(), arriving: Vec::new(), known: BTreeMap::new() };
    log::follow(source, asked, |_, record| {
        about.see(record);
        Ok(())
    })
    .await?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let settler = follower.settler();
    for (subject, evidence) in &found {
        let Known { batch: Some(batch), verdict: Some(verdict) } = about.known.remove(subject).unwrap_or_default()
        else {
            anyhow::bail!("the log has evidence about task {} and neither its receipt nor its audit", subject.task);
        };
        let variant = verdict.variant;
        let tolerance = settler.calibration(variant, variant).map_or(0, |calibration| calibration.tolerance_micro);
        let document = json!({
            "version": VERSION,
            "network": follower.network().to_string(),
            "gateway": settler.genesis().gateway.to_string(),
            "referee": settler.genesis().referee.to_string(),
            "node": batch.header.node.to_string(),
            "operator": batch.header.operator.to_string(),
            "task": subject.task.to_string(),
            "attempt": subject.attempt,
            "variant": variant.to_string(),
            "margin_micro_max": settler.parameters().audit.margin_micro_max,
            "tolerance_micro": tolerance,
            "evidence": hex(&evidence.to_bytes()),
            "batch": hex(&batch.to_bytes()),
            "verdict": hex(&verdict.to_bytes()),
        });
        let path = folder.join(format!("{}-{}.json", subject.task, subject.attempt));
        let text = serde_json::to_vec_pretty(&document)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        say(format!("evidence against node {}: {}", batch.header.node.short(), path.display()));
    }
    say("the log holds; check a file with openledger verify --rescore FILE");
    Ok(())
}

#[derive(Default)]
struct Known {
    batch: Option<SignedBatch>,
    verdict: Option<Verdict>,
}

struct About {
    wanted: BTreeSet<AttemptId>,
    // Commitments whose batch comes next.
    arriving: Vec<Commitment>,
    known: BTreeMap<AttemptId, Known>,
}

impl About {
    fn see(&mut self, record: &Record) {
        match record {
            Record::Receipt(receipt) => self.arriving.push(receipt.commitment.clone()),
            Record::Batch(batch) => {
                let commitments = std::mem::take(&mut self.arriving);
                let subjects: Vec<AttemptId> =
                    commitments.iter().map(subject).filter(|id| self.wanted.contains(id)).collect();
                let signed = SignedBatch { header: batch.header.clone(), commitments, signature: batch.node_signature };
                for id in subjects {
                    // A second receipt of an attempt is none.
                    self.known.entry(id).or_default().batch.get_or_insert_with(|| signed.clone());
                }
            }
            Record::Audit { subject, outcome: AuditOutcome::Verdict { verdict, .. } }
                if verdict.level == Level::Referee && self.wanted.contains(subject) =>
            {
                self.known.entry(*subject).or_default().verdict.get_or_insert_with(|| verdict.clone());
            }
            _ => {}
        }
    }
}

const fn subject(commitment: &Commitment) -> AttemptId {
    AttemptId { task: commitment.task, attempt: commitment.attempt }
}

/// Runs the model over a file of evidence, and says whether it agrees with the referee.
pub(super) fn check(path: &Path, config: &Config) -> anyhow::Result<ExitCode> {
    let document: Value = serde_json::from_slice(&super::read(path)?)
        .with_context(|| format!("{} is not JSON: take it as verify --evidence wrote it", path.display()))?;
    let File { evidence, batch, verdict, rule, tolerance_micro, referee } = file(&document)?;
    let commitment = batch.batch().commitments.iter().find(|of| subject(of) == evidence.subject);
    let commitment = commitment.context("the batch has no commitment to what the evidence is about")?;
    say(format!(
        "ok      node {} signed {} commitments, this one among them",
        commitment.node,
        batch.batch().header.count
    ));
    ensure!(evidence.opens(commitment), "WRONG   the evidence is not what the node committed to");
    say(format!(
        "ok      it committed to these {} prompt and {} output tokens, this seed and these settings",
        evidence.prompt.len(),
        evidence.output.len()
    ));
    verdict.verify()?;
    let same = (verdict.prompt, verdict.seed, verdict.output, verdict.variant)
        == (commitment.prompt, commitment.seed, commitment.output, commitment.variant);
    ensure!(same && verdict.auditor == referee, "WRONG   the verdict is about something else, or not the referee's");
    say(format!("ok      {referee} says that this is not what the variant gives"));
    let model = models::text(config, &Home::open(&config.data_dir)?)?;
    let engine = ol_engine::start(Arc::new(model), Options::default());
    let rescored = rescore(engine.as_ref(), &rule, tolerance_micro, commitment, &evidence)?;
    let (worst, at) = worst(&rescored.margins);
    say(format!(
        "ok      scored with {}: the worst margin is {worst:.3} nats, at token {at} of {}; {} of them are above 0",
        engine.variant().name,
        rescored.margins.len(),
        rescored.margins.iter().filter(|margin| **margin > 0.0).count()
    ));
    Ok(match rescored.judgement {
        Judgement::Failed(fault) => {
            say(format!("the model AGREES with the referee: {}", fault.name()));
            ExitCode::SUCCESS
        }
        Judgement::Fits { .. } | Judgement::Mismatched => {
            say("the model does NOT agree with the referee: the variant gives just this, and the node was wronged");
            ExitCode::FAILURE
        }
    })
}

fn worst(margins: &[f32]) -> (f32, usize) {
    let places = margins.iter().copied().zip(1..);
    places.max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap_or((0.0, 0))
}

struct File {
    evidence: Evidence,
    batch: VerifiedBatch,
    verdict: Verdict,
    rule: AuditRule,
    tolerance_micro: u32,
    referee: NodeId,
}

fn file(document: &Value) -> anyhow::Result<File> {
    ensure!(document["version"] == VERSION, "not evidence, or of another version than {VERSION}");
    let text = |field: &str| document[field].as_str().with_context(|| format!("field {field} is missing"));
    let bytes = |field: &str| unhex_all(text(field)?).with_context(|| format!("field {field} is not hexadecimal"));
    let number = |field: &str| {
        let number = document[field].as_u64().and_then(|number| u32::try_from(number).ok());
        number.with_context(|| format!("field {field} is not a number"))
    };
    let batch = SignedBatch::from_bytes(&bytes("batch")?).context("field batch")?;
    Ok(File {
        evidence: Evidence::from_bytes(&bytes("evidence")?).context("field evidence")?,
        batch: batch.verify().context("the node's batch")?,
        verdict: Verdict::from_bytes(&bytes("verdict")?).context("field verdict")?,
        rule: AuditRule { margin_micro_max: number("margin_micro_max")?, ..AuditRule::DEFAULT },
        tolerance_micro: number("tolerance_micro")?,
        referee: text("referee")?.parse().context("field referee")?,
    })
}
