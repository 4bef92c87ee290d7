//! Panels: who may sit, that nobody follows another, what two of three decide, and what they don't.

use crate::world::{Assigned, Bench, VARIANT, asked, found, node, referee, verdict_of};
use ol_ledger::Account;
use ol_protocol::commitment::Commitment;
use ol_protocol::key::SecretKey;
use ol_protocol::record::{AttemptId, AuditOutcome, Record, Ruling};
use ol_protocol::seal::Seal;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Micros, NodeId, OperatorId};
use ol_roles::Settler;
use ol_roles::gateway::event::{Input, Output};
use ol_roles::settler::Fault;

/// Margins of a result, as an auditor says: what no honest node has.
const BAD: u32 = 1_000_000;

// A result of node 10 that `accuser` found bad, while the referee is away.
struct Accused {
    bench: Bench,
    answer: Commitment,
    to: Assigned,
    accuser: u8,
    audit: AuditId,
    // Whom the accusation led to.
    asked: Vec<(NodeId, Level)>,
}

impl Accused {
    // Beside node 10 there are those with clean work of their own, and newcomers.
    fn new(veterans: &[u8], newcomers: &[u8]) -> Self {
        Self::with(veterans, newcomers, BAD, true)
    }

    // Whose log-probabilities are not the first auditor's, who found nothing.
    fn doubted(veterans: &[u8]) -> Self {
        Self::with(veterans, &[], 0, false)
    }

    fn with(veterans: &[u8], newcomers: &[u8], margin: u32, agrees: bool) -> Self {
        let mut bench = Bench::new();
        bench.join(3);
        for n in veterans {
            bench.join(*n);
            let to = bench.assign(*n);
            // Long enough that there is something to pay audits from.
            let answer = bench.answer(&to, 100);
            bench.batch(0, &[(&answer, &to)]);
            let out = bench.write();
            bench.verdict(3, asked(&out)[0].1, &answer, |_| {});
            bench.write();
            bench.feed(Input::NodeLeft { node: node(*n) });
        }
        bench.close();
        bench.feed(Input::NodeLeft { node: referee() });
        bench.join(10);
        let to = bench.assign(1);
        let answer = bench.answer(&to, 8);
        veterans.iter().chain(newcomers).for_each(|n| drop(bench.join(*n)));
        bench.batch(0, &[(&answer, &to)]);
        let out = bench.write();
        let (accuser, audit, _, level) = asked(&out)[0];
        assert_eq!(level, Level::CrossAudit);
        let accuser = accuser.0[0];
        let verdict = Verdict { worst_margin_micro: margin, ..verdict_of(accuser, audit, &answer) };
        let out = bench.feed(Input::Verdict { node: node(accuser), verdict, agrees });
        bench.write();
        let asked = asked(&out).into_iter().map(|(node, _, _, level)| (node, level)).collect();
        Self { bench, answer, to, accuser, audit, asked }
    }

    fn members(&self) -> Vec<u8> {
        self.asked.iter().map(|(node, _)| node.0[0]).collect()
    }

    fn subject(&self) -> AttemptId {
        AttemptId { task: self.answer.task, attempt: self.answer.attempt }
    }

    fn verdict(&self, by: u8, margin: u32) -> Verdict {
        Verdict { level: Level::Panel, worst_margin_micro: margin, ..verdict_of(by, self.audit, &self.answer) }
    }

    fn seal(&mut self, by: u8, margin: u32) -> Vec<Output> {
        let seal = seal(&self.verdict(by, margin));
        self.bench.feed(Input::Sealed { node: node(by), seal })
    }

    fn open(&mut self, by: u8, margin: u32, agrees: bool) -> Vec<Output> {
        let verdict = self.verdict(by, margin);
        self.bench.feed(Input::Verdict { node: node(by), verdict, agrees })
    }

    // All seal; whom the gateway asks to open.
    fn seal_all(&mut self, margins: [u32; 3]) -> Vec<NodeId> {
        for (by, margin) in self.members().into_iter().zip(margins) {
            self.seal(by, margin);
        }
        unsealed(&self.bench.write())
    }

