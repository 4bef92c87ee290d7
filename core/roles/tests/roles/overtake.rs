//! Attempts that are late or slow: others beside them, and instead of them.

use crate::world::{
    Assigned, Bench, GATEWAY, PROMPT, TENANT, VARIANT, asked, assigned, commitment, finished, genesis, node, refused,
    submission, task,
};
use ol_ledger::Account;
use ol_protocol::commitment::Finish;
use ol_protocol::receipt::Receipt;
use ol_protocol::{MicroCredits, Micros, NodeId, TenantId, TokenCount};
use ol_roles::gateway::event::{Input, Output, Refusal, Submission};
use ol_sched::Gate;

// A network of measured nodes, of two slots each: each began after 20 ms, and takes 10 ms for a token.
fn measured(nodes: std::ops::Range<u8>) -> Bench {
    measured_of(nodes, |n| n)
}

fn measured_of(nodes: std::ops::Range<u8>, operator: fn(u8) -> u8) -> Bench {
    let mut bench = Bench::new();
    for n in nodes {
        bench.join_of(n, operator(n));
        let to = bench.assign(100 + n);
        assert_eq!(to.node, node(n), "a newcomer goes first");
        answer_evenly(&mut bench, &to, 10);
        bench.grant(n);
        bench.grant(n);
    }
    bench
}

fn began(to: &Assigned) -> Input {
    let (prompt_tokens, resident_tokens) = (TokenCount(PROMPT), TokenCount(0));
    Input::Started { node: to.node, attempt: to.attempt, prompt_tokens, resident_tokens }
}

fn answer_evenly(bench: &mut Bench, to: &Assigned, tokens: u32) {
    bench.feed(began(to));
    bench.wait(Micros(20_000));
    for count in 1..=tokens {
        bench.progress(to, count, 1);
        bench.wait(Micros(10_000));
    }
    let commitment = commitment(to, tokens, Finish::EndOfText);
    bench.done(&commitment);
    bench.feed(Input::Responded { task: to.attempt.task, response: ol_protocol::Digest([0x72; 32]) });
}

// Waits until another attempt is begun, a second at most.
fn until_assigned(bench: &mut Bench) -> Option<Assigned> {
    (0..100).find_map(|_| assigned(&bench.wait(Micros(10_000))))
}

