//! `openledger verify --log --draws EPOCH`: which results of an epoch were audited, drawn again with its revealed secret.

use super::log::{self, Asked};
use super::source::Source;
use crate::logging::say;
use anyhow::{Context as _, ensure};
use ol_protocol::id::hex;
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record, Ruling};
use ol_protocol::verdict::Level;
use ol_protocol::{Epoch, NodeId, Timestamp};
use ol_roles::Settler;
use ol_roles::follower::Follower;
use ol_roles::settler::Candidate;
use ol_store::AUDIT_WINDOW;
use std::collections::BTreeMap;

/// Checks a whole log, and draws one of its epochs again.
pub(super) async fn check(source: &Source, asked: &Asked<'_>, epoch: Epoch) -> anyhow::Result<()> {
    let mut draws = Draws { epoch, arriving: Vec::new(), results: BTreeMap::new(), close: None, last: Timestamp(0) };
    log::follow(source, asked, |follower, record| {
        draws.see(follower, record);
        Ok(())
    })
    .await
    .context("the log does NOT hold")?;
    draws.tell()
}

struct Draws {
    epoch: Epoch,
    // Receipts whose batch comes next.
    arriving: Vec<(AttemptId, NodeId)>,
    results: BTreeMap<AttemptId, Drawn>,
    close: Option<Close>,
    // When the log's last epoch closed.
    last: Timestamp,
}

// A result, and what was said of it.
struct Drawn {
    node: NodeId,
    candidate: Candidate,
    said: Vec<String>,
    ended: bool,
}

impl Draws {
    fn see(&mut self, follower: &Follower, record: &Record) {
        let settler = follower.settler();
        match record {
            Record::Receipt(receipt) if settler.epoch() == self.epoch => {
                let of = &receipt.commitment;
                self.arriving.push((AttemptId { task: of.task, attempt: of.attempt }, of.node));
            }
            Record::Batch(_) => {
                for (id, node) in std::mem::take(&mut self.arriving) {
                    // A second receipt of an attempt is none.
                    if let Some(candidate) = settler.candidate(&id).filter(|_| !self.results.contains_key(&id)) {
                        self.results.insert(id, Drawn { node, candidate, said: Vec::new(), ended: false });
                    }
                }
            }
            Record::Audit { subject, outcome } => {
                if let Some(drawn) = self.results.get_mut(subject) {
                    let (ended, said) = said(settler, *subject, outcome);
                    drawn.ended |= ended;
                    drawn.said.push(said);
                }
            }
            Record::Close(close) => {
                self.last = close.at;
                if close.epoch == self.epoch {
                    self.close = Some(close.clone());
                }
            }
            Record::Receipt(_)
            | Record::Genesis(_)
            | Record::TopUp(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_) => {}
        }
    }

    // The secret itself was held against its seal when the log was settled.
    fn tell(&self) -> anyhow::Result<()> {
        let epoch = self.epoch;
        let close = self.close.as_ref().with_context(|| {
            format!("epoch {epoch} is not closed in this log yet, so its draws are not revealed: ask again later")
        })?;
        let (mut drawn, mut open, mut undrawn) = (0_u64, 0_u64, Vec::new());
        for (id, result) in &self.results {
            let AttemptId { task, attempt } = id;
            if !result.candidate.is_drawn(&close.draw_secret) {
                undrawn.extend((!result.said.is_empty()).then(|| format!("{task}, attempt {attempt}")));
                continue;
            }
            drawn += 1;
            open += u64::from(!result.ended);
            let said = if result.said.is_empty() { "no verdict".to_owned() } else { result.said.join("; then ") };
            let chance = f64::from(result.candidate.chance.to_ppm()) / 1e6;
            say(format!(
                "drawn   {task} attempt {attempt} of node {}, with chance {chance}: {said}",
                result.node.short()
            ));
        }
        say(format!(
            "ok      {} receipts of epoch {epoch}, {drawn} of them drawn with the secret {} that was sealed before it",
            self.results.len(),
            &hex(&close.draw_secret)[..8]
        ));
        ensure!(undrawn.is_empty(), "audited without being drawn: {}", undrawn.join("; "));
        say("ok      nothing else was audited");
        let age = self.last.0.saturating_sub(close.at.0);
        ensure!(
            open == 0 || age <= AUDIT_WINDOW.0,
            "{open} of them have no final verdict, and the epoch closed {} hours before the log's end: the gateway withholds their pay",
            age / 3_600_000_000
        );
        match open {
            0 => say("ok      all of their audits ended"),
            open => say(format!("open    {open} of their audits have not ended yet: they have a day")),
        }
        Ok(())
    }
}

// Whether the audit ended with this record, and what it says.
fn said(settler: &Settler, subject: AttemptId, outcome: &AuditOutcome) -> (bool, String) {
    match outcome {
        AuditOutcome::Verdict { verdict, ruling } => {
            let ruling = settler.ruling_of(subject, verdict, *ruling);
            let level = match verdict.level {
                Level::CrossAudit => "auditor",
                Level::Panel => "panel's auditor",
                Level::Referee => "referee",
            };
            let word = ruling.map_or("nothing said", Ruling::name);
            let ended = matches!(ruling, Some(Ruling::Passed | Ruling::Failed));
            (ended, format!("{word} by {level} {}", verdict.auditor.short()))
        }
        AuditOutcome::Unauditable { .. } => (true, "could not be audited, as the gateway says".to_owned()),
    }
}
