//! What an epoch's settlement did, and what all of them did.

use crate::account::Account;
use alloc::vec::Vec;
use ol_protocol::{Epoch, MicroCredits};

/// The settlement of one epoch. `charged` is the sum of `paid_to_nodes`, `verification`, `reserve` and `gateway`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The epoch that was closed.
    pub epoch: Epoch,
    /// Receipts that were split.
    pub settled: u64,
    /// Receipts drawn for an audit that has not ended: they wait for a later epoch.
    pub held: u64,
    /// What the settled receipts had cost their tenants, or the gateway that paid them itself.
    pub charged: MicroCredits,
    /// Node shares, into escrow.
    pub paid_to_nodes: MicroCredits,
    /// Shares for audits.
    pub verification: MicroCredits,
    /// Shares of the reserve, with what rounding left over.
    pub reserve: MicroCredits,
    /// Shares of the gateway, with those that it kept of what it paid itself.
    pub gateway: MicroCredits,
    /// Node shares of receipts that failed during the epoch, not paid or taken back from escrow.
    pub withheld: MicroCredits,
    /// What tenants got back for receipts that failed during the epoch.
    pub refunded: MicroCredits,
    /// Pay of auditors, into escrow.
    pub audits: MicroCredits,
    /// What left escrow for the reserve, from nodes whose results evidence refutes.
    pub slashed: MicroCredits,
    /// What left escrow for operators.
    pub released: MicroCredits,
    /// What left the ledger for those who earned it, by account.
    pub payouts: Vec<Payout>,
}

impl Summary {
    /// The sum of the payouts.
    pub fn paid_out(&self) -> MicroCredits {
        self.payouts.iter().fold(MicroCredits::ZERO, |sum, payout| add(sum, payout.amount))
    }
}

/// Money that left the ledger: the issuer owes it to the account's owner. One of an account and epoch at most, so that the
/// two name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payout {
    /// The epoch whose close paid it out.
    pub epoch: Epoch,
    /// Whose it is.
    pub account: Account,
    /// How much.
    pub amount: MicroCredits,
}

/// Sums since genesis. They saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Receipts that were split.
    pub settled: u64,
    /// What they had cost.
    pub charged: MicroCredits,
    /// Node shares of failed receipts, not paid or taken back.
    pub withheld: MicroCredits,
    /// What tenants got back.
    pub refunded: MicroCredits,
    /// Pay of auditors.
    pub audits: MicroCredits,
    /// What left escrow for the reserve.
    pub slashed: MicroCredits,
    /// What the network's own tasks were charged, failed ones included.
    pub own: MicroCredits,
    /// What left escrow for operators.
    pub released: MicroCredits,
    /// What left the ledger for those who earned it.
    pub paid_out: MicroCredits,
}

impl Totals {
    /// Counts a closed epoch. What it withheld and refunded was counted when it was found.
    pub(crate) fn close(&mut self, summary: &Summary) {
        self.settled = self.settled.saturating_add(summary.settled);
        self.charged = add(self.charged, summary.charged);
        self.audits = add(self.audits, summary.audits);
        self.slashed = add(self.slashed, summary.slashed);
        self.released = add(self.released, summary.released);
        self.paid_out = add(self.paid_out, summary.paid_out());
    }

    /// Counts a failed receipt.
    pub(crate) fn fail(&mut self, withheld: MicroCredits, refunded: MicroCredits) {
        self.withheld = add(self.withheld, withheld);
        self.refunded = add(self.refunded, refunded);
    }
}

/// A sum that stays at the largest amount.
pub(crate) const fn add(a: MicroCredits, b: MicroCredits) -> MicroCredits {
    MicroCredits(a.0.saturating_add(b.0))
}
