//! Why a request gets no answer, and how HTTP says so.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use ol_protocol::Micros;
use ol_sched::Passed;
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// Exact wait for clients that know it, in milliseconds.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Tells official clients not to repeat a request.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Wait before asking for a failed node's task again: time for another node to take over.
const NODE_RETRY: Micros = Micros::from_secs(1);
/// Wait before asking for work that no node can do now: time for one to join.
const JOIN_RETRY: Micros = Micros::from_secs(5);
/// Wait before trying an empty budget again: people fill budgets.
const BUDGET_RETRY: Micros = Micros::from_secs(60);

/// What a refusal is about; each kind has one status and one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A parameter is wrong, unknown or not supported.
    Invalid {
        /// Which one.
        param: Option<String>,
    },
    /// Prompt and output don't fit the model's context.
    TooLong,
    /// No model of this name.
    NotFound,
    /// No resource at this path.
    NoSuchPath,
    /// What was here has been deleted for good.
    Gone,
    /// The resource is not for this method.
    WrongMethod {
        /// The methods it is for.
        allow: &'static str,
    },
    /// No key, or none of ours.
    Unauthorized,
    /// The body is not JSON.
    WrongMediaType,
    /// The body passes the limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    SlowBody,
    /// A request with the same idempotency key is under way.
    Conflict,
    /// The idempotency key belongs to another request.
    KeyReused,
    /// It was done already, or something later holds.
    Superseded,
    /// Signed by somebody who has no say here, or not at all.
    Forbidden,
    /// The quote that it names does not hold for it.
    Quote {
        /// Why, for programs.
        code: &'static str,
    },
    /// The account can't pay for it.
    Budget,
    /// The tenant asks faster than agreed.
    RateLimited {
        /// When it may ask again.
        retry_after: Micros,
    },
    /// All nodes are busy.
    Overloaded {
        /// When it is worth asking again.
        retry_after: Micros,
    },
    /// No connected node can or may do it; the gates say why.
    Unservable,
    /// The client's deadline passed.
    Deadline,
    /// The node failed and no other could take over.
    NodeFailed,
    /// The answer is not trusted as far as the client asked.
    Unconfirmed,
    /// The gateway is about to end.
    ShuttingDown,
    /// A fault of the gateway.
    Internal,
}

/// A gate that a request came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// Its name.
    pub gate: &'static str,
    /// Whether it was passed.
    pub passed: bool,
    /// For people.
    pub message: String,
    /// Which node's it is, if it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its figures by name; the name ends with the unit.
    #[serde(flatten)]
    pub figures: BTreeMap<&'static str, u64>,
}

impl From<&ol_sched::Gate> for Gate {
    fn from(gate: &ol_sched::Gate) -> Self {
        Self {
            gate: gate.name(),
            passed: false,
            message: gate.to_string(),
            node: gate.node().map(|node| node.to_string()),
            figures: gate.figures().into_iter().collect(),
        }
    }
}

impl From<&Passed> for Gate {
    fn from(passed: &Passed) -> Self {
        Self {
            gate: passed.name(),
            passed: true,
            message: passed.to_string(),
            node: None,
            figures: passed.figures().into_iter().collect(),
        }
    }
}

/// Why a request gets no answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct Refusal {
    /// What it is about.
    pub kind: Kind,
    /// For people. Never quotes a prompt or a key.
    pub message: String,
    /// What it passed and what stood in the way, node by node or rule by rule.
    pub gates: Vec<Gate>,
    /// Work was charged, so that a repetition would be charged again.
    pub billed: bool,
}

/// How HTTP says it.
struct Verdict<'a> {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<&'a str>,
    retry_after: Option<Micros>,
    worth_repeating: bool,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorObject<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openledger: Option<Why<'a>>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct Why<'a> {
    why: Vec<&'a str>,
    gates: &'a [Gate],
}

