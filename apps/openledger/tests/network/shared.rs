//! One node on the gateways of two owners, who share nothing else: each its own network, log and tenants.

use crate::http::{Api, Demand, chat};
use crate::process::{Gateway, Node, eventually, finish, run};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

// Of text and of vectors, each.
const SLOTS: u64 = 4;

fn shared(gateways: [&Gateway; 2], folder: &Path, more: &[&str]) -> Node {
    let [first, second] = gateways.map(|gateway| gateway.ticket.as_str());
    let args = ["--join", second, "--slots", "4", "--threads", "1"];
    Node::of(Node::command(&[], first, folder, &[&args[..], more].concat()))
}

// Clients that ask one after the other until they are stopped.
fn demand<'s>(scope: &'s std::thread::Scope<'s, '_>, api: Api, stop: &'s AtomicBool) {
    for client in 0..6 {
        let api = api.clone();
        scope.spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let body = chat(&format!("{client} {number}"), 200, number).to_string();
                // A gateway that is killed answers nobody.
                if api.try_send("POST", "/v1/chat/completions", body.as_bytes()).is_err() {
                    break;
                }
            }
        });
    }
}

fn wait_for_slots(what: &str, gateway: &Gateway, slots: u64) {
    eventually(what, || (gateway.metric("slots") == slots).then_some(()));
}

fn asked(gateway: &Gateway, node: &Node) -> String {
    let answer = gateway.api().chat(&chat("who serves me?", 8, 1)).good();
    assert_eq!(answer["openledger"]["node"], node.id.as_str());
    answer["openledger"]["receipt"].as_str().unwrap().to_owned()
}

#[test]
fn a_node_divides_its_slots_among_two_owners_gateways_by_what_they_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let first = Gateway::start(&path("first"), &[]);
    let mut second = Gateway::start(&path("second"), &[]);
    let mut node = shared([&first, &second], &path("node"), &[]);
    first.wait_for_nodes(1);
    second.wait_for_nodes(1);
    // Nobody asks for anything: half of both kinds each.
    wait_for_slots("half of all", &first, SLOTS);
    wait_for_slots("half of all", &second, SLOTS);

    // Each has the node's signed work in its own log, which its own tenants paid.
    for gateway in [&first, &second] {
        let receipt = gateway.api().receipt(&asked(gateway, &node))["receipt"].take();
        assert_eq!(receipt["attempts"][0]["commitment"]["node"], node.id.as_str());
        assert_eq!(receipt["attempts"][0]["commitment"]["operator"], node.operator.as_str());
    }

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _demand = Demand(&stop);
        demand(scope, first.api(), &stop);
        // All of the text's but one, which the other can use at once.
        wait_for_slots("all but one", &first, SLOTS / 2 + SLOTS - 1);
        wait_for_slots("one", &second, SLOTS / 2 + 1);
        asked(&second, &node);

        // One goes away without a word: its slots are the other's.
        second.process.kill();
        wait_for_slots("all slots", &first, 2 * SLOTS);
        // It is back, and gets its share at once, though the other has work for more than all.
        second.again();
        second.wait_for_nodes(1);
        asked(&second, &node);
        let both = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _demand = Demand(&both);
            demand(scope, second.api(), &both);
            eventually("half of the text's slots each", || {
                let held = [&first, &second].map(|gateway| gateway.metric("slots"));
                (held == [SLOTS, SLOTS]).then_some(())
            });
        });
    });
    for gateway in [&first, &second] {
        let refused = gateway.metric("links_misbehaved_total") + gateway.metric("frames_wrong_total");
        assert_eq!(refused, 0, "{}", node.process.err.all());
    }
    assert!(node.process.terminate().success(), "{}", node.process.err.all());
    for mut gateway in [first, second] {
        assert!(gateway.process.terminate().success());
        gateway.fsck();
    }
}