    // A panel from the first seal to the last vote.
    fn decide(&mut self, margins: [u32; 3]) -> Vec<Output> {
        assert_eq!(self.seal_all(margins).len(), 3);
        let opened = self.members().into_iter().zip(margins);
        let out: Vec<Output> = opened.flat_map(|(by, margin)| self.open(by, margin, true)).collect();
        self.bench.write();
        out
    }

    fn rulings(&self) -> Vec<&'static str> {
        let ruling = |record: &Record| match record {
            Record::Audit { subject, outcome: AuditOutcome::Verdict { ruling, .. } } if *subject == self.subject() => {
                Some(ruling.name())
            }
            _ => None,
        };
        self.bench.records.iter().filter_map(ruling).collect()
    }

    fn escrow(&self, n: u8) -> i128 {
        self.bench.gateway.settler().balance(&Account::Escrow(node(n)))
    }
}

fn seal(verdict: &Verdict) -> Seal {
    Seal::new(verdict, &SecretKey::from_bytes(&[9; 32]))
}

fn unsealed(out: &[Output]) -> Vec<NodeId> {
    let unsealed = |output: &Output| match output {
        Output::Unseal { auditor, seals, .. } => {
            assert!(seals.iter().any(|seal| seal.auditor == *auditor));
            Some(*auditor)
        }
        _ => None,
    };
    out.iter().filter_map(unsealed).collect()
}

const FIVE: [u8; 5] = [11, 12, 13, 14, 15];

#[test]
fn three_of_other_operators_sit_where_the_referee_is_away() {
    let case = Accused::new(&FIVE, &[]);
    assert_eq!(case.asked.len(), 3);
    assert!(case.asked.iter().all(|(_, level)| *level == Level::Panel));
    assert!(case.members().iter().all(|n| FIVE.contains(n) && *n != case.accuser), "{:?}", case.asked);
}

#[test]
fn who_is_new_may_not_sit_and_without_three_the_result_waits_for_the_referee() {
    // One of them accused; two are left, and three more that nothing is known of.
    for newcomers in [&[16_u8, 17, 18][..], &[16, 17, 18, 19]] {
        let mut case = Accused::new(&[11, 12], newcomers);
        assert_eq!(case.asked, []);
        assert_eq!(asked(&case.bench.wait(Micros::from_secs(600))), []);
        let out = case.bench.join(3);
        assert_eq!(asked(&out).iter().map(|a| (a.0, a.3)).collect::<Vec<_>>(), [(referee(), Level::Referee)]);
        let audit = case.audit;
        assert_eq!(found(&case.bench.verdict(3, audit, &case.answer, |_| {})), [(node(10), Some(true))]);
    }
}

#[test]
fn nobody_is_asked_to_open_before_all_have_sealed_and_it_is_on_disk() {
    let mut case = Accused::new(&FIVE, &[]);
    let members = case.members();
    let mut out = case.seal(members[0], 0);
    out.extend(case.seal(members[1], 0));
    out.extend(case.bench.write());
    assert!(unsealed(&out).is_empty());
    out.extend(case.seal(members[2], BAD));
    assert!(unsealed(&out).is_empty() && found(&out).is_empty());
    assert!(case.rulings() == ["accused"]);
    let mut sorted: Vec<NodeId> = case.asked.iter().map(|(node, _)| *node).collect();
    sorted.sort();
    assert_eq!(unsealed(&case.bench.write()), sorted);
    assert!(matches!(case.bench.records.last(), Some(Record::Sealed { .. })));
}

