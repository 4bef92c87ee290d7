//! Audits at the gateway: who does them, and what becomes of their verdicts.

use super::event::{Entry, Output};
use super::panel::Panel;
use super::{Appended, Gateway, limits};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::evidence::Evidence;
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, NodeId, OperatorId, Region, TaskId, TenantId, Timestamp, TokenCount, VariantId};
use ol_sched::{Reason, Want};
use ol_trust::draw;

/// A drawn attempt until its audit is final.
#[derive(Debug)]
pub(super) struct Audit {
    pub(super) subject: AttemptId,
    pub(super) panel: Option<Panel>,
    node: NodeId,
    operator: OperatorId,
    pub(super) variant: VariantId,
    // The only region that it may be scored in, but for the referee.
    region: Option<Region>,
    pub(super) tried: BTreeSet<NodeId>,
    // Who owns these.
    pub(super) asked: BTreeSet<OperatorId>,
    running: Option<(NodeId, Timestamp)>,
    // What the draw has scored; all once somebody said that the result is bad.
    reach: TokenCount,
    by_referee: bool,
    drawn_at: Timestamp,
    // Who said of its own variant's result that it is bad by itself, or good with other log-probabilities, before the referee was
    // asked. That it is bad beside a node's other answers, the referee may see otherwise: others come between.
    pub(super) doubted: Option<(NodeId, Said)>,
}

// What an auditor said whose word did not end the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Good,
    Bad,
}

// Who is to audit, at which level, and with which variant.
pub(super) type Auditor = (NodeId, Level, VariantId);

impl Audit {
    /// Takes the audit back from a node that is gone.
    pub(super) fn abandon(&mut self, node: NodeId) {
        self.running = self.running.filter(|(auditor, _)| *auditor != node);
        self.panel.iter_mut().for_each(|panel| panel.leave(node));
    }
}

impl Gateway {
    /// Begins the audit of a drawn attempt.
    pub(super) fn draw(&mut self, now: Timestamp, subject: AttemptId) {
        let Some(commitment) = self.settler.commitment(&subject) else { return };
        let (node, operator, variant) = (commitment.node, commitment.operator, commitment.variant);
        let all = commitment.added_tokens();
        let bytes = digest(Domain::Audit, &[&self.setup.master, &subject.task.0, &[subject.attempt]]).0;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        // A receipt that comes again is not audited again.
        if self.audits.contains_key(&AuditId(id)) || !self.settler.needs_audit(&subject, &self.draw_secret()) {
            return;
        }
        // After a restart it may have been accused already.
        let by_referee = self.settler.is_accused(&subject);
        let drawn = self.settler.reach(&subject, &self.draw_secret());
        let reach = drawn.filter(|_| !by_referee).unwrap_or(all);
        let (tried, asked, running, drawn_at) = (BTreeSet::new(), BTreeSet::new(), None, now);
        let (doubted, panel) = (None, None);
        let audit = Audit {
            subject,
            panel,
            node,
            operator,
            variant,
            region: self.settler.bound(&subject),
            tried,
            asked,
            running,
            reach,
            by_referee,
            drawn_at,
            doubted,
        };
        self.audits.insert(AuditId(id), audit);
        self.counters.audits_drawn += 1;
    }

