//! The invariants, for tests, restarts and whoever audits a gateway's books.

use crate::account::Account;
use crate::attempt::Stage;
use crate::ledger::Ledger;
use ol_protocol::record::AttemptId;
use ol_protocol::{Epoch, NodeId};

/// An invariant that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The balances do not add up to zero.
    #[error("all balances add up to {sum}")]
    Unbalanced {
        /// What they add up to.
        sum: i128,
    },
    /// A balance has the wrong sign or passes the largest amount.
    #[error("{} has {balance}", .account.name())]
    Balance {
        /// Whose.
        account: Account,
        /// How much.
        balance: i128,
    },
    /// Pending is not what the unsettled receipts add up to.
    #[error("pending is {balance}, its receipts add up to {receipts}")]
    Pending {
        /// The account's balance.
        balance: i128,
        /// The sum of the receipts.
        receipts: i128,
    },
    /// A node's escrow is not what its lots add up to.
    #[error("escrow of node {node} is {balance}, its lots add up to {lots}")]
    Escrow {
        /// Whose.
        node: NodeId,
        /// The account's balance.
        balance: i128,
        /// The sum of the lots.
        lots: i128,
    },
    /// An attempt is known twice, or at a stage that it can't be at.
    #[error("attempt {} at task {} is known twice or at a wrong stage", .attempt.attempt, .attempt.task)]
    Attempt {
        /// Which one.
        attempt: AttemptId,
    },
    /// There are attempts of an epoch that is still to come.
    #[error("attempts were settled in epoch {epoch}, open is {open}")]
    Epoch {
        /// In which.
        epoch: Epoch,
        /// The open one.
        open: Epoch,
    },
}

impl Ledger {
    /// Checks every invariant. Costs a pass over everything.
    pub fn check(&self) -> Result<(), Fault> {
        self.check_balances()?;
        self.check_pending()?;
        self.check_escrow()?;
        self.check_attempts()
    }

    fn check_balances(&self) -> Result<(), Fault> {
        let largest = i128::from(u64::MAX);
        let mut sum = 0;
        for (account, balance) in self.book.iter() {
            let range = if account == Account::Issuer { -largest..=-1 } else { 1..=largest };
            if !range.contains(&balance) {
                return Err(Fault::Balance { account, balance });
            }
            sum += balance;
        }
        if sum == 0 { Ok(()) } else { Err(Fault::Unbalanced { sum }) }
    }

    fn check_pending(&self) -> Result<(), Fault> {
        let open = self.pending.values().filter(|attempt| attempt.stage != Stage::Refunded);
        let receipts = open.map(|attempt| i128::from(attempt.shares.total().0)).sum();
        let balance = self.book.balance(&Account::Pending);
        if balance == receipts { Ok(()) } else { Err(Fault::Pending { balance, receipts }) }
    }

    fn check_escrow(&self) -> Result<(), Fault> {
        let mut sums = self.escrow.sums();
        for (account, balance) in self.book.iter() {
            let Account::Escrow(node) = account else { continue };
            let lots = sums.remove(&node).unwrap_or(0);
            if lots != balance {
                return Err(Fault::Escrow { node, balance, lots });
            }
        }
        match sums.into_iter().next() {
            Some((node, lots)) => Err(Fault::Escrow { node, balance: 0, lots }),
            None => Ok(()),
        }
    }

    fn check_attempts(&self) -> Result<(), Fault> {
        let is_open = |stage| matches!(stage, Stage::Undrawn | Stage::Drawn | Stage::Cleared | Stage::Refunded);
        let is_over = |stage| matches!(stage, Stage::Paid | Stage::Refunded);
        let pending = self.pending.iter().find(|(id, a)| !is_open(a.stage) || self.history.holds(id));
        // An id that is in two epochs is found in one of them only.
        let elsewhere = |id, epoch| self.history.get(id).map(|(found, _)| found) != Some(epoch);
        let settled = self.history.attempts().find(|(epoch, id, a)| !is_over(a.stage) || elsewhere(id, *epoch));
        if let Some(attempt) = pending.map(|(id, _)| *id).or(settled.map(|(_, id, _)| *id)) {
            return Err(Fault::Attempt { attempt });
        }
        match self.history.latest().filter(|epoch| *epoch >= self.open) {
            Some(epoch) => Err(Fault::Epoch { epoch, open: self.open }),
            None => Ok(()),
        }
    }
}
