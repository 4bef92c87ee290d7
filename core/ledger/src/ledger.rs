//! The ledger: from top-up to charge to escrow to pay.
//!
//! # Rules
//!
//! - A receipt's charge moves from its tenant to pending, at once and in full, and only from a funded balance.
//! - At the close every pending receipt that was not drawn, or whose audit ended without blame, is split: each share
//!   rounded down, the rest to the reserve. One that was drawn and whose audit has not ended stays pending.
//! - Who audited and was not contradicted gets a part of the audited charge, from the account for audits, and what that
//!   lacks from the reserve. What both lack is not paid.
//! - What a node earned in one epoch, with answers and audits, makes one lot in escrow. A lot is released to the operator
//!   at the first close at least `hold` after the one that made it, once at least `tasks` receipts with a charge above
//!   zero were settled for the node in later epochs.
//! - At the close every account of an operator, gateway or owner with the threshold or more is paid out whole: its money
//!   goes back to the issuer, who owes it outside.
//! - The network's own tasks, public ones, are charged to the account for audits, as far as they come to a five-hundredth of all that was ever
//!   settled; what is refunded of them goes back there.
//! - What a gateway pays itself, for attempts that it began in vain, is paid at the close after all else, from its share of that epoch and up to
//!   half of it. Nobody audits it, it is none of the receipts that a lot waits for, and what is not paid then never is.
//! - Whom evidence refutes loses all that it has in escrow with that operator, to the reserve: at the next close, what that close
//!   adds included, and before it releases anything.
//! - Parameters change between epochs only. Shares are those of the epoch of the charge, the escrow rule that of the
//!   epoch of the pay: a change touches nothing that is earned.
//! - A receipt that fails before it is split goes back to the tenant whole. One that fails afterwards goes back as far
//!   as it is there: the node share from its own lot (other lots of the node are not touched), the other shares from
//!   the accounts that got them, and what is then missing, such as the share of a released lot, from the reserve. If
//!   the reserve lacks it too, the tenant loses it. No account but the issuer's ever falls below zero.
//! - An attempt earns once. Its id is kept until it is settled and then for [`Ledger::kept_epochs`] more epochs; a
//!   commitment of an older epoch than that earns nothing. So one commitment never earns twice, and findings come in
//!   time for as long.

use crate::account::{Account, Book};
use crate::attempt::{self, Attempt, Finding, Stage};
use crate::escrow::{Earned, Escrow, LotId};
use crate::history::History;
use crate::split::{Shares, share};
use crate::summary::{Payout, Summary, Totals, add};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use ol_protocol::genesis::Genesis;
use ol_protocol::key::BadSignature;
use ol_protocol::parameters::{BadParameters, EscrowRule, ParameterChange, Parameters};
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::{Funded, Slice};
use ol_protocol::{
    Epoch, GatewayId, IssuerId, MicroCredits, Micros, NetworkId, NodeId, OperatorId, OwnerId, TaskId, TenantId,
    Timestamp,
};

/// Shortest time for which settled attempts are kept, whatever the escrow rule: a node that was away for less still gets
/// paid for what it signs on its return. An hour of 100 receipts a second is some 70 MB.
const KEPT_MIN: Micros = Micros::from_secs(3_600);

/// Which part of all that was settled may go to the network's own tasks.
const OWN_PART: u64 = 500;

/// Changes of parameters that may wait for their epoch.
const CHANGES_MAX: usize = 64;

/// Who audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Auditor {
    /// The node.
    pub node: NodeId,
    /// Who owns it.
    pub operator: OperatorId,
}