#[test]
fn two_against_withhold_the_pay_and_are_paid_with_the_accuser() {
    let mut case = Accused::new(&FIVE, &[]);
    let (members, before) = (case.members(), case.bench.balance());
    let out = case.decide([BAD, 0, BAD]);
    assert_eq!(found(&out), [(node(10), Some(false))]);
    let mut rulings = case.rulings();
    rulings.sort_unstable();
    assert_eq!(rulings, ["accused", "failed", "voted against", "voted for"]);
    let earned: Vec<i128> = members.iter().map(|n| case.escrow(*n)).collect();
    let accuser = case.escrow(case.accuser);
    let summary = case.bench.close();
    assert_eq!((summary.settled, summary.slashed.0), (0, 0));
    assert_eq!(case.bench.balance(), before, "the tenant has its money back");
    let settler = case.bench.gateway.settler();
    assert_eq!(settler.standing(node(10), VARIANT).failed, 1);
    assert_eq!(settler.all_refuted().count(), 0, "escrow is the referee's to take");
    let paid: Vec<bool> = members.iter().zip(earned).map(|(n, before)| case.escrow(*n) > before).collect();
    assert_eq!(paid, [true, false, true]);
    assert!(case.escrow(case.accuser) > accuser);
    // Who was alone is left out for an hour, and nobody else.
    assert_eq!(case.bench.gateway.distrusted().collect::<Vec<_>>(), [node(members[1])]);
    case.bench.wait(Micros::from_secs(3_600));
    assert_eq!(case.bench.gateway.distrusted().count(), 0);
}

#[test]
fn two_for_clear_the_accused_and_the_accuser_is_not_paid() {
    let mut case = Accused::new(&FIVE, &[]);
    let (members, accuser) = (case.members(), case.escrow(case.accuser));
    assert_eq!(found(&case.decide([0, 0, 0])), [(node(10), Some(true))]);
    assert_eq!(case.rulings(), ["accused", "voted for", "passed", "voted for"]);
    let before: Vec<i128> = members.iter().map(|n| case.escrow(*n)).collect();
    assert_eq!(case.bench.close().settled, 1);
    assert!(members.iter().zip(before).all(|(n, before)| case.escrow(*n) > before));
    assert_eq!(case.escrow(case.accuser), accuser);
    assert_eq!(case.bench.gateway.distrusted().collect::<Vec<_>>(), [node(case.accuser)]);
    assert_eq!(case.bench.gateway.settler().standing(node(10), VARIANT).clean, 1);
}

#[test]
fn whoever_can_not_or_does_not_seal_in_time_loses_its_seat() {
    for way in 0..4 {
        let mut case = Accused::new(&FIVE, &[]);
        let members = case.members();
        let (gone, audit) = (members[1], case.audit);
        case.seal(members[0], 0);
        case.seal(members[2], 0);
        let out = match way {
            0 => case.bench.feed(Input::AuditRefused { node: node(gone), audit }),
            1 => case.bench.feed(Input::NodeLeft { node: node(gone) }),
            2 => case.bench.wait(Micros::from_secs(120)),
            // It says what it found, and sealed nothing.
            _ => case.open(gone, BAD, true),
        };
        let next = asked(&out);
        assert_eq!(next.len(), 1, "{way}");
        assert_eq!(next[0].3, Level::Panel);
        let next = next[0].0.0[0];
        assert!(!members.contains(&next) && next != case.accuser, "{way}");
        assert_eq!(case.bench.gateway.distrusted().any(|silent| silent == node(gone)), way == 2, "{way}");
        case.seal(next, 0);
        assert_eq!(unsealed(&case.bench.write()).len(), 3, "{way}");
        assert_eq!(found(&case.open(members[0], 0, true)), []);
        case.open(members[2], 0, true);
        assert_eq!(found(&case.open(next, 0, true)), [(node(10), Some(true))], "{way}");
    }
}

#[test]
fn what_was_not_sealed_is_no_vote() {
    let mut case = Accused::new(&FIVE, &[]);
    let members = case.members();
    case.seal_all([0, 0, 0]);
    // It has seen how the others would vote, and would like to follow.
    case.open(members[0], BAD, true);
    case.open(members[1], 0, true);
    assert_eq!(found(&case.open(members[2], 0, true)), [(node(10), Some(true))]);
    case.bench.write();
    assert_eq!(case.rulings(), ["accused", "voted for", "passed"]);
    assert_eq!(case.bench.gateway.counters().void_verdicts, 1);
    assert!(case.bench.gateway.distrusted().any(|out| out == node(members[0])));
}

