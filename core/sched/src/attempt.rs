//! The attempts of one task: which node works on it, how far it came, when it is given up, what is accepted from whom.

use crate::gate::Gate;
use alloc::vec::Vec;
use ol_protocol::{Micros, NodeId, Timestamp, TokenCount};

/// How many nodes a task may try: with one failure in ten, all four fail once in ten thousand tasks.
pub const ATTEMPTS_MAX: u8 = 4;
/// Time to the first token of an attempt: a prompt of 16,000 tokens at 294 a second, the embedded engine on one core.
pub const FIRST_TOKEN_LIMIT: Micros = Micros::from_secs(60);
/// Time between tokens: hundreds of times what the embedded engine takes, to outlast a pause of the machine.
pub const BETWEEN_TOKENS_LIMIT: Micros = Micros::from_secs(20);
/// Time for the whole task, waiting and all attempts included: what common clients wait for an answer.
pub const TOTAL_LIMIT: Micros = Micros::from_secs(600);

/// How long a task may take, and how many tokens it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the start of an attempt to its first token.
    pub first_token: Micros,
    /// From one token to the next.
    pub between_tokens: Micros,
    /// From the task's arrival to its end.
    pub total: Micros,
    /// Output tokens over all attempts.
    pub output_max: TokenCount,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_token: FIRST_TOKEN_LIMIT,
            between_tokens: BETWEEN_TOKENS_LIMIT,
            total: TOTAL_LIMIT,
            output_max: TokenCount(u32::MAX),
        }
    }
}

/// Which limit passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// The attempt brought no token in time.
    FirstToken,
    /// The attempt stopped bringing tokens.
    BetweenTokens,
    /// The task's time is up.
    Deadline,
}

/// Why an attempt ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No token in time.
    FirstToken,
    /// Tokens stopped.
    BetweenTokens,
    /// The task's time was up; a short deadline is not the node's fault.
    Deadline,
    /// The node's connection ended.
    Disconnected,
    /// The node said that it failed.
    NodeError,
    /// The node sent what cannot be, such as counts that go back.
    Wrong,
    /// The node may not or cannot take the task and said so at once.
    Refused,
    /// The client closed its stream, or its request was at fault.
    Client,
}

impl Reason {
    /// Whether the failure counts against the node.
    pub const fn blames_node(self) -> bool {
        match self {
            Self::FirstToken | Self::BetweenTokens | Self::Disconnected | Self::NodeError | Self::Wrong => true,
            Self::Deadline | Self::Refused | Self::Client => false,
        }
    }
}

impl From<Overdue> for Reason {
    fn from(overdue: Overdue) -> Self {
        match overdue {
            Overdue::FirstToken => Self::FirstToken,
            Overdue::BetweenTokens => Self::BetweenTokens,
            Overdue::Deadline => Self::Deadline,
        }
    }
}

/// What a frame of tokens is to the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It brings so many new tokens, perhaps none; a frame that holds another number of tokens is wrong.
    New(u32),
    /// It belongs to an attempt that was given up: ordinary, and to be dropped.
    Stale,
    /// No honest node sends it: never given the task, a count that goes back or past the task's limit.
    Wrong,
}

/// One node's part of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The node.
    pub node: NodeId,
    /// Tokens that earlier attempts delivered.
    pub resumed_from: TokenCount,
    /// When it began.
    pub began: Timestamp,
    /// Why it failed, if it did.
    pub failed: Option<Reason>,
}

/// All attempts of one task, numbered from 0. At most one runs: the newest.
#[derive(Debug, Clone)]
pub struct Attempts {
    limits: Limits,
    deadline: Timestamp,
    attempts: Vec<Attempt>,
    tried: Vec<NodeId>,
    delivered: TokenCount,
    // The running attempt's latest token.
    heard: Option<Timestamp>,
}

impl Attempts {
    /// A task that arrived at `now` and was given to nobody yet.
    pub fn new(limits: Limits, now: Timestamp) -> Self {
        let deadline = now.after(limits.total);
        Self { limits, deadline, attempts: Vec::new(), tried: Vec::new(), delivered: TokenCount(0), heard: None }
    }

