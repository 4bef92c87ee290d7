//! A task at the gateway: from its submission until the batch with its last attempt is in the log.

use super::event::{Finished, Output, Refusal, Submission};
use super::{Gateway, limits};
use crate::node::FailCode;
use crate::order::Order;
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, Epoch, MicroCredits, Micros, NodeId, Price, TaskId, Timestamp, TokenCount};
use ol_sched::attempt::ATTEMPTS_MAX;
use ol_sched::{Accepted, Ask, Attempts, Entry, Gate, Limits, Overdue, Placement, Reason};
use ol_trust::Evidence;

/// A task as the gateway knows it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) submission: Submission,
    pub(super) attempts: Attempts,
    pub(super) state: State,
    pub(super) prompt_tokens: Option<TokenCount>,
    // How far each attempt's delivered part goes, by attempt number.
    pub(super) ends: Vec<TokenCount>,
    pub(super) response: Option<Digest>,
    pub(super) client_gone: bool,
    // The price with an audit in it, if there may have to be one.
    pub(super) audited_price: Option<Price>,
    // Whether its answer is kept back until its audit passes, which its tenant pays.
    pub(super) waits: bool,
    // What its receipts in the log charge.
    pub(super) settled: MicroCredits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Running(NodeId, u8),
    // Kept until its receipts are in the log, at most until then.
    Ended { forget_at: Timestamp, charge: MicroCredits, answer: Option<Digest> },
}

impl Task {
    pub(super) fn running(&self, node: NodeId, attempt: AttemptId) -> bool {
        self.state == State::Running(node, attempt.attempt)
    }

    /// Whether an attempt is the one that ended the task, with a whole answer or because the client went away: the prompt
    /// is charged with it, and with no other.
    pub(super) fn ended_with(&self, attempt: u8) -> bool {
        self.answered_with(attempt) || (self.client_gone && self.is_last(attempt))
    }

    /// Whether an attempt made the answer whole, and was compared with what was relayed then.
    pub(super) fn answered_with(&self, attempt: u8) -> bool {
        matches!(self.state, State::Ended { answer: Some(_), .. }) && self.is_last(attempt)
    }

    /// Whether there is an end of an attempt and of none after it.
    pub(super) fn is_last(&self, attempt: u8) -> bool {
        self.ends.len() == usize::from(attempt) + 1
    }

    /// How far the output went with an attempt that ended.
    pub(super) fn delivered_by(&self, attempt: u8) -> TokenCount {
        self.ends.get(usize::from(attempt)).copied().unwrap_or_default()
    }

    /// What an attempt is charged at, and whether its tenant pays for an audit of it: only of the one that made the answer.
    pub(super) fn price_of(&self, attempt: u8) -> (Price, bool) {
        let audited = self.audited_price.filter(|_| self.waits && self.answered_with(attempt));
        (audited.unwrap_or(self.submission.price), audited.is_some())
    }

    fn waiting(&self, cost: TokenCount) -> Entry {
        let Submission { task, tenant, variant, .. } = self.submission;
        Entry { task, tenant, variant, cost, deadline: self.attempts.deadline() }
    }
}

impl Gateway {
    pub(super) fn submit(&mut self, now: Timestamp, submission: Submission, out: &mut Vec<Output>) {
        let (task, tenant) = (submission.task, submission.tenant);
        let audited_price = self.audited_price(&submission);
        let submission = match self.admit(&submission) {
            Ok(()) => submission,
            Err(refusal) => return self.turn_down(now, submission, refusal, out),
        };
        self.claim_ahead(now, tenant, out);
        let total = submission.deadline.min(self.setup.limits.total);
        let limits = Limits { total, output_max: submission.output_tokens_max, ..self.setup.limits };
        let entry = Task {
            attempts: Attempts::new(limits, now),
            state: State::Queued,
            prompt_tokens: None,
            ends: Vec::new(),
            response: None,
            client_gone: false,
            audited_price,
            waits: false,
            settled: MicroCredits::ZERO,
            submission,
        };
        self.tasks.insert(task, entry);
        self.enqueue(now, task, out);
    }

