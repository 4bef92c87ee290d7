//! Random histories, hostile steps among them: every invariant after every step.

use crate::world::{BORNE, OWN, TASKS, attempt, escrow, gateway, genesis, issuer, ledger, receipt, tenant, top_up};
use ol_ledger::{Account, Auditor, Error, Finding, Ledger, Summary};
use ol_protocol::parameters::ParameterChange;
use ol_protocol::record::AttemptId;
use ol_protocol::{Epoch, MicroCredits, NodeId, OperatorId, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    TopUp { tenant: u8, amount: u64, serial: u64, forged: bool },
    Earn { tenant: u8, node: u8, task: u8, age: u64, amount: u64, drawn: bool, extra: u64 },
    Find { task: u8, finding: Finding },
    PayAudit { task: u8, node: u8 },
    Change { after: u64, tenths: u64, longer: bool },
    Close { skipped: u64, minutes: u64, borne: Option<(u8, u8, u64)> },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = prop_oneof![9 => 0..2_000u64, 1 => any::<u64>()];
    let finding = prop_oneof![Just(Finding::Passed), Just(Finding::Failed), Just(Finding::Unauditable)];
    prop_oneof![
        1 => (0..3u8, amount.clone(), 0..40u64, any::<bool>())
            .prop_map(|(tenant, amount, serial, forged)| Step::TopUp { tenant, amount, serial, forged }),
        8 => (prop_oneof![6 => Just(0), 2 => 1..3u8, 1 => Just(OWN), 1 => Just(BORNE)], 0..3u8, 0..30u8, prop_oneof![4 => Just(0), 1 => 0..10u64], amount, any::<bool>(), 0..12u64)
            .prop_map(|(tenant, node, task, age, amount, drawn, extra)| {
                Step::Earn { tenant, node, task, age, amount, drawn, extra: u64::from(extra == 0) }
            }),
        3 => (0..40u8, finding).prop_map(|(task, finding)| Step::Find { task, finding }),
        2 => (0..30u8, 0..3u8).prop_map(|(task, node)| Step::PayAudit { task, node }),
        1 => (0..3u64, 0..13u64, any::<bool>())
            .prop_map(|(after, tenths, longer)| Step::Change { after, tenths, longer }),
        2 => (prop_oneof![9 => Just(0), 1 => 1..3u64], 0..30u64, proptest::option::of((0..3u8, 30..40u8, 0..300u64)))
            .prop_map(|(skipped, minutes, borne)| Step::Close { skipped, minutes, borne }),
        1 => Just(Step::Restart),
    ]
}

/// A ledger, and what an observer knows of it.
struct Run {
    ledger: Ledger,
    now: u64,
    topped_up: u64,
    // Attempts with the epoch of their commitment.
    earned: BTreeSet<(AttemptId, u64)>,
    // The latest charge of each attempt, and which attempts failed.
    charged: BTreeMap<AttemptId, u64>,
    failed: Vec<AttemptId>,
    own: BTreeSet<AttemptId>,
    refunded: u64,
    closed: Vec<Summary>,
}

impl Run {
    fn new() -> Self {
        let (earned, charged, failed, closed) = (BTreeSet::new(), BTreeMap::new(), Vec::new(), Vec::new());
        let own = BTreeSet::new();
        Self { ledger: ledger(), now: 0, topped_up: 0, earned, charged, failed, own, refunded: 0, closed }
    }

    fn apply(&mut self, step: &Step) -> Result<(), Error> {
        match *step {
            Step::TopUp { tenant, amount, serial, forged } => {
                let mut order = top_up(tenant, amount, serial);
                order.top_up.signature.0[7] ^= u8::from(forged);
                self.ledger.top_up(&order)?;
                assert!(!forged);
                self.topped_up += amount;
            }
            Step::Earn { tenant, node, task, age, amount, drawn, extra } => {
                let epoch = self.ledger.open_epoch().0.saturating_sub(age);
                let mut charged = receipt(tenant, node, task, epoch, amount);
                charged.charge.amount = MicroCredits(amount.saturating_add(extra));
                self.ledger.earn(&charged, drawn)?;
                assert!(self.earned.insert((attempt(task), epoch)), "one commitment earned twice");
                self.charged.insert(attempt(task), amount);
                self.own.remove(&attempt(task));
                self.own.extend((tenant == OWN).then(|| attempt(task)));
                self.failed.retain(|id| *id != attempt(task));
            }
            Step::Find { task, finding } => {
                let (before, refunded) = (self.tenants(), self.ledger.totals().refunded.0);
                self.ledger.find(attempt(task), finding)?;
                let to_tenants = self.tenants() - before;
                match self.own.contains(&attempt(task)) {
                    false => self.found(attempt(task), finding, to_tenants),
                    // The network has it back where it came from.
                    true => {
                        assert_eq!(to_tenants, 0);
                        self.found(attempt(task), finding, i128::from(self.ledger.totals().refunded.0 - refunded));
                    }
                }
            }
            Step::PayAudit { task, node } => {
                let auditor = Auditor { node: NodeId([node; 32]), operator: OperatorId([node; 32]) };
                self.ledger.pay_audit(attempt(task), auditor)?;
            }
            Step::Change { after, tenths, longer } => {
                let from = Epoch(self.ledger.open_epoch().0 + after);
                let mut parameters = *self.ledger.parameters_from(from);
                parameters.payout.threshold.0 = parameters.payout.threshold.0 * tenths / 10;
                let hold = parameters.escrow.hold.0;
                parameters.escrow.hold.0 = if longer { hold + hold / 10 } else { hold - hold / 10 };
                let order = ParameterChange::issue(&issuer(), genesis().network(), from, parameters);
                self.ledger.change(&order)?;
                assert!((9..=11).contains(&tenths) && after > 0);
            }
            Step::Close { skipped, minutes, borne } => {
                self.now += minutes * 60_000_000;
                let epoch = Epoch(self.ledger.open_epoch().0 + skipped);
                let borne = borne.map(|(node, task, amount)| receipt(BORNE, node, task, epoch.0, amount));
                let (tasks, borne) = (self.ledger.parameters().escrow.tasks, Vec::from_iter(borne));
                let summary = self.ledger.close(epoch, Timestamp(self.now), tasks, &borne)?;
                self.closed.push(summary);
            }
            Step::Restart => {
                let restored = Ledger::from_bytes(&self.ledger.to_bytes()).unwrap();
                assert_eq!(restored, self.ledger);
                self.ledger = restored;
            }
        }
        Ok(())
    }

