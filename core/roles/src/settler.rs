//! The settler: a fold over a gateway's log that anyone can repeat. It draws, judges verdicts and settles epochs.

mod panel;
mod snapshot;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry as MapEntry;
use alloc::vec::Vec;
use ol_ledger::{Account, Auditor, Finding, Ledger, Summary};
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::evidence::Evidence;
use ol_protocol::genesis::Genesis;
use ol_protocol::parameters::{ParameterChange, Parameters};
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record, Ruling};
use ol_protocol::top_up::Slice;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{
    Digest, Epoch, MicroCredits, NetworkId, NodeId, Region, TaskId, TenantId, Timestamp, TokenCount, VariantId, merkle,
};
use ol_trust::Odds;
use ol_trust::draw::{self, Chance};
use ol_trust::honesty;
use ol_trust::judge::{Judgement, Known, judge, ruling};
use ol_trust::policy::{Policy, Standing, Work};
use ol_trust::suspicion::ODDS_ONE;
use panel::Panel;

/// Why a record can't follow the log so far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The ledger refuses it.
    #[error(transparent)]
    Ledger(#[from] ol_ledger::Error),
    /// A revealed secret is not the one that was sealed.
    #[error("the {what} secret of epoch {epoch} is not the one that was sealed")]
    Seal {
        /// Of which epoch.
        epoch: Epoch,
        /// Which one: draw or nonce.
        what: &'static str,
    },
    /// The state after settlement is another than the log says.
    #[error("the accounts after epoch {0} are not those that the log states")]
    State(Epoch),
    /// A snapshot's bytes are none.
    #[error("not a snapshot of a settler")]
    Snapshot,
    /// A log without a snapshot begins with its genesis, and has no other.
    #[error("a log begins with its genesis and has only one")]
    Genesis,
    /// A batch is not over the receipts before it, or receipts are not followed by their batch.
    #[error("the receipts before batch {sequence} of node {} are not its own", .node.short())]
    Batch {
        /// Whose.
        node: NodeId,
        /// Its number.
        sequence: u64,
    },
    /// A record came between receipts and their batch.
    #[error("{receipts} receipts are not followed by their batch")]
    NoBatch {
        /// How many.
        receipts: usize,
    },
    /// A calibration is not the referee's, or not later than the one that holds.
    #[error("a calibration of variant {} is {problem}", .prover.short())]
    Calibration {
        /// Whose answers.
        prover: VariantId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The log states another ruling than follows from it.
    #[error("the ruling on attempt {} of task {} is not the one that the log states", .0.attempt, .0.task)]
    Ruling(AttemptId),
    /// Evidence about an attempt whose content is private, that the referee did not find bad in the node's own variant, or that was slashed for
    /// already.
    #[error("evidence about attempt {} of task {}, which nobody refuted", .0.attempt, .0.task)]
    NotRefuted(AttemptId),
    /// Seals of auditors that may not judge an attempt: not three operators' who have nothing to do with it and did clean work, or one panel too many.
    #[error("a panel on attempt {} of task {} that may not be", .0.attempt, .0.task)]
    Panel(AttemptId),
    /// Evidence that is not what the node committed to.
    #[error("evidence about attempt {} of task {} is not what its node committed to", .0.attempt, .0.task)]
    Unopened(AttemptId),
    /// A close is not of the open epoch.
    #[error("a close of epoch {epoch}, open is {open}")]
    Close {
        /// Which it closes.
        epoch: Epoch,
        /// Which is open.
        open: Epoch,
    },
}

/// A receipt of the open epoch, or an older one whose audit isn't finished.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    receipt: Receipt,
    candidate: Candidate,
    finding: Option<Finding>,
    // Whether it passed, but with margins that an honest node is not likelier to have than a cheat.
    is_unclear: bool,
    // Whose verdict ended the audit, if it was not the referee's; and who said before that the result is bad.
    auditor: Option<Auditor>,
    accuser: Option<Auditor>,
    // Charged at an earlier close, and drawn.
    held: bool,
}

