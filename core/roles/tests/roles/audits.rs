//! Audits: who does them, whose word counts, and what they cost whom.

use crate::world::{Assigned, Bench, FUNDS, VARIANT, asked, calibration, found, node, referee, verdict_of};
use ol_ledger::Account;
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::Commitment;
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Digest, Micros, NodeId, OperatorId, Timestamp, VariantId};
use ol_roles::gateway::event::{Input, Output};
use ol_roles::settler::Fault;
use std::collections::BTreeMap;

// One answered and drawn task of node 10, with the nodes given beside it; the audits that were asked for.
fn drawn(others: &[u8]) -> (Bench, Commitment, Vec<(NodeId, AuditId, Level)>) {
    let mut bench = Bench::new();
    bench.join(10);
    let to: Assigned = bench.assign(1);
    let mut out: Vec<Output> = others.iter().flat_map(|n| bench.join(*n)).collect();
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    out.extend(bench.write());
    let asked = asked(&out).into_iter().map(|(auditor, audit, _, level)| (auditor, audit, level)).collect();
    (bench, answer, asked)
}

fn five() -> (Bench, Commitment, u8, AuditId) {
    let (bench, answer, asked) = drawn(&[3, 11, 12, 13, 14]);
    let (auditor, audit, level) = asked[0];
    assert_eq!(level, Level::CrossAudit);
    (bench, answer, auditor.0[0], audit)
}

#[test]
fn below_five_operators_the_referee_audits() {
    let (mut bench, answer, asked) = drawn(&[3, 11, 12, 13]);
    assert_eq!(asked.iter().map(|a| (a.0, a.2)).collect::<Vec<_>>(), [(referee(), Level::Referee)]);
    let out = bench.verdict(3, asked[0].1, &answer, |_| {});
    assert_eq!(found(&out), [(node(10), Some(true))]);
}

#[test]
fn with_five_operators_another_operators_node_audits() {
    let (mut bench, answer, auditor, audit) = five();
    assert!((11..15).contains(&auditor));
    assert_eq!(found(&bench.verdict(auditor, audit, &answer, |_| {})), [(node(10), Some(true))]);
}

// The attack: thousands of idle nodes of one operator, which stand next to each other among those that are free. Were a run of neighbours looked at for
// an audit, most runs would have no others, who weigh as much.
#[test]
fn many_nodes_of_one_operator_leave_others_their_share_of_audits() {
    const THEIR: OperatorId = OperatorId([99; 32]);
    let mut bench = Bench::new();
    bench.join(10);
    let results: Vec<(Assigned, Commitment)> = (0..24)
        .map(|n| {
            let to = bench.assign(n);
            let answer = bench.answer(&to, 8);
            bench.grant(10);
            (to, answer)
        })
        .collect();
    let mut operators = BTreeMap::new();
    for number in 0..3_000_u16 {
        let mut id = NodeId([200; 32]);
        id.0[..2].copy_from_slice(&number.to_be_bytes());
        let operator = if number < 2_000 { THEIR } else { OperatorId(id.0) };
        operators.insert(id, operator);
        let (variants, region) = (vec![VARIANT], None);
        bench.feed(Input::NodeJoined { node: id, operator, referee: false, variants, region });
        bench.feed(Input::Granted { node: id, variant: VARIANT, total: 1 });
    }
    let mut theirs = 0;
    for (sequence, (to, answer)) in (0..).zip(&results) {
        bench.batch(sequence, &[(answer, to)]);
        let out = bench.write();
        let [(auditor, audit, _, level)] = asked(&out)[..] else { panic!("{out:?}") };
        assert_eq!(level, Level::CrossAudit);
        let operator = operators[&auditor];
        theirs += u32::from(operator == THEIR);
        let verdict = Verdict { auditor, operator, ..verdict_of(99, audit, answer) };
        bench.feed(Input::Verdict { node: auditor, verdict, agrees: true });
        bench.write();
    }
    // One operator among some two hundred that are looked at each time.
    assert!(theirs <= 2, "{theirs} of {}", results.len());
}

