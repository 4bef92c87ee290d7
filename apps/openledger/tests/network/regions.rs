//! Requests that are bound to a region or prefer one, with nodes that say where they stand.

use crate::http::{Api, chat};
use crate::process::{Gateway, Node, eventually, run};
use crate::proxy::Proxy;
use crate::why::{charged, code, quote};
use serde_json::{Value, json};
use std::path::Path;

fn join(ticket: &str, folder: &Path, region: &str) -> Node {
    Node::with(ticket, folder, &["--slots", "2", "--threads", "1", "--region", region])
}

fn asking(policy: &Value, seed: u64) -> Value {
    let mut body = chat("Where are you?", 8, seed);
    body["openledger"] = policy.clone();
    body
}

// The region and receipt of an answer, or its refusal.
fn answer(api: &Api, policy: &Value, seed: u64) -> Result<(String, String), Value> {
    let answer = api.chat(&asking(policy, seed));
    let document = answer.json();
    let text = |name: &str| document["openledger"][name].as_str().unwrap_or_default().to_owned();
    if answer.status == 200 { Ok((text("region"), text("receipt"))) } else { Err(document) }
}

#[test]
fn a_region_has_a_price_of_its_own_for_who_is_bound_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let prices = "[[prices]]\nregion = \"eu-north\"\nprompt_price = 5000000\noutput_price = 7000000\n";
    std::fs::write(at("gateway.toml"), prices).unwrap();
    let gateway = Gateway::start(&at("gateway"), &["--config", at("gateway.toml").to_str().unwrap()]);
    let _north = join(&gateway.ticket, &at("north"), "eu-north");
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let facts = api.get("/v1/models").json()["data"][0]["openledger"].take();
    assert_eq!(facts["price"]["prompt_micro_credits_per_million"], 2_000_000);
    assert_eq!(facts["region_prices"]["eu-north"]["prompt_micro_credits_per_million"], 5_000_000);
    let bound = json!({"region": "eu-north"});
    // Until the first round trip was measured a node stands nowhere.
    eventually("a bound answer", || answer(&api, &bound, 1).ok());
    assert!(charged(&api.chat(&asking(&bound, 2)).good(), 5, 7));
    assert!(charged(&api.chat(&asking(&json!({"prefer_region": "eu-north"}), 3)).good(), 2, 8));

    let held = quote(&api, &asking(&bound, 4));
    assert_eq!(
        (&held["region"], &held["price"]["output_micro_credits_per_million"]),
        (&"eu-north".into(), &json!(7_000_000))
    );
    let under = |mut policy: Value| {
        policy["quote"] = held["id"].clone();
        api.chat(&asking(&policy, 4))
    };
    let answer = under(bound).good();
    assert!(charged(&answer, 5, 7), "{answer}");
    std::fs::write(at("receipt.json"), api.receipt(answer["openledger"]["receipt"].as_str().unwrap()).to_string())
        .unwrap();
    let checked = run(&["verify", at("receipt.json").to_str().unwrap()]);
    assert!(checked.out.contains("ok      the price is that of the quote"), "{}{}", checked.out, checked.err);
    // The attack: the price of one region for work anywhere, or the other way round.
    for policy in [json!({}), json!({"prefer_region": "eu-north"})] {
        assert_eq!(code(&under(policy)), (400, "quote_mismatch".into()));
    }
    let anywhere = quote(&api, &asking(&json!({}), 5));
    assert!(anywhere["region"].is_null(), "{anywhere}");
    let policy = json!({"region": "eu-north", "quote": anywhere["id"]});
    assert_eq!(code(&api.chat(&asking(&policy, 5))), (400, "quote_mismatch".into()));
    gateway.fsck();
}

