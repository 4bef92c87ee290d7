//! What clients get for bad requests: the whole error, each time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use support::{bearer, config, get, key, post, request, serve, serve_with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const EMBED: &str = "/v1/embeddings";

fn error(message: &str, kind: &str, param: Value, code: Value) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

fn invalid(param: &str, message: &str) -> Value {
    error(message, "invalid_request_error", param.into(), Value::Null)
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "words", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn message(message: Value) -> Value {
    chat(json!({"messages": [message]}))
}

fn text(extra: Value) -> Value {
    let mut body = json!({"model": "words", "prompt": "hi"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn embed(input: Value) -> Value {
    json!({"model": "vectors", "input": input})
}

#[tokio::test]
async fn every_wrong_parameter_is_refused_by_name() {
    let served = serve().await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let long = "x".repeat(257);
    let many: Vec<&str> = vec!["x"; 257];
    let cases = [
        (CHAT, json!({"messages": []}), "model", "`model` is missing"),
        (CHAT, chat(json!({"model": 3})), "model", "`model` must be a string, not a number"),
        (CHAT, chat(json!({"model": ""})), "model", "`model` must not be empty"),
        (CHAT, json!({"model": "words"}), "messages", "`messages` is missing"),
        (CHAT, chat(json!({"messages": []})), "messages", "`messages` must not be empty"),
        (CHAT, chat(json!({"messages": "hi"})), "messages", "`messages` must be an array, not a string"),
        (CHAT, message(json!("hi")), "messages[0]", "`messages[0]` must be an object, not a string"),
        (CHAT, message(json!({"content": "x"})), "messages[0].role", "`messages[0].role` is missing"),
        (
            CHAT,
            message(json!({"role": "tool", "content": "x"})),
            "messages[0].role",
            "`messages[0].role` `tool` is not supported",
        ),
        (
            CHAT,
            message(json!({"role": "king", "content": "x"})),
            "messages[0].role",
            "`messages[0].role` must be `system`, `developer`, `user` or `assistant`",
        ),
        (CHAT, message(json!({"role": "user"})), "messages[0].content", "`messages[0].content` is missing"),
        (
            CHAT,
            message(json!({"role": "user", "content": 1})),
            "messages[0].content",
            "`messages[0].content` must be a string or an array of text parts, not a number",
        ),
        (
            CHAT,
            message(json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})),
            "messages[0].content[0].type",
            "`messages[0].content[0].type` must be `text`",
        ),
        (
            CHAT,
            message(json!({"role": "user", "content": "x", "name": "bob"})),
            "messages[0].name",
            "`messages[0].name` is not supported",
        ),
        (
            CHAT,
            message(json!({"role": "user", "content": "x", "mood": 1})),
            "messages[0].mood",
            "`messages[0].mood` is not a parameter of this request",
        ),
        (CHAT, chat(json!({"temperature": 2.5})), "temperature", "`temperature` must be from 0 to 2, not 2.5"),
        (CHAT, chat(json!({"temperature": "hot"})), "temperature", "`temperature` must be a number, not a string"),
        (CHAT, chat(json!({"top_p": -0.1})), "top_p", "`top_p` must be from 0 to 1, not -0.1"),
        (CHAT, chat(json!({"top_k": -1})), "top_k", "`top_k` must be from 0 to 4294967295, not -1"),
        (CHAT, chat(json!({"min_p": 2})), "min_p", "`min_p` must be from 0 to 1, not 2"),
        (CHAT, chat(json!({"seed": 1.5})), "seed", "`seed` must be an integer of 64 bits, not a number"),
        (CHAT, chat(json!({"max_tokens": 0})), "max_tokens", "`max_tokens` must be from 1 to 4294967295, not 0"),
        (
            CHAT,
            chat(json!({"max_tokens": 1, "max_completion_tokens": 2})),
            "max_completion_tokens",
            "`max_tokens` and `max_completion_tokens` must not differ",
        ),
        (CHAT, chat(json!({"stop": 1})), "stop", "`stop` must be a string or an array of strings, not a number"),
        (CHAT, chat(json!({"stop": [""]})), "stop", "a string of `stop` must have 1 to 256 bytes"),
        (CHAT, chat(json!({"stop": long})), "stop", "a string of `stop` must have 1 to 256 bytes"),
        (CHAT, chat(json!({"stop": ["a", "b", "c", "d", "e"]})), "stop", "`stop` must have at most 4 strings, not 5"),
        (CHAT, chat(json!({"logprobs": 1})), "logprobs", "`logprobs` must be a boolean, not a number"),
        (CHAT, chat(json!({"top_logprobs": 1})), "top_logprobs", "`top_logprobs` needs `logprobs` to be true"),
        (
            CHAT,
            chat(json!({"logprobs": true, "top_logprobs": 21})),
            "top_logprobs",
            "`top_logprobs` must be from 0 to 20, not 21",
        ),
        (CHAT, chat(json!({"n": 2})), "n", "`n` must be 1"),
        (CHAT, chat(json!({"stream": "yes"})), "stream", "`stream` must be a boolean, not a string"),
        (CHAT, chat(json!({"stream_options": {}})), "stream_options", "`stream_options` needs `stream` to be true"),
        (
            CHAT,
            chat(json!({"stream": true, "stream_options": {"speed": 1}})),
            "stream_options.speed",
            "`stream_options.speed` is not a parameter of this request",
        ),
        (CHAT, chat(json!({"tools": tools})), "tools", "`tools` is not supported"),
        (
            CHAT,
            chat(json!({"response_format": {"type": "json_object"}})),
            "response_format",
            "`response_format` is not supported",
        ),
        (CHAT, chat(json!({"logit_bias": {"1": 2}})), "logit_bias", "`logit_bias` is not supported"),
        (CHAT, chat(json!({"presence_penalty": 1})), "presence_penalty", "`presence_penalty` is not supported"),
        (CHAT, chat(json!({"store": true})), "store", "`store` is not supported"),
        (CHAT, chat(json!({"user": 1})), "user", "`user` must be a string, not a number"),
        (CHAT, chat(json!({"temprature": 1})), "temprature", "`temprature` is not a parameter of this request"),
        (CHAT, chat(json!({"openledger": 1})), "openledger", "`openledger` must be an object, not a number"),
        (
            CHAT,
            chat(json!({"openledger": {"region": "Europe"}})),
            "openledger.region",
            "`openledger.region`: the name of a region has 1 to 24 of the characters a to z, 0 to 9 and -",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"region": "eu", "prefer_region": "eu"}})),
            "openledger.prefer_region",
            "`openledger.region` allows no other region: leave `openledger.prefer_region` out",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"tier": "99.99"}})),
            "openledger.tier",
            "`openledger.tier` must be `standard`, `99` or `99.9`",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"confidential": true}})),
            "openledger.confidential",
            "`openledger.confidential` is not supported",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"min_trust": 1}})),
            "openledger.min_trust",
            "`openledger.min_trust` must be a number above 0 and below 1",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"min_trust": "much"}})),
            "openledger.min_trust",
            "`openledger.min_trust` must be a number, not a string",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"deadline_ms": 0}})),
            "openledger.deadline_ms",
            "`openledger.deadline_ms` must be from 1 to 86400000, not 0",
        ),
        (
            CHAT,
            chat(json!({"openledger": {"colour": 1}})),
            "openledger.colour",
            "`openledger.colour` is not a parameter of this request",
        ),
        (TEXT, json!({"model": "words"}), "prompt", "`prompt` is missing"),
        (
            TEXT,
            text(json!({"prompt": ["a", "b"]})),
            "prompt",
            "`prompt` must be one string; arrays of several prompts or of token ids are not supported",
        ),
        (TEXT, text(json!({"echo": true})), "echo", "`echo` is not supported"),
        (TEXT, text(json!({"best_of": 2})), "best_of", "`best_of` must be 1"),
        (TEXT, text(json!({"suffix": "x"})), "suffix", "`suffix` is not supported"),
        (TEXT, text(json!({"logprobs": 6})), "logprobs", "`logprobs` must be from 0 to 5, not 6"),
        (TEXT, text(json!({"messages": []})), "messages", "`messages` is not a parameter of this request"),
        (EMBED, json!({"model": "vectors"}), "input", "`input` is missing"),
        (EMBED, embed(json!([])), "input", "`input` must have 1 to 256 texts, not 0"),
        (EMBED, embed(json!(many)), "input", "`input` must have 1 to 256 texts, not 257"),
        (EMBED, embed(json!("")), "input", "`input[0]` must not be empty"),
        (EMBED, embed(json!([1, 2])), "input", "token ids as `input` are not supported: send texts"),
        (EMBED, embed(json!([true])), "input[0]", "`input[0]` must be a string, not a boolean"),
        (
            EMBED,
            json!({"model": "vectors", "input": "x", "encoding_format": "int8"}),
            "encoding_format",
            "`encoding_format` must be `float` or `base64`",
        ),
        (
            EMBED,
            json!({"model": "vectors", "input": "x", "temperature": 1}),
            "temperature",
            "`temperature` is not a parameter of this request",
        ),
        (EMBED, json!({"model": "words", "input": "x"}), "model", "this model does other work"),
    ];
    for (path, body, param, message) in cases {
        let answer = served.send(post(path, &body)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (400, invalid(param, message)), "{path} {body}");
    }
    assert_eq!(served.backend.submissions.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn other_dimensions_than_the_models_are_refused_without_a_retry() {
    let served = serve().await;
    let body = json!({"model": "vectors", "input": "one text", "dimensions": 100});
    let answer = served.send(post(EMBED, &body)).await;
    let expected = invalid("dimensions", "`dimensions` must be 384, which is what this model gives");
    assert_eq!((answer.status.as_u16(), answer.json()), (400, expected));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn what_is_not_an_object_in_json_is_refused() {
    let served = serve().await;
    let cases: [(&[u8], &str); 7] = [
        (b"", "the body is not valid JSON: line 1, column 0"),
        (b"{\"model\": ", "the body is not valid JSON: line 1, column 10"),
        (b"[1]", "the body must be a JSON object, not an array"),
        (b"\"text\"", "the body must be a JSON object, not a string"),
        (b"{\"model\": \"a\", \"model\": \"b\"}", "the body names a JSON member twice"),
        (b"{\"messages\": [{\"role\": \"user\", \"role\": \"user\"}]}", "the body names a JSON member twice"),
        (b"{\"model\": \"\xff\"}", "the body is not valid JSON: line 1, column 12"),
    ];
    for (body, message) in cases {
        let body = Full::new(Bytes::copy_from_slice(body));
        let answer = served.send(request("POST", CHAT).body(body).unwrap()).await;
        let expected = error(message, "invalid_request_error", Value::Null, Value::Null);
        assert_eq!((answer.status.as_u16(), answer.json()), (400, expected));
    }
    let deep = Full::new(Bytes::from("[".repeat(100_000)));
    assert_eq!(served.send(request("POST", CHAT).body(deep).unwrap()).await.status, 400);
}

#[tokio::test]
async fn missing_malformed_and_wrong_keys_are_told_apart() {
    let served = serve().await;
    let missing = "no API key: send it as `Authorization: Bearer ol-...`";
    let malformed = "the header `Authorization` must be `Bearer` and an API key";
    let unknown = "this API key is not known here";
    let stranger = bearer(&key(9));
    let cases = [
        (None, missing),
        (Some("ol-x"), malformed),
        (Some("Basic dTpw"), malformed),
        (Some("Bearer "), malformed),
        (Some("Bearer ol-x"), unknown),
        (Some(&*stranger), unknown),
    ];
    for (header, message) in cases {
        for (method, path) in
            [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/words"), ("GET", "/v1/receipts/00")]
        {
            let mut builder = Request::builder().method(method).uri(path).header("host", "test");
            if let Some(header) = header {
                builder = builder.header("authorization", header);
            }
            let answer = served.send(builder.body(Full::default()).unwrap()).await;
            let expected = error(message, "authentication_error", Value::Null, "invalid_api_key".into());
            assert_eq!((answer.status.as_u16(), answer.json()), (401, expected), "{header:?} {path}");
        }
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_refused_in_the_same_form() {
    let served = serve().await;
    let not_found = error("there is nothing at this path", "invalid_request_error", Value::Null, "not_found".into());
    for path in ["/", "/v1", "/v1/files", "/v1/chat", "/V1/models", "/v1/receipts"] {
        let answer = served.send(get(path)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (404, not_found.clone()), "{path}");
    }
    let wrong = |message: &str| error(message, "invalid_request_error", Value::Null, "method_not_allowed".into());
    for (method, path, allow, message) in [
        ("GET", CHAT, "POST", "this path is not for GET but for POST"),
        ("DELETE", "/v1/models/words", "GET, HEAD", "this path is not for DELETE but for GET, HEAD"),
    ] {
        let answer = served.send(request(method, path).body(Full::default()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (405, wrong(message)));
        assert_eq!(answer.header("allow"), Some(allow));
    }
    let no_model =
        error("there is no model of this name", "invalid_request_error", "model".into(), "model_not_found".into());
    assert_eq!(served.send(get("/v1/models/no/such")).await.json(), no_model);
    let no_receipt = error("you have no receipt of this id", "invalid_request_error", Value::Null, "not_found".into());
    for id in ["x".to_owned(), "00".repeat(16)] {
        let answer = served.send(get(&format!("/v1/receipts/{id}"))).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (404, no_receipt.clone()));
    }
}

#[tokio::test]
async fn what_the_network_refuses_has_its_status_code_and_waits() {
    let served = serve().await;
    let says = "as the script says";
    let error = |kind: &str, code: &str| error(says, kind, Value::Null, code.into());
    type Waits<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);
    let cases: [(&str, u16, Value, Waits<'_>); 5] = [
        ("poor", 429, error("insufficient_quota", "insufficient_quota"), (Some("60"), Some("60000"), Some("false"))),
        ("busy", 503, error("server_error", "overloaded"), (Some("2"), Some("1500"), None)),
        ("late", 408, error("server_error", "deadline_exceeded"), (None, None, None)),
        ("long", 400, error("invalid_request_error", "context_length_exceeded"), (None, None, None)),
        ("ending", 503, error("server_error", "shutting_down"), (Some("1"), Some("1000"), None)),
    ];
    for stream in [false, true] {
        for (model, status, body, waits) in &cases {
            let answer = served.send(post(CHAT, &chat(json!({"model": model, "stream": stream})))).await;
            assert_eq!((answer.status.as_u16(), &answer.json()), (*status, body), "{model}");
            let found = ["retry-after", "retry-after-ms", "x-should-retry"].map(|name| answer.header(name));
            assert_eq!(found, [waits.0, waits.1, waits.2], "{model}");
        }
    }
    let unknown = served.send(post(CHAT, &chat(json!({"model": "gpt"})))).await;
    let body = json!({"error": {"message": "there is no model of this name", "type": "invalid_request_error",
        "param": "model", "code": "model_not_found"}});
    assert_eq!((unknown.status.as_u16(), unknown.json()), (404, body));
}

#[tokio::test]
async fn a_refusal_by_policy_lists_the_gates() {
    let served = serve().await;
    let answer = served.send(post(CHAT, &chat(json!({"model": "barred"})))).await;
    let expected = json!({
        "error": {"message": "no node may serve this", "type": "server_error", "param": null, "code": "unservable"},
        "openledger": {
            "why": ["node-a: trust 0.2 below 0.5", "node-b: region eu"],
            "gates": [
                {"gate": "variant", "passed": true, "message": "2 nodes serve it", "nodes": 2},
                {
                    "gate": "trust", "passed": false, "message": "node-a: trust 0.2 below 0.5",
                    "best_ppm": 200_000, "needed_ppm": 500_000,
                },
                {"gate": "region", "passed": false, "message": "node-b: region eu", "node": "node-b"},
            ],
        },
    });
    assert_eq!((answer.status.as_u16(), answer.json()), (503, expected));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let served = serve().await;
    let expected = error(
        "the body passes the limit of 1048576 bytes",
        "invalid_request_error",
        Value::Null,
        "body_too_large".into(),
    );
    for length in [(1 << 20) + 1, 6 << 20] {
        let body = Full::new(Bytes::from(vec![b' '; length]));
        let answer = served.send(request("POST", CHAT).body(body).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (413, expected.clone()));
    }
    let mut body = chat(json!({})).to_string();
    body.push_str(&" ".repeat((1 << 20) - body.len()));
    assert_eq!(served.send(request("POST", CHAT).body(Full::new(Bytes::from(body))).unwrap()).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut limits = config();
    limits.body_time = Duration::from_millis(20);
    let served = serve_with(limits).await;
    let mut socket = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: test\r\nauthorization: {}\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{{",
        bearer(&key(1))
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn another_media_type_is_refused() {
    let served = serve().await;
    let form = request("POST", CHAT).header("content-type", "text/plain").body(Full::new(Bytes::from("x"))).unwrap();
    let answer = served.send(form).await;
    let expected = error(
        "the header `Content-Type` must be `application/json`",
        "invalid_request_error",
        Value::Null,
        "unsupported_media_type".into(),
    );
    assert_eq!((answer.status.as_u16(), answer.json()), (415, expected));
}

#[tokio::test]
async fn a_policy_header_that_is_unknown_or_contradicts_the_body_is_refused() {
    let served = serve().await;
    let body = chat(json!({"openledger": {"deadline_ms": 5}}));
    for (name, value, message) in [
        (
            "x-openledger-region",
            "EU",
            "`x-openledger-region`: the name of a region has 1 to 24 of the characters a to z, 0 to 9 and -",
        ),
        ("x-openledger-min-trust", "high", "`x-openledger-min-trust` must be a number above 0 and below 1"),
        ("x-openledger-min-trust", "NaN", "`x-openledger-min-trust` must be a number above 0 and below 1"),
        ("x-openledger-deadline-ms", "soon", "`x-openledger-deadline-ms` must be an integer from 1 to 86400000"),
        ("x-openledger-deadline-ms", "6", "`x-openledger-deadline-ms` and the body's `openledger` must not differ"),
    ] {
        let mut request = post(CHAT, &body);
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = served.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (400, invalid(name, message)));
    }
}

#[tokio::test]
async fn an_unknown_policy_header_is_named_by_its_first_80_letters() {
    let served = serve().await;
    let name = format!("x-openledger-{}", "a".repeat(200));
    let mut request = post(CHAT, &chat(json!({})));
    request.headers_mut().insert(hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(), "1".parse().unwrap());
    let answer = served.send(request).await;
    let shown = &name[..80];
    assert_eq!(answer.json(), invalid(shown, &format!("`{shown}` is not supported")));
}

#[tokio::test]
async fn a_tenant_over_its_limits_waits_and_others_do_not() {
    let served = serve().await;
    let from = |tenant: u8, body: &Value| {
        let mut request = post(CHAT, body);
        request.headers_mut().insert("authorization", bearer(&key(tenant)).parse().unwrap());
        request
    };
    assert_eq!(served.send(from(2, &chat(json!({})))).await.status, 200);
    let limited = served.send(from(2, &chat(json!({})))).await;
    assert_eq!((limited.status.as_u16(), &limited.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert_eq!(limited.header("x-ratelimit-remaining-requests"), Some("0"));
    assert!(limited.header("retry-after").unwrap().parse::<u64>().unwrap() > 50);
    assert_eq!(served.send(from(3, &chat(json!({"max_tokens": 60})))).await.status, 200);
    let limited = served.send(from(3, &chat(json!({"max_tokens": 90})))).await;
    assert_eq!((limited.status.as_u16(), &limited.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert_eq!(served.send(from(1, &chat(json!({})))).await.status, 200);
}
