//! Batches: acknowledged when they are on disk, paid once, charged by the order where memory is gone.

use crate::world::{Assigned, Bench, FUNDS, PROMPT, assigned, commitment, node, task, two_nodes};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::record::Record;
use ol_protocol::{Digest, Micros, TokenCount};
use ol_roles::gateway::event::{Input, Match, Output};
use ol_roles::settler::Settler;

fn one_node() -> Bench {
    let mut bench = Bench::new();
    bench.join(10);
    bench
}

// A task of which the first node delivered 5 tokens, and the second the rest of 8.
fn taken_over() -> (Bench, Assigned, Assigned, Commitment) {
    let mut bench = two_nodes();
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    let out = bench.wait(Micros::from_secs(21));
    let second = assigned(&out).expect("the other node takes it");
    let answer = bench.answer(&second, 8);
    (bench, first, second, answer)
}

fn is_closed(out: &[Output]) -> bool {
    matches!(out, [Output::Close { node: n, .. }] if *n == node(10))
}

fn ack(sequence: u64) -> Output {
    Output::Ack { node: node(10), sequence }
}

#[test]
fn a_batch_is_acknowledged_once_it_is_on_disk() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    let out = bench.batch(0, &[(&answer, &to)]);
    assert!(!out.contains(&ack(0)));
    assert!(bench.write().contains(&ack(0)));
    assert_eq!((bench.charged(), bench.available()), (vec![(PROMPT, 8)], FUNDS - 18));
}

#[test]
fn a_batch_sent_twice_is_acknowledged_again_and_paid_once() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    assert_eq!(bench.batch(0, &[(&answer, &to)]), [], "it is not on disk yet");
    bench.write();
    assert_eq!(bench.batch(0, &[(&answer, &to)]), [ack(0)]);
    bench.close();
    assert_eq!((bench.charged().len(), bench.available()), (1, FUNDS - 18));
}

#[test]
fn an_attempt_under_another_number_is_charged_once() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    // In the same epoch it costs nothing at all; later it is given back when the epoch closes.
    bench.batch(1, &[(&answer, &to), (&answer, &to)]);
    assert_eq!(bench.available(), FUNDS - 18);
    bench.write();
    bench.close();
    let audit = crate::world::asked(&bench.join(3))[0].1;
    bench.feed(Input::PayloadLost { audit });
    bench.write();
    bench.close();
    bench.batch(2, &[(&answer, &to)]);
    bench.write();
    bench.close();
    assert_eq!((i128::from(bench.available()), bench.balance()), (9_982, 9_982));
}

#[test]
fn a_batch_out_of_sequence_closes_the_link() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    assert!(is_closed(&bench.batch(1, &[(&answer, &to)])));
    assert_eq!(bench.gateway.next_batch(&node(10)), 0);
}

#[test]
fn a_batch_without_its_orders_closes_the_link() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    let mut forged = to.clone();
    forged.order[40] ^= 1;
    assert!(is_closed(&bench.batch(0, &[(&answer, &forged)])));
    bench.grant(10);
    let second = bench.assign(2);
    let swapped = Assigned { order: second.order, ..to };
    assert!(is_closed(&bench.batch(0, &[(&answer, &swapped)])));
}

#[test]
fn a_batch_that_commits_to_another_answer_closes_the_link() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answer = bench.answer(&to, 8);
    let other = Commitment { output: Digest([0xee; 32]), ..answer };
    assert!(is_closed(&bench.batch(0, &[(&other, &to)])));
}

#[test]
fn a_restart_without_memory_charges_by_the_order() {
    let mut bench = one_node();
    let to = bench.assign(1);
    bench.progress(&to, 5, 5);
    bench.restart();
    assert_eq!(bench.available(), FUNDS);
    bench.join(10);
    // It claims more tokens than were asked for: it gets what the order allows.
    bench.batch(0, &[(&commitment(&to, 120, Finish::EndOfText), &to)]);
    bench.write();
    assert_eq!((bench.charged(), bench.available()), (vec![(PROMPT, 100)], FUNDS - 110));
}

