//! What a gateway remembers of its decisions: whole, with figures, and never more than it may.

use crate::world::{
    Assigned, Bench, FUNDS, PROMPT, TENANT, VARIANT, WORST, assigned, commitment, node, refused, submission, task,
    two_nodes,
};
use ol_protocol::commitment::Finish;
use ol_protocol::record::AttemptId;
use ol_protocol::{MicroCredits, Micros, OperatorId, TaskId, TokenCount};
use ol_roles::gateway::event::{Input, Output, Refusal, Submission};
use ol_roles::gateway::why::{Because, Ending, Given, LOOKED_AT_KEPT, TASKS_KEPT};
use ol_roles::node::FailCode;
use ol_sched::queue::QUEUE_MAX;
use ol_sched::{Gate, Passed, Reason};

const QUEUE: Passed = Passed::Queue { queued: 0, max: QUEUE_MAX as u64 };

fn budget(available: u64) -> Passed {
    Passed::Budget { available: MicroCredits(available), needed: MicroCredits(WORST) }
}

type Told = (u8, Because, bool, u32, Option<Option<Reason>>);

// Node, reason to begin, whether a token came, how far it went, and why it ended.
fn told(given: &[Given]) -> Vec<Told> {
    let told = |given: &Given| {
        let ended = given.ended.map(|(_, reason)| reason);
        (given.picked.node.0[0], given.because, given.first_token.is_some(), given.reached.0, ended)
    };
    given.iter().map(told).collect()
}

#[test]
fn an_answered_task_shows_what_it_passed_where_it_went_and_how_it_ended() {
    let mut bench = Bench::new();
    bench.join(10);
    let to = bench.assign(1);
    let of = bench.gateway.task_decisions(task(1)).expect("it runs");
    assert_eq!((of.tenant, of.variant, of.ended), (TENANT, VARIANT, None));
    assert_eq!(of.passed, [Passed::Variant { node_count: 1 }, budget(FUNDS), QUEUE]);
    let [given] = &of.attempts[..] else { panic!("{of:?}") };
    assert_eq!((given.picked.node, given.because, given.ended), (node(10), Because::First, None));
    assert_eq!((given.at, given.left, given.picked.open.len()), (bench.now, Micros::from_secs(300), 1));
    assert!(given.predicted.begin > Micros(0) && given.predicted.end > given.predicted.begin, "{given:?}");

    bench.wait(Micros(70_000));
    let first = bench.now;
    bench.progress(&to, 3, 3);
    let running = bench.gateway.task_decisions(task(1)).expect("it runs");
    assert_eq!((running.attempts[0].first_token, running.attempts[0].reached), (Some(first), TokenCount(3)));
    bench.wait(Micros(50_000));
    bench.done(&commitment(&to, 3, Finish::EndOfText));
    let of = bench.gateway.task_decisions(task(1)).expect("it is kept");
    let charge = MicroCredits(u64::from(PROMPT) + 3);
    assert_eq!(of.ended, Some((bench.now, Ending::Answered { attempt: 0, output: TokenCount(3), charge })));
    assert_eq!(told(&of.attempts), [(10, Because::First, true, 3, Some(None))]);
    assert_eq!(bench.gateway.task_decisions(task(2)), None);
}

#[test]
fn a_task_that_fails_over_shows_both_attempts_and_why_there_is_a_second() {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.progress(&first, 2, 2);
    let input = Input::Failed { node: first.node, attempt: first.attempt, code: FailCode::Internal };
    let second = assigned(&bench.feed(input)).expect("the other has it");
    bench.answer(&second, 5);
    let of = bench.gateway.task_decisions(task(1)).expect("it is kept");
    let failed = Some(Some(Reason::NodeError));
    assert_eq!(
        told(&of.attempts),
        [
            (first.node.0[0], Because::First, true, 2, failed),
            (second.node.0[0], Because::Ended(Reason::NodeError), true, 5, Some(None))
        ]
    );
    assert!(matches!(of.ended, Some((_, Ending::Answered { attempt: 1, .. }))), "{:?}", of.ended);
    // The failed node has no free slot any more, so that nobody looked at it.
    bench.grant(first.node.0[0]);
    bench.grant(second.node.0[0]);
    bench.assign(2);
    let of = bench.gateway.task_decisions(task(2)).expect("it runs");
    let [(closed, Gate::Quarantined { until, .. })] = of.attempts[0].picked.closed[..] else { panic!("{of:?}") };
    assert_eq!((closed, until > bench.now), (first.node, true));
}

