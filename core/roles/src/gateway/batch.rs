//! Batches at the gateway: what they are charged, and when they are acknowledged.

use super::event::{Entry, Match, Output};
use super::task::{State, Task};
use super::{Appended, Gateway, limits};
use crate::order::Order;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::batch::{SignedBatch, VerifiedBatch};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, MicroCredits, NodeId, TaskId, Timestamp, TokenCount, merkle};
use ol_sched::Reason;

/// A batch that waits until the responses of its tasks are out, so that its receipts can name them.
#[derive(Debug)]
pub(super) struct Waiting {
    batch: SignedBatch,
    orders: Vec<Order>,
    matches: Vec<Match>,
    until: Timestamp,
}

impl Gateway {
    pub(super) fn batch(
        &mut self,
        now: Timestamp,
        batch: VerifiedBatch,
        orders: &[Vec<u8>],
        mut matches: Vec<Match>,
        out: &mut Vec<Output>,
    ) {
        let header = &batch.batch().header;
        let (node, sequence) = (header.node, header.sequence);
        let expected = self.next_batch.get(&node).copied().unwrap_or(0);
        if sequence < expected {
            // Sent again because the acknowledgement was lost, or is still on its way.
            if self.is_durable(node, sequence) {
                out.push(Output::Ack { node, sequence });
            }
            return;
        }
        let opened = self.open_orders(batch.batch(), orders).filter(|_| self.answered_so(batch.batch()));
        let (Some(orders), true) = (opened, sequence == expected && header.network == self.network) else {
            self.counters.misbehaved += 1;
            return out.push(Output::Close {
                node,
                why: "a batch out of sequence, of other answers, or with orders that are not ours",
            });
        };
        self.next_batch.insert(node, sequence + 1);
        let (until, batch) = (now.after(limits::RESPONSE_WAIT), batch.into_batch());
        matches.resize(batch.commitments.len(), Match::Unknown);
        if batch.commitments.iter().zip(&matches).any(|(c, held)| self.broke_its_word(c, *held)) {
            self.counters.wrong_counts += 1;
            self.blame(now, node, Reason::Wrong);
        }
        self.waiting.push_back(Waiting { batch, orders, matches, until });
        self.take_waiting(now, out);
    }

    fn open_orders(&self, batch: &SignedBatch, orders: &[Vec<u8>]) -> Option<Vec<Order>> {
        if orders.len() != batch.commitments.len() || batch.header.gateway != self.setup.gateway {
            return None;
        }
        orders.iter().zip(&batch.commitments).map(|(sealed, c)| self.open_order(sealed, c)).collect()
    }

    fn open_order(&self, sealed: &[u8], commitment: &Commitment) -> Option<Order> {
        let order = Order::open(sealed, &self.setup.master)?;
        let same = (order.task, order.attempt, order.node, order.variant, order.epoch)
            == (commitment.task, commitment.attempt, commitment.node, commitment.variant, commitment.epoch);
        same.then_some(order)
    }

    // A node signs what it answered: a commitment to something else could never be audited.
    fn answered_so(&self, batch: &SignedBatch) -> bool {
        batch.commitments.iter().all(|commitment| {
            let Some(task) = self.tasks.get(&commitment.task) else { return true };
            match task.state {
                State::Ended { answer: Some(answer), .. } => {
                    !task.is_last(commitment.attempt) || answer == commitment.leaf()
                }
                State::Ended { answer: None, .. } | State::Queued | State::Running => true,
            }
        })
    }

    // Whether a node commits to something else than it sent, of an attempt that broke off.
    fn broke_its_word(&self, commitment: &Commitment, held: Match) -> bool {
        let Some(task) = self.tasks.get(&commitment.task) else { return false };
        let delivered = task.delivered_by(commitment.attempt).min(commitment.output_tokens);
        match held {
            _ if task.answered_with(commitment.attempt) => false,
            Match::Unknown => false,
            Match::Until(count) => count < delivered,
            Match::Other => true,
        }
    }

    /// Puts the batches in the log whose responses are all out, in the order in which they came.
    pub(super) fn take_waiting(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        while let Some(first) = self.waiting.front() {
            let ready = first.until <= now || first.batch.commitments.iter().all(|c| self.is_answered(c));
            if !ready {
                break;
            }
            if let Some(waiting) = self.waiting.pop_front() {
                self.log_batch(waiting, out);
            }
        }
    }

    pub(super) fn is_waiting(&self, node: NodeId, sequence: u64) -> bool {
        self.waiting.iter().any(|w| (w.batch.header.node, w.batch.header.sequence) == (node, sequence))
    }

    fn is_answered(&self, commitment: &Commitment) -> bool {
        self.tasks.get(&commitment.task).is_none_or(|task| task.response.is_some() || task.client_gone)
    }

