//! What becomes of a charge.

use crate::world::{
    BORNE, OWN, TASKS, attempt, end, escrow, funded, gateway, genesis, issuer, ledger, operator, receipt, tenant,
    top_up,
};
use ol_ledger::{Account, Auditor, Error, Fault, Finding, Ledger, Payout, RestoreError, Summary, Totals};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{BadSignature, SecretKey};
use ol_protocol::parameters::{AuditRule, BadParameters, EscrowRule, ParameterChange, Parameters, PayoutRule, Split};
use ol_protocol::top_up::{Funded, Slice, TopUp};
use ol_protocol::{
    Epoch, GatewayId, IssuerId, MicroCredits, Micros, NetworkId, NodeId, OperatorId, OwnerId, TenantId, Timestamp,
};

fn close(ledger: &mut Ledger) -> Summary {
    let epoch = ledger.open_epoch();
    let summary = ledger.close(epoch, end(epoch.0), ledger.parameters().escrow.tasks, &[]).unwrap();
    assert_eq!(ledger.check(), Ok(()));
    summary
}

/// Runs `step`, which must be refused and post nothing.
fn refused(ledger: &mut Ledger, step: impl FnOnce(&mut Ledger) -> Result<(), Error>) -> Error {
    let before = ledger.clone();
    let error = step(ledger).unwrap_err();
    assert_eq!(*ledger, before, "{error}");
    error
}

#[test]
fn a_split_that_is_not_whole_or_an_epoch_of_no_length_makes_no_ledger() {
    let split = Split { reserve_bp: 501, ..Split::DEFAULT };
    let parameters = Parameters { split, ..Parameters::DEFAULT };
    let refused = Err(Error::Parameters(BadParameters::SplitNotWhole));
    assert_eq!(Ledger::new(&Genesis { parameters, ..genesis() }), refused);
    let epoch = Micros(0);
    assert_eq!(Ledger::new(&Genesis { epoch, ..genesis() }), Err(Error::EpochEmpty));
}

#[test]
fn a_top_up_is_booked_in_parts_that_never_overlap() {
    let mut ledger = ledger();
    let of = |serial, from, amount| {
        let whole = top_up(1, 100, serial);
        Slice { from: MicroCredits(from), amount: MicroCredits(amount), ..whole }
    };
    assert_eq!(ledger.top_up(&of(1, 10, 30)), Ok(()));
    let last = Funded { serial: 1, end: MicroCredits(40) };
    for from in [0, 10, 39] {
        let replayed = Error::Replayed { serial: 1, from: MicroCredits(from), last };
        assert_eq!(refused(&mut ledger, |l| l.top_up(&of(1, from, 1))), replayed);
    }
    for (from, amount) in [(90, 11), (100, 1), (u64::MAX, 2), (50, 0)] {
        let (from, amount) = (MicroCredits(from), MicroCredits(amount));
        let none = Error::NoSlice { from, amount, whole: MicroCredits(100) };
        assert_eq!(refused(&mut ledger, |l| l.top_up(&of(1, from.0, amount.0))), none);
    }
    // Another gateway has the part between.
    assert_eq!(ledger.top_up(&of(1, 60, 40)), Ok(()));
    assert_eq!(ledger.top_up(&of(3, 0, 5)), Ok(()));
    let last = Funded { serial: 3, end: MicroCredits(5) };
    let replayed = Error::Replayed { serial: 2, from: MicroCredits(50), last };
    assert_eq!(refused(&mut ledger, |l| l.top_up(&of(2, 50, 1))), replayed);
    assert_eq!(ledger.balance(&Account::Tenant(TenantId([1; 16]))), 75);
    assert_eq!(Ledger::from_bytes(&ledger.to_bytes()), Ok(ledger));
}

#[test]
fn a_gateway_that_its_owner_did_not_sign_for_has_no_ledger() {
    let forged = Genesis { gateway: GatewayId([9; 32]), ..genesis() };
    let refused = Error::Signature(BadSignature { signer: "owner", what: "gateway" });
    assert_eq!(Ledger::new(&forged), Err(refused));
}