#[test]
fn a_refused_task_shows_the_gates_that_it_passed_and_the_one_that_it_did_not() {
    let mut bench = Bench::new();
    let out = bench.submit(1);
    let [Output::Refuse { passed, failed, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((&passed[..], &failed[..]), (&[][..], &[Gate::NoNodeHasVariant][..]));
    bench.join(10);
    let dear = Submission { output_tokens_max: TokenCount(20_000), ..submission(2) };
    let out = bench.feed(Input::Submitted(dear));
    let empty = Gate::BudgetEmpty { available: MicroCredits(FUNDS), needed: MicroCredits(20_050) };
    assert_eq!(refused(&out), Some(Refusal::Budget(empty)));
    let of = bench.gateway.task_decisions(task(2)).expect("refused tasks are kept");
    assert_eq!((&of.passed[..], &of.failed[..]), (&[Passed::Variant { node_count: 1 }][..], &[empty][..]));
    assert_eq!(of.ended, Some((bench.now, Ending::Refused { name: "budget" })));
}

#[test]
fn a_task_whose_time_is_over_in_the_queue_says_what_it_waited_for() {
    let mut bench = Bench::new();
    bench.join(10);
    bench.assign(1);
    bench.submit(2);
    let out = bench.wait(Micros::from_secs(301));
    let gates = |out: &[Output], of: TaskId| {
        let gates = |output: &Output| match output {
            Output::Refuse { task, failed, .. } if *task == of => Some(failed.clone()),
            _ => None,
        };
        out.iter().find_map(gates)
    };
    let full = Gate::NoFreeSlot { node_count: 1, in_flight: 1 };
    // The first one's node brought no token in time, and there is no other.
    let waited = gates(&out, task(2)).expect("it is refused");
    assert!(waited == [full] || waited == [Gate::NoFreeSlot { node_count: 1, in_flight: 0 }], "{waited:?}");
}

#[test]
fn a_task_costs_no_more_than_its_tenant_allows() {
    let mut bench = Bench::new();
    bench.join(10);
    let most = |n: u8, max: u64| Submission { max_price: Some(MicroCredits(max)), ..submission(n) };
    let (worst, max) = (MicroCredits(WORST), MicroCredits(WORST - 1));
    let out = bench.feed(Input::Submitted(most(1, WORST - 1)));
    assert_eq!(refused(&out), Some(Refusal::Impossible(vec![Gate::PriceTooHigh { worst, max }])));
    assert_eq!(bench.available(), FUNDS);
    bench.feed(Input::Submitted(most(2, WORST)));
    let of = bench.gateway.task_decisions(task(2)).expect("it runs");
    assert_eq!(of.passed[1], Passed::Price { worst, max: worst });
    assert_eq!((of.attempts.len(), bench.available()), (1, FUNDS - WORST));
}

#[test]
fn a_node_is_told_how_often_it_was_chosen_outdone_and_shut_out() {
    let mut bench = two_nodes();
    assert_eq!(bench.gateway.node_decisions(bench.now, node(99)), None);
    let mut chosen = [0, 0];
    for n in 1..=20 {
        let to = bench.assign(n);
        bench.answer(&to, 4);
        chosen[usize::from(to.node.0[0] - 10)] += 1;
        bench.grant(to.node.0[0]);
    }
    let first = bench.gateway.node_decisions(bench.now, node(10)).expect("it is connected");
    assert_eq!((first.operator, first.is_draining, first.quarantined), (Some(OperatorId([10; 32])), false, None));
    assert_eq!((first.tally.decisions, first.tally.chosen), (20, chosen[0]));
    assert_eq!(first.tally.outdone, chosen[1]);
    let [serving] = first.variants[..] else { panic!("{first:?}") };
    assert_eq!((serving.slots.variant, serving.slots.free, serving.slots.in_flight), (VARIANT, 1, 0));
    assert_eq!((serving.rate.is_measured(), serving.decisions), (true, 20));

    let to = bench.assign(21);
    bench.feed(Input::Failed { node: to.node, attempt: to.attempt, code: FailCode::Internal });
    bench.grant(to.node.0[0]);
    let failed = bench.gateway.node_decisions(bench.now, to.node).expect("it is connected");
    assert!(failed.quarantined.is_some_and(|until| until > bench.now), "{failed:?}");
    // What a node did stays known when it is gone.
    bench.feed(Input::NodeLeft { node: to.node });
    let gone = bench.gateway.node_decisions(bench.now, to.node).expect("decisions name it");
    assert_eq!((gone.operator, gone.variants.len(), gone.tally.chosen > 0), (None, 0, true));
}

fn numbered(n: u32) -> TaskId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    TaskId(id)
}

// Whatever happens to tasks: what is kept stays within its limits, and is what it says it is.
#[test]
fn no_more_is_kept_than_may_be() {
    for seed in 0..3_u64 {
        let mut bench = Bench::new();
        bench.feed(Input::TopUp(crate::world::top_up(2, 1_000_000_000, 2)));
        (10..70).for_each(|n| drop(bench.join(n)));
        let mut noise = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise % below
        };
        let mut first_kept = 0;
        for n in 0..6_000_u32 {
            bench.now = bench.now.after(Micros(draw(2_000)));
            let max_price = (draw(10) == 0).then_some(MicroCredits(1));
            let out = bench.feed(Input::Submitted(Submission { task: numbered(n), max_price, ..submission(1) }));
            if let Some(to) = assigned(&out) {
                // Few fail so that the node is left out for a while.
                let how = draw(64);
                end(&mut bench, &to, if how == 0 { 3 } else { how % 3 });
            }
            let kept = bench.gateway.decisions_kept();
            assert!(kept.tasks <= TASKS_KEPT && kept.looked_at <= LOOKED_AT_KEPT, "seed {seed}, task {n}: {kept:?}");
            if n % 1_000 == 999 {
                first_kept = check(&bench, n, kept.tasks as u32, kept.looked_at);
            }
        }
        assert!(first_kept > 0, "seed {seed}: nothing was forgotten");
    }
}

