//! A small HTTP client: `up` asks itself one real request through it, and `verify` reads a log.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::header::RETRY_AFTER;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for a response: what the gateway itself allows a request.
const LIMIT: Duration = Duration::from_secs(600);

/// Longest body that is read: a response of a million tokens, or a tile of the longest records.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Asks one gateway with one key.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    base: String,
    key: Option<String>,
}

/// A response.
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// When to ask again, if the answer says.
    pub(crate) retry_after: Option<Duration>,
    /// The bytes.
    pub(crate) body: Bytes,
}

impl Response {
    /// The body of a success; the error's message otherwise.
    pub(crate) fn json(&self) -> anyhow::Result<serde_json::Value> {
        let value: serde_json::Value = serde_json::from_slice(&self.body).context("the answer is not JSON")?;
        if self.status == 200 {
            return Ok(value);
        }
        bail!("status {}: {}", self.status, value["error"]["message"].as_str().unwrap_or("no message"))
    }
}

impl Client {
    /// For the gateway at an address.
    pub(crate) fn new(address: SocketAddr, key: &str) -> Self {
        Self::to(&format!("http://{address}")).with_key(key)
    }

    /// For whatever is under an address that begins with `http://`, without a key.
    pub(crate) fn to(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Self { pool, base: base.to_owned(), key: None }
    }

    /// With a key.
    pub(crate) fn with_key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    /// Sends a JSON body.
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Response> {
        self.send("POST", path, body).await
    }

    /// Fetches.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.send("GET", path, Vec::new()).await
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Response> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let response = self.pool.request(request).await?;
            let status = response.status().as_u16();
            let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok(Response { status, retry_after, body })
        };
        tokio::time::timeout(LIMIT, exchange).await.context("the gateway did not answer in time")?
    }
}