/// The secrets that a close reveals, and the seals of the next epoch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reveal {
    /// The draw secret.
    pub draw_secret: [u8; 32],
    /// The nonce secret.
    pub nonce_secret: [u8; 32],
    /// Seal of the next draw secret.
    pub next_draw_seal: Digest,
    /// Seal of the next nonce secret.
    pub next_nonce_seal: Digest,
}

impl From<&Close> for Reveal {
    fn from(close: &Close) -> Self {
        let Close { draw_secret, nonce_secret, next_draw_seal, next_nonce_seal, .. } = *close;
        Self { draw_secret, nonce_secret, next_draw_seal, next_nonce_seal }
    }
}

/// A result that an epoch's secret may draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The root that its node signed.
    pub root: Digest,
    /// Its place under it.
    pub leaf: u16,
    /// How likely it is drawn.
    pub chance: Chance,
}

impl Candidate {
    /// Whether the secret draws it.
    pub fn is_drawn(&self, secret: &[u8; 32]) -> bool {
        draw::drawn(secret, &self.root, self.leaf, self.chance)
    }

    /// How many of so many output tokens its audit scores.
    pub fn reach(&self, secret: &[u8; 32], tokens: TokenCount) -> TokenCount {
        draw::reach(secret, &self.root, self.leaf, tokens)
    }
}

#[derive(Debug, Clone)]
struct Calibrated {
    calibration: Calibration,
    odds: Odds,
}

/// The accounts and trust of one gateway's log, up to some record.
#[derive(Debug, Clone)]
pub struct Settler {
    genesis: Genesis,
    network: NetworkId,
    gateway_tenant: TenantId,
    ledger: Ledger,
    policy: Policy,
    // By prover, then verifier.
    calibrations: BTreeMap<(VariantId, VariantId), Calibrated>,
    // Boxed: ids come in the order of time, so that whatever leaves the front of a tree's leaf moves all that follow.
    open: BTreeMap<AttemptId, Box<Open>>,
    // Receipts of the open epoch in log order: settlement's order.
    earned: Vec<AttemptId>,
    // Of the open epoch's draw secret and nonce secret.
    seals: Option<(Digest, Digest)>,
    // Receipts from a log whose batch comes next.
    arriving: Vec<Receipt>,
    // Receipts that the last close did not charge.
    refused: Vec<AttemptId>,
    // Commitments whose content may become public and that their own node's variant refutes: evidence takes escrow.
    refuted: BTreeMap<AttemptId, Commitment>,
    // Those whose content is private, with their tenants, who may still give it, and when they were refuted; where the network sees to it that
    // honesty pays.
    concealed: BTreeMap<AttemptId, (Commitment, TenantId, Epoch)>,
    // Of unsettled attempts.
    panels: BTreeMap<AttemptId, Panel>,
}

impl Settler {
    /// From the records of a log: all of them, the genesis first, or those after the close that a snapshot was taken at.
    pub fn from_log(snapshot: Option<&[u8]>, records: impl IntoIterator<Item = Record>) -> Result<Self, Fault> {
        let mut records = records.into_iter();
        let mut settler = match snapshot {
            Some(bytes) => Self::from_bytes(bytes)?,
            None => Self::begin(&records.next().ok_or(Fault::Genesis)?)?,
        };
        records.try_for_each(|record| settler.apply(&record).map(drop))?;
        if settler.arriving.is_empty() { Ok(settler) } else { Err(settler.no_batch()) }
    }

    /// After the first record of a log.
    pub fn begin(first: &Record) -> Result<Self, Fault> {
        match first {
            Record::Genesis(genesis) => Self::new(genesis.clone()),
            Record::TopUp(_)
            | Record::Receipt(_)
            | Record::Batch(_)
            | Record::Audit { .. }
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => Err(Fault::Genesis),
        }
    }