#[test]
fn praise_without_the_provers_log_probabilities_is_no_vote_and_an_accusation_needs_none() {
    for (margin, is_bad) in [(0, false), (BAD, true)] {
        let mut case = Accused::new(&FIVE, &[]);
        let members = case.members();
        case.seal_all([0, margin, margin]);
        let lazy = case.open(members[0], 0, false);
        assert_eq!((found(&lazy), case.bench.gateway.distrusted().count()), (vec![], 0));
        case.open(members[1], margin, !is_bad);
        assert_eq!(found(&case.open(members[2], margin, !is_bad)), [(node(10), Some(!is_bad))]);
        case.bench.write();
        assert_eq!(case.rulings().len(), 3);
    }
}

#[test]
fn two_that_stay_silent_leave_it_open_and_the_referee_decides() {
    let mut case = Accused::new(&FIVE, &[]);
    let members = case.members();
    case.seal_all([BAD, BAD, BAD]);
    case.open(members[0], BAD, true);
    let out = case.bench.wait(Micros::from_secs(20));
    case.bench.write();
    assert_eq!((found(&out), asked(&out)), (vec![], vec![]), "one operator is left");
    assert_eq!(case.rulings(), ["accused", "voted against"]);
    assert_eq!(case.bench.gateway.counters().panels_undecided, 1);
    let silent: Vec<NodeId> = case.bench.gateway.distrusted().collect();
    assert!(silent.len() == 2 && members[1..].iter().all(|n| silent.contains(&node(*n))));
    assert_eq!(asked(&case.bench.join(3))[0].3, Level::Referee);
    let audit = case.audit;
    assert_eq!(found(&case.bench.verdict(3, audit, &case.answer, |_| {})), [(node(10), Some(true))]);
    case.bench.write();
    // The one vote was not what the referee found.
    let before = case.escrow(members[0]);
    case.bench.close();
    assert_eq!(case.escrow(members[0]), before);
}

#[test]
fn a_member_that_leaves_before_it_opened_does_not_hold_up_the_others() {
    let mut case = Accused::new(&FIVE, &[]);
    let members = case.members();
    case.seal_all([BAD, BAD, BAD]);
    case.open(members[0], BAD, true);
    case.bench.feed(Input::NodeLeft { node: node(members[1]) });
    assert_eq!(found(&case.open(members[2], BAD, true)), [(node(10), Some(false))]);
}

#[test]
fn a_second_panel_has_other_members_and_there_is_no_fourth() {
    let many: Vec<u8> = (11..=30).collect();
    let mut case = Accused::new(&many, &[]);
    let mut seen = vec![case.accuser];
    for round in 0..3 {
        let members = case.members();
        assert_eq!(members.len(), 3, "{round}");
        assert!(members.iter().all(|n| !seen.contains(n)), "{round}: {members:?} after {seen:?}");
        seen.extend(&members);
        case.seal_all([0, BAD, 0]);
        case.open(members[0], 0, true);
        case.open(members[1], BAD, true);
        let out = case.bench.wait(Micros::from_secs(20));
        case.bench.write();
        assert_eq!(found(&out), []);
        case.asked = asked(&out).into_iter().map(|(node, _, _, level)| (node, level)).collect();
    }
    assert_eq!((case.asked.len(), case.bench.gateway.counters().panels_undecided), (0, 3));
    assert_eq!(asked(&case.bench.join(3))[0].3, Level::Referee);
}

#[test]
fn a_panel_that_a_restart_interrupts_begins_anew_with_others() {
    let mut case = Accused::new(&[11, 12, 13, 14, 15, 16, 17, 18], &[]);
    let members = case.members();
    case.seal_all([0, 0, 0]);
    case.bench.restart();
    let out: Vec<Output> = (11..=18).flat_map(|n| case.bench.join(n)).collect();
    let next: Vec<u8> = asked(&out).iter().map(|a| a.0.0[0]).collect();
    assert_eq!(next.len(), 3);
    assert!(next.iter().all(|n| !members.contains(n) && *n != case.accuser), "{next:?} after {members:?}");
    case.asked = asked(&out).into_iter().map(|(node, _, _, level)| (node, level)).collect();
    assert_eq!(found(&case.decide([0, 0, BAD])), [(node(10), Some(true))]);
}

