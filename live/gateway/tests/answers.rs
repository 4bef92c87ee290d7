//! What clients get for good requests.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ol_protocol::digest::{Domain, digest};
use serde_json::{Value, json};
use support::{Answer, get, key, post, request, serve};

const CHAT: &str = "/v1/chat/completions";

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "words", "messages": [{"role": "user", "content": "hello there"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn receipt(answer: &Answer) -> String {
    answer.header("x-openledger-receipt").unwrap().to_owned()
}

fn streamed_text(answer: &Answer) -> String {
    let chunk = |event: &String| serde_json::from_str::<Value>(event).ok();
    let content = |chunk: Value| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    answer.events().iter().filter_map(chunk).filter_map(content).collect()
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let served = serve().await;
    let answer = served.send(post(CHAT, &chat(json!({"seed": 7, "max_tokens": 2})))).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let id = receipt(&answer);
    let mut body = answer.json();
    assert!(body["created"].take().as_u64().unwrap() > 0);
    let content = body["choices"][0]["message"]["content"].take();
    assert_eq!(content.as_str().unwrap().split_whitespace().count(), 2);
    let expected = json!({
        "id": format!("chatcmpl-{id}"), "object": "chat.completion", "created": null, "model": "words",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": null, "refusal": null}, "logprobs": null,
            "finish_reason": "length",
        }],
        "usage": {
            "prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 3},
        },
        "openledger": {
            "receipt": id, "trust": 0.5, "assurance": "seeded",
            "price": {"prompt_micro_credits_per_million": 500_000, "output_micro_credits_per_million": 1_500_000},
            "charge_micro_credits": 12, "node": "node-a", "region": "local", "attempts": 1,
        },
    });
    assert_eq!(body, expected);
    let headers = [
        "x-openledger-node",
        "x-openledger-region",
        "x-openledger-trust",
        "x-openledger-assurance",
        "x-openledger-charge-micro-credits",
        "x-openledger-attempts",
        "x-openledger-price",
        "content-type",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-limit-tokens",
    ];
    let values = headers.map(|name| answer.header(name).unwrap());
    let expected = [
        "node-a",
        "local",
        "0.5",
        "seeded",
        "12",
        "1",
        "500000/1500000",
        "application/json",
        "6000",
        "5999",
        "6000000",
    ];
    assert_eq!(values, expected);
}

#[tokio::test]
async fn a_stream_has_the_text_of_the_whole_answer() {
    let served = serve().await;
    for extra in [json!({"seed": 1}), json!({"seed": 2, "temperature": 0.5}), json!({"stop": "café"}), json!({})] {
        let whole = served.send(post(CHAT, &chat(extra.clone()))).await.json();
        let mut extra = extra;
        extra["stream"] = true.into();
        let stream = served.send(post(CHAT, &chat(extra))).await;
        assert_eq!(streamed_text(&stream), whole["choices"][0]["message"]["content"]);
    }
}

#[tokio::test]
async fn a_stream_opens_with_the_role_and_ends_with_reason_usage_and_done() {
    let served = serve().await;
    let extra = json!({"stream": true, "max_tokens": 1, "stream_options": {"include_usage": true}});
    let answer = served.send(post(CHAT, &chat(extra))).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(
        (answer.header("x-openledger-node"), answer.header("x-openledger-region")),
        (Some("node-a"), Some("local"))
    );
    let mut events = answer.events();
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let mut chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let head = |choices: Value, usage: Value| {
        let id = format!("chatcmpl-{}", receipt(&answer));
        json!({"id": id, "object": "chat.completion.chunk", "created": null, "model": "words", "choices": choices,
            "usage": usage})
    };
    let choice =
        |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
    for chunk in &mut chunks {
        chunk["created"] = Value::Null;
    }
    let word = chunks[1]["choices"][0]["delta"]["content"].clone();
    let evidence = chunks[2].as_object_mut().unwrap().remove("openledger").unwrap();
    assert_eq!(evidence["charge_micro_credits"], 9);
    let details = json!({"cached_tokens": 3});
    let usage = json!({
        "prompt_tokens": 6, "completion_tokens": 1, "total_tokens": 7, "prompt_tokens_details": details,
    });
    let expected = [
        head(choice(json!({"role": "assistant", "content": ""}), Value::Null), Value::Null),
        head(choice(json!({"content": word}), Value::Null), Value::Null),
        head(choice(json!({}), "length".into()), Value::Null),
        head(json!([]), usage),
    ];
    assert_eq!(chunks, expected);
}

