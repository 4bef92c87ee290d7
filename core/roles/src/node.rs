//! The node: takes what it granted, runs it, commits to it in batches, and keeps every batch until it is acknowledged.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use ol_protocol::batch::BATCH_MAX;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::sampler::SAMPLER_VERSION;
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, Machine, Micros, NetworkId, NodeId, OperatorId, Timestamp, TokenCount, VariantId,
};

/// Longest wait of a finished attempt for its batch.
const BATCH_WAIT: Micros = Micros::from_secs(1);

/// Most batches that wait for an acknowledgement; past that the node takes no new work.
const UNACKED_MAX: usize = 1_024;

/// An attempt at a task.
pub type Attempt = ol_protocol::record::AttemptId;

/// Who the node is, and what it offers.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The network.
    pub network: NetworkId,
    /// The gateway it serves.
    pub gateway: GatewayId,
    /// Its key.
    pub node: NodeId,
    /// Its owner.
    pub operator: OperatorId,
    /// Slots for each variant that it serves.
    pub slots: Vec<(VariantId, u32)>,
    /// Number of its next batch for this gateway.
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
    /// The node shall finish what it has and take nothing new.
    Drain,
    /// Time passed.
    Tick,
}

/// What a node wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell the gateway how many attempts of a variant it may have sent on this link in all.
    Grant {
        /// The variant.
        variant: VariantId,
        /// The cumulative number.
        total: u64,
    },
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
    /// Everything is done and acknowledged: the process may end.
    Drained,
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
}

#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    size: u32,
    granted: u64,
    received: u64,
    busy: u32,
}

/// The machine of a node on its link to one gateway.
#[derive(Debug)]
pub struct Node {
    setup: Setup,
    slots: BTreeMap<VariantId, Slots>,
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

impl Node {
    /// A node that is not connected yet.
    pub fn new(setup: Setup) -> Self {
        let slots = setup.slots.iter().map(|&(id, size)| (id, Slots { size, ..Slots::default() })).collect();
        let outbox = setup.unacked.iter().map(|&sequence| (sequence, true)).collect();
        Self {
            slots,
            outbox,
            next_batch: setup.next_batch,
            setup,
            running: BTreeMap::new(),
            audits: BTreeSet::new(),
            finished: Vec::new(),
            batch_due: None,
            epoch: Epoch(0),
            connected: false,
            draining: false,
        }
    }

    /// Attempts that run now.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    fn connect(&mut self, next_batch: u64, epoch: Epoch, out: &mut Vec<Output>) {
        self.connected = true;
        self.epoch = self.epoch.max(epoch);
        // A number that the gateway has would be taken for a repetition.
        self.next_batch = self.next_batch.max(next_batch);
        // What the gateway has is sent again, too: the node keeps it until it has the gateway's signature.
        out.extend(self.outbox.iter().filter(|(_, stored)| **stored).map(|(&sequence, _)| Output::Send { sequence }));
        // Totals count per link: a new one begins with what is free now.
        for slots in self.slots.values_mut() {
            slots.granted = 0;
            slots.received = 0;
        }
        self.renew(out);
    }

    fn disconnect(&mut self, out: &mut Vec<Output>) {
        self.connected = false;
        self.audits.clear();
        for (attempt, running) in &mut self.running {
            if !core::mem::replace(&mut running.abandoned, true) {
                out.push(Output::Stop { attempt: *attempt });
            }
        }
    }

    // What may have been sent on this link in all: what was received, and a slot for each that is free.
    fn raise(&mut self, variant: VariantId) -> u64 {
        let open = !self.draining && self.outbox.len() < UNACKED_MAX;
        let Some(slots) = self.slots.get_mut(&variant) else { return 0 };
        let total = slots.received + u64::from(slots.size.saturating_sub(slots.busy));
        if open && total > slots.granted {
            slots.granted = total;
        }
        slots.granted
    }

    fn renew(&mut self, out: &mut Vec<Output>) {
        if !self.connected {
            return;
        }
        for variant in self.slots.keys().copied().collect::<Vec<_>>() {
            let before = self.slots[&variant].granted;
            let total = self.raise(variant);
            if total != before {
                out.push(Output::Grant { variant, total });
            }
        }
    }

