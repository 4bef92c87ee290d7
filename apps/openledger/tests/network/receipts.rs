//! `openledger verify`: what holds, what does not, and what is said about it.

use crate::http::chat;
use crate::process::{Ended, Gateway, Node, openledger, run};
use ol_gateway::driver::document::{Outcome, verify};
use serde_json::{Value, json};
use std::path::Path;

// Byte positions of a document that are changed.
const CHANGES: usize = 400;

struct Saved {
    folder: tempfile::TempDir,
    document: Value,
    request: Vec<u8>,
    response: Vec<u8>,
}

// An audited answer, its receipt, and a pending one.
fn saved() -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let nodes: Vec<Node> =
        (0..5).map(|number| Node::join(&gateway.ticket, &folder.path().join(number.to_string()))).collect();
    gateway.wait_for_nodes(nodes.len() as u64);
    let _referee = Node::referee(&gateway);
    let body = chat("what is a receipt?", 16, 3);
    let response = gateway.api().chat(&body);
    let task = response.json()["openledger"]["receipt"].as_str().unwrap().to_owned();
    let settled =
        |receipt: &Value| receipt["attempts"][0]["log"].is_object() && receipt["audits"][0]["log"].is_object();
    let mut document = gateway.api().receipt_when(&task, settled);
    // The receipt binds what was, not how far its gateway trusts it now.
    assert!(document.as_object_mut().unwrap().remove("trust").is_some());
    std::fs::write(folder.path().join("receipt.json"), document.to_string()).unwrap();
    std::fs::write(folder.path().join("request"), body.to_string()).unwrap();
    std::fs::write(folder.path().join("response"), &response.body).unwrap();
    Saved { folder, document, request: body.to_string().into_bytes(), response: response.body }
}

fn check(folder: &Path, receipt: &str, request: &str, response: &str) -> Ended {
    let mut command = openledger(&["verify", receipt, "--request", request, "--response", response]);
    command.current_dir(folder);
    crate::process::finish(command)
}

#[test]
fn a_receipt_with_its_bytes_holds_and_every_changed_byte_is_noticed() {
    let saved = saved();
    let folder = saved.folder.path();
    let good = check(folder, "receipt.json", "request", "response");
    assert!(good.status.success(), "{}{}", good.out, good.err);
    assert!(!good.out.contains("WRONG") && !good.out.contains("open "), "{}", good.out);
    for words in
        ["signed the batch", "countersigned the batch", "in the gateway's log", "certified node", "model \"tiny\""]
    {
        assert!(good.out.contains(words), "nothing about {words}: {}", good.out);
    }

    let other = check(folder, "receipt.json", "response", "response");
    assert!(!other.status.success());
    assert!(
        other.out.contains("WRONG   these are the bytes of the request: the receipt binds other request bytes"),
        "{}",
        other.out
    );
    let other = check(folder, "receipt.json", "request", "request");
    assert!(other.out.contains("WRONG   these are the bytes of the response"), "{}", other.out);
    let missing = check(folder, "receipt.json", "nothing-here", "response");
    assert!(missing.complaint().contains("cannot read nothing-here"), "{}", missing.err);

    let text = saved.document.to_string();
    let positions = (0..text.len()).step_by(text.len() / CHANGES);
    let mut unnoticed = Vec::new();
    for at in positions.filter(|&at| text.is_char_boundary(at) && text.as_bytes()[at].is_ascii()) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = other_byte(bytes[at]);
        // What is no JSON any more is refused before anything is checked.
        let Ok(changed) = serde_json::from_slice::<Value>(&bytes) else { continue };
        let checks = verify(&changed, Some(&saved.request), Some(&saved.response));
        if checks.is_ok_and(|checks| !checks.iter().any(|check| matches!(check.result, Outcome::Fails(_)))) {
            unnoticed.push(text[at.saturating_sub(60)..(at + 20).min(text.len())].to_owned());
        }
    }
    assert_eq!(unnoticed, Vec::<String>::new());
}

// A neighbour of its own kind, so that numbers stay numbers.
const fn other_byte(byte: u8) -> u8 {
    match byte {
        b'9' | b'f' | b'z' => byte - 1,
        b'0'..=b'8' | b'a'..=b'e' | b'g'..=b'y' => byte + 1,
        other => other ^ 1,
    }
}

#[test]
fn what_is_no_receipt_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("receipt.json");
    let said = |content: &str| {
        std::fs::write(&path, content).unwrap();
        run(&["verify", path.to_str().unwrap()]).complaint().to_owned()
    };
    let pending = json!({"id": "0".repeat(32), "object": "receipt", "status": "pending", "receipt": null});
    assert!(said(&pending.to_string()).contains("still pending: fetch it again in a few seconds"));
    assert!(said("nonsense").contains("is not JSON: save the receipt as the API gave it"));
    assert!(said("[]").contains("not a receipt: not a JSON object"));
    assert!(said("{}").contains("it has no version"));
    assert!(said("{\"version\":\"receipt/9\"}").contains("version \"receipt/9\" is unknown here"));
    assert!(said("{\"version\":\"receipt/1\",\"network\":\"x\"}").contains("field network is missing or malformed"));
    assert!(said(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000))).contains("is not JSON"));
    let none = run(&["verify", "/no/such/file"]);
    assert!(none.complaint().contains("cannot read /no/such/file"));
}
