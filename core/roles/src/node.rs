//! The node: takes what it granted, runs it, commits to it in batches, and keeps every batch until it is acknowledged.
//!
//! Its gateways share its slots and nothing else: tasks, batches, audits and epochs are each gateway's own, so that one can't
//! get in another's way, by ids that it copies or otherwise.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use ol_protocol::batch::BATCH_MAX;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::sampler::SAMPLER_VERSION;
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, Machine, Micros, NetworkId, NodeId, OperatorId, Timestamp, TokenCount, VariantId,
};
use ol_sched::{Change, Slots};

/// Longest wait of a finished attempt for its batch.
const BATCH_WAIT: Micros = Micros::from_secs(1);

/// Most batches that wait for one gateway's acknowledgement; past that it is granted nothing.
const UNACKED_MAX: usize = 1_024;

/// The highest number of a batch that a gateway may say it expects: half of what a disk can count to, so that one that lies stops
/// nothing.
const NEXT_BATCH_MAX: u64 = 1 << 62;

/// Audits that a gateway may ask for at a time: twice as many as one asks its referee for, and another node for one.
const AUDITS_MAX: usize = 16;

/// An attempt at a task.
pub type Attempt = ol_protocol::record::AttemptId;

/// Who the node is, and what it offers.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its key.
    pub node: NodeId,
    /// Slots for each variant that it serves.
    pub slots: Vec<(VariantId, u32)>,
    /// The gateways that it serves.
    pub gateways: Vec<Served>,
}

/// A gateway that a node serves.
#[derive(Debug, Clone)]
pub struct Served {
    /// The gateway's network.
    pub network: NetworkId,
    /// Its key.
    pub gateway: GatewayId,
    /// The node's owner, as it says there.
    pub operator: OperatorId,
    /// Number of the node's next batch for it.
    pub next_batch: u64,
    /// Numbers of batches that are stored and not acknowledged.
    pub unacked: Vec<u64>,
}

/// What an engine tells of a finished attempt: digests only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Salted digest of prompt ids, template and sampling parameters.
    pub prompt: Digest,
    /// Salted digest of the seed.
    pub seed: Digest,
    /// Salted root over the output.
    pub output: Digest,
    /// Salted digest of the log-probability bytes.
    pub log_probs: Digest,
    /// Why it ended.
    pub finish: Finish,
    /// Prompt tokens.
    pub prompt_tokens: TokenCount,
    /// Output tokens, inherited ones included.
    pub output_tokens: TokenCount,
}

/// Why a node turns an attempt down or gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailCode {
    /// No node can serve the request, as when it passes the variant's context.
    Invalid,
    /// More was sent than was granted.
    Overloaded,
    /// The node is leaving.
    Draining,
    /// The variant isn't served here.
    UnknownVariant,
    /// The engine failed.
    Internal,
}

/// What can happen to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something on its link to one gateway, or with what that gateway asked for.
    At {
        /// The gateway.
        gateway: GatewayId,
        /// What.
        input: Input,
    },
    /// The node shall finish what it has and take nothing new.
    Drain,
    /// Time passed.
    Tick,
}

/// What a node wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Something on its link to one gateway, or with what that gateway asked for.
    At {
        /// The gateway.
        gateway: GatewayId,
        /// What.
        output: Output,
    },
    /// Everything is done and acknowledged: the process may end.
    Drained,
}