    fn assign(&mut self, now: Timestamp, attempt: Attempt, running: Running, out: &mut Vec<Output>) {
        let code = match self.slots.get_mut(&running.variant) {
            None => Some(FailCode::UnknownVariant),
            Some(slots) => {
                slots.received += 1;
                let over = slots.received > slots.granted || slots.busy >= slots.size;
                match (over, self.draining) {
                    _ if self.running.contains_key(&attempt) => Some(FailCode::Invalid),
                    (true, _) => Some(FailCode::Overloaded),
                    (_, true) => Some(FailCode::Draining),
                    (false, false) => None,
                }
            }
        };
        if let Some(code) = code {
            let grant = self.raise(running.variant);
            return out.push(Output::Refuse { attempt, code, grant });
        }
        if let Some(slots) = self.slots.get_mut(&running.variant) {
            slots.busy += 1;
            assert!(slots.busy <= slots.size, "a node over its slots");
        }
        self.running.insert(attempt, Running { began: now, ..running });
        out.push(Output::Start { attempt });
    }

    fn finish(&mut self, now: Timestamp, attempt: Attempt, work: Work, out: &mut Vec<Output>) {
        let Some(running) = self.running.remove(&attempt) else { return };
        self.release(running.variant);
        let commitment = self.commitment(now, attempt, running, work);
        // Nothing was added: there is nothing to be paid for, and nothing to sign.
        let empty = commitment.added_tokens() == TokenCount(0) && commitment.finish == Finish::Cancelled;
        if !empty {
            self.finished.push(commitment.clone());
            self.batch_due.get_or_insert(now.after(BATCH_WAIT));
        }
        let grant = self.raise(running.variant);
        if self.connected && !running.abandoned {
            out.push(Output::Done { commitment, grant });
        } else {
            self.renew_one(running.variant, out);
        }
        if self.finished.len() >= BATCH_MAX {
            self.flush(out);
        }
    }

    fn renew_one(&self, variant: VariantId, out: &mut Vec<Output>) {
        if let (true, Some(slots)) = (self.connected, self.slots.get(&variant)) {
            out.push(Output::Grant { variant, total: slots.granted });
        }
    }

    fn commitment(&self, now: Timestamp, attempt: Attempt, running: Running, work: Work) -> Commitment {
        Commitment {
            network: self.setup.network,
            gateway: self.setup.gateway,
            node: self.setup.node,
            operator: self.setup.operator,
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

    fn fail(&mut self, attempt: Attempt, code: FailCode, out: &mut Vec<Output>) {
        let Some(running) = self.running.remove(&attempt) else { return };
        self.release(running.variant);
        let grant = self.raise(running.variant);
        if self.connected && !running.abandoned {
            out.push(Output::Refuse { attempt, code, grant });
        } else {
            self.renew_one(running.variant, out);
        }
    }

    fn release(&mut self, variant: VariantId) {
        if let Some(slots) = self.slots.get_mut(&variant) {
            slots.busy = slots.busy.saturating_sub(1);
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
        let was_full = self.outbox.len() >= UNACKED_MAX;
        if self.outbox.remove(&sequence).is_some() {
            out.push(Output::Forget { sequence });
        }
        if was_full {
            self.renew(out);
        }
    }

    fn ask_audit(&mut self, audit: AuditId, variant: VariantId, out: &mut Vec<Output>) {
        if !self.slots.contains_key(&variant) {
            return out.push(Output::RefuseAudit { audit });
        }
        // Asked again while it waits for the engine: one verdict answers both.
        if self.audits.insert(audit) {
            out.push(Output::Audit { audit });
        }
    }

    fn drained(&self) -> bool {
        self.draining && self.running.is_empty() && self.finished.is_empty() && self.outbox.is_empty()
    }
}

impl Machine for Node {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Timestamp, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Connected { next_batch, epoch } => self.connect(next_batch, epoch, out),
            Input::Disconnected => self.disconnect(out),
            Input::Assigned { attempt, variant, epoch, resumed_from } => {
                let running = Running { variant, epoch, resumed_from, began: now, first_token: None, abandoned: false };
                self.assign(now, attempt, running, out);
            }
            Input::Cancelled { attempt } => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.abandoned = true;
                    out.push(Output::Stop { attempt });
                }
            }
            Input::FirstToken { attempt } => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.first_token.get_or_insert(now);
                }
            }
            Input::Finished { attempt, work } => self.finish(now, attempt, work, out),
            Input::EngineFailed { attempt, code } => self.fail(attempt, code, out),
            Input::AuditAsked { audit, variant } => self.ask_audit(audit, variant, out),
            Input::AuditDone { audit } => {
                self.audits.remove(&audit);
            }
            Input::Stored { sequence } => self.stored(sequence, out),
            Input::Acked { sequence } => self.ack(sequence, out),
            Input::EpochBegan { epoch } => self.epoch = self.epoch.max(epoch),
            Input::Drain => self.draining = true,
            Input::Tick => {}
        }
        let due = self.batch_due.is_some_and(|due| due <= now) || (self.draining && self.running.is_empty());
        if due && !self.finished.is_empty() {
            self.flush(out);
        }
        if self.drained() {
            out.push(Output::Drained);
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.batch_due
    }
}
