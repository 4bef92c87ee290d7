//! Panels: three auditors of three operators who decide about an attempt's pay where the referee is not there.

use super::{Fault, Settler};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_ledger::{Auditor, Finding};
use ol_protocol::bytes::{Reader, Writer};
use ol_protocol::commitment::Commitment;
use ol_protocol::record::{AttemptId, Ruling};
use ol_protocol::seal::{self, PANEL, Seal};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{NodeId, OperatorId, TaskId, VariantId};
use ol_trust::Suspicion;
use ol_trust::judge::{Judgement, Votes};

/// Panels that an accused attempt may have: who asks again and again gets some day the answer that he wants. One that was only doubted has one: its
/// node may have caused the doubt.
const PANELS_MAX: usize = 3;

/// Clean audits of a node's own work before it may sit in a panel: a new key costs nothing.
const CLEAN_MIN: u32 = 1;

/// The panels of one attempt so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Panel {
    // Three for each; those of the last are the ones that count.
    seals: Vec<Seal>,
    // Of the last three, in their order.
    votes: [Option<Vote>; PANEL],
    // The bets against the node when they had sealed: all vote by the same.
    suspicion: Suspicion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vote {
    is_bad: bool,
    odds_micro: u64,
}

impl Panel {
    fn sitting(&self) -> &[Seal] {
        self.seals.last_chunk::<PANEL>().map_or(&[], |seals| seals)
    }

    fn seat(&self, verdict: &Verdict) -> Option<usize> {
        self.sitting().iter().position(|seal| seal.is_of(verdict))
    }

    fn write(&self, w: &mut Writer) {
        w.u8((self.seals.len() / PANEL) as u8);
        self.seals.iter().fold(&mut *w, |w, seal| w.raw(&seal.to_bytes()));
        for vote in &self.votes {
            let (mark, odds) = vote.map_or((0, 0), |vote| (1 + u8::from(vote.is_bad), vote.odds_micro));
            w.u8(mark).u64(odds);
        }
        self.suspicion.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Option<Self> {
        let panels = usize::from(r.u8().ok()?);
        let seals = (0..panels * PANEL).map(|_| Seal::read(r).ok()).collect::<Option<_>>()?;
        let mut votes = [None; PANEL];
        for vote in &mut votes {
            let (mark, odds_micro) = (r.u8().ok()?, r.u64().ok()?);
            *vote = (mark > 0).then_some(Vote { is_bad: mark > 1, odds_micro });
        }
        Some(Self { seals, votes, suspicion: Suspicion::read(r).ok()? })
    }
}

impl Settler {
    /// Whether a node may judge an unsettled attempt as one of a panel: with a clean audit of its own work in the variant that it scores with, of an operator
    /// that neither made the attempt nor accused it, nor sat about it before.
    pub fn may_sit(&self, subject: &AttemptId, node: NodeId, operator: OperatorId, variant: VariantId) -> bool {
        let Some(open) = self.open.get(subject).filter(|open| open.finding.is_none()) else { return false };
        let Commitment { node: prover, operator: of_prover, .. } = open.receipt.commitment;
        let prover = Auditor { node: prover, operator: of_prover };
        let before = self.panels.get(subject).map_or(&[][..], |panel| &panel.seals);
        let sat = before.iter().map(|seal| Auditor { node: seal.auditor, operator: seal.operator });
        let is_concerned = |other: Auditor| other.node == node || other.operator == operator;
        let panels_max = if open.accuser.is_some() { PANELS_MAX } else { 1 };
        before.len() < panels_max * PANEL
            && !sat.chain(open.accuser).chain([prover]).any(is_concerned)
            && node != self.genesis.referee
            && self.standing(node, variant).clean >= CLEAN_MIN
    }

    /// Takes the sealed verdicts of a panel; those that open them are its votes. On a settled attempt they change nothing.
    pub fn seal(&mut self, subject: AttemptId, seals: &[Seal; PANEL]) -> Result<(), Fault> {
        let Some(open) = self.open.get(&subject).filter(|open| open.finding.is_none()) else { return Ok(()) };
        let Commitment { node, variant, .. } = open.receipt.commitment;
        let suspicion = self.standing(node, variant).suspicion;
        let network = self.network();
        let sits =
            |seal: &Seal| seal.network == network && self.may_sit(&subject, seal.auditor, seal.operator, seal.variant);
        if !seal::is_panel(seals) || !seals.iter().all(sits) {
            return Err(Fault::Panel(subject));
        }
        let before = self.panels.remove(&subject).map_or(Vec::new(), |panel| panel.seals);
        let panel = Panel { seals: [before, seals.to_vec()].concat(), votes: [None; PANEL], suspicion };
        self.panels.insert(subject, panel);
        Ok(())
    }