#[test]
fn what_broke_off_before_a_restart_is_nobodys_as_its_successor_may_have_repeated_it() {
    let (mut bench, first, second, answer) = taken_over();
    bench.restart();
    bench.join(10);
    bench.join(11);
    // It had made 9 by the time it was told to stop; 5 were delivered, which nobody knows any more.
    bench.batch(0, &[(&commitment(&first, 9, Finish::Cancelled), &first)]);
    bench.batch(0, &[(&answer, &second)]);
    bench.write();
    assert_eq!(bench.charged(), [(0, 0), (PROMPT, 3)]);
}

#[test]
fn who_hands_in_work_that_is_forgotten_in_the_same_run_gets_nothing() {
    let mut bench = one_node();
    let to = bench.assign(1);
    bench.answer(&to, 5);
    bench.wait(Micros::from_secs(601));
    assert_eq!(bench.available(), FUNDS);
    // The order would allow a hundred tokens.
    bench.batch(0, &[(&commitment(&to, 100, Finish::EndOfText), &to)]);
    bench.write();
    assert_eq!((bench.charged(), bench.available()), (vec![(0, 0)], FUNDS));
}

#[test]
fn a_commitment_of_another_epoch_than_the_orders_closes_the_link() {
    let mut bench = one_node();
    let to = bench.assign(1);
    let answered = bench.answer(&to, 5);
    let other = Commitment { epoch: ol_protocol::Epoch(99), ..answered };
    assert!(is_closed(&bench.batch(0, &[(&other, &to)])));
}

#[test]
fn a_restart_keeps_what_was_on_disk_and_takes_again_what_was_not() {
    let mut bench = one_node();
    let first = bench.assign(1);
    let answered = bench.answer(&first, 8);
    bench.batch(0, &[(&answered, &first)]);
    bench.write();
    bench.grant(10);
    let second = bench.assign(2);
    let lost = bench.answer(&second, 6);
    bench.batch(1, &[(&lost, &second)]);
    bench.restart();
    assert_eq!((bench.gateway.next_batch(&node(10)), bench.available()), (1, FUNDS - 18));
    bench.join(10);
    assert_eq!(bench.batch(0, &[(&answered, &first)]), [ack(0)]);
    bench.batch(1, &[(&lost, &second)]);
    bench.write();
    assert_eq!((bench.charged(), bench.available()), (vec![(PROMPT, 8), (PROMPT, 6)], FUNDS - 34));
    assert_eq!(bench.gateway.auditing(), 2, "the first audit was taken up again");
}

#[test]
fn a_batch_waits_for_its_responses_but_not_for_long() {
    let mut bench = one_node();
    let to = bench.assign(1);
    bench.progress(&to, 8, 8);
    let answer = commitment(&to, 8, Finish::EndOfText);
    bench.done(&answer);
    assert_eq!(bench.batch(0, &[(&answer, &to)]), []);
    let out = bench.wait(Micros::from_secs(2));
    assert!(out.iter().any(|o| matches!(o, Output::Append { .. })), "{out:?}");
}

#[test]
fn a_settled_task_is_forgotten_unless_it_is_audited() {
    let mut bench = one_node();
    let mut forgotten = 0;
    for n in 0..40 {
        let (_, out) = bench.whole(n, u64::from(n), 4);
        let drawn = usize::from(bench.gateway.counters().audits_drawn as u8);
        forgotten += usize::from(out.contains(&Output::Forget { task: task(n) }));
        assert_eq!(forgotten + drawn, usize::from(n) + 1);
        bench.grant(10);
    }
    assert!(forgotten > 0, "after a newcomer's thirty audits some are not drawn");
}