#[test]
fn a_top_up_counts_once_and_only_as_the_issuer_signed_it() {
    let mut ledger = funded(100);
    let again = refused(&mut ledger, |l| l.top_up(&top_up(1, 100, 1)));
    let last = Funded { serial: 1, end: MicroCredits(100) };
    assert_eq!(again, Error::Replayed { serial: 1, from: MicroCredits(0), last });
    let of = |top_up: TopUp| Slice::whole(top_up);
    let more = of(TopUp { amount: MicroCredits(101), ..top_up(1, 100, 2).top_up });
    let forged = Error::Signature(BadSignature { signer: "issuer", what: "top-up" });
    assert_eq!(refused(&mut ledger, |l| l.top_up(&more)), forged);
    let (key, here) = (SecretKey::from_bytes(&[9; 32]), genesis());
    let minted = of(TopUp::issue(&key, here.network(), here.owner, TenantId([1; 16]), MicroCredits(1), 2));
    let other = Error::OtherIssuer { issuer: IssuerId(key.public()), here: here.issuer };
    assert_eq!(refused(&mut ledger, |l| l.top_up(&minted)), other);
    let elsewhere = of(TopUp { owner: OwnerId([9; 32]), ..top_up(1, 1, 2).top_up });
    let other = Error::OtherOwner { owner: OwnerId([9; 32]), here: here.owner };
    assert_eq!(refused(&mut ledger, |l| l.top_up(&elsewhere)), other);
    let elsewhere = of(TopUp { network: NetworkId([9; 32]), ..top_up(1, 1, 2).top_up });
    let other = Error::OtherNetwork { network: NetworkId([9; 32]), here: here.network() };
    assert_eq!(refused(&mut ledger, |l| l.top_up(&elsewhere)), other);
    assert_eq!(refused(&mut ledger, |l| l.top_up(&top_up(2, u64::MAX - 99, 2))), Error::Overflow);
    assert_eq!(ledger.top_up(&top_up(2, u64::MAX - 100, 2)), Ok(()));
    assert_eq!(ledger.balance(&Account::Issuer), -i128::from(u64::MAX));
}

#[test]
fn a_charge_is_split_at_the_close() {
    let mut ledger = funded(1_000);
    ledger.earn(&receipt(1, 1, 1, 0, 99), false).unwrap();
    assert_eq!(ledger.balance(&Account::Pending), 99);
    let expected = Summary {
        epoch: Epoch(0),
        settled: 1,
        held: 0,
        charged: MicroCredits(99),
        paid_to_nodes: MicroCredits(84),
        verification: MicroCredits(1),
        reserve: MicroCredits(7),
        gateway: MicroCredits(7),
        ..Summary::default()
    };
    assert_eq!(close(&mut ledger), expected);
    let balances: Vec<_> = ledger.balances().collect();
    let expected = [
        (Account::Issuer, -1_000),
        (tenant(1), 901),
        (escrow(1), 84),
        (Account::Verification, 1),
        (Account::Reserve, 7),
        (gateway(), 7),
    ];
    assert_eq!(balances, expected);
}

#[test]
fn a_receipt_that_does_not_hold_charges_nobody() {
    let mut ledger = funded(100);
    let good = receipt(1, 1, 1, 0, 60);
    let mut dear = good.clone();
    dear.charge.amount = MicroCredits(61);
    let wrong = Error::ChargeWrong { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&dear, false)), wrong);
    let mut padded = good.clone();
    padded.commitment.output_tokens.0 -= 1;
    assert_eq!(refused(&mut ledger, |l| l.earn(&padded, false)), wrong);
    let mut foreign = good.clone();
    foreign.commitment.gateway = GatewayId([9; 32]);
    let other = Error::OtherGateway { gateway: GatewayId([9; 32]), here: genesis().gateway };
    assert_eq!(refused(&mut ledger, |l| l.earn(&foreign, false)), other);
    let early = Error::EpochWrong { epoch: Epoch(1), open: Epoch(0), oldest: Epoch(0) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&receipt(1, 1, 1, 1, 60), false)), early);
    assert_eq!(ledger.earn(&good, false), Ok(()));
    let twice = Error::DuplicateAttempt { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&good, false)), twice);
    let poor = Error::Overdrawn { tenant: TenantId([1; 16]), available: MicroCredits(40), needed: MicroCredits(41) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&receipt(1, 2, 2, 0, 41), false)), poor);
    assert_eq!(ledger.earn(&receipt(1, 2, 2, 0, 40), false), Ok(()));
}

