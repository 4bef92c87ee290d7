//! Epochs at the gateway: the log's order, and the close of an epoch.

use super::event::{Entry, Output};
use super::limits::{SNAPSHOT_ATTEMPTS_MAX, SNAPSHOT_SHARE};
use super::{Appended, Gateway};
use crate::settler::{Fault, Reveal};
use alloc::vec;
use alloc::vec::Vec;
use ol_ledger::Account;
use ol_protocol::calibration::Calibration;
use ol_protocol::parameters::ParameterChange;
use ol_protocol::record::{AttemptId, Close, Record};
use ol_protocol::top_up::Slice;
use ol_protocol::{Digest, Epoch, MicroCredits, NodeId, TaskId, TenantId, Timestamp, seed};
use ol_trust::draw;

impl Gateway {
    /// The open epoch's draw secret.
    pub(super) fn draw_secret(&self) -> [u8; 32] {
        draw::secret(&self.setup.master, self.settler.epoch())
    }

    fn seals(&self, epoch: Epoch) -> (Digest, Digest) {
        let draw_seal = draw::seal(&draw::secret(&self.setup.master, epoch));
        let nonce_seal = draw::seal(&seed::nonce_secret(&self.setup.master, epoch));
        (draw_seal, nonce_seal)
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>, what: Appended, out: &mut Vec<Output>) {
        let append = self.next_append;
        self.next_append += 1;
        self.appended.insert(append, what);
        let records = entries.iter().map(|entry| match entry {
            Entry::Record(_) => 1,
            Entry::Batch { receipts, .. } => 1 + receipts.len() as u64,
        });
        self.unsaved = self.unsaved.saturating_add(records.sum());
        out.push(Output::Append { append, entries });
    }

    pub(super) fn durable(&mut self, now: Timestamp, append: u64, out: &mut Vec<Output>) {
        let later = self.appended.split_off(&(append.saturating_add(1)));
        for (_, what) in core::mem::replace(&mut self.appended, later) {
            match what {
                Appended::Nothing => {}
                Appended::Audit { subject } => out.extend(self.opening(subject)),
                Appended::Sealed { audit } => self.unseal(now, audit, out),
                Appended::Batch { node, sequence, drawn, settled } => {
                    out.push(Output::Ack { node, sequence });
                    drawn.into_iter().for_each(|subject| self.draw(now, subject));
                    out.extend(settled.into_iter().map(|task| Output::Forget { task }));
                }
            }
        }
        self.dispatch_audits(now, out);
    }

    pub(super) fn is_durable(&self, node: NodeId, sequence: u64) -> bool {
        let pending = |what: &Appended| matches!(what, Appended::Batch { node: n, sequence: s, .. } if (*n, *s) == (node, sequence));
        !self.appended.values().any(pending) && !self.is_waiting(node, sequence)
    }

    pub(super) fn top_up(&mut self, now: Timestamp, slice: Slice, out: &mut Vec<Output>) {
        let tenant = slice.top_up.tenant;
        match self.settler.top_up(&slice) {
            Ok(()) => {
                self.budget.credit(tenant, slice.amount);
                self.append(vec![Entry::Record(Record::TopUp(slice))], Appended::Nothing, out);
            }
            Err(fault) => {
                self.deny(fault, out);
                return self.no_funds(now, tenant, false, out);
            }
        }
        self.funds_came(now, tenant, out);
    }

    pub(super) fn change(&mut self, change: ParameterChange, out: &mut Vec<Output>) {
        match self.settler.change(&change) {
            Ok(()) => self.append(vec![Entry::Record(Record::Parameters(change))], Appended::Nothing, out),
            Err(fault) => self.deny(fault, out),
        }
    }

    // One that is not new is what the referee says again on each link.
    pub(super) fn calibrated(&mut self, now: Timestamp, calibration: Calibration, out: &mut Vec<Output>) {
        if self.settler.calibrate(&calibration).is_ok() {
            self.append(vec![Entry::Record(Record::Calibration(calibration))], Appended::Nothing, out);
            self.dispatch_audits(now, out);
        }
    }

    fn deny(&mut self, fault: Fault, out: &mut Vec<Output>) {
        self.counters.denied += 1;
        match fault {
            Fault::Ledger(error) => out.push(Output::Denied { error }),
            other => unreachable!("an issuer's order fails in the ledger only: {other}"),
        }
    }