/// Why a record posts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The parameters of the genesis, or those of a change, can't be.
    #[error(transparent)]
    Parameters(#[from] BadParameters),
    /// A change holds for an epoch that has begun, or for one that another change is for.
    #[error("parameters from epoch {from} on: the earliest is {earliest}")]
    ChangeLate {
        /// The change's.
        from: Epoch,
        /// The first epoch that may still be changed.
        earliest: Epoch,
    },
    /// Too many changes wait.
    #[error("{CHANGES_MAX} changes of parameters wait already")]
    TooManyChanges,
    /// The genesis has epochs of no length.
    #[error("an epoch has no length")]
    EpochEmpty,
    /// The record is of another network.
    #[error("a record of network {network}, this is the ledger of {here}")]
    OtherNetwork {
        /// The record's.
        network: NetworkId,
        /// The ledger's.
        here: NetworkId,
    },
    /// The record is for another gateway.
    #[error("a record for gateway {gateway}, this is the ledger of {here}")]
    OtherGateway {
        /// The record's.
        gateway: GatewayId,
        /// The ledger's.
        here: GatewayId,
    },
    /// A top-up is for the gateways of another owner.
    #[error("a top-up for the gateways of {owner}, this is one of {here}")]
    OtherOwner {
        /// The top-up's.
        owner: OwnerId,
        /// The ledger's.
        here: OwnerId,
    },
    /// A part of a top-up that is nothing, or goes past its end.
    #[error("a part of {} micro-credits from {} on, of a top-up of {}", .amount.0, .from.0, .whole.0)]
    NoSlice {
        /// Where it begins.
        from: MicroCredits,
        /// How much it is.
        amount: MicroCredits,
        /// How much there is.
        whole: MicroCredits,
    },
    /// A top-up or change is not of the network's issuer.
    #[error("signed by {issuer}, the issuer is {here}")]
    OtherIssuer {
        /// The record's.
        issuer: IssuerId,
        /// The network's.
        here: IssuerId,
    },
    /// The issuer's or the owner's signature does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The tenant has this part of the top-up already, or a later one.
    #[error("top-up {serial} from micro-credit {} on is a replay, booked are {} up to {}", .from.0, .last.serial, .last.end.0)]
    Replayed {
        /// The top-up's serial.
        serial: u64,
        /// Where its part begins.
        from: MicroCredits,
        /// The last that was booked.
        last: Funded,
    },
    /// The network's own tasks are paid for by the account for audits, what a gateway pays itself by its own, and neither by anybody else.
    #[error("the network's own tenant buys nothing, nor does the gateway's")]
    OwnTenant,
    /// A sum would pass `u64::MAX`.
    #[error("a sum passes the largest amount")]
    Overflow,
    /// The tenant can't pay.
    #[error("tenant {tenant} has {} micro-credits, charged are {}", .available.0, .needed.0)]
    Overdrawn {
        /// Who is charged.
        tenant: TenantId,
        /// What is there.
        available: MicroCredits,
        /// What is charged.
        needed: MicroCredits,
    },
    /// The amount is not the price of the tokens, or more tokens are charged than the node counted.
    #[error("the charge of attempt {} at task {} is not what its tokens cost", .attempt.attempt, .attempt.task)]
    ChargeWrong {
        /// Whose charge.
        attempt: AttemptId,
    },
    /// The attempt has earned already.
    #[error("attempt {} at task {} has earned already", .attempt.attempt, .attempt.task)]
    DuplicateAttempt {
        /// Which one.
        attempt: AttemptId,
    },
    /// The commitment's epoch has not begun, or is too long ago to tell a duplicate.
    #[error("an attempt of epoch {epoch}, open is {open} and the oldest that earns is {oldest}")]
    EpochWrong {
        /// The commitment's.
        epoch: Epoch,
        /// The open one.
        open: Epoch,
        /// The oldest that is taken.
        oldest: Epoch,
    },
    /// The attempt never earned, or so long ago that it was forgotten.
    #[error("attempt {} at task {} is not known", .attempt.attempt, .attempt.task)]
    UnknownAttempt {
        /// Which one.
        attempt: AttemptId,
    },
    /// The attempt failed before: that is final.
    #[error("attempt {} at task {} has failed already", .attempt.attempt, .attempt.task)]
    AlreadyFailed {
        /// Which one.
        attempt: AttemptId,
    },
    /// Another epoch than the open one is to be closed.
    #[error("epoch {epoch} can't be closed, open is {open}")]
    NotOpen {
        /// Which is to be closed.
        epoch: Epoch,
        /// The open one.
        open: Epoch,
    },
}

