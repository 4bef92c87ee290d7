//! Tasks that are bound to a region or prefer one, and tiers of service.

use crate::world::{Bench, VARIANT, asked, assigned, commitment, found, node, referee, refused, submission};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::record::Record;
use ol_protocol::verdict::Level;
use ol_protocol::{Micros, OperatorId, Region, TokenCount};
use ol_roles::gateway::event::{Input, Output, Refusal, Submission};
use ol_sched::{Gate, Tier, Where};

fn region(name: &str) -> Region {
    name.parse().expect("a name")
}

// A node of an operator of its own that says where it stands, with a slot and a round trip of so many milliseconds.
fn join(bench: &mut Bench, n: u8, name: &str, millis: u64) -> Vec<Output> {
    let region = Some(region(name));
    let operator = OperatorId([n; 32]);
    bench.feed(Input::NodeJoined { node: node(n), operator, referee: false, variants: vec![VARIANT], region });
    let mut out = bench.grant(n);
    out.extend(bench.feed(Input::RoundTrip { node: node(n), took: Micros::from_millis(millis) }));
    out
}

fn bound(n: u8, name: &str) -> Submission {
    Submission { place: Where::Only(region(name)), ..submission(n) }
}

// Whom a task goes to.
fn goes_to(bench: &mut Bench, submission: Submission) -> Option<u8> {
    assigned(&bench.feed(Input::Submitted(submission))).map(|to| to.node.0[0])
}

#[test]
fn a_bound_task_goes_to_its_region_or_is_refused_at_once() {
    let mut bench = Bench::new();
    join(&mut bench, 10, "eu", 20);
    join(&mut bench, 11, "us", 90);
    assert_eq!(goes_to(&mut bench, bound(1, "us")), Some(11));
    let out = bench.feed(Input::Submitted(bound(2, "asia")));
    let gate = Gate::NoNodeInRegion { region: region("asia") };
    assert_eq!(refused(&out), Some(Refusal::Impossible(vec![gate])));
    // Taken slots are waited for, though others are free elsewhere.
    assert_eq!(goes_to(&mut bench, bound(3, "us")), None);
    assert_eq!(goes_to(&mut bench, submission(4)), Some(10));
    assert_eq!(assigned(&bench.grant(11)).map(|to| to.node), Some(node(11)));
}

#[test]
fn who_waits_for_a_full_region_holds_up_nobody_else() {
    let mut bench = Bench::new();
    join(&mut bench, 10, "eu", 20);
    join(&mut bench, 11, "us", 90);
    assert_eq!(goes_to(&mut bench, bound(1, "us")), Some(11));
    for n in 20..60 {
        assert_eq!(goes_to(&mut bench, bound(n, "us")), None);
    }
    assert_eq!(goes_to(&mut bench, submission(2)), Some(10));
}

// The attack: a node says that it stands in a region where it does not, to get the tasks that are bound to it.
#[test]
fn a_node_that_lies_about_its_region_gets_no_task_that_is_bound_to_it() {
    let mut bench = Bench::new();
    join(&mut bench, 10, "eu", 20);
    // What is usual is that of nodes that have worked.
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    bench.write();
    bench.feed(Input::RoundTrip { node: node(10), took: Micros::from_millis(20) });
    join(&mut bench, 11, "eu", 180);
    assert_eq!(goes_to(&mut bench, bound(2, "eu")), None);
    assert_eq!(goes_to(&mut bench, submission(3)), Some(11));
    // Nor does it when its link is new, and nothing was measured.
    bench.feed(Input::NodeLeft { node: node(11) });
    let (operator, region) = (OperatorId([11; 32]), Some(region("eu")));
    bench.feed(Input::NodeJoined { node: node(11), operator, referee: false, variants: vec![VARIANT], region });
    let out = bench.grant(11);
    assert!(
        out.iter().all(|output| !matches!(output, Output::Assign { attempt, .. } if attempt.task.0[0] == 2)),
        "{out:?}"
    );
}

#[test]
fn a_task_waits_until_a_node_of_its_region_is_measured() {
    let mut bench = Bench::new();
    join(&mut bench, 10, "eu", 20);
    assert_eq!(goes_to(&mut bench, bound(1, "eu")), Some(10));
    let (operator, region) = (OperatorId([11; 32]), Some(region("eu")));
    bench.feed(Input::NodeJoined { node: node(11), operator, referee: false, variants: vec![VARIANT], region });
    bench.grant(11);
    assert_eq!(goes_to(&mut bench, bound(2, "eu")), None);
    let out = bench.feed(Input::RoundTrip { node: node(11), took: Micros::from_millis(20) });
    assert_eq!(assigned(&out).map(|to| to.node), Some(node(11)));
}

// One answered and drawn task that is bound to the first region, with nodes of other operators in the regions named.
fn drawn(others: &[(u8, &str)]) -> (Bench, Commitment) {
    let mut bench = Bench::new();
    join(&mut bench, 10, "eu", 20);
    let out = bench.feed(Input::Submitted(bound(1, "eu")));
    let to = assigned(&out).expect("it is free");
    bench.join(3);
    for (n, name) in others {
        join(&mut bench, *n, name, if *name == "eu" { 20 } else { 90 });
    }
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    (bench, answer)
}

