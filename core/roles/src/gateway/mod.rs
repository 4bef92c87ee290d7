//! The gateway: takes requests in, hands them to nodes that granted capacity, agrees with them on counts, puts their
//! signed batches in the log, has drawn results audited, and settles epochs.

mod admit;
mod audit;
mod batch;
mod best;
pub mod codec;
mod confirm;
mod epoch;
pub mod event;
mod funds;
mod limits;
mod overtake;
mod own;
mod panel;
mod resident;
mod task;
pub mod why;

use crate::settler::Settler;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use event::{Input, Output};
use ol_ledger::Budget;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::parameters::EscrowRule;
use ol_protocol::prf::Seed;
use ol_protocol::record::AttemptId;
use ol_protocol::variant::Assurance;
use ol_protocol::{
    AuditId, Epoch, GatewayId, Machine, MicroCredits, Micros, NetworkId, NodeId, OperatorId, Region, TaskId, TenantId,
    Timestamp, VariantId,
};
use ol_sched::hedge::{Allowance, Trials};
use ol_sched::{
    Breaker, Flow, Limits, Offers, Queue, Rates, Reason, Regions, Reliabilities, Reliability, Residency, Rule, Want,
};
use ol_trust::Evidence;
use task::Begun;

/// What a gateway starts from.
#[derive(Debug)]
pub struct Setup {
    /// Its key.
    pub gateway: GatewayId,
    /// Its secret: draws, nonces and orders are derived from it.
    pub master: [u8; 32],
    /// Seed of near-tie randomisation.
    pub seed: Seed,
    /// The log so far.
    pub settler: Settler,
    /// The next batch of each node that the log has batches of.
    pub next_batch: BTreeMap<NodeId, u64>,
    /// Time limits of attempts.
    pub limits: Limits,
    /// How nodes are chosen.
    pub rule: Rule,
}

/// What is carried over from the setup.
#[derive(Debug)]
struct Fixed {
    gateway: GatewayId,
    master: [u8; 32],
    seed: Seed,
    limits: Limits,
    rule: Rule,
    // Which run of the gateway this is: the seed is drawn anew at each start.
    boot: u64,
}

fn boot(seed: &Seed) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest(Domain::Seed, &[b"boot".as_slice(), &seed.0]).0[..8]);
    u64::from_le_bytes(bytes)
}

/// What an append to the log was for.
#[derive(Debug)]
enum Appended {
    Nothing,
    Audit { subject: AttemptId },
    Sealed { audit: AuditId },
    Batch { node: NodeId, sequence: u64, drawn: Vec<AttemptId>, settled: Vec<TaskId> },
}

/// What happened so far, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts sent to nodes.
    pub assigned: u64,
    /// Tasks that ended well.
    pub finished: u64,
    /// Tasks refused or given up.
    pub refused: u64,
    /// Attempts that were taken from a node and given to another.
    pub failed_over: u64,
    /// Attempts begun beside another that was late.
    pub raced: u64,
    /// Attempts taken from a slow node in the middle, to go on with a faster one.
    pub moved: u64,
    /// Receipts of attempts begun beside a late one that won after all, whose reading the gateway is to pay.
    pub borne: u64,
    /// Tasks whose client went away.
    pub client_gone: u64,
    /// Answers and verdicts that came too late or from another node than asked.
    pub late: u64,
    /// Counts or commitments that are not what was relayed.
    pub wrong_counts: u64,
    /// Links closed because a node broke the protocol.
    pub misbehaved: u64,
    /// Receipts put in the log.
    pub receipts: u64,
    /// Tasks whose node never signed: neither charged nor paid.
    pub unsigned: u64,
    /// Tasks of the network's own that were asked for.
    pub own: u64,
    /// Audits drawn.
    pub audits_drawn: u64,
    /// Audits passed.
    pub audits_passed: u64,
    /// Audits failed, confirmed by the referee or a panel.
    pub audits_failed: u64,
    /// Failures and doubts that went to the referee or a panel.
    pub escalated: u64,
    /// Verdicts over other content than was sent.
    pub void_verdicts: u64,
    /// Verdicts that the referee contradicted though no arithmetic explains it.
    pub false_verdicts: u64,
    /// Panels whose members have sealed their verdicts.
    pub panels: u64,
    /// Panels of which no two agreed, or said anything.
    pub panels_undecided: u64,
    /// Audits whose payload was lost here.
    pub unauditable: u64,
    /// Attempts whose content went into the log as evidence: their nodes' escrow is slashed.
    pub slashed: u64,
    /// Contents that are no evidence.
    pub void_evidence: u64,
    /// Top-ups and changes of parameters that the ledger refused.
    pub denied: u64,
    /// Tasks that were admitted with a promise about their deadlines.
    pub promised: u64,
    /// Of those, how many missed them.
    pub broken: u64,
}

