//! What a gateway says of its decisions, and the prices that it holds.

use crate::failures::{interrupted, long};
use crate::http::{Api, Response, chat};
use crate::instructions::{good, key_in, told};
use crate::process::{Ended, Gateway, Node, run};
use serde_json::{Value, json};

fn why(gateway: &Gateway, args: &[&str]) -> Ended {
    let to = format!("http://{}", gateway.address);
    run(&[&["why"], args, &["--to", &to, "--data-dir", gateway.folder.to_str().unwrap()]].concat())
}

fn lines<'a>(out: &'a str, start: &str) -> Vec<&'a str> {
    out.lines().map(str::trim).filter(|line| line.starts_with(start)).collect()
}

// A second tenant with credits.
fn alice(gateway: &Gateway) -> Api {
    let key = key_in(&good(told(gateway, &gateway.folder, &["tenant", "add", "alice"])));
    good(told(gateway, &gateway.folder, &["issue", "top-up", "--tenant", "alice", "--credits", "5"]));
    Api::new(gateway.address, &key)
}

pub(crate) fn code(response: &Response) -> (u16, String) {
    (response.status, response.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_task_that_failed_over_shows_both_attempts_to_its_tenant_and_to_the_operator() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let mut nodes = ["first", "second"].map(|name| Node::join(&gateway.ticket, &folder.path().join(name)));
    gateway.wait_for_nodes(2);
    let api = gateway.api();
    let (body, whole) = long(&api);
    let mut killed = String::new();
    let kill = |id: &str| {
        killed = id.to_owned();
        nodes.iter_mut().find(|node| node.id == id).unwrap().process.kill();
    };
    let stream = interrupted(|| api.stream(&body), kill, &whole);
    let task = stream.task();
    let other = nodes.iter().find(|node| node.id != killed).unwrap();

    let path = format!("/v1/tasks/{task}/why");
    let said = api.get(&path).good();
    assert_eq!((&said["id"], &said["state"], &said["answered_by"]), (&json!(task), &json!("answered"), &json!(1)));
    let attempts: Vec<_> = said["attempts"].as_array().unwrap().iter().collect();
    let [first, second] = attempts[..] else { panic!("{said:#}") };
    let told = |attempt: &Value| [&attempt["node"], &attempt["because"], &attempt["ended"]].map(|it| it.clone());
    assert_eq!(told(first), [json!(killed), json!("first"), json!("disconnected")]);
    assert_eq!(told(second), [json!(other.id), json!("failed_over"), json!("answered")]);
    assert_eq!(first["reached"], second["resumed_from"]);
    assert!(first["first_token_us"].is_u64() && second["predicted_us"].is_u64(), "{said:#}");
    assert_eq!(said["gates"][0]["gate"], "variant");

    let json = why(&gateway, &["--task", &task, "--json"]).json();
    assert_eq!(json, said);
    let out = good(why(&gateway, &["--task", &task]));
    assert_eq!((lines(&out, "attempt 0").len(), lines(&out, "attempt 1").len()), (1, 1), "{out}");
    assert!(out.contains("its node's link ended") && out.contains("passed deadline: begins in"), "{out}");

    // The attack: another tenant asks for it, and a tenant for a node.
    let alice = alice(&gateway);
    assert_eq!(code(&alice.get(&path)), (404, "not_found".into()));
    assert_eq!(code(&alice.get(&format!("/v1/nodes/{}/why", other.id))), (401, "invalid_api_key".into()));
    let message = alice.get(&path).json()["error"]["message"].as_str().unwrap().to_owned();
    let unknown = api.get(&format!("/v1/tasks/{}/why", "0".repeat(32))).json()["error"]["message"].clone();
    assert!(message.contains("the last 4096 tasks are kept") && unknown.is_string(), "{message}");

    // The node that is left serves, and the one that was killed is known by what was decided.
    let serves = good(why(&gateway, &["--node", &other.id]));
    // It serves text and vectors.
    assert_eq!((lines(&serves, "passed link").len(), lines(&serves, "passed slot").len()), (1, 2), "{serves}");
    let gone = good(why(&gateway, &["--node", &killed]));
    assert!(gone.contains("failed link: it is not connected") && gone.contains("failed quarantine"), "{gone}");
    let stranger = why(&gateway, &["--node", &"0".repeat(64)]);
    assert!(stranger.complaint().contains("no decision that is kept names it"), "{}", stranger.err);
}

#[test]
fn a_refused_request_lists_what_it_passed_and_what_it_did_not() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&folder.path().join("gateway"), &[]);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let mut body = chat("hello", 16, 1);
    body["openledger"] = json!({"max_price": 10});
    let refused = api.chat(&body);
    let said = refused.json();
    assert_eq!((refused.status, said["error"]["param"].as_str()), (400, Some("openledger.max_price")), "{said}");
    let [passed, failed] = [0, 1].map(|at| said["openledger"]["gates"][at].clone());
    assert_eq!((&passed["gate"], &passed["passed"], &passed["nodes"]), (&json!("variant"), &json!(true), &json!(1)));
    assert_eq!((&failed["gate"], &failed["passed"]), (&json!("price"), &json!(false)));
    let worst = failed["worst_micro_credits"].as_u64().unwrap();
    assert!(worst > 10 && failed["max_micro_credits"] == 10, "{failed}");
    assert_eq!(said["openledger"]["why"], json!([failed["message"]]));

    let task = refused.header("x-openledger-receipt");
    let told = api.get(&format!("/v1/tasks/{task}/why")).good();
    assert_eq!((&told["state"], &told["refusal"]), (&json!("refused"), &json!("impossible")));
    assert_eq!(told["gates"], said["openledger"]["gates"]);
    let out = good(why(&gateway, &["--task", &task]));
    assert!(out.contains("passed variant: 1 ") && out.contains("failed price: this may cost up to"), "{out}");
    // Exactly the worst case is enough.
    body["openledger"] = json!({"max_price": worst});
    api.chat(&body).good();
}

