//! Audits on their way: content to auditors, verdicts back, and what a node is asked for because it is lost here.

use super::GatewayHands;
use crate::driver::content;
use crate::driver::message::{Message, News, Scoring};
use ol_net::{Down, frame};
use ol_protocol::calibration::Calibration;
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::seal::Seal;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, NodeId, Timestamp};
use ol_roles::gateway::event::{Input, Output};
use ol_store::Job;
use std::time::Duration;

/// How long a node has for what it is asked to give back: a fraction of an auditor's time.
const RECALL_LIMIT: Duration = Duration::from_secs(20);

/// An audit that an auditor has.
pub(super) struct Running {
    row: ol_store::Payload,
    // How far the log-probability bytes of honest provers lie apart.
    steps: u8,
    // Where the attempt's own tokens begin, and how many of them are scored.
    resumed_from: usize,
    reach: usize,
    // The prompt, if the referee rendered it.
    prompt_ids: Vec<u32>,
}

impl GatewayHands {
    pub(super) fn verdict(
        &mut self,
        node: NodeId,
        audit: AuditId,
        outcome: Result<frame::Scored, String>,
        inputs: &mut Vec<Input>,
    ) {
        let scored = match outcome {
            Ok(scored) => scored,
            Err(message) => {
                tracing::info!(node = %node.short(), message, "an auditor gives an audit up");
                return inputs.push(Input::AuditRefused { node, audit });
            }
        };
        let verdict = Verdict::from_bytes(&scored.verdict).ok().filter(|v| v.verify().is_ok());
        let Some(verdict) = verdict.filter(|v| v.auditor == node && v.audit == audit) else {
            return self.misbehaved(node, "a verdict that is not the auditor's own", inputs);
        };
        let Some(running) = self.audits.get_mut(&audit) else { return };
        running.prompt_ids = scored.prompt_ids;
        let reach = running.reach.min(running.row.output.len());
        // Of an answer that an earlier node began, only the successor's part is compared.
        let (from, until) = (running.resumed_from, running.resumed_from + reach);
        let own = scored.log_probs.get(from..until.min(scored.log_probs.len())).unwrap_or_default();
        let said = &running.row.output[..reach];
        let agrees = ol_trust::agrees(verdict.level, said, own, running.steps);
        inputs.push(Input::Verdict { node, verdict, agrees });
    }

    pub(super) fn sealed(&mut self, node: NodeId, bytes: &[u8], inputs: &mut Vec<Input>) {
        let seal = Seal::from_bytes(bytes).ok().filter(|seal| seal.verify().is_ok());
        match seal.filter(|seal| (seal.auditor, seal.network) == (node, self.shared.network)) {
            Some(seal) => inputs.push(Input::Sealed { node, seal }),
            None => self.misbehaved(node, "a seal that is not the auditor's own", inputs),
        }
    }

    pub(super) fn calibrated(&mut self, node: NodeId, bytes: &[u8], inputs: &mut Vec<Input>) {
        let calibration = Calibration::from_bytes(bytes).ok().filter(|c| c.verify().is_ok());
        match calibration.filter(|c| c.referee == node) {
            Some(calibration) => inputs.push(Input::Calibrated(Box::new(calibration))),
            None => self.misbehaved(node, "a calibration that is not the node's own", inputs),
        }
    }

    pub(super) fn audited(&mut self, output: &Output) {
        let Output::Audited { subject, node, outcome, passed } = output else { return };
        let (audit, tokens, worst) = match outcome {
            AuditOutcome::Verdict { verdict, .. } => {
                (verdict.audit, verdict.scored_tokens.0, verdict.worst_margin_micro)
            }
            AuditOutcome::Unauditable { audit } => (*audit, 0, 0),
        };
        self.audits.remove(&audit);
        match passed {
            Some(false) => tracing::warn!(node = %node.short(), task = %subject.task, worst, "an audit failed"),
            Some(true) => tracing::debug!(node = %node.short(), task = %subject.task, worst, "an audit passed"),
            None => tracing::warn!(node = %node.short(), task = %subject.task, "an audit could not be held"),
        }
        drop(self.news.send(News::Audited { node: *node, subject: *subject, passed: *passed, tokens }));
    }

