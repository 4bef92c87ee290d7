//! Answers that are kept back until they are trusted as far as their tenants ask: who can give them, and when they are given.

use super::Gateway;
use super::event::{Output, Refusal, Submission, TrustFloor};
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::record::AttemptId;
use ol_protocol::variant::Assurance;
use ol_protocol::{NodeId, Price, TaskId, Timestamp, VariantId};
use ol_sched::Gate;
use ol_trust::Evidence;

impl Gateway {
    /// The price with an audit in it, of a task that may need one.
    pub(super) fn audited_price(&self, submission: &Submission) -> Option<Price> {
        submission.floor?;
        submission.price.with_audit(self.settler.parameters().audit.pay_bp)
    }

    /// Whether some node may give an answer that is trusted so far.
    pub(super) fn can_be_trusted(&mut self, now: Timestamp, submission: &Submission) -> Result<(), Refusal> {
        let Some(TrustFloor { value_ppm, assurance }) = submission.floor else { return Ok(()) };
        let (want, evidence) = (submission.want(), self.best_evidence(submission));
        if self.most_trusted(now, want, assurance, evidence) >= value_ppm {
            return Ok(());
        }
        let best_ppm = self.most_trusted(now, want, assurance, Evidence::Clean);
        let could = self.settler.is_calibrated(want.variant) && best_ppm < value_ppm;
        let gate = if could { Gate::TrustTooHigh { needed_ppm: value_ppm, best_ppm } } else { Gate::NoAuditor };
        Err(Refusal::Impossible(vec![gate]))
    }

    // What an audit may bring: nothing where nobody would do one whose word is final, or all of the price would be the auditor's.
    fn best_evidence(&self, submission: &Submission) -> Evidence {
        let is_possible = self.referee_for(submission.variant).is_some() && self.audited_price(submission).is_some();
        if is_possible { Evidence::Clean } else { Evidence::Pending }
    }

    /// Whether a node's answer would be trusted enough for a task, if its audit says the best that it may.
    pub(super) fn is_fit(&self, node: NodeId, submission: &Submission) -> bool {
        let Some(floor) = submission.floor else { return true };
        self.reaches(node, submission.variant, &floor, self.best_evidence(submission))
    }

    /// The nodes with room whose answers would not be trusted enough for a task, whatever an audit said.
    pub(super) fn unfit(&self, task: TaskId) -> Vec<NodeId> {
        let Some(submission) = self.tasks.get(&task).map(|task| &task.submission) else { return Vec::new() };
        let Some(floor) = submission.floor else { return Vec::new() };
        let (variant, evidence) = (submission.variant, self.best_evidence(submission));
        let ready = self.offers.ready_nodes(variant);
        ready.filter(|node| !self.reaches(*node, variant, &floor, evidence)).collect()
    }

    /// Whether a node's answer is trusted so far, its audit being what `evidence` says.
    pub(super) fn reaches(&self, node: NodeId, variant: VariantId, floor: &TrustFloor, evidence: Evidence) -> bool {
        self.trust_ppm(node, variant, floor.assurance, evidence) >= floor.value_ppm
    }

    /// In millionths; some thirty powers.
    pub(super) fn trust_ppm(&self, node: NodeId, variant: VariantId, assurance: Assurance, evidence: Evidence) -> u32 {
        let assurance = if self.settler.is_calibrated(variant) { assurance } else { Assurance::None };
        (ol_trust::value(&self.settler.standing(node, variant), evidence, assurance) * 1e6) as u32
    }

    /// The audit ended: whoever waits for it hears.
    pub(super) fn confirm(&mut self, now: Timestamp, subject: AttemptId, passed: Option<bool>, out: &mut Vec<Output>) {
        if self.awaited.remove(&subject).is_none() {
            return;
        }
        match passed {
            Some(true) => out.push(Output::Release { task: subject.task }),
            Some(false) | None => self.withhold(now, subject.task, passed == Some(false), out),
        }
    }

    /// Ends the wait for audits that did not end in time.
    pub(super) fn expire_awaited(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let late: Vec<AttemptId> = self.awaited.extract_if(.., |_, until| *until <= now).map(|(id, _)| id).collect();
        late.into_iter().for_each(|id| self.withhold(now, id.task, false, out));
    }

    fn withhold(&mut self, now: Timestamp, task: TaskId, failed: bool, out: &mut Vec<Output>) {
        self.refuse(now, task, Refusal::Unconfirmed { failed }, Vec::new(), out);
    }
}
