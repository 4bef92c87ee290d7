//! Readers of what strangers send over HTTP, for tests that send anything. Servers go through [`crate::server`].

use std::fmt;

use ol_protocol::{Digest, TenantId};

use crate::backend::QuoteRequest;
use crate::refusal::Refusal;
use crate::request::{Api, Policy, Request};

/// A resource that takes bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource(Api);

/// All of them.
pub const RESOURCES: [Resource; 3] = [Resource(Api::Chat), Resource(Api::Text), Resource(Api::Embeddings)];

/// A request that was taken.
#[derive(PartialEq)]
pub struct Taken {
    request: Request,
    canonical: Digest,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Reads a body as a resource does.
///
/// # Errors
/// Why it is refused.
pub fn request(resource: Resource, body: &[u8]) -> Result<Taken, Refusal> {
    let request = Request::parse(resource.0, body)?;
    Ok(Taken { canonical: request.canonical(), request })
}

/// Reads a body that asks for a quote.
///
/// # Errors
/// Why it is refused.
pub fn quote(body: &[u8]) -> Result<QuoteRequest, Refusal> {
    crate::quote::parse(TenantId([1; 16]), body)
}

/// Reads a header `x-openledger-NAME` of a request that has no other.
///
/// # Errors
/// Why it is refused.
pub fn policy_header(name: &str, value: &str) -> Result<(), Refusal> {
    Policy::default().add_header(name, value)
}
