//! Who may ask why, and what a quote is asked with.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use support::scripted::OPERATOR_KEY;
use support::{bearer, get, key, post, serve};

fn asked_by(key: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().uri(path).header("host", "test").header("authorization", key);
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_tenant_asks_about_its_own_tasks_and_the_operator_about_all_and_about_nodes() {
    let served = serve().await;
    let chat = json!({"model": "words", "messages": [{"role": "user", "content": "hi"}]});
    let answer = served.send(post("/v1/chat/completions", &chat)).await;
    let task = answer.json()["openledger"]["receipt"].as_str().unwrap().to_owned();
    let (path, node) = (format!("/v1/tasks/{task}/why"), format!("/v1/nodes/{}/why", "ab".repeat(32)));
    let operator = format!("Bearer {OPERATOR_KEY}");
    let told = json!({"object": "task.why", "id": task});
    for who in [&bearer(&key(1)), &operator] {
        assert_eq!(served.send(asked_by(who, &path)).await.json(), told);
    }
    assert_eq!(served.send(asked_by(&operator, &node)).await.json()["object"], "node.why");
    // The attacks: another tenant, nobody, and a tenant who asks about a node or as the operator asks.
    for (who, path, status) in [
        (&*bearer(&key(2)), &*path, 404),
        ("Bearer ol-nobody", &path, 401),
        (&bearer(&key(1)), &node, 401),
        (&operator, "/v1/receipts/0", 401),
        (&operator, "/v1/tasks/0/why", 404),
        (&operator, "/v1/nodes/0/why", 404),
    ] {
        let refused = served.send(asked_by(who, path)).await;
        assert_eq!(refused.status.as_u16(), status, "{who} {path}: {:?}", refused.body);
    }
}

#[tokio::test]
async fn a_quote_is_asked_with_a_requests_own_body_or_with_numbers() {
    let served = serve().await;
    let ask = async |body: Value| {
        let answer = served.send(post("/v1/quotes", &body)).await;
        (answer.status.as_u16(), answer.json())
    };
    let price = json!({"prompt_micro_credits_per_million": 500_000, "output_micro_credits_per_million": 1_500_000});
    let quote = json!({
        "object": "quote", "id": "olq-scripted", "model": "words", "variant": "ab".repeat(32), "quantisation": "f32",
        "assurance": "seeded", "price": price, "prompt_tokens_max": 100, "output_tokens_max": 20,
        "worst_case_micro_credits": 80, "expected_prompt_tokens": 100, "expected_output_tokens": 10,
        "expected_micro_credits": 65, "expires_at": 1_700_000_060,
    });
    assert_eq!(ask(json!({"model": "words", "prompt_tokens": 100, "max_tokens": 20})).await, (200, quote));
    let messages = json!([{"role": "user", "content": "hi"}]);
    for body in [
        json!({"model": "words", "messages": messages, "max_tokens": 20, "stream": true}),
        json!({"model": "words", "prompt": "hi", "max_tokens": 20, "temperature": 0.5}),
        json!({"model": "words", "input": ["hi"], "openledger": {"min_trust": 0.5}}),
    ] {
        let (status, said) = ask(body.clone()).await;
        assert_eq!((status, said["price_with_audit"].is_object()), (200, !body["input"].is_null()), "{body}");
    }
    for (body, param) in [
        (json!({"model": "words"}), "prompt_tokens"),
        (json!({"model": "words", "prompt_tokens": 0}), "prompt_tokens"),
        (json!({"model": "words", "prompt_tokens": 5, "colour": 1}), "colour"),
        (json!({"model": "words", "messages": messages, "prompt_tokens": 5}), "prompt_tokens"),
        (json!({"model": "words", "messages": messages, "temperature": 9}), "temperature"),
        (json!({"prompt_tokens": 5}), "model"),
        (json!({"model": "words", "prompt_tokens": 5, "openledger": {"quote": "olq-x"}}), "openledger.quote"),
    ] {
        let (status, said) = ask(body.clone()).await;
        assert_eq!((status, said["error"]["param"].as_str()), (400, Some(param)), "{body} {said}");
    }
    assert_eq!(served.send(get("/v1/quotes")).await.status.as_u16(), 405);
}

#[tokio::test]
async fn a_request_names_a_quote_in_its_body_or_in_a_header() {
    let served = serve().await;
    let mut chat = json!({"model": "words", "messages": [{"role": "user", "content": "hi"}]});
    chat["openledger"] = json!({"quote": "olq-1"});
    assert_eq!(served.send(post("/v1/chat/completions", &chat)).await.status.as_u16(), 200);
    let mut by_header = post("/v1/chat/completions", &chat);
    by_header.headers_mut().insert("x-openledger-quote", "olq-2".parse().unwrap());
    // Two that differ are none.
    assert_eq!(served.send(by_header).await.status.as_u16(), 400);
    chat["openledger"] = json!({"quote": "x".repeat(321)});
    let refused = served.send(post("/v1/chat/completions", &chat)).await.json();
    assert_eq!(refused["error"]["param"], "openledger.quote");
    let named: Vec<Option<String>> =
        served.backend.submissions.lock().unwrap().iter().map(|submission| submission.quote.clone()).collect();
    assert_eq!(named, [Some("olq-1".to_owned())]);
}