#[test]
fn a_drawn_receipt_is_held_until_its_audit_ends() {
    let mut ledger = funded(1_000);
    ledger.earn(&receipt(1, 1, 1, 0, 100), true).unwrap();
    ledger.earn(&receipt(1, 1, 2, 0, 100), true).unwrap();
    assert_eq!(close(&mut ledger), Summary { held: 2, ..Summary::default() });
    ledger.find(attempt(1), Finding::Passed).unwrap();
    ledger.find(attempt(2), Finding::Unauditable).unwrap();
    let summary = close(&mut ledger);
    assert_eq!((summary.settled, summary.held, summary.paid_to_nodes), (2, 0, MicroCredits(170)));
}

#[test]
fn a_receipt_that_fails_before_it_is_split_goes_back_whole() {
    let mut ledger = funded(1_000);
    ledger.earn(&receipt(1, 1, 1, 0, 100), true).unwrap();
    ledger.find(attempt(1), Finding::Failed).unwrap();
    assert_eq!(ledger.balance(&tenant(1)), 1_000);
    let over = Error::AlreadyFailed { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.find(attempt(1), Finding::Passed)), over);
    let twice = Error::DuplicateAttempt { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&receipt(1, 1, 1, 0, 100), false)), twice);
    let (withheld, refunded) = (MicroCredits(85), MicroCredits(100));
    assert_eq!(close(&mut ledger), Summary { withheld, refunded, ..Summary::default() });
    assert_eq!(refused(&mut ledger, |l| l.find(attempt(1), Finding::Failed)), over);
    assert_eq!(refused(&mut ledger, |l| l.earn(&receipt(1, 1, 1, 1, 100), false)), twice);
    assert_eq!(ledger.totals(), Totals { withheld, refunded, ..Totals::default() });
}

#[test]
fn a_receipt_that_fails_after_it_was_split_is_taken_back_from_where_it_went() {
    let mut ledger = funded(1_000);
    ledger.earn(&receipt(1, 1, 1, 0, 99), false).unwrap();
    ledger.earn(&receipt(1, 1, 2, 0, 200), false).unwrap();
    close(&mut ledger);
    ledger.find(attempt(1), Finding::Failed).unwrap();
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!((ledger.balance(&tenant(1)), ledger.balance(&escrow(1))), (800, 170));
    let over = Error::AlreadyFailed { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.find(attempt(1), Finding::Failed)), over);
    let summary = close(&mut ledger);
    assert_eq!((summary.withheld, summary.refunded), (MicroCredits(84), MicroCredits(99)));
}

/// Node 1 earns 1,000 for task 1 in epoch 0 and has it released: 850 to the operator.
fn released() -> Ledger {
    let mut ledger = funded(100_000);
    ledger.earn(&receipt(1, 1, 1, 0, 1_000), false).unwrap();
    close(&mut ledger);
    ledger.earn(&receipt(1, 1, 2, 1, 10), false).unwrap();
    ledger.earn(&receipt(1, 1, 3, 1, 10), false).unwrap();
    (1..2).for_each(|_| assert_eq!(close(&mut ledger).released, MicroCredits(0)));
    assert_eq!(close(&mut ledger).released, MicroCredits(850));
    ledger
}

