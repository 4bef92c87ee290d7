//! What issuer and owner tell a gateway over HTTP. It carries their signature, so it needs no key: anyone may pass it on.

use crate::backend::{Backend, Instruction};
use crate::body::{self, BodyLimits};
use crate::json;
use crate::refusal::{Kind, Refusal};
use axum::body::Body;
use ol_protocol::id::unhex_all;
use ol_protocol::parameters::ParameterChange;
use ol_protocol::tenant::TenantEntry;
use ol_protocol::top_up::TopUp;
use serde_json::Value;

/// The resources.
pub(crate) const PATHS: [&str; 3] = ["/v1/top-ups", "/v1/parameters", "/v1/tenants"];

/// Longest body: the longest instruction has some 400 bytes.
const BODY_BYTES_MAX: usize = 4_096;

/// Takes an instruction. It holds when this returns: it is on the disk.
pub(crate) async fn take<B: Backend>(backend: &B, path: &str, body: Body, limits: BodyLimits) -> Result<(), Refusal> {
    let body = body::read(body, BodyLimits { bytes_max: BODY_BYTES_MAX, ..limits }).await?;
    let mut fields = json::object(&body)?;
    let bytes = match fields.take("signed") {
        Some(Value::String(hex)) => unhex_all(&hex).ok_or_else(|| bad("`signed` must be hexadecimal digits"))?,
        Some(_) | None => return Err(bad("`signed` must be what was signed, in hexadecimal digits")),
    };
    if let Some(name) = fields.rest().1.keys().next() {
        return Err(Refusal::invalid(name.as_str(), "beside `signed` nothing is read"));
    }
    backend.instruct(parse(path, &bytes).map_err(|cause| bad(&cause.to_string()))?).await
}

fn parse(path: &str, bytes: &[u8]) -> Result<Instruction, ol_protocol::bytes::Error> {
    match path {
        "/v1/top-ups" => TopUp::from_bytes(bytes).map(Instruction::TopUp),
        "/v1/parameters" => ParameterChange::from_bytes(bytes).map(Instruction::Parameters),
        _ => TenantEntry::from_bytes(bytes).map(Instruction::Tenant),
    }
}

fn bad(message: &str) -> Refusal {
    Refusal::new(Kind::Invalid { param: Some("signed".into()) }, message)
}
