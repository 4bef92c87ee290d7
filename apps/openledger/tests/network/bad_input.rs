//! What people and clients get wrong: each has an error that says what to do, and nobody else is affected.

use crate::http::chat;
use crate::process::{Ended, Gateway, Node, eventually, run};
use crate::up::{args, up};
use serde_json::{Value, json};
use std::path::Path;

fn node(ticket: &str, folder: &Path, more: &[&str]) -> Ended {
    let fixed = ["node", "--join", ticket, "--data-dir", folder.to_str().unwrap()];
    run(&[&fixed[..], more].concat())
}

const TINY: [&str; 4] = ["--model", "tiny", "--embedding-model", "tiny"];

// The complaint holds every one of the words.
fn complains(what: &str, ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(ended.complaint().contains(word), "{what}: nothing about {word:?} in {}", ended.err);
    }
}

#[test]
fn a_ticket_that_is_none_or_of_another_network_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let path = folder.path().join("node");
    let [address, key, network] = gateway.ticket.split('/').collect::<Vec<_>>()[..] else { panic!() };
    let zeros = "0".repeat(64);
    for bad in ["", "ol1:", "ol2:127.0.0.1:1/ab/cd", "127.0.0.1:8081", &gateway.ticket[..80]] {
        complains(bad, &node(bad, &path, &TINY), &["not a ticket", "ol1:HOST:PORT/GATEWAY/NETWORK"]);
    }
    let other_network = format!("{address}/{key}/{zeros}");
    complains("network", &node(&other_network, &path, &TINY), &["ask for a new ticket", network]);
    assert_eq!(gateway.metric("nodes_connected"), 0);
}

#[test]
fn a_gateway_that_asks_for_a_word_takes_no_node_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &["--join-token", "sesame"]);
    let path = folder.path().join("node");
    complains("no token", &node(&gateway.ticket, &path, &TINY), &["--join-token"]);
    let wrong = [&TINY[..], &["--join-token", "open"]].concat();
    complains("another token", &node(&gateway.ticket, &path, &wrong), &["--join-token"]);
    let right = [&TINY[..], &["--join-token", "sesame"]].concat();
    let _node = Node::with(&gateway.ticket, &path, &right[4..]);
    gateway.wait_for_nodes(1);
}

#[test]
fn a_model_file_that_is_none_is_named_with_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let path = folder.path().join("node");
    let file = folder.path().join("weights.gguf");
    let name = file.to_str().unwrap().to_owned();
    let start = || node(&gateway.ticket, &path, &["--model", &name, "--embedding-model", "tiny"]);
    complains("no file", &start(), &[&name, "No such file"]);
    std::fs::write(&file, b"hello").unwrap();
    complains("no GGUF", &start(), &[&name]);
    std::fs::write(&file, [b"GGUF\x03\0\0\0", &[0xff; 100][..]].concat()).unwrap();
    complains("absurd counts", &start(), &[&name]);
    let no_vectors = node(&gateway.ticket, &path, &["--model", "tiny", "--embedding-model", &name]);
    complains("no folder", &no_vectors, &[&name]);
}

#[test]
fn a_port_in_use_and_a_folder_in_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let taken = gateway.address.to_string();
    let other = folder.path().join("other");
    let arguments = |folder: &Path, listen: &str, node_listen: &str| {
        let folder = folder.to_str().unwrap();
        run(&["gateway", "--data-dir", folder, "--listen", listen, "--node-listen", node_listen])
    };
    complains("HTTP port", &arguments(&other, &taken, "127.0.0.1:0"), &[&taken, "in use"]);
    complains("port for nodes", &arguments(&other, "127.0.0.1:0", &taken), &[&taken, "in use"]);
    let same = arguments(&gateway.folder, "127.0.0.1:0", "127.0.0.1:0");
    complains("folder", &same, &["in use", gateway.folder.to_str().unwrap()]);
    assert_eq!(gateway.api().get("/v1/models").status, 200);
}

#[test]
fn a_folder_with_the_log_of_another_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    for path in [&first, &second] {
        assert!(Gateway::start(path, &[]).process.terminate().success());
    }
    for name in ["gateway.db", "gateway.db-wal", "gateway.db-shm"] {
        let file = |path: &Path| path.join("network").join(name);
        std::fs::copy(file(&first), file(&second)).unwrap();
    }
    let ended = run(&["gateway", "--data-dir", second.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    complains("another network's log", &ended, &["belongs to gateway", "gateway.db"]);
}

#[test]
fn settings_that_are_none_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let with = |more: &[&'static str]| run(&args(&up(folder.path(), more)));
    complains("flag", &with(&["--sluts", "2"]), &["--sluts", "--slots"]);
    complains("value", &with(&["--slots", "none"]), &["--slots", "none"]);
    complains("cheat", &with(&["--cheat", "lie"]), &["truncate"]);
    complains("open", &run(&["gateway", "--listen", "0.0.0.0:0"]), &["--allow-plain-http"]);
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "slots = 2\njoin_tokn = \"secret word\"\n").unwrap();
    let ended = run(&["gateway", "--config", file.to_str().unwrap()]);
    complains("file", &ended, &["settings.toml:2", "join_tokn"]);
    assert!(!ended.err.contains("secret word"), "{}", ended.err);
}

