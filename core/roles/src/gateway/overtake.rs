//! What the gateway does about attempts that are late or slow: a second one beside the first, or instead of it.

use super::Gateway;
use super::event::Output;
use super::task::{Begun, State, Task};
use alloc::vec::Vec;
use ol_protocol::record::AttemptId;
use ol_protocol::{Micros, NodeId, TaskId, Timestamp, TokenCount, VariantId};
use ol_sched::residency::PASS_TOKENS;
use ol_sched::{Flow, Picked, Reason, Rule, Trial, Want};

/// Alarms go off together that lie so close: a timer for each task would cost more than what it is for.
const GRAIN: u64 = 10_000;

/// Each time that so many tokens came after the first frame an attempt's speed is judged.
const JUDGED_AFTER: u32 = 4;

/// What a move gains at least, beyond half of what it takes: predictions err, and every part of an answer is a receipt.
const GAINED: Micros = Micros::from_millis(100);

/// How many times slower than usual an attempt is that is worth a look.
const SLOW: u64 = 2;

impl Gateway {
    /// What runs of a variant, in the region that a task is bound to if it is.
    pub(super) fn flow(&self, want: impl Into<Want>) -> Flow {
        self.flows.get(&want.into()).copied().unwrap_or_default()
    }

    /// Sees to it that a task is looked at when one of its limits is due.
    pub(super) fn arm(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let due = match task.state {
            State::Queued => return,
            State::Running => task.attempts.next_deadline(),
            State::Ended { forget_at, .. } => forget_at,
        };
        // An alarm that is early looks again: it costs less than to move it with every token.
        let due = Timestamp(due.0.div_ceil(GRAIN).saturating_mul(GRAIN));
        if task.alarm.is_some_and(|alarm| alarm <= due) {
            return;
        }
        if let Some(before) = task.alarm.replace(due) {
            self.alarms.remove(&(before, id));
        }
        self.alarms.insert((due, id));
    }

    pub(super) fn disarm(&mut self, id: TaskId) {
        if let Some(alarm) = self.tasks.get_mut(&id).and_then(|task| task.alarm.take()) {
            self.alarms.remove(&(alarm, id));
        }
    }