fn cancelled(out: &[Output]) -> Vec<(NodeId, u8)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Cancel { node, attempt, .. } => Some((*node, attempt.attempt)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_late_attempt_is_raced_and_who_brings_the_next_token_goes_on_alone() {
    for first_wins in [true, false] {
        let mut bench = measured(10..12);
        let first = bench.assign(1);
        let second = until_assigned(&mut bench).expect("another begins beside it");
        assert_eq!((second.attempt.task, second.attempt.attempt, second.resumed_from), (task(1), 1, 0));
        assert_ne!(first.node, second.node);
        let (winner, loser) = if first_wins { (&first, &second) } else { (&second, &first) };
        let out = bench.progress(winner, 1, 1);
        assert_eq!(cancelled(&out), [(loser.node, loser.attempt.attempt)]);
        // What the other sends on its way is not relayed.
        assert_eq!(bench.progress(loser, 1, 1), []);
        let answer = commitment(winner, 1, Finish::EndOfText);
        let ended = finished(&bench.done(&answer)).expect("it ends");
        assert_eq!((ended.node, ended.attempt, ended.attempts), (winner.node, winner.attempt.attempt, 2));
        bench.feed(Input::Responded { task: task(1), response: ol_protocol::Digest([0x72; 32]) });
        // The other computed the whole answer too.
        let late = commitment(loser, 1, Finish::EndOfText);
        assert_eq!(finished(&bench.done(&late)), None);
        bench.batch(0, &[(&late, loser)]);
        bench.batch(0, &[(&answer, winner)]);
        bench.write();
        assert_eq!(bench.charged(), [(0, 0), (PROMPT, 1)]);
        assert_eq!(bench.gateway.counters().raced, 1);
    }
}

#[test]
fn what_one_node_says_of_the_prompt_is_not_held_against_the_other() {
    let mut bench = measured(10..12);
    let first = bench.assign(1);
    let second = until_assigned(&mut bench).expect("another begins beside it");
    let said = |to: &Assigned, tokens| {
        let (node, attempt) = (to.node, to.attempt);
        Input::Started { node, attempt, prompt_tokens: TokenCount(tokens), resident_tokens: TokenCount(0) }
    };
    bench.feed(said(&first, PROMPT));
    bench.feed(said(&second, PROMPT - 1));
    bench.progress(&first, 1, 1);
    let ended = finished(&bench.done(&commitment(&first, 1, Finish::EndOfText))).expect("it ends");
    assert_eq!((ended.node, ended.prompt_tokens), (first.node, TokenCount(PROMPT)));
}

#[test]
fn an_attempt_that_fails_in_a_race_leaves_the_task_to_the_other() {
    let mut bench = measured(10..12);
    let first = bench.assign(1);
    let second = until_assigned(&mut bench).expect("another begins beside it");
    assert_eq!(assigned(&bench.feed(Input::NodeLeft { node: first.node })), None);
    bench.answer(&second, 3);
    assert_eq!(bench.gateway.counters().finished, 3);
}

#[test]
fn a_client_that_goes_away_ends_both() {
    let mut bench = measured(10..12);
    let first = bench.assign(1);
    let second = until_assigned(&mut bench).expect("another begins beside it");
    let out = bench.feed(Input::ClientGone { task: task(1) });
    assert_eq!(cancelled(&out), [(first.node, 0), (second.node, 1)]);
    // What they send on their way neither goes out nor wakes the task.
    assert_eq!((bench.progress(&second, 1, 1), bench.progress(&first, 1, 1)), (Vec::new(), Vec::new()));
    assert_eq!((until_assigned(&mut bench), bench.gateway.active()), (None, 0));
}

#[test]
fn a_stream_that_stands_still_is_raced_from_where_it_is() {
    let mut bench = measured(10..12);
    let first = bench.assign(1);
    (1..=4).for_each(|count| drop(bench.progress(&first, count, 1)));
    let second = until_assigned(&mut bench).expect("another begins beside it");
    assert_eq!((second.attempt.attempt, second.resumed_from), (1, 4));
    assert_eq!(cancelled(&bench.progress(&second, 5, 1)), [(first.node, 0)]);
}

#[test]
fn a_slow_stream_moves_to_a_faster_node() {
    let mut bench = measured(10..13);
    // Others run, and stand still: they are overtaken.
    (2..4).for_each(|n| drop(bench.assign(n)));
    (10..13).for_each(|n| drop(bench.grant(n)));
    let first = bench.assign(1);
    let mut moved = None;
    for count in 1..=8 {
        // Ten times as long for a token, and never late.
        bench.wait(Micros(100_000));
        let out = bench.progress(&first, count, 1);
        moved = assigned(&out).map(|to| (to, out));
        if moved.is_some() {
            break;
        }
    }
    let (second, out) = moved.expect("it moves");
    assert_eq!(cancelled(&out), [(first.node, 0)]);
    assert!(second.node != first.node && second.resumed_from >= 5, "{second:?}");
    // Being slow is no failure.
    assert_eq!((bench.gateway.counters().moved, bench.gateway.counters().failed_over), (1, 0));
}

#[test]
fn a_stranger_loses_to_a_node_that_is_known_even_by_a_nose() {
    let mut bench = measured(10..12);
    bench.join(12);
    let first = bench.assign(1);
    assert_eq!(first.node, node(12), "a newcomer goes first");
    let second = until_assigned(&mut bench).expect("another begins beside it");
    let out = bench.progress(&first, 1, 1);
    assert_eq!(out, [Output::Cancel { node: first.node, attempt: first.attempt, is_paid: false }]);
    let out = bench.progress(&second, 1, 1);
    assert_eq!(out, [Output::Relay { attempt: second.attempt, count: TokenCount(1) }]);
}

#[test]
fn nobody_is_overtaken_by_a_node_that_nobody_measured() {
    let mut bench = measured(10..11);
    let first = bench.assign(1);
    bench.join(12);
    assert_eq!((first.node, until_assigned(&mut bench)), (node(10), None));
}

#[test]
fn a_tenant_that_floods_the_queue_is_refused_and_another_is_not() {
    let mut bench = measured(10..11);
    let of = |tenant: TenantId, n: u8| Submission { tenant, task: task(n), ..submission(n) };
    let tasks: Vec<u8> = (1..=80).collect();
    let mut refusals = tasks.iter().filter_map(|n| refused(&bench.feed(Input::Submitted(of(TENANT, *n)))));
    let Some(Refusal::Busy(gates)) = refusals.next() else { panic!("all are taken") };
    assert!(matches!(gates[..], [Gate::WaitTooLong { wait, max }] if wait > max), "{gates:?}");
    assert!(refusals.count() > 5);
    let stranger = TenantId([9; 16]);
    bench.feed(Input::TopUp(crate::world::top_up(9, crate::world::FUNDS, 2)));
    assert_eq!(refused(&bench.feed(Input::Submitted(of(stranger, 200)))), None);
}

// Tasks that the close will settle, so that the gateway has a share of them.
fn with_earnings(bench: &mut Bench, tasks: u8) {
    bench.join(3);
    for n in [10, 11] {
        bench.feed(Input::RoundTrip { node: node(n), took: Micros(1_000) });
    }
    for n in 0..tasks {
        let to = bench.assign(20 + n);
        bench.feed(began(&to));
        bench.wait(Micros(20_000));
        let answer = bench.answer(&to, 100);
        let sequence = bench.receipts().iter().filter(|it| it.commitment.node == to.node).count() as u64;
        bench.batch(sequence, &[(&answer, &to)]);
        // Newcomers' results are all drawn: one whose payload is lost is paid.
        for (_, audit, ..) in asked(&bench.write()) {
            bench.feed(Input::PayloadLost { audit });
            bench.write();
        }
        bench.grant((to.node.0)[0]);
    }
}

fn is_paid(out: &[Output]) -> Vec<bool> {
    out.iter().filter_map(|it| if let Output::Cancel { is_paid, .. } = it { Some(*is_paid) } else { None }).collect()
}

// A race that one of two attempts wins after so long; what was said to the other, and its receipt.
fn raced(bench: &mut Bench, after: Micros, first_wins: bool) -> (Vec<bool>, Receipt) {
    let first = bench.assign(1);
    let second = until_assigned(bench).expect("another begins beside it");
    [&first, &second].into_iter().for_each(|to| drop(bench.feed(began(to))));
    bench.wait(after);
    let (winner, loser) = if first_wins { (&first, &second) } else { (&second, &first) };
    let out = bench.progress(winner, 1, 1);
    let answer = commitment(winner, 1, Finish::EndOfText);
    bench.done(&answer);
    bench.feed(Input::Responded { task: task(1), response: ol_protocol::Digest([0x72; 32]) });
    let lost = commitment(loser, 0, Finish::Cancelled);
    let next = |bench: &Bench, of: &Assigned| {
        bench.receipts().iter().filter(|it| it.commitment.node == of.node).count() as u64
    };
    bench.batch(next(bench, loser), &[(&lost, loser)]);
    bench.write();
    bench.batch(next(bench, winner), &[(&answer, winner)]);
    bench.write();
    let of = |it: &&&Receipt| it.commitment.task == task(1) && it.commitment.attempt == loser.attempt.attempt;
    let receipt = bench.receipts().iter().find(of).copied().cloned().expect("it is in the log");
    (is_paid(&out), receipt)
}

#[test]
fn what_was_begun_beside_a_late_attempt_that_won_is_paid_by_the_gateway_for_what_it_read() {
    let mut bench = measured(10..12);
    with_earnings(&mut bench, 12);
    // A node reads the prompt in 20 ms here.
    let (told, lost) = raced(&mut bench, Micros(60_000), true);
    assert_eq!(told, [true]);
    assert_eq!((lost.charge.prompt_tokens, lost.charge.output_tokens), (TokenCount(PROMPT), TokenCount(0)));
    assert_eq!(lost.charge.tenant, genesis().gateway_tenant());
    let (spent, summary) = (bench.balance(), bench.close());
    // Twelve answers of ten and a hundred tokens; of the raced one, which is drawn, its charge alone.
    let (answers, answer, prompt) = (12 * 110, PROMPT + 1, PROMPT);
    assert_eq!(spent - bench.balance(), i128::from(answers + answer));
    assert_eq!((summary.charged.0, summary.settled), (u64::from(answers + prompt), 13));
    // The gateway has eight hundredths of each, rounded down, and paid the prompt.
    let (share, own) = (12 * 8, Account::Gateway(GATEWAY));
    assert_eq!(bench.gateway.settler().balance(&own), share - i128::from(prompt));
    assert_eq!(bench.gateway.settler().refused(), []);
    let standing = bench.gateway.settler().standing(lost.commitment.node, VARIANT);
    assert_eq!((summary.held, standing.failed), (1, 0), "only the answer is drawn");
}

#[test]
fn a_gateway_pays_no_more_than_was_read_and_than_it_has_and_never_who_was_late() {
    // Half of the time that the prompt takes.
    let mut bench = measured(10..12);
    with_earnings(&mut bench, 12);
    let (told, lost) = raced(&mut bench, Micros(10_000), true);
    assert_eq!(told, [true]);
    assert!((3..8).contains(&lost.charge.prompt_tokens.0), "{lost:?}");
    // A gateway that earned nothing owes it, and the close pays nobody.
    let mut bench = measured(10..12);
    let (told, lost) = raced(&mut bench, Micros(60_000), true);
    assert_eq!(
        (told, lost.charge.tenant, lost.charge.amount),
        (vec![true], genesis().gateway_tenant(), MicroCredits(10))
    );
    let summary = bench.close();
    assert_eq!((summary.settled, summary.held), (0, 1));
    let id = ol_protocol::record::AttemptId { task: lost.commitment.task, attempt: lost.commitment.attempt };
    assert_eq!(bench.gateway.settler().refused(), [id]);
    // Who was late, and lost.
    let mut bench = measured(10..12);
    with_earnings(&mut bench, 12);
    let (told, lost) = raced(&mut bench, Micros(60_000), false);
    assert_eq!((told, lost.charge.amount), (vec![false], MicroCredits(0)));
    // The attack: who pauses on one node is asked for a second, and says there that it begins.
    let mut bench = measured_of(10..12, |_| 10);
    with_earnings(&mut bench, 12);
    let (told, lost) = raced(&mut bench, Micros(60_000), true);
    assert_eq!((told, lost.charge.amount), (vec![false], MicroCredits(0)));
}

#[test]
fn what_a_gateway_has_forgotten_is_no_tenants_and_not_audited() {
    let mut bench = measured(10..12);
    let first = bench.assign(1);
    let second = until_assigned(&mut bench).expect("another begins beside it");
    [&first, &second].into_iter().for_each(|to| drop(bench.feed(began(to))));
    bench.wait(Micros(60_000));
    let answer = bench.answer(&first, 1);
    bench.batch(0, &[(&answer, &first)]);
    bench.write();
    bench.restart();
    bench.join(second.node.0[0]);
    let lost = commitment(&second, 0, Finish::Cancelled);
    bench.batch(0, &[(&lost, &second)]);
    assert_eq!(asked(&bench.write()), []);
    let charge = &bench.receipts().last().expect("it is in the log").charge;
    assert_eq!((charge.tenant, charge.amount), (genesis().gateway_tenant(), MicroCredits(0)));
    assert_eq!(bench.charged(), [(PROMPT, 1), (0, 0)]);
}

#[test]
fn a_gateway_that_begins_anew_charges_the_answer_though_it_paid_for_what_lost() {
    for closes in [false, true] {
        let mut bench = measured(10..12);
        with_earnings(&mut bench, 12);
        let first = bench.assign(1);
        let second = until_assigned(&mut bench).expect("another begins beside it");
        [&first, &second].into_iter().for_each(|to| drop(bench.feed(began(to))));
        bench.wait(Micros(60_000));
        bench.answer(&first, 1);
        let next = |bench: &Bench, of: &Assigned| {
            bench.receipts().iter().filter(|it| it.commitment.node == of.node).count() as u64
        };
        let lost = commitment(&second, 0, Finish::Cancelled);
        bench.batch(next(&bench, &second), &[(&lost, &second)]);
        bench.write();
        if closes {
            bench.close();
        }
        bench.restart();
        bench.join(first.node.0[0]);
        let available = bench.available();
        let answer = commitment(&first, 1, Finish::EndOfText);
        bench.batch(next(&bench, &first), &[(&answer, &first)]);
        bench.write();
        assert_eq!(bench.charged().last(), Some(&(PROMPT, 1)));
        assert_eq!(available - bench.available(), u64::from(PROMPT) + 1);
    }
}
