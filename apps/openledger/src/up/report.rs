//! What `up` says about its first answer.

use super::ask::Asked;
use crate::gateway::Running;
use crate::inspect::credits;
use crate::logging::say;
use ol_gateway::driver::document::{Check, Outcome, verify};
use ol_protocol::TaskId;
use serde_json::{Value, json};
use std::time::Duration;

/// Audits that ended, and the last settled epoch.
#[derive(Debug, Clone, Default)]
pub(super) struct Audits {
    done: Vec<(TaskId, Option<bool>)>,
    pub(super) epoch: u64,
}

impl Audits {
    /// Adds one.
    pub(super) fn add(&mut self, task: TaskId, passed: Option<bool>) {
        self.done.push((task, passed));
    }

    /// Whether a task's audit has ended. A node's first tasks are always audited, and this is one.
    pub(super) fn of(&self, task: &str) -> bool {
        self.done.iter().any(|(id, _)| id.to_string() == task)
    }
}

/// An answer, its receipt, and its audits.
pub(super) struct Report<'a> {
    asked: &'a Asked,
    audits: Option<Audits>,
    checks: Vec<Check>,
    operator: String,
}

impl<'a> Report<'a> {
    /// Checks the receipt offline, with the very bytes that were sent and received.
    pub(super) fn of(asked: &'a Asked, audits: Option<Audits>, document: &Value) -> anyhow::Result<Self> {
        let checks = verify(document, Some(&asked.request), Some(&asked.response))?;
        let operator =
            document["receipt"]["attempts"][0]["commitment"]["operator"].as_str().unwrap_or_default().to_owned();
        Ok(Self { asked, audits, checks, operator })
    }

    /// Whether everything about the answer is as it should be.
    pub(super) fn holds(&self) -> bool {
        let audited = self.audits.as_ref().is_none_or(|audits| audits.done.iter().all(|(_, p)| *p == Some(true)));
        self.verified() && audited
    }

    fn verified(&self) -> bool {
        self.checks.iter().all(|check| !matches!(check.result, Outcome::Fails(_)))
    }

    /// Prints it.
    pub(super) fn tell(&self, as_json: bool, first_answer: Duration) {
        if as_json { say(self.json(first_answer).to_string()) } else { self.text(first_answer) }
    }

    fn json(&self, first_answer: Duration) -> Value {
        let answer = &self.asked.answer;
        let audits = self.audits.clone().unwrap_or_default();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "answer": answer["choices"][0]["message"]["content"],
            "model": answer["model"],
            "usage": answer["usage"],
            "node": answer["openledger"]["node"],
            "operator": self.operator,
            "charge_micro_credits": answer["openledger"]["charge_micro_credits"],
            "receipt_id": self.asked.task,
            "receipt_verified": self.verified(),
            "receipt_checks": self.checks.len(),
            "audits_done": audits.done.len(),
            "audits_passed": audits.done.iter().filter(|(_, passed)| *passed == Some(true)).count(),
            "epoch": audits.epoch,
            "coordination_cpu_us_per_task": self.asked.coordination_us,
            "answer_ms": self.asked.took.as_millis() as u64,
            "first_answer_ms": first_answer.as_millis() as u64,
        })
    }

    fn text(&self, first_answer: Duration) {
        let answer = &self.asked.answer;
        let ours = &answer["openledger"];
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        let node = ours["node"].as_str().unwrap_or_default();
        let short = |id: &str| id.chars().take(8).collect::<String>();
        say(format!("asked     {}", self.asked.question));
        say(format!("answer    {}", text.trim()));
        say(format!(
            "served by node {} of operator {} (one machine), {:.1} s after the start, in {:.1} s",
            short(node),
            short(&self.operator),
            first_answer.as_secs_f64(),
            self.asked.took.as_secs_f64()
        ));
        let usage = &answer["usage"];
        let charge = ours["charge_micro_credits"].as_i64().unwrap_or_default();
        say(format!(
            "cost      {} credits for {} prompt and {} output tokens",
            credits(charge.into()),
            usage["prompt_tokens"],
            usage["completion_tokens"]
        ));
        let open = self.checks.iter().filter(|check| matches!(check.result, Outcome::Open(_))).count();
        let later = if open > 0 { format!(", {open} more when its epoch is settled") } else { String::new() };
        let holds = if self.verified() { "holds" } else { "does NOT hold" };
        say(format!("receipt   {} {holds}: {} checks offline{later}", self.asked.task, self.checks.len() - open));
        for check in &self.checks {
            if let Outcome::Fails(why) = &check.result {
                say(format!("          WRONG {}: {why}", check.what));
            }
        }
        if let Some(audits) = &self.audits {
            let passed = audits.done.iter().filter(|(_, passed)| *passed == Some(true)).count();
            say(format!("audits    {passed} of {} passed; epoch {} is settled", audits.done.len(), audits.epoch));
        }
        say(format!(
            "coordination took {} us of CPU (gateway and ledger threads, not the model)",
            self.asked.coordination_us
        ));
    }
}

/// What a person needs to use the network.
pub(super) fn introduce(running: &Running, model: &str, loaded: Duration) -> anyhow::Result<()> {
    let (address, key) = (running.address, running.key()?);
    say(format!("openledger {}: a gateway, three nodes and a ledger on this machine", env!("CARGO_PKG_VERSION")));
    say(format!("models    loaded in {:.1} s", loaded.as_secs_f64()));
    say(format!("API       http://{address}/v1"));
    say(format!("API key   {key}"));
    say(format!("ticket    {}", running.gateway.ticket));
    say(format!(
        "\ncurl http://{address}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello!\"}}]}}'"
    ));
    say(format!(
        "\nfrom openai import OpenAI\nclient = OpenAI(base_url=\"http://{address}/v1\", api_key=\"{key}\")\nprint(client.chat.completions.create(\
         model=\"{model}\", messages=[{{\"role\": \"user\", \"content\": \"Hello!\"}}]).choices[0].message.content)\n"
    ));
    Ok(())
}
