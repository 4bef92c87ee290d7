//! `openledger why`: what a running gateway decided about a task or a node, gate by gate.

use crate::client::Client;
use crate::config::Role;
use crate::flags;
use crate::home::{Home, NETWORK};
use crate::logging::say;
use anyhow::{Context as _, ensure};
use ol_protocol::{NodeId, TaskId};
use serde_json::Value;
use std::process::ExitCode;

/// Ask a running gateway why a task went where it went, or why a node gets what it gets.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    about: About,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The gateway's API [default: http:// and the configured `listen`].
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    common: flags::Common,
}

/// One of the two.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct About {
    /// The task: the id of its receipt, also of one that was refused.
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// The node: its key, as `openledger node` prints it.
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
}

/// Runs `openledger why`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = flags::load(Role::Gateway, &args.common, None, None, None, None)?;
    let key = Home::open(&config.data_dir)?.existing(NETWORK)?.existing_operator_key()?;
    let base = args.to.clone().unwrap_or_else(|| format!("http://{}", config.listen));
    ensure!(base.starts_with("http://"), "{base} is no http:// address: give the gateway's with --to");
    let client = Client::to(base.trim_end_matches('/').trim_end_matches("/v1")).with_key(key.expose());
    let path = match (args.about.task, args.about.node) {
        (Some(task), _) => format!("/v1/tasks/{task}/why"),
        (None, Some(node)) => format!("/v1/nodes/{node}/why"),
        (None, None) => unreachable!("clap asks for one"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(client.get(&path)).with_context(|| format!("cannot ask the gateway at {base}"))?;
    let why = answer.json()?;
    if args.json {
        say(why.to_string());
    } else if args.about.task.is_some() {
        task(&why).iter().for_each(say);
    } else {
        node(&why).iter().for_each(say);
    }
    Ok(ExitCode::SUCCESS)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

// Eight digits tell a few apart.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

// In milliseconds, to a tenth below ten of them.
fn span(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{} ms", grouped(micros / 1_000)),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

fn gates(value: &Value, name: &str, indent: &str, lines: &mut Vec<String>) {
    for gate in list(value, name) {
        let passed = if gate["passed"] == true { "passed" } else { "failed" };
        lines.push(format!("{indent}{passed} {}: {}", text(gate, "gate"), text(gate, "message")));
    }
}

fn task(why: &Value) -> Vec<String> {
    let after = span(number(why, "ended_after_us"));
    let end = match text(why, "state") {
        "answered" => format!(
            "answered after {after} by attempt {}: {} output tokens, {} micro-credits",
            number(why, "answered_by"),
            grouped(number(why, "output_tokens")),
            grouped(number(why, "charge_micro_credits"))
        ),
        "refused" => format!("refused after {after}: {}", text(why, "refusal")),
        "left" => format!("its client left after {after}"),
        state => state.to_owned(),
    };
    let mut lines = vec![format!("task {} of tenant {}: {end}", text(why, "id"), short(text(why, "tenant")))];
    gates(why, "gates", "  ", &mut lines);
    match number(why, "passed_by") {
        0 => {}
        times => lines.push(format!("  waited on {times} times beside a free node that is slow, for a faster one")),
    }
    for gate in list(why, "nobody") {
        lines.push(format!("  no free node would do: {}", text(gate, "message")));
    }
    list(why, "attempts").for_each(|given| attempt(given, &mut lines));
    lines
}

fn attempt(given: &Value, lines: &mut Vec<String>) {
    let because = match text(given, "because") {
        "first" => "the first",
        "late" => "beside the one before, which was late",
        "moved" => "instead of the one before, which was slow",
        _ => "after the one before failed",
    };
    let (node, began) = (text(given, "node"), span(number(given, "began_after_us")));
    lines.push(format!("attempt {} on node {node}, after {began}: {because}", number(given, "attempt")));
    gates(given, "gates", "  ", lines);
    lines.push("  compared:".to_owned());
    for candidate in list(given, "candidates") {
        let chosen = if text(candidate, "node") == node { "  <- chosen" } else { "" };
        let guess = if candidate["is_measured"] == true { "" } else { ", not measured yet" };
        let (other, cost) = (short(text(candidate, "node")), span(number(candidate, "predicted_us")));
        lines.push(format!("    node {other}: done in {cost}{guess}{chosen}"));
    }
    for gate in list(given, "closed") {
        let (other, name) = (short(text(gate, "node")), text(gate, "gate"));
        lines.push(format!("    node {other} failed {name}: {}", text(gate, "message")));
    }
    let (first, end) = (number(given, "predicted_first_token_us"), number(given, "predicted_us"));
    lines.push(format!("  predicted: first token after {}, end after {}", span(first), span(end)));
    let first =
        given["first_token_us"].as_u64().map_or("no token".to_owned(), |us| format!("first token after {}", span(us)));
    let tokens = number(given, "reached").saturating_sub(number(given, "resumed_from"));
    let end = match given["took_us"].as_u64() {
        Some(took) => format!("{} after {}", ended(text(given, "ended")), span(took)),
        None => "it runs".to_owned(),
    };
    lines.push(format!("  was: {first}, {} tokens, {end}", grouped(tokens)));
}

fn ended(how: &str) -> &str {
    match how {
        "answered" => "answered",
        "task_ended" => "taken back as the task ended",
        "no_first_token" => "given up without a token",
        "tokens_stopped" => "given up when tokens stopped",
        "deadline" => "given up at the deadline",
        "disconnected" => "its node's link ended",
        "node_error" => "its node failed",
        "wrong" => "its node sent what cannot be",
        "refused" => "its node refused it",
        "client" => "taken back as the client left",
        "outrun" => "another was sooner",
        "slow" => "moved to a faster node",
        other => other,
    }
}

fn node(why: &Value) -> Vec<String> {
    let operator =
        why["operator"].as_str().map_or(String::new(), |operator| format!(" of operator {}", short(operator)));
    let mut lines = vec![format!("node {}{operator}: {} tasks in flight", text(why, "id"), number(why, "in_flight"))];
    gates(why, "gates", "  ", &mut lines);
    for variant in list(why, "variants") {
        lines.push(format!("variant {}", short(text(variant, "variant"))));
        gates(variant, "gates", "  ", &mut lines);
        let (clean, failed) = (number(variant, "clean_audits"), number(variant, "failed_audits"));
        lines.push(format!(
            "  {} receipts, {clean} clean audits, {failed} failed ones",
            grouped(number(variant, "receipts"))
        ));
    }
    let decisions = &why["decisions"];
    let kept = grouped(number(why, "tasks_kept"));
    let since = span(number(why, "kept_for_us"));
    let [count, chosen, outdone] = ["count", "chosen", "outdone"].map(|name| grouped(number(decisions, name)));
    lines.push(format!("of {count} decisions about its variants among the last {kept} tasks, over {since}"));
    let ago =
        decisions["chosen_us_ago"].as_u64().map_or(String::new(), |us| format!(", {} ago the last time", span(us)));
    lines.push(format!("  {chosen} chose it{ago}"));
    lines.push(format!("  {outdone} compared it and chose another"));
    for gate in list(decisions, "closed") {
        let (count, name) = (grouped(number(gate, "count")), text(gate, "gate"));
        lines.push(format!("  {count} passed it over, failed {name}: {}", text(gate, "last")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_task_reads_as_one_line_a_gate() {
        let why = json!({
            "id": "00aa", "tenant": "0123456789", "state": "refused", "ended_after_us": 1_500, "refusal": "busy",
            "gates": [
                {"gate": "variant", "passed": true, "message": "3 connected nodes serve this model variant"},
                {"gate": "wait", "passed": false, "message": "a slot comes free in 20 ms and 10 ms is the longest wait"},
            ],
            "passed_by": 2, "nobody": [], "attempts": [],
        });
        let lines = [
            "task 00aa of tenant 01234567: refused after 1.5 ms: busy",
            "  passed variant: 3 connected nodes serve this model variant",
            "  failed wait: a slot comes free in 20 ms and 10 ms is the longest wait",
            "  waited on 2 times beside a free node that is slow, for a faster one",
        ];
        assert_eq!(task(&why), lines);
    }

    #[test]
    fn an_attempt_shows_what_was_predicted_and_what_was() {
        let given = json!({
            "attempt": 1, "node": "aabbccdd00", "began_after_us": 12_000_500, "because": "failed_over",
            "gates": [{"gate": "deadline", "passed": true, "message": "begins in 120 ms, 3000 ms left"}],
            "compared": 1, "candidates": [{"node": "aabbccdd00", "predicted_us": 900_000, "is_measured": false}],
            "closed": [{"node": "1122334455", "gate": "quarantine", "message": "it failed lately"}],
            "predicted_first_token_us": 120_000, "predicted_us": 900_000, "first_token_us": 100, "took_us": 1_000_000,
            "resumed_from": 20, "reached": 1_220, "ended": "answered",
        });
        let mut lines = Vec::new();
        attempt(&given, &mut lines);
        let expected = [
            "attempt 1 on node aabbccdd00, after 12,000 ms: after the one before failed",
            "  passed deadline: begins in 120 ms, 3000 ms left",
            "  compared:",
            "    node aabbccdd: done in 900 ms, not measured yet  <- chosen",
            "    node 11223344 failed quarantine: it failed lately",
            "  predicted: first token after 120 ms, end after 900 ms",
            "  was: first token after 0.1 ms, 1,200 tokens, answered after 1,000 ms",
        ];
        assert_eq!(lines, expected);
    }
}