    fn log_batch(&mut self, waiting: Waiting, out: &mut Vec<Output>) {
        let SignedBatch { header, commitments, signature } = waiting.batch;
        let known = waiting.orders.iter().zip(&waiting.matches);
        let mut receipts: Vec<Receipt> = Vec::with_capacity(commitments.len());
        for (commitment, (order, held)) in commitments.into_iter().zip(known) {
            let receipt = self.receipt(commitment, order, *held, &receipts);
            receipts.push(receipt);
        }
        let leaves: Vec<Digest> = receipts.iter().map(|r| merkle::leaf_hash(&r.to_bytes())).collect();
        let receipts_root = merkle::root(&leaves);
        self.settler.batch(header.root, &receipts);
        self.counters.receipts += receipts.len() as u64;
        let drawn = self.settler.drawn(&self.draw_secret(), &receipts);
        let mut settled = self.forget_settled(&receipts);
        settled.retain(|task| drawn.iter().all(|subject| subject.task != *task));
        let appended = Appended::Batch { node: header.node, sequence: header.sequence, drawn, settled };
        self.append(vec![Entry::Batch { header, signature, receipts, receipts_root }], appended, out);
    }

    fn receipt(&mut self, commitment: Commitment, order: &Order, held: Match, before: &[Receipt]) -> Receipt {
        let id = AttemptId { task: commitment.task, attempt: commitment.attempt };
        let task = self.tasks.get(&id.task).map(Box::as_ref);
        let is_settled = task.is_none() && order.boot == self.setup.boot;
        let (prompt_tokens, output_tokens) = match is_settled {
            // What was not handed in as long as the task was remembered is nobody's: its tenant has the money back.
            true => (TokenCount(0), TokenCount(0)),
            false => self.not_twice(task, &commitment, charged(task, &commitment, order, held), before),
        };
        let (price, with_audit) = task.map_or((order.price, false), |task| task.price_of(id.attempt));
        // What is charged to nobody else.
        let read = match (prompt_tokens, output_tokens) {
            (TokenCount(0), TokenCount(0)) => task.and_then(|task| borne(task, &commitment, order)),
            _ => None,
        };
        // Who was told that it is paid signs what added nothing, and may come when this gateway has forgotten why: no tenant asked for it.
        let is_nothing = commitment.added_tokens() == TokenCount(0)
            && commitment.finish == Finish::Cancelled
            && (prompt_tokens, output_tokens) == (TokenCount(0), TokenCount(0));
        let is_own = read.is_some() || is_nothing;
        let tenant = if is_own { self.settler.gateway_tenant() } else { order.tenant };
        let prompt_tokens = read.unwrap_or(prompt_tokens);
        let last = task.is_some_and(|task| task.is_last(id.attempt));
        let nothing = digest(Domain::Response, &[]);
        let response = task.filter(|_| last).and_then(|task| task.response).unwrap_or(nothing);
        let charge = Charge {
            tenant,
            request: order.request,
            response,
            prompt_tokens,
            output_tokens,
            price,
            amount: price.charge(prompt_tokens, output_tokens).unwrap_or(MicroCredits::ZERO),
            public: order.public,
            with_audit,
            region: order.region,
        };
        match read {
            Some(_) => {
                self.counters.borne += 1;
                self.settle_reservation(id, MicroCredits::ZERO, order);
            }
            None => self.settle_reservation(id, charge.amount, order),
        }
        Receipt { commitment, charge }
    }

    // Less what a task's other receipts charge, of a task that this gateway forgot when it was killed: those in the log, and
    // those `before` it in its batch. Each token is charged once. A node can't know whether its answer's end arrived before its
    // link broke, or another node was given the rest. Of receipts that are settled nobody remembers which tokens they are for.
    fn not_twice(
        &self,
        task: Option<&Task>,
        commitment: &Commitment,
        (prompt, output): (TokenCount, TokenCount),
        before: &[Receipt],
    ) -> (TokenCount, TokenCount) {
        if task.is_some() {
            return (prompt, output);
        }
        if self.settler.ledger().has_charged(commitment.task) {
            return (TokenCount(0), TokenCount(0));
        }
        let in_batch = || before.iter().filter(|it| it.commitment.task == commitment.task);
        let all = || self.settler.receipts_of(commitment.task).chain(in_batch());
        let of_tenant = |it: &&Receipt| it.charge.tenant != self.settler.gateway_tenant();
        let others = || all().filter(of_tenant).filter(|it| it.commitment.attempt != commitment.attempt);
        // One that was begun beside this one, and lost, ends nothing.
        let is_charged = |it: &&Receipt| it.charge.prompt_tokens.0 > 0 || it.charge.output_tokens.0 > 0;
        let later = others().filter(|it| it.commitment.attempt > commitment.attempt).filter(is_charged);
        let until = later.map(|it| it.commitment.resumed_from.0).min();
        let earlier = others().filter(|it| it.commitment.attempt < commitment.attempt);
        let from = earlier.map(|it| it.commitment.resumed_from.0.saturating_add(it.charge.output_tokens.0)).max();
        let begins = commitment.resumed_from.0.max(from.unwrap_or(0));
        let ends = commitment.resumed_from.0.saturating_add(output.0).min(until.unwrap_or(u32::MAX));
        let has_prompt = others().any(|it| it.charge.prompt_tokens > TokenCount(0));
        let prompt = if until.is_some() || has_prompt { TokenCount(0) } else { prompt };
        (prompt, TokenCount(ends.saturating_sub(begins)))
    }