#[test]
fn escrow_is_released_after_both_the_time_and_the_tasks() {
    let ledger = released();
    assert_eq!((ledger.balance(&operator(1)), ledger.balance(&escrow(1))), (850, 16));
    let mut slow = funded(1_000);
    slow.earn(&receipt(1, 1, 1, 0, 100), false).unwrap();
    close(&mut slow);
    slow.earn(&receipt(1, 1, 2, 1, 100), false).unwrap();
    slow.earn(&receipt(1, 1, 3, 1, 0), false).unwrap();
    // The third task cost nothing, so it is no task that counts.
    (1..80).for_each(|_| assert_eq!(close(&mut slow).released, MicroCredits(0)));
    slow.earn(&receipt(1, 1, 4, 80, 1), false).unwrap();
    assert_eq!(close(&mut slow).released, MicroCredits(85));
}

#[test]
fn who_is_slashed_loses_all_escrow_with_that_operator_to_the_reserve() {
    let mut ledger = funded(10_000);
    ledger.earn(&receipt(1, 1, 1, 0, 1_000), false).unwrap();
    ledger.earn(&receipt(1, 2, 2, 0, 100), false).unwrap();
    close(&mut ledger);
    ledger.earn(&receipt(1, 1, 3, 1, 100), false).unwrap();
    ledger.slash(NodeId([1; 32]), OperatorId([1; 32]));
    let restored = Ledger::from_bytes(&ledger.to_bytes()).unwrap();
    assert_eq!((restored.digest(), &restored), (ledger.digest(), &ledger));
    let reserve = ledger.balance(&Account::Reserve);
    let summary = close(&mut ledger);
    // What it earns in the same epoch goes too; the other operator's node keeps what it has.
    assert_eq!(summary.slashed, MicroCredits(850 + 85));
    assert_eq!(ledger.balance(&Account::Reserve) - reserve, 935 + i128::from(summary.reserve.0));
    assert_eq!((ledger.check(), ledger.totals().slashed), (Ok(()), MicroCredits(935)));
    let restored = Ledger::from_bytes(&ledger.to_bytes()).unwrap();
    assert_eq!((restored.digest(), restored.totals()), (ledger.digest(), ledger.totals()));
    assert_eq!(close(&mut ledger).slashed, MicroCredits(0));
}

#[test]
fn a_lot_that_is_due_at_the_same_close_is_slashed_and_not_released() {
    let mut ledger = funded(100_000);
    ledger.earn(&receipt(1, 1, 1, 0, 1_000), false).unwrap();
    close(&mut ledger);
    ledger.earn(&receipt(1, 1, 2, 1, 10), false).unwrap();
    ledger.earn(&receipt(1, 1, 3, 1, 10), false).unwrap();
    (1..2).for_each(|_| assert_eq!(close(&mut ledger).released, MicroCredits(0)));
    ledger.slash(NodeId([1; 32]), OperatorId([1; 32]));
    let summary = close(&mut ledger);
    assert_eq!((summary.released, summary.slashed), (MicroCredits(0), MicroCredits(866)));
}

#[test]
fn the_reserve_pays_what_a_released_lot_lacks_as_far_as_it_can() {
    let mut ledger = released();
    // 1,000 was split into 850, 20, 50 and 80, and 2 x 10 into 8, 0, 2 and 0 each; the lot of 850 is gone.
    let before = ledger.balance(&tenant(1));
    assert_eq!(ledger.balance(&Account::Reserve), 54);
    ledger.find(attempt(1), Finding::Failed).unwrap();
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!(ledger.balance(&tenant(1)) - before, 20 + 80 + 54);
    assert_eq!((ledger.balance(&operator(1)), ledger.balance(&escrow(1))), (850, 16));
    let summary = close(&mut ledger);
    assert_eq!((summary.withheld, summary.refunded), (MicroCredits(0), MicroCredits(154)));
}

