//! Builds what the tests feed to a ledger.

use ol_ledger::{Account, Ledger};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::parameters::{EscrowRule, Parameters, PayoutRule};
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::{
    Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, TaskId, TenantId,
    Timestamp, TokenCount, VariantId,
};

/// Tasks after which escrow is released here.
pub(crate) const TASKS: u32 = 2;

/// An issuer's key.
pub(crate) fn issuer() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

/// Escrow of two minutes and two tasks, payouts from 3,000 on; epochs of ten minutes, though the tests close one a minute, so that six are kept.
pub(crate) fn genesis() -> Genesis {
    Genesis {
        issuer: IssuerId(issuer().public()),
        referee: NodeId([3; 32]),
        referee_operator: OperatorId([4; 32]),
        born_at: Timestamp(0),
        epoch: Micros::from_secs(600),
        parameters: Parameters {
            escrow: EscrowRule { hold: Micros::from_secs(120), tasks: TASKS },
            payout: PayoutRule { threshold: MicroCredits(3_000) },
            ..Parameters::DEFAULT
        },
        gateway: GatewayId([2; 32]),
        owner: OwnerId([0; 32]),
        signature: Signature([0; 64]),
    }
    .of(GatewayId([2; 32]), &owner())
}

/// Stands for the network itself among tenants.
pub(crate) const OWN: u8 = u8::MAX;

/// Stands for the gateway itself among tenants.
pub(crate) const BORNE: u8 = u8::MAX - 1;

/// A ledger with nothing in it.
pub(crate) fn ledger() -> Ledger {
    Ledger::new(&genesis()).unwrap()
}

/// A ledger in which tenant 1 has `amount`.
pub(crate) fn funded(amount: u64) -> Ledger {
    let mut ledger = ledger();
    ledger.top_up(&top_up(1, amount, 1)).unwrap();
    ledger
}

/// The owner of the gateway.
pub(crate) fn owner() -> SecretKey {
    SecretKey::from_bytes(&[5; 32])
}

/// All of a signed top-up.
pub(crate) fn top_up(tenant: u8, amount: u64, serial: u64) -> Slice {
    let (network, owner) = (genesis().network(), OwnerId(owner().public()));
    Slice::whole(TopUp::issue(&issuer(), network, owner, who(tenant), MicroCredits(amount), serial))
}

fn who(tenant: u8) -> TenantId {
    match tenant {
        OWN => genesis().own_tenant(),
        BORNE => genesis().gateway_tenant(),
        other => TenantId([other; 16]),
    }
}

/// The first attempt at a task.
pub(crate) fn attempt(task: u8) -> AttemptId {
    AttemptId { task: TaskId([task; 16]), attempt: 0 }
}

/// A node's account in escrow.
pub(crate) fn escrow(node: u8) -> Account {
    Account::Escrow(NodeId([node; 32]))
}

/// An operator's account; operator n owns node n.
pub(crate) fn operator(n: u8) -> Account {
    Account::Operator(OperatorId([n; 32]))
}

/// A tenant's account.
pub(crate) fn tenant(n: u8) -> Account {
    Account::Tenant(TenantId([n; 16]))
}

/// The gateway's account.
pub(crate) fn gateway() -> Account {
    Account::Gateway(genesis().gateway)
}

/// A receipt of `tenant` for a node's first attempt at a task: one output token at a price of `amount`.
pub(crate) fn receipt(tenant: u8, node: u8, task: u8, epoch: u64, amount: u64) -> Receipt {
    let commitment = Commitment {
        network: genesis().network(),
        gateway: genesis().gateway,
        node: NodeId([node; 32]),
        operator: OperatorId([node; 32]),
        task: TaskId([task; 16]),
        attempt: 0,
        epoch: Epoch(epoch),
        variant: VariantId([5; 32]),
        sampler_version: 1,
        prompt: Digest([6; 32]),
        seed: Digest([6; 32]),
        output: Digest([6; 32]),
        log_probs: Digest([6; 32]),
        finish: Finish::Length,
        prompt_tokens: TokenCount(7),
        output_tokens: TokenCount(1_000_000),
        resumed_from: TokenCount(0),
        first_token: Micros(1),
        total: Micros(2),
    };
    let price = Price { prompt_per_million: MicroCredits(0), output_per_million: MicroCredits(amount) };
    let charge = Charge {
        tenant: who(tenant),
        request: Digest([6; 32]),
        response: Digest([6; 32]),
        prompt_tokens: TokenCount(7),
        output_tokens: TokenCount(1_000_000),
        price,
        amount: MicroCredits(amount),
        public: tenant == OWN,
        with_audit: false,
        region: None,
    };
    Receipt { commitment, charge }
}

/// The end of an epoch that begins at minute `epoch`.
pub(crate) fn end(epoch: u64) -> Timestamp {
    Timestamp(0).after(Micros::from_secs(60 * (epoch + 1)))
}