/// The accounts of one gateway's log. See the module for the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    pub(crate) genesis: Genesis,
    // Follows from the genesis.
    pub(crate) network: NetworkId,
    // Who asks for the network's own tasks.
    pub(crate) own_tenant: TenantId,
    pub(crate) gateway_tenant: TenantId,
    // Of the open epoch, and of those to come.
    pub(crate) parameters: Parameters,
    pub(crate) changes: BTreeMap<Epoch, Parameters>,
    pub(crate) open: Epoch,
    // Receipts of earlier epochs earn nothing. It never goes back, or an attempt that was forgotten could earn again.
    pub(crate) oldest: Epoch,
    pub(crate) funded: BTreeMap<TenantId, Funded>,
    pub(crate) book: Book,
    pub(crate) pending: BTreeMap<AttemptId, Attempt>,
    pub(crate) history: History,
    pub(crate) escrow: Escrow,
    pub(crate) withheld: MicroCredits,
    pub(crate) refunded: MicroCredits,
    // What the close will pay for audits.
    pub(crate) audits: BTreeMap<Auditor, MicroCredits>,
    // Whose escrow the close will take.
    pub(crate) slashes: BTreeSet<(NodeId, OperatorId)>,
    pub(crate) totals: Totals,
}

impl Ledger {
    /// An empty ledger with epoch 0 open.
    pub fn new(genesis: &Genesis) -> Result<Self, Error> {
        genesis.parameters.check()?;
        if genesis.epoch == Micros(0) {
            return Err(Error::EpochEmpty);
        }
        genesis.verify()?;
        Ok(Self {
            genesis: genesis.clone(),
            network: genesis.network(),
            own_tenant: genesis.own_tenant(),
            gateway_tenant: genesis.gateway_tenant(),
            parameters: genesis.parameters,
            changes: BTreeMap::new(),
            open: Epoch(0),
            oldest: Epoch(0),
            funded: BTreeMap::new(),
            book: Book::default(),
            pending: BTreeMap::new(),
            history: History::default(),
            escrow: Escrow::default(),
            withheld: MicroCredits::ZERO,
            refunded: MicroCredits::ZERO,
            audits: BTreeMap::new(),
            slashes: BTreeSet::new(),
            totals: Totals::default(),
        })
    }

    /// Books money of the issuer. One signature check.
    pub fn top_up(&mut self, slice: &Slice) -> Result<(), Error> {
        let (top_up, &Slice { from, amount, .. }) = (&slice.top_up, slice);
        let (tenant, serial, here) = (top_up.tenant, top_up.serial, self.genesis.owner);
        self.check_issuer(top_up.network, top_up.issuer)?;
        if top_up.owner != here {
            return Err(Error::OtherOwner { owner: top_up.owner, here });
        }
        top_up.verify()?;
        if tenant == self.own_tenant || tenant == self.gateway_tenant {
            return Err(Error::OwnTenant);
        }
        let end = slice.end().ok_or(Error::NoSlice { from, amount, whole: top_up.amount })?;
        if let Some(last) = self.funded(&tenant).filter(|last| Funded { serial, end: from } < *last) {
            return Err(Error::Replayed { serial, from, last });
        }
        // Bounding all money there ever was by one u64 keeps every other sum of it inside its type.
        let issued = i128::from(self.totals.paid_out.0) - self.book.balance(&Account::Issuer);
        if issued + i128::from(amount.0) > i128::from(u64::MAX) {
            return Err(Error::Overflow);
        }
        self.book.post(Account::Issuer, Account::Tenant(tenant), amount);
        self.funded.insert(tenant, Funded { serial, end });
        Ok(())
    }

    /// Takes other parameters for an epoch to come. One signature check.
    pub fn change(&mut self, change: &ParameterChange) -> Result<(), Error> {
        self.check_issuer(change.network, change.issuer)?;
        change.verify()?;
        let (last, before) = self.changes.last_key_value().unwrap_or((&self.open, &self.parameters));
        let earliest = last.next();
        if change.from < earliest {
            return Err(Error::ChangeLate { from: change.from, earliest });
        }
        change.parameters.check_step(before)?;
        if self.changes.len() >= CHANGES_MAX {
            return Err(Error::TooManyChanges);
        }
        self.changes.insert(change.from, change.parameters);
        Ok(())
    }

