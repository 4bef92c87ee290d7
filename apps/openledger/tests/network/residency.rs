//! Conversations that go on where their earlier turns are held.

use crate::http::Api;
use crate::instructions::{good, key_in, told};
use crate::process::{Gateway, Node};
use serde_json::{Value, json};

fn request(messages: &[Value]) -> Value {
    json!({"model": "tiny", "messages": messages, "max_tokens": 12, "seed": 3, "temperature": 1.0})
}

fn cached(usage: &Value) -> u64 {
    usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

// Asks the next question of a conversation; the answer with its usage.
fn turn(api: &Api, messages: &mut Vec<Value>, question: &str) -> Value {
    messages.push(json!({"role": "user", "content": question}));
    let answer = api.chat(&request(messages)).good();
    messages.push(answer["choices"][0]["message"].clone());
    messages.last_mut().unwrap().as_object_mut().unwrap().remove("refusal");
    answer
}

#[test]
fn a_later_turn_finds_the_earlier_ones_of_its_own_tenant_alone() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let (api, mut messages, mut seen) = (gateway.api(), Vec::new(), 0);
    for question in ["What is a harbour for?", "And in winter?", "Who pays for it?"] {
        let usage = turn(&api, &mut messages, question)["usage"].clone();
        let prompt = usage["prompt_tokens"].as_u64().unwrap();
        // The whole of the turn before was read, but for the last token of its answer.
        assert!(cached(&usage) >= seen && cached(&usage) < prompt, "{usage} after {seen}");
        assert_eq!(cached(&usage) > 0, seen > 0, "{usage}");
        seen = prompt;
    }
    // Asked once more, it is all there but for what the answer begins after; streamed as well.
    let mut stream = api.stream(&request(&messages[..5]));
    stream.finish();
    let usage = stream.last("usage");
    assert_eq!(cached(&usage), usage["prompt_tokens"].as_u64().unwrap() - 1);

    // The attack: another tenant asks what it believes somebody else has asked, and looks at how fast it is answered.
    let mallory = key_in(&good(told(&gateway, &gateway.folder, &["tenant", "add", "mallory"])));
    good(told(&gateway, &gateway.folder, &["issue", "top-up", "--tenant", "mallory", "--credits", "1"]));
    let mallory = Api::new(gateway.address, &mallory);
    assert_eq!(cached(&mallory.chat(&request(&messages[..5])).good()["usage"]), 0);
    gateway.fsck();
}

#[test]
fn a_conversation_whose_node_was_killed_goes_on_elsewhere_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let mut first = Node::join(&gateway.ticket, &folder.path().join("first"));
    gateway.wait_for_nodes(1);
    let (api, mut messages) = (gateway.api(), Vec::new());
    turn(&api, &mut messages, "What is a harbour for?");
    assert!(cached(&turn(&api, &mut messages, "And in winter?")["usage"]) > 0);
    first.process.kill();
    gateway.wait_for_nodes(0);
    let again = Node::join(&gateway.ticket, &folder.path().join("first"));
    gateway.wait_for_nodes(1);
    let answer = turn(&api, &mut messages, "Who pays for it?");
    assert_eq!((cached(&answer["usage"]), &answer["openledger"]["node"]), (0, &json!(again.id)));
}