#[test]
fn who_was_found_clean_often_audits_more_than_newcomers() {
    let mut bench = Bench::new();
    bench.join(3);
    bench.join(11);
    for n in 0..24 {
        let to = bench.assign(n);
        let answer = bench.answer(&to, 8);
        bench.batch(n.into(), &[(&answer, &to)]);
        let out = bench.write();
        bench.verdict(3, asked(&out)[0].1, &answer, |_| {});
        bench.write();
        bench.grant(11);
    }
    // Clean audits count from their epoch's close on.
    bench.close();
    assert_eq!(bench.gateway.settler().standing(node(11), VARIANT).clean, 24);
    let out: Vec<Output> = [12, 13, 14, 15].iter().flat_map(|n| bench.join(*n)).collect();
    assert_eq!(asked(&out), []);
    let mut by = Vec::new();
    for n in 30..50 {
        let to = bench.assign(n);
        let answer = bench.answer(&to, 8);
        let (sequence, of) = (bench.gateway.next_batch(&to.node), to.node);
        bench.batch(sequence, &[(&answer, &to)]);
        let out = bench.write();
        for (auditor, audit, _, level) in asked(&out) {
            assert_eq!(level, Level::CrossAudit);
            by.extend((of != node(11)).then_some(auditor));
            bench.verdict(auditor.0[0], audit, &answer, |_| {});
        }
        bench.write();
        bench.grant(to.node.0[0]);
    }
    let veteran = by.iter().filter(|auditor| **auditor == node(11)).count();
    // 25 of 28 are expected of it.
    assert!(by.len() >= 8 && veteran * 3 > by.len() * 2, "{veteran} of {}", by.len());
}

#[test]
fn nobody_audits_without_a_free_slot_unless_it_is_the_referee() {
    let (_, _, asked) = drawn(&[]);
    assert_eq!(asked, []);
}

#[test]
fn a_failure_goes_to_the_referee_and_its_word_is_final() {
    for (margin, passed) in [(100, true), (1_000_000, false)] {
        let (mut bench, answer, auditor, audit) = five();
        let out = bench.verdict(auditor, audit, &answer, |v| v.worst_margin_micro = 1_000_000);
        assert_eq!(found(&out), []);
        assert_eq!(asked(&out).iter().map(|a| (a.0, a.3)).collect::<Vec<_>>(), [(referee(), Level::Referee)]);
        let out = bench.verdict(3, audit, &answer, |v| v.worst_margin_micro = margin);
        assert_eq!(found(&out), [(node(10), Some(passed))]);
    }
}

// What audits in an output score.
fn reaches(out: &[Output]) -> Vec<u32> {
    let reach = |output: &Output| match output {
        Output::Audit { reach, .. } => Some(reach.0),
        _ => None,
    };
    out.iter().filter_map(reach).collect()
}

#[test]
fn an_audit_scores_as_far_as_it_is_drawn_and_all_where_somebody_doubts() {
    let mut seen = std::collections::BTreeSet::new();
    for n in 1..40 {
        let mut bench = Bench::new();
        bench.join(10);
        let to = bench.assign(n);
        let mut out: Vec<Output> = [3, 11, 12, 13, 14].iter().flat_map(|n| bench.join(*n)).collect();
        let answer = bench.answer(&to, 40);
        bench.batch(0, &[(&answer, &to)]);
        out.extend(bench.write());
        let ((auditor, audit, ..), reach) = (asked(&out)[0], reaches(&out)[0]);
        seen.insert(reach);
        if reach == 40 {
            continue;
        }
        let part = |v: &mut Verdict| v.scored_tokens.0 = reach - 1;
        let out = bench.verdict(auditor.0[0], audit, &answer, part);
        let (another, ..) = asked(&out)[0];
        assert!(another != auditor && found(&out).is_empty(), "less than it was asked for");
        assert_eq!(reaches(&out), [reach]);
        let out = bench.verdict(another.0[0], audit, &answer, |v| {
            (v.scored_tokens.0, v.worst_margin_micro) = (reach, 1_000_000);
        });
        assert_eq!((asked(&out)[0].0, reaches(&out)), (referee(), vec![40]));
        assert_eq!(found(&bench.verdict(3, audit, &answer, |_| {})), [(node(10), Some(true))]);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [32, 40]);
}

#[test]
fn an_audit_that_begins_again_after_its_epoch_scores_all() {
    for n in 1..12 {
        let mut bench = Bench::new();
        bench.join(10);
        let to = bench.assign(n);
        let answer = bench.answer(&to, 40);
        bench.batch(0, &[(&answer, &to)]);
        bench.write();
        bench.close();
        bench.restart();
        assert_eq!(reaches(&bench.join(3)), [40]);
    }
}