/// The machine of a gateway.
#[derive(Debug)]
pub struct Gateway {
    setup: Fixed,
    network: NetworkId,
    own_tenant: TenantId,
    settler: Settler,
    budget: Budget,
    funds: funds::Funds,
    offers: Offers,
    rates: Rates,
    breaker: Breaker,
    reliabilities: Reliabilities,
    reliable: best::Recent<Want, Option<Reliability>>,
    trusted: best::Recent<(Want, Assurance, Evidence), u32>,
    regions: Regions,
    residency: Residency,
    queue: Queue,
    // What runs, by variant, everywhere and in each region; how many second attempts there may be; when tasks are looked at; who got the last one.
    flows: BTreeMap<Want, Flow>,
    allowance: Allowance,
    trials: Trials,
    alarms: BTreeSet<(Timestamp, TaskId)>,
    last: Option<NodeId>,
    // Boxed: ids come in the order of time, so that whatever leaves the front of a tree's leaf moves all that follow.
    tasks: BTreeMap<TaskId, Box<task::Task>>,
    workers: BTreeMap<NodeId, OperatorId>,
    referee: Option<BTreeSet<VariantId>>,
    next_batch: BTreeMap<NodeId, u64>,
    waiting: VecDeque<batch::Waiting>,
    audits: BTreeMap<AuditId, audit::Audit>,
    // The one that was looked at last.
    looked_at: Option<AuditId>,
    // Auditors that the referee contradicted, or that did not answer, and until when they are not asked.
    distrusted: BTreeMap<NodeId, Timestamp>,
    // Answers that their clients get once their audit passes, and until when they wait.
    awaited: BTreeMap<AttemptId, Timestamp>,
    // What receipts of the open epoch took from the budget.
    charged: BTreeMap<AttemptId, (TenantId, MicroCredits)>,
    // What the log charges and other tasks have reserved, by the task whose receipt it is.
    owed: BTreeMap<(TenantId, TaskId), MicroCredits>,
    next_append: u64,
    // Records since the last snapshot; after a restart, as if there was none.
    unsaved: u64,
    appended: BTreeMap<u64, Appended>,
    epoch_ends: Timestamp,
    next_look: Timestamp,
    has_ticked: bool,
    counters: Counters,
    decisions: why::Decisions,
}

impl Gateway {
    /// A gateway that goes on from its log. Audits that a restart interrupted are taken up again.
    pub fn new(now: Timestamp, setup: Setup) -> Self {
        let Setup { gateway, master, seed, settler, next_batch, limits, rule } = setup;
        let epoch_ends = if settler.epoch() == Epoch(0) { now } else { now.after(settler.genesis().epoch) };
        let mut new = Self {
            network: settler.genesis().network(),
            own_tenant: settler.genesis().own_tenant(),
            setup: Fixed { gateway, master, seed, limits, rule, boot: boot(&seed) },
            settler,
            budget: Budget::new(),
            funds: funds::Funds::default(),
            offers: Offers::default(),
            rates: Rates::default(),
            breaker: Breaker::default(),
            reliabilities: Reliabilities::default(),
            reliable: best::Recent::default(),
            trusted: best::Recent::default(),
            regions: Regions::default(),
            residency: Residency::default(),
            queue: Queue::default(),
            flows: BTreeMap::new(),
            allowance: Allowance::default(),
            trials: Trials::default(),
            alarms: BTreeSet::new(),
            last: None,
            tasks: BTreeMap::new(),
            workers: BTreeMap::new(),
            referee: None,
            next_batch,
            waiting: VecDeque::new(),
            audits: BTreeMap::new(),
            looked_at: None,
            distrusted: BTreeMap::new(),
            awaited: BTreeMap::new(),
            charged: BTreeMap::new(),
            unsaved: u64::MAX,
            owed: BTreeMap::new(),
            next_append: 0,
            appended: BTreeMap::new(),
            epoch_ends,
            next_look: now,
            has_ticked: false,
            counters: Counters::default(),
            decisions: why::Decisions::default(),
        };
        new.fund();
        let secret = new.draw_secret();
        let interrupted: Vec<AttemptId> =
            new.settler.unsettled().map(|(id, _)| *id).filter(|id| new.settler.needs_audit(id, &secret)).collect();
        interrupted.into_iter().for_each(|subject| new.draw(now, subject));
        new
    }

    /// What happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The accounts and trust.
    pub const fn settler(&self) -> &Settler {
        &self.settler
    }

