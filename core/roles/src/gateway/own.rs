//! Tasks of the network's own: public ones among its tenants', where these let too little become public for honesty to pay.

use super::Gateway;
use super::event::Submission;
use ol_protocol::MicroCredits;
use ol_protocol::digest::{Domain, digest};
use ol_trust::honesty::own_chance_ppm;

impl Gateway {
    /// Whether a task of the network's own is to follow a tenant's, if a node would else be idle. Drawn with the gateway's secret, so that nobody can tell when; of
    /// a variant whose results the referee can refute.
    pub(super) fn wants_own(&self, submission: &Submission) -> bool {
        let &Submission { task, tenant, variant, output_tokens_max, public, .. } = submission;
        let can_be_refuted = output_tokens_max.0 > 0 && self.settler.calibration(variant, variant).is_some();
        if !self.settler.parameters().audit.deterrent || public || tenant == self.own_tenant || !can_be_refuted {
            return false;
        }
        let bytes = digest(Domain::Draw, &[b"own", &self.setup.master, &task.0]).0;
        let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % 1_000_000;
        number < own_chance_ppm(self.settler.open_ppm())
    }

    /// Lets the network's own tasks cost half of what the ledger would charge them: what has no receipt yet is in neither.
    pub(super) fn fund_own(&mut self) {
        let tenant = self.own_tenant;
        let half = MicroCredits(self.settler.ledger().available(tenant).0 / 2);
        let there = self.budget.available(&tenant).0.saturating_add(self.budget.reserved(&tenant).0);
        self.budget.credit(tenant, MicroCredits(half.0.saturating_sub(there)));
    }
}