pub(crate) fn quote(api: &Api, body: &Value) -> Value {
    api.post("/v1/quotes", body).good()
}

pub(crate) fn under(quote: &Value, seed: u64) -> Value {
    let mut body = chat("what does it cost?", 16, seed);
    body["openledger"] = json!({"quote": quote["id"]});
    body
}

pub(crate) fn charged(answer: &Value, prompt: u64, output: u64) -> bool {
    let usage = &answer["usage"];
    let tokens = |name: &str| usage[name].as_u64().unwrap();
    let cost = tokens("prompt_tokens") * prompt + tokens("completion_tokens") * output;
    answer["openledger"]["charge_micro_credits"] == cost
}

#[test]
fn a_quoted_price_is_charged_though_another_is_posted_and_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let cheap = ["--prompt-price", "1000000", "--output-price", "3000000"];
    let mut gateway = Gateway::start(&folder.path().join("gateway"), &cheap);
    let _node = Node::join(&gateway.ticket, &folder.path().join("node"));
    gateway.wait_for_nodes(1);
    let api = gateway.api();
    let held = quote(&api, &chat("what does it cost?", 16, 1));
    let (prompt, worst) =
        (held["prompt_tokens_max"].as_u64().unwrap(), held["worst_case_micro_credits"].as_u64().unwrap());
    assert_eq!((worst, &held["output_tokens_max"]), (prompt + 3 * 16, &json!(16)));
    assert!(held["expected_micro_credits"].as_u64().unwrap() <= worst, "{held}");
    let by_numbers = json!({"model": "tiny", "prompt_tokens": 100, "max_tokens": 50, "openledger": {"min_trust": 0.5}});
    let other = quote(&api, &by_numbers);
    assert_eq!(other["price_with_audit"]["prompt_micro_credits_per_million"], 1_666_667);
    assert_eq!(other["worst_case_micro_credits"], 417);
    assert_eq!(api.post("/v1/quotes", &json!({"model": "tiny"})).status, 400);

    // It begins again with other prices, and honours what it said.
    let begun = std::time::Instant::now();
    assert!(gateway.process.terminate().success());
    gateway.again();
    gateway.wait_for_nodes(1);
    let alice = alice(&gateway);
    assert!(charged(&api.chat(&chat("what does it cost?", 16, 1)).good(), 2, 8));
    let answer = api.chat(&under(&held, 1));
    assert_eq!(answer.status, 200, "{} after {:?}", answer.text(), begun.elapsed());
    let answer = answer.json();
    assert!(charged(&answer, 1, 3), "{answer}");
    let document = api.receipt(answer["openledger"]["receipt"].as_str().unwrap());
    assert_eq!(document["receipt"]["quote"]["id"], held["id"]);
    assert_eq!(document["receipt"]["quote"]["output_micro_credits_per_million"], 3_000_000);
    let path = gateway.folder.with_extension("receipt.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let checked = good(run(&["verify", path.to_str().unwrap()]));
    assert!(checked.contains("ok      the price is that of the quote"), "{checked}");
    let mut other = document.clone();
    other["receipt"]["quote"]["output_micro_credits_per_million"] = json!(1);
    std::fs::write(&path, other.to_string()).unwrap();
    let changed = run(&["verify", path.to_str().unwrap()]);
    assert!(changed.complaint().contains("quote"), "{}", changed.err);

    // The attacks: another tenant names it, it is made up, its terms are changed, or it is used for another model.
    assert_eq!(code(&alice.chat(&under(&held, 1))), (400, "quote_unknown".into()));
    let id = held["id"].as_str().unwrap();
    let changed = format!("{}A{}", &id[..40], &id[41..]);
    for forged in ["olq-", "olq-AAAA", id.trim_start_matches("olq-"), &changed] {
        assert_eq!(code(&api.chat(&under(&json!({"id": forged}), 1))), (400, "quote_unknown".into()), "{forged}");
    }
    let vectors = api.get("/v1/models").good()["data"].as_array().unwrap().clone();
    let vectors = vectors.iter().find(|model| model["openledger"]["work"] == "embed").unwrap()["id"].clone();
    let embed = json!({"model": vectors, "input": "text", "openledger": {"quote": id}});
    assert_eq!(code(&api.post("/v1/embeddings", &embed)), (400, "quote_mismatch".into()));
    gateway.fsck();
}
