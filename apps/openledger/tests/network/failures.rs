//! Nodes and gateways that die in the middle of their work.

use crate::http::{Api, Stream, chat, counted};
use crate::process::{Gateway, Node, eventually, run};
use crate::proxy::Proxy;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

// Pieces of an answer after which its node is lost, and tokens that it has at least.
const EARLY: usize = 20;
const LONG: u64 = 800;

// A request with a long answer: texts of random models end by chance.
pub(crate) fn long(api: &Api) -> (Value, Value) {
    let found = (0..200).find_map(|seed| {
        let body = chat("tell me everything", 1_500, seed);
        let answer = api.chat(&body).good();
        (answer["usage"]["completion_tokens"].as_u64().unwrap() >= LONG).then_some((body, answer))
    });
    found.unwrap()
}

fn amounts(receipt: &Value, name: &str) -> Vec<u64> {
    receipt["attempts"].as_array().unwrap().iter().map(|a| a["charge"][name].as_u64().unwrap()).collect()
}

pub(crate) fn verified(gateway: &Gateway, document: &Value) {
    let path = gateway.folder.with_extension("receipt.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let ended = run(&["verify", path.to_str().unwrap()]);
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
}

// Begins the stream until it was interrupted in its midst: a fast node may be through with it before.
pub(crate) fn interrupted(begin: impl Fn() -> Stream, mut interrupt: impl FnMut(&str), whole: &Value) -> Stream {
    let mut stream = begin();
    stream.until(EARLY);
    interrupt(&stream.node());
    let text = stream.finish();
    assert_eq!(whole["choices"][0]["message"]["content"], text, "another text than of an undisturbed run");
    assert_eq!(counted(stream.last("usage")), counted(whole["usage"].clone()));
    assert_eq!(stream.last("openledger")["attempts"], 2, "it was through before it was interrupted");
    stream
}

#[test]
fn a_stream_goes_on_elsewhere_when_its_node_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let mut nodes: Vec<(Node, std::path::PathBuf)> = ["first", "second"]
        .map(|name| folder.path().join(name))
        .map(|path| (Node::join(&gateway.ticket, &path), path))
        .into();
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    let (body, whole) = long(&api);

    let mut killed = String::new();
    let kill = |id: &str| {
        killed = id.to_owned();
        nodes.iter_mut().find(|(node, _)| node.id == id).unwrap().0.process.kill();
    };
    let stream = interrupted(|| api.stream(&body), kill, &whole);
    // What the dead node made was not signed by anybody: the tenant is charged for the rest.
    let document = api.receipt(&stream.task());
    let receipt = &document["receipt"];
    let resumed = receipt["attempts"][0]["commitment"]["resumed_from"].as_u64().unwrap();
    let total = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(0 < resumed && resumed < total);
    assert_eq!(amounts(receipt, "output_tokens"), [total - resumed]);
    assert_eq!(amounts(receipt, "prompt_tokens"), [whole["usage"]["prompt_tokens"].as_u64().unwrap()]);
    verified(&gateway, &document);

    // The dead node comes back as who it was, and works again.
    let path = nodes.iter().find(|(node, _)| node.id == killed).unwrap().1.clone();
    assert_eq!(Node::join(&gateway.ticket, &path).id, killed);
}

