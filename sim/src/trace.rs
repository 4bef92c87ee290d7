//! One digest over everything that the machines put out.

use ol_protocol::Timestamp;
use ol_protocol::digest::Domain;
use ol_protocol::id::hex;
use ol_protocol::record::AttemptId;
use ol_roles::gateway::event::{Entry, Output};
use ol_roles::node;
use sha2::{Digest as _, Sha256};

/// The digest so far.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: Sha256,
    line: Vec<u8>,
}

impl Default for Trace {
    fn default() -> Self {
        let mut hash = Sha256::new();
        hash.update(Domain::Events.tag());
        Self { hash, line: Vec::new() }
    }
}

impl Trace {
    pub(crate) fn value(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    fn begin(&mut self, now: Timestamp, who: u64, tag: u8) -> &mut Self {
        self.line.clear();
        self.number(now.0).number(who).bytes(&[tag])
    }

    fn number(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn attempt(&mut self, id: &AttemptId) -> &mut Self {
        self.bytes(&id.task.0).bytes(&[id.attempt])
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.line.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, value: &impl std::fmt::Debug) -> &mut Self {
        self.bytes(format!("{value:?}").as_bytes())
    }

    fn end(&mut self) {
        self.hash.update((self.line.len() as u64).to_le_bytes());
        self.hash.update(&self.line);
    }

    /// An output of the gateway.
    pub(crate) fn gateway(&mut self, now: Timestamp, output: &Output) {
        let gateway = u64::MAX;
        match output {
            Output::Assign { node, attempt, variant, epoch, resumed_from, order, deadline } => self
                .begin(now, gateway, 0)
                .bytes(&node.0)
                .attempt(attempt)
                .bytes(&variant.0)
                .number(epoch.0)
                .number(u64::from(resumed_from.0))
                .bytes(order)
                .number(deadline.0),
            Output::Cancel { node, attempt, is_paid } => {
                self.begin(now, gateway, 1).bytes(&node.0).attempt(attempt).number(u64::from(*is_paid))
            }
            Output::Relay { attempt, count } => self.begin(now, gateway, 2).attempt(attempt).number(u64::from(count.0)),
            Output::Finish { task, finished } => self.begin(now, gateway, 3).bytes(&task.0).text(finished),
            Output::Release { task } => self.begin(now, gateway, 16).bytes(&task.0),
            Output::Own { like, variant } => self.begin(now, gateway, 17).bytes(&like.0).bytes(&variant.0),
            Output::Refuse { task, refusal, .. } => self.begin(now, gateway, 4).bytes(&task.0).text(refusal),
            Output::Forget { task } => self.begin(now, gateway, 5).bytes(&task.0),
            Output::Append { append, entries } => {
                self.begin(now, gateway, 6).number(*append);
                entries.iter().for_each(|entry| self.entry(entry));
                self
            }
            Output::Ack { node, sequence } => self.begin(now, gateway, 7).bytes(&node.0).number(*sequence),
            Output::Audit { auditor, audit, subject, level, reach, .. } => {
                let audited = self.begin(now, gateway, 8).bytes(&auditor.0).bytes(&audit.0).attempt(subject);
                audited.bytes(&[level.to_byte()]).number(reach.0.into())
            }
            Output::Unseal { auditor, audit, .. } => self.begin(now, gateway, 18).bytes(&auditor.0).bytes(&audit.0),
            Output::Withdrawn { node, variant } => self.begin(now, gateway, 19).bytes(&node.0).bytes(&variant.0),
            Output::Audited { subject, node, outcome, passed } => {
                self.begin(now, gateway, 9).attempt(subject).bytes(&node.0).text(outcome).text(passed)
            }
            Output::Closed { summary, state, seals, .. } => {
                self.begin(now, gateway, 10).text(summary).bytes(&state.0).bytes(&seals.0.0).bytes(&seals.1.0)
            }
            Output::Open { subject, commitment } => {
                self.begin(now, gateway, 15).attempt(subject).bytes(&commitment.to_bytes())
            }
            Output::Denied { error } => self.begin(now, gateway, 11).text(error),
            Output::Claim { tenant, amount, booked } => {
                self.begin(now, gateway, 14).bytes(&tenant.0).number(amount.0).text(booked)
            }
            Output::Welcome { node, next_batch, epoch, held } => {
                self.begin(now, gateway, 13).bytes(&node.0).number(*next_batch).number(epoch.0).text(held)
            }
            Output::Close { node, why } => self.begin(now, gateway, 12).bytes(&node.0).bytes(why.as_bytes()),
        }
        .end();
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Record(record) => self.bytes(&record.to_bytes()),
            Entry::Batch { header, receipts_root, .. } => self.bytes(&header.to_bytes()).bytes(&receipts_root.0),
        };
    }

    /// An output of a node.
    pub(crate) fn node(&mut self, now: Timestamp, place: usize, action: &node::Action) {
        let who = place as u64;
        let node::Action::At { output, .. } = action else { return self.begin(now, who, 10).end() };
        match output {
            node::Output::Grant { variant, total } => self.begin(now, who, 0).bytes(&variant.0).number(*total),
            node::Output::Withdraw { variant, total } => self.begin(now, who, 11).bytes(&variant.0).number(*total),
            node::Output::Close => self.begin(now, who, 12),
            node::Output::Start { attempt } => self.begin(now, who, 1).attempt(attempt),
            node::Output::Stop { attempt } => self.begin(now, who, 2).attempt(attempt),
            node::Output::Refuse { attempt, code, grant } => {
                self.begin(now, who, 3).attempt(attempt).text(code).number(*grant)
            }
            node::Output::RefuseCopy { attempt, grant } => self.begin(now, who, 13).attempt(attempt).number(*grant),
            node::Output::Done { commitment, grant } => {
                self.begin(now, who, 4).bytes(&commitment.to_bytes()).number(*grant)
            }
            node::Output::Store { sequence, epoch, commitments } => {
                self.begin(now, who, 5).number(*sequence).number(epoch.0).number(commitments.len() as u64)
            }
            node::Output::Send { sequence } => self.begin(now, who, 6).number(*sequence),
            node::Output::Forget { sequence } => self.begin(now, who, 7).number(*sequence),
            node::Output::Audit { audit } => self.begin(now, who, 8).bytes(&audit.0),
            node::Output::RefuseAudit { audit } => self.begin(now, who, 9).bytes(&audit.0),
        }
        .end();
    }
}
