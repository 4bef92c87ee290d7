//! Gateway and nodes as processes of their own, joining and leaving while requests run.

use crate::http::{chat, counted};
use crate::process::{Gateway, Node, eventually};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn nodes_join_and_leave_while_requests_run_and_nothing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let gateway = Gateway::start(&path("gateway"), &[]);
    let mut first = Node::join(&gateway.ticket, &path("first"));
    let _second = Node::join(&gateway.ticket, &path("second"));
    gateway.wait_for_nodes(2);

    let body = chat("hello", 24, 7);
    let whole = gateway.api().chat(&body).good();
    let mut stream = gateway.api().stream(&body);
    let text = stream.finish();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert_eq!(counted(whole["usage"].clone()), counted(stream.last("usage")));

    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (api, stop) = (gateway.api(), &stop);
                scope.spawn(move || {
                    let mut nodes = Vec::new();
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let body = chat(&format!("{client} {number}"), 32, number);
                        let node = if number % 2 == 0 {
                            api.chat(&body).good()["openledger"]["node"].clone()
                        } else {
                            let mut stream = api.stream(&body);
                            stream.finish();
                            stream.last("openledger")["node"].clone()
                        };
                        nodes.push(node.as_str().unwrap().to_owned());
                    }
                    nodes
                })
            })
            .collect();
        let third = Node::join(&gateway.ticket, &path("third"));
        gateway.wait_for_nodes(3);
        let finished = gateway.metric("tasks_finished_total");
        eventually("requests with three nodes", || {
            (gateway.metric("tasks_finished_total") > finished + 20).then_some(())
        });
        assert!(first.process.terminate().success(), "{}", first.process.err.all());
        gateway.wait_for_nodes(2);
        let finished = gateway.metric("tasks_finished_total");
        eventually("requests after one left", || {
            (gateway.metric("tasks_finished_total") > finished + 20).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        let served: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(served.contains(&third.id), "the newcomer got no task");
        served
    });
    assert!(served.contains(&first.id));
    // A task may cross its node's word that it leaves: one of each client's at most.
    assert!(gateway.metric("attempts_failed_over_total") <= 4);
}

#[test]
fn a_node_keeps_its_identity_and_a_gateway_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let node_folder = folder.path().join("node");
    let mut node = Node::join(&gateway.ticket, &node_folder);
    let identity = (node.id.clone(), node.operator.clone());
    gateway.wait_for_nodes(1);
    assert!(node.process.terminate().success());
    // Or what is known of it would pass for its successor's.
    gateway.wait_for_nodes(0);
    let again = Node::join(&gateway.ticket, &node_folder);
    assert_eq!((again.id.clone(), again.operator.clone()), identity);
    gateway.wait_for_nodes(1);
    gateway.api().chat(&chat("one", 4, 1)).good();
    assert!(gateway.process.terminate().success(), "{}", gateway.process.err.all());
    gateway.fsck();
}