// What is kept are the last tasks, and they add up. Gives the first.
fn check(bench: &Bench, last: u32, tasks: u32, looked_at: usize) -> u32 {
    let first = last + 1 - tasks;
    let kept = |n| bench.gateway.task_decisions(numbered(n));
    let sum: usize = (first..=last)
        .flat_map(|n| kept(n).expect("the last ones are kept").attempts)
        .map(|given| given.picked.open.len() + given.picked.closed.len())
        .sum();
    assert_eq!((sum, (0..first).any(|n| kept(n).is_some())), (looked_at, false));
    first
}

fn end(bench: &mut Bench, to: &Assigned, how: u64) {
    let AttemptId { task, .. } = to.attempt;
    let out = match how {
        0 => {
            bench.progress(to, 2, 2);
            bench.done(&commitment(to, 2, Finish::EndOfText))
        }
        1 => bench.feed(Input::Failed { node: to.node, attempt: to.attempt, code: FailCode::Draining }),
        2 => bench.feed(Input::ClientGone { task }),
        _ => bench.feed(Input::Failed { node: to.node, attempt: to.attempt, code: FailCode::Internal }),
    };
    bench.grant(to.node.0[0]);
    if let Some(next) = assigned(&out) {
        end(bench, &next, how / 2);
    }
}
