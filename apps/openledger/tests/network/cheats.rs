//! One of three nodes cheats, and is found.

use crate::http::chat;
use crate::process::{eventually, run};
use crate::up::{Up, args, up};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn found(cheat: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&args(&up(folder.path(), &["--once", "--json", "--cheat", cheat])));
    let object = ended.json();
    assert!(ended.status.success(), "{object}\n{}", ended.err);
    let number = |name: &str| object[name].as_u64().unwrap();
    assert_eq!((object["cheat"].as_str(), object["verdict"].as_str()), (Some(cheat), Some("failed")));
    assert_eq!(number("honest_nodes_sanctioned"), 0);
    assert!(number("tokens_to_verdict") > 0 && number("audits_to_verdict") > 0, "{object}");
    assert!(number("refunded_micro_credits") > 0, "{object}");
    assert!(number("withheld_micro_credits") > 0, "{object}");
}

#[test]
fn a_node_with_a_smaller_model_is_found() {
    found("small-model");
}

#[test]
fn a_node_with_a_seed_of_its_own_is_found() {
    found("wrong-seed");
}

#[test]
fn a_node_with_requantised_weights_is_found() {
    found("requantised");
}

#[test]
fn a_node_that_ends_answers_early_is_found() {
    found("truncate");
}

#[test]
fn a_node_that_cheats_after_honest_work_loses_what_it_earned_with_that() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--once", "--json", "--cheat", "small-model", "--cheat-after", "1"];
    let ended = run(&args(&up(folder.path(), &more)));
    let object = ended.json();
    assert!(ended.status.success(), "{object}\n{}", ended.err);
    assert!(object["slashed_micro_credits"].as_u64().unwrap() > 0, "{object}");
    assert_eq!(object["honest_nodes_sanctioned"].as_u64(), Some(0));
}

#[test]
fn a_node_that_embeds_with_other_weights_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let network = Up::start(folder.path(), &["--cheat", "requantised"]);
    // Receipts are given so many times a second.
    let is_refuted = |task: &str| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        network.api.receipt_when(task, |_| true)["trust"]["evidence"] == "failed"
    };
    let ask = |number: usize| {
        let asked = json!({"model": "tiny-embeddings", "input": format!("A text about ports, number {number}.")});
        let answer = network.api.post("/v1/embeddings", &asked).good();
        let of = |field: &str| answer["openledger"][field].as_str().unwrap().to_owned();
        (of("receipt"), of("node"))
    };
    let mut answers: Vec<(String, String)> = Vec::new();
    // Its first answer, to the request of the start, may have it quarantined for seconds.
    let cheater = eventually("a refuted answer", || {
        answers.push(ask(answers.len()));
        // A verdict comes a while after its answer: each is looked at soon, and once more.
        let looked = [&answers[answers.len().saturating_sub(8)], &answers[answers.len() / 2]];
        looked.into_iter().find(|(task, _)| is_refuted(task)).map(|(_, node)| node.clone())
    });
    let asked = answers.len();
    answers.push(eventually("another node's answer", || Some(ask(asked)).filter(|(_, node)| *node != cheater)));
    let mut others = answers.iter().filter(|(_, node)| *node != cheater).take(5);
    assert!(!others.any(|(task, _)| is_refuted(task)), "{cheater} in {answers:?}");
}

// What the log holds against nodes, once it holds something.
fn evidence(network: &Up, folder: &Path) -> Vec<PathBuf> {
    let (log, to) = (format!("http://{}/log", network.address), folder.join("evidence"));
    let mut seed = 0;
    eventually("evidence", || {
        seed += 1;
        let mut public = chat("Tell me about ports.", 12, seed);
        public["openledger"] = json!({"public": true});
        network.api.chat(&public).good();
        let ended = run(&["verify", "--log", &log, "--evidence", to.to_str().unwrap()]);
        let files = std::fs::read_dir(&to).ok()?.map(|entry| entry.unwrap().path()).collect();
        assert!(ended.out.contains("evidence against node"), "{}{}", ended.out, ended.err);
        Some(files)
    })
}

fn rescored(file: &Path, folder: &Path, model: &str) -> crate::process::Ended {
    let (file, data) = (file.to_str().unwrap(), folder.join("reader"));
    run(&["verify", "--rescore", file, "--model", model, "--data-dir", data.to_str().unwrap()])
}