// A new tenant of a gateway's owner, to whom the issuer sells credits: what it asks with.
fn funded(gateway: &Gateway, issuer: &Path) -> Api {
    let told = |folder: &Path, args: &[&str]| {
        let to = format!("http://{}", gateway.address);
        let ended = run(&[args, &["--to", &to, "--data-dir", folder.to_str().unwrap()]].concat());
        assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        ended.out
    };
    let out = told(&gateway.folder, &["tenant", "add", "alice"]);
    let key = out.lines().find_map(|line| line.strip_prefix("API key")).unwrap().trim().to_owned();
    let owner = gateway.api().get("/v1/network").json()["owner"].as_str().unwrap().to_owned();
    told(issuer, &["issue", "top-up", "--tenant", "alice", "--credits", "1", "--owner", &owner]);
    Api::new(gateway.address, &key)
}

#[test]
fn two_owners_share_a_network_its_issuer_its_referee_and_a_node_and_a_client_funded_at_both_asks_either() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let first = Gateway::start(&path("first"), &[]);
    let network = first.ticket.rsplit('/').next().unwrap().to_owned();
    let log = format!("http://{}/log", first.address);
    eventually("the first checkpoint", || (first.api().get("/log/checkpoint").status == 200).then_some(()));
    let join = ["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0", "--network-of", &log, "--network"];
    let astray = ["gateway", "--data-dir", folder.path().to_str().unwrap()];
    let astray = run(&[&astray[..], &join, &["00".repeat(32).as_str()]].concat());
    assert!(astray.complaint().contains("is of network"), "{}", astray.err);
    let second = Gateway::with(&path("second"), &[&join[..], &[&network]].concat());
    assert_eq!(second.ticket.rsplit('/').next(), Some(network.as_str()));
    let owners = [&first, &second].map(|gateway| gateway.api().get("/v1/network").json()["owner"].clone());
    assert_ne!(owners[0], owners[1]);

    let node = shared([&first, &second], &path("node"), &[]);
    let referee = ["--join", &second.ticket, "--referee", "--threads", "1"];
    let _referee = Node::with(&first.ticket, &first.folder, &referee);
    // The issuer's key is in the first one's folder alone.
    let clients = [&first, &second].map(|gateway| funded(gateway, &first.folder));
    for (gateway, client) in [&first, &second].into_iter().zip(&clients) {
        gateway.wait_for_nodes(1);
        let answer = client.chat(&chat("who serves me?", 8, 1)).good();
        assert_eq!(answer["openledger"]["node"], node.id.as_str());
        // A newcomer's first results are all audited.
        eventually("the audit", || (gateway.metric("audits_passed_total") == 1).then_some(()));
    }
    // Each to its own.
    let stranger = Api::new(second.address, &first.key);
    assert_eq!(stranger.chat(&chat("and with the other's key?", 8, 1)).status, 401);
    for mut gateway in [first, second] {
        assert!(gateway.process.terminate().success());
        gateway.fsck();
    }
}

#[test]
fn a_gateway_that_refuses_a_node_keeps_it_from_no_other_and_each_is_told_its_own_word() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = Gateway::start(&path("open"), &[]);
    let closed = Gateway::start(&path("closed"), &["--join-token", "sesame"]);
    let mut node = shared([&closed, &open], &path("node"), &[]);
    open.wait_for_nodes(1);
    eventually("a word about the refusal", || node.process.err.all().contains("asks for a join token").then_some(()));
    asked(&open, &node);
    assert!(node.process.is_running());
    assert!(node.process.terminate().success(), "{}", node.process.err.all());
    open.wait_for_nodes(0);

    let with_word = format!("{}#sesame", closed.ticket);
    let args = ["--join", &with_word, "--slots", "4", "--threads", "1"];
    let _node = Node::with(&open.ticket, &path("node"), &args);
    closed.wait_for_nodes(1);
    open.wait_for_nodes(1);
    // One word for two is nobody's.
    let unclear =
        Node::command(&[], &open.ticket, &path("other"), &["--join", &closed.ticket, "--join-token", "sesame"]);
    assert!(finish(unclear).complaint().contains("TICKET#TOKEN"));
}
