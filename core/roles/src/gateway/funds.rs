//! Money that a gateway takes as its tenants need it. The owner's gateways share what the issuer sold: each takes parts of
//! it for itself, and decides alone what can be paid from those. A gateway without sisters is given everything at once,
//! and asks in vain.

use super::Gateway;
use super::event::{Output, Refusal, Submission};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::{MicroCredits, Micros, TaskId, TenantId, Timestamp};
use ol_sched::Gate;

/// What is taken at a time: a credit is thousands of requests to one commit, and the most that a tenant misses while this
/// gateway is away.
const SLICE: MicroCredits = MicroCredits(1_000_000);

/// Less than this, and the next part is asked for while there is still some.
const LOW: MicroCredits = MicroCredits(SLICE.0 / 2);

/// Requests of a tenant that may wait for money: as many as come while one commit takes place.
const WAITING_MAX: usize = 1_024;

/// How long nothing is asked for after there was nothing.
const PAUSE: Micros = Micros::from_secs(1);

/// What each tenant's money waits for.
#[derive(Debug, Default)]
pub(super) struct Funds(BTreeMap<TenantId, Fund>);

#[derive(Debug, Default)]
struct Fund {
    is_asked: bool,
    not_before: Timestamp,
    // With when its time is over.
    waiting: VecDeque<(Submission, Timestamp)>,
}

impl Funds {
    /// Takes out a request that waits.
    pub(super) fn remove(&mut self, task: TaskId) -> bool {
        self.0.values_mut().any(|fund| {
            let at = fund.waiting.iter().position(|(submission, _)| submission.task == task);
            at.is_some_and(|at| fund.waiting.remove(at).is_some())
        })
    }

    /// Takes out the requests whose time is over.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<TaskId> {
        let mut late = Vec::new();
        for fund in self.0.values_mut() {
            fund.waiting.retain(|(submission, until)| {
                let is_late = *until <= now;
                late.extend(is_late.then_some(submission.task));
                !is_late
            });
        }
        late
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.values().map(|fund| fund.waiting.len()).sum()
    }
}

impl Gateway {
    /// Asks for a tenant's next part, if it is time to.
    pub(super) fn claim(&mut self, now: Timestamp, tenant: TenantId, needed: MicroCredits, out: &mut Vec<Output>) {
        // The network itself has bought nothing.
        if tenant == self.own_tenant {
            return;
        }
        let fund = self.funds.0.entry(tenant).or_default();
        if !fund.is_asked && now >= fund.not_before {
            fund.is_asked = true;
            let booked = self.settler.ledger().funded(&tenant);
            out.push(Output::Claim { tenant, amount: needed.max(SLICE), booked });
        }
    }

    /// Asks for the next part before it is needed.
    pub(super) fn claim_ahead(&mut self, now: Timestamp, tenant: TenantId, out: &mut Vec<Output>) {
        if self.available(tenant) < LOW {
            self.claim(now, tenant, SLICE, out);
        }
    }

    /// Keeps a request until its tenant's next part is here. Gives it back if none will come, or too many wait.
    pub(super) fn await_funds(
        &mut self,
        now: Timestamp,
        submission: Submission,
        needed: MicroCredits,
        out: &mut Vec<Output>,
    ) -> Option<Submission> {
        let tenant = submission.tenant;
        self.claim(now, tenant, needed, out);
        let fund = self.funds.0.entry(tenant).or_default();
        if !fund.is_asked || fund.waiting.len() >= WAITING_MAX {
            return Some(submission);
        }
        let until = now.after(submission.deadline);
        fund.waiting.push_back((submission, until));
        None
    }

    /// Money came: who waited for it goes on.
    pub(super) fn funds_came(&mut self, now: Timestamp, tenant: TenantId, out: &mut Vec<Output>) {
        for (submission, _) in self.answered(tenant, Timestamp(0)) {
            self.submit(now, submission, out);
        }
    }

    /// There is none: who waited is refused, unless other money has become free.
    pub(super) fn no_funds(&mut self, now: Timestamp, tenant: TenantId, is_unknown: bool, out: &mut Vec<Output>) {
        for (submission, _) in self.answered(tenant, now.after(PAUSE)) {
            match is_unknown {
                false => self.submit(now, submission, out),
                true => {
                    let gates = vec![Gate::BudgetUnknown];
                    self.refuse(now, submission.task, Refusal::Busy(gates.clone()), gates, out);
                }
            }
        }
    }

    fn answered(&mut self, tenant: TenantId, not_before: Timestamp) -> VecDeque<(Submission, Timestamp)> {
        let fund = Fund { is_asked: false, not_before, waiting: VecDeque::new() };
        self.funds.0.insert(tenant, fund).map(|fund| fund.waiting).unwrap_or_default()
    }
}
