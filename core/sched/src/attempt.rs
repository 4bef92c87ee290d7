//! The attempts of one task: which node works on it, how far it came, when it is given up, what is accepted from whom.

use crate::gate::Gate;
use alloc::vec::Vec;
use ol_protocol::{Micros, NodeId, Timestamp, TokenCount};

/// How many nodes a task may try: with one failure in ten, all four fail once in ten thousand tasks.
pub const ATTEMPTS_MAX: u8 = 4;
/// How many it may have with those that did not fail it: that were overtaken, or left it further than they found it when their link broke. Twice as
/// many: as often as it is failed it may be slow.
const ATTEMPTS_EVER: usize = 8;
/// How many attempts of a task may run at once: the first, and one that is to overtake it.
const RUNNING_MAX: usize = 2;
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
    /// Another attempt at the task, begun because this one was late or beside one that was, brought the next token first.
    Outrun,
    /// The node is slow, and the task went on with a faster one.
    Slow,
}

impl Reason {
    /// Whether the failure counts against the node.
    pub const fn blames_node(self) -> bool {
        match self {
            Self::FirstToken | Self::BetweenTokens | Self::Disconnected | Self::NodeError | Self::Wrong => true,
            Self::Deadline | Self::Refused | Self::Client | Self::Outrun | Self::Slow => false,
        }
    }
}

impl From<Overdue> for Reason {
    fn from(overdue: Overdue) -> Self {
        match overdue {
            Overdue::FirstToken => Self::FirstToken,
            Overdue::BetweenTokens => Self::BetweenTokens,
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
    /// What is expected of it.
    pub expected: Expected,
    /// Tokens of the task, from the first on, when it last delivered one; `resumed_from` until then.
    pub reached: TokenCount,
    /// When its first and its latest token came, and how far the first frame went.
    pub heard: Option<Heard>,
    /// Whether it was told of as late.
    pub is_told: bool,
    /// Why it ended without an answer, if it did.
    pub failed: Option<Reason>,
}

/// What is expected of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// After how long without a token it is late.
    pub late_after: Micros,
    /// The time for a token.
    pub token: Micros,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// When its first token came.
    pub first: Timestamp,
    /// How far its first frame went.
    pub first_reached: TokenCount,
    /// When its latest token came.
    pub last: Timestamp,
    /// The longest time between two frames of tokens; until there were two, what is expected.
    pub gap: Micros,
}

impl Attempt {
    /// Tokens that came after its first frame, and in what time.
    pub fn streamed(&self) -> Option<(TokenCount, Micros)> {
        let Heard { first, first_reached, last, .. } = self.heard?;
        Some((TokenCount(self.reached.0.saturating_sub(first_reached.0)), last.since(first)))
    }

    // Frames come evenly, but for the work beside: four times the longest pause so far is none of these.
    fn late_at(&self) -> Timestamp {
        match self.heard {
            None => self.began.after(self.expected.late_after),
            Some(heard) => heard.last.after(self.expected.late_after.max(Micros(heard.gap.0.saturating_mul(4)))),
        }
    }
}

/// All attempts of one task, numbered from 0. At most two run: who brings the next token first goes on alone.
#[derive(Debug, Clone)]
pub struct Attempts {
    limits: Limits,
    deadline: Timestamp,
    attempts: Vec<Attempt>,
    tried: Vec<NodeId>,
    delivered: TokenCount,
}

impl Attempts {
    /// A task that arrived at `now` and was given to nobody yet.
    pub fn new(limits: Limits, now: Timestamp) -> Self {
        let deadline = now.after(limits.total);
        Self { limits, deadline, attempts: Vec::new(), tried: Vec::new(), delivered: TokenCount(0) }
    }

    /// Gives the task to a node and returns the attempt's number.
    pub fn begin(&mut self, node: NodeId, now: Timestamp, expected: Expected) -> Result<u8, Gate> {
        let number = u8::try_from(self.attempts.len()).unwrap_or(u8::MAX);
        if self.left() == 0 || self.running().count() >= RUNNING_MAX {
            return Err(Gate::AttemptsSpent { attempts: number });
        }
        let (resumed_from, reached) = (self.delivered, self.delivered);
        self.attempts.push(Attempt {
            node,
            resumed_from,
            began: now,
            expected,
            reached,
            heard: None,
            is_told: false,
            failed: None,
        });
        self.tried.push(node);
        Ok(number)
    }