#[test]
fn an_auditor_whose_praise_stands_is_paid_what_is_there_for_audits() {
    let (mut bench, answer, auditor, audit) = five();
    bench.verdict(auditor, audit, &answer, |_| {});
    bench.write();
    let summary = bench.close();
    // A fifth of the only charge is more than the two shares that it brought.
    let there = summary.verification.0 + summary.reserve.0;
    assert!(there > 0 && there < bench.receipts()[0].charge.amount.0 / 5);
    assert_eq!(summary.audits.0, there);
    assert_eq!(bench.gateway.settler().balance(&Account::Escrow(node(auditor))), i128::from(there));
    assert_eq!(bench.gateway.settler().standing(node(auditor), VARIANT).failed, 0);
}

#[test]
fn an_accusation_outlives_the_gateway_and_counts_for_the_accuser_when_the_referee_confirms_it() {
    let (mut bench, answer, auditor, audit) = five();
    bench.verdict(auditor, audit, &answer, |v| v.worst_margin_micro = 1_000_000);
    bench.write();
    bench.restart();
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    assert!(bench.gateway.settler().is_accused(&subject));
    bench.join(11);
    let out: Vec<Output> = [3, 12, 13, 14].iter().flat_map(|n| bench.join(*n)).collect();
    assert_eq!(asked(&out).iter().map(|a| (a.0, a.3)).collect::<Vec<_>>(), [(referee(), Level::Referee)]);
    let out = bench.verdict(3, audit, &answer, |v| v.worst_margin_micro = 1_000_000);
    assert_eq!(found(&out), [(node(10), Some(false))]);
    bench.write();
    bench.close();
    let settler = bench.gateway.settler();
    assert_eq!((settler.standing(node(10), VARIANT).failed, settler.standing(node(auditor), VARIANT).failed), (1, 0));
}

#[test]
fn an_accuser_whom_the_referee_contradicts_is_not_paid() {
    let (mut bench, answer, auditor, audit) = five();
    bench.verdict(auditor, audit, &answer, |v| v.worst_margin_micro = 1_000_000);
    bench.write();
    bench.verdict(3, audit, &answer, |_| {});
    bench.write();
    let summary = bench.close();
    assert_eq!((summary.audits.0, summary.settled), (0, 1));
    assert_eq!(bench.gateway.settler().balance(&Account::Escrow(node(auditor))), 0);
    assert_eq!(bench.gateway.settler().standing(node(10), VARIANT).failed, 0);
}

// Twenty more results of node 10, audited well by whomever is asked: who that was.
fn asked_later(bench: &mut Bench) -> Vec<NodeId> {
    let mut by = Vec::new();
    for n in 100..120 {
        bench.grant(10);
        let to = bench.assign(n);
        let answer = bench.answer(&to, 8);
        bench.batch(bench.gateway.next_batch(&to.node), &[(&answer, &to)]);
        let out = bench.write();
        for (auditor, audit, ..) in asked(&out) {
            by.push(auditor);
            bench.verdict(auditor.0[0], audit, &answer, |_| {});
        }
        bench.write();
        bench.grant(to.node.0[0]);
    }
    by
}

#[test]
fn an_auditor_whom_the_referee_contradicts_is_not_asked_again_for_a_day() {
    let lie = |v: &mut Verdict| v.worst_margin_micro = 1_000_000;
    // It blames what is good, or praises without having computed.
    for case in 0..2 {
        let (mut bench, answer, auditor, audit) = five();
        match case {
            0 => drop(bench.verdict(auditor, audit, &answer, lie)),
            _ => drop(bench.feed(doubtful(auditor, audit, &answer))),
        }
        bench.verdict(3, audit, &answer, |_| {});
        bench.write();
        assert_eq!(bench.gateway.counters().false_verdicts, 1, "{case}");
        let by = asked_later(&mut bench);
        assert!(by.len() >= 10 && !by.contains(&node(auditor)), "{case}: {by:?}");
    }
}

