//! `openledger verify --log --draws EPOCH`: which results of an epoch were audited, drawn again with its revealed secret.

use super::log::{self, Asked};
use super::source::Source;
use crate::logging::say;
use anyhow::{Context as _, ensure};
use ol_protocol::commitment::Finish;
use ol_protocol::id::hex;
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record, Ruling};
use ol_protocol::verdict::Level;
use ol_protocol::{Epoch, NodeId, Timestamp, TokenCount};
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
    arriving: Vec<(AttemptId, NodeId, TokenCount)>,
    results: BTreeMap<AttemptId, Drawn>,
    close: Option<Close>,
    // When the log's last epoch closed.
    last: Timestamp,
}

// A result, and what was said of it.
struct Drawn {
    node: NodeId,
    tokens: TokenCount,
    candidate: Candidate,
    said: Vec<String>,
    ended: bool,
    // The least that an auditor scored, if it was not all.
    scored: Option<TokenCount>,
}

impl Draws {
    fn see(&mut self, follower: &Follower, record: &Record) {
        let settler = follower.settler();
        match record {
            Record::Receipt(receipt) if settler.epoch() == self.epoch => {
                let of = &receipt.commitment;
                let tokens = if of.finish == Finish::Embedded { TokenCount(0) } else { of.added_tokens() };
                self.arriving.push((AttemptId { task: of.task, attempt: of.attempt }, of.node, tokens));
            }
            Record::Batch(_) => {
                for (id, node, tokens) in std::mem::take(&mut self.arriving) {
                    // A second receipt of an attempt is none.
                    if let Some(candidate) = settler.candidate(&id).filter(|_| !self.results.contains_key(&id)) {
                        let (said, ended, scored) = (Vec::new(), false, None);
                        self.results.insert(id, Drawn { node, tokens, candidate, said, ended, scored });
                    }
                }
            }
            Record::Audit { subject, outcome } => {
                if let Some(drawn) = self.results.get_mut(subject) {
                    let (ended, said) = said(settler, *subject, outcome);
                    drawn.ended |= ended;
                    // Of one that scored all there is nothing to say, however much that is.
                    let verdict = match outcome {
                        AuditOutcome::Verdict { verdict, .. } => Some(verdict),
                        AuditOutcome::Unauditable { .. } => None,
                    };
                    let part = verdict.filter(|v| v.scored_tokens < v.output_tokens).map(|v| v.scored_tokens);
                    drawn.scored = drawn.scored.into_iter().chain(part).min();
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
            | Record::Evidence(_)
            | Record::Sealed { .. } => {}
        }
    }

    // The secret itself was held against its seal when the log was settled.
    fn tell(&self) -> anyhow::Result<()> {
        let epoch = self.epoch;
        let close = self.close.as_ref().with_context(|| {
            format!("epoch {epoch} is not closed in this log yet, so its draws are not revealed: ask again later")
        })?;
        let (mut drawn, mut open, mut undrawn, mut short) = (0_u64, 0_u64, Vec::new(), Vec::new());
        for (id, result) in &self.results {
            let AttemptId { task, attempt } = id;
            if !result.candidate.is_drawn(&close.draw_secret) {
                undrawn.extend((!result.said.is_empty()).then(|| format!("{task}, attempt {attempt}")));
                continue;
            }
            drawn += 1;
            open += u64::from(!result.ended);
            let reach = result.candidate.reach(&close.draw_secret, result.tokens);
            short.extend(result.scored.filter(|scored| *scored < reach).map(|_| format!("{task}, attempt {attempt}")));
            let said = if result.said.is_empty() { "no verdict".to_owned() } else { result.said.join("; then ") };
            let chance = f64::from(result.candidate.chance.to_ppm()) / 1e6;
            say(format!(
                "drawn   {task} attempt {attempt} of node {}, with chance {chance}, {} of {} tokens: {said}",
                result.node.short(),
                reach.0,
                result.tokens.0
            ));
        }
        say(format!(
            "ok      {} receipts of epoch {epoch}, {drawn} of them drawn with the secret {} that was sealed before it",
            self.results.len(),
            &hex(&close.draw_secret)[..8]
        ));
        ensure!(undrawn.is_empty(), "audited without being drawn: {}", undrawn.join("; "));
        say("ok      nothing else was audited");
        ensure!(short.is_empty(), "fewer tokens were scored than the draw says: {}", short.join("; "));
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
