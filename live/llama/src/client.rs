//! One server over HTTP: JSON there and back, with a limit on every wait and on every body.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Longest wait for a connection: a server on the same machine or in the same rack takes milliseconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may lie idle: llama-server closes one after 5 s, and a request must not meet that.
const IDLE_LIMIT: Duration = Duration::from_secs(2);
/// Longest body that is read: the log-probabilities of a step take 25 KB, `/props` 60 KB with a long chat template.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;

/// Why a request brought nothing to go on with.
#[derive(Debug, Error)]
pub enum Error {
    /// The request can't be sent, or the connection broke.
    #[error("no response")]
    Request(#[from] RequestError),
    /// Nothing came for too long.
    #[error("no response within {} s", limit.as_secs())]
    Slow {
        /// The limit.
        limit: Duration,
    },
    /// The response is larger than any that is expected.
    #[error("a response of more than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The server refuses.
    #[error("status {status}")]
    Status {
        /// HTTP status code.
        status: u16,
    },
    /// The response is something else.
    #[error("not the JSON expected")]
    Json(#[source] serde_json::Error),
    /// The response holds no log-probabilities.
    #[error("a response without log-probabilities")]
    NoStep,
    /// The response holds too few log-probabilities to choose from, or too many.
    #[error("{found} log-probabilities, expected {expected}")]
    Count {
        /// Those in the response.
        found: usize,
        /// Those asked for.
        expected: usize,
    },
    /// A log-probability can't be right: an id twice or not of this model, or no finite number up to 0.
    #[error("an impossible log-probability of token id {id}")]
    Impossible {
        /// The id.
        id: u32,
    },
}

/// Why a request could not be sent or was not answered.
#[derive(Debug, Error)]
pub enum RequestError {
    /// It can't be put in the form of HTTP.
    #[error("the address can't be used")]
    Form(#[from] hyper::http::Error),
    /// There is no connection.
    #[error("the connection failed")]
    Connection(#[from] hyper_util::client::legacy::Error),
    /// The body broke off.
    #[error("the response broke off")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
}

/// A server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Client {
    /// For the server under an address of the form `http://HOST:PORT`, perhaps with a path. `None` if it has another form.
    pub(crate) fn new(address: &str) -> Option<Self> {
        let base = address.trim_end_matches('/');
        let uri: Uri = base.parse().ok()?;
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return None;
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        let mut builder = Pool::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_LIMIT);
        Some(Self { pool: builder.build(connector), base: base.to_owned() })
    }

    /// The address, as it was given.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Fetches.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, Error> {
        self.exchange("GET", path, Bytes::new(), limit).await
    }

    /// Sends a body.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body).map_err(Error::Json)?;
        self.exchange("POST", path, body.into(), limit).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, Error> {
        let twice = async {
            match self.send(method, path, body.clone()).await {
                // The server may close a kept connection at the moment that a request goes out on it.
                Err(Error::Request(RequestError::Connection(error))) if !error.is_connect() => {
                    self.send(method, path, body).await
                }
                other => other,
            }
        };
        let bytes = tokio::time::timeout(limit, twice).await.map_err(|_| Error::Slow { limit })??;
        serde_json::from_slice(&bytes).map_err(Error::Json)
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(RequestError::Form)?;
        let response = self.pool.request(request).await.map_err(RequestError::Connection)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(Error::Status { status });
        }
        match Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLarge),
            Err(error) => Err(RequestError::Body(error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_http_with_a_host() {
        let good = ["http://127.0.0.1:8080", "http://gpu.example/llama/", "http://[::1]:80/"];
        assert!(good.iter().all(|address| Client::new(address).is_some()));
        let bad = ["127.0.0.1:8080", "https://example:1", "http://", "http:///x", "http://a b", "http://a?b", ""];
        assert_eq!(bad.map(|address| Client::new(address).is_some()), [false; 7]);
    }
}
