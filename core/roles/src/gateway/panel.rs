//! Panels: where a result has to be confirmed and no referee is there, three auditors of other operators decide about its pay. Each seals its verdict
//! before any is opened, so none can follow another.

use super::audit::Audit;
use super::event::{Entry, Output};
use super::{Appended, Gateway, limits};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::record::{AuditOutcome, Record, Ruling};
use ol_protocol::seal::{PANEL, Seal};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, NodeId, OperatorId, Timestamp, VariantId};

/// The auditors who sit about one result.
#[derive(Debug)]
pub(super) struct Panel {
    members: BTreeMap<NodeId, Member>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// They score; each has its time.
    Scoring,
    /// All have sealed what they found, and the seals are on their way to disk.
    Sealed,
    /// They were asked to open it, until then.
    Opening { due: Timestamp },
}

#[derive(Debug)]
struct Member {
    operator: OperatorId,
    variant: VariantId,
    due: Timestamp,
    seal: Option<Seal>,
    opened: Option<Verdict>,
    // Nothing more comes of it.
    is_out: bool,
}

impl Panel {
    /// Whether a seat is free that another may still take.
    pub(super) fn is_short(&self) -> bool {
        self.stage == Stage::Scoring && self.members.len() < PANEL
    }

    /// A member is gone, or can't. Before all have sealed, another takes its seat.
    pub(super) fn leave(&mut self, node: NodeId) {
        match self.stage {
            Stage::Scoring => drop(self.members.remove(&node)),
            Stage::Sealed | Stage::Opening { .. } => {
                self.members.get_mut(&node).into_iter().for_each(|member| member.is_out = true);
            }
        }
    }

    /// Those that score now.
    pub(super) fn scoring(&self) -> impl Iterator<Item = NodeId> + '_ {
        let is_scoring = |(_, member): &(&NodeId, &Member)| member.seal.is_none();
        self.members.iter().filter(is_scoring).map(|(node, _)| *node)
    }

    fn seals(&self) -> Option<[Seal; PANEL]> {
        let seals: Option<Vec<Seal>> = self.members.values().map(|member| member.seal.clone()).collect();
        seals?.try_into().ok()
    }

    fn is_over(&self, now: Timestamp) -> bool {
        match self.stage {
            Stage::Scoring | Stage::Sealed => false,
            Stage::Opening { due } => due <= now || self.members.values().all(|m| m.is_out || m.opened.is_some()),
        }
    }
}

impl Gateway {
    /// Fills a panel's seats by draw: all that are free, or none.
    pub(super) fn seat(&mut self, now: Timestamp, id: AuditId, busy: &mut BTreeSet<NodeId>, out: &mut Vec<Output>) {
        let Some(audit) = self.audits.get(&id) else { return };
        let missing = PANEL - audit.panel.as_ref().map_or(0, |panel| panel.members.len());
        let mut free = self.who_may_sit(now, audit, busy);
        if free.len() < missing {
            return;
        }
        for _ in 0..missing {
            let Some(audit) = self.audits.get(&id) else { return };
            let Some((node, variant)) = self.peer(audit, &free) else { return };
            let Some(operator) = self.workers.get(&node).copied() else { return };
            free.remove(&operator);
            busy.insert(node);
            let due = now.after(limits::AUDIT);
            let member = Member { operator, variant, due, seal: None, opened: None, is_out: false };
            if let Some(audit) = self.audits.get_mut(&id) {
                audit.tried.insert(node);
                audit.asked.insert(operator);
                let empty = Panel { members: BTreeMap::new(), stage: Stage::Scoring };
                audit.panel.get_or_insert(empty).members.insert(node, member);
            }
            out.extend(self.ask(id, (node, Level::Panel, variant)));
        }
    }

    // Whoever was asked about the result before has its opinion.
    fn who_may_sit(
        &self,
        now: Timestamp,
        audit: &Audit,
        busy: &BTreeSet<NodeId>,
    ) -> BTreeMap<OperatorId, Vec<(NodeId, VariantId)>> {
        let mut free = self.free_auditors(now, audit, busy);
        free.retain(|operator, nodes| {
            nodes.retain(|(node, variant)| self.settler.may_sit(&audit.subject, *node, *operator, *variant));
            !nodes.is_empty() && !audit.asked.contains(operator)
        });
        free
    }

    /// A member has fixed its verdict. The seal's signature was checked.
    pub(super) fn sealed(&mut self, now: Timestamp, node: NodeId, seal: Seal, out: &mut Vec<Output>) {
        let id = seal.audit;
        let panel = self.audits.get_mut(&id).and_then(|audit| audit.panel.as_mut());
        let Some(panel) = panel.filter(|panel| panel.stage == Stage::Scoring) else {
            self.counters.late += 1;
            return;
        };
        let Some(member) = panel.members.get_mut(&node).filter(|member| member.seal.is_none()) else {
            self.counters.late += 1;
            return;
        };
        if (seal.operator, seal.variant) != (member.operator, member.variant) {
            self.counters.void_verdicts += 1;
            panel.leave(node);
            return self.dispatch_audits(now, out);
        }
        member.seal = Some(seal);
        if let Some(seals) = panel.seals() {
            self.fix(id, seals, out);
        }
        self.dispatch_audits(now, out);
    }