// What it attacks: an audit takes the prompt to whoever audits.
#[test]
fn what_is_bound_to_a_region_is_audited_there_or_by_the_referee() {
    let (mut bench, answer) = drawn(&[(11, "us"), (12, "us"), (13, "eu"), (14, "us")]);
    let out = bench.write();
    let [(auditor, audit, _, level)] = asked(&out)[..] else { panic!("{out:?}") };
    assert_eq!((auditor, level), (node(13), Level::CrossAudit));
    assert_eq!(found(&bench.verdict(13, audit, &answer, |_| {})), [(node(10), Some(true))]);

    let (mut bench, _) = drawn(&[(11, "us"), (12, "us"), (13, "us"), (14, "us")]);
    assert_eq!(asked(&bench.write()), []);
    let out: Vec<Output> = (0..25).flat_map(|_| bench.wait(Micros::from_secs(1))).collect();
    let auditors: Vec<_> = asked(&out).into_iter().map(|(auditor, _, _, level)| (auditor, level)).collect();
    assert_eq!(auditors, [(referee(), Level::Referee)]);
}

#[test]
fn a_receipt_says_what_it_is_bound_to_and_a_restarted_gateway_keeps_to_it() {
    let (mut bench, _) = drawn(&[(11, "us"), (12, "us"), (13, "us"), (14, "us")]);
    bench.write();
    let regions: Vec<Option<Region>> = bench.receipts().iter().map(|receipt| receipt.charge.region).collect();
    assert_eq!(regions, [Some(region("eu"))]);
    assert!(bench.records.iter().any(|record| matches!(record, Record::Batch(_))));
    bench.restart();
    let mut out = bench.feed(Input::Tick);
    for (n, name) in [(11, "us"), (12, "us"), (13, "us"), (14, "us"), (15, "eu")] {
        out.extend(join(&mut bench, n, name, if name == "eu" { 20 } else { 90 }));
    }
    out.extend(bench.wait(Micros::from_secs(1)));
    let auditors: Vec<_> = asked(&out).into_iter().map(|(auditor, _, _, level)| (auditor, level)).collect();
    assert_eq!(auditors, [(node(15), Level::CrossAudit)]);
}

#[test]
fn a_tier_that_no_node_is_reliable_enough_for_is_refused_with_the_figures() {
    let mut bench = Bench::new();
    bench.join(10);
    let hurried = |n| Submission { tier: Tier::Three, deadline: Micros::from_secs(6), ..submission(n) };
    let out = bench.feed(Input::Submitted(hurried(1)));
    let gate = Gate::TierTooHigh { tier: "99.9", best_ppm: 900_000, attempts: 1 };
    assert_eq!(refused(&out), Some(Refusal::Impossible(vec![gate])));
    // With time for more attempts a newcomer will do.
    let patient = Submission { tier: Tier::Three, ..submission(2) };
    assert_eq!(goes_to(&mut bench, patient), Some(10));
    assert_eq!((bench.gateway.counters().promised, bench.gateway.counters().broken), (1, 0));
}

#[test]
fn no_tier_is_promised_to_an_answer_that_may_take_longer_than_its_deadline() {
    let mut bench = Bench::new();
    bench.join(10);
    for n in 1..=3 {
        let to = bench.assign(n);
        bench.wait(Micros::from_millis(500));
        bench.progress(&to, 1, 1);
        bench.wait(Micros::from_millis(700));
        bench.progress(&to, 8, 7);
        bench.done(&commitment(&to, 8, Finish::EndOfText));
        bench.grant(10);
    }
    let asked = |n, tokens, seconds| Submission {
        tier: Tier::Two,
        output_tokens_max: TokenCount(tokens),
        deadline: Micros::from_secs(seconds),
        ..submission(n)
    };
    let out = bench.feed(Input::Submitted(asked(20, 4_000, 30)));
    let Some(Refusal::Impossible(gates)) = refused(&out) else { panic!("{out:?}") };
    let [Gate::AnswerTooLong { needed, left }] = gates[..] else { panic!("{gates:?}") };
    assert!(left == Micros::from_secs(30) && needed > left, "{gates:?}");
    // With fewer tokens there is time for it, and without a tier nothing is promised.
    assert_eq!(goes_to(&mut bench, asked(21, 60, 30)), Some(10));
    bench.grant(10);
    assert_eq!(goes_to(&mut bench, Submission { tier: Tier::Standard, ..asked(22, 4_000, 30) }), Some(10));
}

#[test]
fn a_broken_promise_is_counted() {
    let mut bench = Bench::new();
    bench.join(10);
    let promised = Submission { tier: Tier::Two, deadline: Micros::from_secs(30), ..submission(1) };
    assert_eq!(goes_to(&mut bench, promised), Some(10));
    let out = bench.wait(Micros::from_secs(31));
    assert_eq!(refused(&out), Some(Refusal::Deadline));
    assert_eq!((bench.gateway.counters().promised, bench.gateway.counters().broken), (1, 1));
}
