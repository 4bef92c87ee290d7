//! What the machine decided, as JSON: about a task, and about a node.

use crate::refusal::Gate;
use ol_protocol::{Micros, Timestamp};
use ol_roles::gateway::why::{Because, Ending, Given, Kept, NodeDecisions, Serving, TASKS_KEPT, Tally, TaskDecisions};
use ol_sched::placement::Turn;
use ol_sched::{Passed, Reason};
use serde_json::{Value, json};

/// What a refusal says of decisions that are not kept.
pub(super) fn how_long(now: Timestamp, kept: &Kept) -> String {
    let back =
        kept.since.map_or(String::new(), |since| format!(", now back to {} s ago", now.since(since).0 / 1_000_000));
    format!("those of the last {TASKS_KEPT} tasks are kept while the gateway runs{back}")
}

/// What was decided about a task.
pub(super) fn task(of: &TaskDecisions) -> Value {
    let after = |at: Timestamp| at.since(of.submitted).0;
    let state = match (&of.ended, of.attempts.iter().any(|given| given.ended.is_none())) {
        (Some((_, Ending::Answered { .. })), _) => "answered",
        (Some((_, Ending::Refused { .. })), _) => "refused",
        (Some((_, Ending::Left)), _) => "left",
        (None, true) => "running",
        (None, false) => "waiting",
    };
    let mut document = json!({
        "object": "task.why",
        "id": of.task.to_string(),
        "tenant": of.tenant.to_string(),
        "variant": of.variant.to_string(),
        "submitted_unix_us": of.submitted.0,
        "state": state,
        "gates": gates(&of.passed, &of.failed),
        "passed_by": of.passed_by,
        "nobody": gates(&[], &of.nobody),
        "attempts": of.attempts.iter().zip(0u8..).map(|(given, number)| attempt(of, given, number)).collect::<Vec<_>>(),
    });
    if let Some((at, ending)) = of.ended {
        document["ended_after_us"] = after(at).into();
        match ending {
            Ending::Answered { attempt, output, charge } => {
                document["answered_by"] = attempt.into();
                document["output_tokens"] = output.0.into();
                document["charge_micro_credits"] = charge.0.into();
            }
            Ending::Refused { name } => document["refusal"] = name.into(),
            Ending::Left => {}
        }
    }
    document
}

/// Gates with their figures.
pub(super) fn gates(passed: &[Passed], failed: &[ol_sched::Gate]) -> Vec<Gate> {
    passed.iter().map(Gate::from).chain(failed.iter().map(Gate::from)).collect()
}

fn attempt(of: &TaskDecisions, given: &Given, number: u8) -> Value {
    let since = |at: Timestamp| at.since(given.at).0;
    let picked = &given.picked;
    let candidates = picked.open.iter().map(|open| {
        json!({
            "node": open.node.to_string(), "predicted_us": open.cost.0, "is_measured": matches!(open.turn, Turn::Known | Turn::Slow),
        })
    });
    let closed = picked.closed.iter().map(|(node, gate)| Gate { node: Some(node.to_string()), ..Gate::from(gate) });
    let answered = matches!(of.ended, Some((_, Ending::Answered { attempt, .. })) if attempt == number);
    let ended = given.ended.map(|(at, reason)| {
        let how = match (reason, answered) {
            (Some(reason), _) => name(reason),
            (None, true) => "answered",
            (None, false) => "task_ended",
        };
        (since(at), how)
    });
    let deadline = Passed::Deadline { needed: given.predicted.begin, left: given.left };
    json!({
        "attempt": number,
        "node": picked.node.to_string(),
        "began_after_us": given.at.since(of.submitted).0,
        "because": match given.because {
            Because::First => "first",
            Because::Late => "late",
            Because::Ended(Reason::Slow) => "moved",
            Because::Ended(_) => "failed_over",
        },
        "gates": gates(&[deadline], &[]),
        "compared": picked.open.len(),
        "candidates": candidates.collect::<Vec<_>>(),
        "closed": closed.collect::<Vec<_>>(),
        "predicted_first_token_us": given.predicted.begin.0,
        "predicted_us": given.predicted.end.0,
        "first_token_us": given.first_token.map(since),
        "took_us": ended.map(|(took, _)| took),
        "resumed_from": given.resumed_from.0,
        "reached": given.reached.0,
        "ended": ended.map(|(_, how)| how),
    })
}

const fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::FirstToken => "no_first_token",
        Reason::BetweenTokens => "tokens_stopped",
        Reason::Deadline => "deadline",
        Reason::Disconnected => "disconnected",
        Reason::NodeError => "node_error",
        Reason::Wrong => "wrong",
        Reason::Refused => "refused",
        Reason::Client => "client",
        Reason::Outrun => "outrun",
        Reason::Slow => "slow",
    }
}