    /// Whether there may be an attempt beside the one that runs, or instead of it, though it did not fail: one is left then for
    /// a failure.
    pub fn may_overtake(&self) -> bool {
        self.left() > 1 && self.running().count() == 1
    }

    /// How many more attempts there may be.
    pub fn left(&self) -> u8 {
        let counts = |attempt: &&Attempt| match attempt.failed {
            // The gateway took it back for a faster one.
            Some(Reason::Outrun | Reason::Slow) => false,
            Some(Reason::Disconnected) => attempt.reached == attempt.resumed_from,
            Some(_) | None => true,
        };
        let ever = ATTEMPTS_EVER.saturating_sub(self.attempts.len());
        let spent = self.attempts.iter().filter(counts).count();
        u8::try_from(usize::from(ATTEMPTS_MAX).saturating_sub(spent).min(ever)).unwrap_or(0)
    }

    /// What a frame is worth that says `count` tokens of the task exist, those of earlier attempts included. Changes
    /// nothing: what is taken is told with `progress`.
    pub fn accept(&self, node: NodeId, attempt: u8, count: TokenCount) -> Accepted {
        match self.attempts.get(usize::from(attempt)) {
            Some(known) if known.node == node && known.failed.is_some() => return Accepted::Stale,
            Some(known) if known.node == node => {}
            Some(_) | None => return Accepted::Wrong,
        }
        match count.0.checked_sub(self.delivered.0) {
            Some(new) if count <= self.limits.output_max => Accepted::New(new),
            Some(_) | None => Accepted::Wrong,
        }
    }

    /// The attempt delivered `count` tokens of the task by now, those before it included. Without a new token the time between
    /// tokens runs on. Whoever else runs is outrun: its number and its node.
    pub fn progress(&mut self, attempt: u8, now: Timestamp, count: TokenCount) -> Option<(u8, NodeId)> {
        let delivered = self.delivered;
        let known = self.attempts.get_mut(usize::from(attempt)).filter(|_| count > delivered)?;
        known.reached = count;
        let gap = Micros(known.expected.token.0.saturating_mul(u64::from(count.0 - delivered.0)));
        let first = Heard { first: now, first_reached: count, last: now, gap };
        let next = |heard: Heard| Heard { last: now, gap: heard.gap.max(now.since(heard.last)), ..heard };
        known.heard = Some(known.heard.map_or(first, next));
        self.delivered = count;
        self.outrun(attempt)
    }

    /// Another time without a token is expected of an attempt that has not begun.
    pub fn expect(&mut self, attempt: u8, late_after: Micros) {
        let waiting =
            self.attempts.get_mut(usize::from(attempt)).filter(|known| known.heard.is_none() && !known.is_told);
        if let Some(known) = waiting {
            known.expected.late_after = late_after;
        }
    }

    /// A late attempt is told of; `false` if it was before.
    pub fn tell(&mut self, attempt: u8) -> bool {
        let known = self.attempts.get_mut(usize::from(attempt));
        known.is_some_and(|known| !core::mem::replace(&mut known.is_told, true))
    }

    /// Nothing is done about a late attempt now: it is late again after twice the time.
    pub fn wait_on(&mut self, attempt: u8) {
        if let Some(known) = self.attempts.get_mut(usize::from(attempt)) {
            let latest = known.heard.map_or(known.began, |heard| heard.last);
            let so_far = known.late_at().since(latest);
            known.expected.late_after = Micros(so_far.0.saturating_mul(2));
        }
    }

    /// Ends the attempt that runs beside this one, if any: its number and its node.
    pub fn outrun(&mut self, by: u8) -> Option<(u8, NodeId)> {
        let (number, node) = self.running().find(|(number, _)| *number != by)?;
        self.fail(number, Reason::Outrun);
        Some((number, node))
    }

    /// Ends a running attempt; `None` if it does not run. The next one resumes after the delivered tokens.
    pub fn fail(&mut self, attempt: u8, reason: Reason) -> Option<Attempt> {
        let known = self.attempts.get_mut(usize::from(attempt)).filter(|attempt| attempt.failed.is_none())?;
        known.failed = Some(reason);
        let failed = *known;
        if matches!(reason, Reason::Disconnected | Reason::Outrun | Reason::Slow) {
            // Links break at either end, and all at once where the gateway's own network does: who is back may have it again, and
            // so may who was only slower than another.
            self.tried.retain(|node| *node != failed.node);
        }
        Some(failed)
    }

