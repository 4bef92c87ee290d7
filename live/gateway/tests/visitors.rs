//! Who may read the log and receipts, and how fast.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use http_body_util::BodyExt as _;
use serde_json::json;
use support::{Answer, Served, get, post, serve};

/// Files that one address may read in a minute, as docs/api.md says.
const FILES: usize = 3_000;
/// Receipts that one tenant may ask for in a minute.
const RECEIPTS: usize = 6_000;

// Asks for one path on one connection, until it is refused: after how many answers, and how.
async fn flood(served: &Served, path: &str, times: usize) -> (usize, Answer) {
    let (mut sender, _driving) = served.connect().await;
    for answered in 0..times {
        let (parts, body) = sender.send_request(get(path)).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if parts.status == 429 {
            return (answered, Answer { status: parts.status, headers: parts.headers, body });
        }
    }
    panic!("{times} answers and no refusal");
}

async fn chat(served: &Served) -> u16 {
    let body = json!({"model": "words", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
    served.send(post("/v1/chat/completions", &body)).await.status.as_u16()
}

#[tokio::test]
async fn a_flood_from_one_address_is_refused_and_a_tenant_there_is_served() {
    let served = serve().await;
    // What is refilled while it lasts is answered too.
    let (answered, refused) = flood(&served, "/log/checkpoint", 2 * FILES).await;
    assert!(answered >= FILES, "{answered}");
    assert_eq!(refused.json()["error"]["code"], json!("rate_limit_exceeded"));
    assert_eq!((refused.header("retry-after"), refused.header("cache-control")), (Some("1"), None));
    assert_eq!(chat(&served).await, 200);
    let metrics = served.send(get("/metrics")).await;
    let metrics = std::str::from_utf8(&metrics.body).unwrap().to_owned();
    assert!(metrics.contains("openledger_http_limited_total{limit=\"log-address\"}"), "{metrics}");
}

#[tokio::test]
async fn a_flood_of_questions_for_receipts_is_refused_and_its_tenant_still_served() {
    let served = serve().await;
    let path = "/v1/receipts/00000000000000000000000000000000";
    let (answered, refused) = flood(&served, path, 2 * RECEIPTS).await;
    assert!(answered >= RECEIPTS, "{answered}");
    assert_eq!(refused.json()["error"]["type"], json!("rate_limit_error"));
    assert_eq!(chat(&served).await, 200);
}

#[tokio::test]
async fn a_checkpoint_may_be_kept_for_seconds() {
    let served = serve().await;
    let answer = served.send(get("/log/checkpoint")).await;
    assert_eq!(answer.header("cache-control"), Some("public, max-age=5"));
}
