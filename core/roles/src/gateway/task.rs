//! A task at the gateway: from its submission until the batch with its last attempt is in the log.

use super::event::{Finished, Output, Refusal, Submission};
use super::why::{Because, Ending, Given};
use super::{Gateway, limits};
use crate::node::FailCode;
use crate::order::Order;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::record::AttemptId;
use ol_protocol::{
    Digest, Epoch, MicroCredits, Micros, NodeId, Price, Region, TaskId, Timestamp, TokenCount, VariantId,
};
use ol_sched::flow::Share;
use ol_sched::{Accepted, Ask, Attempts, Entry, Expected, Gate, Picked, Placement, Reason, Rule, Tier, Trial, Want};
use ol_trust::Evidence;

/// A task as the gateway knows it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) submission: Submission,
    pub(super) attempts: Attempts,
    pub(super) state: State,
    // What each attempt's node said of the prompt when it began.
    pub(super) said: BTreeMap<u8, Begun>,
    // What each attempt adds to what runs of its variant, and where, by attempt number, as long as it runs.
    pub(super) shares: Vec<Option<(Share, Option<Region>)>>,
    // When its limits are looked at next.
    pub(super) alarm: Option<Timestamp>,
    pub(super) response: Option<Digest>,
    pub(super) client_gone: bool,
    // The price with an audit in it, if there may have to be one.
    pub(super) audited_price: Option<Price>,
    // Whether its answer is kept back until its audit passes, which its tenant pays.
    pub(super) waits: bool,
    // What its receipts in the log charge.
    pub(super) settled: MicroCredits,
}

/// What a node says of the prompt of an attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Begun {
    /// Its tokens.
    pub(super) prompt: TokenCount,
    /// Those of them that it need not compute.
    pub(super) resident: TokenCount,
    /// Whether they are far fewer than was expected of it. Either it forgot, or it passes for fast: its time shows nothing.
    pub(super) is_odd: bool,
    /// Tokens of it that the node had read when the attempt that it was begun beside won after all: the gateway pays them.
    pub(super) read: TokenCount,
    // Whether the gateway knew that the node has some: what it has from others' requests, as the network's own, is not shown.
    pub(super) is_expected: bool,
}

