//! Audits at the gateway: who does them, and what becomes of their verdicts.

use super::event::{Entry, Output};
use super::{Appended, Gateway, limits};
use crate::settler::Meaning;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use ol_ledger::Finding;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::record::{AttemptId, AuditOutcome, Record};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, NodeId, OperatorId, Timestamp, VariantId};
use ol_sched::Reason;
use ol_trust::draw;

/// A drawn attempt until its audit is final.
#[derive(Debug)]
pub(super) struct Audit {
    pub(super) subject: AttemptId,
    node: NodeId,
    operator: OperatorId,
    variant: VariantId,
    tried: BTreeSet<NodeId>,
    running: Option<(NodeId, Timestamp)>,
    by_referee: bool,
}

impl Audit {
    /// Takes the audit back from a node that is gone.
    pub(super) fn abandon(&mut self, node: NodeId) {
        self.running = self.running.filter(|(auditor, _)| *auditor != node);
    }
}

impl Gateway {
    /// Begins the audit of a drawn attempt.
    pub(super) fn draw(&mut self, subject: AttemptId) {
        let Some(commitment) = self.settler.commitment(&subject) else { return };
        let (node, operator, variant) = (commitment.node, commitment.operator, commitment.variant);
        let bytes = digest(Domain::Audit, &[&self.setup.master, &subject.task.0, &[subject.attempt]]).0;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        // After a restart it may have been accused already.
        let by_referee = self.settler.is_accused(&subject);
        let audit = Audit { subject, node, operator, variant, tried: BTreeSet::new(), running: None, by_referee };
        self.audits.insert(AuditId(id), audit);
        self.counters.audits_drawn += 1;
    }

    /// Hands audits to auditors that have time, and takes them back from those that took too long.
    pub(super) fn dispatch_audits(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let waiting: Vec<AuditId> = self
            .audits
            .iter()
            .filter(|(_, audit)| audit.running.is_none_or(|(_, due)| due <= now))
            .map(|(id, _)| *id)
            .collect();
        let operators: BTreeSet<OperatorId> = self.workers.values().copied().collect();
        let referee = self.settler.genesis().referee;
        let mut with_referee =
            self.audits.values().filter(|a| a.running.is_some_and(|(n, due)| n == referee && due > now)).count();
        let mut busy: BTreeSet<NodeId> =
            self.audits.values().filter_map(|a| a.running).filter(|(_, due)| *due > now).map(|(n, _)| n).collect();
        for id in waiting {
            let Some((auditor, level)) = self.auditor(&id, &busy, &operators) else { continue };
            if level == Level::Referee {
                if with_referee >= limits::REFEREE_AUDITS {
                    continue;
                }
                with_referee += 1;
            }
            let Some(audit) = self.audits.get_mut(&id) else { continue };
            audit.running = Some((auditor, now.after(limits::AUDIT)));
            audit.tried.insert(auditor);
            if level != Level::Referee {
                busy.insert(auditor);
            }
            out.push(Output::Audit { auditor, audit: id, subject: audit.subject, level });
        }
    }

    // The first by draw among other operators' nodes that have a free slot; the referee where operators are too few to
    // audit each other, where a failure has to be confirmed, and where nobody else is left.
    fn auditor(
        &self,
        id: &AuditId,
        busy: &BTreeSet<NodeId>,
        operators: &BTreeSet<OperatorId>,
    ) -> Option<(NodeId, Level)> {
        let audit = self.audits.get(id)?;
        let few = operators.len() < self.settler.parameters().audit.cross_audit_operators_min as usize;
        let peer = self
            .workers
            .iter()
            .filter(|(node, operator)| **operator != audit.operator && !busy.contains(*node))
            .filter(|(node, _)| !audit.tried.contains(*node) && self.offers.free(**node, audit.variant) > 0)
            .map(|(node, _)| *node)
            .min_by_key(|node| (self.rank(audit.subject, node), *node));
        match peer {
            Some(node) if !few && !audit.by_referee => Some((node, Level::CrossAudit)),
            _ if few || audit.by_referee || !audit.tried.is_empty() => self.referee_for(audit.variant),
            _ => None,
        }
    }