    /// The network.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// What a tenant may still reserve.
    pub fn available(&self, tenant: TenantId) -> MicroCredits {
        let all = (tenant, TaskId([0; 16]))..=(tenant, TaskId([u8::MAX; 16]));
        let owed = self.owed.range(all).fold(0, |sum: u64, (_, amount)| sum.saturating_add(amount.0));
        MicroCredits(self.budget.available(&tenant).0.saturating_sub(owed))
    }

    /// The next batch that is expected of a node.
    pub fn next_batch(&self, node: &NodeId) -> u64 {
        self.next_batch.get(node).copied().unwrap_or(0)
    }

    /// Tasks that wait for a node.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Tasks that wait or run, or whose answers wait for their audits.
    pub fn active(&self) -> usize {
        let running = self.tasks.values().filter(|t| !matches!(t.state, task::State::Ended { .. })).count();
        running + self.funds.waiting() + self.awaited.len()
    }

    /// Output tokens that clients were sent, of tasks that no receipt in the log charges yet.
    pub fn unsettled_tokens(&self) -> u64 {
        let open = self.tasks.values().filter(|task| task.settled == MicroCredits::ZERO);
        open.map(|task| u64::from(task.attempts.delivered().0)).sum()
    }

    /// Whether nothing that nodes still owe is waited for: no batch of an ended task, no append.
    pub fn is_settled_down(&self) -> bool {
        self.tasks.is_empty() && self.waiting.is_empty() && self.appended.is_empty() && self.funds.waiting() == 0
    }

    /// Auditors that are not asked for a time: the referee or a panel contradicted them, or they did not answer.
    pub fn distrusted(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.distrusted.keys().copied()
    }

    /// Audits that are not final.
    pub fn auditing(&self) -> usize {
        self.audits.len()
    }

    /// Connected nodes that have room for a task now.
    pub fn ready(&self) -> usize {
        self.offers.variants().flat_map(|variant| self.offers.ready_nodes(variant)).collect::<BTreeSet<_>>().len()
    }

    /// Slots that connected nodes granted: those that are free, and those with a task.
    pub fn slots(&self) -> u64 {
        self.offers.slots()
    }

    /// Connected nodes that take tasks.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The latency map: who says that it stands where, and how far away that is.
    pub const fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Whether a node has granted a free slot for a variant.
    pub fn has_free_slot(&self, variant: VariantId) -> bool {
        self.offers.supply(variant).ready_count > 0
    }

    fn join(
        &mut self,
        node: NodeId,
        operator: OperatorId,
        referee: bool,
        (variants, region): (Vec<VariantId>, Option<Region>),
        out: &mut Vec<Output>,
    ) {
        if referee && node == self.settler.genesis().referee {
            self.referee = Some(variants.into_iter().collect());
        } else if !referee {
            self.workers.insert(node, operator);
            self.offers.join(node);
            self.reliabilities.join(node);
            self.regions.join(node, region);
        } else {
            return out.push(Output::Close { node, why: "not the referee of this network" });
        }
        let held = EscrowRule { tasks: self.settler.held_tasks(), ..self.settler.parameters().escrow };
        out.push(Output::Welcome { node, next_batch: self.next_batch(&node), epoch: self.settler.epoch(), held });
    }