#[test]
fn the_referee_takes_over_where_seats_stay_empty() {
    let mut case = Accused::new(&[11, 12, 13, 14], &[]);
    let members = case.members();
    case.seal(members[0], 0);
    let audit = case.audit;
    let out = case.bench.feed(Input::AuditRefused { node: node(members[1]), audit });
    assert_eq!(asked(&out), []);
    assert_eq!(asked(&case.bench.join(3))[0].3, Level::Referee);
    assert!(unsealed(&case.seal(members[2], 0)).is_empty());
    assert_eq!(found(&case.bench.verdict(3, audit, &case.answer, |_| {})), [(node(10), Some(true))]);
}

#[test]
fn a_verdict_that_is_not_the_panels_is_no_vote_though_it_was_sealed() {
    // A friend of the prover has its log-probabilities. Alone its word would be final, or overturn the others'.
    for (mut case, honest) in [(Accused::doubted(&FIVE), BAD), (Accused::new(&FIVE, &[]), BAD)] {
        let members = case.members();
        let alone = verdict_of(members[0], case.audit, &case.answer);
        assert_eq!(alone.level, Level::CrossAudit);
        case.bench.feed(Input::Sealed { node: node(members[0]), seal: seal(&alone) });
        case.seal(members[1], honest);
        case.seal(members[2], honest);
        assert_eq!(unsealed(&case.bench.write()).len(), 3);
        let out = case.bench.feed(Input::Verdict { node: node(members[0]), verdict: alone, agrees: true });
        assert_eq!(found(&out), []);
        case.open(members[1], honest, true);
        assert_eq!(found(&case.open(members[2], honest, true)), [(node(10), Some(false))]);
        assert!(case.bench.gateway.distrusted().eq([node(members[0])]));
    }
}

#[test]
fn what_was_only_doubted_has_one_panel() {
    let many: Vec<u8> = (11..=20).collect();
    let mut case = Accused::doubted(&many);
    let members = case.members();
    assert_eq!(members.len(), 3);
    case.seal_all([0, 0, 0]);
    // The prover's log-probabilities are nobody's: praise does not count, and nobody is left out for it.
    let out: Vec<Output> = members.iter().flat_map(|n| case.open(*n, 0, false)).collect();
    assert_eq!((found(&out), asked(&out)), (vec![], vec![]));
    assert_eq!(case.bench.gateway.distrusted().count(), 0);
    assert_eq!(asked(&case.bench.join(3))[0].3, Level::Referee);
}

#[test]
fn a_doubt_that_a_panel_does_not_share_costs_an_hour_and_one_that_it_shares_nothing() {
    for (margin, is_bad) in [(0, false), (BAD, true)] {
        let mut case = Accused::doubted(&FIVE);
        assert_eq!(found(&case.decide([margin; 3])), [(node(10), Some(!is_bad))]);
        assert_eq!(case.bench.gateway.distrusted().any(|n| n == node(case.accuser)), !is_bad);
    }
}

#[test]
fn an_answer_that_is_handed_in_again_ends_no_panel_and_is_not_audited_twice() {
    let mut case = Accused::new(&FIVE, &[]);
    case.seal_all([BAD, BAD, BAD]);
    let members = case.members();
    case.open(members[0], BAD, true);
    let (answer, to) = (case.answer.clone(), case.to.clone());
    case.bench.batch(1, &[(&answer, &to)]);
    let out = case.bench.write();
    assert_eq!((asked(&out), case.bench.gateway.auditing()), (vec![], 1));
    case.open(members[1], BAD, true);
    assert_eq!(found(&case.open(members[2], BAD, true)), [(node(10), Some(false))]);
    case.bench.write();
    case.bench.batch(2, &[(&answer, &to)]);
    case.bench.write();
    assert_eq!(case.bench.gateway.auditing(), 0);
}

