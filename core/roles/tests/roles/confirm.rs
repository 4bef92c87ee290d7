//! Answers that are kept back until they are trusted as far as their tenants ask.

use crate::world::{Assigned, Bench, FUNDS, PRICE, asked, assigned, finished, found, node, refused, submission};
use ol_ledger::Account;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::variant::Assurance;
use ol_protocol::verdict::Verdict;
use ol_protocol::{AuditId, Digest, Micros};
use ol_roles::Settler;
use ol_roles::gateway::event::{Finished, Input, Output, Refusal, Submission, TrustFloor};
use ol_sched::Gate;

// What a newcomer's answer has once its audit passed, and not before.
const FLOOR: u32 = 990_000;

fn floored(n: u8, value_ppm: u32) -> Submission {
    let floor = TrustFloor { value_ppm, assurance: Assurance::Seeded };
    Submission { floor: Some(floor), ..submission(n) }
}

fn submit(bench: &mut Bench, n: u8, value_ppm: u32) -> Vec<Output> {
    bench.feed(Input::Submitted(floored(n, value_ppm)))
}

// The answer, and how the client's task ended with it.
fn answer(bench: &mut Bench, to: &Assigned) -> (Commitment, Finished) {
    bench.progress(to, 40, 40);
    let answer = crate::world::commitment(to, 40, Finish::EndOfText);
    let ended = finished(&bench.done(&answer)).expect("the answer is whole");
    bench.feed(Input::Responded { task: to.attempt.task, response: Digest([0x72; 32]) });
    (answer, ended)
}

// A newcomer's answer that waits, and the audit that the referee is asked for.
fn waiting() -> (Bench, Commitment, AuditId) {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(3);
    let to = assigned(&submit(&mut bench, 1, FLOOR)).expect("a node may reach it");
    let (answer, ended) = answer(&mut bench, &to);
    assert!(ended.waits);
    bench.batch(0, &[(&answer, &to)]);
    let out = bench.write();
    let whole = out.iter().any(|output| matches!(output, Output::Audit { reach, .. } if reach.0 == 40));
    assert!(whole, "{out:?}");
    (bench, answer, asked(&out)[0].1)
}

fn released(out: &[Output]) -> bool {
    out.iter().any(|output| matches!(output, Output::Release { .. }))
}

const fn clean(_: &mut Verdict) {}

#[test]
fn an_answer_goes_out_when_its_audit_passed_and_its_tenant_pays_the_auditor() {
    let (mut bench, answer, audit) = waiting();
    let out = bench.verdict(3, audit, &answer, clean);
    assert_eq!((found(&out), released(&out), refused(&out)), (vec![(node(10), Some(true))], true, None));
    let charge = bench.receipts()[0].charge.clone();
    // 40 % of the price are the audit's, so the rest is what is posted.
    let raised = PRICE.with_audit(4_000).expect("less than all");
    assert_eq!((charge.with_audit, charge.price, charge.response), (true, raised, Digest([0x72; 32])));
    let plain = PRICE.charge(charge.prompt_tokens, charge.output_tokens).expect("small");
    assert_eq!(charge.amount.0 * 6 / 10, plain.0);
    bench.write();
    let summary = bench.close();
    assert_eq!(summary.charged, charge.amount);
    assert_eq!(
        bench.gateway.settler().balance(&Account::Verification),
        i128::from(charge.amount.0 * 4 / 10 + plain.0 / 50)
    );
    assert_eq!(bench.balance(), i128::from(FUNDS - charge.amount.0));
    assert_eq!(bench.available(), FUNDS - charge.amount.0);
}

#[test]
fn an_answer_whose_audit_failed_is_refused_and_not_charged() {
    let (mut bench, answer, audit) = waiting();
    let out = bench.verdict(3, audit, &answer, |v| v.worst_margin_micro = 1_000_000);
    assert_eq!((released(&out), refused(&out)), (false, Some(Refusal::Unconfirmed { failed: true })));
    bench.write();
    bench.close();
    assert_eq!((bench.balance(), bench.available()), (i128::from(FUNDS), FUNDS));
}

#[test]
fn the_audit_of_an_attempt_that_broke_off_releases_nothing() {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(11);
    bench.join(3);
    let first = assigned(&submit(&mut bench, 1, FLOOR)).expect("a node may reach it");
    bench.progress(&first, 8, 8);
    let broken = crate::world::commitment(&first, 8, Finish::Cancelled);
    let second = assigned(&bench.feed(Input::NodeLeft { node: first.node })).expect("the other takes over");
    bench.progress(&second, 40, 32);
    let answer = crate::world::commitment(&second, 40, Finish::EndOfText);
    assert!(finished(&bench.done(&answer)).is_some_and(|ended| ended.waits));
    bench.feed(Input::Responded { task: second.attempt.task, response: Digest([0x72; 32]) });
    bench.batch(0, &[(&broken, &first)]);
    let out = bench.write();
    let audit = asked(&out)[0].1;
    let out = bench.verdict(3, audit, &broken, clean);
    assert_eq!((found(&out), released(&out)), (vec![(first.node, Some(true))], false));
    bench.write();
    bench.batch(0, &[(&answer, &second)]);
    let out = bench.write();
    let audit = asked(&out)[0].1;
    assert!(released(&bench.verdict(3, audit, &answer, clean)));
    let with_audit: Vec<bool> = bench.receipts().iter().map(|receipt| receipt.charge.with_audit).collect();
    assert_eq!(with_audit, [false, true]);
}