    /// Hands audits to auditors that have time, and takes them back from those that took too long.
    pub(super) fn dispatch_audits(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        self.end_panels(now, out);
        let is_waiting = |audit: &Audit| match &audit.panel {
            Some(panel) => panel.is_short(),
            None => audit.running.is_none_or(|(_, due)| due <= now),
        };
        let waiting: Vec<AuditId> =
            self.audits.iter().filter(|(_, audit)| is_waiting(audit)).map(|(id, _)| *id).collect();
        self.leave_out_silent(now);
        let waiting = self.calibrated_of(now, waiting, out);
        if waiting.is_empty() {
            return;
        }
        let are_few = self.are_operators_few();
        let referee = self.settler.genesis().referee;
        let mut with_referee =
            self.audits.values().filter(|a| a.running.is_some_and(|(n, due)| n == referee && due > now)).count();
        let mut busy: BTreeSet<NodeId> =
            self.audits.values().filter_map(|a| a.running).filter(|(_, due)| *due > now).map(|(n, _)| n).collect();
        busy.extend(self.audits.values().filter_map(|audit| audit.panel.as_ref()).flat_map(Panel::scoring));
        // Each in its turn, so that none that can't be placed holds up the others.
        let (after, before): (Vec<AuditId>, Vec<AuditId>) =
            waiting.into_iter().partition(|id| self.looked_at.is_none_or(|last| *id > last));
        for id in after.into_iter().chain(before).take(limits::AUDITS_LOOKED_AT) {
            self.looked_at = Some(id);
            let Some((auditor, level, variant)) = self.auditor(now, &id, &busy, are_few) else {
                if self.audits.get(&id).is_some_and(|audit| audit.by_referee) {
                    self.seat(now, id, &mut busy, out);
                }
                continue;
            };
            if level == Level::Referee {
                if with_referee >= limits::REFEREE_AUDITS {
                    continue;
                }
                with_referee += 1;
            }
            let Some(audit) = self.audits.get_mut(&id) else { continue };
            audit.running = Some((auditor, now.after(limits::AUDIT)));
            audit.tried.insert(auditor);
            audit.asked.extend(self.workers.get(&auditor));
            // Seats that nobody takes, and the referee is there now.
            audit.panel = None;
            if level != Level::Referee {
                busy.insert(auditor);
            }
            out.extend(self.ask(id, (auditor, level, variant)));
        }
    }

    /// Sends an audit's content to an auditor.
    pub(super) fn ask(&self, id: AuditId, (auditor, level, variant): Auditor) -> Option<Output> {
        let audit = self.audits.get(&id)?;
        let calibration = self.settler.calibration(audit.variant, variant)?;
        Some(Output::Audit {
            auditor,
            audit: id,
            subject: audit.subject,
            prover: Some(audit.node).filter(|_| self.settler.is_charged(&audit.subject)),
            level,
            variant,
            tolerance_micro: calibration.tolerance_micro,
            log_prob_steps: calibration.log_prob_steps,
            reach: audit.reach,
        })
    }

    // Whoever let its time pass is not asked for a while, and audits wait for others.
    fn leave_out_silent(&mut self, now: Timestamp) {
        let referee = self.settler.genesis().referee;
        let running = self.audits.values().filter_map(|audit| audit.running);
        let late = running.filter(|(auditor, due)| *due <= now && *auditor != referee);
        let silent: Vec<NodeId> = late.map(|(auditor, _)| auditor).collect();
        silent.into_iter().for_each(|auditor| self.leave_out(now, auditor));
    }

    // Those that can be judged. Nobody is blamed for answers of a variant that was not measured: they are paid when the referee has
    // had its time.
    fn calibrated_of(&mut self, now: Timestamp, waiting: Vec<AuditId>, out: &mut Vec<Output>) -> Vec<AuditId> {
        let is_late = |audit: &Audit| now >= audit.drawn_at.after(limits::CALIBRATION);
        let can_be_judged =
            |id: &AuditId| self.audits.get(id).is_some_and(|audit| self.settler.is_calibrated(audit.variant));
        let (ready, unknown): (Vec<AuditId>, Vec<AuditId>) = waiting.into_iter().partition(can_be_judged);
        for id in unknown {
            if self.audits.get(&id).is_some_and(is_late) {
                self.payload_lost(now, id, out);
            }
        }
        ready
    }