    // A budget that is empty here may be filled by the next part of what the tenant bought.
    fn turn_down(&mut self, now: Timestamp, submission: Submission, refusal: Refusal, out: &mut Vec<Output>) {
        let task = submission.task;
        if let Refusal::Budget(Gate::BudgetEmpty { available, needed }) = refusal {
            let missing = MicroCredits(needed.0.saturating_sub(available.0));
            if self.await_funds(now, submission, missing, out).is_none() {
                return;
            }
        }
        self.counters.refused += 1;
        out.push(Output::Refuse { task, refusal });
    }

    fn admit(&mut self, submission: &Submission) -> Result<(), Refusal> {
        let &Submission { task, tenant, variant, prompt_tokens_max, output_tokens_max, price, .. } = submission;
        if self.tasks.contains_key(&task) {
            return Err(Refusal::Invalid);
        }
        if self.offers.supply(variant).node_count == 0 {
            return Err(Refusal::Impossible(vec![Gate::NoNodeHasVariant]));
        }
        self.can_be_trusted(submission)?;
        let price = self.audited_price(submission).unwrap_or(price);
        let worst = price.charge(prompt_tokens_max, output_tokens_max).ok_or(Refusal::Invalid)?;
        self.collect(tenant);
        self.budget
            .reserve(task, tenant, worst)
            .map_err(|empty| Refusal::Budget(Gate::BudgetEmpty { available: empty.available, needed: empty.needed }))
    }

    // Straight to a node where one is free and nobody waits before it, else into the queue.
    fn enqueue(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.state = State::Queued;
        let Submission { variant, prompt_tokens_max, output_tokens_max, .. } = task.submission;
        let cost = TokenCount(prompt_tokens_max.0.saturating_add(output_tokens_max.0));
        match self.queue.push(task.waiting(cost)) {
            Ok(()) => self.dispatch(now, variant, out),
            Err(gate) => self.give_up(now, id, Refusal::Busy(vec![gate]), out),
        }
    }

    /// Hands waiting tasks of a variant to nodes for as long as there are slots.
    pub(super) fn dispatch(&mut self, now: Timestamp, variant: ol_protocol::VariantId, out: &mut Vec<Output>) {
        let mut passed_over = Vec::new();
        while self.offers.supply(variant).ready_count > 0 {
            let Some(entry) = self.queue.pop_for(variant) else { break };
            if !self.assign(now, entry.task, out) {
                passed_over.push(entry.task);
            }
            if passed_over.len() >= limits::PASSED_OVER_MAX {
                break;
            }
        }
        for id in passed_over {
            self.put_back(now, id, out);
        }
    }

    // A task that no free node may take waits on, without paying for its turn again.
    fn put_back(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get(&id) else { return };
        if let Err(gate) = self.queue.push(task.waiting(TokenCount(0))) {
            self.give_up(now, id, Refusal::Busy(vec![gate]), out);
        }
    }

    fn assign(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) -> bool {
        let unfit = self.unfit(id);
        let Some(task) = self.tasks.get_mut(&id) else { return true };
        let Submission { variant, prompt_tokens_max, output_tokens_max, .. } = task.submission;
        let delivered = task.attempts.delivered();
        let excluded: Vec<NodeId> = task.attempts.tried().iter().copied().chain(unfit).collect();
        let ask = Ask {
            task: id,
            variant,
            prompt: TokenCount(prompt_tokens_max.0.saturating_add(delivered.0)),
            output: TokenCount(output_tokens_max.0.saturating_sub(delivered.0)),
            deadline: task.attempts.deadline(),
            excluded: &excluded,
        };
        let placement =
            Placement { offers: &self.offers, rates: &self.rates, breaker: &self.breaker, seed: self.setup.seed };
        let Ok(node) = placement.pick(now, &ask) else { return false };
        if self.offers.spend(node, variant).is_none() {
            return false;
        }
        let Ok(attempt) = task.attempts.begin(node, now) else { return false };
        task.state = State::Running(node, attempt);
        let attempt = AttemptId { task: id, attempt };
        let (epoch, boot) = (self.settler.epoch(), self.setup.boot);
        let order = order(&task.submission, node, attempt, epoch, boot, delivered).seal(&self.setup.master);
        self.counters.assigned += 1;
        out.push(Output::Assign {
            node,
            attempt,
            variant,
            epoch,
            resumed_from: delivered,
            order,
            deadline: task.attempts.deadline().since(now),
        });
        true
    }