#[test]
fn a_bound_request_is_answered_in_its_region_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let gateway = Gateway::start(&at("gateway"), &[]);
    let _north = join(&gateway.ticket, &at("north"), "eu-north");
    let mut south = join(&gateway.ticket, &at("south"), "eu-south");
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    let served = api.get("/v1/models").json();
    assert_eq!(served["data"][0]["openledger"]["regions"], json!({"eu-north": 1, "eu-south": 1}));
    for seed in 0..6 {
        let region = ["eu-north", "eu-south"][seed as usize % 2];
        // Until the first round trip was measured a node stands nowhere.
        let (there, receipt) = eventually("a bound answer", || answer(&api, &json!({ "region": region }), seed).ok());
        assert_eq!(there, region);
        let document = api.receipt(&receipt);
        assert_eq!(document["receipt"]["attempts"][0]["charge"]["region"], region);
        let path = at("receipt.json");
        std::fs::write(&path, document.to_string()).unwrap();
        let ended = run(&["verify", path.to_str().unwrap()]);
        assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        // Which one depends on how fast they are just now.
        let (_, receipt) = answer(&api, &json!({ "prefer_region": region }), seed).unwrap();
        assert!(api.receipt(&receipt)["receipt"]["attempts"][0]["charge"]["region"].is_null());
    }
    let refusal = answer(&api, &json!({"region": "mars"}), 1).unwrap_err();
    assert_eq!(refusal["error"]["code"], "unservable", "{refusal}");
    assert!(refusal["openledger"]["why"][0].as_str().unwrap().contains("region mars"), "{refusal}");

    // A region whose last node is gone is closed; who only prefers it is answered elsewhere.
    south.process.kill();
    gateway.wait_for_nodes(1);
    let refusal = answer(&api, &json!({"region": "eu-south"}), 2).unwrap_err();
    assert_eq!(refusal["error"]["code"], "unservable", "{refusal}");
    assert_eq!(answer(&api, &json!({"prefer_region": "eu-south"}), 2).unwrap().0, "eu-north");
}

// The attack: a machine far away says that it stands in a region, to get the work that is bound to it.
#[test]
fn a_node_far_away_gets_no_work_of_the_region_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let gateway = Gateway::start(&at("gateway"), &[]);
    let mut honest = join(&gateway.ticket, &at("honest"), "eu");
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let bound = json!({"region": "eu"});
    let (_, receipt) = eventually("a bound answer", || answer(&api, &bound, 1).ok());
    api.receipt(&receipt);
    // A node that has worked decides how far away the region is usually.
    eventually("the latency map", || {
        let text = api.get("/metrics").text();
        text.contains("openledger_region_round_trip_seconds{region=\"eu\"}").then_some(())
    });

    let (target, rest) = gateway.ticket.trim_start_matches("ol1:").split_once('/').unwrap();
    let proxy = Proxy::to(target.to_owned());
    proxy.stand_far_away(120);
    let liar = join(&format!("ol1:{}/{rest}", proxy.address), &at("liar"), "eu");
    gateway.wait_for_nodes(2);
    for seed in 2..8 {
        let body = api.chat(&asking(&bound, seed)).good();
        assert_eq!(body["openledger"]["node"], honest.id.as_str(), "{body}");
    }
    honest.process.kill();
    gateway.wait_for_nodes(1);
    let refusal = answer(&api, &bound, 9).unwrap_err();
    assert_eq!(refusal["error"]["code"], "unservable", "{refusal}");
    // It is as good as others for who does not mind.
    let body = api.chat(&asking(&json!({}), 9)).good();
    assert_eq!(body["openledger"]["node"], liar.id.as_str());
}

#[test]
fn a_tier_that_cannot_be_kept_is_refused_with_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let refusal = answer(&api, &json!({"tier": "99.9", "deadline_ms": 4_000}), 1).unwrap_err();
    assert_eq!(refusal["error"]["code"], "unservable", "{refusal}");
    let why = refusal["openledger"]["why"][0].as_str().unwrap();
    assert!(why.contains("90 of 100") && why.contains("99.9"), "{why}");
    answer(&api, &json!({"tier": "99.9", "deadline_ms": 120_000}), 2).unwrap();
    eventually("the promise counted", || (gateway.metric("promises_total") == 1).then_some(()));
    assert_eq!(gateway.metric("promises_broken_total"), 0);
}
