//! Answers that are kept back until their audits passed.

use crate::http::chat;
use crate::process::{Gateway, Node, eventually, run};
use crate::up::Up;
use serde_json::{Value, json};

// A node with one clean audit is trusted less, and more once the answer's own audit passed.
const FLOOR: f64 = 0.994;

fn asking(seed: u64, stream: bool) -> Value {
    // Another conversation each time: the same one would go to the node that has it.
    let mut body = chat(&format!("Tell me about port {seed}."), 12, seed);
    body["openledger"] = json!({"min_trust": FLOOR});
    body["stream"] = stream.into();
    body
}

#[test]
fn nobody_is_given_a_cheats_answer_who_asks_for_one_that_can_be_trusted() {
    let folder = tempfile::tempdir().unwrap();
    // Honest in the answer that the start asks for: who failed once is not asked again where trust is.
    let network = Up::start(folder.path(), &["--cheat", "wrong-seed", "--cheat-after", "1"]);
    let (mut given, mut refused, mut seed) = (Vec::new(), Vec::new(), 0);
    eventually("an answer that was given, and one that was not", || {
        seed += 1;
        let body = asking(seed, seed.is_multiple_of(2));
        let answer = network.api.chat(&body);
        match answer.status {
            200 => given.push((body, answer)),
            _ => refused.push(answer.json()),
        }
        (!given.is_empty() && !refused.is_empty()).then_some(())
    });
    for refusal in refused {
        assert_eq!(refusal["error"]["code"], "unconfirmed", "{refusal}");
    }
    let mut waited = 0;
    for (body, answer) in &given {
        // The same field in a whole answer and in a stream's last piece.
        let text = answer.text();
        let task = text.split("\"receipt\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let is_paid = |document: &Value| document["receipt"]["attempts"][0]["charge"]["with_audit"] == json!(true);
        let mut document = network.api.receipt(task);
        // Who is trusted so far already is not audited for it.
        if is_paid(&document) {
            waited += 1;
            document = network.api.receipt_when(task, |receipt| receipt["audits"][0]["log"].is_object());
            assert_eq!(document["receipt"]["audits"][0]["ruling"], "passed", "{document}");
            // As it was when it was given: its node may have failed since.
            assert!(document["trust"]["history"][0]["value"].as_f64().unwrap() >= FLOOR, "{document}");
        }
        let at = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let receipt = at("receipt.json", document.to_string().as_bytes());
        let (request, response) = (at("request", body.to_string().as_bytes()), at("response", &answer.body));
        let ended = run(&["verify", &receipt, "--request", &request, "--response", &response]);
        assert!(ended.status.success() && !ended.out.contains("WRONG"), "{}{}", ended.out, ended.err);
    }
    assert!(waited > 0, "all of {} went out at once", given.len());
}

#[test]
fn without_a_referee_an_answer_that_has_to_be_trusted_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let refusal = gateway.api().chat(&asking(1, false));
    assert_eq!((refusal.status, &refusal.json()["error"]["code"]), (503, &json!("unservable")));
    let why = refusal.json()["openledger"]["why"][0].as_str().unwrap().to_owned();
    assert!(why.contains("start the referee"), "{why}");
}
