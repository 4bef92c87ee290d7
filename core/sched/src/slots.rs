//! A node's slots for one variant, divided among the gateways that it serves.
//!
//! What gateways were granted and have not used, and what runs for them, is never more than there are slots. Each is due an equal
//! part; who uses less leaves the rest to those who use all they get, and keeps one slot. A slot that comes free goes to whoever is
//! due more. One that lies unused at a gateway is taken back if another has used all of its own: the gateway is asked, and no slot moves before it answers.
//!
//! Source: max-min fairness as in D. Bertsekas, R. Gallager, "Data Networks", 2nd edition, 1992, section 6.5.2. What a
//! gateway wants isn't known here, so it is taken for half more than it used at most lately.

use crate::offer::SLOTS_MAX;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use ol_protocol::{GatewayId, Micros, Timestamp};

/// What a gateway used at most is remembered for one to two of these: longer than a pause between requests of one client, short enough
/// that slots are not kept for who went away.
const WINDOW: Micros = Micros::from_secs(5);
/// Time in which a gateway answers that it gave slots back: a round trip, and whatever holds its loop up.
const ANSWER_LIMIT: Micros = Micros::from_secs(5);
/// How often the division is looked at while a gateway has used all that it has.
const LOOK: Micros = Micros::from_secs(1);
/// Where there are fewer slots than gateways: how long a gateway without one waits until it has a turn whether or not it used one
/// lately. Each turn costs three frames.
const TURN_EVERY: Micros = Micros::from_secs(30);
/// How long such a turn lasts if it is not used: a gateway with a task that waits uses it at once.
const TURN: Micros = Micros::from_secs(1);

/// What a gateway is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// That it may have sent so many tasks in all.
    Grant {
        /// Which.
        gateway: GatewayId,
        /// The cumulative number.
        total: u64,
    },
    /// That it is to send no more than so many in all, but for those that it has sent.
    Withdraw {
        /// Which.
        gateway: GatewayId,
        /// The cumulative number.
        total: u64,
    },
    /// Nothing any more: it was asked for slots and did not answer, so its link is to be closed.
    Close {
        /// Which.
        gateway: GatewayId,
    },
}

impl Change {
    /// Which gateway is told.
    pub const fn gateway(&self) -> GatewayId {
        match self {
            Self::Grant { gateway, .. } | Self::Withdraw { gateway, .. } | Self::Close { gateway } => *gateway,
        }
    }
}

/// The slots of one variant. O(n log n) per call of `balance` for n gateways, O(log n) for the others.
#[derive(Debug, Clone)]
pub struct Slots {
    size: u64,
    holds: BTreeMap<GatewayId, Hold>,
    next_look: Option<Timestamp>,
}

// What one gateway has.
#[derive(Debug, Clone, Copy, Default)]
struct Hold {
    is_linked: bool,
    // Whether it is granted anything.
    takes: bool,
    // Counted since the link began.
    granted: u64,
    received: u64,
    // Those of an earlier link, too, until they end.
    running: u64,
    asked: Option<Asked>,
    // The most that ran at once in a window and in the one before it.
    peaks: [u64; 2],
    window: u64,
    // Whether it has any slot, and since when.
    has_any: bool,
    since: Timestamp,
}

// Slots that a gateway was asked to give back.
#[derive(Debug, Clone, Copy)]
struct Asked {
    total: u64,
    // Nothing once it was too long.
    until: Option<Timestamp>,
}

impl Hold {
    fn unused(&self) -> u64 {
        self.granted - self.received
    }

    fn held(&self) -> u64 {
        self.unused() + self.running
    }

    // It would use more.
    fn is_short(&self, due: u64) -> bool {
        self.takes && self.unused() == 0 && self.held() < due
    }

    // What comes back with its answer, at least.
    fn coming(&self) -> u64 {
        self.asked.map_or(0, |asked| self.granted - asked.total.max(self.received))
    }

    fn peak(&self, now: Timestamp) -> u64 {
        let [current, before] = self.peaks;
        let lately = match (now.0 / WINDOW.0).saturating_sub(self.window) {
            0 => current.max(before),
            1 => current,
            _ => 0,
        };
        lately.max(self.running)
    }

    fn observe(&mut self, now: Timestamp) {
        let window = now.0 / WINDOW.0;
        let [current, before] = self.peaks;
        self.peaks = match window.saturating_sub(self.window) {
            0 => [current.max(self.running), before],
            1 => [self.running, current],
            _ => [self.running, 0],
        };
        self.window = self.window.max(window);
    }