    // A failed audit's content, as evidence needs it: that is asked for once this job is on disk.
    pub(super) fn keep_rendered(&mut self, record: &Record, job: &mut Job) {
        let Record::Audit { outcome: AuditOutcome::Verdict { verdict, ruling: Ruling::Failed }, .. } = record else {
            return;
        };
        // Without the referee nothing is taken from an escrow.
        if verdict.level != Level::Referee {
            return;
        }
        let Some(Running { row, prompt_ids, .. }) = self.audits.remove(&verdict.audit) else { return };
        job.payloads.extend(content::rendered(row, prompt_ids));
    }

    pub(super) fn audit(
        &mut self,
        auditor: NodeId,
        audit: AuditId,
        how: Scoring,
        row: Result<Option<ol_store::Payload>, ol_store::Error>,
        inputs: &mut Vec<Input>,
    ) {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                tracing::warn!(%error, "a payload can't be read now: its audit waits");
                return inputs.push(Input::AuditRefused { node: auditor, audit });
            }
        };
        let opened = row.and_then(|row| content::open(&row).map(|(frame, _)| (frame, row)));
        let Some((mut frame, row)) = opened else { return self.recall(auditor, audit, how, inputs) };
        (frame.audit, frame.variant, frame.tolerance_micro) = (audit, how.variant, how.tolerance_micro);
        frame.until = frame.resumed_from.saturating_add(how.reach.0);
        (frame.deadline_ms, frame.sealed) = (120_000, how.sealed);
        let (resumed_from, reach) = (frame.resumed_from as usize, how.reach.0 as usize);
        let (steps, prompt_ids) = (how.log_prob_steps, Vec::new());
        self.audits.insert(audit, Running { row, steps, resumed_from, reach, prompt_ids });
        self.send(auditor, Down::Audit(Box::new(frame)));
    }

    // A node keeps what it did as long as a gateway does.
    fn recall(&mut self, auditor: NodeId, audit: AuditId, how: Scoring, inputs: &mut Vec<Input>) {
        let (subject, AttemptId { task, attempt }) = (how.subject, how.subject);
        let Some(prover) = how.prover.filter(|node| self.peers.contains_key(node)) else {
            return inputs.push(Input::PayloadLost { audit });
        };
        // A panel's others wait for the same.
        let (_, auditors) = self.recalls.entry(subject).or_insert((audit, Vec::new()));
        auditors.push((auditor, how));
        if auditors.len() > 1 {
            return;
        }
        tracing::warn!(%task, node = %prover.short(), "the content of an answer is not here any more: its node is asked for it");
        let salt = ol_protocol::seed::salt(&self.shared.master, &task);
        self.send(prover, Down::Recall { task, attempt, salt });
        // The auditor waits too, and must not seem to be silent.
        let answers = self.journal.answers();
        tokio::spawn(async move {
            tokio::time::sleep(RECALL_LIMIT).await;
            // The loop has ended: nobody waits for it.
            drop(answers.send(Message::RecallDue { audit, subject }));
        });
    }

    pub(super) fn recall_due(&mut self, audit: AuditId, subject: AttemptId, inputs: &mut Vec<Input>) {
        if self.recalls.get(&subject).is_some_and(|(of, _)| *of == audit) {
            self.recalls.remove(&subject);
            inputs.push(Input::PayloadLost { audit });
        }
    }

    /// What a node gives has to open what it committed to, and to be of this gateway and of what it serves; or it is lost.
    pub(super) fn recalled(
        &mut self,
        now: Timestamp,
        node: NodeId,
        subject: AttemptId,
        content: Option<(Box<frame::Audit>, Vec<u8>)>,
        inputs: &mut Vec<Input>,
    ) {
        let is_of = |(_, auditors): &(AuditId, Vec<(NodeId, Scoring)>)| {
            auditors.iter().any(|(_, how)| how.prover == Some(node))
        };
        if !self.recalls.get(&subject).is_some_and(is_of) {
            return;
        }
        let Some((audit, auditors)) = self.recalls.remove(&subject) else { return };
        let salt = ol_protocol::seed::salt(&self.shared.master, &subject.task);
        let of_peer = |content: &frame::Audit| Some(self.peers.get(&node)?.variant(content.variant)?.numerics.clone());
        let known = content.filter(|(content, _)| content.salt == salt);
        let known = known.and_then(|(content, log_probs)| Some((of_peer(&content)?, content, log_probs)));
        match known {
            Some((prover_numerics, content, log_probs)) => {
                let row = content::row(subject, now, frame::Audit { prover_numerics, ..*content }, log_probs);
                for (auditor, how) in auditors {
                    self.audit(auditor, audit, how, Ok(Some(row.clone())), inputs);
                }
            }
            None => inputs.push(Input::PayloadLost { audit }),
        }
    }
}