/// What can happen on the link to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The link is up.
    Connected {
        /// The next batch that the gateway expects. It may hold those before it in memory only, and has signed for none of
        /// them by saying so.
        next_batch: u64,
        /// The gateway's open epoch.
        epoch: Epoch,
    },
    /// The link is gone. Attempts on it are given up and committed as far as they came.
    Disconnected,
    /// The gateway spends a slot.
    Assigned {
        /// Task and attempt.
        attempt: Attempt,
        /// What is to compute it.
        variant: VariantId,
        /// The epoch of the assignment.
        epoch: Epoch,
        /// Output tokens that earlier attempts delivered.
        resumed_from: TokenCount,
    },
    /// The gateway takes it back.
    Cancelled {
        /// Which.
        attempt: Attempt,
        /// Whether it is paid though it added nothing.
        is_paid: bool,
    },
    /// The engine's first token of an attempt.
    FirstToken {
        /// Which.
        attempt: Attempt,
    },
    /// The engine is through with an attempt, whole or cancelled.
    Finished {
        /// Which.
        attempt: Attempt,
        /// What came of it.
        work: Work,
    },
    /// The engine gave an attempt up.
    EngineFailed {
        /// Which.
        attempt: Attempt,
        /// Why.
        code: FailCode,
    },
    /// The gateway asks for an audit.
    AuditAsked {
        /// Which.
        audit: AuditId,
        /// What is to score it.
        variant: VariantId,
    },
    /// The audit's verdict was sent, or it failed.
    AuditDone {
        /// Which.
        audit: AuditId,
    },
    /// A batch is signed and on disk.
    Stored {
        /// Its number.
        sequence: u64,
    },
    /// The gateway holds a batch.
    Acked {
        /// Its number.
        sequence: u64,
    },
    /// A new epoch began.
    EpochBegan {
        /// Which.
        epoch: Epoch,
    },
    /// The gateway gave back the slots that it was asked for.
    Withdrawn {
        /// The variant.
        variant: VariantId,
    },
}

/// What a node wants done on the link to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell the gateway how many attempts of a variant it may have sent on this link in all.
    Grant {
        /// The variant.
        variant: VariantId,
        /// The cumulative number.
        total: u64,
    },
    /// Ask the gateway to send no more attempts of a variant than so many in all, but for those that it has sent; answered
    /// by [`Input::Withdrawn`].
    Withdraw {
        /// The variant.
        variant: VariantId,
        /// The cumulative number.
        total: u64,
    },
    /// Close the link: the gateway does not give slots back.
    Close,
    /// Run an attempt.
    Start {
        /// Which.
        attempt: Attempt,
    },
    /// Stop an attempt that runs; its end comes as [`Input::Finished`] with [`Finish::Cancelled`].
    Stop {
        /// Which.
        attempt: Attempt,
    },
    /// Tell the gateway that an attempt is turned down or given up.
    Refuse {
        /// Which.
        attempt: Attempt,
        /// Why.
        code: FailCode,
        /// The renewed grant.
        grant: u64,
    },
    /// Tell the gateway that an attempt is turned down as it was given out before; what it has goes on.
    RefuseCopy {
        /// Which.
        attempt: Attempt,
        /// The renewed grant.
        grant: u64,
    },
    /// Tell the gateway that an attempt is done.
    Done {
        /// What the node will sign.
        commitment: Commitment,
        /// The renewed grant.
        grant: u64,
    },
    /// Sign commitments and put them on disk as a batch.
    Store {
        /// The batch's number.
        sequence: u64,
        /// The latest epoch heard of.
        epoch: Epoch,
        /// What to sign.
        commitments: Vec<Commitment>,
    },
    /// Send a stored batch.
    Send {
        /// Its number.
        sequence: u64,
    },
    /// Drop what was kept for a batch but its countersignature.
    Forget {
        /// Its number.
        sequence: u64,
    },
    /// Score an audit's content.
    Audit {
        /// Which.
        audit: AuditId,
    },
    /// Tell the gateway that an audit can't be done here.
    RefuseAudit {
        /// Which.
        audit: AuditId,
    },
}

#[derive(Debug, Clone, Copy)]
struct Running {
    variant: VariantId,
    epoch: Epoch,
    resumed_from: TokenCount,
    began: Timestamp,
    first_token: Option<Timestamp>,
    // The gateway of this link took it back, or the link is gone.
    abandoned: bool,
    // It is paid though nothing was added.
    is_paid: bool,
}

/// The machine of a node.
#[derive(Debug)]
pub struct Node {
    links: BTreeMap<GatewayId, Link>,
    room: Room,
    is_draining: bool,
}

// The slots of all variants, and what gateways are to be told of them.
#[derive(Debug)]
struct Room {
    slots: BTreeMap<VariantId, Slots>,
    changes: Vec<(VariantId, Change)>,
}

impl Room {
    fn balance(&mut self, now: Timestamp) {
        for (variant, slots) in &mut self.slots {
            let mut changes = Vec::new();
            slots.balance(now, &mut changes);
            self.changes.extend(changes.into_iter().map(|change| (*variant, change)));
        }
    }

