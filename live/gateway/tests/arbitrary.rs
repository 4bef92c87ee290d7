//! Whatever a body says, the answer is a well-formed one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use http_body_util::Full;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use support::{Answer, Served, request, serve};

const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];
const NAMES: [&str; 24] = [
    "model",
    "messages",
    "prompt",
    "input",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "n",
    "stream",
    "stream_options",
    "user",
    "openledger",
    "tools",
    "dimensions",
    "encoding_format",
    "logit_bias",
    "other",
];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..3_u8).prop_map(Value::from),
        prop_oneof![Just("words"), Just("vectors"), Just("user"), Just("text"), Just("base64")].prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names = prop_oneof![
            proptest::sample::select(&["role", "content", "type", "text", "include_usage", "deadline_ms"][..])
                .prop_map(str::to_owned),
            ".{0,6}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names, inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that is right but for some members.
fn nearly_right() -> impl Strategy<Value = Value> {
    let changes = proptest::collection::vec((proptest::sample::select(&NAMES[..]), json_value()), 0..4);
    (0..3_usize, changes).prop_map(|(kind, changes)| {
        let mut body = [
            json!({"model": "words", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
            json!({"model": "words", "prompt": "hi", "max_tokens": 3}),
            json!({"model": "vectors", "input": ["hi"]}),
        ][kind]
            .clone();
        for (name, value) in changes {
            body[name] = value;
        }
        body
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => nearly_right().prop_map(|value| value.to_string().into_bytes()),
        2 => json_value().prop_map(|value| value.to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

fn check(answer: &Answer) -> Result<(), String> {
    let status = answer.status.as_u16();
    if status == 200 && answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return if answer.body.ends_with(b"data: [DONE]\n\n") { Ok(()) } else { Err("a stream without end".into()) };
    }
    let json: Value = serde_json::from_slice(&answer.body).map_err(|cause| cause.to_string())?;
    let error = json["error"].as_object();
    match (status, error) {
        (200, None) if json["object"].is_string() => Ok(()),
        (400..=499, Some(error)) if error.len() == 4 && error["message"].is_string() => Ok(()),
        _ => Err(format!("{status} {json}")),
    }
}

async fn ask(served: &Served, path: &str, body: Vec<u8>) -> Answer {
    served.send(request("POST", path).body(Full::new(Bytes::from(body))).unwrap()).await
}

#[test]
fn no_body_is_answered_with_less_than_a_refusal() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = runtime.block_on(serve());
    let mut runner = TestRunner::new(Config { cases: 1_500, failure_persistence: None, ..Config::default() });
    let cases = (proptest::sample::select(&PATHS[..]), body());
    let result = runner.run(&cases, |(path, body)| {
        let answer = runtime.block_on(ask(&served, path, body));
        check(&answer).map_err(TestCaseError::fail)
    });
    assert_eq!(result.map_err(|error| error.to_string()), Ok(()));
}