    fn wants(&self, now: Timestamp) -> u64 {
        let peak = self.peak(now);
        1 + peak + peak / 2
    }

    // Who goes first where there is not one slot for each: the highest.
    fn turn(&self, now: Timestamp) -> u8 {
        let since = now.since(self.since);
        let is_begun = self.has_any && since < TURN;
        let is_due = !self.has_any && since >= TURN_EVERY;
        match (is_begun || is_due, self.peak(now) > 0) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    fn settle(&mut self, now: Timestamp) {
        let has_any = self.held() > 0;
        if core::mem::replace(&mut self.has_any, has_any) != has_any {
            self.since = now;
        }
    }
}

impl Slots {
    /// So many slots; of more than a gateway may be granted at once the rest is not used.
    pub fn new(size: u32) -> Self {
        Self { size: u64::from(size).min(SLOTS_MAX), holds: BTreeMap::new(), next_look: None }
    }

    /// A gateway's link is up. Its counts begin anew.
    pub fn link(&mut self, now: Timestamp, gateway: GatewayId) {
        let hold = self.holds.entry(gateway).or_default();
        *hold = Hold { is_linked: true, takes: true, running: hold.running, since: now, ..Hold::default() };
        hold.settle(now);
    }

    /// A gateway's link is gone, and what it was granted with it. What runs keeps its slots until it ends.
    pub fn unlink(&mut self, now: Timestamp, gateway: GatewayId) {
        let Some(hold) = self.holds.get_mut(&gateway) else { return };
        *hold = Hold { running: hold.running, since: now, ..Hold::default() };
        self.holds.retain(|_, hold| hold.is_linked || hold.running > 0);
    }

    /// Whether a gateway is granted anything from now on.
    pub fn set_takes(&mut self, gateway: GatewayId, takes: bool) {
        if let Some(hold) = self.holds.get_mut(&gateway) {
            hold.takes = takes && hold.is_linked;
        }
    }

    /// A task came. False if its gateway had been granted none.
    pub fn receive(&mut self, now: Timestamp, gateway: GatewayId) -> bool {
        let Some(hold) = self.holds.get_mut(&gateway).filter(|hold| hold.is_linked) else { return false };
        let is_granted = hold.received < hold.granted;
        hold.received += 1;
        // The gateway counts what it sent, granted or not, and so do totals from here on.
        hold.granted = hold.granted.max(hold.received);
        hold.settle(now);
        is_granted
    }

    /// The task that was received last begins: it takes the slot that it was granted.
    pub fn begin(&mut self, now: Timestamp, gateway: GatewayId) {
        let Some(hold) = self.holds.get_mut(&gateway) else { return };
        hold.running += 1;
        hold.observe(now);
        hold.settle(now);
        self.check();
    }

    /// A task that began has ended.
    pub fn end(&mut self, now: Timestamp, gateway: GatewayId) {
        let Some(hold) = self.holds.get_mut(&gateway) else { return };
        hold.observe(now);
        hold.running = hold.running.saturating_sub(1);
        hold.settle(now);
        self.holds.retain(|_, hold| hold.is_linked || hold.running > 0);
    }

    /// A gateway gave back what it was asked for. As frames keep their order, all that it had sent before has come.
    pub fn withdrawn(&mut self, now: Timestamp, gateway: GatewayId) {
        let Some(hold) = self.holds.get_mut(&gateway) else { return };
        if let Some(asked) = hold.asked.take() {
            hold.granted = asked.total.max(hold.received);
            hold.settle(now);
        }
    }

    /// How many tasks a gateway may have sent in all, as it is told with other frames.
    pub fn total(&self, gateway: GatewayId) -> u64 {
        let of = |hold: &Hold| hold.asked.map_or(hold.granted, |asked| asked.total.max(hold.received));
        self.holds.get(&gateway).map_or(0, of)
    }

    /// What runs, and what may come: never more than there are slots.
    pub fn held(&self) -> u64 {
        self.holds.values().map(Hold::held).sum()
    }

    /// Grants what is free, and asks for unused slots that another gateway is due.
    pub fn balance(&mut self, now: Timestamp, out: &mut Vec<Change>) {
        let due = self.due(now);
        self.grant(now, &due, out);
        self.take_back(now, &due, out);
        for (&gateway, hold) in &mut self.holds {
            if let Some(asked) = &mut hold.asked
                && asked.until.is_some_and(|until| until <= now)
            {
                asked.until = None;
                out.push(Change::Close { gateway });
            }
        }
        self.check();
        let answers = self.holds.values().filter_map(|hold| hold.asked?.until).min();
        let others = self.holds.values().filter(|hold| hold.takes).count() > 1;
        let look = others && self.holds.values().any(|hold| hold.takes && hold.unused() == 0);
        self.next_look = answers.into_iter().chain(look.then(|| now.after(LOOK))).min();
    }

