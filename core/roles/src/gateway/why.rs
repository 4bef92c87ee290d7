//! Why a task went where it went, and why a node got what it got: decisions as they were made, in a memory that is
//! bounded. Ids and numbers only.

use super::Gateway;
use super::event::{Output, Refusal, Submission};
use super::task::State;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use ol_protocol::record::AttemptId;
use ol_protocol::{MicroCredits, Micros, NodeId, OperatorId, TaskId, TenantId, Timestamp, TokenCount, VariantId};
use ol_sched::{Attempt, Attempts, Gate, Granted, Passed, Picked, Prediction, Rate, Reason, Trial};
use ol_trust::Standing;

/// Tasks whose decisions are kept, those that run included: a few seconds of a busy gateway and days of a small one. Some seven hundred
/// bytes each, three megabytes in all.
pub const TASKS_KEPT: usize = 4_096;

/// Nodes that were looked at for these tasks, over all attempts. Where there are more, fewer tasks are kept: eighty bytes each are three megabytes.
pub const LOOKED_AT_KEPT: usize = 32_768;

/// What was decided about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDecisions {
    /// The task.
    pub task: TaskId,
    /// Who pays.
    pub tenant: TenantId,
    /// What computes it.
    pub variant: VariantId,
    /// When it came.
    pub submitted: Timestamp,
    /// The gates that it passed at its admission.
    pub passed: Vec<Passed>,
    /// The gates that ended it.
    pub failed: Vec<Gate>,
    /// How often it waited on though a slow node was free, as a faster one was predicted to be done with it sooner.
    pub passed_by: u32,
    /// Why no free node was given it when it was looked at last, if it was in vain.
    pub nobody: Vec<Gate>,
    /// Who was given it, in order.
    pub attempts: Vec<Given>,
    /// How it ended, and when.
    pub ended: Option<(Timestamp, Ending)>,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a whole answer.
    Answered {
        /// Which attempt made it whole.
        attempt: u8,
        /// Output tokens.
        output: TokenCount,
        /// What it costs.
        charge: MicroCredits,
    },
    /// Without one.
    Refused {
        /// The refusal's name.
        name: &'static str,
    },
    /// Its client went away.
    Left,
}

/// A node that was given a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Which, and what was looked at to choose it.
    pub picked: Picked,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub because: Because,
    /// Time to the task's deadline then.
    pub left: Micros,
    /// What it was predicted to take.
    pub predicted: Prediction,
    /// Output tokens that were there before.
    pub resumed_from: TokenCount,
    /// When its first token came.
    pub first_token: Option<Timestamp>,
    /// How far the output went with it.
    pub reached: TokenCount,
    /// When it ended; and why, unless it was with the task.
    pub ended: Option<(Timestamp, Option<Reason>)>,
}

/// Why an attempt was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The task had none.
    First,
    /// The one that runs is late.
    Late,
    /// The one before it ended.
    Ended(Reason),
}

impl Because {
    /// Why another attempt of these would begin.
    pub(super) fn of(attempts: &Attempts) -> Self {
        match attempts.all().last() {
            None => Self::First,
            Some(_) if attempts.running().next().is_some() => Self::Late,
            // One that ended otherwise ended the task.
            Some(last) => Self::Ended(last.failed.unwrap_or(Reason::Client)),
        }
    }
}

impl Given {
    pub(super) fn new(
        at: Timestamp,
        picked: Picked,
        because: Because,
        predicted: Prediction,
        (left, resumed_from): (Micros, TokenCount),
    ) -> Self {
        let (first_token, reached, ended) = (None, resumed_from, None);
        Self { picked, at, because, left, predicted, resumed_from, first_token, reached, ended }
    }

    fn follow(&mut self, attempt: &Attempt) {
        self.first_token = attempt.heard.map(|heard| heard.first);
        self.reached = attempt.reached;
    }
}

/// The decisions of the last tasks.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    kept: VecDeque<TaskDecisions>,
    // The number of the first that is kept, and that of each.
    first: u64,
    numbers: BTreeMap<TaskId, u64>,
    looked_at: usize,
}

