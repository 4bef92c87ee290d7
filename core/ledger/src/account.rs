//! Accounts, and the book of their balances.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::{GatewayId, MicroCredits, NodeId, OperatorId, OwnerId, TenantId};

/// Where money is. Only the issuer's balance is ever below zero: by what it brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Where all money comes from.
    Issuer,
    /// What a tenant can still spend.
    Tenant(TenantId),
    /// Charged, not settled.
    Pending,
    /// Earned by a node, held against a later finding.
    Escrow(NodeId),
    /// Released to an operator.
    Operator(OperatorId),
    /// For audits.
    Verification,
    /// For quiet seasons, and for refunds that no one else can pay.
    Reserve,
    /// Earned by a gateway's owner.
    Gateway(GatewayId),
    /// Of an owner of data: nothing is paid into it yet.
    Data(OwnerId),
    /// Of an owner of a model: nothing is paid into it yet.
    Model(OwnerId),
}

impl Account {
    /// What people call it.
    pub fn name(&self) -> String {
        match self {
            Self::Issuer => "issuer".into(),
            Self::Tenant(id) => format!("tenant {}", id.short()),
            Self::Pending => "pending".into(),
            Self::Escrow(id) => format!("escrow of node {}", id.short()),
            Self::Operator(id) => format!("operator {}", id.short()),
            Self::Verification => "verification".into(),
            Self::Reserve => "reserve".into(),
            Self::Gateway(id) => format!("gateway {}", id.short()),
            Self::Data(id) => format!("data owner {}", id.short()),
            Self::Model(id) => format!("model owner {}", id.short()),
        }
    }

    /// Whether what is in it is somebody's to have paid out.
    pub const fn is_payable(&self) -> bool {
        match self {
            Self::Operator(_) | Self::Gateway(_) | Self::Data(_) | Self::Model(_) => true,
            Self::Issuer | Self::Tenant(_) | Self::Pending | Self::Escrow(_) | Self::Verification | Self::Reserve => {
                false
            }
        }
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        match self {
            Self::Issuer => w.u8(0),
            Self::Tenant(id) => w.u8(1).raw(&id.0),
            Self::Pending => w.u8(2),
            Self::Escrow(id) => w.u8(3).raw(&id.0),
            Self::Operator(id) => w.u8(4).raw(&id.0),
            Self::Verification => w.u8(5),
            Self::Reserve => w.u8(6),
            Self::Gateway(id) => w.u8(7).raw(&id.0),
            Self::Data(id) => w.u8(8).raw(&id.0),
            Self::Model(id) => w.u8(9).raw(&id.0),
        };
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match r.u8()? {
            0 => Self::Issuer,
            1 => Self::Tenant(TenantId(r.array()?)),
            2 => Self::Pending,
            3 => Self::Escrow(NodeId(r.array()?)),
            4 => Self::Operator(OperatorId(r.array()?)),
            5 => Self::Verification,
            6 => Self::Reserve,
            7 => Self::Gateway(GatewayId(r.array()?)),
            8 => Self::Data(OwnerId(r.array()?)),
            9 => Self::Model(OwnerId(r.array()?)),
            other => return Err(Error::Unknown { what: "account", value: u64::from(other) }),
        })
    }
}

/// All balances that are not zero. No balance can overflow: what the issuer brings in is bounded by `u64::MAX`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book(BTreeMap<Account, i128>);

impl Book {
    pub(crate) fn balance(&self, account: &Account) -> i128 {
        self.0.get(account).copied().unwrap_or(0)
    }

    /// What can be taken from an account without bringing it below zero.
    pub(crate) fn available(&self, account: &Account) -> MicroCredits {
        let balance = self.balance(account).max(0);
        MicroCredits(u64::try_from(balance).unwrap_or(u64::MAX))
    }

    /// Moves an amount: the only way in which balances change.
    pub(crate) fn post(&mut self, from: Account, to: Account, amount: MicroCredits) {
        self.add(from, -i128::from(amount.0));
        self.add(to, i128::from(amount.0));
    }

    /// Moves at most `amount`, no more than is there; says how much.
    pub(crate) fn post_available(&mut self, from: Account, to: Account, amount: MicroCredits) -> MicroCredits {
        let taken = amount.min(self.available(&from));
        self.post(from, to, taken);
        taken
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Account, i128)> + '_ {
        self.0.iter().map(|(account, balance)| (*account, *balance))
    }

    fn add(&mut self, account: Account, amount: i128) {
        let balance = self.balance(&account) + amount;
        // A balance of zero decides nothing, and leaving it out bounds the state.
        if balance == 0 {
            self.0.remove(&account);
        } else {
            self.0.insert(account, balance);
        }
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.0.len() as u64);
        for (account, balance) in &self.0 {
            account.write(w);
            w.i128(*balance);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let count = r.u64()?;
        (0..count).map(|_| Ok((Account::read(r)?, r.i128()?))).collect::<Result<_, _>>().map(Self)
    }
}
