//! Tasks of the network's own: public ones among its tenants', where these let too little become public for honesty to pay.

use super::Gateway;
use super::event::{Output, Submission};
use alloc::vec::Vec;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::{MicroCredits, TaskId};
use ol_trust::honesty::own_chance_ppm;

impl Gateway {
    /// Perhaps asks for a task of the network's own after a tenant's was answered, if a node would else be idle. Drawn with the gateway's secret, so that nobody can tell
    /// when; of a variant whose results the referee can refute.
    pub(super) fn own_after(&mut self, like: TaskId, charge: MicroCredits, out: &mut Vec<Output>) {
        let Some(task) = self.tasks.get(&like) else { return };
        let &Submission { tenant, variant, output_tokens_max, public, .. } = &task.submission;
        let can_be_refuted = output_tokens_max.0 > 0 && self.settler.calibration(variant, variant).is_some();
        let is_deterrent = self.settler.parameters().audit.deterrent && !public && tenant != self.own_tenant;
        if !is_deterrent || !can_be_refuted || charge == MicroCredits::ZERO || !self.has_free_slot(variant) {
            return;
        }
        let chance_ppm = own_chance_ppm(self.settler.open_ppm());
        if chance_ppm == 0 {
            return;
        }
        let bytes = digest(Domain::Draw, &[b"own", &self.setup.master, &like.0]).0;
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % 1_000_000;
        if number < chance_ppm {
            self.counters.own += 1;
            out.push(Output::Own { like, variant });
        }
    }

    /// Lets the network's own tasks cost half of what the ledger would charge them: what has no receipt yet is in neither.
    pub(super) fn fund_own(&mut self) {
        let tenant = self.own_tenant;
        let half = MicroCredits(self.settler.ledger().available(tenant).0 / 2);
        let reserved = self.budget.reserved(&tenant);
        self.budget.set(tenant, MicroCredits(half.0.saturating_sub(reserved.0)));
    }
}
