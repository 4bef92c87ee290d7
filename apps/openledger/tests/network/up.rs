//! `openledger up`: a whole network in one process.

use crate::http::{Api, chat};
use crate::process::{Process, openledger, run};
use std::path::Path;

/// `up` with the tiny models, free ports and short epochs.
pub(crate) fn up(folder: &Path, more: &[&'static str]) -> Vec<String> {
    let fixed =
        ["up", "--model", "tiny", "--embedding-model", "tiny", "--listen", "127.0.0.1:0", "--epoch-seconds", "2"];
    let folder = folder.to_str().unwrap();
    fixed.iter().chain(more).copied().chain(["--data-dir", folder]).map(str::to_owned).collect()
}

/// The same, as arguments.
pub(crate) fn args(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

pub(crate) struct Up {
    process: Process,
    pub(crate) api: Api,
    pub(crate) address: String,
    key: String,
    ticket: String,
}

impl Up {
    pub(crate) fn start(folder: &Path, more: &[&'static str]) -> Self {
        let mut process = Process::start(openledger(&args(&up(folder, more))));
        let url = process.printed("API       http://");
        let key = process.printed("API key");
        let ticket = process.printed("ticket");
        let address = url.trim_end_matches("/v1").to_owned();
        let api = Api::new(address.parse().unwrap(), &key);
        process.printed("serving");
        Self { process, api, address, key, ticket }
    }

    // Without the port, which is another at each start.
    fn identity(&self) -> (String, String) {
        (self.key.clone(), self.ticket.split_once('/').unwrap().1.to_owned())
    }
}

fn balance(folder: &Path, account: &str) -> i64 {
    let ended = run(&["ledger", "balances", "--data-dir", folder.to_str().unwrap()]);
    let line = ended.out.lines().find(|line| line.starts_with(account)).unwrap().to_owned();
    line.split_whitespace().last().unwrap().replace('.', "").parse().unwrap()
}

#[test]
fn up_once_answers_audits_settles_and_prints_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&args(&up(folder.path(), &["--once", "--json"])));
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    let object = ended.json();
    let text = |name: &str| object[name].as_str().unwrap().to_owned();
    let number = |name: &str| object[name].as_u64().unwrap();
    assert!(!text("answer").is_empty());
    assert_eq!((text("model"), text("version")), ("tiny".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    let tokens = |name: &str| object["usage"][name].as_u64().unwrap();
    assert!(tokens("completion_tokens") > 0);
    assert_eq!(tokens("total_tokens"), tokens("prompt_tokens") + tokens("completion_tokens"));
    assert_eq!((text("receipt_id").len(), object["receipt_verified"].as_bool()), (32, Some(true)));
    assert!(number("audits_done") >= 1);
    assert_eq!(number("audits_passed"), number("audits_done"));
    assert!(number("epoch") >= 1);
    assert!((1..1_000_000).contains(&number("coordination_cpu_us_per_task")));
    assert_eq!(number("charge_micro_credits"), tokens("prompt_tokens") * 2 + tokens("completion_tokens") * 8);
}

#[test]
fn a_restart_keeps_identities_balances_and_receipts() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Up::start(folder.path(), &[]);
    let identity = first.identity();
    let answer = first.api.chat(&chat("what is a ledger?", 12, 1)).good();
    let task = answer["openledger"]["receipt"].as_str().unwrap().to_owned();
    let settled = |receipt: &serde_json::Value| {
        receipt["attempts"][0]["log"].is_object() && receipt["audits"][0]["log"].is_object()
    };
    let before = first.api.receipt_when(&task, settled);
    // Three operators are too few to audit each other.
    assert_eq!(before["receipt"]["audits"][0]["level"], "referee");
    assert!(first.process.terminate().success(), "{}", first.process.err.all());
    assert!(first.process.out.all().contains("stopping"));
    let spent = 100_000_000 - balance(folder.path(), "tenant");

    let mut second = Up::start(folder.path(), &[]);
    assert_eq!(second.identity(), identity);
    let mut after = second.api.receipt(&task);
    // What is known of its node goes on.
    let value = |receipt: &serde_json::Value| receipt["trust"]["value"].as_f64().unwrap();
    assert!(value(&after) > 0.99 && value(&before) > 0.99, "{after}");
    assert_eq!(after["trust"]["history"], before["trust"]["history"]);
    after["trust"] = before["trust"].clone();
    assert_eq!(after, before);
    assert!(second.process.terminate().success());
    let receipts = run(&["ledger", "receipts", "--data-dir", folder.path().to_str().unwrap()]).out;
    let amounts = receipts.lines().skip(1).map(|line| line.split_whitespace().last().unwrap().replace('.', ""));
    let charged: i64 = amounts.map(|amount| amount.parse::<i64>().unwrap()).sum();
    assert_eq!(receipts.lines().count(), 4, "the header, an answer that each start asked for, and ours: {receipts}");
    // A charge is settled with the epoch after its audit: what is left to settle is of the last requests.
    let spent_after = 100_000_000 - balance(folder.path(), "tenant");
    assert!(0 < spent && spent <= spent_after && spent_after <= charged, "{spent} {spent_after} {charged}");
    let fsck = run(&["ledger", "fsck", "--data-dir", folder.path().to_str().unwrap()]);
    assert!(fsck.status.success(), "{}", fsck.out);
}