    // Before anyone opens its verdict, all are in the log. Who may not sit any more, as something was found of it in the meantime, loses its seat.
    fn fix(&mut self, id: AuditId, seals: [Seal; PANEL], out: &mut Vec<Output>) {
        let Some(audit) = self.audits.get_mut(&id) else { return };
        let subject = audit.subject;
        if self.settler.seal(subject, &seals).is_err() {
            // The others keep theirs.
            let sits = |seal: &Seal| self.settler.may_sit(&subject, seal.auditor, seal.operator, seal.variant);
            let unfit = seals.iter().filter(|seal| !sits(seal));
            audit.panel.iter_mut().for_each(|panel| unfit.clone().for_each(|seal| panel.leave(seal.auditor)));
            return;
        }
        audit.panel.iter_mut().for_each(|panel| panel.stage = Stage::Sealed);
        self.counters.panels += 1;
        let entry = Entry::Record(Record::Sealed { subject, seals });
        self.append(vec![entry], Appended::Sealed { audit: id }, out);
    }

    /// The seals are on disk: everybody opens.
    pub(super) fn unseal(&mut self, now: Timestamp, id: AuditId, out: &mut Vec<Output>) {
        let Some(panel) = self.audits.get_mut(&id).and_then(|audit| audit.panel.as_mut()) else { return };
        let Some(seals) = panel.seals().filter(|_| panel.stage == Stage::Sealed) else { return };
        panel.stage = Stage::Opening { due: now.after(limits::OPENING) };
        let present = panel.members.iter().filter(|(_, member)| !member.is_out);
        out.extend(present.map(|(node, _)| Output::Unseal {
            auditor: *node,
            audit: id,
            seals: Box::new(seals.clone()),
        }));
    }

    /// A member opens what it sealed. Who says that the result is good shows with the prover's log-probabilities that it computed.
    pub(super) fn opened(
        &mut self,
        now: Timestamp,
        node: NodeId,
        verdict: Verdict,
        agrees: bool,
        out: &mut Vec<Output>,
    ) {
        let id = verdict.audit;
        let Some(audit) = self.audits.get_mut(&id) else { return };
        let Some(panel) = audit.panel.as_mut() else { return };
        let Some(member) = panel.members.get_mut(&node).filter(|m| !m.is_out && m.opened.is_none()) else {
            self.counters.late += 1;
            return;
        };
        let is_sealed = member.seal.as_ref().is_some_and(|seal| seal.is_of(&verdict));
        let says = self.settler.ruling(audit.subject, &verdict);
        let counts = match says.filter(|_| is_sealed) {
            Some(Ruling::VotedFor | Ruling::Passed) => agrees,
            Some(Ruling::VotedAgainst | Ruling::Failed) => true,
            Some(Ruling::Accused | Ruling::Unstated) | None => false,
        };
        let is_asked = matches!(panel.stage, Stage::Opening { .. });
        if is_asked && counts {
            member.opened = Some(verdict);
        } else {
            // The prover may have made up what praise doesn't agree with, and settlement may know nothing of the result any more.
            panel.leave(node);
            self.counters.void_verdicts += 1;
            if is_asked && !is_sealed {
                self.leave_out(now, node);
            }
        }
        self.dispatch_audits(now, out);
    }

    /// Ends what is over: who did not seal in time loses its seat, and the votes are counted once all that come are there.
    pub(super) fn end_panels(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let (mut silent, mut over) = (Vec::new(), Vec::new());
        for (id, audit) in &mut self.audits {
            let Some(panel) = audit.panel.as_mut() else { continue };
            if panel.stage == Stage::Scoring {
                let late = panel.members.extract_if(.., |_, member| member.seal.is_none() && member.due <= now);
                silent.extend(late.map(|(node, _)| node));
            }
            if panel.is_over(now) {
                over.push(*id);
            }
        }
        silent.into_iter().for_each(|node| self.leave_out(now, node));
        over.into_iter().for_each(|id| self.count_votes(now, id, out));
    }

    // Two of three decide about the pay. Where fewer agree there is nothing to be found: others may sit, or the referee comes.
    fn count_votes(&mut self, now: Timestamp, id: AuditId, out: &mut Vec<Output>) {
        let Some(audit) = self.audits.get_mut(&id) else { return };
        let Some(Panel { members, .. }) = audit.panel.take() else { return };
        let (subject, doubted, variant) = (audit.subject, audit.doubted, audit.variant);
        let (mut entries, mut decided) = (Vec::new(), None);
        let mut said = Vec::new();
        for (node, member) in members {
            let Some(verdict) = member.opened else {
                if !member.is_out {
                    self.leave_out(now, node);
                }
                continue;
            };
            let Some(ruling) = self.settler.ruling(subject, &verdict) else { continue };
            let outcome = AuditOutcome::Verdict { verdict, ruling };
            if let Err(fault) = self.settler.audit(subject, &outcome) {
                unreachable!("a gateway states what it found itself: {fault}");
            }
            // Another variant may see it otherwise.
            let against = matches!(ruling, Ruling::Failed | Ruling::VotedAgainst);
            said.extend((member.variant == variant).then_some((node, against)));
            if matches!(ruling, Ruling::Failed | Ruling::Passed) {
                decided = Some((ruling, outcome.clone()));
            }
            entries.push(Entry::Record(Record::Audit { subject, outcome }));
        }
        if !entries.is_empty() {
            self.append(entries, Appended::Nothing, out);
        }
        let Some((ruling, outcome)) = decided else {
            self.counters.panels_undecided += 1;
            return;
        };
        let is_bad = ruling == Ruling::Failed;
        // Two may be wrong together, so the price of being the third is small.
        said.iter().filter(|(_, against)| *against != is_bad).for_each(|(node, _)| self.leave_out(now, *node));
        doubted.into_iter().filter(|_| !is_bad).for_each(|(auditor, _)| self.leave_out(now, auditor));
        self.ended(now, id, outcome, out);
    }

    /// Does not ask an auditor for a while.
    pub(super) fn leave_out(&mut self, now: Timestamp, node: NodeId) {
        self.distrusted.entry(node).or_insert_with(|| now.after(limits::SILENCE));
    }
}