#[test]
fn an_auditor_that_never_answers_is_not_asked_for_an_hour() {
    let (mut bench, answer, silent, _) = five();
    let out = bench.wait(Micros::from_secs(120));
    let (another, audit, ..) = asked(&out)[0];
    assert_ne!(another, node(silent));
    bench.verdict(another.0[0], audit, &answer, |_| {});
    bench.write();
    let by = asked_later(&mut bench);
    assert!(by.len() >= 10 && !by.contains(&node(silent)), "{by:?}");
    assert_eq!(
        (bench.gateway.distrusted().collect::<Vec<_>>(), bench.gateway.counters().false_verdicts),
        (vec![node(silent)], 0)
    );
    bench.wait(Micros::from_secs(3_600));
    assert_eq!(bench.gateway.distrusted().count(), 0);
}

#[test]
fn a_late_verdict_counts_where_nobody_else_could_be_asked() {
    let (mut bench, answer, asked_first) = drawn(&[11, 12, 13, 14]);
    let (mut auditor, mut audit, _) = asked_first[0];
    for _ in 0..3 {
        (auditor, audit, ..) = asked(&bench.wait(Micros::from_secs(120)))[0];
    }
    assert_eq!(asked(&bench.wait(Micros::from_secs(120))), []);
    assert_eq!(bench.gateway.distrusted().count(), 4);
    let out = bench.verdict(auditor.0[0], audit, &answer, |_| {});
    assert_eq!(found(&out), [(node(10), Some(true))]);
}

#[test]
fn who_was_right_is_asked_again() {
    let lie = |v: &mut Verdict| v.worst_margin_micro = 1_000_000;
    // An accusation that is confirmed, and log-probabilities that are not the prover's because the prover's are made up.
    for case in 0..2 {
        let (mut bench, answer, auditor, audit) = five();
        match case {
            0 => {
                bench.verdict(auditor, audit, &answer, lie);
                bench.verdict(3, audit, &answer, lie);
            }
            _ => {
                bench.feed(doubtful(auditor, audit, &answer));
                bench.feed(doubtful(3, audit, &answer));
            }
        }
        bench.write();
        assert_eq!(bench.gateway.counters().false_verdicts, 0, "{case}");
        assert!(bench.gateway.auditing() == 0, "{case}");
    }
}

#[test]
fn another_node_can_not_clear_whom_one_has_accused() {
    let (mut bench, answer, auditor, audit) = five();
    bench.verdict(auditor, audit, &answer, |v| v.worst_margin_micro = 1_000_000);
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    let friend = (11..15).find(|n| *n != auditor).unwrap();
    let settler = bench.gateway.settler();
    let says = |by| settler.ruling(subject, &verdict_of(by, audit, &answer));
    assert!(settler.is_accused(&subject));
    assert_eq!(says(friend), None);
    assert_eq!(says(3), Some(Ruling::Passed));
}

#[test]
fn log_probabilities_that_differ_are_a_doubt_that_the_referee_settles() {
    let (mut bench, answer, auditor, audit) = five();
    let out = bench.feed(doubtful(auditor, audit, &answer));
    assert_eq!((found(&out), asked(&out)[0].3), (vec![], Level::Referee));
    let out = bench.feed(doubtful(3, audit, &answer));
    assert_eq!(found(&out), [(node(10), Some(true))]);
}

#[test]
fn an_auditor_that_names_another_operator_or_level_is_not_heard() {
    for (operator, level) in [(99, Level::CrossAudit), (0, Level::Panel)] {
        let (mut bench, answer, auditor, audit) = five();
        let out = bench.verdict(auditor, audit, &answer, |v| {
            v.operator.0[0] ^= operator;
            (v.level, v.worst_margin_micro) = (level, 1_000_000);
        });
        let next = asked(&out)[0];
        assert!(next.0 != node(auditor) && next.3 == Level::CrossAudit);
        assert!(!bench.gateway.settler().is_accused(&AttemptId { task: answer.task, attempt: answer.attempt }));
    }
}

fn doubtful(by: u8, audit: AuditId, answer: &Commitment) -> Input {
    Input::Verdict { node: node(by), verdict: verdict_of(by, audit, answer), agrees: false }
}

#[test]
fn a_verdict_over_other_content_blames_nobody_and_another_looks() {
    let (mut bench, answer, auditor, audit) = five();
    let out = bench.verdict(auditor, audit, &answer, |v| v.output = Digest([0xee; 32]));
    let next = asked(&out)[0];
    assert!(next.0 != node(auditor) && found(&out).is_empty());
    assert_eq!(found(&bench.verdict(next.0.0[0], audit, &answer, |_| {})), [(node(10), Some(true))]);
}