    /// Whether a receipt is of an attempt that can still earn, and costs something.
    pub fn could_earn(&self, receipt: &Receipt) -> bool {
        let attempt = attempt::id(receipt);
        let is_new = !self.pending.contains_key(&attempt) && !self.history.holds(&attempt);
        is_new && self.check_epoch(receipt.commitment.epoch).is_ok() && receipt.charge.amount > MicroCredits::ZERO
    }

    /// Charges a receipt whose batch was verified. `drawn`: whether the draw of its epoch chose it for an audit.
    pub fn earn(&mut self, receipt: &Receipt, drawn: bool) -> Result<(), Error> {
        let attempt = attempt::id(receipt);
        self.check_receipt(receipt)?;
        let (tenant, needed) = (receipt.charge.tenant, receipt.charge.amount);
        // Who pays for its own tasks wants them to be seen. What a gateway pays itself is for the close.
        let is_own = tenant == self.own_tenant;
        let is_refused = (is_own && !receipt.charge.public) || tenant == self.gateway_tenant;
        let available = if is_refused { MicroCredits::ZERO } else { self.available(tenant) };
        if available < needed {
            return Err(Error::Overdrawn { tenant, available, needed });
        }
        if is_own {
            self.totals.own = add(self.totals.own, needed);
        }
        self.book.post(self.payer(tenant), Account::Pending, needed);
        self.pending.insert(attempt, Attempt::new(receipt, drawn, &self.parameters));
        Ok(())
    }

    fn check_receipt(&self, receipt: &Receipt) -> Result<(), Error> {
        let (attempt, commitment) = (attempt::id(receipt), &receipt.commitment);
        self.check_network(commitment.network)?;
        self.check_gateway(commitment.gateway)?;
        self.check_epoch(commitment.epoch)?;
        if !receipt.charge_fits() {
            return Err(Error::ChargeWrong { attempt });
        }
        if self.pending.contains_key(&attempt) || self.history.holds(&attempt) {
            return Err(Error::DuplicateAttempt { attempt });
        }
        Ok(())
    }

    /// What can be charged to a tenant. To the network's own: what is there for audits, as long as its tasks come to a five-hundredth of all that was
    /// settled, so that a gateway can't pay nodes of its choice with what all have paid for audits.
    pub fn available(&self, tenant: TenantId) -> MicroCredits {
        let available = self.book.available(&self.payer(tenant));
        if tenant != self.own_tenant {
            return available;
        }
        available.min(MicroCredits((self.totals.charged.0 / OWN_PART).saturating_sub(self.totals.own.0)))
    }

    fn payer(&self, tenant: TenantId) -> Account {
        if tenant == self.own_tenant { Account::Verification } else { Account::Tenant(tenant) }
    }

    /// Owes an auditor its pay for an attempt that is charged and not settled: the close pays it.
    pub fn pay_audit(&mut self, attempt: AttemptId, auditor: Auditor) -> Result<(), Error> {
        let known = self.pending.get(&attempt).ok_or(Error::UnknownAttempt { attempt })?;
        let pay = MicroCredits(share(known.shares.total(), self.parameters.audit.pay_bp));
        let due = self.audits.entry(auditor).or_default();
        *due = add(*due, pay);
        Ok(())
    }

    /// Has the close take what a node has in escrow with an operator.
    pub fn slash(&mut self, node: NodeId, operator: OperatorId) {
        self.slashes.insert((node, operator));
    }

    /// Books the end of an audit. [`Finding::Failed`] is final; the others change nothing once a receipt was split.
    pub fn find(&mut self, attempt: AttemptId, finding: Finding) -> Result<(), Error> {
        if let Some(known) = self.pending.get(&attempt).copied() {
            return self.find_pending(attempt, known, finding);
        }
        // Nobody audits what a gateway pays itself.
        let of_tenant = |(_, known): &(Epoch, Attempt)| known.tenant != self.gateway_tenant;
        let found = self.history.get(&attempt).filter(of_tenant);
        let (epoch, known) = found.ok_or(Error::UnknownAttempt { attempt })?;
        match (known.stage, finding) {
            (Stage::Refunded, _) => Err(Error::AlreadyFailed { attempt }),
            (_, Finding::Passed | Finding::Unauditable) => Ok(()),
            (_, Finding::Failed) => self.take_back(attempt, &known, epoch),
        }
    }

