//! Evidence against nodes: whose escrow it takes, and whose it can't.

use crate::world::{Bench, TENANT, VARIANT, calibration, evidence, node};
use ol_ledger::Account;
use ol_protocol::commitment::Commitment;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::verdict::Verdict;
use ol_protocol::{AuditId, Digest, MicroCredits, Micros, TenantId, VariantId};
use ol_roles::Settler;
use ol_roles::gateway::event::{Input, Output};
use ol_roles::settler::Fault;

// Node 10 earns for task 1, whose audit passes; the referee is asked about task 2, which is public.
fn earned() -> (Bench, Commitment, AuditId) {
    earned_before(2)
}

// Tasks of even numbers are public.
fn earned_before(n: u8) -> (Bench, Commitment, AuditId) {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(3);
    let first = answered(&mut bench, 1, 0);
    bench.verdict(3, first.1, &first.0, |_| {});
    bench.write();
    bench.grant(10);
    let (answer, audit) = answered(&mut bench, n, 1);
    (bench, answer, audit)
}

fn answered(bench: &mut Bench, n: u8, sequence: u64) -> (Commitment, AuditId) {
    let to = bench.assign(n);
    let answer = bench.answer(&to, 8);
    bench.batch(sequence, &[(&answer, &to)]);
    let out = bench.write();
    let asked = crate::world::asked(&out);
    assert_eq!(asked.len(), 1, "{n} {out:?}");
    (answer, asked[0].1)
}

fn opened(out: &[Output]) -> Vec<AttemptId> {
    out.iter().filter_map(|o| if let Output::Open { subject, .. } = o { Some(*subject) } else { None }).collect()
}

fn escrow(bench: &Bench) -> i128 {
    bench.gateway.settler().balance(&Account::Escrow(node(10)))
}

fn far_off(verdict: &mut Verdict) {
    verdict.worst_margin_micro = 1_000_000;
}

#[test]
fn a_refuted_answer_that_becomes_public_takes_its_nodes_escrow() {
    let (mut bench, answer, audit) = earned();
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    bench.verdict(3, audit, &answer, far_off);
    assert_eq!(opened(&bench.write()), [subject]);
    bench.feed(Input::Evidence(evidence(&answer)));
    bench.write();
    assert!(bench.records.iter().any(|record| matches!(record, Record::Evidence(_))));
    let summary = bench.close();
    assert_eq!((escrow(&bench), summary.slashed), (0, summary.paid_to_nodes));
    assert!(summary.slashed > MicroCredits(0));
    // Not twice for one fault.
    let before = bench.records.len();
    bench.feed(Input::Evidence(evidence(&answer)));
    bench.write();
    assert_eq!((bench.records.len(), bench.gateway.counters().void_evidence), (before, 1));
}

#[test]
fn a_private_answer_costs_its_pay_and_no_escrow() {
    let (mut bench, answer, audit) = earned_before(3);
    bench.verdict(3, audit, &answer, far_off);
    assert_eq!(opened(&bench.write()), []);
    bench.write();
    let summary = bench.close();
    assert_eq!((escrow(&bench), summary.slashed), (i128::from(summary.paid_to_nodes.0), MicroCredits(0)));
    assert!(escrow(&bench) > 0);
    assert!(summary.refunded > MicroCredits(0));
}

#[test]
fn a_private_answer_is_evidence_once_its_own_tenant_says_so() {
    let (mut bench, answer, audit) = earned_before(3);
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    let published = |tenant| Input::Published { tenant, task: answer.task };
    assert_eq!(opened(&bench.feed(published(TENANT))), [], "it was not refuted yet");
    bench.verdict(3, audit, &answer, far_off);
    bench.write();
    bench.close();
    let settler = Settler::from_bytes(&bench.gateway.settler().to_bytes()).unwrap();
    assert_eq!(settler.digest(), bench.gateway.settler().digest());
    bench.restart();
    assert_eq!(opened(&bench.wait(Micros::from_secs(1))), [], "it is not public");
    assert_eq!(opened(&bench.feed(published(TenantId([9; 16])))), [], "somebody else's");
    assert_eq!(opened(&bench.feed(published(TENANT))), [subject]);
    bench.feed(Input::Evidence(evidence(&answer)));
    bench.write();
    assert_eq!(opened(&bench.feed(published(TENANT))), [], "it is public");
    assert!(bench.close().slashed > MicroCredits(0));
    assert_eq!(escrow(&bench), 0);
    // Others follow from the log.
    assert!(Settler::from_log(None, bench.records.iter().cloned()).is_ok());
}

