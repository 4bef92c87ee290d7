//! The ledger: from top-up to charge to escrow to pay.
//!
//! # Rules
//!
//! - A receipt's charge moves from its tenant to pending, at once and in full, and only from a funded balance.
//! - At the close every pending receipt that was not drawn, or whose audit ended without blame, is split: each share
//!   rounded down, the rest to the reserve. One that was drawn and whose audit has not ended stays pending.
//! - A node's shares of one epoch make one lot in escrow. A lot is released to the operator at the first close at least
//!   `hold` after the one that made it, once at least `tasks` receipts with a charge above zero were settled for the
//!   node in later epochs.
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
use crate::split::Shares;
use crate::summary::{Summary, Totals, add};
use alloc::collections::BTreeMap;
use ol_protocol::genesis::Genesis;
use ol_protocol::key::BadSignature;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::TopUp;
use ol_protocol::{
    Epoch, GatewayId, IssuerId, MicroCredits, Micros, NetworkId, NodeId, OperatorId, TenantId, Timestamp,
};

/// Shortest time for which settled attempts are kept, whatever the escrow rule: a node that was away for less still gets
/// paid for what it signs on its return. An hour of 100 receipts a second is some 70 MB.
const KEPT_MIN: Micros = Micros::from_secs(3_600);

/// Why a record posts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The genesis shares out more or less than the whole.
    #[error("the shares of the split do not add up to the whole")]
    SplitNotWhole,
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
    /// The top-up is not of the network's issuer.
    #[error("a top-up of {issuer}, the issuer is {here}")]
    OtherIssuer {
        /// The top-up's.
        issuer: IssuerId,
        /// The network's.
        here: IssuerId,
    },
    /// The issuer's signature does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The top-up's serial is not above the last one.
    #[error("top-up {serial} is a replay, the last was {last}")]
    Replayed {
        /// The top-up's.
        serial: u64,
        /// The last that was booked.
        last: u64,
    },
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
    pub(crate) open: Epoch,
    pub(crate) last_serial: Option<u64>,
    pub(crate) book: Book,
    pub(crate) pending: BTreeMap<AttemptId, Attempt>,
    pub(crate) history: History,
    pub(crate) escrow: Escrow,
    pub(crate) withheld: MicroCredits,
    pub(crate) refunded: MicroCredits,
    pub(crate) totals: Totals,
}

impl Ledger {
    /// An empty ledger with epoch 0 open.
    pub fn new(genesis: &Genesis) -> Result<Self, Error> {
        if !genesis.split.is_whole() {
            return Err(Error::SplitNotWhole);
        }
        if genesis.epoch == Micros(0) {
            return Err(Error::EpochEmpty);
        }
        Ok(Self {
            genesis: genesis.clone(),
            network: genesis.network(),
            open: Epoch(0),
            last_serial: None,
            book: Book::default(),
            pending: BTreeMap::new(),
            history: History::default(),
            escrow: Escrow::default(),
            withheld: MicroCredits::ZERO,
            refunded: MicroCredits::ZERO,
            totals: Totals::default(),
        })
    }

    /// Books money of the issuer. One signature check.
    pub fn top_up(&mut self, top_up: &TopUp) -> Result<(), Error> {
        self.check_place(top_up.network, top_up.gateway)?;
        if top_up.issuer != self.genesis.issuer {
            return Err(Error::OtherIssuer { issuer: top_up.issuer, here: self.genesis.issuer });
        }
        top_up.verify()?;
        if let Some(last) = self.last_serial.filter(|last| top_up.serial <= *last) {
            return Err(Error::Replayed { serial: top_up.serial, last });
        }
        // Bounding all money there is by one u64 keeps every other sum inside its type.
        if i128::from(top_up.amount.0) - self.book.balance(&Account::Issuer) > i128::from(u64::MAX) {
            return Err(Error::Overflow);
        }
        self.book.post(Account::Issuer, Account::Tenant(top_up.tenant), top_up.amount);
        self.last_serial = Some(top_up.serial);
        Ok(())
    }

    /// Charges a receipt whose batch was verified. `drawn`: whether the draw of its epoch chose it for an audit.
    pub fn earn(&mut self, receipt: &Receipt, drawn: bool) -> Result<(), Error> {
        let (attempt, commitment) = (attempt::id(receipt), &receipt.commitment);
        self.check_place(commitment.network, commitment.gateway)?;
        self.check_epoch(commitment.epoch)?;
        if !receipt.charge_fits() {
            return Err(Error::ChargeWrong { attempt });
        }
        if self.pending.contains_key(&attempt) || self.history.holds(&attempt) {
            return Err(Error::DuplicateAttempt { attempt });
        }
        let (tenant, needed) = (receipt.charge.tenant, receipt.charge.amount);
        let available = self.book.available(&Account::Tenant(tenant));
        if available < needed {
            return Err(Error::Overdrawn { tenant, available, needed });
        }
        self.book.post(Account::Tenant(tenant), Account::Pending, needed);
        self.pending.insert(attempt, Attempt::new(receipt, drawn));
        Ok(())
    }

    /// Books the end of an audit. [`Finding::Failed`] is final; the others change nothing once a receipt was split.
    pub fn find(&mut self, attempt: AttemptId, finding: Finding) -> Result<(), Error> {
        if let Some(known) = self.pending.get(&attempt).copied() {
            return self.find_pending(attempt, known, finding);
        }
        let (epoch, known) = self.history.get(&attempt).ok_or(Error::UnknownAttempt { attempt })?;
        match (known.stage, finding) {
            (Stage::Refunded, _) => Err(Error::AlreadyFailed { attempt }),
            (_, Finding::Passed | Finding::Unauditable) => Ok(()),
            (_, Finding::Failed) => self.take_back(attempt, &known, epoch),
        }
    }