    pub(super) fn started(
        &mut self,
        now: Timestamp,
        node: NodeId,
        attempt: AttemptId,
        prompt: TokenCount,
        out: &mut Vec<Output>,
    ) {
        let Some(task) = self.tasks.get_mut(&attempt.task).filter(|t| t.running(node, attempt)) else { return };
        if prompt > task.submission.prompt_tokens_max {
            self.counters.wrong_counts += 1;
            return self.fail_over(now, node, attempt, Reason::Wrong, out);
        }
        task.prompt_tokens = Some(prompt);
    }

    pub(super) fn progress(
        &mut self,
        now: Timestamp,
        node: NodeId,
        attempt: AttemptId,
        count: TokenCount,
        added: TokenCount,
        out: &mut Vec<Output>,
    ) {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        match task.attempts.accept(node, attempt.attempt, count) {
            // The driver counted the ids of this frame: another number than the node says is a wrong count.
            Accepted::New(new) if new == added.0 => {
                task.attempts.progress(now, count);
                out.push(Output::Relay { attempt, count });
            }
            Accepted::Stale => self.counters.late += 1,
            Accepted::New(_) | Accepted::Wrong => {
                self.counters.wrong_counts += 1;
                self.fail_over(now, node, attempt, Reason::Wrong, out);
            }
        }
    }

    pub(super) fn done(
        &mut self,
        now: Timestamp,
        node: NodeId,
        commitment: Commitment,
        relayed: Digest,
        out: &mut Vec<Output>,
    ) {
        let attempt = AttemptId { task: commitment.task, attempt: commitment.attempt };
        let variant = commitment.variant;
        self.measure(node, &commitment);
        let Some(task) = self.tasks.get_mut(&attempt.task).filter(|t| t.running(node, attempt)) else {
            // A late answer of an abandoned attempt is not an error: its batch will be paid for what was delivered.
            self.counters.late += 1;
            return self.dispatch(now, variant, out);
        };
        if !fits(task, &commitment, relayed) {
            self.counters.wrong_counts += 1;
            self.fail_over(now, node, attempt, Reason::Wrong, out);
        } else if commitment.finish == Finish::Cancelled {
            self.fail_over(now, node, attempt, Reason::NodeError, out);
        } else {
            self.breaker.succeeded(node, now);
            self.finish(now, node, &commitment, out);
        }
        self.dispatch(now, variant, out);
    }

    // Only of what the node was given: else it could fill the memory here with variants that don't exist.
    fn measure(&mut self, node: NodeId, commitment: &Commitment) {
        let variant = commitment.variant;
        let given = |task: &Task| {
            let attempt = task.attempts.all().get(usize::from(commitment.attempt));
            task.submission.variant == variant && attempt.is_some_and(|attempt| attempt.node == node)
        };
        if !self.tasks.get(&commitment.task).is_some_and(given) {
            return;
        }
        let prefilled = commitment.prompt_tokens.0.saturating_add(commitment.resumed_from.0);
        self.rates.prefilled(node, variant, TokenCount(prefilled), commitment.first_token);
        let decoded = commitment.added_tokens().0.saturating_sub(1);
        let took = Micros(commitment.total.0.saturating_sub(commitment.first_token.0));
        self.rates.decoded(node, variant, TokenCount(decoded), took);
    }