    // By draw among other operators that have a node with a free slot, as their nodes' own audits speak for them; the referee where operators are too few to
    // audit each other, where a failure has to be confirmed, and where nobody else is left.
    fn auditor(&self, now: Timestamp, id: &AuditId, busy: &BTreeSet<NodeId>, are_few: bool) -> Option<Auditor> {
        let audit = self.audits.get(id)?;
        if are_few || audit.by_referee {
            return self.referee_for(audit.variant);
        }
        match self.peer(audit, &self.free_auditors(now, audit, busy)) {
            Some((node, variant)) => Some((node, Level::CrossAudit, variant)),
            None if !audit.tried.is_empty() => self.referee_for(audit.variant),
            // There may be no other operator in its region.
            None if audit.region.is_some() && now >= audit.drawn_at.after(limits::AUDIT_PATIENCE) => {
                self.referee_for(audit.variant)
            }
            None => None,
        }
    }

    // Whether there are fewer operators than audit each other.
    fn are_operators_few(&self) -> bool {
        let enough = self.settler.parameters().audit.cross_audit_operators_min as usize;
        let mut operators = BTreeSet::new();
        !self.workers.values().any(|operator| operators.insert(*operator) && operators.len() >= enough)
    }

    /// Nodes of other operators that have a free slot, and whose word is worth something; of very many that are free some, others
    /// each time.
    pub(super) fn free_auditors(
        &self,
        now: Timestamp,
        audit: &Audit,
        busy: &BTreeSet<NodeId>,
    ) -> BTreeMap<OperatorId, Vec<(NodeId, VariantId)>> {
        let mut free: BTreeMap<OperatorId, Vec<(NodeId, VariantId)>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        // Where no slot comes free, audits are done beside the tasks: else who keeps all nodes busy would never be audited.
        let is_patient = now < audit.drawn_at.after(limits::AUDIT_PATIENCE);
        let drawn = self.rank(audit.subject, &audit.node).wrapping_add(now.0);
        for variant in self.settler.verifiers(audit.variant) {
            let want = Want { variant, region: audit.region };
            // Equally far apart in the list, as those that stand together are alike: strangers, that idle, would have windows of their own.
            let step = (self.offers.supply(want).ready_count / limits::AUDITORS_LOOKED_AT).max(1);
            let spread = || self.offers.ready_nodes(want).skip((drawn % step) as usize).step_by(step as usize);
            let ready = is_patient.then(spread).into_iter().flatten();
            let all = (!is_patient).then(|| self.workers.keys().copied()).into_iter().flatten();
            let working = all.filter(|node| self.offers.takes(*node, variant));
            for node in ready.chain(working).filter(|node| !busy.contains(node) && seen.insert(*node)) {
                let may = self.offers.stands_in(node, audit.region)
                    && !audit.tried.contains(&node)
                    && !self.distrusted.contains_key(&node);
                let Some(operator) = self.workers.get(&node).filter(|of| may && **of != audit.operator) else {
                    continue;
                };
                free.entry(*operator).or_default().push((node, variant));
            }
        }
        free
    }

    pub(super) fn peer(
        &self,
        audit: &Audit,
        free: &BTreeMap<OperatorId, Vec<(NodeId, VariantId)>>,
    ) -> Option<(NodeId, VariantId)> {
        let clean = |(node, variant): &(NodeId, VariantId)| self.settler.standing(*node, *variant).clean;
        let weigh = |(operator, nodes): (&OperatorId, &Vec<_>)| (*operator, draw::merit(nodes.iter().map(clean)));
        let among: Vec<(OperatorId, u64)> = free.iter().map(weigh).collect();
        let (secret, subject) = (self.draw_secret(), audit.subject);
        let task = digest(Domain::Task, &[&subject.task.0]);
        let turn = u32::try_from(audit.tried.len()).unwrap_or(u32::MAX);
        let operator = draw::pick(&secret, &task, u16::from(subject.attempt), turn, &among)?;
        free.get(operator)?.iter().min_by_key(|(node, _)| (self.rank(subject, node), *node)).copied()
    }

