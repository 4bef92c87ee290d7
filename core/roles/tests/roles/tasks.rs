//! Tasks: failover, budget, clients that go, nodes that leave.

use crate::world::{
    Assigned, Bench, FUNDS, PROMPT, WORST, assigned, commitment, finished, node, refused, submission, task, two_nodes,
};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::{MicroCredits, Micros, NodeId, TokenCount};
use ol_roles::gateway::event::{Input, Output, Refusal};
use ol_roles::node::FailCode;
use ol_sched::Gate;

fn other(of: NodeId) -> NodeId {
    if of == node(10) { node(11) } else { node(10) }
}

// A task whose first node left after 5 tokens, on its second.
fn moved(bench: &mut Bench) -> (Assigned, Assigned) {
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    let out = bench.feed(Input::NodeLeft { node: first.node });
    let second = assigned(&out).expect("the other node takes it");
    (first, second)
}

#[test]
fn a_stream_resumes_on_another_node_where_it_was_delivered_to() {
    let mut bench = two_nodes();
    let (first, second) = moved(&mut bench);
    assert_eq!((second.node, second.attempt.attempt, second.resumed_from), (other(first.node), 1, 5));
    let out = bench.progress(&second, 8, 3);
    assert_eq!(out, [Output::Relay { attempt: second.attempt, count: TokenCount(8) }]);
    let out = bench.done(&commitment(&second, 8, Finish::EndOfText));
    let finished = finished(&out).expect("it ends");
    assert_eq!((finished.attempts, finished.output_tokens, finished.charge), (2, TokenCount(8), MicroCredits(18)));
}

#[test]
fn a_task_whose_nodes_all_lost_their_links_goes_on_with_the_first_that_may_work_again() {
    let mut bench = two_nodes();
    let (first, second) = moved(&mut bench);
    assert_eq!(assigned(&bench.feed(Input::NodeLeft { node: second.node })), None);
    for n in [10, 11] {
        assert_eq!(assigned(&bench.join(n)), None, "they are in quarantine");
    }
    let third = assigned(&bench.wait(Micros::from_secs(15))).expect("one of them takes it");
    assert_eq!((third.attempt.attempt, third.resumed_from), (2, 5));
    assert!([first.node, second.node].contains(&third.node));
}

#[test]
fn frames_of_an_abandoned_attempt_are_not_relayed() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    bench.wait(Micros::from_secs(21));
    assert_eq!(bench.progress(&first, 9, 4), []);
    assert_eq!(bench.gateway.counters().late, 1);
}

#[test]
fn the_prompt_is_charged_once_and_a_late_whole_answer_is_paid_for_what_was_delivered() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    let out = bench.wait(Micros::from_secs(21));
    let second = assigned(&out).expect("the other node takes it");
    // The first was only slow: it comes with a whole answer of 9 tokens, of which 5 were delivered.
    let late = commitment(&first, 9, Finish::EndOfText);
    assert_eq!(finished(&bench.done(&late)), None);
    let answer = bench.answer(&second, 8);
    bench.batch(0, &[(&late, &first)]);
    bench.batch(0, &[(&answer, &second)]);
    bench.write();
    assert_eq!(bench.charged(), [(0, 5), (PROMPT, 3)]);
    assert_eq!(bench.available(), FUNDS - 18);
}

#[test]
fn a_late_end_frees_what_placement_counts_and_no_slot() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.wait(Micros::from_secs(61));
    bench.done(&commitment(&first, 9, Finish::EndOfText));
    // Nothing is free until the node grants again.
    assert_eq!(assigned(&bench.submit(2)), None);
    let out = bench.grant(first.node.0[0]);
    assert_eq!(assigned(&out), None, "a node that was too slow is left out for a while");
    assert_eq!(bench.gateway.queued(), 1);
}