#[test]
fn settled_attempts_are_forgotten_when_their_commitment_is_too_old_to_come_again() {
    let mut ledger = funded(1_000);
    assert_eq!(ledger.kept_epochs(), 6);
    let first = receipt(1, 1, 1, 0, 100);
    ledger.earn(&first, false).unwrap();
    (0..6).for_each(|_| assert_eq!(close(&mut ledger).held, 0));
    let twice = Error::DuplicateAttempt { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&first, false)), twice);
    assert_eq!(ledger.clone().find(attempt(1), Finding::Failed), Ok(()));
    close(&mut ledger);
    let late = Error::EpochWrong { epoch: Epoch(0), open: Epoch(7), oldest: Epoch(1) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&first, false)), late);
    let unknown = Error::UnknownAttempt { attempt: attempt(1) };
    assert_eq!(refused(&mut ledger, |l| l.find(attempt(1), Finding::Failed)), unknown);
}

#[test]
fn only_the_open_epoch_is_closed() {
    let mut ledger = ledger();
    close(&mut ledger);
    for epoch in [Epoch(0), Epoch(2)] {
        let error = refused(&mut ledger, |l| l.close(epoch, Timestamp(0), TASKS, &[]).map(|_| ()));
        assert_eq!(error, Error::NotOpen { epoch, open: Epoch(1) });
    }
}

