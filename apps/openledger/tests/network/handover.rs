//! A gateway's restart with clients and nodes attached.

use crate::failures::{long, signal, verified};
use crate::http::{Stream, chat};
use crate::process::{Gateway, Node, eventually};
use std::net::TcpStream;
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
    let listens = || TcpStream::connect(gateway.address).is_ok();
    eventually("nobody new", || (!listens()).then_some(()));
    let (command, path) = (gateway.command_again(&[]), gateway.folder.clone());
    let (next, answer) = thread::scope(|scope| {
        // It tells where it is as soon as it has the log.
        let next = scope.spawn(|| Gateway::of(command, &path));
        eventually("the next process", || listens().then_some(()));
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
        let document = next.api().receipt(&task);
        assert_eq!(document["receipt"]["attempts"].as_array().unwrap().len(), 1);
        verified(&next, &document);
    }
    assert!(!next.folder.join("network/stopping").exists());
}

// A file that it left behind holds up nobody.
#[test]
fn who_is_killed_while_it_stops_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway");
    let mut gateway = Gateway::start(&path, &[]);
    let mark = path.join("network/stopping");
    std::fs::write(&mark, "").unwrap();
    gateway.process.kill();
    gateway.again();
    assert!(!mark.exists());
    gateway.fsck();
}
