//! Where the referee is away, three of other operators decide.

use crate::http::chat;
use crate::process::{Gateway, Node, eventually, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

// Four operators whose nodes have done clean work; then the referee leaves, and a fifth comes.
fn without_referee(folder: &Path, fifth: &[&str]) -> (Gateway, Vec<Node>, Node) {
    let gateway = Gateway::start(&folder.join("gateway"), &[]);
    let of = |number: u32| folder.join(number.to_string());
    let nodes: Vec<Node> = (1..5).map(|number| Node::join(&gateway.ticket, &of(number))).collect();
    gateway.wait_for_nodes(4);
    let referee = Node::referee(&gateway);
    let (mut clean, mut seed) = (BTreeSet::new(), 0);
    eventually("a clean audit of each node", || {
        seed += 1;
        let answer = gateway.api().chat(&chat(&format!("question {seed}"), 12, seed)).good();
        let task = answer["openledger"]["receipt"].as_str().unwrap();
        let document = gateway.api().receipt_when(task, |receipt| receipt["audits"][0].is_object());
        assert_eq!(document["receipt"]["audits"][0]["ruling"], "passed");
        clean.insert(answer["openledger"]["node"].as_str().unwrap().to_owned());
        (clean.len() == 4).then_some(())
    });
    // They count from their epoch's close on.
    let epoch = gateway.metric("epoch");
    eventually("two closes", || (gateway.metric("epoch") > epoch + 1).then_some(()));
    drop(referee);
    eventually("the referee's end", || (gateway.metric("nodes_connected") == 4).then_some(()));
    let more = [&["--slots", "2", "--threads", "1"], fifth].concat();
    let fifth = Node::with(&gateway.ticket, &of(5), &more);
    gateway.wait_for_nodes(5);
    (gateway, nodes, fifth)
}

// The document of an answer that a panel decided about in this way.
fn decided(gateway: &Gateway, ruling: &str) -> Value {
    let mut seed = 1_000;
    let of = |task: &String| gateway.api().get(&format!("/v1/receipts/{task}")).good();
    let mut tasks = Vec::new();
    eventually("a panel", || {
        let ask = |seed: u64| {
            let mut body = chat(&format!("question {seed}"), 12, seed);
            body["openledger"] = json!({ "public": true });
            gateway.api().chat(&body).good()["openledger"]["receipt"].as_str().unwrap().to_owned()
        };
        // At once, so that each node gets some: an auditor is drawn by its own work's clean audits.
        seed += 10;
        tasks.extend(std::thread::scope(|scope| {
            let asked: Vec<_> = (seed..seed + 10).map(|seed| scope.spawn(move || ask(seed))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<String>>()
        }));
        gateway.api().receipt_when(tasks.last().unwrap(), |receipt| receipt["attempts"][0]["log"].is_object());
        let is_it =
            if ruling == "passed" { gateway.metric("panels_total") } else { gateway.metric("audits_failed_total") };
        (is_it > 0).then_some(())
    });
    let is_it = |audit: &Value| audit["level"] == "panel" && audit["ruling"] == ruling && audit["log"].is_object();
    let has_it = |document: &Value| document["receipt"]["audits"].as_array().unwrap().iter().any(is_it);
    eventually("its votes", || tasks.iter().map(of).find(has_it))
}

// Rulings in order; the panel's auditors are three operators who have nothing to do with the answer.
fn rulings(document: &Value) -> Vec<&str> {
    let receipt = &document["receipt"];
    let audits = receipt["audits"].as_array().unwrap();
    let panel: Vec<&Value> = audits.iter().filter(|audit| audit["level"] == "panel").collect();
    let of = |audit: &Value| audit["operator"].as_str().unwrap().to_owned();
    let operators: BTreeSet<String> = panel.iter().map(|audit| of(audit)).collect();
    let prover = receipt["attempts"][0]["commitment"]["operator"].as_str().unwrap();
    assert_eq!(operators.len(), 3, "{audits:?}");
    assert!(!operators.contains(prover) && !operators.contains(&of(&audits[0])), "{audits:?}");
    audits.iter().map(|audit| audit["ruling"].as_str().unwrap()).collect()
}

fn check(gateway: &Gateway, folder: &Path, document: &Value) {
    let log = format!("http://{}/log", gateway.address);
    let file = folder.join("receipt.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let told = run(&["verify", file.to_str().unwrap()]);
    assert!(told.status.success() && told.out.contains("(panel)"), "{}{}", told.out, told.err);
    let told = run(&["verify", "--log", &log]);
    assert!(told.status.success(), "{}{}", told.out, told.err);
    assert!(told.out.contains(" panels of three nodes"), "{}", told.out);
    gateway.fsck();
}

#[test]
fn a_panel_clears_whom_a_lying_auditor_blames() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, _nodes, liar) = without_referee(folder.path(), &["--audits", "lying"]);
    let document = decided(&gateway, "passed");
    assert_eq!(rulings(&document), ["accused", "voted for", "passed", "voted for"]);
    assert_eq!(document["receipt"]["audits"][0]["auditor"], liar.id.as_str());
    assert_eq!(document["trust"]["evidence"], "passed");
    assert_eq!((gateway.metric("audits_failed_total"), gateway.metric("panels_undecided_total")), (0, 0));
    check(&gateway, folder.path(), &document);
}

#[test]
fn a_panel_withholds_a_cheats_pay_and_takes_no_escrow() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, _nodes, cheat) = without_referee(folder.path(), &["--cheat", "small-model"]);
    let document = decided(&gateway, "failed");
    assert_eq!(rulings(&document), ["accused", "voted against", "failed", "voted against"]);
    assert_eq!(document["receipt"]["attempts"][0]["commitment"]["node"], cheat.id.as_str());
    assert_eq!(document["trust"]["evidence"], "failed");
    let epoch = gateway.metric("epoch");
    eventually("two closes", || (gateway.metric("epoch") > epoch + 1).then_some(()));
    assert_eq!((gateway.metric("audits_failed_total") > 0, gateway.metric("nodes_slashed_total")), (true, 0));
    check(&gateway, folder.path(), &document);
}
