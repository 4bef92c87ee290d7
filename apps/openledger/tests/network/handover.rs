//! A gateway's restart with clients and nodes attached.

use crate::failures::{long, signal, verified};
use crate::http::{Stream, chat};
use crate::process::{Gateway, Node, run};
use std::thread;
use std::time::Duration;

#[test]
fn a_process_that_stops_ends_its_streams_while_clients_wait_for_the_one_that_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let nodes = ["first", "second"].map(|name| Node::join(&gateway.ticket, &folder.path().join(name)));
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    let (body, whole) = long(&api);
    let begin = |_| {
        let mut stream = api.stream(&body);
        stream.until(5);
        stream
    };
    let mut streams: Vec<Stream> = (0..2).map(begin).collect();
    // What runs takes as long as it takes.
    nodes.iter().for_each(|node| signal("-STOP", node.process.id()));
    signal("-TERM", gateway.process.id());
    let (command, path) = (gateway.command_again(&[]), gateway.folder.clone());
    let (next, answer) = thread::scope(|scope| {
        // It tells where it is as soon as it has the log.
        let next = scope.spawn(|| Gateway::of(command, &path));
        thread::sleep(Duration::from_secs(1));
        let asked = scope.spawn(|| api.chat(&chat("are you there?", 8, 1)).good());
        thread::sleep(Duration::from_secs(1));
        assert!(!asked.is_finished() && !next.is_finished() && gateway.process.is_running());
        nodes.iter().for_each(|node| signal("-CONT", node.process.id()));
        for stream in &mut streams {
            assert_eq!(whole["choices"][0]["message"]["content"], stream.finish());
        }
        (next.join().unwrap(), asked.join().unwrap())
    });
    assert!(gateway.process.wait().success(), "{}", gateway.process.err.all());
    assert_eq!((&next.ticket, &next.key, next.address), (&gateway.ticket, &gateway.key, gateway.address));
    next.wait_for_nodes(2);
    let tasks = streams.iter().map(Stream::task).chain([answer["openledger"]["receipt"].as_str().unwrap().to_owned()]);
    for task in tasks {
        verified(&next, &next.api().receipt(&task));
    }
    assert!(!next.folder.join("network/stopping").exists());
}

#[test]
fn who_is_killed_while_it_stops_is_followed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway");
    let mut gateway = Gateway::start(&path, &[]);
    let mark = path.join("network/stopping");
    std::fs::write(&mark, "").unwrap();
    let command = gateway.command_again(&[]);
    let next = thread::scope(|scope| {
        let next = scope.spawn(|| Gateway::of(command, &path));
        // It has neither the log nor the address.
        thread::sleep(Duration::from_secs(2));
        assert!(!next.is_finished());
        gateway.process.kill();
        next.join().unwrap()
    });
    assert!(!mark.exists());
    assert_eq!((&next.ticket, next.address), (&gateway.ticket, gateway.address));
    // Nobody has said that this one stops.
    let refused = run(&["gateway", "--data-dir", path.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert!(refused.err.contains("in use by another process"), "{}", refused.err);
    next.fsck();
}
