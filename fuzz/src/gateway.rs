//! What strangers send to a gateway over HTTP, and the documents that a gateway hands out.

use crate::{Heap, Target};
use ol_gateway::driver::document::{Outcome, verify};
use ol_gateway::{ApiKey, Refusal, fuzz};
use serde_json::Value;

/// Trees of JSON: a value is many times its shortest text, and a request is read twice.
const JSON: Heap = Heap { fixed: 256 << 10, per_byte: 512 };

/// The targets.
pub const TARGETS: [Target; 4] = [
    Target { name: "request", seeds: requests, read: read_request, heap: JSON },
    Target { name: "request-header", seeds: headers, read: read_header, heap: Heap::SMALL },
    Target {
        name: "api-key",
        seeds: || vec![ApiKey::from_secret(&[7; 32]).expose().into()],
        read: read_key,
        heap: Heap::SMALL,
    },
    Target { name: "receipt-document", seeds: documents, read: read_document, heap: JSON },
];

fn requests() -> Vec<Vec<u8>> {
    [
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"temperature":0.5,"top_p":0.9,"top_k":3,"min_p":0.1,"max_tokens":3,"seed":-1,"stop":["a","b"],"logprobs":true,"top_logprobs":2,"stream":true,"stream_options":{"include_usage":true},"user":"u","n":1,"openledger":{"quantisation":"Q4_1","deadline_ms":5,"max_price":9}}"#,
        r#"{"model":"m","prompt_tokens":9,"max_tokens":5,"openledger":{"min_trust":0.5}}"#,
        r#"{"model":"m","prompt":"hi","max_tokens":3,"logprobs":1,"echo":false,"suffix":"","best_of":1}"#,
        r#"{"model":"m","input":["hi","you"],"encoding_format":"base64","dimensions":64}"#,
        r#"{"model":"m","messages":[{"role":"system","content":"a"},{"role":"assistant","content":"b"}],"max_completion_tokens":3,"tools":[],"response_format":{"type":"text"},"logit_bias":{},"frequency_penalty":0,"metadata":{}}"#,
    ]
    .map(|body| body.as_bytes().to_vec())
    .to_vec()
}

/// Bytes of a refusal: it repeats 80 letters of a name at most, twice and escaped.
const REFUSAL_BYTES_MAX: usize = 2_048;

// Each body is read as every resource would read it, and as one that asks for a quote. What is taken means the same in any other spelling.
fn read_request(body: &[u8]) {
    if let Err(refusal) = fuzz::quote(body) {
        check_refusal(&refusal);
    }
    for resource in fuzz::RESOURCES {
        let taken = match fuzz::request(resource, body) {
            Ok(taken) => taken,
            Err(refusal) => {
                check_refusal(&refusal);
                continue;
            }
        };
        let value: Value = serde_json::from_slice(body).expect("a body that was taken is JSON");
        let spelled = value.to_string();
        assert_eq!(fuzz::request(resource, spelled.as_bytes()), Ok(taken), "{spelled} means something else");
    }
}

fn check_refusal(refusal: &Refusal) {
    let body = refusal.to_json();
    assert!(body.len() <= REFUSAL_BYTES_MAX && refusal.status().is_client_error(), "{refusal:?}");
}

fn headers() -> Vec<Vec<u8>> {
    ["quantisation Q4_1", "deadline-ms 500", "max-price 7", "quote olq-AAAA", "region eu"]
        .map(|line| line.as_bytes().to_vec())
        .to_vec()
}

fn read_header(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (name, value) = text.split_once(' ').unwrap_or((text, ""));
    if let Err(refusal) = fuzz::policy_header(name, value) {
        check_refusal(&refusal);
    }
}

fn read_key(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(key) = ApiKey::parse(text) {
        assert_eq!(key.expose(), text, "two forms of one key");
    }
}

/// A document as a gateway gave it, and the bodies that it speaks of.
const DOCUMENT: &[u8] = include_bytes!("receipt/receipt.json");
const REQUEST: &[u8] = include_bytes!("receipt/request");
const RESPONSE: &[u8] = include_bytes!("receipt/response");

fn documents() -> Vec<Vec<u8>> {
    vec![DOCUMENT.to_vec()]
}

// Of a document that says anything else than the gateway's, some check fails or stays open.
fn read_document(bytes: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return };
    let Ok(checks) = verify(&document, Some(REQUEST), Some(RESPONSE)) else { return };
    assert!(!checks.is_empty(), "a document that nothing was checked of");
    if checks.iter().all(|check| check.result == Outcome::Holds) {
        let original: Value = serde_json::from_slice(DOCUMENT).expect("it is JSON");
        assert_eq!(document, original, "a document that nobody made holds");
    }
}
