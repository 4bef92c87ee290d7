//! What happens when clients leave, repeat themselves, or the network or the gateway ends.

mod support;

use std::time::Duration;

use http_body_util::BodyExt as _;
use ol_gateway::server::{Config, Error};
use ol_gateway::{PlainHttp, Server};
use ol_protocol::digest::{Domain, digest};
use serde_json::{Value, json};
use support::{Scripted, config, post, serve, serve_with};

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str, stream: bool) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream})
}

#[tokio::test]
async fn a_client_that_closes_its_stream_cancels_the_task() {
    let mut served = serve().await;
    let (response, driving) = served.open(post(CHAT, &chat("hang", true))).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: {"));
    let sender = served.backend.hanging.lock().unwrap().pop().unwrap();
    drop(body);
    driving.abort();
    sender.closed().await;
    let (_, response) = served.closings.recv().await.unwrap();
    let expected = digest(Domain::Response, &[&first]);
    assert_eq!((response.digest, response.body_bytes, response.complete), (expected, first.len(), false));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_cancels_the_task() {
    let mut served = serve().await;
    for stream in [false, true] {
        let address = served.address;
        let backend = std::sync::Arc::clone(&served.backend);
        let asking = tokio::spawn(async move {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            let io = hyper_util::rt::TokioIo::new(socket);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let _ = tokio::join!(sender.send_request(post(CHAT, &chat("mute", stream))), connection);
        });
        let sender = loop {
            if let Some(sender) = backend.hanging.lock().unwrap().pop() {
                break sender;
            }
            tokio::task::yield_now().await;
        };
        asking.abort();
        sender.closed().await;
        let (_, response) = served.closings.recv().await.unwrap();
        assert_eq!((response.body_bytes, response.complete), (0, false));
    }
}

#[tokio::test]
async fn a_failure_before_the_first_token_is_an_ordinary_error() {
    let served = serve().await;
    let expected = json!({
        "error": {"message": "the node went away", "type": "server_error", "param": null, "code": "node_failed"},
    });
    for stream in [false, true] {
        let answer = served.send(post(CHAT, &chat("break-early", stream))).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (503, expected.clone()));
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert!(answer.header("x-openledger-receipt").is_some());
    }
}

#[tokio::test]
async fn a_failure_in_the_stream_is_its_last_event() {
    let mut served = serve().await;
    let answer = served.send(post(CHAT, &chat("break-late", true))).await;
    let events = answer.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    let expected = json!({
        "error": {"message": "the node went away", "type": "server_error", "param": null, "code": "node_failed"},
    });
    assert_eq!((answer.status.as_u16(), events.len(), last), (200, 4, expected));
    let (_, response) = served.closings.recv().await.unwrap();
    assert_eq!((response.body_bytes, response.complete), (answer.body.len(), true));
    assert_eq!(served.send(post(CHAT, &chat("break-late", false))).await.status, 503);
}

#[tokio::test]
async fn a_task_that_ends_or_stalls_without_a_word_is_a_failure() {
    let mut limits = config();
    limits.stall_time = Duration::from_millis(20);
    let served = serve_with(limits).await;
    for (model, message) in [("lost", "the task ended without an answer"), ("mute", "the task made no progress")] {
        let answer = served.send(post(CHAT, &chat(model, false))).await;
        let expected = json!({
            "error": {"message": message, "type": "server_error", "param": null, "code": "node_failed"},
        });
        assert_eq!((answer.status.as_u16(), answer.json()), (503, expected));
    }
    let answer = served.send(post(CHAT, &chat("hang", true))).await;
    assert!(answer.events().last().unwrap().contains("the task made no progress"));
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_and_no_second_task() {
    let mut served = serve().await;
    let with_key = |body: &Value, key: &'static str| {
        let mut request = post(CHAT, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        request
    };
    let body = chat("words", false);
    let first = served.send(with_key(&body, "k")).await;
    let again = served.send(with_key(&body, "k")).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), (None, Some("true")));
    assert_eq!(first.header("x-openledger-receipt"), again.header("x-openledger-receipt"));
    assert_eq!(served.backend.submissions.lock().unwrap().len(), 1);
    served.closings.recv().await.unwrap();
    let other = served.send(with_key(&chat("vectors", false), "k")).await;
    assert_eq!((other.status.as_u16(), &other.json()["error"]["code"]), (422, &json!("idempotency_key_reused")));
    assert_eq!(served.send(with_key(&chat("words", true), "fresh")).await.status, 200);
    let empty = served.send(with_key(&body, "")).await;
    assert_eq!((empty.status.as_u16(), &empty.json()["error"]["param"]), (400, &json!("Idempotency-Key")));
}

