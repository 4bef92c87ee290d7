//! Five operators audit each other.

use crate::http::chat;
use crate::process::{Gateway, Node, eventually, run};
use serde_json::Value;
use std::collections::BTreeMap;

#[test]
fn with_five_operators_another_ones_node_audits() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let nodes: Vec<Node> =
        (0..5).map(|number| Node::join(&gateway.ticket, &folder.path().join(number.to_string()))).collect();
    gateway.wait_for_nodes(5);
    // It says what honest answers look like; without that nobody audits.
    let _referee = Node::referee(&gateway);
    let operators: BTreeMap<&str, &str> = nodes.iter().map(|n| (n.id.as_str(), n.operator.as_str())).collect();
    assert_eq!(operators.values().collect::<std::collections::BTreeSet<_>>().len(), 5);
    let tasks: Vec<String> = (0..4)
        .map(|number| gateway.api().chat(&chat(&format!("question {number}"), 16, number)).good())
        .map(|answer| answer["openledger"]["receipt"].as_str().unwrap().to_owned())
        .collect();
    let mut drawn = Vec::new();
    for task in tasks {
        // A node's first tasks are all audited.
        let document = gateway.api().receipt_when(&task, |receipt| receipt["audits"][0].is_object());
        let (receipt, audit) = (&document["receipt"], &document["receipt"]["audits"][0]);
        assert_eq!(audit["level"], "cross-audit");
        let prover = receipt["attempts"][0]["commitment"]["operator"].as_str().unwrap();
        let (auditor, operator) = (audit["auditor"].as_str().unwrap(), audit["operator"].as_str().unwrap());
        assert_eq!(operators[auditor], operator);
        assert_ne!(operator, prover);
        let trust = &document["trust"];
        assert_eq!((&trust["evidence"], &trust["assurance"]), (&"passed".into(), &"seeded".into()), "{trust}");
        assert_eq!(trust["history"][1]["level"], "cross-audit");
        assert!(trust["value"].as_f64() > trust["history"][0]["value"].as_f64(), "{trust}");
        let epoch = receipt["attempts"][0]["commitment"]["epoch"].as_u64().unwrap();
        drawn.push((task, epoch));
    }
    assert_eq!(gateway.metric("audits_failed_total"), 0);
    assert_eq!(gateway.metric("audits_escalated_total"), 0);

    // Anyone draws again, once the secret is revealed.
    let log = format!("http://{}/log", gateway.address);
    for (task, epoch) in drawn {
        eventually("its epoch's close and the end of its audits", || {
            let out = run(&["verify", "--log", &log, "--draws", &epoch.to_string()]).out;
            (out.contains(&format!("drawn   {task} attempt 0 ")) && out.contains("all of their audits ended"))
                .then_some(())
        });
    }
}

// Five operators, of whose nodes one audits as it is told: what receipts say of audits until one of its verdicts was contradicted and of eight more, and the id of that node.
fn with_a_false_auditor(how: &str) -> (String, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let of = |number: u32| folder.path().join(number.to_string());
    let auditor = Node::with(&gateway.ticket, &of(0), &["--slots", "2", "--threads", "1", "--audits", how]);
    let _honest: Vec<Node> = (1..5).map(|number| Node::join(&gateway.ticket, &of(number))).collect();
    gateway.wait_for_nodes(5);
    let _referee = Node::referee(&gateway);
    let mut tasks: Vec<String> = Vec::new();
    let is_final = |audit: &Value| audit["ruling"] == "passed" || audit["ruling"] == "failed";
    let has_ended = |receipt: &Value| {
        // Or its epoch is over, and it was not drawn: a node that answered thirty is audited now and then only.
        receipt["audits"].as_array().unwrap().iter().any(is_final) || receipt["attempts"][0]["log"].is_object()
    };
    let mut ask = || {
        let number = tasks.len() as u64;
        let answer = gateway.api().chat(&chat(&format!("question {number}"), 40, number)).good();
        let task = answer["openledger"]["receipt"].as_str().unwrap().to_owned();
        gateway.api().receipt_when(&task, has_ended);
        // Its epoch may be over before its audit is: the false auditor would be given the next one's before its first word is contradicted.
        eventually("the end of its audit", || (gateway.metric("audits_open") == 0).then_some(()));
        tasks.push(task);
    };
    eventually("a false verdict", || {
        ask();
        (gateway.metric("verdicts_false_total") > 0).then_some(())
    });
    // It is not asked again: the others audit each other and it.
    (0..8).for_each(|_| ask());
    eventually("the end of all audits", || (gateway.metric("audits_open") == 0).then_some(()));
    let of = |task: &String| gateway.api().get(&format!("/v1/receipts/{task}")).good()["receipt"]["audits"].take();
    let audits = tasks.iter().flat_map(|task| of(task).as_array().unwrap().clone()).collect();
    assert_eq!((gateway.metric("audits_failed_total"), gateway.metric("audits_escalated_total")), (0, 1));
    gateway.fsck();
    (auditor.id, audits)
}

// Level and ruling of each audit of that node's, or of the referee's.
fn said<'a>(audits: &'a [Value], by: impl Fn(&Value) -> bool) -> Vec<(&'a str, &'a str)> {
    let of = |audit: &'a Value| (audit["level"].as_str().unwrap(), audit["ruling"].as_str().unwrap());
    audits.iter().filter(|audit| by(audit)).map(of).collect()
}

#[test]
fn an_auditor_that_computes_nothing_is_doubted_and_clears_nobody() {
    let (auditor, audits) = with_a_false_auditor("lazy");
    // Its log-probabilities are not the prover's, so that the referee looks, whose word is in the log.
    assert_eq!(said(&audits, |audit| audit["auditor"] == auditor.as_str()), []);
    let by_referee = said(&audits, |audit| audit["level"] == "referee");
    assert_eq!(by_referee, [("referee", "passed")], "{audits:?}");
}

#[test]
fn an_auditor_that_blames_everybody_is_contradicted_and_nobody_is_punished() {
    let (auditor, audits) = with_a_false_auditor("lying");
    let accusations = said(&audits, |audit| audit["auditor"] == auditor.as_str());
    assert_eq!(accusations, [("cross-audit", "accused")], "{audits:?}");
    assert_eq!(said(&audits, |audit| audit["level"] == "referee"), [("referee", "passed")]);
}