/// What was decided about a node, and what is known of it.
pub(super) fn node(now: Timestamp, of: &NodeDecisions, kept: &Kept) -> Value {
    json!({
        "object": "node.why",
        "id": of.node.to_string(),
        "operator": of.operator.map(|operator| operator.to_string()),
        "in_flight": of.in_flight,
        "gates": node_gates(now, of),
        "variants": of.variants.iter().map(|serving| variant(of, serving)).collect::<Vec<_>>(),
        "decisions": tally(now, &of.tally),
        "tasks_kept": kept.tasks,
        "kept_for_us": kept.since.map(|since| now.since(since).0),
    })
}

// What a node has to pass before anything is compared.
fn node_gates(now: Timestamp, of: &NodeDecisions) -> Vec<Gate> {
    let said = |is: bool, yes: &str, no: &str| if is { yes.to_owned() } else { no.to_owned() };
    let until = |until: Option<Timestamp>| until.map(|until| ("left_us", until.since(now).0));
    let seconds = |until: Timestamp| until.since(now).0.div_ceil(1_000_000);
    let gate = |gate, passed, message, figures: Option<(&'static str, u64)>| Gate {
        gate,
        passed,
        message,
        node: None,
        figures: figures.into_iter().collect(),
    };
    let connected = of.operator.is_some();
    let link = said(connected, "its link is up", "it is not connected to this gateway");
    let draining = said(of.is_draining, "it is shutting down and takes no new work", "it is not shutting down");
    let quarantine = of.quarantined.map_or("it did not fail lately".to_owned(), |until| {
        format!("it failed lately and is left out for {} s more", seconds(until))
    });
    let audits = of.distrusted.map_or("it may audit others".to_owned(), |until| {
        format!("it is asked for no audits for {} s more: it gave none, or was contradicted", seconds(until))
    });
    vec![
        gate("link", connected, link, None),
        gate("draining", !of.is_draining, draining, None),
        gate("quarantine", of.quarantined.is_none(), quarantine, until(of.quarantined)),
        gate("audits", of.distrusted.is_none(), audits, until(of.distrusted)),
    ]
}

fn variant(of: &NodeDecisions, serving: &Serving) -> Value {
    let Serving { slots, rate, usual, standing, decisions } = serving;
    let free = if of.is_draining { 0 } else { slots.free };
    let message = match (free, slots.in_flight) {
        (0, in_flight) => format!("no slot is free, {in_flight} tasks in flight"),
        (free, in_flight) => format!("{free} slots are free, {in_flight} tasks in flight"),
    };
    let figures = [("free", free), ("in_flight", slots.in_flight), ("granted", slots.granted)];
    let slot = Gate { gate: "slot", passed: free > 0, message, node: None, figures: figures.into() };
    let (token, others) = (rate.token_nanos(), usual.token_nanos());
    let message = match rate.is_measured() {
        true => format!("{} us for a token, {} us are usual", token / 1_000, others / 1_000),
        false => "it was not measured lately: it is tried by one task in ten at most".to_owned(),
    };
    let figures = [
        ("prompt_token_ns", rate.prompt_nanos()),
        ("token_ns", token),
        ("usual_token_ns", others),
        ("round_trip_us", rate.round_trip().0),
        ("class", slots.class.into()),
    ];
    let measured = Gate { gate: "measured", passed: rate.is_measured(), message, node: None, figures: figures.into() };
    let message = format!("{decisions} times a node was chosen for this variant");
    let demand = Gate {
        gate: "demand",
        passed: *decisions > 0,
        message,
        node: None,
        figures: [("decisions", *decisions)].into(),
    };
    json!({
        "variant": slots.variant.to_string(),
        "gates": [slot, measured, demand],
        "clean_audits": standing.clean,
        "failed_audits": standing.failed,
        "receipts": standing.tasks,
        "is_suspect": standing.suspect,
    })
}

fn tally(now: Timestamp, of: &Tally) -> Value {
    let closed =
        of.closed.iter().map(|(name, (count, last))| json!({ "gate": name, "count": count, "last": last.to_string() }));
    let ago = |at: Timestamp| -> Micros { now.since(at) };
    json!({
        "count": of.decisions,
        "chosen": of.chosen,
        "chosen_us_ago": of.chosen_at.map(|at| ago(at).0),
        "outdone": of.outdone,
        "closed": closed.collect::<Vec<_>>(),
    })
}