impl Refusal {
    /// A refusal without gates, before any charge.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), gates: Vec::new(), billed: false }
    }

    /// A wrong parameter.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid { param: Some(param.into()) }, message)
    }

    /// The status that HTTP gives it.
    pub fn status(&self) -> StatusCode {
        self.verdict().status
    }

    /// The JSON that clients get, as a body or as an event of a stream.
    pub fn to_json(&self) -> Vec<u8> {
        let verdict = self.verdict();
        let envelope = Envelope {
            error: ErrorObject {
                message: &self.message,
                r#type: verdict.kind,
                param: verdict.param,
                code: verdict.code,
            },
            openledger: (!self.gates.is_empty()).then(|| self.why()),
        };
        serde_json::to_vec(&envelope).expect("strings always serialise")
    }

    fn why(&self) -> Why<'_> {
        let why = self.gates.iter().filter(|gate| !gate.passed).map(|gate| gate.message.as_str()).collect();
        Why { why, gates: &self.gates }
    }

    fn verdict(&self) -> Verdict<'_> {
        let invalid = |status, code| Verdict {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            retry_after: None,
            worth_repeating: true,
        };
        let later = |status, kind, code, retry_after| Verdict {
            status,
            kind,
            code: Some(code),
            param: None,
            retry_after: Some(retry_after),
            worth_repeating: true,
        };
        const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match &self.kind {
            Kind::Invalid { param } => Verdict { param: param.as_deref(), ..invalid(StatusCode::BAD_REQUEST, None) },
            Kind::TooLong => invalid(StatusCode::BAD_REQUEST, Some("context_length_exceeded")),
            Kind::NotFound => {
                Verdict { param: Some("model"), ..invalid(StatusCode::NOT_FOUND, Some("model_not_found")) }
            }
            Kind::NoSuchPath => invalid(StatusCode::NOT_FOUND, Some("not_found")),
            Kind::Gone => invalid(StatusCode::GONE, Some("gone")),
            Kind::WrongMethod { .. } => invalid(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed")),
            Kind::Unauthorized => {
                Verdict { kind: "authentication_error", ..invalid(StatusCode::UNAUTHORIZED, Some("invalid_api_key")) }
            }
            Kind::WrongMediaType => invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_media_type")),
            Kind::BodyTooLarge => invalid(StatusCode::PAYLOAD_TOO_LARGE, Some("body_too_large")),
            Kind::SlowBody => invalid(StatusCode::REQUEST_TIMEOUT, Some("body_timeout")),
            Kind::Conflict => invalid(StatusCode::CONFLICT, Some("idempotency_key_in_use")),
            Kind::Superseded => invalid(StatusCode::CONFLICT, Some("superseded")),
            Kind::Forbidden => {
                Verdict { kind: "permission_error", ..invalid(StatusCode::FORBIDDEN, Some("wrong_signature")) }
            }
            Kind::KeyReused => invalid(StatusCode::UNPROCESSABLE_ENTITY, Some("idempotency_key_reused")),
            Kind::Quote { code } => {
                Verdict { param: Some("openledger.quote"), ..invalid(StatusCode::BAD_REQUEST, Some(code)) }
            }
            Kind::Budget => Verdict {
                worth_repeating: false,
                ..later(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", BUDGET_RETRY)
            },
            Kind::RateLimited { retry_after } => {
                later(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", *retry_after)
            }
            Kind::Overloaded { retry_after } => later(BUSY, "server_error", "overloaded", *retry_after),
            Kind::Unservable => later(BUSY, "server_error", "unservable", JOIN_RETRY),
            Kind::Deadline => {
                Verdict { kind: "server_error", ..invalid(StatusCode::REQUEST_TIMEOUT, Some("deadline_exceeded")) }
            }
            Kind::Unconfirmed => later(BUSY, "server_error", "unconfirmed", NODE_RETRY),
            Kind::NodeFailed => later(BUSY, "server_error", "node_failed", NODE_RETRY),
            Kind::ShuttingDown => later(BUSY, "server_error", "shutting_down", NODE_RETRY),
            Kind::Internal => {
                Verdict { kind: "server_error", ..invalid(StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error")) }
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let verdict = self.verdict();
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = verdict.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = verdict.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.0.div_ceil(1_000_000).max(1)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(wait.0.div_ceil(1_000).max(1)));
        }
        if self.billed || !verdict.worth_repeating {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Kind::WrongMethod { allow } = self.kind {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}