#[test]
fn what_the_referee_does_not_recognise_is_unauditable_and_not_asked_again() {
    let (mut bench, answer, asked) = drawn(&[3]);
    let out = bench.verdict(3, asked[0].1, &answer, |v| v.output = Digest([0xee; 32]));
    assert_eq!((found(&out), bench.gateway.auditing()), (vec![(node(10), None)], 0));
}

#[test]
fn a_verdict_that_nobody_asked_for_changes_nothing() {
    let (mut bench, answer, auditor, audit) = five();
    let stranger = (11..15).find(|n| *n != auditor).expect("there are four");
    assert_eq!(bench.verdict(stranger, audit, &answer, |v| v.worst_margin_micro = 1_000_000), []);
    assert_eq!(bench.verdict(auditor, AuditId([0; 16]), &answer, |_| {}), []);
    assert_eq!((bench.gateway.counters().late, bench.gateway.auditing()), (2, 1));
}

#[test]
fn a_worker_can_not_speak_as_the_referee() {
    let (mut bench, answer, auditor, audit) = five();
    let out = bench.verdict(auditor, audit, &answer, |v| {
        v.level = Level::Referee;
        v.worst_margin_micro = 1_000_000;
    });
    assert_eq!(found(&out), []);
}

#[test]
fn an_auditor_that_leaves_gives_up_or_takes_too_long_is_replaced() {
    type Replace = fn(&mut Bench, NodeId, AuditId) -> Vec<Output>;
    let replaced: [Replace; 3] = [
        |bench, node, _| bench.feed(Input::NodeLeft { node }),
        |bench, node, audit| bench.feed(Input::AuditRefused { node, audit }),
        |bench, _, _| bench.wait(Micros::from_secs(121)),
    ];
    for replace in replaced {
        let (mut bench, _, auditor, audit) = five();
        let out = replace(&mut bench, node(auditor), audit);
        let next = asked(&out);
        assert_eq!(next.len(), 1);
        assert!(next[0].1 == audit && next[0].0 != node(auditor), "{next:?}");
    }
}

#[test]
fn a_lost_payload_is_paid_and_counts_against_nobody() {
    let (mut bench, _, asked) = drawn(&[3]);
    let out = bench.feed(Input::PayloadLost { audit: asked[0].1 });
    assert_eq!(found(&out), [(node(10), None)]);
    bench.write();
    let summary = bench.close();
    assert_eq!((summary.settled, summary.charged.0, summary.refunded.0), (1, 18, 0));
    assert_eq!(bench.gateway.settler().standing(node(10), VARIANT).failed, 0);
}

#[test]
fn a_close_holds_what_is_drawn_and_not_audited() {
    let (mut bench, answer, asked) = drawn(&[3]);
    let held = bench.close();
    assert_eq!((held.settled, held.held), (0, 1));
    bench.verdict(3, asked[0].1, &answer, |_| {});
    bench.write();
    let settled = bench.close();
    assert_eq!((settled.settled, settled.held, settled.charged.0), (1, 0, 18));
}

#[test]
fn a_failed_result_is_not_paid_and_its_tenant_may_spend_the_money_again() {
    let (mut bench, answer, asked) = drawn(&[3]);
    bench.verdict(3, asked[0].1, &answer, |v| v.worst_margin_micro = 1_000_000);
    bench.write();
    assert_eq!(bench.available(), FUNDS - 18);
    let summary = bench.close();
    assert_eq!((summary.settled, summary.refunded.0, summary.paid_to_nodes.0), (0, 18, 0));
    assert_eq!((bench.available(), bench.balance()), (FUNDS, i128::from(FUNDS)));
    assert_eq!(bench.gateway.settler().standing(node(10), VARIANT).failed, 1);
}

#[test]
fn an_audit_of_a_receipt_that_settlement_refused_ends() {
    let mut bench = Bench::new();
    bench.join(10);
    let to = bench.assign(1);
    let late = bench.answer(&to, 8);
    bench.restart();
    // Of an epoch so long ago that the ledger takes no receipt for it.
    for _ in 0..400 {
        bench.close();
    }
    bench.join(10);
    bench.join(3);
    bench.batch(0, &[(&late, &to)]);
    let asked = asked(&bench.write());
    assert!(bench.available() < FUNDS);
    bench.close();
    assert_eq!((bench.available(), bench.balance()), (FUNDS, i128::from(FUNDS)));
    let out = bench.verdict(3, asked[0].1, &late, |_| {});
    assert_eq!((found(&out), bench.gateway.auditing()), (vec![], 0));
}