    fn found(&mut self, id: AttemptId, finding: Finding, refund: i128) {
        assert!(!self.failed.contains(&id), "a failed attempt was found again");
        if finding == Finding::Failed {
            assert!((0..=i128::from(self.charged[&id])).contains(&refund));
            // Money can be charged and refunded again and again: this total stays at the largest amount.
            self.refunded = self.refunded.saturating_add(u64::try_from(refund).unwrap());
            self.failed.push(id);
        } else {
            assert_eq!(refund, 0);
        }
    }

    fn tenants(&self) -> i128 {
        (0..3).map(|n| self.ledger.balance(&tenant(n))).sum()
    }

    fn check(&self) {
        self.ledger.check().unwrap();
        assert_eq!(self.ledger.balances().map(|(_, balance)| balance).sum::<i128>(), 0);
        let paid_out = self.ledger.totals().paid_out.0;
        assert_eq!(self.ledger.balance(&Account::Issuer), i128::from(paid_out) - i128::from(self.topped_up));
        assert_eq!(self.closed.iter().map(|summary| summary.paid_out().0).sum::<u64>(), paid_out);
        assert!(self.ledger.balances().all(|(account, balance)| account == Account::Issuer || balance > 0));
        assert_eq!(self.ledger.totals().refunded, MicroCredits(self.refunded));
        assert!(self.ledger.totals().own.0 <= self.ledger.totals().charged.0 / 500);
        for Summary { charged, paid_to_nodes, verification, reserve, gateway, .. } in &self.closed {
            assert_eq!(charged.0, paid_to_nodes.0 + verification.0 + reserve.0 + gateway.0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_invariant_holds_after_every_step(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        run.apply(&Step::TopUp { tenant: 0, amount: 50_000, serial: 1, forged: false }).unwrap();
        for step in &steps {
            let before = run.ledger.clone();
            if run.apply(step).is_err() {
                prop_assert_eq!(&run.ledger, &before, "{:?} was refused and posted", step);
            }
            run.check();
        }
    }

    #[test]
    fn the_same_steps_give_the_same_digest_with_or_without_restarts(steps in prop::collection::vec(step(), 1..80)) {
        let (mut first, mut second) = (Run::new(), Run::new());
        for step in &steps {
            let outcomes = (first.apply(step), second.apply(step));
            prop_assert_eq!(&outcomes.0, &outcomes.1);
            second.apply(&Step::Restart).unwrap();
            prop_assert_eq!(first.ledger.digest(), second.ledger.digest());
        }
        prop_assert_eq!(first.closed, second.closed);
    }

    #[test]
    fn without_faults_every_micro_credit_charged_is_paid_out(
        amounts in prop::collection::vec((0..3u8, 0..5_000u64), 1..60),
    ) {
        let mut run = Run::new();
        run.apply(&Step::TopUp { tenant: 0, amount: 1_000_000, serial: 1, forged: false }).unwrap();
        for (task, (node, amount)) in amounts.iter().enumerate() {
            let task = u8::try_from(task).unwrap();
            run.ledger.earn(&receipt(0, *node, task, 0, *amount), false).unwrap();
        }
        let summary = run.ledger.close(Epoch(0), Timestamp(0), TASKS, &[]).unwrap();
        let sum: u64 = amounts.iter().map(|(_, amount)| amount).sum();
        prop_assert_eq!((summary.charged, summary.settled), (MicroCredits(sum), amounts.len() as u64));
        for node in 0..3 {
            let shares: u64 = amounts.iter().filter(|(n, _)| *n == node).map(|(_, amount)| amount * 85 / 100).sum();
            prop_assert_eq!(run.ledger.balance(&escrow(node)), i128::from(shares));
        }
        let share: u64 = amounts.iter().map(|(_, amount)| amount * 8 / 100).sum();
        let paid_out = i128::from(summary.paid_out().0);
        prop_assert_eq!(run.ledger.balance(&gateway()) + paid_out, i128::from(share));
        prop_assert_eq!(run.ledger.balance(&Account::Pending), 0);
    }
}