#[test]
fn bytes_that_no_ledger_wrote_are_refused() {
    let mut ledger = released();
    ledger.earn(&receipt(1, 2, 9, 2, 77), true).unwrap();
    let bytes = ledger.to_bytes();
    assert_eq!(Ledger::from_bytes(&bytes), Ok(ledger.clone()));
    for length in 0..bytes.len() {
        assert!(Ledger::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        // What is read in spite of the change is another ledger, and shows in the digest.
        if let Ok(other) = Ledger::from_bytes(&changed) {
            assert_ne!(other.digest(), ledger.digest(), "byte {at}");
        }
    }
    // The issuer is the first account: its balance, then the tenant's.
    let issuer = bytes.windows(16).position(|w| w == (-100_000i128).to_le_bytes()).unwrap();
    let mut minted = bytes;
    minted[issuer] ^= 1;
    assert!(matches!(Ledger::from_bytes(&minted), Err(RestoreError::Wrong(Fault::Unbalanced { .. }))));
}

fn auditor(n: u8) -> Auditor {
    Auditor { node: NodeId([n; 32]), operator: OperatorId([n; 32]) }
}

#[test]
fn an_auditor_is_paid_from_what_is_there_for_audits_and_then_from_the_reserve() {
    let mut ledger = funded(10_000);
    // 2 % of 1,000 for audits and 5 % for the reserve; an audit of 100 is worth 40, one of 1,000 is worth 400.
    ledger.earn(&receipt(1, 1, 1, 0, 900), false).unwrap();
    ledger.earn(&receipt(1, 1, 2, 0, 100), true).unwrap();
    ledger.pay_audit(attempt(2), auditor(2)).unwrap();
    ledger.find(attempt(2), Finding::Passed).unwrap();
    assert_eq!(close(&mut ledger).audits, MicroCredits(40));
    assert_eq!((ledger.balance(&escrow(2)), ledger.balance(&Account::Verification)), (40, 0));
    ledger.earn(&receipt(1, 1, 3, 1, 1_000), true).unwrap();
    ledger.pay_audit(attempt(3), auditor(2)).unwrap();
    ledger.find(attempt(3), Finding::Failed).unwrap();
    // The result failed, so its charge brought nothing: only the 30 that are left of the reserve are there.
    let summary = close(&mut ledger);
    assert_eq!((summary.audits, summary.refunded), (MicroCredits(30), MicroCredits(1_000)));
    assert_eq!((ledger.balance(&escrow(2)), ledger.balance(&Account::Reserve)), (70, 0));
    let unknown = Error::UnknownAttempt { attempt: attempt(3) };
    assert_eq!(refused(&mut ledger, |l| l.pay_audit(attempt(3), auditor(2))), unknown);
    assert_eq!(ledger.totals().audits, MicroCredits(70));
}

#[test]
fn who_has_the_threshold_is_paid_out_whole_and_once() {
    let mut ledger = funded(10_000);
    ledger.earn(&receipt(1, 1, 1, 0, 3_600), false).unwrap();
    assert_eq!(close(&mut ledger).payouts, []);
    ledger.earn(&receipt(1, 1, 2, 1, 10), false).unwrap();
    ledger.earn(&receipt(1, 1, 3, 1, 10), false).unwrap();
    close(&mut ledger);
    let payouts = close(&mut ledger).payouts;
    assert_eq!(payouts, [Payout { epoch: Epoch(2), account: operator(1), amount: MicroCredits(3_060) }]);
    assert_eq!((ledger.balance(&operator(1)), ledger.balance(&Account::Issuer)), (0, -10_000 + 3_060));
    assert_eq!(close(&mut ledger).payouts, []);
    assert_eq!(ledger.totals().paid_out, MicroCredits(3_060));
    // What was paid out makes no room: or the total of it could pass its type.
    assert_eq!(refused(&mut ledger, |l| l.top_up(&top_up(2, u64::MAX - 9_999, 2))), Error::Overflow);
    assert_eq!(ledger.top_up(&top_up(2, u64::MAX - 10_000, 2)), Ok(()));
}

#[test]
fn what_a_gateway_pays_itself_comes_from_what_it_has_earned_and_releases_no_escrow() {
    let mut ledger = funded(100_000);
    let tenant = genesis().gateway_tenant();
    assert_eq!(refused(&mut ledger, |l| l.top_up(&top_up(BORNE, 100, 2))), Error::OwnTenant);
    ledger.earn(&receipt(1, 1, 1, 0, 10_000), false).unwrap();
    // Not of a tenant's kind; and not what another tenant is charged.
    let borne = |task, amount| receipt(BORNE, 1, task, 0, amount);
    let needed = Error::Overdrawn { tenant, available: MicroCredits(0), needed: MicroCredits(1) };
    assert_eq!(refused(&mut ledger, |l| l.earn(&borne(2, 1), false)), needed);
    let mut foreign = borne(6, 10);
    foreign.commitment.gateway = GatewayId([9; 32]);
    // The gateway's share of the epoch is 800: the second is beyond what is left of half of it, and the third is one twice.
    let mut audited = borne(7, 50);
    audited.charge.with_audit = true;
    let all = [borne(2, 300), borne(3, 200), borne(2, 10), borne(4, 100), foreign, receipt(1, 1, 5, 0, 50), audited];
    let summary = ledger.close(Epoch(0), end(0), TASKS, &all).unwrap();
    assert_eq!((summary.settled, summary.charged, summary.gateway.0), (3, MicroCredits(10_400), 800 + 32));
    assert_eq!((ledger.balance(&gateway()), ledger.balance(&escrow(1))), (800 - 400 + 32, 8_500 + 340));
    assert_eq!((ledger.balance(&Account::Verification), ledger.balance(&Account::Reserve)), (208, 520));
    assert!(!ledger.has_charged(attempt(2).task) && ledger.has_charged(attempt(1).task));
    let settled = [2, 3, 4, 5, 7].map(|task| ledger.has_settled(&attempt(task), Epoch(0)));
    assert_eq!(settled, [true, false, true, false, false]);
    assert_eq!(
        refused(&mut ledger, |l| l.find(attempt(2), Finding::Failed)),
        Error::UnknownAttempt { attempt: attempt(2) }
    );
    ledger.earn(&receipt(1, 1, 8, 1, 10_000), false).unwrap();
    let again = ledger.close(Epoch(1), end(1), TASKS, &[borne(2, 10)]).unwrap();
    assert_eq!(again.settled, 1, "it is paid once");
    ledger.check().unwrap();
}

#[test]
fn the_networks_own_tasks_are_paid_from_what_is_there_for_audits_and_no_more_than_a_five_hundredth() {
    let mut ledger = funded(100_000);
    let own = |amount| receipt(OWN, 1, 2, 0, amount);
    let tenant = genesis().own_tenant();
    let refused_for = |available, needed| Error::Overdrawn {
        tenant,
        available: MicroCredits(available),
        needed: MicroCredits(needed),
    };
    ledger.earn(&receipt(1, 1, 1, 0, 50_000), false).unwrap();
    assert_eq!(refused(&mut ledger, |l| l.earn(&own(1), false)), refused_for(0, 1));
    close(&mut ledger);
    // A thousand are there for audits; 100 are a five-hundredth of 50,000.
    assert_eq!((ledger.balance(&Account::Verification), ledger.available(tenant)), (1_000, MicroCredits(100)));
    assert_eq!(refused(&mut ledger, |l| l.earn(&own(101), false)), refused_for(100, 101));
    let mut private = own(100);
    private.charge.public = false;
    assert_eq!(refused(&mut ledger, |l| l.earn(&private, false)), refused_for(0, 100));
    let bought = top_up(OWN, 100, 2);
    assert_eq!(refused(&mut ledger, |l| l.top_up(&bought)), Error::OwnTenant);
    ledger.earn(&own(100), true).unwrap();
    assert_eq!((ledger.balance(&Account::Verification), ledger.totals().own), (900, MicroCredits(100)));
    assert_eq!(refused(&mut ledger, |l| l.earn(&receipt(OWN, 1, 3, 0, 1), false)), refused_for(0, 1));
    let restored = Ledger::from_bytes(&ledger.to_bytes()).unwrap();
    assert_eq!((&restored, restored.digest()), (&ledger, ledger.digest()));
    ledger.find(attempt(2), Finding::Failed).unwrap();
    assert_eq!((ledger.balance(&Account::Verification), ledger.balance(&Account::Pending)), (1_000, 0));
    // What an own task cost is not there again: or failed ones could be asked for without end.
    assert_eq!(refused(&mut ledger, |l| l.earn(&receipt(OWN, 1, 4, 0, 1), false)), refused_for(0, 1));
}

#[test]
fn pay_is_held_for_as_many_tasks_as_its_close_says() {
    let mut ledger = funded(10_000);
    for (epoch, held) in [(0, 3), (1, 1)] {
        ledger.earn(&receipt(1, 1, epoch, u64::from(epoch), 100), false).unwrap();
        ledger.close(Epoch(epoch.into()), end(epoch.into()), held, &[]).unwrap();
    }
    let released: Vec<u64> = (2..5)
        .map(|epoch: u8| {
            ledger.earn(&receipt(1, 1, epoch, u64::from(epoch), 100), false).unwrap();
            ledger.close(Epoch(epoch.into()), end(epoch.into()), 9, &[]).unwrap().released.0
        })
        .collect();
    // The second lot waits for its time, the first for its third task.
    assert_eq!(released, [0, 170, 0]);
}

fn change(ledger: &mut Ledger, from: u64, edit: impl FnOnce(&mut Parameters)) {
    let mut parameters = *ledger.parameters_from(Epoch(from));
    edit(&mut parameters);
    let order = ParameterChange::issue(&issuer(), genesis().network(), Epoch(from), parameters);
    ledger.change(&order).unwrap();
}

#[test]
fn a_change_of_parameters_holds_from_its_epoch_on_and_touches_nothing_earned() {
    let mut ledger = funded(10_000);
    let split = Split { node_bp: 8_400, gateway_bp: 900 - 20, reserve_bp: 520, ..Split::DEFAULT };
    change(&mut ledger, 1, |p| {
        p.split = split;
        p.escrow.hold = Micros(p.escrow.hold.0 / 10 * 11);
    });
    ledger.earn(&receipt(1, 1, 1, 0, 1_000), true).unwrap();
    assert_eq!(ledger.parameters().split, Split::DEFAULT);
    close(&mut ledger);
    assert_eq!(ledger.parameters().split, split);
    // Charged under the old split, settled under the new one.
    ledger.find(attempt(1), Finding::Passed).unwrap();
    ledger.earn(&receipt(1, 2, 2, 1, 1_000), false).unwrap();
    close(&mut ledger);
    assert_eq!((ledger.balance(&escrow(1)), ledger.balance(&escrow(2))), (850, 840));
    let restored = Ledger::from_bytes(&ledger.to_bytes()).unwrap();
    assert_eq!((restored.parameters(), restored.digest()), (ledger.parameters(), ledger.digest()));
}

#[test]
fn a_change_that_is_late_forged_foreign_or_too_large_is_refused() {
    let mut ledger = funded(100);
    close(&mut ledger);
    let network = genesis().network();
    let order = |from: u64, parameters| ParameterChange::issue(&issuer(), network, Epoch(from), parameters);
    let now = genesis().parameters;
    let late = Error::ChangeLate { from: Epoch(1), earliest: Epoch(2) };
    assert_eq!(refused(&mut ledger, |l| l.change(&order(1, now))), late);
    let mut forged = order(2, now);
    forged.parameters.escrow.tasks += 1;
    let signature = Error::Signature(BadSignature { signer: "issuer", what: "change of parameters" });
    assert_eq!(refused(&mut ledger, |l| l.change(&forged)), signature);
    let other = SecretKey::from_bytes(&[9; 32]);
    let minted = ParameterChange::issue(&other, network, Epoch(2), now);
    let foreign = Error::OtherIssuer { issuer: IssuerId(other.public()), here: genesis().issuer };
    assert_eq!(refused(&mut ledger, |l| l.change(&minted)), foreign);
    let elsewhere = ParameterChange::issue(&issuer(), NetworkId([9; 32]), Epoch(2), now);
    let foreign = Error::OtherNetwork { network: NetworkId([9; 32]), here: network };
    assert_eq!(refused(&mut ledger, |l| l.change(&elsewhere)), foreign);
    let rate_ppm = AuditRule::DEFAULT.rate_ppm;
    let lax = AuditRule { rate_ppm: rate_ppm / 10 * 9 - 1, ..AuditRule::DEFAULT };
    let step = BadParameters::Step { name: "the rate of audits", from: 10_000, to: 8_999 };
    let lax = order(2, Parameters { audit: lax, ..now });
    assert_eq!(refused(&mut ledger, |l| l.change(&lax)), Error::Parameters(step));
    let threshold = MicroCredits(0);
    let free = order(2, Parameters { payout: PayoutRule { threshold }, ..now });
    let bounds = BadParameters::Bounds { name: "the threshold of payouts", value: 0, min: 1, max: u64::MAX };
    assert_eq!(refused(&mut ledger, |l| l.change(&free)), Error::Parameters(bounds));
    (2..66).for_each(|from| ledger.change(&order(from, now)).unwrap());
    assert_eq!(refused(&mut ledger, |l| l.change(&order(66, now))), Error::TooManyChanges);
}

#[test]
fn an_attempt_that_was_forgotten_earns_nothing_however_the_hold_changes() {
    let mut ledger = ledger();
    ledger.top_up(&top_up(1, 1_000, 1)).unwrap();
    let first = receipt(1, 1, 1, 0, 100);
    ledger.earn(&first, false).unwrap();
    (0..7).for_each(|_| assert_eq!(close(&mut ledger).held, 0));
    // A longer hold keeps attempts longer, but does not bring back what is forgotten.
    let hold = EscrowRule { hold: Micros::from_secs(2 * 3_600), tasks: 2 };
    assert!(hold.hold > genesis().parameters.escrow.hold);
    let oldest = Epoch(1);
    for epoch in 8..60 {
        change(&mut ledger, epoch, |p| p.escrow.hold = Micros(p.escrow.hold.0 / 10 * 11));
        close(&mut ledger);
    }
    assert!(ledger.kept_epochs() > 20);
    let error = refused(&mut ledger, |l| l.earn(&first, false));
    let Error::EpochWrong { epoch: Epoch(0), oldest: found, .. } = error else { panic!("{error}") };
    assert!(found >= oldest, "{found}");
}