#[test]
fn a_client_that_went_away_pays_for_what_was_produced() {
    let mut bench = two_nodes();
    let to = bench.assign(1);
    bench.feed(Input::Started {
        node: to.node,
        attempt: to.attempt,
        prompt_tokens: TokenCount(PROMPT),
        resident_tokens: TokenCount(0),
    });
    bench.progress(&to, 4, 4);
    let out = bench.feed(Input::ClientGone { task: task(1) });
    assert_eq!(out, [Output::Cancel { node: to.node, attempt: to.attempt, is_paid: false }]);
    assert_eq!(bench.available(), FUNDS - 14);
    bench.batch(0, &[(&commitment(&to, 6, Finish::Cancelled), &to)]);
    bench.write();
    assert_eq!((bench.charged(), bench.available()), (vec![(PROMPT, 4)], FUNDS - 14));
}

#[test]
fn a_node_that_counts_more_prompt_than_the_request_can_have_loses_the_task_and_makes_no_money() {
    let mut bench = two_nodes();
    let to = bench.assign(1);
    let inflated = Input::Started {
        node: to.node,
        attempt: to.attempt,
        prompt_tokens: TokenCount(u32::MAX),
        resident_tokens: TokenCount(0),
    };
    let next = assigned(&bench.feed(inflated)).expect("the other node takes it");
    assert_ne!(next.node, to.node);
    bench.feed(Input::ClientGone { task: to.attempt.task });
    bench.wait(Micros::from_secs(601));
    assert_eq!(bench.available(), FUNDS);
}

#[test]
fn a_client_that_went_before_the_prompt_was_counted_still_pays_what_its_receipt_says() {
    let mut bench = two_nodes();
    let to = bench.assign(1);
    bench.feed(Input::ClientGone { task: task(1) });
    assert_eq!(bench.available(), FUNDS);
    let whole = commitment(&to, 3, Finish::EndOfText);
    bench.batch(0, &[(&whole, &to)]);
    bench.write();
    assert_eq!((bench.charged(), bench.available()), (vec![(PROMPT, 0)], FUNDS - u64::from(PROMPT)));
}

#[test]
fn a_task_whose_node_never_signs_costs_nothing_in_the_end() {
    let mut bench = two_nodes();
    let to = bench.assign(1);
    bench.answer(&to, 8);
    assert_eq!(bench.available(), FUNDS - 18);
    let out = bench.wait(Micros::from_secs(601));
    assert!(out.contains(&Output::Forget { task: task(1) }));
    assert_eq!((bench.available(), bench.gateway.counters().unsigned), (FUNDS, 1));
}

#[test]
fn the_worst_case_is_reserved_and_a_budget_is_never_overdrawn() {
    let mut bench = Bench::new();
    bench.join(10);
    let most = u8::try_from(FUNDS / WORST).expect("66");
    for n in 0..most {
        assert_eq!(refused(&bench.submit(n)), None);
    }
    let left = MicroCredits(FUNDS - u64::from(most) * WORST);
    let empty = Gate::BudgetEmpty { available: left, needed: MicroCredits(WORST) };
    assert_eq!(refused(&bench.submit(200)), Some(Refusal::Budget(empty)));
    assert_eq!(bench.available(), left.0);
}

#[test]
fn a_node_that_drains_gets_nothing_new_and_may_finish() {
    let mut bench = Bench::new();
    bench.join(10);
    let to = bench.assign(1);
    bench.grant(10);
    bench.feed(Input::NodeDraining { node: node(10) });
    assert_eq!(assigned(&bench.submit(2)), None);
    bench.progress(&to, 3, 3);
    assert!(finished(&bench.done(&commitment(&to, 3, Finish::EndOfText))).is_some());
    assert_eq!(bench.join(11).iter().filter(|o| matches!(o, Output::Assign { .. })).count(), 1);
}

#[test]
fn after_four_attempts_a_task_is_given_up() {
    let mut bench = Bench::new();
    (10..14).for_each(|n| drop(bench.join(n)));
    let mut to = bench.assign(1);
    let mut out = Vec::new();
    for _ in 0..4 {
        out = bench.feed(Input::Failed { node: to.node, attempt: to.attempt, code: FailCode::Internal });
        to = assigned(&out).unwrap_or(to);
    }
    assert_eq!(refused(&out), Some(Refusal::Attempts { attempts: 4, delivered: TokenCount(0) }));
    assert_eq!(bench.available(), FUNDS);
}