    /// Takes the next record of a log; a close gives what it settled. Signatures of nodes and gateway are the log's
    /// reader's to check; an audit that settles nothing changes nothing.
    pub fn apply(&mut self, record: &Record) -> Result<Option<Summary>, Fault> {
        if !self.arriving.is_empty() && !matches!(record, Record::Receipt(_) | Record::Batch(_)) {
            return Err(self.no_batch());
        }
        match record {
            Record::Genesis(_) => return Err(Fault::Genesis),
            Record::TopUp(slice) => self.top_up(slice)?,
            Record::Receipt(receipt) => self.arriving.push(receipt.clone()),
            Record::Batch(batch) => self.apply_batch(batch)?,
            Record::Audit { subject, outcome } => self.audit(*subject, outcome)?,
            Record::Close(close) => return self.repeat(close).map(Some),
            Record::Parameters(change) => self.change(change)?,
            Record::Calibration(calibration) => self.calibrate(calibration)?,
            Record::Evidence(evidence) => self.evidence(evidence)?,
            Record::Sealed { subject, seals } => self.seal(*subject, seals)?,
        }
        Ok(None)
    }

    fn apply_batch(&mut self, batch: &CountersignedBatch) -> Result<(), Fault> {
        let receipts = core::mem::take(&mut self.arriving);
        let header = &batch.header;
        let leaves: Vec<Digest> = receipts.iter().map(|r| merkle::leaf_hash(&r.to_bytes())).collect();
        let commitments: Vec<Digest> = receipts.iter().map(|r| r.commitment.leaf()).collect();
        let whole = receipts.len() == usize::from(header.count)
            && merkle::root(&leaves) == batch.receipts_root
            && merkle::root(&commitments) == header.root;
        if !whole {
            return Err(Fault::Batch { node: header.node, sequence: header.sequence });
        }
        self.batch(header.root, &receipts);
        Ok(())
    }

    fn no_batch(&self) -> Fault {
        Fault::NoBatch { receipts: self.arriving.len() }
    }

    /// Before the first record after the genesis.
    pub fn new(genesis: Genesis) -> Result<Self, Fault> {
        Ok(Self {
            ledger: Ledger::new(&genesis)?,
            policy: Policy::new(),
            calibrations: BTreeMap::new(),
            network: genesis.network(),
            gateway_tenant: genesis.gateway_tenant(),
            genesis,
            open: BTreeMap::new(),
            earned: Vec::new(),
            seals: None,
            arriving: Vec::new(),
            refused: Vec::new(),
            refuted: BTreeMap::new(),
            concealed: BTreeMap::new(),
            panels: BTreeMap::new(),
        })
    }

    /// The first record.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The parameters of the open epoch.
    pub const fn parameters(&self) -> &Parameters {
        self.ledger.parameters()
    }

    /// The network's id.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// The accounts.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What audits found of a node in a variant, as of the last close.
    pub fn standing(&self, node: NodeId, variant: VariantId) -> Standing {
        self.policy.standing(node, variant)
    }