#[test]
fn a_receipt_that_the_close_refuses_ends_its_panel_and_nobody_is_left_out() {
    let many: Vec<u8> = (11..=20).collect();
    let mut case = Accused::new(&many, &[]);
    case.decide([BAD, BAD, BAD]);
    case.bench.close();
    // The same order again, after it was settled: nothing shows that before the close.
    let (answer, to) = (case.answer.clone(), case.to.clone());
    case.bench.batch(1, &[(&answer, &to)]);
    let out = case.bench.write();
    let (auditor, audit, ..) = asked(&out)[0];
    let out = case.bench.verdict(auditor.0[0], audit, &answer, |v| v.worst_margin_micro = BAD);
    case.bench.write();
    case.asked = asked(&out).into_iter().map(|(node, _, _, level)| (node, level)).collect();
    assert_eq!(case.seal_all([BAD, BAD, BAD]).len(), 3);
    let out = case.bench.wait(Micros::from_secs(10));
    case.bench.write();
    assert_eq!((found(&out), case.bench.gateway.auditing()), (vec![(node(10), None)], 0));
    case.members().into_iter().for_each(|n| drop(case.open(n, BAD, true)));
    assert_eq!(case.bench.gateway.distrusted().count(), 0);
}

#[test]
fn a_panel_scores_what_the_attempt_says_it_added() {
    let mut case = Accused::new(&FIVE, &[]);
    // There were more tokens than it says: each member counts them, and scores those that it says.
    let more = |verdict: Verdict| Verdict { output_tokens: ol_protocol::TokenCount(9), ..verdict };
    let verdicts: Vec<Verdict> = case.members().into_iter().map(|n| more(case.verdict(n, 0))).collect();
    for verdict in &verdicts {
        case.bench.feed(Input::Sealed { node: verdict.auditor, seal: seal(verdict) });
    }
    case.bench.write();
    let open = |verdict: Verdict| Input::Verdict { node: verdict.auditor, verdict, agrees: true };
    let out: Vec<Output> = verdicts.into_iter().flat_map(|verdict| case.bench.feed(open(verdict))).collect();
    assert_eq!(found(&out), [(node(10), Some(false))]);
}

// As some node may have written it into a log when nobody looked at levels.
#[test]
fn a_verdict_of_a_panel_without_one_is_another_operators() {
    let case = Accused::new(&FIVE, &[]);
    let settler = settled(&case);
    let says = |margin| settler.ruling(case.subject(), &case.verdict(FIVE[0], margin));
    assert_eq!((says(BAD), says(0)), (Some(Ruling::Accused), None));
}

// The limit that is stated: two of three that lie together take an honest node's pay, and no more.
#[test]
fn two_that_lie_together_take_the_pay_of_one_result_and_no_escrow() {
    let mut case = Accused::new(&FIVE, &[]);
    assert_eq!(found(&case.decide([BAD, BAD, 0])), [(node(10), Some(false))]);
    let summary = case.bench.close();
    assert_eq!((summary.slashed.0, case.bench.gateway.settler().all_refuted().count()), (0, 0));
    assert_eq!(case.bench.gateway.settler().concealed(case.answer.task, crate::world::TENANT).count(), 0);
}

// Everything up to the record that fixes the panel, as anyone reads it.
fn settled(case: &Accused) -> Settler {
    Settler::from_log(None, case.bench.records.iter().cloned()).expect("the log settles")
}