    /// Gives the task to a node and returns the attempt's number. A running attempt is superseded: its node's further
    /// frames are stale.
    pub fn begin(&mut self, node: NodeId, now: Timestamp) -> Result<u8, Gate> {
        let number = u8::try_from(self.attempts.len()).unwrap_or(ATTEMPTS_MAX);
        if number >= ATTEMPTS_MAX {
            return Err(Gate::AttemptsSpent { max: ATTEMPTS_MAX });
        }
        self.attempts.push(Attempt { node, resumed_from: self.delivered, began: now, failed: None });
        self.tried.push(node);
        self.heard = None;
        Ok(number)
    }

    /// What a frame is worth that says `count` tokens of the task exist, those of earlier attempts included. Changes
    /// nothing: what is taken is told with `progress`.
    pub fn accept(&self, node: NodeId, attempt: u8, count: TokenCount) -> Accepted {
        match self.attempts.get(usize::from(attempt)) {
            Some(known) if known.node == node => {}
            Some(_) | None => return Accepted::Wrong,
        }
        if self.running().is_none_or(|(_, running)| running != attempt) {
            return Accepted::Stale;
        }
        match count.0.checked_sub(self.delivered.0) {
            Some(new) if count <= self.limits.output_max => Accepted::New(new),
            Some(_) | None => Accepted::Wrong,
        }
    }

    /// `count` tokens of the task were delivered by now. Without a new token the time between tokens runs on.
    pub fn progress(&mut self, now: Timestamp, count: TokenCount) {
        if count > self.delivered {
            self.delivered = count;
            self.heard = Some(now);
        }
    }

    /// Ends the running attempt; `None` if none runs. The next one resumes after the delivered tokens.
    pub fn fail(&mut self, reason: Reason) -> Option<Attempt> {
        let last = self.attempts.last_mut().filter(|attempt| attempt.failed.is_none())?;
        last.failed = Some(reason);
        if reason == Reason::Disconnected {
            // Links break at either end, and all at once where the gateway's own network does: who is back may have it again.
            self.tried.pop();
        }
        Some(*last)
    }

    /// Which limit has passed, the task's own first.
    pub fn overdue(&self, now: Timestamp) -> Option<Overdue> {
        if now >= self.deadline {
            return Some(Overdue::Deadline);
        }
        self.attempt_limit().filter(|&(limit, _)| now >= limit).map(|(_, overdue)| overdue)
    }

    /// When `overdue` is next worth asking.
    pub fn next_deadline(&self) -> Timestamp {
        self.attempt_limit().map_or(self.deadline, |(limit, _)| limit.min(self.deadline))
    }

    /// When the task's time is up.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// The node that works on the task now, and the number of its attempt.
    pub fn running(&self) -> Option<(NodeId, u8)> {
        let last = self.attempts.last().filter(|attempt| attempt.failed.is_none())?;
        Some((last.node, u8::try_from(self.attempts.len() - 1).ok()?))
    }

    /// Tokens delivered so far: where the next attempt resumes.
    pub fn delivered(&self) -> TokenCount {
        self.delivered
    }

    /// The nodes that were given the task, in order, but for those that only lost their links.
    pub fn tried(&self) -> &[NodeId] {
        &self.tried
    }

    /// The attempts in order, by their numbers.
    pub fn all(&self) -> &[Attempt] {
        &self.attempts
    }