#[test]
fn both_nodes_of_a_stream_are_paid_for_their_part_and_the_tenant_pays_each_token_once() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let (target, rest) = gateway.ticket.trim_start_matches("ol1:").split_once('/').unwrap();
    let proxies = [Proxy::to(target.to_owned()), Proxy::to(target.to_owned())];
    let nodes: Vec<Node> = proxies
        .iter()
        .zip(["first", "second"])
        .map(|(proxy, name)| Node::join(&format!("ol1:{}/{rest}", proxy.address), &folder.path().join(name)))
        .collect();
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    let (body, whole) = long(&api);
    let cut = |id: &str| proxies[nodes.iter().position(|node| node.id == id).unwrap()].cut();
    let stream = interrupted(|| api.stream(&body), cut, &whole);

    // The node whose link broke comes back and hands in what it had.
    let document = api.receipt_when(&stream.task(), |receipt| receipt["attempts"].as_array().unwrap().len() == 2);
    let receipt = &document["receipt"];
    let (total, prompt) =
        (whole["usage"]["completion_tokens"].as_u64().unwrap(), whole["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!(amounts(receipt, "output_tokens").iter().sum::<u64>(), total);
    assert_eq!(amounts(receipt, "prompt_tokens").iter().sum::<u64>(), prompt);
    assert_eq!(amounts(receipt, "amount_micro_credits").iter().sum::<u64>(), prompt * 2 + total * 8);
    let attempts: BTreeSet<u64> =
        (0..2).map(|n| receipt["attempts"][n]["commitment"]["attempt"].as_u64().unwrap()).collect();
    assert_eq!(attempts, BTreeSet::from([0, 1]));
    // It made more than was delivered, and proved that it began with what was.
    assert_eq!(gateway.metric("frames_wrong_total"), 0);
    verified(&gateway, &document);
    gateway.wait_for_nodes(2);
}

#[test]
fn a_node_that_stands_still_is_overtaken_and_the_tenant_pays_each_token_once() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let nodes = ["first", "second"].map(|name| Node::join(&gateway.ticket, &folder.path().join(name)));
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    let (body, whole) = long(&api);
    // Nobody is overtaken by a node that was never measured.
    (0..20).for_each(|seed| drop(api.chat(&chat("a few words", 8, seed)).good()));
    // Raced; or failed over with its link, where the other's measure has aged meanwhile.
    let taken = || gateway.metric("attempts_raced_total") + gateway.metric("attempts_failed_over_total");
    let before = taken();
    let pid = |id: &str| nodes.iter().find(|node| node.id == id).unwrap().process.id();
    let mut stopped = 0;
    let stop = |id: &str| {
        stopped = pid(id);
        signal("-STOP", stopped);
    };
    let stream = interrupted(|| api.stream(&body), stop, &whole);
    // Awake again it hears that it is not needed, and hands in what it had.
    signal("-CONT", stopped);
    eventually("another attempt instead of the one that stood still", || (taken() > before).then_some(()));
    let document = api.receipt_when(&stream.task(), |receipt| receipt["attempts"].as_array().unwrap().len() == 2);
    let receipt = &document["receipt"];
    let (total, prompt) = (whole["usage"]["completion_tokens"].as_u64(), whole["usage"]["prompt_tokens"].as_u64());
    assert_eq!(Some(amounts(receipt, "output_tokens").iter().sum::<u64>()), total);
    assert_eq!(Some(amounts(receipt, "prompt_tokens").iter().sum::<u64>()), prompt);
    verified(&gateway, &document);
}

#[test]
fn a_node_that_is_asked_beside_a_late_one_and_loses_is_paid_for_what_it_read() {
    let folder = tempfile::tempdir().unwrap();
    // Prompts that cost little, and long epochs: a gateway pays up to half of its share of an epoch.
    let at = ["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0"];
    let settings = [&at[..], &["--epoch-seconds", "8", "--prompt-price", "1000"]].concat();
    let mut gateway = Gateway::with(&folder.path().join("gateway"), &settings);
    let nodes = ["first", "second"].map(|name| Node::join(&gateway.ticket, &folder.path().join(name)));
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    // The first results of a node are all drawn, and settled after their audits: there is nobody to hold any.
    (0..400).for_each(|seed| drop(api.chat(&chat("hello", 1, seed)).good()));
    // Long to read, so that the second is at it still when the first goes on.
    let question = |seed: u64| chat(&format!("{seed} {}", "to be read ".repeat(120)), 400, seed);
    (0..20).for_each(|seed| drop(api.chat(&question(seed)).good()));
    let (raced, borne) = (|| gateway.metric("attempts_raced_total"), || gateway.metric("attempts_borne_total"));
    let mut races = 0;
    for seed in 20..220 {
        let before = raced();
        let mut stream = api.stream(&question(seed));
        stream.until(EARLY);
        let first = nodes.iter().find(|node| node.id == stream.node()).unwrap().process.id();
        signal("-STOP", first);
        let waited = Instant::now();
        while raced() == before && waited.elapsed() < Duration::from_secs(1) {}
        signal("-CONT", first);
        stream.finish();
        races += raced() - before;
        if borne() > 0 || races > 20 {
            break;
        }
    }
    eventually("a second attempt that lost and is paid", || (borne() > 0).then_some(()));
    (0..5).for_each(|seed| drop(api.chat(&question(seed)).good()));
    let open = gateway.metric("epoch");
    eventually("a close of its epoch", || (gateway.metric("epoch") > open).then_some(()));
    assert!(gateway.process.terminate().success(), "{}", gateway.process.err.all());
    gateway.fsck();
    let exported = run(&["ledger", "export", "--data-dir", gateway.folder.to_str().unwrap()]);
    let mut lines = exported.out.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let column = |name: &str| names.iter().position(|found| *found == name).unwrap_or_else(|| panic!("{names:?}"));
    let [tenant, prompt, output, state] = ["tenant", "prompt_tokens", "output_tokens", "state"].map(column);
    let rows: Vec<_> = lines.collect();
    let (own, of_gateway): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row[tenant] == rows[0][tenant]);
    assert!(own.len() > 400 && !of_gateway.is_empty());
    for row in of_gateway {
        assert!((row[prompt] != "0", row[output], row[state]) == (true, "0", "settled"), "{row:?}");
    }
}