    /// What is known of all nodes that have receipts, by node, then variant.
    pub fn standings(&self) -> impl Iterator<Item = (NodeId, VariantId, Standing)> + '_ {
        self.policy.standings()
    }

    /// The epoch whose records are being taken.
    pub fn epoch(&self) -> Epoch {
        self.ledger.open_epoch()
    }

    /// Takes a part of the issuer's top-up.
    pub fn top_up(&mut self, slice: &Slice) -> Result<(), Fault> {
        Ok(self.ledger.top_up(slice)?)
    }

    /// Takes the issuer's change of parameters for an epoch to come.
    pub fn change(&mut self, change: &ParameterChange) -> Result<(), Fault> {
        Ok(self.ledger.change(change)?)
    }

    /// Whom the gateway charges with what it pays itself.
    pub const fn gateway_tenant(&self) -> TenantId {
        self.gateway_tenant
    }

    /// Takes the receipts of one batch, in order. They are charged when the epoch closes.
    pub fn batch(&mut self, root: Digest, receipts: &[Receipt]) {
        for (leaf, receipt) in (0u16..).zip(receipts) {
            let commitment = &receipt.commitment;
            let id = AttemptId { task: commitment.task, attempt: commitment.attempt };
            // What a gateway pays itself added nothing to an answer: there is nothing to compare, and no experience to have.
            if receipt.charge.tenant == self.gateway_tenant {
                self.take(id, receipt, Candidate { root, leaf, chance: Chance::NEVER });
                continue;
            }
            let rule = &self.ledger.parameters().audit;
            let work = Work {
                node: commitment.node,
                variant: commitment.variant,
                public: receipt.charge.public,
                charge: receipt.charge.amount,
                with_audit: receipt.charge.with_audit,
            };
            let chance = self.policy.chance(rule, &work);
            // What can't earn, such as an order that is handed in again, is no experience with a node.
            if !rule.deterrent || (self.ledger.could_earn(receipt) && !self.open.contains_key(&id)) {
                self.policy.record(rule, &work);
            }
            self.take(id, receipt, Candidate { root, leaf, chance });
        }
    }

    fn take(&mut self, id: AttemptId, receipt: &Receipt, candidate: Candidate) {
        if let MapEntry::Vacant(place) = self.open.entry(id) {
            place.insert(Box::new(Open::new(receipt.clone(), candidate, false)));
            self.earned.push(id);
        }
    }

    /// Which receipts of a batch just taken the secret draws.
    pub fn drawn(&self, secret: &[u8; 32], receipts: &[Receipt]) -> Vec<AttemptId> {
        receipts
            .iter()
            .map(|r| AttemptId { task: r.commitment.task, attempt: r.commitment.attempt })
            .filter(|id| self.open.get(id).is_some_and(|open| open.candidate.is_drawn(secret)))
            .collect()
    }

    /// How an unsettled result may be drawn.
    pub fn candidate(&self, id: &AttemptId) -> Option<Candidate> {
        self.open.get(id).map(|open| open.candidate)
    }

    /// How many of its output tokens the audit of an unsettled result scores, with the open epoch's secret: all where an earlier one drew it, or its
    /// tenant pays for it.
    pub fn reach(&self, id: &AttemptId, secret: &[u8; 32]) -> Option<TokenCount> {
        let open = self.open.get(id)?;
        let all = open.receipt.commitment.added_tokens();
        let is_whole = open.held || open.receipt.charge.with_audit;
        Some(if is_whole { all } else { open.candidate.reach(secret, all) })
    }

    /// Takes the referee's word for what honest answers look like. It holds for the verdicts that follow.
    pub fn calibrate(&mut self, calibration: &Calibration) -> Result<(), Fault> {
        let Calibration { prover, verifier, .. } = *calibration;
        let refused = |problem| Err(Fault::Calibration { prover, problem });
        if (calibration.network, calibration.referee) != (self.network(), self.genesis.referee) {
            return refused("not of this network's referee");
        }
        let before = self.calibrations.get(&(prover, verifier));
        if before.is_some_and(|before| before.calibration.measured_at >= calibration.measured_at) {
            return refused("not later than the one that holds");
        }
        let calibrated = Calibrated { calibration: calibration.clone(), odds: Odds::new(calibration) };
        self.calibrations.insert((prover, verifier), calibrated);
        Ok(())
    }

    /// What is known of a pair of variants.
    pub fn calibration(&self, prover: VariantId, verifier: VariantId) -> Option<&Calibration> {
        self.calibrations.get(&(prover, verifier)).map(|calibrated| &calibrated.calibration)
    }

    /// All that is known of pairs of variants.
    pub fn calibrations(&self) -> impl Iterator<Item = &Calibration> {
        self.calibrations.values().map(|calibrated| &calibrated.calibration)
    }

    /// Share of the results of the last epochs that may become public, in millionths.
    pub const fn public_ppm(&self) -> u32 {
        self.policy.public_ppm()
    }

    /// The same, of the last thousands, where the network sees to it that honesty pays.
    pub const fn open_ppm(&self) -> u32 {
        self.policy.open_ppm()
    }

    /// After how many later tasks of its node the pay of the open epoch is released: what the least that audits see of cheats in any calibrated variant asks for.
    pub fn held_tasks(&self) -> u32 {
        let of_itself = self.calibrations.iter().filter(|((prover, verifier), _)| prover == verifier);
        let seen = of_itself.filter_map(|(_, calibrated)| honesty::seen_ppm(&calibrated.calibration.lengths)).min();
        let parameters = self.parameters();
        seen.map_or(parameters.escrow.tasks, |seen| honesty::held_tasks(parameters, self.open_ppm(), seen))
    }

    /// The variants that can audit one: itself first.
    pub fn verifiers(&self, prover: VariantId) -> impl Iterator<Item = VariantId> + '_ {
        let of_all = (prover, VariantId([0; 32]))..=(prover, VariantId([u8::MAX; 32]));
        let others = self.calibrations.range(of_all).map(|((_, verifier), _)| *verifier);
        let itself = self.calibrations.get(&(prover, prover)).map(|_| prover);
        itself.into_iter().chain(others.filter(move |verifier| *verifier != prover))
    }

    /// Whether anyone measured what honest answers of a variant look like.
    pub fn is_calibrated(&self, prover: VariantId) -> bool {
        self.verifiers(prover).next().is_some()
    }

    /// What follows from a verdict on an unsettled attempt; nothing if it is over something else, or no verdict that counts.
    pub fn ruling(&self, subject: AttemptId, verdict: &Verdict) -> Option<Ruling> {
        self.weigh(self.open.get(&subject)?, verdict, None).map(|(_, ruling)| ruling)
    }

    /// What follows from a record of an audit before it is applied: what it states, or what followed when records stated nothing.
    pub fn ruling_of(&self, subject: AttemptId, verdict: &Verdict, stated: Ruling) -> Option<Ruling> {
        self.weigh(self.open.get(&subject)?, verdict, Some(stated)).map(|(_, ruling)| ruling)
    }

    /// Whether a verdict on an unsettled attempt says that it is bad by itself, whatever else its node answered.
    pub fn is_fault(&self, subject: AttemptId, verdict: &Verdict) -> bool {
        let judgement = self.open.get(&subject).and_then(|open| self.weigh(open, verdict, None));
        matches!(judgement, Some((Judgement::Failed(_), _)))
    }

    fn weigh(&self, open: &Open, verdict: &Verdict, stated: Option<Ruling>) -> Option<(Judgement, Ruling)> {
        let by_referee = verdict.level == Level::Referee;
        if by_referee != (verdict.auditor == self.genesis.referee) {
            return None;
        }
        let commitment = &open.receipt.commitment;
        let id = AttemptId { task: commitment.task, attempt: commitment.attempt };
        let level = self.counts_as(&id, verdict);
        if level == Level::Panel && !self.may_vote(commitment, verdict) {
            return None;
        }
        let calibrated =
            self.calibrations.get(&(commitment.variant, verdict.variant)).map(|calibrated| &calibrated.odds);
        let same_variant = commitment.variant == verdict.variant;
        let odds = match stated {
            Some(Ruling::Unstated) => same_variant.then_some(&Odds::NONE),
            Some(Ruling::Passed | Ruling::Failed | Ruling::Accused | Ruling::VotedFor | Ruling::VotedAgainst)
            | None => calibrated,
        };
        let judgement = judge(&self.parameters().audit, odds, commitment, verdict);
        let known = Known {
            suspicion: match level {
                Level::Panel => self.suspicion_of(&id),
                Level::CrossAudit | Level::Referee => self.standing(commitment.node, commitment.variant).suspicion,
            },
            is_accused: open.accuser.is_some(),
            votes: self.votes(&id, open.finding.is_some()),
            epoch: self.epoch(),
            epoch_length: self.genesis.epoch,
        };
        ruling(judgement, level, &known).map(|ruling| (judgement, ruling))
    }

    /// Takes the end of an audit, or an accusation. One that settles nothing changes nothing.
    pub fn audit(&mut self, subject: AttemptId, outcome: &AuditOutcome) -> Result<(), Fault> {
        // Who votes after the vote that decided is paid for it.
        let is_vote = outcome.level() == Some(Level::Panel) && self.panels.contains_key(&subject);
        let is_open = |open: &&Open| open.finding.is_none() || is_vote;
        let Some(open) = self.open.get(&subject).map(Box::as_ref).filter(is_open) else { return Ok(()) };
        let (verdict, stated) = match outcome {
            AuditOutcome::Verdict { verdict, ruling } => (verdict, ruling),
            AuditOutcome::Unauditable { .. } => {
                self.found(subject, Finding::Unauditable, None);
                return Ok(());
            }
        };
        let Some((judgement, ruling)) = self.weigh(open, verdict, Some(*stated)) else { return Ok(()) };
        let is_stated = *stated != Ruling::Unstated;
        // Who has calibrations states what follows from them: else a gateway could choose the rule of before.
        let holds = if is_stated { ruling == *stated } else { self.calibrations.is_empty() };
        if !holds {
            return Err(Fault::Ruling(subject));
        }
        let by = auditor(verdict, self.counts_as(&subject, verdict));
        let weighed = self.vote(&subject, verdict, judgement, ruling);
        match ruling {
            Ruling::Passed if is_stated => self.passed(subject, weighed, by),
            Ruling::Passed => self.found(subject, Finding::Passed, by),
            Ruling::Failed => {
                if is_stated && verdict.level == Level::Referee {
                    self.refute(subject, verdict, judgement);
                }
                let node = self.commitment(&subject).map(|commitment| (commitment.node, commitment.variant));
                node.into_iter().for_each(|(node, variant)| self.policy.convict(node, variant));
                self.found(subject, Finding::Failed, by);
            }
            Ruling::VotedFor | Ruling::VotedAgainst => {}
            Ruling::Accused | Ruling::Unstated => {
                let accused = self.open.get_mut(&subject);
                accused.into_iter().for_each(|open| open.accuser = open.accuser.or(by));
            }
        }
        Ok(())
    }

    /// Takes the content of a refuted attempt: its node's escrow is slashed at the close. At most once for an attempt, and as long as a settled
    /// attempt is kept.
    pub fn evidence(&mut self, evidence: &Evidence) -> Result<(), Fault> {
        let subject = evidence.subject;
        let concealed = self.concealed.get(&subject).map(|(commitment, ..)| commitment);
        let commitment = self.refuted.get(&subject).or(concealed).ok_or(Fault::NotRefuted(subject))?;
        if !evidence.opens(commitment) {
            return Err(Fault::Unopened(subject));
        }
        self.ledger.slash(commitment.node, commitment.operator);
        self.refuted.remove(&subject);
        self.concealed.remove(&subject);
        Ok(())
    }

    /// What an attempt's node committed to, if its content may become public and would be evidence against it.
    pub fn refuted(&self, id: &AttemptId) -> Option<&Commitment> {
        self.refuted.get(id)
    }

    /// The refuted attempts at a tenant's private task, whose content is evidence as soon as the tenant gives it.
    pub fn concealed(&self, task: TaskId, tenant: TenantId) -> impl Iterator<Item = (AttemptId, &Commitment)> {
        let all = AttemptId { task, attempt: 0 }..=AttemptId { task, attempt: u8::MAX };
        let of = self.concealed.range(all).filter(move |(_, (_, of, _))| *of == tenant);
        of.map(|(id, (commitment, ..))| (*id, commitment))
    }

    /// All such attempts.
    pub fn all_refuted(&self) -> impl Iterator<Item = &AttemptId> {
        self.refuted.keys()
    }

    // What the referee shows to anyone who runs the variant is evidence, once its content is open.
    fn refute(&mut self, subject: AttemptId, verdict: &Verdict, judgement: Judgement) {
        let (deterrent, now) = (self.parameters().audit.deterrent, self.epoch());
        let Some(open) = self.open.get(&subject) else { return };
        let Receipt { commitment, charge, .. } = &open.receipt;
        if !is_refuted(commitment, verdict, judgement) {
            return;
        }
        if charge.public {
            self.refuted.insert(subject, commitment.clone());
        } else if deterrent {
            self.concealed.insert(subject, (commitment.clone(), charge.tenant, now));
        }
    }

    fn passed(&mut self, subject: AttemptId, judgement: Judgement, by: Option<Auditor>) {
        let now = self.epoch();
        let Some(open) = self.open.get_mut(&subject) else { return };
        if let Judgement::Fits { odds_micro } = judgement {
            let Commitment { node, variant, .. } = open.receipt.commitment;
            open.is_unclear = odds_micro >= ODDS_ONE;
            self.policy.weigh(node, variant, odds_micro, now, self.genesis.epoch);
        }
        self.found(subject, Finding::Passed, by);
    }

    fn found(&mut self, subject: AttemptId, finding: Finding, by: Option<Auditor>) {
        if let Some(open) = self.open.get_mut(&subject) {
            (open.finding, open.auditor) = (Some(finding), by);
        }
    }

    /// Settles the open epoch with its revealed secrets.
    pub fn close(&mut self, at: Timestamp, reveal: &Reveal) -> Result<Summary, Fault> {
        let epoch = self.epoch();
        let sealed = self.seals.unwrap_or_else(|| (draw::seal(&reveal.draw_secret), draw::seal(&reveal.nonce_secret)));
        for (what, seal, secret) in [("draw", sealed.0, reveal.draw_secret), ("nonce", sealed.1, reveal.nonce_secret)] {
            if seal != draw::seal(&secret) {
                return Err(Fault::Seal { epoch, what });
            }
        }
        self.refused.clear();
        let mut borne = Vec::new();
        for id in core::mem::take(&mut self.earned) {
            match self.open.entry(id) {
                MapEntry::Occupied(open) if open.get().receipt.charge.tenant == self.gateway_tenant => {
                    borne.push(open.remove().receipt);
                }
                MapEntry::Occupied(_) | MapEntry::Vacant(_) => self.earn(id, &reveal.draw_secret),
            }
        }
        self.find(epoch)?;
        self.seals = Some((reveal.next_draw_seal, reveal.next_nonce_seal));
        let summary = self.ledger.close(epoch, at, self.held_tasks(), &borne)?;
        let borne = borne.iter().filter(|receipt| receipt.charge.amount > MicroCredits::ZERO);
        let ids = borne.map(|receipt| AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt });
        self.refused.extend(ids.filter(|id| !self.ledger.has_settled(id, epoch)));
        self.policy.close();
        let oldest = Epoch(self.epoch().0.saturating_sub(self.ledger.kept_epochs()));
        self.refuted.retain(|_, commitment| commitment.epoch >= oldest);
        self.concealed.retain(|_, (_, _, refuted)| *refuted >= oldest);
        self.panels.retain(|id, _| self.open.contains_key(id));
        Ok(summary)
    }

    // A receipt that the ledger refuses (an overdrawn tenant, a second receipt for an attempt) stays in the log unpaid.
    fn earn(&mut self, id: AttemptId, secret: &[u8; 32]) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.held = open.candidate.is_drawn(secret);
        let refused = self.ledger.earn(&open.receipt, open.held).is_err();
        if refused || !open.held {
            self.open.remove(&id);
        }
        if refused {
            self.refused.push(id);
        }
    }

    fn find(&mut self, epoch: Epoch) -> Result<(), Fault> {
        let found: Vec<(AttemptId, Finding)> =
            self.open.iter().filter_map(|(id, open)| Some((*id, open.finding?))).collect();
        for (id, finding) in found {
            let Some(open) = self.open.remove(&id) else { continue };
            let variant = open.receipt.commitment.variant;
            // An accusation that is confirmed is paid, one that is contradicted is not; nor is a vote that was not the panel's.
            let alone = match finding {
                Finding::Failed => open.accuser,
                Finding::Passed => open.auditor,
                Finding::Unauditable => None,
            };
            for auditor in alone.into_iter().chain(self.voters(&id, finding)) {
                self.ledger.pay_audit(id, auditor)?;
            }
            self.ledger.find(id, finding)?;
            self.policy.find(open.receipt.commitment.node, variant, trusted(finding, open.is_unclear), epoch);
        }
        Ok(())
    }

    /// Receipts that the last close did not charge: a second one for an attempt, or of a tenant who can't pay.
    pub fn refused(&self) -> &[AttemptId] {
        &self.refused
    }

    // A close as it stands in a log: the state must be the one that it claims.
    fn repeat(&mut self, close: &Close) -> Result<Summary, Fault> {
        let open = self.epoch();
        if close.epoch != open {
            return Err(Fault::Close { epoch: close.epoch, open });
        }
        let summary = self.close(close.at, &close.into())?;
        if self.digest() == close.state { Ok(summary) } else { Err(Fault::State(close.epoch)) }
    }

    /// Attempts that are drawn or may be, and not yet settled.
    pub fn unsettled(&self) -> impl Iterator<Item = (&AttemptId, &Receipt)> {
        self.open.iter().map(|(id, open)| (id, &open.receipt))
    }

    /// Charges of receipts in the log that no close has settled yet, by receipt.
    pub fn unsettled_charges(&self) -> impl Iterator<Item = &Receipt> {
        self.earned.iter().filter_map(|id| self.open.get(id)).map(|open| &open.receipt)
    }

    /// Whether an unsettled attempt is drawn by the open epoch's secret, or was by an earlier one.
    pub fn needs_audit(&self, id: &AttemptId, secret: &[u8; 32]) -> bool {
        let Some(open) = self.open.get(id) else { return false };
        open.finding.is_none() && (open.held || open.candidate.is_drawn(secret))
    }

    /// Whether an auditor found an unsettled attempt bad, and the referee has not spoken yet.
    pub fn is_accused(&self, id: &AttemptId) -> bool {
        self.open.get(id).is_some_and(|open| open.accuser.is_some() && open.finding.is_none())
    }

    /// The receipts of a task that are not settled, by attempt.
    pub fn receipts_of(&self, task: TaskId) -> impl Iterator<Item = &Receipt> {
        let all = AttemptId { task, attempt: 0 }..=AttemptId { task, attempt: u8::MAX };
        self.open.range(all).map(|(_, open)| &open.receipt)
    }

    /// Whether an unsettled attempt costs its tenant anything: then its output is what was relayed.
    pub fn is_charged(&self, id: &AttemptId) -> bool {
        self.open.get(id).is_some_and(|open| open.receipt.charge.amount > MicroCredits::ZERO)
    }

    /// What an unsettled attempt committed to.
    pub fn commitment(&self, id: &AttemptId) -> Option<&Commitment> {
        self.open.get(id).map(|open| &open.receipt.commitment)
    }

    /// The only region that an unsettled attempt's tenant lets it be computed in.
    pub fn bound(&self, id: &AttemptId) -> Option<Region> {
        self.open.get(id).and_then(|open| open.receipt.charge.region)
    }

    /// What the next close will give back to tenants for failed results.
    pub fn refunds_due(&self) -> Vec<(AttemptId, (TenantId, MicroCredits))> {
        let failed = self.open.iter().filter(|(_, open)| open.finding == Some(Finding::Failed));
        let amount = |open: &Open| (open.receipt.charge.tenant, open.receipt.charge.amount);
        failed.map(|(id, open)| (*id, amount(open))).collect()
    }

    /// Balances in micro-credits.
    pub fn balance(&self, account: &Account) -> i128 {
        self.ledger.balance(account)
    }
}

