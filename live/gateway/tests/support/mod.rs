//! A served script and a small client.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "each test file uses some of it")]

pub(crate) mod scripted;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use ol_gateway::backend::ResponseDigest;
use ol_gateway::server::Config;
use ol_gateway::{ApiKey, Server};
use ol_protocol::TaskId;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) use scripted::{Scripted, key};

/// A server for one test.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) backend: Arc<Scripted>,
    pub(crate) closings: mpsc::UnboundedReceiver<(TaskId, ResponseDigest)>,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) server: JoinHandle<()>,
}

/// A response, read to its end.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The data of its events.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.body).unwrap();
        let events = text.strip_suffix("\n\n").expect("ends after an event").split("\n\n");
        events.map(|event| event.strip_prefix("data: ").expect("only data").to_owned()).collect()
    }
}

pub(crate) fn config() -> Config {
    Config::at("127.0.0.1:0".parse().unwrap())
}

pub(crate) async fn serve_with(config: Config) -> Served {
    let (backend, closings) = Scripted::new();
    let server = Server::bind(config, Arc::clone(&backend)).await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Served { address, backend, closings, stop, server }
}

pub(crate) async fn serve() -> Served {
    serve_with(config()).await
}

/// A request with key 1 and a JSON body.
pub(crate) fn request(method: &str, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "test").header("authorization", bearer(&key(1)))
}

pub(crate) fn bearer(key: &ApiKey) -> String {
    format!("Bearer {}", key.expose())
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_string()));
    request("POST", path).header("content-type", "application/json").body(body).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    request("GET", path).body(Full::default()).unwrap()
}

impl Served {
    /// A connection for one request after the other.
    pub(crate) async fn connect(&self) -> (http1::SendRequest<Full<Bytes>>, JoinHandle<()>) {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        let driving = tokio::spawn(async {
            let _ = connection.await;
        });
        (sender, driving)
    }

    /// Sends a request on its own connection and reads the head of the response.
    pub(crate) async fn open(&self, request: Request<Full<Bytes>>) -> (Response<Incoming>, JoinHandle<()>) {
        let (mut sender, driving) = self.connect().await;
        (sender.send_request(request).await.unwrap(), driving)
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (response, _driving) = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}