#[tokio::test]
async fn without_usage_no_chunk_has_the_member() {
    let served = serve().await;
    let answer = served.send(post(CHAT, &chat(json!({"stream": true})))).await;
    assert!(!String::from_utf8_lossy(&answer.body).contains("\"usage\""));
}

#[tokio::test]
async fn text_completions_follow_their_own_form() {
    let served = serve().await;
    let body = json!({"model": "words", "prompt": ["say something"], "max_tokens": 2, "logprobs": 1, "seed": 3});
    let answer = served.send(post("/v1/completions", &body)).await.json();
    let text = answer["choices"][0]["text"].as_str().unwrap();
    let logprobs = &answer["choices"][0]["logprobs"];
    let tokens: String = logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!((answer["object"].as_str().unwrap(), &*tokens), ("text_completion", text));
    let first = logprobs["tokens"][0].as_str().unwrap().chars().count();
    assert_eq!(logprobs["text_offset"], json!([0, first]));
    assert_eq!(logprobs["top_logprobs"], json!([{" the": -0.5}, {" the": -0.5}]));
    let mut body = body;
    body["stream"] = true.into();
    let stream = served.send(post("/v1/completions", &body)).await;
    let parse = |event: &String| serde_json::from_str::<Value>(event).ok();
    let pieces: String = stream
        .events()
        .iter()
        .filter_map(parse)
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(pieces, text);
}

#[tokio::test]
async fn chat_log_probabilities_name_the_alternatives() {
    let served = serve().await;
    let extra = json!({"max_tokens": 1, "logprobs": true, "top_logprobs": 2});
    let answer = served.send(post(CHAT, &chat(extra))).await.json();
    let word = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let alternative =
        |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let mut token = alternative(word, -0.5);
    token["top_logprobs"] = json!([alternative(" the", -0.5), alternative(" network", -1.5)]);
    assert_eq!(answer["choices"][0]["logprobs"], json!({"content": [token], "refusal": null}));
}

