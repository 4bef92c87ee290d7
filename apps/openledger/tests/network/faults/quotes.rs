//! A quote under a clock that moved.

use super::faked;
use crate::http::chat;
use crate::process::{Gateway, Node, eventually};
use crate::why::{code, quote, under};

#[test]
#[ignore = "needs libfaketime"]
fn a_quote_that_expired_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let held = quote(&gateway.api(), &chat("what does it cost?", 16, 1));
    gateway.api().chat(&under(&held, 1)).good();
    assert!(gateway.process.terminate().success());
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+61s").unwrap();
    gateway.again_as(faked(gateway.command_again(&[]), &clock));
    gateway.wait_for_nodes(1);
    let refused = eventually("a word about the quote", || {
        let refused = gateway.api().chat(&under(&held, 1));
        (refused.status == 400).then_some(refused)
    });
    assert_eq!(code(&refused), (400, "quote_expired".into()), "{}", refused.text());
    let next = quote(&gateway.api(), &chat("what does it cost?", 16, 1));
    gateway.api().chat(&under(&next, 1)).good();
}
