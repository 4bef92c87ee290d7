//! API keys: made here, kept as digests only.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::{Digest, TenantId};

/// What every key starts with.
pub const PREFIX: &str = "ol-";
/// Letters after the prefix: 32 random bytes in base64url.
pub const SECRET_CHARS: usize = 43;

/// Who asks, and how much may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The account.
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// Requests that may be made in a minute.
    pub requests_per_minute: u32,
    /// Tokens, prompt and output together, that may be used in a minute.
    pub tokens_per_minute: u32,
}

/// A key as its owner holds it. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A fresh key from the system's randomness.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self::from_secret(&secret))
    }

    /// The key with this secret, for tests and for keys derived from a master secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)))
    }

    /// A key as text, if it has a key's form.
    pub fn parse(text: &str) -> Option<Self> {
        is_well_formed(text).then(|| Self(text.to_owned()))
    }

    /// The text to hand to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        key_digest(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

/// What is kept of a key.
pub fn key_digest(key: &str) -> Digest {
    digest(Domain::ApiKey, &[key.as_bytes()])
}

/// Tenants by the digests of their keys.
///
/// A lookup's time depends on the key's digest, which says nothing about how close a wrong key is to a right one.
#[derive(Debug, Clone, Default)]
pub struct ApiKeys(BTreeMap<Digest, Tenant>);

impl ApiKeys {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the key with this digest.
    pub fn insert(&mut self, key: Digest, tenant: Tenant) {
        self.0.insert(key, tenant);
    }

    /// Gives a tenant this key instead of those that it has.
    pub fn replace(&mut self, key: Digest, tenant: Tenant) {
        self.0.retain(|_, known| known.id != tenant.id);
        self.insert(key, tenant);
    }

    /// Forgets the key with this digest; whether it was there.
    pub fn remove(&mut self, key: &Digest) -> bool {
        self.0.remove(key).is_some()
    }

    /// Whose key this is.
    pub fn authenticate(&self, key: &str) -> Option<Tenant> {
        if !is_well_formed(key) {
            return None;
        }
        self.0.get(&key_digest(key)).cloned()
    }
}

fn is_well_formed(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|secret| {
        secret.len() == SECRET_CHARS && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Tenant {
        Tenant { id: TenantId([1; 16]), name: "one".into(), requests_per_minute: 60, tokens_per_minute: 1_000 }
    }

    #[test]
    fn a_key_opens_its_tenant_and_no_other_key_does() {
        let key = ApiKey::from_secret(&[7; 32]);
        let mut keys = ApiKeys::new();
        keys.insert(key.digest(), tenant());
        assert_eq!(keys.authenticate(key.expose()), Some(tenant()));
        assert_eq!(keys.authenticate(ApiKey::from_secret(&[8; 32]).expose()), None);
        assert_eq!(keys.authenticate("ol-short"), None);
        assert!(keys.remove(&key.digest()));
        assert_eq!(keys.authenticate(key.expose()), None);
    }

    #[test]
    fn a_fresh_key_has_the_form_and_is_not_printed() {
        let key = ApiKey::generate().unwrap();
        assert_eq!(key.expose().len(), PREFIX.len() + SECRET_CHARS);
        assert_eq!(ApiKey::parse(key.expose()), Some(key.clone()));
        assert_eq!(format!("{key:?}"), "ApiKey");
    }
}