#[test]
fn a_log_replays_to_the_same_state_and_a_changed_one_does_not() {
    let mut bench = one_node();
    bench.whole(1, 0, 8);
    bench.close();
    let replay = |records: &[Record]| Settler::from_log(None, records.iter().cloned());
    let replayed = replay(&bench.records).expect("its own log");
    assert_eq!(replayed.digest(), bench.gateway.settler().digest());
    let at = bench.records.iter().position(|record| matches!(record, Record::Receipt(_))).expect("one");
    let mut changed = bench.records.clone();
    let Record::Receipt(receipt) = &mut changed[at] else { panic!("a receipt") };
    receipt.charge.output_tokens = TokenCount(7);
    assert!(matches!(replay(&changed), Err(ol_roles::settler::Fault::Batch { .. })));
    assert!(matches!(replay(&bench.records[1..]), Err(ol_roles::settler::Fault::Genesis)));
    assert!(matches!(replay(&bench.records[..=at]), Err(ol_roles::settler::Fault::NoBatch { receipts: 1 })));
}

#[test]
fn a_snapshot_and_the_records_after_it_are_the_whole_log() {
    let mut bench = one_node();
    bench.whole(1, 0, 8);
    bench.close();
    let (snapshot, before) = (bench.gateway.settler().to_bytes(), bench.records.len());
    bench.grant(10);
    bench.whole(2, 1, 5);
    let whole = Settler::from_log(None, bench.records.iter().cloned()).expect("its own log");
    let after = bench.records[before..].iter().cloned();
    let short = Settler::from_log(Some(&snapshot), after).expect("its own log");
    assert_eq!(short.digest(), whole.digest());
}

// A node broke an answer off after 5 tokens, and comes with its signature on 9; the rest came from another.
fn broken_off(held: Match) -> (Vec<(u32, u32)>, u64) {
    let (mut bench, first, second, answer) = taken_over();
    bench.batch(0, &[(&answer, &second)]);
    bench.batch_held(0, &[(&commitment(&first, 9, Finish::Cancelled), &first)], vec![held]);
    bench.write();
    (bench.charged(), bench.gateway.counters().wrong_counts)
}

#[test]
fn what_a_node_broke_off_is_paid_as_far_as_it_commits_to_what_it_sent() {
    let (whole, paid, nothing) = ((PROMPT, 3), (0, 5), (0, 0));
    assert_eq!(broken_off(Match::Until(TokenCount(5))), (vec![whole, paid], 0));
    assert_eq!(broken_off(Match::Until(TokenCount(9))), (vec![whole, paid], 0));
    // It says too little for a comparison: no fault, and no pay.
    assert_eq!(broken_off(Match::Unknown), (vec![whole, nothing], 0));
    // What nobody could audit: tokens that it never sent.
    assert_eq!(broken_off(Match::Other), (vec![whole, nothing], 1));
    assert_eq!(broken_off(Match::Until(TokenCount(3))), (vec![whole, (0, 3)], 1));
}

#[test]
fn more_than_was_asked_for_is_no_attempt_and_a_prompt_is_as_long_as_it_was_said_to_be() {
    let mut bench = one_node();
    let to = bench.assign(1);
    bench.feed(Input::Started {
        node: to.node,
        attempt: to.attempt,
        prompt_tokens: TokenCount(PROMPT),
        resident_tokens: TokenCount(0),
    });
    bench.progress(&to, 5, 5);
    bench.feed(Input::ClientGone { task: task(1) });
    // Nobody could audit what is longer than any answer may be.
    let padded = commitment(&to, 101, Finish::Cancelled);
    bench.batch_held(0, &[(&padded, &to)], vec![Match::Until(TokenCount(5))]);
    bench.write();
    assert_eq!(bench.charged(), [(0, 0)]);

    let mut bench = one_node();
    let to = bench.assign(1);
    bench.feed(Input::Started {
        node: to.node,
        attempt: to.attempt,
        prompt_tokens: TokenCount(PROMPT),
        resident_tokens: TokenCount(0),
    });
    bench.progress(&to, 5, 5);
    bench.feed(Input::ClientGone { task: task(1) });
    let inflated = Commitment { prompt_tokens: TokenCount(50), ..commitment(&to, 5, Finish::Cancelled) };
    bench.batch(0, &[(&inflated, &to)]);
    bench.write();
    assert_eq!(bench.charged(), [(PROMPT, 5)]);
}