impl Begun {
    /// What it says.
    pub(super) fn new(prompt: TokenCount, resident: TokenCount) -> Self {
        Self { prompt, resident, is_odd: false, read: TokenCount(0), is_expected: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Running,
    // Kept until its receipts are in the log, at most until then. The attempt that it ended with, which is charged its prompt.
    Ended { forget_at: Timestamp, charge: MicroCredits, by: Option<u8>, answer: Option<Digest> },
}

impl Task {
    pub(super) fn running(&self, node: NodeId, attempt: AttemptId) -> bool {
        self.state == State::Running && self.attempts.runs(node, attempt.attempt)
    }

    /// Whether an attempt is the one that ended the task, with a whole answer or because the client went away: the prompt
    /// is charged with it, and with no other.
    pub(super) fn ended_with(&self, attempt: u8) -> bool {
        self.answered_with(attempt) || (self.client_gone && self.is_last(attempt))
    }

    /// Whether an attempt made the answer whole, and was compared with what was relayed then.
    pub(super) fn answered_with(&self, attempt: u8) -> bool {
        matches!(self.state, State::Ended { answer: Some(_), by: Some(by), .. } if by == attempt)
    }

    /// Whether the task ended with the attempt.
    pub(super) fn is_last(&self, attempt: u8) -> bool {
        matches!(self.state, State::Ended { by: Some(by), .. } if by == attempt)
    }

    /// How far the output went with an attempt that ended.
    pub(super) fn delivered_by(&self, attempt: u8) -> TokenCount {
        let ended = self.attempts.get(attempt).filter(|of| of.failed.is_some() || self.is_last(attempt));
        ended.map_or(TokenCount(0), |of| of.reached)
    }

    /// What an attempt is charged at, and whether its tenant pays for an audit of it: only of the one that made the answer.
    pub(super) fn price_of(&self, attempt: u8) -> (Price, bool) {
        let audited = self.audited_price.filter(|_| self.waits && self.answered_with(attempt));
        (audited.unwrap_or(self.submission.price), audited.is_some())
    }

    /// Tokens of its prompt, or their bound until a node has counted them.
    pub(super) fn prompt(&self) -> TokenCount {
        self.said.values().next().map_or(self.submission.prompt_tokens_max, |said| said.prompt)
    }

    /// Tokens that its next node has to read: the prompt, and what was delivered.
    pub(super) fn to_read(&self) -> TokenCount {
        TokenCount(self.prompt().0.saturating_add(self.attempts.delivered().0))
    }

    fn waiting(&self, cost: TokenCount) -> Entry {
        let Submission { task, tenant, .. } = self.submission;
        Entry { task, tenant, want: self.submission.want(), cost, deadline: self.attempts.deadline() }
    }
}

impl Gateway {
    // Straight to a node where one is free and nobody waits before it, else into the queue.
    pub(super) fn enqueue(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.state = State::Queued;
        let Submission { variant, prompt_tokens_max, output_tokens_max, .. } = task.submission;
        let cost = TokenCount(prompt_tokens_max.0.saturating_add(output_tokens_max.0));
        match self.queue.push(task.waiting(cost)) {
            Ok(()) => self.dispatch(now, variant, out),
            Err(gate) => self.give_up(now, id, Refusal::Busy(vec![gate]), out),
        }
    }

    /// Hands waiting tasks of a variant to nodes for as long as there are slots that are worth taking.
    pub(super) fn dispatch(&mut self, now: Timestamp, variant: VariantId, out: &mut Vec<Output>) {
        let mut passed_over = Vec::new();
        // Lines whose next task waits for a node that is not free yet, or that were looked at often enough; and how often.
        let mut waiting: Vec<Want> = Vec::new();
        let mut looks: BTreeMap<Want, usize> = BTreeMap::new();
        loop {
            let is_passed = |want: &Want| waiting.contains(want) || self.offers.supply(*want).ready_count == 0;
            let Some(want) = self.queue.next_line(variant, is_passed) else { break };
            let Some(id) = self.queue.peek_for(want).map(|entry| entry.task) else { break };
            match self.choose(now, id) {
                Choice::Wait => {
                    if let Some(of) = self.decisions.of(id) {
                        of.passed_by = of.passed_by.saturating_add(1);
                    }
                    waiting.push(want);
                }
                Choice::Node(picked) => {
                    self.queue.pop_for(want);
                    if !self.send(now, id, picked, out) {
                        passed_over.push(id);
                        waiting.push(want);
                    }
                }
                Choice::Nobody(gates) => {
                    self.queue.pop_for(want);
                    passed_over.push(id);
                    *looks.entry(want).or_default() += 1;
                    if looks.get(&want) >= Some(&limits::PASSED_OVER_MAX) {
                        waiting.push(want);
                    }
                    if let Some(of) = self.decisions.of(id) {
                        of.nobody = gates;
                    }
                }
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

    fn choose(&self, now: Timestamp, id: TaskId) -> Choice {
        let Some(task) = self.tasks.get(&id) else { return Choice::Nobody(Vec::new()) };
        let Submission { variant, tenant, tier, .. } = task.submission;
        let want = task.submission.want();
        // A trial that turns out slow costs a second attempt.
        let trial = match tier == Tier::Standard && self.may_repeat(task) {
            true if self.trials.has() => Trial::First,
            true => Trial::Soon,
            false => Trial::Last,
        };
        let placement = self.placement();
        // Most nodes are trusted enough for most floors: all that are free are looked at only where several in a row are not.
        let ask = self.needs(id, task, &[], trial);
        let mut excluded = task.attempts.tried().to_vec();
        let mut unfit = 0;
        let picked = loop {
            match placement.choose(now, &Ask { excluded: &excluded, ..ask }) {
                Ok(picked) if self.is_fit(picked.node, &task.submission) => break picked,
                Ok(picked) if unfit < limits::UNFIT_LOOKED_AT => excluded.push(picked.node),
                Ok(_) if unfit == limits::UNFIT_LOOKED_AT => excluded = self.excluded(id, task),
                Ok(_) => return Choice::Nobody(Vec::new()),
                Err(gates) => return Choice::Nobody(gates),
            }
            unfit += 1;
        };
        let rate = self.rates.of(picked.node, variant);
        // Who may not have every node can't tell what it waits for, and would hold up those behind it.
        let may_have_all = excluded.is_empty() && tier == Tier::Standard;
        let is_bound = self.setup.rule != Rule::Cost || !rate.is_measured() || !may_have_all;
        let waiting = self.queue.waiters(want, tenant).tasks;
        let end = placement.predict(picked.node, &ask).end;
        let waits = !is_bound && self.flow(want).is_worth_waiting(waiting, end, rate.token_nanos());
        if waits { Choice::Wait } else { Choice::Node(picked) }
    }

    /// Nodes that are not to get a task.
    pub(super) fn excluded(&self, id: TaskId, task: &Task) -> Vec<NodeId> {
        task.attempts.tried().iter().copied().chain(self.unfit(id)).collect()
    }

    /// What a task asks of its next node.
    pub(super) fn needs<'a>(&self, id: TaskId, task: &Task, excluded: &'a [NodeId], trial: Trial) -> Ask<'a> {
        let Submission { variant, output_tokens_max, .. } = task.submission;
        let delivered = task.attempts.delivered();
        let left = output_tokens_max.0.saturating_sub(delivered.0);
        // A long answer goes on for longer than the mean says: at least a quarter of it.
        let length = self.rates.length(variant).0;
        let rest = length.saturating_sub(delivered.0).max(length / 4).min(left);
        let deadline = task.attempts.deadline();
        let (resident, prompt) = (self.resident(task, task.prompt()), task.to_read());
        let Submission { place, tier, .. } = task.submission;
        let (output, attempts) = (TokenCount(rest), task.attempts.left());
        Ask { task: id, variant, place, tier, prompt, output, deadline, attempts, excluded, trial, resident }
    }

    pub(super) fn placement(&self) -> Placement<'_> {
        Placement {
            offers: &self.offers,
            rates: &self.rates,
            breaker: &self.breaker,
            reliabilities: &self.reliabilities,
            seed: self.setup.seed,
            rule: self.setup.rule,
            last: self.last,
        }
    }

    /// Gives a task to a node, beside one that has it or alone. `false` if it can't have it.
    pub(super) fn send(&mut self, now: Timestamp, id: TaskId, picked: Picked, out: &mut Vec<Output>) -> bool {
        let Some(task) = self.tasks.get(&id) else { return false };
        let node = picked.node;
        let variant = task.submission.variant;
        let ask = self.needs(id, task, &[], Trial::Last);
        let predicted = self.placement().predict(node, &ask);
        let token_nanos = self.rates.of(node, variant).token_nanos();
        let late_after = self.rates.late_after(variant, predicted.begin);
        // Who says all at once seems to be fast without limit: it weighs as four of the usual ones at most.
        let usual = self.rates.usual(variant);
        let work = usual.predict(ask.prefill(node), ask.output);
        let end = predicted.end.max(Micros(work.0 / 4));
        let share = Share::new(end, token_nanos.max(usual.token_nanos() / 4));
        let delivered = task.attempts.delivered();
        if self.offers.free(node, variant) == 0 {
            return false;
        }
        let Some(task) = self.tasks.get_mut(&id) else { return false };
        let because = Because::of(&task.attempts);
        let expected = Expected { late_after, token: Micros(token_nanos / 1_000) };
        let Ok(attempt) = task.attempts.begin(node, now, expected) else { return false };
        if attempt == 0 {
            self.allowance.earn(work);
            self.trials.earn();
        }
        if !self.rates.of(node, variant).is_measured() {
            self.trials.spend();
        }
        let region = self.offers.region(node);
        task.shares.push(Some((share, region)));
        task.state = State::Running;
        let deadline = task.attempts.deadline().since(now);
        let attempt = AttemptId { task: id, attempt };
        self.decisions.give(id, Given::new(now, picked, because, predicted, (deadline, delivered)));
        let (epoch, boot) = (self.settler.epoch(), self.setup.boot);
        let order = order(&task.submission, node, attempt, epoch, boot, delivered).seal(&self.setup.master);
        self.offers.spend(node, variant);
        for want in flows_of(variant, region) {
            self.flows.entry(want).or_default().begin(share);
        }
        self.last = Some(node);
        self.counters.assigned += 1;
        self.classify(node, variant);
        self.arm(id);
        out.push(Output::Assign { node, attempt, variant, epoch, resumed_from: delivered, order, deadline });
        true
    }

    /// A node's attempt runs no more, however it ended: its slot is not free before the node says so.
    pub(super) fn stop(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId) {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        let variant = task.submission.variant;
        let share = task.shares.get_mut(usize::from(attempt.attempt)).and_then(Option::take);
        for (share, want) in
            share.into_iter().flat_map(|(share, at)| flows_of(variant, at).map(move |want| (share, want)))
        {
            let Some(flow) = self.flows.get_mut(&want) else { continue };
            flow.end(share);
            if flow.is_idle() {
                self.flows.remove(&want);
            }
        }
        if let Some(known) = task.attempts.get(attempt.attempt) {
            self.decisions.stop(now, attempt, known);
        }
        self.measure(now, node, attempt);
        self.offers.finish(node, variant);
        self.classify(node, variant);
    }

    pub(super) fn started(
        &mut self,
        now: Timestamp,
        node: NodeId,
        attempt: AttemptId,
        said: Begun,
        out: &mut Vec<Output>,
    ) {
        let Some(task) = self.tasks.get_mut(&attempt.task).filter(|t| t.running(node, attempt)) else { return };
        if said.prompt > task.submission.prompt_tokens_max || said.resident > said.prompt {
            self.counters.wrong_counts += 1;
            return self.fail_over(now, node, attempt, Reason::Wrong, out);
        }
        task.said.insert(attempt.attempt, said);
        self.correct(node, attempt, said);
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
        if self.is_outclassed(node, attempt) {
            return self.yield_to(now, node, attempt, out);
        }
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        if matches!(task.state, State::Ended { .. }) {
            self.counters.late += 1;
            return;
        }
        match task.attempts.accept(node, attempt.attempt, count) {
            // The driver counted the ids of this frame: another number than the node says is a wrong count.
            Accepted::New(new) if new == added.0 => {
                let is_first = task.attempts.get(attempt.attempt).is_some_and(|known| known.heard.is_none());
                let outrun = task.attempts.progress(attempt.attempt, now, count);
                out.push(Output::Relay { attempt, count });
                if let Some((number, other)) = outrun {
                    self.outran(now, attempt, (other, number), out);
                }
                if is_first || outrun.is_some() {
                    // Its limits are others now, and perhaps earlier ones.
                    self.arm(attempt.task);
                }
                match is_first {
                    true => self.began(now, node, attempt),
                    false => self.reconsider(now, node, attempt, new, out),
                }
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
            self.reliabilities.ended(node, true);
            self.finish(now, node, &commitment, out);
        }
        self.dispatch(now, variant, out);
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
        let resident_tokens = task
            .said
            .get(&commitment.attempt)
            .filter(|said| said.is_expected)
            .map_or(TokenCount(0), |said| said.resident);
        let conversation = task.submission.prefixes.last().map(|prefix| prefix.digest);
        let attempt = AttemptId { task: id, attempt: commitment.attempt };
        let outrun = task.attempts.outrun(commitment.attempt);
        let attempts = task.attempts.all().len() as u8;
        let (prompt_tokens, output_tokens) = (commitment.prompt_tokens, commitment.output_tokens);
        let charge = price.charge(prompt_tokens, output_tokens).unwrap_or_default();
        if task.attempts.get(attempt.attempt).is_some_and(|known| known.heard.is_none()) {
            self.began(now, node, attempt);
        }
        self.stop(now, node, attempt);
        if let Some((number, other)) = outrun {
            self.outran(now, attempt, (other, number), out);
        }
        self.rates.answered(commitment.variant, output_tokens);
        if let Some(conversation) = conversation {
            self.residency.answered(conversation, node);
        }
        self.keep(now, id, charge, Some(commitment.attempt), Some(commitment.leaf()));
        self.counters.finished += 1;
        let ending = Ending::Answered { attempt: commitment.attempt, output: output_tokens, charge };
        self.decisions.end(now, id, ending);
        let finished = Finished {
            node,
            attempt: commitment.attempt,
            attempts,
            finish: commitment.finish,
            prompt_tokens,
            resident_tokens,
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
        let has_delivered = task.attempts.delivered() > TokenCount(0);
        let is_raced = task.attempts.running().count() > 1;
        match code {
            // A client's mistake says nothing about the node; but where tokens came, or another is at it, it is none.
            FailCode::Invalid if has_delivered || is_raced => {
                self.retry(now, node, attempt, Reason::NodeError, out);
            }
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
        out.push(Output::Cancel { node, attempt, is_paid: false });
        self.retry(now, node, attempt, reason, out);
    }

    fn retry(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId, reason: Reason, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&attempt.task).filter(|t| t.running(node, attempt)) else { return };
        let delivered = task.attempts.delivered();
        task.attempts.fail(attempt.attempt, reason);
        let (others, attempts) = (task.attempts.running().count(), task.attempts.all().len() as u8);
        let may_go_on = task.attempts.left() > 0;
        self.blame(now, node, reason);
        self.stop(now, node, attempt);
        self.counters.failed_over += 1;
        if others > 0 {
            // The other one goes on alone.
            return self.arm(attempt.task);
        }
        if may_go_on {
            return self.enqueue(now, attempt.task, out);
        }
        let refusal = Refusal::Attempts { attempts, delivered };
        self.give_up(now, attempt.task, refusal, out);
    }

    /// Ends a task without a (whole) answer. What was delivered stays charged.
    pub(super) fn give_up(&mut self, now: Timestamp, id: TaskId, refusal: Refusal, out: &mut Vec<Output>) {
        let is_late = matches!(refusal, Refusal::Deadline | Refusal::Attempts { .. });
        let is_promised = self.tasks.get(&id).is_some_and(|task| task.submission.tier != Tier::Standard);
        self.counters.broken += u64::from(is_late && is_promised);
        let failed = if refusal == Refusal::Deadline { self.waits_for(now, id) } else { refusal.gates() };
        self.end(now, id, out);
        self.refuse(now, id, refusal, failed, out);
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
        self.decisions.end(now, id, Ending::Left);
        self.end(now, id, out);
    }

    fn end(&mut self, now: Timestamp, id: TaskId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let running: Vec<(u8, NodeId)> = task.attempts.running().collect();
        let last = task.attempts.all().len().checked_sub(1).and_then(|last| u8::try_from(last).ok());
        match task.state {
            State::Queued => {
                self.queue.remove(id);
            }
            State::Running => {}
            State::Ended { .. } => return,
        }
        let by = running.first().map(|(number, _)| *number).or(last);
        let said = by.and_then(|by| task.said.get(&by)).copied().unwrap_or_default().prompt;
        let prompt = if task.client_gone { said } else { TokenCount(0) };
        let charge = task.submission.price.charge(prompt, task.attempts.delivered()).unwrap_or_default();
        for (number, node) in &running {
            let attempt = AttemptId { task: id, attempt: *number };
            out.push(Output::Cancel { node: *node, attempt, is_paid: false });
            self.stop(now, *node, attempt);
            if let Some(task) = self.tasks.get_mut(&id) {
                task.attempts.fail(*number, Reason::Client);
            }
        }
        self.keep(now, id, charge, by, None);
    }

    // Receipts of earlier attempts may be in the log already, each rounded up by itself.
    fn keep(&mut self, now: Timestamp, id: TaskId, charge: MicroCredits, by: Option<u8>, answer: Option<Digest>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.state = State::Ended { forget_at: now.after(limits::ENDED_KEPT), charge, by, answer };
        self.budget.settle(&id, charge.max(task.settled));
        self.disarm(id);
        self.arm(id);
    }

    /// Drops a task that ended. What its receipts did not charge goes back to its tenant; says whether there was any.
    pub(super) fn drop_task(&mut self, id: TaskId) -> bool {
        self.disarm(id);
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
            self.refuse(now, task, Refusal::Deadline, vec![Gate::BudgetUnknown], out);
        }
    }

    /// Looks at the tasks whose limits are due.
    pub(super) fn look(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        for id in self.due(now) {
            let Some(task) = self.tasks.get(&id) else { continue };
            match task.state {
                State::Ended { forget_at, .. } if forget_at <= now => self.forget(id, out),
                State::Queued | State::Ended { .. } => {}
                State::Running if task.attempts.is_over(now) => self.give_up(now, id, Refusal::Deadline, out),
                State::Running => {
                    if let Some((attempt, node, why)) = task.attempts.overdue(now) {
                        self.fail_over(now, node, AttemptId { task: id, attempt }, why.into(), out);
                    } else if let Some((attempt, node)) = task.attempts.late(now) {
                        self.overtake(now, node, AttemptId { task: id, attempt }, out);
                    }
                }
            }
            self.arm(id);
        }
    }

    // A task whose last batch never came is neither charged nor paid: its tenant gets the reservation back.
    fn forget(&mut self, id: TaskId, out: &mut Vec<Output>) {
        self.counters.unsigned += u64::from(self.drop_task(id));
        out.push(Output::Forget { task: id });
    }
}

// What runs everywhere, and in the node's region.
fn flows_of(variant: VariantId, region: Option<Region>) -> impl Iterator<Item = Want> {
    let there = region.map(|region| Want { variant, region: Some(region) });
    core::iter::once(variant.into()).chain(there)
}

// What a task that waits does next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    // It takes this node.
    Node(Picked),
    // A node that is not free yet will be done with it sooner.
    Wait,
    // None that is free may have it.
    Nobody(Vec<Gate>),
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
        region: submission.place.bound(),
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
        && task.attempts.get(commitment.attempt).is_some_and(|of| of.resumed_from == commitment.resumed_from)
        && commitment.prompt_tokens <= submission.prompt_tokens_max
        && commitment.output_tokens <= submission.output_tokens_max
        && task.said.get(&commitment.attempt).is_none_or(|said| said.prompt == commitment.prompt_tokens)
        && commitment.output == relayed
}