impl Open {
    const fn new(receipt: Receipt, candidate: Candidate, held: bool) -> Self {
        Self { receipt, candidate, finding: None, is_unclear: false, auditor: None, accuser: None, held }
    }
}

// Vectors are no tokens that evidence could open; other variants' margins don't refute by themselves.
fn is_refuted(commitment: &Commitment, verdict: &Verdict, judgement: Judgement) -> bool {
    let Judgement::Failed(fault) = judgement else { return false };
    commitment.variant == verdict.variant && commitment.finish != Finish::Embedded && fault.is_refutation()
}

// Who is to be paid for a verdict alone: the referee is the network's own.
const fn auditor(verdict: &Verdict, level: Level) -> Option<Auditor> {
    match level {
        Level::CrossAudit => Some(Auditor { node: verdict.auditor, operator: verdict.operator }),
        Level::Panel | Level::Referee => None,
    }
}

const fn trusted(finding: Finding, is_unclear: bool) -> ol_trust::Finding {
    match finding {
        Finding::Passed if is_unclear => ol_trust::Finding::Unclear,
        Finding::Passed => ol_trust::Finding::Passed,
        Finding::Failed => ol_trust::Finding::Failed,
        Finding::Unauditable => ol_trust::Finding::Unauditable,
    }
}