#[test]
fn an_answer_that_can_not_be_audited_is_refused() {
    let (mut bench, _, audit) = waiting();
    let out = bench.feed(Input::PayloadLost { audit });
    assert_eq!((released(&out), refused(&out)), (false, Some(Refusal::Unconfirmed { failed: false })));
}

#[test]
fn the_deadline_ends_the_wait_and_a_later_verdict_counts_all_the_same() {
    let (mut bench, answer, audit) = waiting();
    let out = bench.wait(Micros::from_secs(300));
    assert_eq!(refused(&out), Some(Refusal::Unconfirmed { failed: false }));
    assert_eq!(refused(&bench.wait(Micros::from_secs(1))), None);
    let audit = asked(&out).first().map_or(audit, |asked| asked.1);
    let out = bench.verdict(3, audit, &answer, clean);
    assert_eq!((found(&out), released(&out)), (vec![(node(10), Some(true))], false));
}

// Node 10 has thirty audited answers, and a slot.
fn veteran() -> Bench {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(3);
    for n in 0..30 {
        let to = bench.assign(n);
        let answer = bench.answer(&to, 8);
        bench.batch(n.into(), &[(&answer, &to)]);
        let out = bench.write();
        bench.verdict(3, asked(&out)[0].1, &answer, clean);
        bench.write();
        bench.grant(10);
    }
    bench.close();
    bench
}

// More of them than are looked at one by one.
#[test]
fn one_who_is_trusted_enough_is_found_among_many_who_are_not() {
    let mut bench = veteran();
    (40..70).for_each(|n| drop(bench.join(n)));
    for n in 31..35 {
        assert_eq!(assigned(&submit(&mut bench, n, 999_000)).map(|to| to.node), Some(node(10)));
        // While it is busy the next waits, and no newcomer gets it.
        assert_eq!(assigned(&submit(&mut bench, n + 100, 999_000)), None);
        let out = bench.grant(10);
        assert_eq!(assigned(&out).map(|to| to.node), Some(node(10)));
        bench.grant(10);
    }
}

#[test]
fn who_is_trusted_enough_answers_at_once_and_at_the_posted_price() {
    let mut bench = veteran();
    let to = assigned(&submit(&mut bench, 31, FLOOR)).expect("a node may reach it");
    let (answer, ended) = answer(&mut bench, &to);
    assert_eq!((ended.waits, ended.price), (false, PRICE));
    bench.batch(30, &[(&answer, &to)]);
    bench.write();
    assert!(bench.receipts().iter().all(|receipt| !receipt.charge.with_audit && receipt.charge.price == PRICE));
    // A newcomer with room is passed over where even a clean audit of its answer would not do; the veteran's would.
    bench.join(11);
    assert_eq!(assigned(&submit(&mut bench, 32, 999_000)), None);
    let out = bench.grant(10);
    assert_eq!(assigned(&out).map(|to| to.node), Some(node(10)));
}

#[test]
fn what_nobody_reaches_or_audits_is_refused_at_once() {
    let mut bench = Bench::new();
    bench.join(10);
    let gate = |out: &[Output]| match refused(out) {
        Some(Refusal::Impossible(gates)) => gates.first().copied(),
        _ => None,
    };
    assert_eq!(gate(&submit(&mut bench, 1, FLOOR)), Some(Gate::NoAuditor));
    bench.join(3);
    let too_high = gate(&submit(&mut bench, 2, 999_999));
    assert!(
        matches!(too_high, Some(Gate::TrustTooHigh { needed_ppm: 999_999, best_ppm: 990_001..=999_000 })),
        "{too_high:?}"
    );
    assert!(assigned(&submit(&mut bench, 3, FLOOR)).is_some());
    let mut unknown = Bench::uncalibrated();
    unknown.join(10);
    unknown.join(3);
    assert_eq!(gate(&submit(&mut unknown, 1, FLOOR)), Some(Gate::NoAuditor));
    assert_eq!(unknown.available(), FUNDS);
}

#[test]
fn that_a_tenant_pays_for_an_audit_outlives_a_close_and_a_restart() {
    let (mut bench, answer, audit) = waiting();
    bench.close();
    let bytes = bench.gateway.settler().to_bytes();
    let restored = Settler::from_bytes(&bytes).expect("own bytes");
    assert!(restored.unsettled().all(|(_, receipt)| receipt.charge.with_audit));
    assert_eq!(restored.digest(), bench.gateway.settler().digest());
    bench.restart();
    let out = bench.join(3);
    assert_eq!(asked(&out)[0].1, audit);
    // Nobody waits any more.
    assert!(!released(&bench.verdict(3, audit, &answer, clean)));
}
