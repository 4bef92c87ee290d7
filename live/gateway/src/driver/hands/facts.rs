//! What is kept of an attempt beside its receipt, sealed: its content for audits, and for its tenant what the log doesn't say.

use super::GatewayHands;
use ol_protocol::commitment::Commitment;
use ol_protocol::id::hex;
use ol_protocol::record::AttemptId;
use ol_protocol::{TaskId, Timestamp, seed};
use ol_store::{Facts, Job};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A task's facts, as they are stored. Each further attempt adds to those before.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct TaskFacts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assurance: Option<Cow<'a, str>>,
    /// By node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    certificates: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_unix_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_when_answered: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<Cow<'a, serde_json::Value>>,
    salt: String,
    logged_unix_us: u64,
}

impl GatewayHands {
    // Payload for an audit, facts for the tenant; both sealed at rest. The content of a task's only attempt leaves memory with it.
    pub(super) fn keep(&mut self, now: Timestamp, commitment: &Commitment, job: &mut Job) {
        let attempt = AttemptId { task: commitment.task, attempt: commitment.attempt };
        let bytes = self.facts(now, commitment, job);
        let peer = self.peers.get(&commitment.node);
        let variant = peer.and_then(|peer| peer.variant(commitment.variant));
        let numerics = variant.map(|variant| variant.numerics.clone()).unwrap_or_default();
        if let Some(content) = self.contents.get_mut(&attempt.task) {
            if let Some(payload) = content.seal(attempt, now, commitment, &numerics) {
                job.payloads.push(payload);
            }
            // An earlier attempt of the task may still have to be compared.
            if content.orders.len() == 1 && content.ended {
                self.contents.remove(&attempt.task);
            } else {
                content.facts = Some(bytes.clone());
            }
        }
        job.facts.push(Facts { task: attempt.task, bytes });
    }

    // What a receipt's document says beside the log. An earlier attempt of the task may have said its part already, and a
    // gateway that was killed has forgotten the request, but not how its salt came about.
    fn facts(&self, now: Timestamp, commitment: &Commitment, job: &Job) -> Vec<u8> {
        let (task, content) = (commitment.task, self.contents.get(&commitment.task));
        let is_only = content.is_some_and(|content| content.orders.len() == 1);
        let mut facts = if is_only { TaskFacts::default() } else { self.earlier_facts(task, job) };
        if let Some(peer) = self.peers.get(&commitment.node) {
            if let Some(variant) = peer.variant(commitment.variant) {
                facts.variant = Some(hex(&variant.to_bytes()).into());
                facts.model = Some(variant.model.as_str().into());
                facts.assurance = Some(variant.assurance.name().into());
            }
            facts.certificates.insert(commitment.node.to_string(), hex(&peer.certificate.to_bytes()));
        }
        if let Some(content) = content {
            facts.tenant = Some(content.tenant.to_string());
            facts.created_unix_us = Some(content.created.0);
            facts.trust_when_answered = content.trust;
            facts.quote = content.quote.as_ref().map(Cow::Borrowed).or(facts.quote);
        }
        facts.salt = seed::salt(&self.shared.master, &task).to_string();
        facts.logged_unix_us = now.0;
        serde_json::to_vec(&facts).expect("keys are strings")
    }

    fn earlier_facts(&self, task: TaskId, job: &Job) -> TaskFacts<'static> {
        let last = match self.contents.get(&task) {
            Some(content) => content.facts.clone(),
            None => {
                let in_job = job.facts.iter().rev().find(|facts| facts.task == task).cloned();
                in_job.or_else(|| self.journal.facts(task)).map(|facts| facts.bytes)
            }
        };
        last.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}