    fn referee_for(&self, variant: VariantId) -> Option<(NodeId, Level)> {
        let serves = self.referee.as_ref().is_some_and(|variants| variants.contains(&variant));
        serves.then_some((self.settler.genesis().referee, Level::Referee))
    }

    fn rank(&self, subject: AttemptId, auditor: &NodeId) -> u64 {
        let task = digest(Domain::Task, &[&subject.task.0]);
        draw::rank(&self.draw_secret(), &task, u16::from(subject.attempt), auditor)
    }

    pub(super) fn verdict(
        &mut self,
        now: Timestamp,
        node: NodeId,
        verdict: Verdict,
        agrees: bool,
        out: &mut Vec<Output>,
    ) {
        let id = verdict.audit;
        let Some(audit) = self.audits.get_mut(&id).filter(|a| a.running.is_some_and(|(n, _)| n == node)) else {
            self.counters.late += 1;
            return;
        };
        audit.running = None;
        let subject = audit.subject;
        let outcome = AuditOutcome::Verdict(verdict);
        let by_referee = node == self.settler.genesis().referee;
        // An auditor whose log-probabilities are not the prover's did not compute, or the prover did not. The referee's
        // word is the last.
        match self.settler.meaning(subject, &outcome) {
            Meaning::Final(Finding::Passed) if !agrees && !by_referee => self.escalate(id),
            Meaning::Final(finding) => self.conclude(now, id, outcome, finding, out),
            Meaning::Escalate => {
                // An accusation is logged: the accuser is paid if the referee confirms it.
                self.settler.audit(subject, &outcome);
                let entry = Entry::Record(Record::Audit { subject, outcome });
                self.append(vec![entry], Appended::Nothing, out);
                self.escalate(id);
            }
            Meaning::Void => self.void(now, id, by_referee, out),
        }
        self.dispatch_audits(now, out);
    }

    // What even the referee does not recognise was not relayed as it was committed to: nobody can audit it.
    fn void(&mut self, now: Timestamp, id: AuditId, by_referee: bool, out: &mut Vec<Output>) {
        self.counters.void_verdicts += 1;
        if by_referee {
            self.payload_lost(now, id, out);
        }
    }

    fn escalate(&mut self, id: AuditId) {
        self.counters.escalated += 1;
        if let Some(audit) = self.audits.get_mut(&id) {
            audit.by_referee = true;
        }
    }

    pub(super) fn audit_refused(&mut self, now: Timestamp, node: NodeId, id: AuditId, out: &mut Vec<Output>) {
        if let Some(audit) = self.audits.get_mut(&id).filter(|a| a.running.is_some_and(|(n, _)| n == node)) {
            // A referee that can't answer now is asked again later: there is no other.
            let referee = node == self.settler.genesis().referee;
            audit.running = referee.then(|| (node, now.after(limits::AUDIT_RETRY)));
        }
        self.dispatch_audits(now, out);
    }

    pub(super) fn payload_lost(&mut self, now: Timestamp, id: AuditId, out: &mut Vec<Output>) {
        self.conclude(now, id, AuditOutcome::Unauditable { audit: id }, Finding::Unauditable, out);
    }

    fn conclude(
        &mut self,
        now: Timestamp,
        id: AuditId,
        outcome: AuditOutcome,
        finding: Finding,
        out: &mut Vec<Output>,
    ) {
        let Some(audit) = self.audits.remove(&id) else { return };
        let (subject, node) = (audit.subject, audit.node);
        // Settlement refused the receipt in the meantime: there is nothing to find about it.
        if self.settler.commitment(&subject).is_none() {
            return out.push(Output::Forget { task: subject.task });
        }
        self.settler.audit(subject, &outcome);
        let passed = match finding {
            Finding::Passed => Some(true),
            Finding::Failed => Some(false),
            Finding::Unauditable => None,
        };
        match passed {
            Some(true) => self.counters.audits_passed += 1,
            Some(false) => {
                self.counters.audits_failed += 1;
                self.breaker.failed(node, Reason::Wrong, now);
            }
            None => self.counters.unauditable += 1,
        }
        let entry = Entry::Record(Record::Audit { subject, outcome: outcome.clone() });
        self.append(vec![entry], Appended::Nothing, out);
        out.push(Output::Audited { subject, node, outcome, passed });
        out.push(Output::Forget { task: subject.task });
    }
}