    /// The tasks whose alarms went off.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<TaskId> {
        let mut due = Vec::new();
        while let Some(&(at, id)) = self.alarms.first() {
            if at > now {
                break;
            }
            self.alarms.pop_first();
            if let Some(task) = self.tasks.get_mut(&id) {
                task.alarm = None;
            }
            due.push(id);
        }
        due
    }

    /// Puts a node among those that are as fast.
    pub(super) fn classify(&mut self, node: NodeId, variant: VariantId) {
        let rate = self.rates.of(node, variant);
        let is_trial = !rate.is_measured() && self.offers.in_flight(node) == 0;
        self.offers.classify(node, variant, if is_trial { 0 } else { rate.class() });
    }

    /// Whether a task's prompt may be read once more.
    pub(super) fn may_repeat(&self, task: &Task) -> bool {
        self.allowance.has(self.rates.usual(task.submission.variant).prefill(task.to_read()))
    }

    /// The first token of an attempt came, or vectors: how fast its node prefills, and that it was in time.
    pub(super) fn began(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId) {
        let Some(task) = self.tasks.get(&attempt.task) else { return };
        let variant = task.submission.variant;
        let Some(known) = task.attempts.get(attempt.attempt) else { return };
        let took = now.since(known.began);
        let rate = self.rates.of(node, variant);
        let prefilled = prefilled(task, attempt.attempt, known.resumed_from);
        if rate.is_measured() && !known.is_told {
            self.rates.was_late(variant, false);
        }
        if task.said.get(&attempt.attempt).is_some_and(|said| said.is_odd) {
            return;
        }
        let took = Micros(took.0.saturating_sub(rate.round_trip().0));
        self.rates.prefilled(node, variant, prefilled, took);
    }

    /// What an attempt that ended shows of its node's speed, by the gateway's clock: a node's own word could be anything.
    pub(super) fn measure(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId) {
        let Some(task) = self.tasks.get(&attempt.task) else { return };
        let variant = task.submission.variant;
        let Some(known) = task.attempts.get(attempt.attempt) else { return };
        match known.heard {
            Some(heard) => {
                let tokens = known.reached.0.saturating_sub(heard.first_reached.0);
                // Who begins at once and then stands still is not fast.
                let stands = now.since(heard.last) >= known.expected.late_after;
                let tokens = TokenCount(tokens.max(u32::from(stands)));
                self.rates.decoded(node, variant, tokens, now.since(heard.first));
            }
            // It took at least this long. Who was not late shows nothing.
            None if known.failed.is_none() => {}
            None => {
                let took = now.since(known.began);
                if took >= known.expected.late_after {
                    let took = Micros(took.0.saturating_sub(self.rates.of(node, variant).round_trip().0));
                    let tokens = prefilled(task, attempt.attempt, known.resumed_from);
                    self.rates.prefilled(node, variant, tokens, took);
                }
            }
        }
        self.rates.refresh(node, variant, now);
    }

    /// An attempt is late: another begins beside it, if the allowance has room and a node is free that was measured.
    pub(super) fn overtake(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        let variant = task.submission.variant;
        let is_new = task.attempts.tell(attempt.attempt);
        let has_begun = task.attempts.get(attempt.attempt).is_some_and(|known| known.heard.is_some());
        if is_new && !has_begun && self.rates.of(node, variant).is_measured() {
            self.rates.was_late(variant, true);
        }
        if self.race(now, attempt, out).is_none()
            && let Some(task) = self.tasks.get_mut(&attempt.task)
        {
            task.attempts.wait_on(attempt.attempt);
        }
    }

    fn race(&mut self, now: Timestamp, attempt: AttemptId, out: &mut Vec<Output>) -> Option<()> {
        let id = attempt.task;
        let task = self.tasks.get(&id)?;
        if self.setup.rule != Rule::Cost || !task.attempts.may_overtake() || !self.may_repeat(task) {
            return None;
        }
        let excluded = self.excluded(id, task);
        let ask = self.needs(id, task, &excluded, Trial::Never);
        let placement = self.placement();
        let picked = placement.choose(now, &ask).ok()?;
        // Another that takes far longer to begin than this one was waited for is no help.
        let waited = now.since(task.attempts.get(attempt.attempt)?.began);
        if placement.predict(picked.node, &ask).begin > Micros(waited.0.saturating_mul(4)) {
            return None;
        }
        let work = self.rates.usual(ask.variant).prefill(ask.prefill(picked.node));
        if !self.send(now, id, picked, out) {
            return None;
        }
        self.allowance.spend(work);
        self.counters.raced += 1;
        Some(())
    }

    /// Takes an attempt from a node that is much slower than others are, if the task ends sooner elsewhere though its prompt
    /// has to be read again there.
    pub(super) fn reconsider(
        &mut self,
        now: Timestamp,
        node: NodeId,
        attempt: AttemptId,
        added: u32,
        out: &mut Vec<Output>,
    ) {
        let id = attempt.task;
        let Some(task) = self.tasks.get(&id) else { return };
        let streamed = task.attempts.get(attempt.attempt).and_then(|known| known.streamed());
        let is_due = |tokens: TokenCount| tokens.0 / JUDGED_AFTER > tokens.0.saturating_sub(added) / JUDGED_AFTER;
        let Some((tokens, took)) = streamed.filter(|(tokens, _)| is_due(*tokens)) else { return };
        let nanos = took.0.saturating_mul(1_000) / u64::from(tokens.0);
        let variant = task.submission.variant;
        let usual = self.flow(variant).token_nanos();
        let is_slow = usual.is_some_and(|usual| nanos > usual.saturating_mul(SLOW));
        let may = self.setup.rule == Rule::Cost && task.attempts.may_overtake() && self.may_repeat(task);
        if !is_slow || !may {
            return;
        }
        let excluded = self.excluded(id, task);
        let ask = self.needs(id, task, &excluded, Trial::Never);
        let here = Micros(nanos.saturating_mul(u64::from(ask.output.0)) / 1_000);
        let placement = self.placement();
        let Ok(picked) = placement.choose(now, &ask) else { return };
        let there = placement.predict(picked.node, &ask).end;
        if here.0 > there.0.saturating_add(there.0 / 2).saturating_add(GAINED.0) {
            self.allowance.spend(self.rates.usual(variant).prefill(ask.prefill(picked.node)));
            self.counters.moved += 1;
            self.hand_over(now, (node, attempt), picked, out);
        }
    }

    /// Whether an attempt brings its first token late, on a node that nobody measured, while one that is known to be fast is about
    /// to bring it: the next tokens would be late as well.
    pub(super) fn is_outclassed(&self, node: NodeId, attempt: AttemptId) -> bool {
        let Some(task) = self.tasks.get(&attempt.task).filter(|task| task.running(node, attempt)) else { return false };
        let is_known = |node| self.rates.of(node, task.submission.variant).is_measured();
        let is_first = task.attempts.get(attempt.attempt).is_some_and(|known| known.heard.is_none());
        is_first && !is_known(node) && task.attempts.running().any(|(_, other)| other != node && is_known(other))
    }

    /// Ends an attempt in favour of the one beside it.
    pub(super) fn yield_to(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId, out: &mut Vec<Output>) {
        if let Some(task) = self.tasks.get_mut(&attempt.task) {
            task.attempts.fail(attempt.attempt, Reason::Slow);
        }
        self.counters.late += 1;
        self.take_back(now, node, attempt, out);
        self.arm(attempt.task);
    }

    fn hand_over(&mut self, now: Timestamp, (node, attempt): (NodeId, AttemptId), to: Picked, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return };
        task.attempts.fail(attempt.attempt, Reason::Slow);
        self.take_back(now, node, attempt, out);
        if !self.send(now, attempt.task, to, out) {
            self.enqueue(now, attempt.task, out);
        }
    }

    /// Takes back an attempt that ended here though not at its node.
    pub(super) fn take_back(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId, out: &mut Vec<Output>) {
        out.push(Output::Cancel { node, attempt, is_paid: false });
        self.stop(now, node, attempt);
    }

    /// Takes back an attempt that another outran. If it was begun beside that one, it was the gateway that asked in vain, and the gateway that pays.
    pub(super) fn outran(
        &mut self,
        now: Timestamp,
        by: AttemptId,
        (node, number): (NodeId, u8),
        out: &mut Vec<Output>,
    ) {
        let attempt = AttemptId { attempt: number, ..by };
        let is_paid = number > by.attempt && self.may_bear(by, node) && self.has_read(now, node, attempt);
        out.push(Output::Cancel { node, attempt, is_paid });
        self.stop(now, node, attempt);
    }

    // One of a task, and none for whose sake the other could have been late.
    fn may_bear(&self, by: AttemptId, node: NodeId) -> bool {
        let Some(task) = self.tasks.get(&by.task) else { return false };
        let Some(winner) = task.attempts.get(by.attempt) else { return false };
        let is_first = task.said.values().all(|said| said.read == TokenCount(0));
        is_first && self.workers.get(&winner.node) != self.workers.get(&node)
    }

    // Notes how much of its prompt an attempt has read so far, by the gateway's clock and what the node is measured at: its own word
    // could be anything.
    fn has_read(&mut self, now: Timestamp, node: NodeId, attempt: AttemptId) -> bool {
        let Some(task) = self.tasks.get_mut(&attempt.task) else { return false };
        let rate = self.rates.of(node, task.submission.variant);
        let Some(known) = task.attempts.get(attempt.attempt) else { return false };
        let took = Micros(now.since(known.began).0.saturating_sub(rate.round_trip().0));
        let Some(said) = task.said.get_mut(&attempt.attempt) else { return false };
        // Whatever it says it held: its tenant would be charged no less for that either.
        said.read = rate.prefilled_in(took).min(said.prompt);
        said.read > TokenCount(0)
    }

    /// Puts nodes whose measures are old among those to be tried.
    pub(super) fn expire_rates(&mut self, now: Timestamp) {
        for (node, variant) in self.rates.expire(now) {
            self.classify(node, variant);
        }
    }
}

// By what the node itself counted: what another says of the prompt is nothing to it. What it held took it no time, but for a pass.
fn prefilled(task: &Task, attempt: u8, resumed_from: TokenCount) -> TokenCount {
    let unsaid = Begun::new(task.submission.prompt_tokens_max, TokenCount(0));
    let Begun { prompt, resident, .. } = task.said.get(&attempt).copied().unwrap_or(unsaid);
    let all = prompt.0.saturating_add(resumed_from.0).max(1);
    TokenCount(all.saturating_sub(resident.0).max(PASS_TOKENS.0.min(all)))
}