// Margins that no honest node has, none of them above the limit.
fn small(v: &mut Verdict) {
    v.worst_margin_micro = 30_000;
    v.margin_sum_micro = 20_000 * u64::from(v.scored_tokens.0);
}

// Tasks of node 10, audited by the referee one after the other, all with such margins: what was found of each.
fn small_margins(bench: &mut Bench, tasks: u8) -> Vec<Option<bool>> {
    let task = |n: u8| {
        bench.grant(10);
        let to = bench.assign(n);
        let answer = bench.answer(&to, 8);
        bench.batch(u64::from(n) - 1, &[(&answer, &to)]);
        let asked = asked(&bench.write());
        let out = bench.verdict(3, asked[0].1, &answer, small);
        bench.write();
        found(&out)[0].1
    };
    (1..=tasks).map(task).collect()
}

#[test]
fn answers_that_pass_alone_fail_together_and_only_the_last_is_not_paid() {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(3);
    assert_eq!(small_margins(&mut bench, 2), [Some(true), Some(false)]);
    let summary = bench.close();
    assert_eq!((summary.settled, summary.refunded.0), (1, 18));
    let standing = bench.gateway.settler().standing(node(10), VARIANT);
    assert_eq!((standing.clean, standing.failed, standing.suspect), (0, 1, true));
    let replayed = ol_roles::Settler::from_log(None, bench.records.iter().cloned()).expect("its own log");
    assert_eq!(replayed.digest(), bench.gateway.settler().digest());
}

#[test]
fn a_log_that_states_another_ruling_is_refused() {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(3);
    small_margins(&mut bench, 2);
    for record in &mut bench.records {
        if let Record::Audit { outcome: AuditOutcome::Verdict { ruling, .. }, .. } = record {
            *ruling = Ruling::Passed;
        }
    }
    let replayed = ol_roles::Settler::from_log(None, bench.records.iter().cloned());
    assert!(matches!(replayed, Err(Fault::Ruling(_))), "{replayed:?}");
}

#[test]
fn a_log_whose_secrets_are_not_the_sealed_ones_is_refused() {
    let (mut bench, answer, asked) = drawn(&[3]);
    bench.verdict(3, asked[0].1, &answer, |_| {});
    bench.write();
    bench.close();
    bench.close();
    let replay = |records: &[Record]| ol_roles::Settler::from_log(None, records.iter().cloned()).map(drop);
    assert_eq!(replay(&bench.records), Ok(()));
    let closes: Vec<usize> =
        (0..bench.records.len()).filter(|at| matches!(bench.records[*at], Record::Close(_))).collect();
    let with = |back: usize, change: fn(&mut ol_protocol::record::Close)| {
        let mut records = bench.records.clone();
        let Record::Close(close) = &mut records[closes[closes.len() - back]] else { unreachable!() };
        change(close);
        replay(&records)
    };
    let epoch = bench.gateway.settler().epoch().0 - 1;
    let unsealed = |what| Err(Fault::Seal { epoch: ol_protocol::Epoch(epoch), what });
    assert_eq!(with(1, |close| close.draw_secret[0] ^= 1), unsealed("draw"));
    assert_eq!(with(1, |close| close.nonce_secret[0] ^= 1), unsealed("nonce"));
    // Another seal in the close before is found when its secret is revealed.
    assert_eq!(with(2, |close| close.next_draw_seal.0[0] ^= 1), unsealed("draw"));
}

#[test]
fn a_verdict_by_a_variant_that_nobody_knows_says_nothing() {
    let (mut bench, answer, auditor, audit) = five();
    let out = bench.verdict(auditor, audit, &answer, |v| v.variant = VariantId([0xee; 32]));
    assert_eq!((found(&out), asked(&out).len()), (vec![], 1));
    assert_ne!(asked(&out)[0].0, node(auditor));
    assert_eq!(bench.gateway.counters().void_verdicts, 1);
}

const OTHER: VariantId = VariantId([0x4f; 32]);