    /// Settles the open epoch and opens the next. `held_tasks`: after how many later tasks of its node pay of this epoch is released. `borne`: what
    /// the gateway pays itself, in the log's order, up to half of its share of the epoch. A clock that went back only delays releases.
    pub fn close(&mut self, epoch: Epoch, at: Timestamp, held_tasks: u32, borne: &[Receipt]) -> Result<Summary, Error> {
        if epoch != self.open {
            return Err(Error::NotOpen { epoch, open: self.open });
        }
        if epoch.next() == epoch {
            return Err(Error::Overflow);
        }
        let finished = self.pending.extract_if(.., |_, attempt| attempt.stage != Stage::Drawn).collect();
        let mut summary = Summary { epoch, held: self.pending.len() as u64, ..Summary::default() };
        let rule = EscrowRule { tasks: held_tasks, ..self.parameters.escrow };
        self.settle(finished, borne, at, &rule, &mut summary);
        summary.slashed = self.take_slashed();
        summary.released = self.release(at);
        summary.payouts = self.pay_out(epoch);
        summary.withheld = core::mem::take(&mut self.withheld);
        summary.refunded = core::mem::take(&mut self.refunded);
        self.totals.close(&summary);
        self.open = epoch.next();
        if let Some(parameters) = self.changes.remove(&self.open) {
            self.parameters = parameters;
        }
        self.oldest = self.oldest.max(Epoch(self.open.0.saturating_sub(self.kept_epochs())));
        self.history.forget(self.oldest);
        Ok(summary)
    }

    /// The epoch that receipts are charged in.
    pub const fn open_epoch(&self) -> Epoch {
        self.open
    }

    /// Micro-credits in an account.
    pub fn balance(&self, account: &Account) -> i128 {
        self.book.balance(account)
    }