pub(crate) fn signal(name: &str, process: u32) {
    let status = std::process::Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_gateway_without_nodes_says_that_it_is_worth_asking_again() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path(), &[]);
    let refused = gateway.api().chat(&chat("is anybody there?", 4, 1));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("unservable")));
}

#[test]
fn a_killed_gateway_goes_on_where_it_was_and_loses_no_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let nodes: Vec<Node> =
        ["first", "second"].iter().map(|name| Node::join(&gateway.ticket, &folder.path().join(name))).collect();
    gateway.wait_for_nodes(2);
    let stop = AtomicBool::new(false);
    let answered: Vec<(String, String)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (api, stop) = (gateway.api(), &stop);
                scope.spawn(move || {
                    let mut answered = Vec::new();
                    for number in 0.. {
                        let body = chat(&format!("{client} {number}"), 32, number).to_string();
                        let sent = api.try_send("POST", "/v1/chat/completions", body.as_bytes());
                        let Ok(response) = sent.map_err(|_| stop.load(Ordering::Relaxed)) else { break };
                        // A body that was cut off is no answer.
                        let Ok(answer) = serde_json::from_slice::<Value>(&response.body) else { break };
                        if let Some(task) = answer["openledger"]["receipt"].as_str() {
                            answered.push((task.to_owned(), answer["openledger"]["charge_micro_credits"].to_string()));
                        }
                    }
                    answered
                })
            })
            .collect();
        eventually("some receipts and some more answers", || {
            (gateway.metric("receipts_logged_total") > 20 && gateway.metric("tasks_finished_total") > 60).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        gateway.process.kill();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(answered.len() > 60);

    gateway.again();
    gateway.wait_for_nodes(2);
    let ids: BTreeSet<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    for (task, charge) in &answered {
        let document = eventually(&format!("the receipt of {task}"), || {
            let response = gateway.api().get(&format!("/v1/receipts/{task}"));
            (response.status == 200 && response.json()["status"] == "ready").then(|| response.json())
        });
        let attempts = document["receipt"]["attempts"].as_array().unwrap();
        let (mut charged, told) = (0, charge.parse::<u64>().unwrap());
        for attempt in attempts {
            assert!(
                ids.contains(attempt["commitment"]["node"].as_str().unwrap()) && attempt["certificate"].is_string()
            );
            charged += attempt["charge"]["amount_micro_credits"].as_u64().unwrap();
        }
        // What a killed gateway had relayed of an attempt that another overtook, nobody can say: it is not charged.
        assert!(charged == told || (attempts.len() > 1 && charged < told), "{charged} {document}");
        assert!(document["receipt"]["salt"].is_string());
    }
    verified(&gateway, &gateway.api().receipt(&answered.last().unwrap().0));
    gateway.api().chat(&chat("are you there?", 8, 1)).good();
    assert!(gateway.process.terminate().success(), "{}", gateway.process.err.all());
    gateway.fsck();
}