    /// When to call `balance` again, if nothing happens before.
    pub const fn deadline(&self) -> Option<Timestamp> {
        self.next_look
    }

    fn check(&self) {
        assert!(self.held() <= self.size, "more slots promised than there are");
    }

    // What each gateway is to hold that is granted anything: all slots together.
    fn due(&self, now: Timestamp) -> BTreeMap<GatewayId, u64> {
        let mut open: Vec<(GatewayId, Hold)> =
            self.holds.iter().filter(|(_, hold)| hold.takes).map(|(&id, &hold)| (id, hold)).collect();
        let elsewhere: u64 = self.holds.values().filter(|hold| !hold.takes).map(|hold| hold.running).sum();
        let mut rest = self.size.saturating_sub(elsewhere);
        match rest < open.len() as u64 {
            true => open.sort_by_key(|(id, hold)| (hold.turn(now), Reverse(hold.since), *id)),
            // Who holds more keeps a slot that can't be divided.
            false => open.sort_by_key(|(id, hold)| (hold.wants(now), hold.held(), *id)),
        }
        let mut due = BTreeMap::new();
        // What nobody wants is granted, too: the next tasks need not wait for it.
        for is_surplus in [false, true] {
            for (left, (id, hold)) in (1..=open.len() as u64).rev().zip(&open) {
                let part = if is_surplus { rest / left } else { (rest / left).min(hold.wants(now)) };
                rest -= part;
                *due.entry(*id).or_default() += part;
            }
        }
        due
    }

    // Who has used all goes first, then who holds least.
    fn grant(&mut self, now: Timestamp, due: &BTreeMap<GatewayId, u64>, out: &mut Vec<Change>) {
        let mut free = self.size - self.held();
        let mut lacking: Vec<(bool, u64, GatewayId)> = due
            .iter()
            .filter_map(|(id, due)| self.holds.get(id).filter(|hold| hold.held() < *due).map(|hold| (hold, *id)))
            .filter(|(hold, _)| hold.asked.is_none())
            .map(|(hold, id)| (hold.unused() > 0, hold.held(), id))
            .collect();
        lacking.sort_unstable();
        for (_, held, gateway) in lacking {
            let Some(hold) = self.holds.get_mut(&gateway) else { continue };
            let more = free.min(due.get(&gateway).map_or(0, |due| due - held));
            if more == 0 {
                break;
            }
            free -= more;
            hold.granted += more;
            hold.settle(now);
            out.push(Change::Grant { gateway, total: hold.granted });
        }
    }