#[test]
fn settlement_refuses_a_panel_that_may_not_be() {
    let case = Accused::new(&FIVE, &[16]);
    let others: Vec<u8> = FIVE.into_iter().filter(|n| *n != case.accuser).collect();
    let of = |members: [u8; 3]| members.map(|n| seal(&case.verdict(n, 0)));
    let taken = |seals: &[Seal; 3]| settled(&case).seal(case.subject(), seals);
    let good = [others[0], others[1], others[2]];
    assert_eq!(taken(&of(good)), Ok(()));
    let refused = Err(Fault::Panel(case.subject()));
    for bad in [10, case.accuser, 16, others[1]] {
        assert_eq!(taken(&of([bad, others[1], others[2]])), refused, "{bad}");
    }
    let mut one_operator = of(good);
    one_operator[1].operator = OperatorId(node(others[0]).0);
    assert_eq!(taken(&one_operator), refused);
    // One node under three names, the prover and the accuser under another.
    let thrice = [20_u8, 21, 22].map(|n| Verdict { operator: OperatorId([n; 32]), ..case.verdict(others[0], 0) });
    assert_eq!(taken(&thrice.map(|verdict| seal(&verdict))), refused);
    for concerned in [10, case.accuser] {
        let mut named = of(good);
        named[0] = seal(&Verdict { operator: OperatorId([20; 32]), ..case.verdict(concerned, 0) });
        assert_eq!(taken(&named), refused);
    }
    let mut two_audits = of(good);
    two_audits[1].audit.0[0] ^= 1;
    assert_eq!(taken(&two_audits), refused);
    let mut elsewhere = of(good);
    elsewhere[1].network.0[0] ^= 1;
    assert_eq!(taken(&elsewhere), refused);
    // Who sat once has its opinion.
    let mut settler = settled(&case);
    settler.seal(case.subject(), &of(good)).unwrap();
    assert_eq!(settler.seal(case.subject(), &of(good)), refused);
    // On what nobody knows it says nothing.
    let unknown = AttemptId { attempt: 9, ..case.subject() };
    assert_eq!(settler.seal(unknown, &of(good)), Ok(()));
}

#[test]
fn settlement_counts_only_what_was_sealed_and_only_once() {
    let mut case = Accused::new(&FIVE, &[]);
    case.seal_all([BAD, BAD, 0]);
    let (members, subject) = (case.members(), case.subject());
    let mut settler = settled(&case);
    let says = |settler: &Settler, by, margin| settler.ruling(subject, &case.verdict(by, margin));
    assert_eq!(says(&settler, members[0], BAD), Some(Ruling::VotedAgainst));
    assert_eq!(says(&settler, members[0], 0), None, "another verdict than it sealed");
    assert_eq!(says(&settler, case.accuser, BAD), None, "it has no seat");
    let vote = |settler: &mut Settler, by, margin, ruling| {
        settler.audit(subject, &AuditOutcome::Verdict { verdict: case.verdict(by, margin), ruling })
    };
    // What the log states has to be what follows.
    assert_eq!(vote(&mut settler, members[0], BAD, Ruling::Failed), Err(Fault::Ruling(subject)));
    assert_eq!(vote(&mut settler, members[0], BAD, Ruling::VotedAgainst), Ok(()));
    assert_eq!(says(&settler, members[0], BAD), None, "it voted");
    assert_eq!(says(&settler, members[1], BAD), Some(Ruling::Failed));
    // A part of the tokens is no vote, sealed or not.
    let part = Verdict { scored_tokens: ol_protocol::TokenCount(4), ..case.verdict(members[1], BAD) };
    assert_eq!(settler.ruling(subject, &part), None);
}

#[test]
fn a_snapshot_between_seals_and_votes_goes_on_as_the_log_does() {
    let mut case = Accused::new(&FIVE, &[]);
    case.seal_all([BAD, 0, BAD]);
    let members = case.members();
    let out = case.bench.wait(Micros::from_secs(10));
    case.bench.write();
    let snapshot = out.iter().find_map(|output| match output {
        Output::Closed { snapshot, .. } => snapshot.clone(),
        _ => None,
    });
    let mut restored = Settler::from_bytes(&snapshot.expect("an epoch closed")).expect("a snapshot");
    assert_eq!(restored.to_bytes(), settled(&case).to_bytes());
    assert_eq!(restored.digest(), settled(&case).digest());
    for (by, margin, ruling) in
        [(members[0], BAD, Ruling::VotedAgainst), (members[1], 0, Ruling::VotedFor), (members[2], BAD, Ruling::Failed)]
    {
        let verdict = case.verdict(by, margin);
        assert_eq!(restored.ruling(case.subject(), &verdict), Some(ruling));
        restored.audit(case.subject(), &AuditOutcome::Verdict { verdict, ruling }).unwrap();
    }
    // The gateway itself comes to the same.
    for (by, margin) in members.into_iter().zip([BAD, 0, BAD]) {
        case.open(by, margin, true);
    }
    case.bench.write();
    assert_eq!(case.rulings().iter().filter(|ruling| **ruling == "failed").count(), 1);
}