    // After something of a gateway's ended: its grant, which rides in a frame that is sent anyway.
    fn renew(&mut self, now: Timestamp, variant: VariantId, gateway: GatewayId) -> u64 {
        let Some(slots) = self.slots.get_mut(&variant) else { return 0 };
        let mut changes = Vec::new();
        slots.balance(now, &mut changes);
        changes.retain(|change| !matches!(change, Change::Grant { gateway: of, .. } if *of == gateway));
        self.changes.extend(changes.into_iter().map(|change| (variant, change)));
        slots.total(gateway)
    }

    fn each(&mut self, mut what: impl FnMut(&mut Slots)) {
        self.slots.values_mut().for_each(&mut what);
    }
}

// What a node has to do with one gateway.
#[derive(Debug)]
struct Link {
    served: Served,
    node: NodeId,
    running: BTreeMap<Attempt, Running>,
    audits: BTreeSet<AuditId>,
    finished: Vec<Commitment>,
    batch_due: Option<Timestamp>,
    next_batch: u64,
    // Stored or being stored, not acknowledged; true once stored.
    outbox: BTreeMap<u64, bool>,
    epoch: Epoch,
    connected: bool,
    draining: bool,
}

impl Link {
    fn new(node: NodeId, served: Served) -> Self {
        Self {
            outbox: served.unacked.iter().map(|&sequence| (sequence, true)).collect(),
            next_batch: served.next_batch,
            served,
            node,
            running: BTreeMap::new(),
            audits: BTreeSet::new(),
            finished: Vec::new(),
            batch_due: None,
            epoch: Epoch(0),
            connected: false,
            draining: false,
        }
    }

    const fn gateway(&self) -> GatewayId {
        self.served.gateway
    }

    fn connect(&mut self, now: Timestamp, next_batch: u64, epoch: Epoch, room: &mut Room, out: &mut Vec<Output>) {
        self.connected = true;
        self.epoch = self.epoch.max(epoch);
        // A number that the gateway has would be taken for a repetition.
        self.next_batch = self.next_batch.max(next_batch.min(NEXT_BATCH_MAX));
        // What the gateway has is sent again, too: the node keeps it until it has the gateway's signature.
        out.extend(self.outbox.iter().filter(|(_, stored)| **stored).map(|(&sequence, _)| Output::Send { sequence }));
        // Totals count per link: a new one begins with what is free now.
        room.each(|slots| slots.link(now, self.served.gateway));
    }

    fn disconnect(&mut self, now: Timestamp, room: &mut Room, out: &mut Vec<Output>) {
        self.connected = false;
        room.each(|slots| slots.unlink(now, self.served.gateway));
        self.audits.clear();
        for (attempt, running) in &mut self.running {
            if !core::mem::replace(&mut running.abandoned, true) {
                out.push(Output::Stop { attempt: *attempt });
            }
        }
    }

    // Runs, or is done and not in a batch yet.
    fn has(&self, Attempt { task, attempt }: Attempt) -> bool {
        let is_done = self.finished.iter().any(|done| (done.task, done.attempt) == (task, attempt));
        is_done || self.running.contains_key(&Attempt { task, attempt })
    }

    fn takes(&self) -> bool {
        self.connected && !self.draining && self.outbox.len() < UNACKED_MAX
    }

    fn assign(&mut self, now: Timestamp, attempt: Attempt, running: Running, room: &mut Room, out: &mut Vec<Output>) {
        let gateway = self.gateway();
        let code = match room.slots.get_mut(&running.variant) {
            None => Some(FailCode::UnknownVariant),
            Some(slots) => match (slots.receive(now, gateway), self.draining) {
                (false, _) => Some(FailCode::Overloaded),
                (true, true) => Some(FailCode::Draining),
                (true, false) => None,
            },
        };
        if self.has(attempt) {
            let grant = room.renew(now, running.variant, gateway);
            return out.push(Output::RefuseCopy { attempt, grant });
        }
        if let Some(code) = code {
            let grant = room.renew(now, running.variant, gateway);
            return out.push(Output::Refuse { attempt, code, grant });
        }
        if let Some(slots) = room.slots.get_mut(&running.variant) {
            slots.begin(now, gateway);
        }
        self.running.insert(attempt, Running { began: now, ..running });
        out.push(Output::Start { attempt });
    }

