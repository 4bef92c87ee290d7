//! What a gateway has lost of an answer, its node still has.

use crate::http::chat;
use crate::process::{Gateway, Node, eventually};
use ol_protocol::Timestamp;
use ol_protocol::ticket::Ticket;
use ol_store::{Identity, Job, Options, Outbox, OutboxReader, SqliteStore, Store as _};
use std::path::Path;

// A gateway that lost what it kept of an answer before its audit, whose node is there.
fn lost(folder: &Path) -> (Gateway, Node) {
    let mut gateway = Gateway::start(&folder.join("gateway"), &[]);
    let node = Node::join(&gateway.ticket, &folder.join("node"));
    gateway.wait_for_nodes(1);
    let task = gateway.api().chat(&chat("what is a ledger?", 12, 1)).good();
    // Nobody can audit it yet: there is no referee.
    gateway.api().receipt_when(task["openledger"]["receipt"].as_str().unwrap(), |receipt| {
        receipt["attempts"][0]["log"].is_object()
    });
    assert!(gateway.process.terminate().success());
    let identity = Identity { network: None, gateway: gateway.ticket.parse::<Ticket>().unwrap().gateway };
    let database = gateway.folder.join("network").join("gateway.db");
    let mut store = SqliteStore::open(&database, identity, Options::default()).unwrap();
    let forget = Job { expire_before: Some(Timestamp(u64::MAX)), ..Job::default() };
    assert_eq!(store.commit_one(forget).unwrap().expired, 1);
    drop(store);
    gateway.again();
    (gateway, node)
}

#[test]
fn a_node_gives_back_what_its_gateway_has_lost_and_is_audited_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, _node) = lost(folder.path());
    gateway.wait_for_nodes(1);
    let _referee = Node::referee(&gateway);
    eventually("the audit", || (gateway.metric("audits_passed_total") == 1).then_some(()));
    assert_eq!(gateway.metric("audits_unauditable_total"), 0);
    assert!(gateway.process.err.all().contains("its node is asked for it"), "{}", gateway.process.err.all());
}

#[test]
fn what_both_have_lost_cant_be_audited() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, mut node) = lost(folder.path());
    assert!(node.process.terminate().success());
    let path = folder.path().join("node").join("node").join("outbox.db");
    let id = OutboxReader::open(&path).unwrap().node().unwrap().unwrap();
    assert_eq!(Outbox::open(&path, id, None).unwrap().expire(Timestamp(u64::MAX)).unwrap(), 1);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let _referee = Node::referee(&gateway);
    eventually("the audit's end", || (gateway.metric("audits_unauditable_total") == 1).then_some(()));
    assert_eq!((gateway.metric("audits_passed_total"), gateway.metric("audits_failed_total")), (0, 0));
}