    /// Settles the open epoch and opens the next. A clock that went back only delays releases.
    pub fn close(&mut self, epoch: Epoch, at: Timestamp) -> Result<Summary, Error> {
        if epoch != self.open {
            return Err(Error::NotOpen { epoch, open: self.open });
        }
        if epoch.next() == epoch {
            return Err(Error::Overflow);
        }
        let finished = self.pending.extract_if(.., |_, attempt| attempt.stage != Stage::Drawn).collect();
        let mut summary = Summary { epoch, held: self.pending.len() as u64, ..Summary::default() };
        self.settle(finished, at, &mut summary);
        summary.released = self.release(at);
        summary.withheld = core::mem::take(&mut self.withheld);
        summary.refunded = core::mem::take(&mut self.refunded);
        self.totals.close(&summary);
        self.open = epoch.next();
        self.history.forget(self.oldest());
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

    /// The parameters.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// For how many epochs settled attempts are kept and late receipts taken: those of an hour or of the escrow rule's
    /// hold, whichever is longer, rounded up.
    pub fn kept_epochs(&self) -> u64 {
        self.genesis.escrow.hold.max(KEPT_MIN).0.div_ceil(self.genesis.epoch.0)
    }

    /// The serial of the last top-up: the next one must be above it.
    pub const fn last_serial(&self) -> Option<u64> {
        self.last_serial
    }

    fn oldest(&self) -> Epoch {
        Epoch(self.open.0.saturating_sub(self.kept_epochs()))
    }

    fn check_place(&self, network: NetworkId, gateway: GatewayId) -> Result<(), Error> {
        if network != self.network {
            return Err(Error::OtherNetwork { network, here: self.network });
        }
        if gateway != self.genesis.gateway {
            return Err(Error::OtherGateway { gateway, here: self.genesis.gateway });
        }
        Ok(())
    }

    fn check_epoch(&self, epoch: Epoch) -> Result<(), Error> {
        let (open, oldest) = (self.open, self.oldest());
        if epoch > open || epoch < oldest { Err(Error::EpochWrong { epoch, open, oldest }) } else { Ok(()) }
    }

    fn find_pending(&mut self, attempt: AttemptId, known: Attempt, finding: Finding) -> Result<(), Error> {
        let stage = match (known.stage, finding) {
            (Stage::Refunded, _) => return Err(Error::AlreadyFailed { attempt }),
            (_, Finding::Passed | Finding::Unauditable) => Stage::Cleared,
            (_, Finding::Failed) => {
                let share = Shares::of(known.amount, &self.genesis.split).node;
                self.check_refund(known.amount)?;
                self.book.post(Account::Pending, Account::Tenant(known.tenant), known.amount);
                self.count_failed(share, known.amount);
                Stage::Refunded
            }
        };
        self.pending.insert(attempt, Attempt { stage, ..known });
        Ok(())
    }

    fn take_back(&mut self, id: AttemptId, attempt: &Attempt, epoch: Epoch) -> Result<(), Error> {
        self.check_refund(attempt.amount)?;
        let (shares, tenant) = (Shares::of(attempt.amount, &self.genesis.split), Account::Tenant(attempt.tenant));
        let lot = LotId { epoch, node: attempt.node, operator: attempt.operator };
        let withheld = self.escrow.take(&lot, shares.node);
        self.book.post(Account::Escrow(attempt.node), tenant, withheld);
        let gateway = Account::Gateway(self.genesis.gateway);
        let parts = [(Account::Verification, shares.verification), (gateway, shares.gateway)];
        let mut refunded = withheld;
        for (from, share) in parts {
            refunded = add(refunded, self.book.post_available(from, tenant, share));
        }
        let missing = MicroCredits(attempt.amount.0.saturating_sub(refunded.0));
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

    fn settle(&mut self, mut finished: BTreeMap<AttemptId, Attempt>, at: Timestamp, summary: &mut Summary) {
        let mut earned: BTreeMap<(NodeId, OperatorId), Earned> = BTreeMap::new();
        for attempt in finished.values_mut().filter(|attempt| attempt.stage != Stage::Refunded) {
            attempt.stage = Stage::Paid;
            let shares = self.split(attempt, summary);
            let earned = earned.entry((attempt.node, attempt.operator)).or_default();
            earned.amount = add(earned.amount, shares.node);
            // Tasks that cost nothing would let a node release its own escrow for nothing.
            earned.tasks += u64::from(attempt.amount > MicroCredits::ZERO);
        }
        self.escrow.add(summary.epoch, at, &earned);
        self.history.add(summary.epoch, finished);
    }

    fn split(&mut self, attempt: &Attempt, summary: &mut Summary) -> Shares {
        let shares = Shares::of(attempt.amount, &self.genesis.split);
        let to = [
            (Account::Escrow(attempt.node), shares.node, &mut summary.paid_to_nodes),
            (Account::Verification, shares.verification, &mut summary.verification),
            (Account::Reserve, shares.reserve, &mut summary.reserve),
            (Account::Gateway(self.genesis.gateway), shares.gateway, &mut summary.gateway),
        ];
        for (account, share, sum) in to {
            self.book.post(Account::Pending, account, share);
            *sum = add(*sum, share);
        }
        summary.settled += 1;
        summary.charged = add(summary.charged, attempt.amount);
        shares
    }

    fn release(&mut self, at: Timestamp) -> MicroCredits {
        let mut released = MicroCredits::ZERO;
        for (lot, amount) in self.escrow.release(&self.genesis.escrow, at) {
            self.book.post(Account::Escrow(lot.node), Account::Operator(lot.operator), amount);
            released = add(released, amount);
        }
        released
    }
}