#[test]
fn what_is_too_old_to_be_found_again_cant_be_published() {
    let (mut bench, answer, audit) = earned_before(3);
    bench.verdict(3, audit, &answer, far_off);
    bench.write();
    // An hour, in epochs of ten seconds.
    (0..361).for_each(|_| drop(bench.close()));
    assert_eq!(opened(&bench.feed(Input::Published { tenant: TENANT, task: answer.task })), []);
}

#[test]
fn a_restart_between_verdict_and_evidence_loses_nothing() {
    let (mut bench, answer, audit) = earned();
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    bench.verdict(3, audit, &answer, far_off);
    bench.write();
    bench.restart();
    assert_eq!(opened(&bench.wait(Micros::from_secs(1))), [subject]);
    assert_eq!(opened(&bench.wait(Micros::from_secs(1))), [], "once");
    bench.close();
    let settler = Settler::from_bytes(&bench.gateway.settler().to_bytes()).unwrap();
    assert_eq!(settler.digest(), bench.gateway.settler().digest());
    assert_eq!(settler.refuted(&subject), Some(&answer));
    bench.feed(Input::Evidence(evidence(&answer)));
    bench.write();
    assert!(bench.close().slashed > MicroCredits(0));
    assert_eq!(bench.gateway.settler().refuted(&subject), None);
}

// The attack: a gateway that wants a node's escrow opens what the node never committed to, or what nobody refuted.
#[test]
fn nobody_is_framed() {
    let (mut bench, answer, audit) = earned();
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    let mut settler = bench.gateway.settler().clone();
    assert_eq!(settler.evidence(&evidence(&answer)), Err(Fault::NotRefuted(subject)));
    bench.verdict(3, audit, &answer, far_off);
    assert_eq!(opened(&bench.write()), [subject]);
    let mut settler = bench.gateway.settler().clone();
    let mut framed = evidence(&answer);
    framed.output[3] = 1;
    assert_eq!(settler.evidence(&framed), Err(Fault::Unopened(subject)));
    let mut framed = evidence(&answer);
    framed.prompt.push(1);
    assert_eq!(settler.evidence(&framed), Err(Fault::Unopened(subject)));
    assert_eq!(settler.evidence(&evidence(&answer)), Ok(()));
}

#[test]
fn what_only_the_gateway_says_refutes_nobody() {
    let lies: [fn(&mut Verdict); 2] = [|v| v.prompt = Digest([0xee; 32]), |v| v.seed = Digest([0xee; 32])];
    for lie in lies {
        let (mut bench, answer, audit) = earned();
        let subject = AttemptId { task: answer.task, attempt: answer.attempt };
        bench.verdict(3, audit, &answer, lie);
        assert_eq!((opened(&bench.write()), bench.gateway.settler().refuted(&subject)), (vec![], None));
        bench.write();
        assert!(bench.close().refunded > MicroCredits(0), "it is not paid all the same");
    }
}

#[test]
fn a_verdict_of_another_variant_refutes_nobody() {
    let other = VariantId([9; 32]);
    let (mut bench, answer, audit) = earned();
    bench.feed(Input::Calibrated(Box::new(calibration(VARIANT, other))));
    let out = bench.verdict(3, audit, &answer, |v| {
        v.variant = other;
        v.finish_fits = false;
    });
    let ruled = out.iter().any(|o| matches!(o, Output::Audited { passed: Some(false), .. }));
    assert!(ruled, "{out:?}");
    assert_eq!(opened(&bench.write()), []);
}

#[test]
fn whether_a_receipt_is_public_outlives_a_close_and_a_restart() {
    let (mut bench, answer, audit) = earned();
    bench.close();
    let settler = Settler::from_bytes(&bench.gateway.settler().to_bytes()).unwrap();
    assert_eq!(settler.digest(), bench.gateway.settler().digest());
    bench.restart();
    bench.join(10);
    bench.join(3);
    bench.verdict(3, audit, &answer, far_off);
    assert_eq!(opened(&bench.write()).len(), 1);
    assert!(bench.receipts().iter().any(|receipt| receipt.charge.public));
}
