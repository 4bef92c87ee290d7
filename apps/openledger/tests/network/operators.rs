//! Five operators audit each other.

use crate::http::chat;
use crate::process::{Gateway, Node, eventually, run};
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