    /// All accounts that are not empty, in order. They add up to zero.
    pub fn balances(&self) -> impl Iterator<Item = (Account, i128)> + '_ {
        self.book.iter()
    }

    /// Sums since genesis.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// The first record.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The parameters of the open epoch.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters that an epoch will have as far as is known, or has.
    pub fn parameters_from(&self, epoch: Epoch) -> &Parameters {
        self.changes.range(..=epoch).next_back().map_or(&self.parameters, |(_, parameters)| parameters)
    }

    /// For how many epochs settled attempts are kept and late receipts taken: those of an hour or of the escrow rule's
    /// hold, whichever is longer, rounded up.
    pub fn kept_epochs(&self) -> u64 {
        self.parameters.escrow.hold.max(KEPT_MIN).0.div_ceil(self.genesis.epoch.0)
    }

    /// Whether a settled attempt of a task was charged to its tenant, who hasn't the money back.
    pub fn has_charged(&self, task: TaskId) -> bool {
        self.history.of(task).any(|(_, known)| {
            known.stage != Stage::Refunded
                && known.shares.total() > MicroCredits::ZERO
                && known.tenant != self.gateway_tenant
        })
    }

    /// How many settled attempts are remembered.
    pub fn remembered(&self) -> usize {
        self.history.len()
    }

    /// Whether an attempt was settled at the close of that epoch.
    pub fn has_settled(&self, attempt: &AttemptId, epoch: Epoch) -> bool {
        self.history.get(attempt).is_some_and(|(settled, _)| settled == epoch)
    }

    /// How far a tenant's top-ups are booked here: the next part must be beyond.
    pub fn funded(&self, tenant: &TenantId) -> Option<Funded> {
        self.funded.get(tenant).copied()
    }

    fn check_network(&self, network: NetworkId) -> Result<(), Error> {
        if network == self.network { Ok(()) } else { Err(Error::OtherNetwork { network, here: self.network }) }
    }

    fn check_gateway(&self, gateway: GatewayId) -> Result<(), Error> {
        let here = self.genesis.gateway;
        if gateway == here { Ok(()) } else { Err(Error::OtherGateway { gateway, here }) }
    }

    fn check_issuer(&self, network: NetworkId, issuer: IssuerId) -> Result<(), Error> {
        self.check_network(network)?;
        let here = self.genesis.issuer;
        if issuer == here { Ok(()) } else { Err(Error::OtherIssuer { issuer, here }) }
    }

    fn check_epoch(&self, epoch: Epoch) -> Result<(), Error> {
        let (open, oldest) = (self.open, self.oldest);
        if epoch > open || epoch < oldest { Err(Error::EpochWrong { epoch, open, oldest }) } else { Ok(()) }
    }

    fn find_pending(&mut self, attempt: AttemptId, known: Attempt, finding: Finding) -> Result<(), Error> {
        let stage = match (known.stage, finding) {
            (Stage::Refunded, _) => return Err(Error::AlreadyFailed { attempt }),
            (_, Finding::Passed | Finding::Unauditable) => Stage::Cleared,
            (_, Finding::Failed) => {
                let amount = known.shares.total();
                self.check_refund(amount)?;
                self.book.post(Account::Pending, self.payer(known.tenant), amount);
                self.count_failed(known.shares.node, amount);
                Stage::Refunded
            }
        };
        self.pending.insert(attempt, Attempt { stage, ..known });
        Ok(())
    }

    fn take_back(&mut self, id: AttemptId, attempt: &Attempt, epoch: Epoch) -> Result<(), Error> {
        let (shares, tenant) = (attempt.shares, self.payer(attempt.tenant));
        self.check_refund(shares.total())?;
        let lot = LotId { epoch, node: attempt.node, operator: attempt.operator };
        let withheld = self.escrow.take(&lot, shares.node);
        self.book.post(Account::Escrow(attempt.node), tenant, withheld);
        let gateway = Account::Gateway(self.genesis.gateway);
        let parts = [(Account::Verification, shares.verification), (gateway, shares.gateway)];
        let mut refunded = withheld;
        for (from, share) in parts {
            refunded = add(refunded, self.book.post_available(from, tenant, share));
        }
        let missing = MicroCredits(shares.total().0.saturating_sub(refunded.0));
        refunded = add(refunded, self.book.post_available(Account::Reserve, tenant, missing));
        self.history.refund(epoch, &id);
        self.count_failed(withheld, refunded);
        Ok(())
    }

    // What was refunded in one epoch may pass the money there is, if it is charged and refunded again and again.
    fn check_refund(&self, amount: MicroCredits) -> Result<(), Error> {
        self.refunded.checked_add(amount).map(|_| ()).ok_or(Error::Overflow)
    }

    fn count_failed(&mut self, withheld: MicroCredits, refunded: MicroCredits) {
        self.withheld = add(self.withheld, withheld);
        self.refunded = add(self.refunded, refunded);
        self.totals.fail(withheld, refunded);
    }

    fn settle(
        &mut self,
        mut finished: BTreeMap<AttemptId, Attempt>,
        borne: &[Receipt],
        at: Timestamp,
        rule: &EscrowRule,
        summary: &mut Summary,
    ) {
        let mut earned: BTreeMap<(NodeId, OperatorId), Earned> = BTreeMap::new();
        for attempt in finished.values_mut().filter(|attempt| attempt.stage != Stage::Refunded) {
            attempt.stage = Stage::Paid;
            count(&attempt.shares, summary);
            let earned = earned.entry((attempt.node, attempt.operator)).or_default();
            earned.amount = add(earned.amount, attempt.shares.node);
            // Tasks that cost nothing would let a node release its own escrow for nothing.
            earned.tasks += u64::from(attempt.shares.total() > MicroCredits::ZERO);
        }
        // One posting for all receipts of an account.
        for ((node, _), earned) in &earned {
            self.book.post(Account::Pending, Account::Escrow(*node), earned.amount);
        }
        self.book.post(Account::Pending, Account::Verification, summary.verification);
        self.book.post(Account::Pending, Account::Reserve, summary.reserve);
        self.book.post(Account::Pending, Account::Gateway(self.genesis.gateway), summary.gateway);
        for (auditor, due) in core::mem::take(&mut self.audits) {
            let escrow = Account::Escrow(auditor.node);
            let paid = self.book.post_available(Account::Verification, escrow, due);
            let missing = MicroCredits(due.0.saturating_sub(paid.0));
            let paid = add(paid, self.book.post_available(Account::Reserve, escrow, missing));
            let earned = earned.entry((auditor.node, auditor.operator)).or_default();
            earned.amount = add(earned.amount, paid);
            summary.audits = add(summary.audits, paid);
        }
        // More would let nodes that are of one mind with each other have all that it earns.
        let mut left = MicroCredits(summary.gateway.0 / 2);
        for receipt in borne {
            let id = attempt::id(receipt);
            let Some(attempt) = (!finished.contains_key(&id)).then(|| self.bear(receipt, left)).flatten() else {
                continue;
            };
            left = MicroCredits(left.0.saturating_sub(receipt.charge.amount.0));
            count(&attempt.shares, summary);
            // Nobody audits it: it is no task that escrow waits for.
            let earned = earned.entry((attempt.node, attempt.operator)).or_default();
            earned.amount = add(earned.amount, attempt.shares.node);
            finished.insert(id, attempt);
        }
        self.escrow.add(summary.epoch, at, rule, &earned);
        self.history.add(summary.epoch, finished);
    }

    // What the gateway pays itself, if that is left of what it does; its own share stays where it is.
    fn bear(&mut self, receipt: &Receipt, left: MicroCredits) -> Option<Attempt> {
        let gateway = Account::Gateway(self.genesis.gateway);
        let Charge { tenant, amount, with_audit, .. } = receipt.charge;
        let is_charged = tenant == self.gateway_tenant && amount > MicroCredits::ZERO && !with_audit;
        if !is_charged || amount > left || self.check_receipt(receipt).is_err() {
            return None;
        }
        let attempt = Attempt { stage: Stage::Paid, ..Attempt::new(receipt, false, &self.parameters) };
        let Shares { node, verification, reserve, .. } = attempt.shares;
        self.book.post(gateway, Account::Escrow(attempt.node), node);
        self.book.post(gateway, Account::Verification, verification);
        self.book.post(gateway, Account::Reserve, reserve);
        Some(attempt)
    }

    fn take_slashed(&mut self) -> MicroCredits {
        let mut slashed = MicroCredits::ZERO;
        for (node, operator) in core::mem::take(&mut self.slashes) {
            let amount = self.escrow.slash(node, operator);
            self.book.post(Account::Escrow(node), Account::Reserve, amount);
            slashed = add(slashed, amount);
        }
        slashed
    }

    fn release(&mut self, at: Timestamp) -> MicroCredits {
        let mut released = MicroCredits::ZERO;
        for (lot, amount) in self.escrow.release(at) {
            self.book.post(Account::Escrow(lot.node), Account::Operator(lot.operator), amount);
            released = add(released, amount);
        }
        released
    }

    fn pay_out(&mut self, epoch: Epoch) -> Vec<Payout> {
        let threshold = i128::from(self.parameters.payout.threshold.0);
        let due = |(account, balance): &(Account, i128)| account.is_payable() && *balance >= threshold;
        let accounts: Vec<Account> = self.book.iter().filter(due).map(|(account, _)| account).collect();
        let pay = |account| {
            let amount = self.book.available(&account);
            self.book.post(account, Account::Issuer, amount);
            Payout { epoch, account, amount }
        };
        accounts.into_iter().map(pay).collect()
    }
}

// Adds a settled receipt's shares to what its epoch comes to.
fn count(shares: &Shares, summary: &mut Summary) {
    summary.settled += 1;
    summary.charged = add(summary.charged, shares.total());
    summary.paid_to_nodes = add(summary.paid_to_nodes, shares.node);
    summary.verification = add(summary.verification, shares.verification);
    summary.reserve = add(summary.reserve, shares.reserve);
    summary.gateway = add(summary.gateway, shares.gateway);
}