#[tokio::test]
async fn a_concurrent_repetition_conflicts_until_the_first_has_ended() {
    let mut served = serve().await;
    let with_key = |body: &Value| {
        let mut request = post(CHAT, body);
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let body = chat("hang", true);
    let (response, driving) = served.open(with_key(&body)).await;
    let answer = served.send(with_key(&body)).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (409, &json!("idempotency_key_in_use")));
    drop(response);
    driving.abort();
    served.closings.recv().await.unwrap();
    let (response, _driving) = served.open(with_key(&body)).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn shutting_down_lets_answers_end_and_takes_no_more() {
    let served = serve().await;
    let (response, _driving) = served.open(post(CHAT, &chat("hang", true))).await;
    let sender = served.backend.hanging.lock().unwrap().pop().unwrap();
    served.stop.send(()).unwrap();
    while tokio::net::TcpStream::connect(served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    drop(sender);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("the task ended without an answer"));
    served.server.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_never_ends_does_not_stop_the_end() {
    let mut limits = config();
    limits.drain_time = Duration::from_millis(20);
    let mut served = serve_with(limits).await;
    let (_response, _driving) = served.open(post(CHAT, &chat("hang", true))).await;
    served.stop.send(()).unwrap();
    served.server.await.unwrap();
    assert!(!served.closings.recv().await.unwrap().1.complete);
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_others_to_end() {
    let mut limits = config();
    limits.connections_max = 1;
    let served = serve_with(limits).await;
    let (response, driving) = served.open(post(CHAT, &chat("hang", true))).await;
    let second = tokio::time::timeout(Duration::from_millis(50), served.open(post(CHAT, &chat("words", false)))).await;
    assert!(second.is_err());
    drop(response);
    driving.abort();
    assert_eq!(served.send(post(CHAT, &chat("words", false))).await.status, 200);
}

#[tokio::test]
async fn plain_http_for_other_machines_needs_leave() {
    let (backend, _closings) = Scripted::new();
    let mut open = Config::at("0.0.0.0:0".parse().unwrap());
    let refused = Server::bind(open.clone(), std::sync::Arc::clone(&backend)).await;
    assert!(matches!(refused, Err(Error::NotLoopback { .. })));
    open.plain_http = PlainHttp::Everywhere;
    assert!(Server::bind(open, backend).await.is_ok());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let served = serve().await;
    let (backend, _closings) = Scripted::new();
    let taken = Server::bind(Config::at(served.address), backend).await;
    let error = taken.err().expect("the port is taken");
    assert_eq!(error.to_string(), format!("cannot listen on {}", served.address));
}

// The attack: connections that send a byte and then nothing, as many as there may be.
#[tokio::test]
async fn connections_that_ask_for_nothing_make_room_for_one_that_does() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut limits = config();
    limits.connections_max = 3;
    let served = serve_with(limits).await;
    let (_response, _driving) = served.open(post(CHAT, &chat("hang", true))).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        let mut socket = tokio::net::TcpStream::connect(served.address).await.unwrap();
        socket.write_all(b"P").await.unwrap();
        silent.push(socket);
    }
    assert_eq!(served.send(post(CHAT, &chat("words", false))).await.status, 200);
    // The first of them were closed for it.
    let mut nothing = [0];
    assert_eq!(silent[0].read(&mut nothing).await.unwrap_or(0), 0);
}