    fn finish(&mut self, now: Timestamp, node: NodeId, commitment: &Commitment, out: &mut Vec<Output>) {
        let id = commitment.task;
        let standing = self.settler.standing(node, commitment.variant);
        let floor = self.tasks.get(&id).and_then(|task| task.submission.floor);
        let waits = floor.is_some_and(|floor| !self.reaches(node, commitment.variant, &floor, Evidence::Pending));
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.waits = waits;
        let price = task.audited_price.filter(|_| waits).unwrap_or(task.submission.price);
        if waits {
            let attempt = AttemptId { task: id, attempt: commitment.attempt };
            self.awaited.insert(attempt, task.attempts.deadline());
        }
        self.offers.finish(node, commitment.variant);
        task.ends.resize(usize::from(commitment.attempt) + 1, commitment.output_tokens);
        let (prompt_tokens, output_tokens) = (commitment.prompt_tokens, commitment.output_tokens);
        let charge = price.charge(prompt_tokens, output_tokens).unwrap_or_default();
        let attempts = commitment.attempt + 1;
        self.keep(now, id, charge, Some(commitment.leaf()));
        self.counters.finished += 1;
        let finished = Finished {
            node,
            attempts,
            finish: commitment.finish,
            prompt_tokens,
            output_tokens,
            charge,
            price,
            waits,
            standing,
            is_calibrated: self.settler.is_calibrated(commitment.variant),
        };
        out.push(Output::Finish { task: id, finished });
        self.own_after(id, charge, out);
    }

    pub(super) fn failed(
        &mut self,
        now: Timestamp,
        node: NodeId,
        attempt: AttemptId,
        code: FailCode,
        out: &mut Vec<Output>,
    ) {
        let Some(task) = self.tasks.get(&attempt.task).filter(|t| t.running(node, attempt)) else { return };
        let variant = task.submission.variant;
        let has_delivered =
            task.attempts.delivered() > task.attempts.all().last().map_or(TokenCount(0), |a| a.resumed_from);
        match code {
            // A client's mistake says nothing about the node.
            FailCode::Invalid => self.give_up(now, attempt.task, Refusal::Invalid, out),
            FailCode::Draining | FailCode::Overloaded if !has_delivered => {
                self.retry(now, node, attempt, Reason::Refused, out);
            }
            // Who began an answer and then has no room for it broke it off.
            FailCode::Draining | FailCode::Overloaded | FailCode::UnknownVariant | FailCode::Internal => {
                self.retry(now, node, attempt, Reason::NodeError, out);
            }
        }
        self.dispatch(now, variant, out);
    }

    /// Takes an attempt away from a node that broke, and gives the task to another.
    pub(super) fn fail_over(
        &mut self,
        now: Timestamp,
        node: NodeId,
        attempt: AttemptId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        out.push(Output::Cancel { node, attempt });
        self.retry(now, node, attempt, reason, out);
    }

