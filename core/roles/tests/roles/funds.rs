//! Money that is shared with other gateways: taken in parts, ahead of need, and never waited for in vain.

use crate::world::{Bench, FUNDS, TENANT, WORST, assigned, refused, submission, task, top_up};
use ol_protocol::top_up::{Funded, Slice};
use ol_protocol::{MicroCredits, Micros};
use ol_roles::gateway::event::{Input, Output, Refusal, Submission};
use ol_sched::Gate;

const CREDIT: u64 = 1_000_000;

fn part(from: u64, amount: u64) -> Slice {
    Slice { from: MicroCredits(from), amount: MicroCredits(amount), ..top_up(2, 10 * CREDIT, 2) }
}

fn claim(serial: u64, end: u64) -> Output {
    let booked = Some(Funded { serial, end: MicroCredits(end) });
    Output::Claim { tenant: TENANT, amount: MicroCredits(CREDIT), booked }
}

// A request that costs more than the tenant has here.
fn dear(n: u8) -> Submission {
    let price = ol_protocol::Price { output_per_million: MicroCredits(2 * FUNDS * 10_000), ..submission(n).price };
    Submission { price, ..submission(n) }
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.join(10);
    bench.wait(Micros::from_secs(2));
    bench
}

#[test]
fn requests_wait_for_the_next_part_of_what_was_bought_and_go_on_when_it_comes() {
    let mut bench = bench();
    assert_eq!(bench.feed_only(Input::Submitted(dear(1))), [claim(1, FUNDS)]);
    assert_eq!(bench.feed_only(Input::Submitted(dear(2))), [], "one question is enough");
    assert_eq!(bench.gateway.active(), 2);
    let out = bench.feed_only(Input::TopUp(part(0, CREDIT)));
    assert_eq!(assigned(&out).map(|to| to.attempt.task), Some(task(1)));
    assert_eq!((refused(&out), bench.gateway.queued()), (None, 1));
}

#[test]
fn a_part_that_is_too_small_is_followed_by_the_next() {
    let mut bench = bench();
    bench.feed_only(Input::Submitted(dear(1)));
    let out = bench.feed_only(Input::TopUp(part(0, 1)));
    assert!(out.contains(&claim(2, 1)) && assigned(&out).is_none());
    let out = bench.feed_only(Input::TopUp(part(7 * CREDIT, CREDIT)));
    assert!(assigned(&out).is_some());
}

#[test]
fn where_nothing_is_left_a_request_is_refused_and_nobody_asks_again_for_a_second() {
    let mut bench = bench();
    bench.feed_only(Input::Submitted(dear(1)));
    let out = bench.feed_only(Input::NoFunds { tenant: TENANT, is_unknown: false });
    let refusal = |out: &[Output]| matches!(refused(out), Some(Refusal::Budget(Gate::BudgetEmpty { .. })));
    assert!(refusal(&out));
    let out = bench.feed_only(Input::Submitted(dear(2)));
    assert!(refusal(&out) && out.len() == 1, "{out:?}");
    bench.wait(Micros::from_secs(1));
    assert_eq!(bench.feed_only(Input::Submitted(dear(3))), [claim(1, FUNDS)]);
}

#[test]
fn who_can_not_be_told_what_is_left_may_try_again() {
    let mut bench = bench();
    bench.feed_only(Input::Submitted(dear(1)));
    let out = bench.feed_only(Input::NoFunds { tenant: TENANT, is_unknown: true });
    assert_eq!(refused(&out), Some(Refusal::Busy(vec![Gate::BudgetUnknown])));
    assert_eq!(bench.gateway.active(), 0);
}

#[test]
fn a_client_that_leaves_while_its_request_waits_for_money_spends_none() {
    let mut bench = bench();
    bench.feed_only(Input::Submitted(dear(1)));
    assert_eq!(bench.feed_only(Input::ClientGone { task: task(1) }), []);
    let out = bench.feed_only(Input::TopUp(part(0, CREDIT)));
    assert_eq!((assigned(&out), bench.available()), (None, FUNDS + CREDIT));
}

#[test]
fn the_next_part_is_asked_for_before_the_last_is_spent() {
    let mut bench = bench();
    let out = bench.feed_only(Input::Submitted(submission(1)));
    assert!(out.contains(&claim(1, FUNDS)) && assigned(&out).is_some());
    bench.feed_only(Input::TopUp(part(0, CREDIT)));
    assert_eq!(bench.available(), FUNDS + CREDIT - WORST);
    let out = bench.feed_only(Input::Submitted(submission(2)));
    assert!(!out.iter().any(|output| matches!(output, Output::Claim { .. })), "there is enough");
}

#[test]
fn a_part_that_the_ledger_refuses_is_no_money() {
    let mut bench = bench();
    bench.feed_only(Input::Submitted(dear(1)));
    let out = bench.feed_only(Input::TopUp(part(10 * CREDIT, CREDIT)));
    assert!(matches!(out[0], Output::Denied { .. }) && refused(&out).is_some());
    assert_eq!(bench.available(), FUNDS);
}

#[test]
fn who_waits_for_money_beyond_its_deadline_is_told() {
    let mut bench = bench();
    let hasty = Submission { deadline: Micros::from_secs(3), ..dear(1) };
    bench.feed_only(Input::Submitted(hasty));
    bench.now = bench.now.after(Micros::from_secs(2));
    assert_eq!(refused(&bench.feed_only(Input::Tick)), None);
    bench.now = bench.now.after(Micros::from_secs(1));
    assert_eq!(refused(&bench.feed_only(Input::Tick)), Some(Refusal::Deadline));
    assert_eq!(bench.gateway.active(), 0);
}