    pub(super) fn close_when_due(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if now < self.epoch_ends {
            return;
        }
        self.epoch_ends = now.after(self.settler.genesis().epoch);
        let epoch = self.settler.epoch();
        let seals = self.seals(epoch.next());
        let reveal = Reveal {
            draw_secret: self.draw_secret(),
            nonce_secret: seed::nonce_secret(&self.setup.master, epoch),
            next_draw_seal: seals.0,
            next_nonce_seal: seals.1,
        };
        let refunds = self.settler.refunds_due();
        let summary = match self.settler.close(now, &reveal) {
            Ok(summary) => summary,
            Err(fault) => unreachable!("the gateway's own log settles: {fault}"),
        };
        // A receipt that the close refused is given back once, whatever its audit found.
        let refused = self.settler.refused();
        let unpaid = refused.iter().filter_map(|id| self.charged.get(id)).copied();
        let refunds = refunds.into_iter().filter(|(id, _)| !refused.contains(id)).map(|(_, amount)| amount);
        for (tenant, amount) in unpaid.chain(refunds).collect::<Vec<_>>() {
            self.budget.credit(tenant, amount);
            self.collect(tenant);
        }
        self.charged.clear();
        self.fund_own();
        self.drop_audits(now, out);
        let state = self.settler.digest();
        let Reveal { draw_secret, nonce_secret, next_draw_seal, next_nonce_seal } = reveal;
        let close = Close { epoch, at: now, draw_secret, nonce_secret, next_draw_seal, next_nonce_seal, state };
        self.append(vec![Entry::Record(Record::Close(close))], Appended::Nothing, out);
        let snapshot = self.snapshot_due().then(|| self.settler.to_bytes());
        out.push(Output::Closed { summary, state, seals, snapshot });
    }

    // A snapshot holds every settled attempt that is remembered, an hour's at least. One at each close would write each of them
    // once an epoch: it is due when the log has grown by a share of what it holds, so that each is written a few times at all.
    fn snapshot_due(&mut self) -> bool {
        let remembered = self.settler.ledger().remembered() as u64;
        let is_due = self.unsaved.saturating_mul(SNAPSHOT_SHARE) >= remembered && remembered <= SNAPSHOT_ATTEMPTS_MAX;
        if is_due {
            self.unsaved = 0;
        }
        is_due
    }

    /// Puts the tenants' settled balances, less what the log charges already, into the live budget.
    pub(super) fn fund(&mut self) {
        let funded: Vec<_> = self
            .settler
            .ledger()
            .balances()
            .filter_map(|(account, balance)| match account {
                Account::Tenant(tenant) => Some((tenant, u64::try_from(balance).unwrap_or(0))),
                _ => None,
            })
            .collect();
        for (tenant, balance) in funded {
            self.budget.credit(tenant, MicroCredits(balance));
        }
        self.fund_own();
        let unsettled: Vec<_> = self
            .settler
            .unsettled_charges()
            .filter(|receipt| receipt.charge.tenant != self.settler.gateway_tenant())
            .map(|r| (r.commitment.task, r.commitment.attempt, r.charge.tenant, r.charge.amount))
            .collect();
        for (task, attempt, tenant, amount) in unsettled {
            self.spend(task, tenant, amount);
            self.charged.insert(AttemptId { task, attempt }, (tenant, amount));
        }
    }

    /// Takes a charge from the live budget that was not reserved here. What other tasks have reserved can't be taken now:
    /// it is owed, and taken as soon as it is free.
    pub(super) fn spend(&mut self, task: TaskId, tenant: TenantId, amount: MicroCredits) {
        let free = amount.min(self.budget.available(&tenant));
        if free != MicroCredits::ZERO && self.budget.reserve(task, tenant, free).is_ok() {
            self.budget.settle(&task, free);
        }
        if amount > free {
            let owed = self.owed.entry((tenant, task)).or_default();
            *owed = MicroCredits(owed.0.saturating_add(amount.0 - free.0));
        }
    }

    /// Takes what a tenant owes, as far as it is free by now.
    pub(super) fn collect(&mut self, tenant: TenantId) {
        let all = (tenant, TaskId([0; 16]))..=(tenant, TaskId([u8::MAX; 16]));
        let owed: Vec<(TaskId, MicroCredits)> =
            self.owed.extract_if(all, |_, _| true).map(|((_, t), a)| (t, a)).collect();
        for (task, amount) in owed {
            self.spend(task, tenant, amount);
        }
    }
}