    fn take_back(&mut self, now: Timestamp, due: &BTreeMap<GatewayId, u64>, out: &mut Vec<Change>) {
        let due_to = |id: &GatewayId| due.get(id).copied().unwrap_or_default();
        let short: u64 = self
            .holds
            .iter()
            .filter(|(id, hold)| hold.is_short(due_to(id)))
            .map(|(id, hold)| due_to(id) - hold.held())
            .sum();
        let coming: u64 = self.holds.values().map(Hold::coming).sum();
        let mut missing = short.saturating_sub(coming);
        for (&gateway, hold) in self.holds.iter_mut().filter(|(_, hold)| hold.asked.is_none()) {
            let over = hold.held().saturating_sub(due_to(&gateway));
            let back = over.min(hold.unused()).min(missing);
            if back > 0 {
                missing -= back;
                let total = hold.granted - back;
                hold.asked = Some(Asked { total, until: Some(now.after(ANSWER_LIMIT)) });
                out.push(Change::Withdraw { gateway, total });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: GatewayId = GatewayId([1; 32]);
    const SECOND: GatewayId = GatewayId([2; 32]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn balanced(slots: &mut Slots, now: Timestamp) -> Vec<Change> {
        let mut out = Vec::new();
        slots.balance(now, &mut out);
        out
    }

    fn linked(size: u32, gateways: &[GatewayId]) -> Slots {
        let mut slots = Slots::new(size);
        gateways.iter().for_each(|gateway| slots.link(at(0), *gateway));
        balanced(&mut slots, at(0));
        slots
    }

    // Tasks of a gateway that begin at once.
    fn begin(slots: &mut Slots, now: Timestamp, gateway: GatewayId, count: u64) {
        for _ in 0..count {
            assert!(slots.receive(now, gateway));
            slots.begin(now, gateway);
        }
    }

    fn total(slots: &Slots) -> [u64; 2] {
        [slots.total(FIRST), slots.total(SECOND)]
    }

    #[test]
    fn one_gateway_is_granted_all_slots_and_each_again_that_comes_free() {
        let mut slots = Slots::new(4);
        slots.link(at(0), FIRST);
        assert_eq!(balanced(&mut slots, at(0)), [Change::Grant { gateway: FIRST, total: 4 }]);
        begin(&mut slots, at(0), FIRST, 4);
        assert_eq!((balanced(&mut slots, at(0)), slots.deadline()), (Vec::new(), None));
        slots.end(at(1), FIRST);
        assert_eq!(balanced(&mut slots, at(1)), [Change::Grant { gateway: FIRST, total: 5 }]);
        assert!(slots.receive(at(1), FIRST) && !slots.receive(at(1), FIRST));
    }

    #[test]
    fn idle_gateways_share_evenly_and_a_busy_one_takes_all_but_one_slot_each() {
        let mut slots = linked(8, &[FIRST, SECOND]);
        assert_eq!(total(&slots), [4, 4]);
        begin(&mut slots, at(1), FIRST, 4);
        // It used four, and is taken to want seven.
        assert_eq!(balanced(&mut slots, at(1)), [Change::Withdraw { gateway: SECOND, total: 1 }]);
        // Nothing moves before the answer.
        assert_eq!((balanced(&mut slots, at(1)), total(&slots)), (Vec::new(), [4, 1]));
        slots.withdrawn(at(1), SECOND);
        assert_eq!(balanced(&mut slots, at(1)), [Change::Grant { gateway: FIRST, total: 7 }]);
        assert_eq!(slots.held(), 8);
    }

    #[test]
    fn tasks_that_cross_a_withdrawal_keep_their_slots() {
        let mut slots = linked(8, &[FIRST, SECOND]);
        begin(&mut slots, at(1), FIRST, 4);
        balanced(&mut slots, at(1));
        // Three were under way when it was asked for three of its four.
        begin(&mut slots, at(1), SECOND, 3);
        slots.withdrawn(at(1), SECOND);
        assert_eq!((slots.total(SECOND), slots.held()), (3, 7));
        assert_eq!(balanced(&mut slots, at(1)), [Change::Grant { gateway: SECOND, total: 4 }]);
    }

    #[test]
    fn a_gateway_that_begins_to_work_again_gets_its_half_back_task_by_task() {
        let mut slots = linked(4, &[FIRST, SECOND]);
        begin(&mut slots, at(1), FIRST, 2);
        balanced(&mut slots, at(1));
        slots.withdrawn(at(1), SECOND);
        balanced(&mut slots, at(1));
        begin(&mut slots, at(1), FIRST, 1);
        assert_eq!((balanced(&mut slots, at(1)), total(&slots)), (Vec::new(), [3, 1]));
        begin(&mut slots, at(2), SECOND, 1);
        // All slots are in use: the next that comes free is the second's, and the one after it the first's.
        assert_eq!(balanced(&mut slots, at(2)), []);
        slots.end(at(3), FIRST);
        assert_eq!(balanced(&mut slots, at(3)), [Change::Grant { gateway: SECOND, total: 2 }]);
        begin(&mut slots, at(3), SECOND, 1);
        slots.end(at(4), FIRST);
        assert_eq!(balanced(&mut slots, at(4)), [Change::Grant { gateway: FIRST, total: 4 }]);
    }

    #[test]
    fn what_was_used_is_forgotten_and_the_rest_goes_to_who_uses_it() {
        let mut slots = linked(4, &[FIRST, SECOND]);
        begin(&mut slots, at(1), SECOND, 2);
        slots.end(at(1), SECOND);
        slots.end(at(1), SECOND);
        balanced(&mut slots, at(1));
        begin(&mut slots, at(2), FIRST, 2);
        // The second worked a moment ago.
        assert_eq!((balanced(&mut slots, at(2)), slots.deadline()), (Vec::new(), Some(at(3))));
        assert_eq!(balanced(&mut slots, at(10)), [Change::Withdraw { gateway: SECOND, total: 3 }]);
    }

    #[test]
    fn slots_of_a_gateway_that_went_are_the_others_and_what_runs_for_it_keeps_its_own() {
        let mut slots = linked(4, &[FIRST, SECOND]);
        begin(&mut slots, at(1), SECOND, 1);
        slots.unlink(at(2), SECOND);
        assert_eq!(balanced(&mut slots, at(2)), [Change::Grant { gateway: FIRST, total: 3 }]);
        slots.end(at(3), SECOND);
        assert_eq!(balanced(&mut slots, at(3)), [Change::Grant { gateway: FIRST, total: 4 }]);
        // It is back: one of the slots that are not used is asked for, as it has none.
        slots.link(at(4), SECOND);
        assert_eq!(balanced(&mut slots, at(4)), [Change::Withdraw { gateway: FIRST, total: 2 }]);
    }

    #[test]
    fn a_gateway_that_gives_nothing_back_loses_its_link_and_then_its_slots() {
        let mut slots = linked(8, &[FIRST, SECOND]);
        begin(&mut slots, at(1), FIRST, 4);
        balanced(&mut slots, at(1));
        assert_eq!(slots.deadline(), Some(at(2)));
        assert_eq!(balanced(&mut slots, at(11)), [Change::Close { gateway: SECOND }]);
        assert_eq!(balanced(&mut slots, at(12)), []);
        slots.unlink(at(12), SECOND);
        assert_eq!(balanced(&mut slots, at(12)), [Change::Grant { gateway: FIRST, total: 8 }]);
    }

    #[test]
    fn a_gateway_that_is_granted_nothing_keeps_nothing_from_the_others() {
        let mut slots = linked(4, &[FIRST, SECOND]);
        slots.set_takes(SECOND, false);
        begin(&mut slots, at(1), FIRST, 2);
        assert_eq!(balanced(&mut slots, at(1)), [Change::Withdraw { gateway: SECOND, total: 0 }]);
        slots.withdrawn(at(1), SECOND);
        assert_eq!(balanced(&mut slots, at(1)), [Change::Grant { gateway: FIRST, total: 4 }]);
    }

    #[test]
    fn one_slot_is_used_in_turn_by_gateways_with_work_and_now_and_then_offered_to_the_other() {
        let mut slots = linked(1, &[FIRST, SECOND]);
        let [first, second] = total(&slots);
        assert_eq!(first + second, 1);
        let (busy, idle) = if first == 1 { (FIRST, SECOND) } else { (SECOND, FIRST) };
        // The other has no work that anybody knew of: it waits for its turn.
        for second in 1..=29 {
            begin(&mut slots, at(second), busy, 1);
            slots.end(at(second), busy);
            let again = slots.total(busy) + 1;
            assert_eq!(balanced(&mut slots, at(second)), [Change::Grant { gateway: busy, total: again }]);
        }
        begin(&mut slots, at(30), busy, 1);
        slots.end(at(30), busy);
        assert_eq!(balanced(&mut slots, at(30)), [Change::Grant { gateway: idle, total: 1 }]);
        // It does not use it.
        assert_eq!(balanced(&mut slots, at(31)), [Change::Withdraw { gateway: idle, total: 0 }]);
        slots.withdrawn(at(31), idle);
        assert_eq!(balanced(&mut slots, at(31)), [Change::Grant { gateway: busy, total: 31 }]);
        // With work on both sides every other task is theirs.
        begin(&mut slots, at(61), busy, 1);
        slots.end(at(62), busy);
        assert_eq!(balanced(&mut slots, at(62)), [Change::Grant { gateway: idle, total: 1 }]);
        for second in 63..=80 {
            let (one, other) = if second % 2 == 1 { (idle, busy) } else { (busy, idle) };
            begin(&mut slots, at(second), one, 1);
            slots.end(at(second), one);
            let next = slots.total(other) + 1;
            assert_eq!(balanced(&mut slots, at(second)), [Change::Grant { gateway: other, total: next }]);
        }
    }

    #[test]
    fn hostile_numbers_of_tasks_and_answers_change_nothing() {
        let mut slots = linked(2, &[FIRST, SECOND]);
        assert!(slots.receive(at(1), FIRST));
        assert!(!slots.receive(at(1), FIRST));
        assert!(!slots.receive(at(1), GatewayId([3; 32])));
        slots.withdrawn(at(1), FIRST);
        slots.withdrawn(at(1), GatewayId([3; 32]));
        slots.end(at(1), FIRST);
        assert_eq!((slots.held(), total(&slots)), (1, [2, 1]));
        assert_eq!(balanced(&mut slots, at(1)), [Change::Grant { gateway: FIRST, total: 3 }]);
        assert_eq!(Slots::new(u32::MAX).size, SLOTS_MAX);
    }
}