// Two whole answers of one task after a restart: the first node's link broke as it sent the end of its own.
fn two_answers(first_comes_first: bool) -> Vec<(u32, u32)> {
    let (mut bench, first, second, answer) = taken_over();
    bench.restart();
    bench.join(10);
    bench.join(11);
    let unheard = commitment(&first, 8, Finish::EndOfText);
    let (one, two) = ((&unheard, &first), (&answer, &second));
    let order = if first_comes_first { [one, two] } else { [two, one] };
    order.into_iter().for_each(|each| drop(bench.batch(0, &[each])));
    bench.write();
    bench.charged()
}

#[test]
fn after_a_restart_no_token_of_a_task_is_charged_twice() {
    assert_eq!(two_answers(true), [(PROMPT, 8), (0, 0)]);
    assert_eq!(two_answers(false), [(PROMPT, 3), (0, 5)]);
}

#[test]
fn an_answer_that_comes_after_another_ones_settlement_is_nobodys() {
    for late in [0, 1] {
        let (mut bench, first, second, answer) = taken_over();
        bench.restart();
        bench.join(10);
        bench.join(11);
        let unheard = commitment(&first, 8, Finish::EndOfText);
        let both = [(&unheard, &first), (&answer, &second)];
        bench.batch(0, &[both[1 - late]]);
        bench.write();
        let audit = crate::world::asked(&bench.join(3))[0].1;
        bench.feed(Input::PayloadLost { audit });
        bench.write();
        assert_eq!(bench.close().settled, 1);
        bench.batch(0, &[both[late]]);
        bench.write();
        assert_eq!(bench.charged()[1], (0, 0), "attempt {late}");
    }
}

#[test]
fn two_attempts_of_one_node_in_one_batch_are_charged_once_too() {
    let mut bench = one_node();
    let first = bench.assign(1);
    bench.progress(&first, 5, 5);
    bench.feed(Input::NodeLeft { node: first.node });
    bench.join(10);
    let second = assigned(&bench.wait(Micros::from_secs(15))).expect("it may have the task again");
    let epoch = bench.gateway.settler().epoch();
    let answer = Commitment { epoch, ..commitment(&second, 8, Finish::EndOfText) };
    bench.restart();
    bench.join(10);
    let unheard = commitment(&first, 8, Finish::EndOfText);
    bench.batch(0, &[(&unheard, &first), (&answer, &second)]);
    bench.write();
    assert_eq!(bench.charged(), [(PROMPT, 8), (0, 0)]);
}

// What a snapshot at each close would cost: every attempt that is remembered, once an epoch.
#[test]
fn snapshots_come_as_the_log_grows_and_lead_to_the_same_state() {
    let mut bench = one_node();
    for n in 0..40 {
        bench.grant(10);
        bench.whole(n + 1, u64::from(n), 1);
    }
    let mut taken = Vec::new();
    for epoch in 0..21 {
        let out = bench.wait(Micros::from_secs(10));
        bench.write();
        let snapshot = out.into_iter().find_map(|output| match output {
            Output::Closed { snapshot, .. } => Some(snapshot),
            _ => None,
        });
        if let Some(bytes) = snapshot.expect("an epoch closed") {
            taken.push((epoch, bytes, bench.records.len()));
        }
    }
    // Those that were drawn wait for an audit. Each close adds a record.
    let remembered = bench.gateway.settler().ledger().remembered();
    assert!((5..=40).contains(&remembered), "{remembered}");
    let epochs: Vec<usize> = taken.iter().map(|(epoch, ..)| *epoch).collect();
    assert_eq!(epochs, (0..21).step_by(remembered.div_ceil(4)).collect::<Vec<_>>());
    let whole = Settler::from_log(None, bench.records.iter().cloned()).expect("a log");
    for (epoch, bytes, before) in taken {
        let restored = Settler::from_log(Some(&bytes), bench.records[before..].iter().cloned()).expect("a snapshot");
        assert_eq!(restored.digest(), whole.digest(), "epoch {epoch}");
    }
}