    // Tasks whose only attempt is in the log are done with. One that was continued elsewhere is remembered: the node of an
    // earlier attempt may come back, and is paid for what was delivered, not for what it claims.
    fn forget_settled(&mut self, receipts: &[Receipt]) -> Vec<TaskId> {
        let only = |task: &Task| matches!(task.state, State::Ended { .. }) && task.attempts.all().len() == 1;
        let mut settled: Vec<TaskId> = receipts.iter().map(|receipt| receipt.commitment.task).collect();
        settled.retain(|id| self.tasks.get(id).map(Box::as_ref).is_some_and(only));
        for id in &settled {
            self.drop_task(*id);
        }
        settled
    }

    // What the receipt charges beyond what its task has spent is spent now: all of it if this gateway forgot the task. An
    // attempt that is in the log twice is charged once; if settlement refuses a receipt, the next close gives this back.
    fn settle_reservation(&mut self, id: AttemptId, amount: MicroCredits, order: &Order) {
        if self.settler.commitment(&id).is_some() || self.charged.contains_key(&id) {
            return;
        }
        let more = match self.tasks.get_mut(&id.task) {
            Some(task) => {
                let before = task.settled;
                task.settled = MicroCredits(before.0.saturating_add(amount.0));
                match task.state {
                    State::Ended { charge, .. } => charge.max(task.settled).0 - charge.max(before).0,
                    State::Queued | State::Running => 0,
                }
            }
            None => amount.0,
        };
        self.spend(id.task, order.tenant, MicroCredits(more));
        self.charged.insert(id, (order.tenant, amount));
    }

    pub(super) fn responded(&mut self, now: Timestamp, task: TaskId, response: Digest, out: &mut Vec<Output>) {
        if let Some(task) = self.tasks.get_mut(&task) {
            task.response = Some(response);
        }
        self.take_waiting(now, out);
    }
}

// Prompt tokens that the gateway pays itself, of an attempt that it began beside another and that lost.
fn borne(task: &Task, commitment: &Commitment, order: &Order) -> Option<TokenCount> {
    let read = task.said.get(&commitment.attempt)?.read.min(commitment.prompt_tokens).min(order.prompt_tokens_max);
    Some(read).filter(|read| *read > TokenCount(0))
}

// Tokens that an attempt is charged: what it added and the client was sent, and the prompt with the attempt that ended
// the task, or when the client went away. What a node made beyond that is its own loss, at most one frame's worth, and so
// is what it doesn't commit to as it sent it. A whole answer was compared when it ended.
fn charged(task: Option<&Task>, commitment: &Commitment, order: &Order, held: Match) -> (TokenCount, TokenCount) {
    // More than was asked for is no attempt at it, and could not be audited.
    if commitment.output_tokens > order.output_tokens_max
        && task.is_some_and(|task| !task.answered_with(commitment.attempt))
    {
        return (TokenCount(0), TokenCount(0));
    }
    let delivered_to = match (task, held) {
        (Some(task), _) if task.answered_with(commitment.attempt) => task.delivered_by(commitment.attempt),
        (Some(task), Match::Until(count)) => task.delivered_by(commitment.attempt).min(count),
        (Some(_), Match::Unknown) => TokenCount(0),
        (_, Match::Other) => return (TokenCount(0), TokenCount(0)),
        // A gateway that was killed can't tell what it had delivered of an attempt that broke off: what another one repeated
        // would be charged twice.
        (None, _) if commitment.finish == Finish::Cancelled => return (TokenCount(0), TokenCount(0)),
        (None, Match::Unknown | Match::Until(_)) => order.output_tokens_max,
    };
    let end = commitment.output_tokens.0.min(delivered_to.0).min(order.output_tokens_max.0);
    let output = end.saturating_sub(order.resumed_from.0.max(commitment.resumed_from.0));
    let ended = match task {
        Some(task) => task.ended_with(commitment.attempt),
        None => true,
    };
    // Not more than the node said when it began.
    let said = task.and_then(|task| task.said.get(&commitment.attempt));
    let said = said.map_or(order.prompt_tokens_max, |said| said.prompt);
    let prompt = if ended { commitment.prompt_tokens.0.min(order.prompt_tokens_max.0).min(said.0) } else { 0 };
    (TokenCount(prompt), TokenCount(output))
}
