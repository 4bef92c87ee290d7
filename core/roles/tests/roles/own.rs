//! Tasks of the network's own: after which they are asked for, and who pays.

use crate::world::{
    Bench, PRICE, asked, assigned, commitment, evidence, finished, genesis, refused, submission, task, top_up,
};
use ol_ledger::Account;
use ol_protocol::commitment::Finish;
use ol_protocol::{MicroCredits, Price, TaskId, TokenCount};
use ol_roles::gateway::event::{Input, Output, Refusal, Submission};
use ol_sched::gate::Gate;

fn numbered(n: u32) -> TaskId {
    let mut id = [0xaa; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    TaskId(id)
}

fn wanted(out: &[Output]) -> Option<TaskId> {
    out.iter().find_map(|output| if let Output::Own { like, .. } = output { Some(*like) } else { None })
}

// After how many of 4,000 answers another task is wanted.
fn wanted_after(bench: &mut Bench, edit: impl Fn(&mut Submission)) -> usize {
    let one = |n: u32| {
        let mut submission = Submission { task: numbered(n), public: false, ..submission(1) };
        edit(&mut submission);
        let (count, finish) = match submission.output_tokens_max {
            TokenCount(0) => (0, Finish::Embedded),
            TokenCount(_) => (8, Finish::EndOfText),
        };
        let out = bench.feed(Input::Submitted(submission));
        let to = assigned(&out).unwrap_or_else(|| panic!("nobody took it: {out:?}"));
        if count > 0 {
            bench.progress(&to, count, count);
        }
        let out = bench.done(&commitment(&to, count, finish));
        assert!(finished(&out).is_some(), "{out:?}");
        bench.grant(to.node.0[0]);
        let like = wanted(&out);
        assert!(like.is_none_or(|like| like == numbered(n)));
        usize::from(like.is_some())
    };
    (0..4_000).map(one).sum()
}

fn two_slots() -> Bench {
    let mut bench = Bench::new();
    bench.feed(Input::TopUp(top_up(2, 10_000_000, 2)));
    bench.join(10);
    bench.join(11);
    bench
}

fn own(n: u8) -> Submission {
    Submission { tenant: genesis().own_tenant(), public: true, ..submission(n) }
}

// One answer that costs so much that the network can pay for tasks of its own.
fn rich() -> Bench {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(3);
    bench.feed(Input::TopUp(top_up(2, 100_000_000, 2)));
    let micro = MicroCredits(100_000 * PRICE.output_per_million.0);
    let dear = Price { prompt_per_million: micro, output_per_million: micro };
    let out = bench.feed(Input::Submitted(Submission { price: dear, ..submission(1) }));
    let to = assigned(&out).unwrap_or_else(|| panic!("nobody took it: {out:?}"));
    let answer = bench.answer(&to, 30);
    bench.batch(0, &[(&answer, &to)]);
    let audit = asked(&bench.write())[0].1;
    bench.verdict(3, audit, &answer, |_| {});
    bench.write();
    bench.grant(10);
    assert_eq!(bench.close().charged, MicroCredits(4_000_000));
    bench
}

#[test]
fn they_follow_private_tasks_now_and_then_and_nothing_else() {
    let after = wanted_after(&mut two_slots(), |_| {});
    // Eight are expected, two in a thousand.
    assert!((2..20).contains(&after), "{after}");
    assert_eq!(wanted_after(&mut two_slots(), |s| s.public = true), 0);
    assert_eq!(wanted_after(&mut two_slots(), |s| s.output_tokens_max = TokenCount(0)), 0);
    // What costs nothing is no traffic; without a slot it would wait; and nobody could refute an answer.
    assert_eq!(
        wanted_after(&mut two_slots(), |s| s.price =
            Price { prompt_per_million: MicroCredits(0), output_per_million: MicroCredits(0) }),
        0
    );
    let mut busy = Bench::new();
    busy.feed(Input::TopUp(top_up(2, 10_000_000, 2)));
    busy.join(10);
    assert_eq!(wanted_after(&mut busy, |_| {}), 0);
    let mut unknown = Bench::uncalibrated();
    unknown.feed(Input::TopUp(top_up(2, 10_000_000, 2)));
    unknown.join(10);
    unknown.join(11);
    assert_eq!(wanted_after(&mut unknown, |_| {}), 0);
}

#[test]
fn the_account_for_audits_pays_for_them_as_far_as_it_may() {
    let mut poor = two_slots();
    let out = poor.feed(Input::Submitted(own(9)));
    let nothing = Gate::BudgetEmpty { available: MicroCredits(0), needed: MicroCredits(150) };
    assert_eq!(refused(&out), Some(Refusal::Budget(nothing)));
    assert!(!out.iter().any(|o| matches!(o, Output::Claim { .. })), "nobody bought anything for the network");
    let mut bench = rich();
    let before = bench.gateway.settler().balance(&Account::Verification);
    // 8,000 are a five-hundredth; half of it is kept for what has no receipt yet.
    assert_eq!(bench.gateway.available(genesis().own_tenant()), MicroCredits(4_000));
    let to = assigned(&bench.feed(Input::Submitted(own(9)))).unwrap();
    assert_eq!(bench.gateway.available(genesis().own_tenant()), MicroCredits(3_850));
    let answer = bench.answer(&to, 8);
    bench.batch(1, &[(&answer, &to)]);
    let audit = asked(&bench.write())[0].1;
    bench.verdict(3, audit, &answer, |_| {});
    bench.write();
    assert_eq!(bench.close().charged, MicroCredits(18));
    // 2 % of the charge come back.
    let after = bench.gateway.settler().balance(&Account::Verification);
    assert_eq!((before - after, bench.gateway.settler().ledger().totals().own), (18, MicroCredits(18)));
    assert_eq!(bench.gateway.available(genesis().own_tenant()), MicroCredits(3_991));
    bench.restart();
    assert_eq!(bench.gateway.available(genesis().own_tenant()), MicroCredits(3_991));
}

#[test]
fn who_cheats_in_one_loses_what_it_has_in_escrow() {
    let mut bench = rich();
    let escrow = |bench: &Bench| bench.gateway.settler().balance(&Account::Escrow(crate::world::node(10)));
    assert_eq!((escrow(&bench), bench.gateway.settler().open_ppm()), (3_400_000, 0));
    let to = assigned(&bench.feed(Input::Submitted(own(9)))).unwrap();
    let answer = bench.answer(&to, 8);
    bench.batch(1, &[(&answer, &to)]);
    let audit = asked(&bench.write())[0].1;
    bench.verdict(3, audit, &answer, |verdict| verdict.worst_margin_micro = 1_000_000);
    let opened = bench.write();
    assert!(opened.iter().any(|o| matches!(o, Output::Open { subject, .. } if subject.task == task(9))), "{opened:?}");
    bench.feed(Input::Evidence(evidence(&answer)));
    bench.write();
    let verification = bench.gateway.settler().balance(&Account::Verification);
    let summary = bench.close();
    assert_eq!((summary.slashed, escrow(&bench)), (MicroCredits(3_400_000), 0));
    // The network has its money back.
    assert_eq!(
        (summary.refunded, bench.gateway.settler().balance(&Account::Verification)),
        (MicroCredits(18), verification)
    );
    assert_eq!(bench.gateway.settler().open_ppm(), 500_000);
}

// The attack: a newcomer hands in one order again and again, so that its trial ends, and what may become public seems to be rare.
#[test]
fn an_order_that_is_handed_in_again_is_no_experience_with_its_node() {
    let mut bench = Bench::new();
    bench.join(10);
    let to = bench.assign(2);
    let answer = bench.answer(&to, 8);
    bench.batch(0, &[(&answer, &to)]);
    bench.write();
    for sequence in 1..40 {
        bench.batch(sequence, &[(&answer, &to), (&answer, &to)]);
        bench.write();
        if sequence.is_multiple_of(10) {
            bench.close();
        }
    }
    assert!(bench.receipts().len() > 40, "they are in the log");
    let settler = bench.gateway.settler();
    assert_eq!(settler.standing(to.node, answer.variant).tasks, 1);
    assert_eq!(settler.open_ppm(), 1_000_000);
}