#[tokio::test]
async fn vectors_are_the_same_as_numbers_and_in_base64() {
    let served = serve().await;
    let mut body = json!({"model": "vectors", "input": ["one text", "another"], "dimensions": 384});
    let floats = served.send(post("/v1/embeddings", &body)).await.json();
    body["encoding_format"] = "base64".into();
    let coded = served.send(post("/v1/embeddings", &body)).await.json();
    assert_eq!(floats["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    for at in 0..2 {
        let vector = floats["data"][at]["embedding"].as_array().unwrap();
        let bytes: Vec<u8> = vector.iter().flat_map(|v| (v.as_f64().unwrap() as f32).to_le_bytes()).collect();
        assert_eq!(coded["data"][at]["embedding"], base64(&bytes));
        assert_eq!(floats["data"][at]["index"], at);
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(bytes.len() % 3, 0);
    let triple = |b: &[u8]| u32::from(b[0]) << 16 | u32::from(b[1]) << 8 | u32::from(b[2]);
    let four = |word: u32| [18, 12, 6, 0].map(|shift| char::from(LETTERS[(word >> shift & 63) as usize]));
    bytes.chunks(3).flat_map(|chunk| four(triple(chunk))).collect()
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let served = serve().await;
    let list = served.send(get("/v1/models")).await.json();
    let words = served.send(get("/v1/models/words")).await.json();
    assert_eq!((&list["object"], &list["data"][0]), (&json!("list"), &words));
    let expected = json!({
        "id": "words", "object": "model", "created": 1_700_000_000, "owned_by": "script",
        "openledger": {
            "work": "generate", "context_tokens": 2_048, "quantisation": "f32", "assurance": "seeded",
            "price": {"prompt_micro_credits_per_million": 500_000, "output_micro_credits_per_million": 1_500_000},
            "regions": {"local": 1},
        },
    });
    assert_eq!(words, expected);
}

#[tokio::test]
async fn a_receipt_is_its_tenants_alone_and_has_the_digest_of_the_body() {
    let mut served = serve().await;
    for stream in [false, true] {
        let answer = served.send(post(CHAT, &chat(json!({"stream": stream})))).await;
        let (task, response) = served.closings.recv().await.unwrap();
        assert_eq!(task.to_string(), receipt(&answer));
        let expected = digest(Domain::Response, &[&answer.body]);
        assert_eq!((response.digest, response.body_bytes, response.complete), (expected, answer.body.len(), true));
        let path = format!("/v1/receipts/{task}");
        let body = json!({"id": task.to_string(), "object": "receipt", "status": "ready", "trust": null,
            "receipt": {"response": expected.to_string()}});
        assert_eq!(served.send(get(&path)).await.json(), body);
        let mut foreign = get(&path);
        foreign.headers_mut().insert("authorization", support::bearer(&key(2)).parse().unwrap());
        assert_eq!(served.send(foreign).await.status, 404);
        let published = served.send(post(&format!("{path}/publish"), &json!(null))).await;
        let taken = json!({"id": task.to_string(), "object": "receipt.publication", "status": "taken"});
        assert_eq!((published.status.as_u16(), published.json()), (202, taken));
        let mut foreign = post(&format!("{path}/publish"), &json!(null));
        foreign.headers_mut().insert("authorization", support::bearer(&key(2)).parse().unwrap());
        assert_eq!(served.send(foreign).await.status, 409);
        let asked = served.send(get(&format!("{path}/publish"))).await;
        assert_eq!((asked.status.as_u16(), asked.headers["allow"].to_str().unwrap()), (405, "POST"));
    }
    assert_eq!(served.send(post("/v1/receipts/none/publish", &json!(null))).await.status, 404);
}

#[tokio::test]
async fn what_was_asked_reaches_the_network_whole() {
    let served = serve().await;
    let extra = json!({
        "messages": [
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": null, "annotations": []},
        ],
        "temperature": -0.0, "top_p": 0.5, "top_k": 4, "min_p": 0.25, "seed": -1, "stop": ["x", "y"],
        "max_completion_tokens": 9, "user": "u", "n": 1, "logit_bias": {}, "response_format": {"type": "text"},
        "tools": null, "openledger": {"deadline_ms": 1_500, "max_price": 77, "quantisation": "Q8_0"},
    });
    let body = chat(extra);
    assert_eq!(served.send(post(CHAT, &body)).await.status, 200);
    let submission = served.backend.submissions.lock().unwrap().pop().unwrap();
    use ol_gateway::backend::{Generate, Message, Payload, Role};
    let message = |role, content: &str| Message { role, content: content.into() };
    let payload = Payload::Chat(vec![
        message(Role::System, "be short"),
        message(Role::User, "ab"),
        message(Role::Assistant, "c"),
    ]);
    let sampling = ol_protocol::sampler::Sampling { temperature: 0.0, top_p: 0.5, top_k: 4, min_p: 0.25 };
    let generate = Generate {
        sampling,
        max_tokens: Some(9),
        stop: vec!["x".into(), "y".into()],
        top_logprobs: None,
        client_seed: Some(u64::MAX),
    };
    assert_eq!((&submission.payload, &submission.generate), (&payload, &Some(generate)));
    assert_eq!(sampling.validated(), Ok(sampling));
    assert_eq!(submission.request_digest, digest(Domain::Request, &[body.to_string().as_bytes()]));
    let policy = (submission.deadline.map(|d| d.0), submission.max_price.map(|p| p.0), submission.quantisation);
    assert_eq!(policy, (Some(1_500_000), Some(77), Some("Q8_0".into())));
}

#[tokio::test]
async fn streaming_does_not_change_the_canonical_digest_and_sampling_does() {
    let served = serve().await;
    for extra in [json!({}), json!({"stream": true, "max_tokens": 3}), json!({"temperature": 0.5})] {
        served.send(post(CHAT, &chat(extra))).await;
    }
    let digests: Vec<_> = served.backend.submissions.lock().unwrap().iter().map(|s| s.canonical).collect();
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}

#[tokio::test]
async fn policy_headers_join_the_body() {
    let served = serve().await;
    let mut with = post(CHAT, &chat(json!({})));
    with.headers_mut().insert("x-openledger-deadline-ms", "250".parse().unwrap());
    assert_eq!(served.send(with).await.status, 200);
    let deadline = served.backend.submissions.lock().unwrap()[0].deadline;
    assert_eq!(deadline, Some(ol_protocol::Micros(250_000)));
}

#[tokio::test]
async fn operators_see_health_and_metrics_without_a_key() {
    let served = serve().await;
    served.send(post(CHAT, &chat(json!({"max_tokens": 2})))).await;
    let mut plain = get("/health");
    plain.headers_mut().remove("authorization");
    let health = served.send(plain).await;
    let expected = json!({"status": "ok", "live": true, "ready": true, "nodes": 1, "reason": null});
    assert_eq!((health.status.as_u16(), health.json()), (200, expected));
    let metrics = served.send(get("/metrics")).await;
    let text = std::str::from_utf8(&metrics.body).unwrap();
    for line in [
        "openledger_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1\n",
        "openledger_tokens_total{gen_ai_token_type=\"output\"} 2\n",
        "openledger_http_tasks_running 0\n",
        "gen_ai_server_time_to_first_token_seconds_count 1\n",
        "scripted 1\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_sane_request_id_is_returned_and_another_replaced() {
    let served = serve().await;
    let with = |id: &str| request("GET", "/health").header("x-request-id", id).body(Default::default()).unwrap();
    assert_eq!(served.send(with("my-id_1.2")).await.header("x-request-id"), Some("my-id_1.2"));
    let replaced = served.send(with("a b")).await;
    assert!(replaced.header("x-request-id").unwrap().starts_with("req-"));
}

#[tokio::test]
async fn an_answer_that_waits_for_its_audit_is_reported_before_it_goes_out() {
    let mut served = serve().await;
    let policy = json!({"min_trust": 0.99});
    let body = json!({"model": "confirmed", "seed": 7, "max_tokens": 3, "openledger": policy});
    let whole = served.send(post(CHAT, &chat(body.clone()))).await;
    assert_eq!(whole.status, 200, "{:?}", whole.body);
    let reported = served.closings.recv().await.unwrap().1;
    assert_eq!((reported.digest, reported.complete), (digest(Domain::Response, &[&whole.body]), true));
    let mut streaming = chat(body);
    streaming["stream"] = true.into();
    let streamed = served.send(post(CHAT, &streaming)).await;
    assert_eq!(served.closings.recv().await.unwrap().1.digest, digest(Domain::Response, &[&streamed.body]));
    let text = whole.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!((streamed.status.as_u16(), streamed_text(&streamed)), (200, text));
    assert_eq!(streamed.events().last().map(String::as_str), Some("[DONE]"));
    let submitted: Vec<_> = served.backend.submissions.lock().unwrap().iter().map(|s| s.min_trust_ppm).collect();
    assert_eq!(submitted, [Some(990_000); 2]);
}

#[tokio::test]
async fn an_answer_whose_audit_failed_is_an_error_however_it_was_asked_for() {
    let mut served = serve().await;
    for stream in [false, true] {
        let mut with = post(CHAT, &chat(json!({"model": "unconfirmed", "stream": stream})));
        with.headers_mut().insert("x-openledger-min-trust", "0.995".parse().unwrap());
        let answer = served.send(with).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (503, &json!("unconfirmed")));
        assert!(answer.header("x-openledger-receipt").is_some());
        // Of what was kept back, once.
        assert!(served.closings.recv().await.unwrap().1.complete);
    }
}