    /// Whether the task's time is up.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.deadline
    }

    /// A running attempt of which a limit has passed, and which.
    pub fn overdue(&self, now: Timestamp) -> Option<(u8, NodeId, Overdue)> {
        let mut running = self.running().filter_map(|(number, node)| Some((number, node, self.get(number)?)));
        running.find_map(|(number, node, attempt)| {
            let (limit, overdue) = self.limit(attempt);
            (now >= limit).then_some((number, node, overdue))
        })
    }

    /// The attempt that runs alone without a token for longer than it should.
    pub fn late(&self, now: Timestamp) -> Option<(u8, NodeId)> {
        let (number, node) = self.alone()?;
        (now >= self.get(number)?.late_at()).then_some((number, node))
    }

    /// When `is_over`, `overdue` or `late` is next worth asking.
    pub fn next_deadline(&self) -> Timestamp {
        let limits = self.running().filter_map(|(number, _)| Some(self.limit(self.get(number)?).0));
        let late = self.alone().and_then(|(number, _)| self.get(number)).map(Attempt::late_at);
        limits.chain(late).fold(self.deadline, Timestamp::min)
    }

    /// When the task's time is up.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// The attempts that run, by number.
    pub fn running(&self) -> impl Iterator<Item = (u8, NodeId)> + '_ {
        let running = (0u8..).zip(&self.attempts).filter(|(_, attempt)| attempt.failed.is_none());
        running.map(|(number, attempt)| (number, attempt.node))
    }

    /// Whether the node's attempt of this number runs.
    pub fn runs(&self, node: NodeId, attempt: u8) -> bool {
        self.get(attempt).is_some_and(|known| known.node == node && known.failed.is_none())
    }

    /// An attempt.
    pub fn get(&self, attempt: u8) -> Option<&Attempt> {
        self.attempts.get(usize::from(attempt))
    }

    /// Tokens delivered so far: where the next attempt resumes.
    pub fn delivered(&self) -> TokenCount {
        self.delivered
    }

    /// The nodes that are not to be given the task again, in order: who has it, and who failed on it otherwise than by losing its
    /// link or being slow.
    pub fn tried(&self) -> &[NodeId] {
        &self.tried
    }

    /// The attempts in order, by their numbers.
    pub fn all(&self) -> &[Attempt] {
        &self.attempts
    }

    fn alone(&self) -> Option<(u8, NodeId)> {
        let mut running = self.running();
        running.next().filter(|_| running.next().is_none())
    }

    fn limit(&self, attempt: &Attempt) -> (Timestamp, Overdue) {
        match attempt.heard {
            None => (attempt.began.after(self.limits.first_token), Overdue::FirstToken),
            Some(heard) => (heard.last.after(self.limits.between_tokens), Overdue::BetweenTokens),
        }
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

    const LATE: Expected = Expected { late_after: Micros::from_secs(5), token: Micros(10_000) };

    fn begun() -> Attempts {
        let mut task = Attempts::new(Limits { output_max: count(100), ..Limits::default() }, at(0));
        assert_eq!(task.begin(A, at(1), LATE), Ok(0));
        task
    }

    fn attempt(node: NodeId, began: u64, from: u32) -> Attempt {
        let (resumed_from, reached) = (count(from), count(from));
        Attempt {
            node,
            resumed_from,
            began: at(began),
            expected: LATE,
            reached,
            heard: None,
            is_told: false,
            failed: None,
        }
    }

    #[test]
    fn a_successor_resumes_after_what_was_delivered() {
        let mut task = begun();
        assert_eq!(task.accept(A, 0, count(3)), Accepted::New(3));
        assert_eq!(task.progress(0, at(2), count(3)), None);
        let heard = Some(Heard { first: at(2), first_reached: count(3), last: at(2), gap: Micros(30_000) });
        let failed = Attempt { reached: count(3), heard, failed: Some(Reason::Disconnected), ..attempt(A, 1, 0) };
        assert_eq!(task.fail(0, Reason::Disconnected), Some(failed));
        assert_eq!(task.begin(B, at(3), LATE), Ok(1));
        assert_eq!(task.all(), [failed, attempt(B, 3, 3)]);
        assert_eq!(task.accept(B, 1, count(4)), Accepted::New(1));
    }

    #[test]
    fn who_was_overtaken_spends_none_of_the_attempts() {
        let mut task = begun();
        for number in 0..3 {
            assert!(task.may_overtake());
            assert_eq!(task.begin(B, at(3), LATE), Ok(number + 1));
            assert!(task.fail(number, Reason::Outrun).is_some());
            assert_eq!(task.left(), 3);
        }
    }

    #[test]
    fn a_link_that_broke_after_a_few_tokens_spends_none_of_the_attempts_but_not_without_end() {
        let mut task = begun();
        for number in 0..7 {
            assert_eq!(task.left(), 3.min(7 - number));
            task.progress(number, at(2), count(u32::from(number) + 1));
            assert!(task.fail(number, Reason::Disconnected).is_some());
            assert_eq!(task.begin(A, at(3), LATE), Ok(number + 1));
        }
        task.progress(7, at(4), count(9));
        assert!(task.fail(7, Reason::Disconnected).is_some());
        assert_eq!(task.begin(A, at(5), LATE), Err(Gate::AttemptsSpent { attempts: 8 }));

        // Nothing came of these.
        let mut task = begun();
        for number in 0..3 {
            assert!(task.fail(number, Reason::Disconnected).is_some());
            assert_eq!(task.begin(A, at(3), LATE), Ok(number + 1));
        }
        assert!(task.fail(3, Reason::Disconnected).is_some());
        assert_eq!(task.begin(A, at(5), LATE), Err(Gate::AttemptsSpent { attempts: 4 }));
    }

    #[test]
    fn who_brings_the_next_token_first_goes_on_alone() {
        for first in [0, 1] {
            let mut task = begun();
            task.progress(0, at(2), count(3));
            assert_eq!(task.begin(B, at(9), LATE), Ok(1));
            assert_eq!(task.begin(A, at(9), LATE), Err(Gate::AttemptsSpent { attempts: 2 }));
            let nodes = [A, B];
            let other = 1 - first;
            assert_eq!(task.accept(nodes[first], first as u8, count(4)), Accepted::New(1));
            assert_eq!(task.progress(first as u8, at(10), count(4)), Some((other as u8, nodes[other])));
            assert_eq!(task.accept(nodes[other], other as u8, count(5)), Accepted::Stale);
            assert_eq!(task.running().collect::<Vec<_>>(), [(first as u8, nodes[first])]);
            let reached: Vec<u32> = task.all().iter().map(|attempt| attempt.reached.0).collect();
            assert_eq!(reached, if first == 0 { [4, 3] } else { [3, 4] });
        }
    }

    #[test]
    fn an_attempt_is_late_when_it_has_no_token_for_longer_than_it_should() {
        let mut task = begun();
        assert_eq!((task.late(at(5)), task.next_deadline()), (None, at(6)));
        assert_eq!(task.late(at(6)), Some((0, A)));
        task.progress(0, at(7), count(1));
        assert_eq!((task.late(at(11)), task.late(at(12))), (None, Some((0, A))));
        // Two run: none is late.
        assert_eq!(task.begin(B, at(12), LATE), Ok(1));
        assert_eq!((task.late(at(25)), task.next_deadline()), (None, at(27)));
    }

    #[test]
    fn who_sends_seldom_is_late_later() {
        let mut task = begun();
        task.progress(0, at(2), count(1));
        task.progress(0, at(5), count(2));
        task.progress(0, at(6), count(3));
        assert_eq!((task.late(at(17)), task.late(at(18))), (None, Some((0, A))));
    }

    #[test]
    fn what_is_borne_is_late_again_after_twice_the_time() {
        let mut task = begun();
        task.wait_on(0);
        assert_eq!((task.late(at(10)), task.late(at(11))), (None, Some((0, A))));
        task.wait_on(0);
        assert_eq!((task.late(at(20)), task.late(at(21))), (None, Some((0, A))));
    }

    #[test]
    fn one_attempt_is_left_for_a_failure() {
        let mut task = begun();
        assert!(task.may_overtake());
        assert_eq!(task.begin(B, at(2), LATE), Ok(1));
        assert!(!task.may_overtake());
        task.fail(0, Reason::NodeError);
        assert!(task.may_overtake());
        task.fail(1, Reason::NodeError);
        assert_eq!(task.begin(A, at(3), LATE), Ok(2));
        assert!(!task.may_overtake());
    }

    #[test]
    fn speed_is_told_from_the_first_token_on() {
        let mut task = begun();
        assert_eq!(task.all()[0].streamed(), None);
        task.progress(0, at(3), count(10));
        task.progress(0, at(5), count(30));
        let streamed = Some((count(20), Micros::from_secs(2)));
        assert_eq!(task.all()[0].streamed(), streamed);
    }

    #[test]
    fn who_only_lost_its_link_may_have_the_task_again() {
        let mut task = begun();
        task.fail(0, Reason::NodeError);
        assert_eq!(task.begin(B, at(2), LATE), Ok(1));
        assert_eq!(task.tried(), [A, B]);
        task.fail(1, Reason::Disconnected);
        assert_eq!(task.tried(), [A]);
    }

    #[test]
    fn a_late_frame_of_an_abandoned_attempt_is_stale() {
        let mut task = begun();
        task.fail(0, Reason::FirstToken);
        assert_eq!(task.accept(A, 0, count(1)), Accepted::Stale);
        assert_eq!(task.begin(B, at(3), LATE), Ok(1));
        assert_eq!(task.accept(A, 0, count(1)), Accepted::Stale);
    }

    #[test]
    fn a_node_speaks_only_for_its_own_attempt() {
        let mut task = begun();
        assert_eq!(task.accept(B, 0, count(1)), Accepted::Wrong);
        assert_eq!(task.accept(A, 1, count(1)), Accepted::Wrong);
        task.fail(0, Reason::Disconnected);
        assert_eq!(task.begin(A, at(2), LATE), Ok(1));
        assert_eq!(task.accept(A, 0, count(1)), Accepted::Stale);
        assert_eq!(task.accept(A, 1, count(1)), Accepted::New(1));
    }

    #[test]
    fn counts_that_go_back_or_past_the_limit_are_wrong() {
        let mut task = begun();
        task.progress(0, at(2), count(5));
        assert_eq!(task.accept(A, 0, count(4)), Accepted::Wrong);
        assert_eq!(task.accept(A, 0, count(5)), Accepted::New(0));
        assert_eq!(task.accept(A, 0, count(100)), Accepted::New(95));
        assert_eq!(task.accept(A, 0, count(101)), Accepted::Wrong);
    }

    #[test]
    fn each_limit_passes_at_its_own_time() {
        let mut task = begun();
        assert_eq!((task.next_deadline(), task.overdue(at(60))), (at(6), None));
        assert_eq!(task.overdue(at(61)), Some((0, A, Overdue::FirstToken)));
        task.progress(0, at(10), count(1));
        assert_eq!((task.next_deadline(), task.overdue(at(29))), (at(15), None));
        assert_eq!(task.overdue(at(30)), Some((0, A, Overdue::BetweenTokens)));
        task.fail(0, Reason::BetweenTokens);
        assert_eq!((task.next_deadline(), task.is_over(at(599))), (at(600), false));
        assert!(task.is_over(at(600)));
    }

    #[test]
    fn frames_without_tokens_buy_no_time() {
        let mut task = begun();
        task.progress(0, at(2), count(1));
        task.progress(0, at(15), count(1));
        assert_eq!((task.next_deadline(), task.overdue(at(22))), (at(7), Some((0, A, Overdue::BetweenTokens))));
    }

    #[test]
    fn a_resumed_attempt_has_the_time_of_a_first_token_again() {
        let mut task = begun();
        task.progress(0, at(2), count(1));
        task.fail(0, Reason::Disconnected);
        assert_eq!(task.begin(B, at(100), LATE), Ok(1));
        assert_eq!((task.overdue(at(159)), task.overdue(at(160))), (None, Some((1, B, Overdue::FirstToken))));
    }

    #[test]
    fn attempts_are_limited_and_a_second_end_of_one_is_nothing() {
        let mut task = begun();
        assert!(task.fail(0, Reason::NodeError).is_some());
        assert_eq!(task.fail(0, Reason::NodeError), None);
        for number in 1..4 {
            assert_eq!(task.begin(B, at(2), LATE), Ok(number));
            task.fail(number, Reason::NodeError);
        }
        assert_eq!(task.begin(B, at(2), LATE), Err(Gate::AttemptsSpent { attempts: 4 }));
        assert_eq!(task.tried().len(), 4);
    }
}