#[test]
fn requests_that_cannot_be_served_are_refused_and_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let good = || api.chat(&chat("hello", 4, 1)).good();
    good();
    let with = |name: &str, value: Value| {
        let mut body = chat("hello", 4, 1);
        body[name] = value;
        body
    };
    let long = with("messages", json!([{"role": "user", "content": "word ".repeat(20_000)}]));
    for (what, body, status, word) in [
        ("unknown model", with("model", json!("gpt-x")), 404, "gpt-x"),
        ("wrong type", with("temperature", json!("warm")), 400, "temperature"),
        ("unknown field", with("tools", json!([{}])), 400, "tools"),
        ("more tokens than the context", long, 400, "context"),
        ("more output than the context", with("max_tokens", json!(1_000_000)), 400, "max_tokens"),
        (
            "too many messages",
            with("messages", json!(vec![json!({"role": "user", "content": "a"}); 5_000])),
            400,
            "messages",
        ),
        ("price", with("max_price", json!(1)), 400, "max_price"),
    ] {
        let refused = api.chat(&body);
        assert_eq!(refused.status, status, "{what}: {}", refused.text());
        let error = &refused.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(word), "{what}: {error}");
        good();
    }
    // At the edge of what is allowed, and served: a slot that such a request cost would be gone for good.
    for _ in 0..5 {
        api.chat(&with("top_p", json!(0.0))).good();
    }
    let malformed = api.try_send("POST", "/v1/chat/completions", b"{\"model\": ").unwrap();
    assert_eq!(malformed.status, 400, "{}", malformed.text());
    let stranger = crate::http::Api::new(gateway.address, "ol-nobody");
    assert_eq!(stranger.chat(&chat("hello", 4, 1)).status, 401);
    good();
}

#[test]
fn an_empty_budget_is_told_and_nothing_is_owed() {
    let folder = tempfile::tempdir().unwrap();
    // A million output tokens cost what one long answer of a hundred credits does.
    let dear = ["--output-price", "20000000000000", "--prompt-price", "0"];
    let gateway = Gateway::start(&folder.path().join("gateway"), &dear);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let refused = gateway.api().chat(&chat("hello", 16, 1));
    assert_eq!(refused.status, 429, "{}", refused.text());
    let error = &refused.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("micro-credits"), "{error}");
    // What the budget covers is still served.
    assert_eq!(gateway.api().chat(&chat("hello", 4, 1)).status, 200);
    assert_eq!(gateway.api().chat(&chat("hello", 4, 1)).status, 429);
    gateway.fsck();
}

#[test]
fn a_client_that_leaves_pays_for_what_was_made_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::with(&gateway.ticket, &folder.path().join("node"), &["--slots", "1", "--threads", "1"]);
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let (task, pieces) = (0..100)
        .find_map(|seed| {
            let mut stream = api.stream(&chat("tell me everything", 1_900, seed));
            // Texts of random models end by chance.
            (0..40).all(|_| stream.more()).then(|| (stream.task(), stream.pieces as u64))
        })
        .unwrap();
    // The only slot is free again long before the answer would have ended.
    api.chat(&chat("next", 4, 1)).good();
    let receipt = api.receipt(&task);
    let charged = receipt["receipt"]["attempts"][0]["charge"]["output_tokens"].as_u64().unwrap();
    assert!((pieces..1_900).contains(&charged), "{charged} of at least {pieces}");
    eventually("an empty gateway", || (gateway.metric("tasks_active") == 0).then_some(()));
}

// The attack: more connections than there may be, each with a byte of a request, and streams whose answers nobody reads.
#[test]
fn clients_that_ask_slowly_or_never_read_hold_up_nobody() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    api.chat(&chat("before", 4, 1)).good();
    let unread: Vec<_> = (0..4).map(|seed| api.stream(&chat("tell me everything", 1_900, seed))).collect();
    let silent: Vec<std::net::TcpStream> = (0..800)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(gateway.address).unwrap();
            // One that made room for another is closed already.
            drop(socket.write_all(b"P"));
            socket
        })
        .collect();
    for seed in 0..8 {
        api.chat(&chat("and now?", 4, seed)).good();
    }
    // Who asks is not sent away: its answer goes on.
    for mut stream in unread {
        stream.finish();
    }
    drop(silent);
}