// A bench with a task of a variant that nobody measured, answered and drawn.
fn uncalibrated() -> (Bench, Commitment) {
    let mut bench = Bench::uncalibrated();
    bench.join(10);
    let to = bench.assign(1);
    let (operator, referee) = (OperatorId([3; 32]), true);
    bench.feed(Input::NodeJoined { node: node(3), operator, referee, variants: vec![OTHER], region: None });
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    let out = bench.write();
    assert_eq!((asked(&out), bench.gateway.auditing()), (vec![], 1));
    (bench, answer)
}

#[test]
fn nobody_audits_what_was_not_measured_and_it_is_paid_in_the_end() {
    let (mut bench, _) = uncalibrated();
    assert!(!bench.gateway.settler().is_calibrated(VARIANT));
    assert_eq!(bench.close().held, 1);
    let out = bench.wait(Micros::from_secs(1_801));
    assert_eq!(found(&out), [(node(10), None)]);
    bench.write();
    bench.close();
    let settler = bench.gateway.settler();
    assert_eq!(settler.unsettled().count(), 0);
    assert!(settler.balance(&Account::Escrow(node(10))) > 0);
}

#[test]
fn another_variant_audits_once_the_referee_has_measured_the_pair() {
    let (mut bench, answer) = uncalibrated();
    let out = bench.feed(Input::Calibrated(Box::new(calibration(VARIANT, OTHER))));
    let [(auditor, audit, _, level)] = asked(&out)[..] else { panic!("{out:?}") };
    assert_eq!((auditor, level), (referee(), Level::Referee));
    let with = |output: &Output| matches!(output, Output::Audit { variant: OTHER, tolerance_micro: 50_000, .. });
    assert!(out.iter().any(with), "{out:?}");
    // Its own arithmetic is another: one margin is no fault.
    let out = bench.verdict(3, audit, &answer, |v| (v.variant, v.worst_margin_micro) = (OTHER, 1_000_000));
    assert_eq!(found(&out), [(node(10), Some(true))]);
}

#[test]
fn only_the_referee_says_what_honest_answers_look_like_and_the_latest_word_holds() {
    let (mut bench, _) = uncalibrated();
    let said = calibration(VARIANT, OTHER);
    let foreign = [
        Calibration { referee: node(11), ..said.clone() },
        Calibration { network: ol_protocol::NetworkId([9; 32]), ..said.clone() },
    ];
    for calibration in foreign {
        assert_eq!(bench.feed(Input::Calibrated(Box::new(calibration))), []);
    }
    bench.feed(Input::Calibrated(Box::new(said.clone())));
    let later = Calibration { measured_at: Timestamp(2), tolerance_micro: 7, ..said.clone() };
    bench.feed(Input::Calibrated(Box::new(later.clone())));
    assert_eq!(bench.feed(Input::Calibrated(Box::new(said))), []);
    assert_eq!(bench.gateway.settler().calibration(VARIANT, OTHER), Some(&later));
    bench.write();
    let snapshot = {
        bench.close();
        bench.gateway.settler().to_bytes()
    };
    let restored = ol_roles::Settler::from_bytes(&snapshot).expect("its own");
    assert_eq!(restored.calibration(VARIANT, OTHER), Some(&later));
}

#[test]
fn a_record_that_states_no_ruling_is_judged_as_when_it_was_made() {
    let (bench, answer) = uncalibrated();
    let subject = AttemptId { task: answer.task, attempt: answer.attempt };
    for (margin, ruling, failed) in [(50_000, Ruling::Passed, 0), (50_001, Ruling::Failed, 1)] {
        let mut settler = bench.gateway.settler().clone();
        let mut verdict = verdict_of(3, AuditId([1; 16]), &answer);
        verdict.worst_margin_micro = margin;
        assert_eq!(settler.ruling(subject, &verdict), None, "nobody measured it");
        assert_eq!(settler.ruling_of(subject, &verdict, Ruling::Unstated), Some(ruling));
        let outcome = AuditOutcome::Verdict { verdict, ruling: Ruling::Unstated };
        let mut calibrated = settler.clone();
        settler.audit(subject, &outcome).unwrap();
        assert_eq!(settler.refunds_due().len(), failed);
        // A log that has calibrations can't choose the older rule.
        calibrated.calibrate(&calibration(VARIANT, VARIANT)).unwrap();
        assert_eq!(calibrated.audit(subject, &outcome), Err(Fault::Ruling(subject)));
    }
}
