//! What the issuer sold to tenants, and what of it the gateway has taken so far.

use crate::config::Broken;
use crate::world::{Event, World, issuer, tenant};
use ol_protocol::top_up::{Funded, Slice, TopUp};
use ol_protocol::{MicroCredits, Micros, TenantId};
use ol_roles::gateway::event::Input;

/// What a tenant buys who runs out of money.
const POOR: MicroCredits = MicroCredits(2_000);
const RICH: MicroCredits = MicroCredits(10_000_000_000);

/// Chance that the database doesn't answer.
const SILENT: f64 = 0.02;

/// Time of a claim, at least.
const CLAIM: Micros = Micros(1_500);

/// The table that the gateways of one owner would share.
#[derive(Debug, Default)]
pub(crate) struct Bank {
    sold: Vec<TopUp>,
    taken: Vec<Slice>,
}

impl Bank {
    /// The next part of what a tenant bought: one that is not booked, as the gateway that took it was killed, or one that
    /// was never taken.
    fn take(&mut self, tenant: TenantId, amount: MicroCredits, booked: Option<Funded>) -> Option<Slice> {
        let is_new = |slice: &&Slice| {
            let begins = Funded { serial: slice.top_up.serial, end: slice.from };
            slice.top_up.tenant == tenant && booked.is_none_or(|booked| booked <= begins)
        };
        if let Some(lost) = self.taken.iter().find(is_new) {
            return Some(lost.clone());
        }
        let top_up = self.sold.iter().find(|top_up| top_up.tenant == tenant)?.clone();
        let from = self.taken.iter().filter(|slice| slice.top_up == top_up).map(|slice| slice.amount.0).sum();
        let amount = MicroCredits(amount.0.min(top_up.amount.0 - from));
        let slice = Slice { top_up, from: MicroCredits(from), amount };
        slice.end()?;
        self.taken.push(slice.clone());
        Some(slice)
    }
}

impl World {
    /// The issuer sells: to the last tenant less than it will ask for.
    pub(crate) fn sell(&mut self) {
        for index in 0..self.config.tenants {
            let amount =
                if index + 1 == self.config.tenants && index > 0 && !self.config.demand.plain { POOR } else { RICH };
            let (network, owner) = (self.genesis.network(), self.genesis.owner);
            self.bank.sold.push(TopUp::issue(&issuer(), network, owner, tenant(index), amount, 1));
        }
    }

    /// The gateway asks for money.
    pub(crate) fn claim(&mut self, tenant: TenantId, amount: MicroCredits, booked: Option<Funded>) {
        let answer = match !self.config.demand.plain && self.chances.store.happens(SILENT) {
            true => Input::NoFunds { tenant, is_unknown: true },
            false => match self.bank.take(tenant, amount, booked) {
                Some(slice) => Input::TopUp(slice),
                None => Input::NoFunds { tenant, is_unknown: false },
            },
        };
        let at = self.now.after(CLAIM.saturating_add(self.chances.store.span(CLAIM)));
        self.agenda.plan(at, Event::Claimed { life: self.life, answer: Box::new(answer) });
    }

    /// The answer is there, if the gateway that asked is.
    pub(crate) fn claimed(&mut self, life: u32, answer: Input) -> Result<(), Broken> {
        if life == self.life { self.feed(answer) } else { Ok(()) }
    }
}