impl Decisions {
    /// A task came, perhaps once more: what it waits for is not decided yet.
    pub(super) fn open(&mut self, now: Timestamp, submission: &Submission) {
        let &Submission { task, tenant, variant, .. } = submission;
        let new = TaskDecisions {
            task,
            tenant,
            variant,
            submitted: now,
            passed: Vec::new(),
            failed: Vec::new(),
            passed_by: 0,
            nobody: Vec::new(),
            attempts: Vec::new(),
            ended: None,
        };
        match self.of(task) {
            Some(known) if known.ended.is_none() => {}
            Some(known) => {
                let before = core::mem::replace(known, new);
                self.looked_at -= looked_at(&before);
            }
            None => {
                // Before it is added, so that the memory grows to the limit and not to twice that.
                self.bound(TASKS_KEPT - 1);
                self.numbers.insert(task, self.first + self.kept.len() as u64);
                self.kept.push_back(new);
            }
        }
    }

    /// What was decided about a task that is kept.
    pub(super) fn of(&mut self, task: TaskId) -> Option<&mut TaskDecisions> {
        let place = self.place(task)?;
        self.kept.get_mut(place)
    }

    fn place(&self, task: TaskId) -> Option<usize> {
        usize::try_from(self.numbers.get(&task)? - self.first).ok()
    }

    /// A node was given a task.
    pub(super) fn give(&mut self, task: TaskId, given: Given) {
        let looked_at = given.picked.open.len() + given.picked.closed.len();
        if let Some(of) = self.of(task) {
            // Most tasks have one.
            of.attempts.reserve_exact(1);
            of.attempts.push(given);
            self.looked_at += looked_at;
            self.bound(TASKS_KEPT);
        }
    }

    /// An attempt ended.
    pub(super) fn stop(&mut self, now: Timestamp, id: AttemptId, attempt: &Attempt) {
        let given = self.of(id.task).and_then(|of| of.attempts.get_mut(usize::from(id.attempt)));
        if let Some(given) = given {
            given.follow(attempt);
            given.ended = Some((now, attempt.failed));
        }
    }

    /// A task ended, or what ended well is refused after all.
    pub(super) fn end(&mut self, now: Timestamp, task: TaskId, ending: Ending) {
        if let Some(of) = self.of(task) {
            of.ended = Some((now, ending));
        }
    }

    fn bound(&mut self, tasks: usize) {
        while self.kept.len() > tasks || self.looked_at > LOOKED_AT_KEPT {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.first += 1;
            self.numbers.remove(&oldest.task);
            self.looked_at -= looked_at(&oldest);
        }
    }
}

fn looked_at(of: &TaskDecisions) -> usize {
    of.attempts.iter().map(|given| given.picked.open.len() + given.picked.closed.len()).sum()
}

/// How far back decisions are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Of how many tasks.
    pub tasks: usize,
    /// How many nodes were looked at for them.
    pub looked_at: usize,
    /// When the first of them came.
    pub since: Option<Timestamp>,
}

/// What was decided about a node, and what is known of it now.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDecisions {
    /// The node.
    pub node: NodeId,
    /// Its owner, if it is connected and takes tasks.
    pub operator: Option<OperatorId>,
    /// Whether it finishes what it has and takes nothing new.
    pub is_draining: bool,
    /// Until when it gets nothing as it failed.
    pub quarantined: Option<Timestamp>,
    /// Until when it is asked for no audits.
    pub distrusted: Option<Timestamp>,
    /// Tasks sent and not finished, of all variants.
    pub in_flight: u64,
    /// What it serves.
    pub variants: Vec<Serving>,
    /// How the decisions that are kept went for it.
    pub tally: Tally,
}

/// What a node serves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Serving {
    /// Its slots.
    pub slots: Granted,
    /// How fast it is, or expected to be.
    pub rate: Rate,
    /// How fast others usually are.
    pub usual: Rate,
    /// What its audits found.
    pub standing: Standing,
    /// Decisions about the variant that are kept: how often there was a task to give.
    pub decisions: u64,
}

/// How decisions went for a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Decisions about the variants that it serves.
    pub decisions: u64,
    /// How often it was given the task, and when the last time.
    pub chosen: u64,
    /// When the last time.
    pub chosen_at: Option<Timestamp>,
    /// How often another was chosen that it was compared with.
    pub outdone: u64,
    /// How often a gate was closed to it, by the gate's name, with how it was the last time.
    pub closed: BTreeMap<&'static str, (u64, Gate)>,
}

