//! One node on the gateways of two owners, who share nothing else: each its own network, log and tenants.

use crate::http::{Api, chat};
use crate::process::{Gateway, Node, eventually};
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
            demand(scope, second.api(), &both);
            eventually("half of the text's slots each", || {
                let held = [&first, &second].map(|gateway| gateway.metric("slots"));
                (held == [SLOTS, SLOTS]).then_some(())
            });
            both.store(true, Ordering::Relaxed);
        });
        stop.store(true, Ordering::Relaxed);
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
