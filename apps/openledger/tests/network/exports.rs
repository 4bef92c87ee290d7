//! What other programs read of a ledger.

use crate::http::chat;
use crate::process::{Gateway, Node, eventually, run};
use std::collections::BTreeMap;

fn micro(credits: &str) -> u64 {
    let (whole, part) = credits.split_once('.').unwrap();
    whole.parse::<u64>().unwrap() * 1_000_000 + part.parse::<u64>().unwrap()
}

#[test]
fn the_export_accounts_for_every_micro_credit_that_a_tenant_spent() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    let _referee = Node::referee(&gateway);
    gateway.wait_for_nodes(1);
    for seed in 0..8 {
        gateway.api().chat(&chat("hello", 4, seed)).good();
    }
    let data = gateway.folder.to_str().unwrap();
    let rows = |text: &str| -> Vec<BTreeMap<String, String>> {
        let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let names = lines.next().unwrap();
        lines.map(|fields| names.iter().cloned().zip(fields).collect()).collect()
    };
    let settled = eventually("eight settled receipts", || {
        let ended = run(&["ledger", "export", "--data-dir", data]);
        assert!(ended.status.success(), "{}", ended.err);
        let rows = rows(&ended.out);
        (rows.len() == 8 && rows.iter().all(|row| row["state"] == "settled")).then_some(rows)
    });
    let spent: u64 = settled.iter().map(|row| row["micro_credits"].parse::<u64>().unwrap()).sum();
    // A node's first results are audited.
    assert!(settled.iter().filter(|row| row["audit"] == "passed").count() >= 3, "{settled:?}");
    let balances = run(&["ledger", "balances", "--data-dir", data]).out;
    let left = balances.lines().find(|line| line.starts_with("tenant")).unwrap().split_whitespace().last().unwrap();
    assert_eq!(micro(left) + spent, 100_000_000, "{balances}");

    let file = folder.path().join("receipts.csv");
    let to_file = ["ledger", "export", "--data-dir", data, "--out", file.to_str().unwrap()];
    assert!(run(&to_file).status.success());
    assert_eq!(rows(&std::fs::read_to_string(&file).unwrap()), settled);
    let again = run(&to_file);
    assert!(again.complaint().contains("if it exists, name another file"), "{}", again.err);
    assert_eq!(rows(&std::fs::read_to_string(&file).unwrap()), settled);
    // Nobody has earned a credit yet.
    let payouts = run(&["ledger", "payouts", "--data-dir", data]);
    assert_eq!(payouts.out, "payout,network,epoch,kind,owner,micro_credits,credits\n");
    assert!(run(&["ledger", "payouts", "--data-dir", data, "--format", "json"]).out.is_empty());
}