impl Tally {
    fn count(&mut self, node: NodeId, given: &Given) {
        self.decisions += 1;
        if given.picked.node == node {
            self.chosen += 1;
            self.chosen_at = Some(given.at);
        } else if given.picked.open.iter().any(|open| open.node == node) {
            self.outdone += 1;
        }
        for (_, gate) in given.picked.closed.iter().filter(|(closed, _)| *closed == node) {
            let (count, last) = self.closed.entry(gate.name()).or_insert((0, *gate));
            (*count, *last) = (*count + 1, *gate);
        }
    }
}

impl Gateway {
    /// How far back decisions are kept.
    pub fn decisions_kept(&self) -> Kept {
        let Decisions { kept, looked_at, .. } = &self.decisions;
        Kept { tasks: kept.len(), looked_at: *looked_at, since: kept.front().map(|first| first.submitted) }
    }

    /// What was decided about a task, up to now; `None` if it is not kept, or any more.
    pub fn task_decisions(&self, task: TaskId) -> Option<TaskDecisions> {
        let mut of = self.decisions.kept.get(self.decisions.place(task)?)?.clone();
        if let Some(known) = self.tasks.get(&task) {
            let running = of.attempts.iter_mut().zip(known.attempts.all()).filter(|(given, _)| given.ended.is_none());
            running.for_each(|(given, attempt)| given.follow(attempt));
        }
        Some(of)
    }

    /// What was decided about a node; `None` if nothing is known of it. Walks all decisions that are kept.
    pub fn node_decisions(&self, now: Timestamp, node: NodeId) -> Option<NodeDecisions> {
        let mut variants: Vec<Serving> = self.offers.granted(node).map(|slots| self.serving(node, slots)).collect();
        let mut tally = Tally::default();
        for of in &self.decisions.kept {
            let serving = variants.iter_mut().find(|serving| serving.slots.variant == of.variant);
            let is_named = |given: &Given| {
                let picked = &given.picked;
                picked.node == node
                    || picked.open.iter().any(|open| open.node == node)
                    || picked.closed.iter().any(|(closed, _)| *closed == node)
            };
            let serves = serving.is_some();
            of.attempts.iter().filter(|given| serves || is_named(given)).for_each(|given| tally.count(node, given));
            if let Some(serving) = serving {
                serving.decisions += of.attempts.len() as u64;
            }
        }
        let operator = self.workers.get(&node).copied();
        let quarantined = self.breaker.quarantined(node, now);
        let is_known = operator.is_some() || quarantined.is_some() || tally.decisions > 0;
        is_known.then(|| NodeDecisions {
            node,
            operator,
            is_draining: self.offers.is_draining(node),
            quarantined,
            distrusted: self.distrusted.get(&node).copied(),
            in_flight: self.offers.in_flight(node),
            variants,
            tally,
        })
    }

    fn serving(&self, node: NodeId, slots: Granted) -> Serving {
        let variant = slots.variant;
        Serving {
            slots,
            rate: self.rates.of(node, variant),
            usual: self.rates.usual(variant),
            standing: self.settler.standing(node, variant),
            decisions: 0,
        }
    }

    /// How long an answer of a variant usually is.
    pub fn usual_length(&self, variant: VariantId) -> TokenCount {
        self.rates.length(variant)
    }

    /// What keeps a task waiting that has no node.
    pub(super) fn waits_for(&self, now: Timestamp, id: TaskId) -> Vec<Gate> {
        let Some(task) = self.tasks.get(&id).filter(|task| task.state == State::Queued) else { return Vec::new() };
        let excluded = self.excluded(id, task);
        let ask = self.needs(id, task, &excluded, Trial::Last);
        self.placement().pick(now, &ask).err().unwrap_or_default()
    }

    /// Refuses a task, with the gates that it passed and those that it did not.
    pub(super) fn refuse(
        &mut self,
        now: Timestamp,
        task: TaskId,
        refusal: Refusal,
        failed: Vec<Gate>,
        out: &mut Vec<Output>,
    ) {
        self.counters.refused += 1;
        self.decisions.end(now, task, Ending::Refused { name: refusal.name() });
        let passed = self.decisions.of(task).map_or_else(Vec::new, |of| {
            of.failed.clone_from(&failed);
            of.passed.clone()
        });
        out.push(Output::Refuse { task, refusal, passed, failed });
    }
}