    fn attempt_limit(&self) -> Option<(Timestamp, Overdue)> {
        let last = self.attempts.last().filter(|attempt| attempt.failed.is_none())?;
        Some(match self.heard {
            None => (last.began.after(self.limits.first_token), Overdue::FirstToken),
            Some(heard) => (heard.after(self.limits.between_tokens), Overdue::BetweenTokens),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn count(tokens: u32) -> TokenCount {
        TokenCount(tokens)
    }

    fn begun() -> Attempts {
        let mut task = Attempts::new(Limits { output_max: count(100), ..Limits::default() }, at(0));
        assert_eq!(task.begin(A, at(1)), Ok(0));
        task
    }

    #[test]
    fn a_successor_resumes_after_what_was_delivered() {
        let mut task = begun();
        assert_eq!(task.accept(A, 0, count(3)), Accepted::New(3));
        task.progress(at(2), count(3));
        let failed = Attempt { node: A, resumed_from: count(0), began: at(1), failed: Some(Reason::Disconnected) };
        assert_eq!(task.fail(Reason::Disconnected), Some(failed));
        assert_eq!(task.begin(B, at(3)), Ok(1));
        assert_eq!(task.all(), [failed, Attempt { node: B, resumed_from: count(3), began: at(3), failed: None }]);
        assert_eq!(task.accept(B, 1, count(4)), Accepted::New(1));
    }

    #[test]
    fn who_only_lost_its_link_may_have_the_task_again() {
        let mut task = begun();
        task.fail(Reason::NodeError);
        assert_eq!(task.begin(B, at(2)), Ok(1));
        assert_eq!(task.tried(), [A, B]);
        task.fail(Reason::Disconnected);
        assert_eq!(task.tried(), [A]);
    }

    #[test]
    fn a_late_frame_of_an_abandoned_attempt_is_stale() {
        let mut task = begun();
        task.fail(Reason::FirstToken);
        assert_eq!(task.accept(A, 0, count(1)), Accepted::Stale);
        assert_eq!(task.begin(B, at(3)), Ok(1));
        assert_eq!(task.accept(A, 0, count(1)), Accepted::Stale);
    }

    #[test]
    fn a_node_speaks_only_for_its_own_attempt() {
        let mut task = begun();
        assert_eq!(task.accept(B, 0, count(1)), Accepted::Wrong);
        assert_eq!(task.accept(A, 1, count(1)), Accepted::Wrong);
        assert_eq!(task.begin(A, at(2)), Ok(1));
        assert_eq!(task.accept(A, 0, count(1)), Accepted::Stale);
        assert_eq!(task.accept(A, 1, count(1)), Accepted::New(1));
    }

    #[test]
    fn counts_that_go_back_or_past_the_limit_are_wrong() {
        let mut task = begun();
        task.progress(at(2), count(5));
        assert_eq!(task.accept(A, 0, count(4)), Accepted::Wrong);
        assert_eq!(task.accept(A, 0, count(5)), Accepted::New(0));
        assert_eq!(task.accept(A, 0, count(100)), Accepted::New(95));
        assert_eq!(task.accept(A, 0, count(101)), Accepted::Wrong);
    }

    #[test]
    fn each_limit_passes_at_its_own_time() {
        let mut task = begun();
        assert_eq!((task.next_deadline(), task.overdue(at(60))), (at(61), None));
        assert_eq!(task.overdue(at(61)), Some(Overdue::FirstToken));
        task.progress(at(10), count(1));
        assert_eq!((task.next_deadline(), task.overdue(at(29))), (at(30), None));
        assert_eq!(task.overdue(at(30)), Some(Overdue::BetweenTokens));
        task.fail(Reason::BetweenTokens);
        assert_eq!((task.next_deadline(), task.overdue(at(599))), (at(600), None));
        assert_eq!(task.overdue(at(600)), Some(Overdue::Deadline));
    }

    #[test]
    fn frames_without_tokens_buy_no_time() {
        let mut task = begun();
        task.progress(at(2), count(1));
        task.progress(at(15), count(1));
        assert_eq!(task.next_deadline(), at(22));
    }

    #[test]
    fn a_resumed_attempt_has_the_time_of_a_first_token_again() {
        let mut task = begun();
        task.progress(at(2), count(1));
        task.fail(Reason::Disconnected);
        assert_eq!(task.begin(B, at(100)), Ok(1));
        assert_eq!(task.next_deadline(), at(160));
    }

    #[test]
    fn attempts_are_limited_and_a_second_end_of_one_is_nothing() {
        let mut task = begun();
        assert!(task.fail(Reason::NodeError).is_some());
        assert_eq!(task.fail(Reason::NodeError), None);
        assert_eq!((1..4).map(|_| task.begin(B, at(2))).collect::<Vec<_>>(), [Ok(1), Ok(2), Ok(3)]);
        assert_eq!(task.begin(B, at(2)), Err(Gate::AttemptsSpent { max: 4 }));
        assert_eq!(task.tried().len(), 4);
    }
}