    fn finish(&mut self, now: Timestamp, attempt: Attempt, work: Work, room: &mut Room, out: &mut Vec<Output>) {
        let Some(running) = self.running.remove(&attempt) else { return };
        let commitment = self.commitment(now, attempt, running, work);
        // Nothing was added: mostly there is nothing to be paid for, and nothing to sign.
        let is_nothing = commitment.added_tokens() == TokenCount(0) && commitment.finish == Finish::Cancelled;
        let empty = is_nothing && !running.is_paid;
        if !empty {
            self.finished.push(commitment.clone());
            self.batch_due.get_or_insert(now.after(BATCH_WAIT));
        }
        if let Some(grant) = self.end(now, running, room) {
            out.push(Output::Done { commitment, grant });
        }
        if self.finished.len() >= BATCH_MAX {
            self.flush(out);
        }
    }

    // Frees an attempt's slot. The gateway's renewed grant, if it waits to hear of the end.
    fn end(&self, now: Timestamp, running: Running, room: &mut Room) -> Option<u64> {
        if let Some(slots) = room.slots.get_mut(&running.variant) {
            slots.end(now, self.gateway());
        }
        (self.connected && !running.abandoned).then(|| room.renew(now, running.variant, self.gateway()))
    }

    fn commitment(&self, now: Timestamp, attempt: Attempt, running: Running, work: Work) -> Commitment {
        Commitment {
            network: self.served.network,
            gateway: self.served.gateway,
            node: self.node,
            operator: self.served.operator,
            task: attempt.task,
            attempt: attempt.attempt,
            epoch: running.epoch,
            variant: running.variant,
            sampler_version: SAMPLER_VERSION,
            prompt: work.prompt,
            seed: work.seed,
            output: work.output,
            log_probs: work.log_probs,
            // An end that nobody was told of is none: the gateway gave the task to another, or will.
            finish: if running.abandoned { Finish::Cancelled } else { work.finish },
            prompt_tokens: work.prompt_tokens,
            output_tokens: work.output_tokens,
            resumed_from: running.resumed_from,
            first_token: running.first_token.unwrap_or(now).since(running.began),
            total: now.since(running.began),
        }
    }

    fn fail(&mut self, now: Timestamp, attempt: Attempt, code: FailCode, room: &mut Room, out: &mut Vec<Output>) {
        let Some(running) = self.running.remove(&attempt) else { return };
        if let Some(grant) = self.end(now, running, room) {
            out.push(Output::Refuse { attempt, code, grant });
        }
    }

    fn flush(&mut self, out: &mut Vec<Output>) {
        self.batch_due = None;
        let all = core::mem::take(&mut self.finished);
        for commitments in all.chunks(BATCH_MAX) {
            let sequence = self.next_batch;
            self.next_batch += 1;
            self.outbox.insert(sequence, false);
            out.push(Output::Store { sequence, epoch: self.epoch, commitments: commitments.to_vec() });
        }
    }

    fn stored(&mut self, sequence: u64, out: &mut Vec<Output>) {
        let Some(stored) = self.outbox.get_mut(&sequence) else { return };
        *stored = true;
        if self.connected {
            out.push(Output::Send { sequence });
        }
    }

    fn ack(&mut self, sequence: u64, out: &mut Vec<Output>) {
        if self.outbox.remove(&sequence).is_some() {
            out.push(Output::Forget { sequence });
        }
    }

    fn ask_audit(&mut self, audit: AuditId, variant: VariantId, room: &Room, out: &mut Vec<Output>) {
        let is_too_many = self.audits.len() >= AUDITS_MAX && !self.audits.contains(&audit);
        if is_too_many || !room.slots.contains_key(&variant) {
            return out.push(Output::RefuseAudit { audit });
        }
        // Asked again while it waits for the engine: one verdict answers both.
        if self.audits.insert(audit) {
            out.push(Output::Audit { audit });
        }
    }

    fn is_drained(&self) -> bool {
        self.running.is_empty() && self.finished.is_empty() && self.outbox.is_empty()
    }

    fn flush_when_due(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let due = self.batch_due.is_some_and(|due| due <= now) || (self.draining && self.running.is_empty());
        if due && !self.finished.is_empty() {
            self.flush(out);
        }
    }