#[test]
fn anyone_rescores_the_evidence_against_a_cheat() {
    let folder = tempfile::tempdir().unwrap();
    let network = Up::start(&folder.path().join("network"), &["--cheat", "small-model"]);
    let files = evidence(&network, folder.path());
    let ended = rescored(&files[0], folder.path(), "tiny");
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("the model AGREES with the referee"), "{}", ended.out);

    let document: Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
    let changed = folder.path().join("changed.json");
    for (field, at, says) in
        [("evidence", 200, "not what the node committed to"), ("batch", 700, "batch"), ("verdict", 300, "verdict")]
    {
        let mut other = document.clone();
        let mut text = document[field].as_str().unwrap().to_owned();
        let digit = if &text[at..=at] == "0" { "1" } else { "0" };
        text.replace_range(at..=at, digit);
        other[field] = text.into();
        std::fs::write(&changed, other.to_string()).unwrap();
        let ended = rescored(&changed, folder.path(), "tiny");
        assert!(ended.complaint().contains(says), "{field}: {}", ended.err);
    }
    let data = folder.path().join("network");
    let honesty = run(&["ledger", "honesty", "--json", "--data-dir", data.to_str().unwrap()]).json();
    let margin = |role: &str| honesty["rows"].as_array()?.iter().find(|row| row["role"] == role)?["margin"].as_f64();
    assert!(honesty["public_share"].as_f64().unwrap() > 0.1, "{honesty}");
    assert!(margin("node").unwrap() > 0.5 && margin("auditor").unwrap() > 1.0, "{honesty}");
    assert_eq!(margin("gateway"), Some(0.0));
    std::fs::write(&changed, "{}").unwrap();
    assert!(rescored(&changed, folder.path(), "tiny").complaint().contains("not evidence"));
}

#[test]
fn a_private_request_becomes_evidence_only_when_its_tenant_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let network = Up::start(&folder.path().join("network"), &["--cheat", "small-model"]);
    let failed = || {
        let text = network.api.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with("openledger_audits_failed_total")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (mut seed, mut tasks) = (0, Vec::new());
    eventually("a failed audit", || {
        seed += 1;
        let answer = network.api.chat(&chat("Tell me about ports.", 12, seed)).good();
        tasks.push(answer["openledger"]["receipt"].as_str().unwrap().to_owned());
        (failed() > 0).then_some(())
    });
    let log = format!("http://{}/log", network.address);
    let to = folder.path().join("evidence");
    let verified = || run(&["verify", "--log", &log, "--evidence", to.to_str().unwrap()]).out;
    eventually("an epoch", || verified().contains("there is no evidence in it").then_some(()));
    assert!(!to.exists());
    assert!(network.api.get("/metrics").text().contains("openledger_nodes_slashed_total 0"));
    // The tenant's word is enough, for what was refuted and once. Its questions for receipts are limited.
    let publish = |task: &String| network.api.post(&format!("/v1/receipts/{task}/publish"), &Value::Null);
    let mut known = 0;
    let given = eventually("a refuted answer", || {
        seed += 1;
        let answer = network.api.chat(&chat("Tell me about ports.", 12, seed)).good();
        tasks.push(answer["openledger"]["receipt"].as_str().unwrap().to_owned());
        if failed() == known {
            return None;
        }
        known = failed();
        let (given, refused): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| publish(task).status == 202);
        let code = |task: &&String| publish(task).json()["error"]["code"].clone();
        assert!(refused.first().map(code).is_none_or(|code| code == "superseded"));
        given.first().map(|task| (*task).clone())
    });
    let files = eventually("evidence", || {
        assert!(verified().contains("evidence"));
        Some(std::fs::read_dir(&to).ok()?.map(|entry| entry.unwrap().path()).collect::<Vec<_>>())
    });
    let ended = rescored(&files[0], folder.path(), "tiny");
    assert!(ended.out.contains("the model AGREES with the referee"), "{}{}", ended.out, ended.err);
    eventually("its end", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        (publish(&given).status == 409).then_some(())
    });
    eventually("the loss of what it had in escrow", || {
        let text = network.api.get("/metrics").text();
        (!text.contains("openledger_nodes_slashed_total 0")).then_some(())
    });
}