    fn leave(&mut self, now: Timestamp, node: NodeId, out: &mut Vec<Output>) {
        if node == self.settler.genesis().referee {
            self.referee = None;
        }
        self.workers.remove(&node);
        self.offers.leave(node);
        self.reliabilities.leave(node);
        self.regions.leave(node);
        self.residency.leave(node);
        self.audits.values_mut().for_each(|audit| audit.abandon(node));
        let lost: Vec<AttemptId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.state == task::State::Running)
            .flat_map(|(id, task)| task.attempts.running().map(|(attempt, of)| (of, AttemptId { task: *id, attempt })))
            .filter(|(of, _)| *of == node)
            .map(|(_, attempt)| attempt)
            .collect();
        for attempt in lost {
            self.fail_over(now, node, attempt, Reason::Disconnected, out);
        }
        // Keys are free: what is known of one that never handed in a batch goes with its link.
        if !self.next_batch.contains_key(&node) {
            self.rates.forget(node);
        }
        self.dispatch_audits(now, out);
    }

    fn grant(&mut self, now: Timestamp, node: NodeId, variant: VariantId, total: u64, out: &mut Vec<Output>) {
        // The referee gets audits only, whatever it offers.
        if !self.workers.contains_key(&node) {
            return;
        }
        if self.offers.grant(node, variant, total).is_err() {
            self.counters.misbehaved += 1;
            return out.push(Output::Close { node, why: "a grant past the limit" });
        }
        self.classify(node, variant);
        self.dispatch(now, variant, out);
    }

    // What it takes to reach a node says whether it can stand where it says.
    fn round_trip(&mut self, now: Timestamp, node: NodeId, took: Micros, out: &mut Vec<Output>) {
        self.rates.round_trip(node, took);
        self.regions.round_trip(node, took, self.next_batch.contains_key(&node));
        let region = self.regions.of(node);
        if self.offers.region(node) == region {
            return;
        }
        self.offers.locate(node, region);
        let bound: BTreeSet<VariantId> =
            self.queue.wants().filter(|want| want.region.is_some()).map(|want| want.variant).collect();
        bound.into_iter().for_each(|variant| self.dispatch(now, variant, out));
    }

    // An attempt, or what it left behind, failed by its node's fault or not.
    fn blame(&mut self, now: Timestamp, node: NodeId, reason: Reason) {
        self.breaker.failed(node, reason, now);
        if reason.blames_node() {
            self.reliabilities.ended(node, false);
        }
    }

    fn misbehaved(&mut self, now: Timestamp, node: NodeId) {
        self.counters.misbehaved += 1;
        self.blame(now, node, Reason::Wrong);
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        self.look(now, out);
        if now < self.next_look {
            return;
        }
        if !core::mem::replace(&mut self.has_ticked, true) {
            self.open_refuted(out);
        }
        self.distrusted.retain(|_, until| *until > now);
        self.expire(now, out);
        self.expire_rates(now);
        self.take_waiting(now, out);
        self.dispatch_audits(now, out);
        self.close_when_due(now, out);
        let variants: BTreeSet<VariantId> = self.queue.wants().map(|want| want.variant).collect();
        for variant in variants {
            self.dispatch(now, variant, out);
        }
        self.next_look = self.epoch_ends;
    }

    fn is_busy(&self) -> bool {
        let waits = !self.waiting.is_empty() || !self.audits.is_empty() || !self.awaited.is_empty();
        !self.tasks.is_empty() || waits || self.funds.waiting() > 0
    }
}

/// How often a gateway looks at its time limits.
const TICK: Micros = Micros::from_millis(100);

impl Machine for Gateway {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Timestamp, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::NodeJoined { node, operator, referee, variants, region } => {
                // A link that broke without notice is replaced by its successor.
                if self.workers.contains_key(&node) {
                    self.leave(now, node, out);
                }
                self.join(node, operator, referee, (variants, region), out);
                self.dispatch_audits(now, out);
            }
            Input::NodeLeft { node } => self.leave(now, node, out),
            Input::NodeDraining { node } => self.offers.drain(node),
            Input::Granted { node, variant, total } => self.grant(now, node, variant, total, out),
            Input::Withdrawn { node, variant, total } => {
                self.offers.withdraw(node, variant, total);
                out.push(Output::Withdrawn { node, variant });
            }
            Input::RoundTrip { node, took } => self.round_trip(now, node, took, out),
            Input::Submitted(submission) => self.submit(now, submission, out),
            Input::Started { node, attempt, prompt_tokens, resident_tokens } => {
                self.started(now, node, attempt, Begun::new(prompt_tokens, resident_tokens), out);
            }
            Input::Progress { node, attempt, count, added } => self.progress(now, node, attempt, count, added, out),
            Input::Done { node, commitment, relayed } => self.done(now, node, commitment, relayed, out),
            Input::Failed { node, attempt, code } => self.failed(now, node, attempt, code, out),
            Input::ClientGone { task } => self.client_gone(now, task, out),
            Input::Responded { task, response } => self.responded(now, task, response, out),
            Input::Batch { batch, orders, matches } => self.batch(now, batch, &orders, matches, out),
            Input::Durable { append } => self.durable(now, append, out),
            Input::Verdict { node, verdict, agrees } => self.verdict(now, node, verdict, agrees, out),
            Input::Sealed { node, seal } => self.sealed(now, node, seal, out),
            Input::AuditRefused { node, audit } => self.audit_refused(now, node, audit, out),
            Input::PayloadLost { audit } => self.payload_lost(now, audit, out),
            Input::TopUp(slice) => self.top_up(now, slice, out),
            Input::NoFunds { tenant, is_unknown } => self.no_funds(now, tenant, is_unknown, out),
            Input::Change(change) => self.change(change, out),
            Input::Calibrated(calibration) => self.calibrated(now, *calibration, out),
            Input::Evidence(evidence) => self.evidence(evidence, out),
            Input::Published { tenant, task } => self.published(tenant, task, out),
            Input::Misbehaved { node } => self.misbehaved(now, node),
            Input::Tick => self.tick(now, out),
        }
        if self.is_busy() {
            self.next_look = self.next_look.min(now.after(TICK));
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.alarms.first().map_or(self.next_look, |(alarm, _)| self.next_look.min(*alarm)))
    }
}