#[test]
fn wrong_counts_move_the_task_and_relay_nothing() {
    for (count, added) in [(5, 4), (101, 101), (3, 0)] {
        let mut bench = two_nodes();
        let first = bench.assign(1);
        let out = bench.progress(&first, count, added);
        let cancel = Output::Cancel { node: first.node, attempt: first.attempt, is_paid: false };
        assert_eq!(out[0], cancel);
        assert_eq!(assigned(&out).map(|to| (to.node, to.resumed_from)), Some((other(first.node), 0)));
    }
}

#[test]
fn a_commitment_to_something_else_than_was_relayed_moves_the_task() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    let commitment = commitment(&first, 5, Finish::EndOfText);
    let relayed = ol_protocol::Digest([0xee; 32]);
    let out = bench.feed(Input::Done { node: first.node, commitment, relayed });
    assert_eq!(assigned(&out).map(|to| to.resumed_from), Some(5));
    assert_eq!(bench.gateway.counters().wrong_counts, 1);
}

#[test]
fn a_node_that_ends_a_stream_in_another_variant_loses_the_task_and_is_paid_nothing() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    let honest = commitment(&first, 5, Finish::EndOfText);
    let changed = Commitment { variant: ol_protocol::VariantId([0x4f; 32]), ..honest };
    let out = bench.done(&changed);
    assert_eq!(assigned(&out).map(|to| (to.node, to.resumed_from)), Some((other(first.node), 5)));
    assert_eq!((finished(&out), bench.gateway.counters().wrong_counts), (None, 1));
    // Signed all the same: its order names the variant that was asked for.
    let out = bench.batch(0, &[(&changed, &first)]);
    assert!(out.iter().any(|output| matches!(output, Output::Close { node, .. } if *node == first.node)), "{out:?}");
    bench.write();
    assert_eq!(bench.charged(), vec![]);
}

#[test]
fn a_link_that_is_replaced_without_notice_loses_its_tasks_to_others() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    let out = bench.join(first.node.0[0]);
    assert_eq!(assigned(&out).map(|to| to.node), Some(other(first.node)));
}

#[test]
fn a_task_that_nobody_can_serve_is_refused_at_once() {
    let mut bench = Bench::new();
    assert_eq!(refused(&bench.submit(1)), Some(Refusal::Impossible(vec![Gate::NoNodeHasVariant])));
    bench.join(10);
    let twice = [bench.submit(1), bench.feed(Input::Submitted(submission(1)))];
    assert_eq!(twice.map(|out| refused(&out)), [None, Some(Refusal::Invalid)]);
}

#[test]
fn a_deadline_ends_a_task_that_waits_or_runs() {
    let mut bench = Bench::new();
    bench.join(10);
    bench.assign(1);
    bench.submit(2);
    let out = bench.wait(Micros::from_secs(301));
    let refusals = out.iter().filter(|o| matches!(o, Output::Refuse { refusal: Refusal::Deadline, .. })).count();
    assert_eq!((refusals, bench.available()), (2, FUNDS));
}

#[test]
fn a_grant_past_the_limit_closes_its_link_and_no_other() {
    let mut bench = two_nodes();
    bench.grant(10);
    let out = bench.feed(Input::Granted { node: node(10), variant: crate::world::VARIANT, total: 1_000_000 });
    assert!(matches!(out[..], [Output::Close { node: n, .. }] if n == node(10)), "{out:?}");
    assert_eq!(bench.gateway.workers(), 2);
}

#[test]
fn a_node_that_wants_slots_back_is_told_that_they_are_its_own_and_sent_nothing_more() {
    let mut bench = two_nodes();
    bench.grant(10);
    let variant = crate::world::VARIANT;
    let out = bench.feed(Input::Withdrawn { node: node(10), variant, total: 0 });
    assert_eq!(out, [Output::Withdrawn { node: node(10), variant }]);
    assert_eq!((bench.gateway.ready(), bench.gateway.slots()), (1, 1));
    // A stranger's is answered, too, and changes nothing.
    let out = bench.feed(Input::Withdrawn { node: node(99), variant, total: 0 });
    assert_eq!(out, [Output::Withdrawn { node: node(99), variant }]);
}