    /// At which level a verdict counts. On an attempt that has no panel one of a panel's is another operator's, as it was before there were any.
    pub(super) fn counts_as(&self, subject: &AttemptId, verdict: &Verdict) -> Level {
        match verdict.level {
            Level::Panel if !self.panels.contains_key(subject) => Level::CrossAudit,
            level => level,
        }
    }

    // Whether it is what a member of the last panel sealed, over all that the attempt says it added, and the first time.
    pub(super) fn may_vote(&self, commitment: &Commitment, verdict: &Verdict) -> bool {
        let subject = AttemptId { task: commitment.task, attempt: commitment.attempt };
        let Some(panel) = self.panels.get(&subject) else { return false };
        let is_new = panel.seat(verdict).is_some_and(|seat| panel.votes[seat].is_none());
        is_new && verdict.scored_tokens >= commitment.added_tokens().min(verdict.output_tokens)
    }

    // The bets that a panel votes by.
    pub(super) fn suspicion_of(&self, subject: &AttemptId) -> Suspicion {
        self.panels.get(subject).map_or(Suspicion::NONE, |panel| panel.suspicion)
    }

    // The votes before the next one. On what is decided none decides any more.
    pub(super) fn votes(&self, subject: &AttemptId, is_decided: bool) -> Votes {
        if is_decided {
            return Votes { clean: PANEL as u8, bad: PANEL as u8 };
        }
        let votes = self.panels.get(subject).map_or([None; PANEL], |panel| panel.votes);
        let bad = votes.iter().flatten().filter(|vote| vote.is_bad).count() as u8;
        Votes { clean: votes.iter().flatten().count() as u8 - bad, bad }
    }

    // Notes a vote. Gives what the bets have to take for the verdict: of a panel's, what both that decide say at least.
    pub(super) fn vote(
        &mut self,
        subject: &AttemptId,
        verdict: &Verdict,
        judgement: Judgement,
        ruling: Ruling,
    ) -> Judgement {
        let panel = self.panels.get_mut(subject).filter(|_| verdict.level == Level::Panel);
        let Some((panel, seat)) = panel.and_then(|panel| panel.seat(verdict).map(|seat| (panel, seat))) else {
            return judgement;
        };
        let odds_micro = match judgement {
            Judgement::Fits { odds_micro } => odds_micro,
            Judgement::Failed(_) | Judgement::Mismatched => 0,
        };
        let is_bad = matches!(ruling, Ruling::Failed | Ruling::VotedAgainst);
        let others = panel.votes.iter().flatten().filter(|vote| vote.is_bad == is_bad).map(|vote| vote.odds_micro);
        let least = others.chain([odds_micro]).min().unwrap_or(odds_micro);
        panel.votes[seat] = Some(Vote { is_bad, odds_micro });
        match judgement {
            Judgement::Fits { .. } => Judgement::Fits { odds_micro: least },
            Judgement::Failed(_) | Judgement::Mismatched => judgement,
        }
    }

    // Members of the last panel that found what was found.
    pub(super) fn voters(&self, subject: &AttemptId, finding: Finding) -> Vec<Auditor> {
        let is_bad = match finding {
            Finding::Passed => false,
            Finding::Failed => true,
            Finding::Unauditable => return Vec::new(),
        };
        let Some(panel) = self.panels.get(subject) else { return Vec::new() };
        let seats = panel.sitting().iter().zip(panel.votes);
        let agreeing = seats.filter(|(_, vote)| vote.is_some_and(|vote| vote.is_bad == is_bad));
        agreeing.map(|(seal, _)| Auditor { node: seal.auditor, operator: seal.operator }).collect()
    }

    pub(super) fn panel_bytes(&self) -> Vec<u8> {
        if self.panels.is_empty() {
            return Vec::new();
        }
        let mut w = Writer::new();
        w.u64(self.panels.len() as u64);
        for (subject, panel) in &self.panels {
            w.raw(&subject.task.0).u8(subject.attempt);
            panel.write(&mut w);
        }
        w.finish()
    }

    pub(super) fn read_panels(bytes: &[u8]) -> Option<BTreeMap<AttemptId, Panel>> {
        let mut panels = BTreeMap::new();
        let mut r = Reader::new(bytes);
        let count = if bytes.is_empty() { 0 } else { r.u64().ok()? };
        for _ in 0..count {
            let subject = AttemptId { task: TaskId(r.array().ok()?), attempt: r.u8().ok()? };
            panels.insert(subject, Panel::read(&mut r)?);
        }
        r.finish().ok()?;
        Some(panels)
    }
}