    fn retry(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId, reason: Reason, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&attempt.task).filter(|t| t.running(node, attempt)) else { return };
        self.breaker.failed(node, reason, now);
        self.offers.finish(node, task.submission.variant);
        let delivered = task.attempts.delivered();
        task.ends.resize(usize::from(attempt.attempt) + 1, delivered);
        task.attempts.fail(reason);
        self.counters.failed_over += 1;
        if usize::from(ATTEMPTS_MAX) > task.attempts.all().len() {
            return self.enqueue(now, attempt.task, out);
        }
        let refusal = Refusal::Attempts { attempts: attempt.attempt + 1, delivered };
        self.give_up(now, attempt.task, refusal, out);
    }

    /// Ends a task without a (whole) answer. What was delivered stays charged.
    pub(super) fn give_up(&mut self, now: Timestamp, id: TaskId, refusal: Refusal, out: &mut Vec<Output>) {
        self.counters.refused += 1;
        self.end(now, id, out);
        out.push(Output::Refuse { task: id, refusal });
    }

    pub(super) fn client_gone(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            self.counters.client_gone += u64::from(self.funds.remove(id));
            return;
        };
        if matches!(task.state, State::Ended { .. }) {
            return;
        }
        task.client_gone = true;
        self.counters.client_gone += 1;
        self.end(now, id, out);
    }

    fn end(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let (delivered, submission) = (task.attempts.delivered(), &task.submission);
        match task.state {
            State::Queued => {
                self.queue.remove(id);
            }
            State::Running(node, attempt) => {
                task.ends.resize(usize::from(attempt) + 1, delivered);
                self.offers.finish(node, submission.variant);
                out.push(Output::Cancel { node, attempt: AttemptId { task: id, attempt } });
            }
            State::Ended { .. } => return,
        }
        let prompt = if task.client_gone { task.prompt_tokens.unwrap_or_default() } else { TokenCount(0) };
        let charge = submission.price.charge(prompt, delivered).unwrap_or_default();
        self.keep(now, id, charge, None);
    }

    // Receipts of earlier attempts may be in the log already, each rounded up by itself.
    fn keep(&mut self, now: Timestamp, id: TaskId, charge: MicroCredits, answer: Option<Digest>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.state = State::Ended { forget_at: now.after(limits::ENDED_KEPT), charge, answer };
        self.budget.settle(&id, charge.max(task.settled));
    }

    /// Drops a task that ended. What its receipts did not charge goes back to its tenant; says whether there was any.
    pub(super) fn drop_task(&mut self, id: TaskId) -> bool {
        let Some(task) = self.tasks.remove(&id) else { return false };
        let State::Ended { charge, .. } = task.state else { return false };
        let rest = MicroCredits(charge.0.saturating_sub(task.settled.0));
        self.budget.credit(task.submission.tenant, rest);
        rest != MicroCredits::ZERO
    }

    /// Gives up or moves what has waited too long.
    pub(super) fn expire(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        for id in self.queue.expire(now) {
            self.give_up(now, id, Refusal::Deadline, out);
        }
        self.expire_awaited(now, out);
        for task in self.funds.expire(now) {
            self.counters.refused += 1;
            out.push(Output::Refuse { task, refusal: Refusal::Deadline });
        }
        let overdue: Vec<(NodeId, AttemptId, Overdue)> = self
            .tasks
            .iter()
            .filter_map(|(id, task)| match task.state {
                State::Running(node, attempt) => {
                    let why = task.attempts.overdue(now)?;
                    Some((node, AttemptId { task: *id, attempt }, why))
                }
                State::Queued | State::Ended { .. } => None,
            })
            .collect();
        for (node, attempt, why) in overdue {
            match why {
                Overdue::Deadline => self.give_up(now, attempt.task, Refusal::Deadline, out),
                Overdue::FirstToken | Overdue::BetweenTokens => {
                    self.fail_over(now, node, attempt, why.into(), out);
                }
            }
        }
        self.forget(now, out);
    }

    // A task whose last batch never came is neither charged nor paid: its tenant gets the reservation back.
    fn forget(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let old: Vec<TaskId> = self
            .tasks
            .iter()
            .filter_map(|(id, task)| match task.state {
                State::Ended { forget_at, .. } if forget_at <= now => Some(*id),
                State::Queued | State::Running(..) | State::Ended { .. } => None,
            })
            .collect();
        for id in old {
            self.counters.unsigned += u64::from(self.drop_task(id));
            out.push(Output::Forget { task: id });
        }
    }
}

fn order(
    submission: &Submission,
    node: NodeId,
    attempt: AttemptId,
    epoch: Epoch,
    boot: u64,
    resumed_from: TokenCount,
) -> Order {
    Order {
        epoch,
        boot,
        task: attempt.task,
        attempt: attempt.attempt,
        node,
        variant: submission.variant,
        tenant: submission.tenant,
        request: submission.request,
        public: submission.public,
        price: submission.price,
        prompt_tokens_max: submission.prompt_tokens_max,
        output_tokens_max: submission.output_tokens_max,
        resumed_from,
    }
}

// Whether both ends counted the same, and the node commits to what it sent.
fn fits(task: &Task, commitment: &Commitment, relayed: Digest) -> bool {
    let submission = &task.submission;
    commitment.variant == submission.variant
        && commitment.output_tokens == task.attempts.delivered()
        && task.attempts.all().last().is_some_and(|attempt| attempt.resumed_from == commitment.resumed_from)
        && commitment.prompt_tokens <= submission.prompt_tokens_max
        && commitment.output_tokens <= submission.output_tokens_max
        && task.prompt_tokens.is_none_or(|said| said == commitment.prompt_tokens)
        && commitment.output == relayed
}