    fn handle(&mut self, now: Timestamp, input: Input, room: &mut Room, out: &mut Vec<Output>) {
        match input {
            Input::Connected { next_batch, epoch } => self.connect(now, next_batch, epoch, room, out),
            Input::Disconnected => self.disconnect(now, room, out),
            Input::Assigned { attempt, variant, epoch, resumed_from } => {
                let (first_token, abandoned, is_paid) = (None, false, false);
                let running = Running { variant, epoch, resumed_from, began: now, first_token, abandoned, is_paid };
                self.assign(now, attempt, running, room, out);
            }
            Input::Cancelled { attempt, is_paid } => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    (running.abandoned, running.is_paid) = (true, is_paid);
                    out.push(Output::Stop { attempt });
                }
            }
            Input::FirstToken { attempt } => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.first_token.get_or_insert(now);
                }
            }
            Input::Finished { attempt, work } => self.finish(now, attempt, work, room, out),
            Input::EngineFailed { attempt, code } => self.fail(now, attempt, code, room, out),
            Input::AuditAsked { audit, variant } => self.ask_audit(audit, variant, room, out),
            Input::AuditDone { audit } => {
                self.audits.remove(&audit);
            }
            Input::Stored { sequence } => self.stored(sequence, out),
            Input::Acked { sequence } => self.ack(sequence, out),
            Input::EpochBegan { epoch } => self.epoch = self.epoch.max(epoch),
            Input::Withdrawn { variant } => {
                if let Some(slots) = room.slots.get_mut(&variant) {
                    slots.withdrawn(now, self.gateway());
                }
            }
        }
    }
}

impl Node {
    /// A node that is not connected yet.
    pub fn new(setup: Setup) -> Self {
        let Setup { node, slots, gateways } = setup;
        let slots = slots.into_iter().map(|(id, size)| (id, Slots::new(size))).collect();
        let link = |served: Served| (served.gateway, Link::new(node, served));
        Self {
            links: gateways.into_iter().map(link).collect(),
            room: Room { slots, changes: Vec::new() },
            is_draining: false,
        }
    }

    /// Attempts that run now.
    pub fn running(&self) -> usize {
        self.links.values().map(|link| link.running.len()).sum()
    }

    /// Slots of a variant that are taken or promised: never more than there are.
    pub fn held(&self, variant: VariantId) -> u64 {
        self.room.slots.get(&variant).map_or(0, Slots::held)
    }

    // One link's news first: what it does to the others comes after.
    fn step(&mut self, now: Timestamp, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::At { gateway, input } => {
                let Some(link) = self.links.get_mut(&gateway) else { return };
                let mut said = Vec::new();
                link.handle(now, input, &mut self.room, &mut said);
                out.extend(said.into_iter().map(|output| Action::At { gateway, output }));
            }
            Event::Drain => {
                self.is_draining = true;
                self.links.values_mut().for_each(|link| link.draining = true);
            }
            Event::Tick => {}
        }
    }

    fn divide(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        for (&gateway, link) in &self.links {
            self.room.each(|slots| slots.set_takes(gateway, link.takes()));
        }
        self.room.balance(now);
        for (variant, change) in self.room.changes.drain(..) {
            let output = match change {
                Change::Grant { total, .. } => Output::Grant { variant, total },
                Change::Withdraw { total, .. } => Output::Withdraw { variant, total },
                Change::Close { .. } => Output::Close,
            };
            out.push(Action::At { gateway: change.gateway(), output });
        }
    }
}

impl Machine for Node {
    type Input = Event;
    type Output = Action;

    fn handle(&mut self, now: Timestamp, event: Event, out: &mut Vec<Action>) {
        self.step(now, event, out);
        for (&gateway, link) in &mut self.links {
            let mut said = Vec::new();
            link.flush_when_due(now, &mut said);
            out.extend(said.into_iter().map(|output| Action::At { gateway, output }));
        }
        self.divide(now, out);
        if self.is_draining && self.links.values().all(Link::is_drained) {
            out.push(Action::Drained);
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let batches = self.links.values().filter_map(|link| link.batch_due);
        batches.chain(self.room.slots.values().filter_map(Slots::deadline)).min()
    }
}