    pub(super) fn referee_for(&self, variant: VariantId) -> Option<Auditor> {
        let served = self.referee.as_ref()?;
        let verifier = self.settler.verifiers(variant).find(|verifier| served.contains(verifier))?;
        Some((self.settler.genesis().referee, Level::Referee, verifier))
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
        if self.audits.get(&id).is_some_and(|audit| audit.panel.is_some()) {
            return self.opened(now, node, verdict, agrees, out);
        }
        let Some(audit) = self.audits.get_mut(&id).filter(|a| a.running.is_some_and(|(n, _)| n == node)) else {
            self.counters.late += 1;
            return;
        };
        audit.running = None;
        let subject = audit.subject;
        let by_referee = node == self.settler.genesis().referee;
        // Who scores less than it was asked to says nothing, nor who says that it is somebody else.
        let expected = match self.workers.get(&node) {
            Some(operator) => (Level::CrossAudit, *operator),
            None => (Level::Referee, verdict.operator),
        };
        if (verdict.level, verdict.operator) != expected
            || verdict.scored_tokens < audit.reach.min(verdict.output_tokens)
        {
            self.void(now, id, by_referee, out);
            return self.dispatch_audits(now, out);
        }
        // An auditor whose log-probabilities are not the prover's did not compute, or the prover did not. The referee's
        // word is the last.
        match self.settler.ruling(subject, &verdict) {
            Some(Ruling::Passed) if !agrees && !by_referee => self.escalate(id, &verdict, Said::Good),
            Some(ruling @ (Ruling::Passed | Ruling::Failed)) => {
                self.contradict(now, id, &verdict, ruling, agrees);
                self.conclude(now, id, AuditOutcome::Verdict { verdict, ruling }, out);
            }
            Some(ruling @ Ruling::Accused) => {
                // An accusation is logged: the accuser is paid if the referee confirms it.
                self.escalate(id, &verdict, Said::Bad);
                self.record_audit(subject, AuditOutcome::Verdict { verdict, ruling }, out);
            }
            Some(Ruling::VotedFor | Ruling::VotedAgainst | Ruling::Unstated) | None => {
                self.void(now, id, by_referee, out)
            }
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

    // The referee looked at what an auditor of the same variant had judged: one of the two did not compute, or the prover's
    // log-probabilities are made up.
    fn contradict(&mut self, now: Timestamp, id: AuditId, verdict: &Verdict, ruling: Ruling, agrees: bool) {
        let Some(audit) = self.audits.get(&id).filter(|audit| audit.variant == verdict.variant) else { return };
        let Some((auditor, said)) = audit.doubted else { return };
        let is_false = match said {
            Said::Bad => ruling == Ruling::Passed,
            Said::Good => agrees,
        };
        if is_false {
            self.counters.false_verdicts += 1;
            self.distrusted.insert(auditor, now.after(limits::DISTRUST));
        }
    }

    fn escalate(&mut self, id: AuditId, verdict: &Verdict, said: Said) {
        self.counters.escalated += 1;
        let Some(audit) = self.audits.get_mut(&id) else { return };
        audit.by_referee = true;
        let is_plain = said == Said::Good || self.settler.is_fault(audit.subject, verdict);
        audit.doubted = Some((verdict.auditor, said)).filter(|_| is_plain && audit.variant == verdict.variant);
        let all = self.settler.commitment(&audit.subject).map(Commitment::added_tokens);
        audit.reach = all.unwrap_or(audit.reach);
    }

    pub(super) fn audit_refused(&mut self, now: Timestamp, node: NodeId, id: AuditId, out: &mut Vec<Output>) {
        if let Some(panel) = self.audits.get_mut(&id).and_then(|audit| audit.panel.as_mut()) {
            panel.leave(node);
        }
        if let Some(audit) = self.audits.get_mut(&id).filter(|a| a.running.is_some_and(|(n, _)| n == node)) {
            // A referee that can't answer now is asked again later: there is no other.
            let referee = node == self.settler.genesis().referee;
            audit.running = referee.then(|| (node, now.after(limits::AUDIT_RETRY)));
        }
        self.dispatch_audits(now, out);
    }

    pub(super) fn payload_lost(&mut self, now: Timestamp, id: AuditId, out: &mut Vec<Output>) {
        self.conclude(now, id, AuditOutcome::Unauditable { audit: id }, out);
    }

    /// Asks for what would be evidence, once the audit's end is on disk.
    pub(super) fn opening(&self, subject: AttemptId) -> Option<Output> {
        let commitment = self.settler.refuted(&subject)?.clone();
        Some(Output::Open { subject, commitment })
    }

    /// Asks for what its tenant gives as evidence.
    pub(super) fn published(&self, tenant: TenantId, task: TaskId, out: &mut Vec<Output>) {
        let concealed = self.settler.concealed(task, tenant);
        out.extend(concealed.map(|(subject, commitment)| Output::Open { subject, commitment: commitment.clone() }));
    }

    /// Asks again for all that could be evidence: a restart may have come between an audit's end and it.
    pub(super) fn open_refuted(&self, out: &mut Vec<Output>) {
        out.extend(self.settler.all_refuted().filter_map(|subject| self.opening(*subject)));
    }

    /// Puts evidence in the log. What opens nothing is no evidence.
    pub(super) fn evidence(&mut self, evidence: Evidence, out: &mut Vec<Output>) {
        match self.settler.evidence(&evidence) {
            Ok(()) => {
                self.counters.slashed += 1;
                self.append(vec![Entry::Record(Record::Evidence(evidence))], Appended::Nothing, out);
            }
            Err(_) => self.counters.void_evidence += 1,
        }
    }

    fn record_audit(&mut self, subject: AttemptId, outcome: AuditOutcome, out: &mut Vec<Output>) {
        if let Err(fault) = self.settler.audit(subject, &outcome) {
            unreachable!("a gateway states what it found itself: {fault}");
        }
        let entry = Entry::Record(Record::Audit { subject, outcome });
        self.append(vec![entry], Appended::Audit { subject }, out);
    }

    fn conclude(&mut self, now: Timestamp, id: AuditId, outcome: AuditOutcome, out: &mut Vec<Output>) {
        let Some(subject) = self.audits.get(&id).map(|audit| audit.subject) else { return };
        self.record_audit(subject, outcome.clone(), out);
        self.ended(now, id, outcome, out);
    }

    /// Ends the audits of receipts that a close has refused: there is nothing to find about them.
    pub(super) fn drop_audits(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let known = |audit: &Audit| self.settler.commitment(&audit.subject).is_some();
        let refused: Vec<(AuditId, Audit)> = self.audits.extract_if(.., |_, audit| !known(audit)).collect();
        for (audit, Audit { subject, node, .. }) in refused {
            let outcome = AuditOutcome::Unauditable { audit };
            out.push(Output::Audited { subject, node, outcome, passed: None });
            self.confirm(now, subject, None, out);
            out.push(Output::Forget { task: subject.task });
        }
    }

    /// What follows from an audit's end that is in the log.
    pub(super) fn ended(&mut self, now: Timestamp, id: AuditId, outcome: AuditOutcome, out: &mut Vec<Output>) {
        let Some(Audit { subject, node, .. }) = self.audits.remove(&id) else { return };
        let passed = match &outcome {
            AuditOutcome::Verdict { ruling, .. } => Some(*ruling == Ruling::Passed),
            AuditOutcome::Unauditable { .. } => None,
        };
        match passed {
            Some(true) => self.counters.audits_passed += 1,
            Some(false) => {
                self.counters.audits_failed += 1;
                self.blame(now, node, Reason::Wrong);
            }
            None => self.counters.unauditable += 1,
        }
        out.push(Output::Audited { subject, node, outcome, passed });
        self.confirm(now, subject, passed, out);
        out.push(Output::Forget { task: subject.task });
    }
}
