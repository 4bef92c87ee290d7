//! How fast a tenant may ask: a bucket of requests, one of tokens and one of receipts, each refilled evenly over a minute.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ol_protocol::{Micros, TenantId};
use tokio::time::Instant;

use crate::keys::Tenant;
use crate::refusal::{Kind, Refusal};

/// Receipts of a tenant in a minute: one after the other for hours, and far from what keeps the disk busy.
const RECEIPTS_PER_MINUTE: u32 = 6_000;
/// Limit, what is left, and when it is full again.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
/// The same of tokens.
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
/// Longest wait that a refusal names.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// The buckets of all tenants that asked. Bounded by the number of tenants, who are known by their keys.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<BTreeMap<TenantId, Account>>);

#[derive(Debug)]
struct Account {
    requests: Bucket,
    tokens: Bucket,
    receipts: Bucket,
}

/// Tokens set aside for a task; what it did not use returns when this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    limits: Arc<Limits>,
    tenant: TenantId,
    reserved: f64,
    /// What the task used so far.
    pub(crate) used: u64,
}

impl Limits {
    /// Counts one request.
    pub(crate) fn take_request(&self, tenant: &Tenant, now: Instant) -> Result<(), Refusal> {
        let mut accounts = self.lock();
        let bucket = &mut account(&mut accounts, tenant, now).requests;
        bucket.take(1.0).map_err(|wait| limited("requests", tenant.requests_per_minute, wait))
    }

    /// Counts one question for a receipt.
    pub(crate) fn take_receipt(&self, tenant: &Tenant, now: Instant) -> Result<(), Refusal> {
        let mut accounts = self.lock();
        let bucket = &mut account(&mut accounts, tenant, now).receipts;
        bucket.take(1.0).map_err(|wait| limited("questions for receipts", RECEIPTS_PER_MINUTE, wait))
    }

    /// Sets aside tokens; an estimate above the whole bucket needs a full one.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        tenant: &Tenant,
        estimate: u64,
        now: Instant,
    ) -> Result<Reservation, Refusal> {
        let mut accounts = self.lock();
        let bucket = &mut account(&mut accounts, tenant, now).tokens;
        let reserved = (estimate as f64).min(bucket.capacity);
        bucket.take(reserved).map_err(|wait| limited("tokens", tenant.tokens_per_minute, wait))?;
        Ok(Reservation { limits: Arc::clone(self), tenant: tenant.id, reserved, used: 0 })
    }

    /// Says how much is left.
    pub(crate) fn write_headers(&self, tenant: &Tenant, now: Instant, headers: &mut HeaderMap) {
        let mut accounts = self.lock();
        let account = account(&mut accounts, tenant, now);
        for ([limit, remaining, reset], bucket) in [(REQUESTS, &account.requests), (TOKENS, &account.tokens)] {
            headers.insert(limit, HeaderValue::from(bucket.capacity as u64));
            headers.insert(remaining, HeaderValue::from(bucket.level.max(0.0) as u64));
            let wait = HeaderValue::from_str(&span(bucket.wait_for(bucket.capacity))).expect("digits and a unit");
            headers.insert(reset, wait);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(account) = self.limits.lock().get_mut(&self.tenant) {
            let bucket = &mut account.tokens;
            bucket.level = (bucket.level + self.reserved - self.used as f64).min(bucket.capacity);
        }
    }
}

/// Filled at `capacity` a minute. The level falls below zero when a task uses more than was set aside.
#[derive(Debug)]
pub(crate) struct Bucket {
    capacity: f64,
    level: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(capacity: u32, now: Instant) -> Self {
        Self { capacity: f64::from(capacity), level: f64::from(capacity), filled: now }
    }

    /// Adds what has come since, at this many a minute from now on.
    pub(crate) fn fill(&mut self, capacity: u32, now: Instant) {
        let minutes = now.saturating_duration_since(self.filled).as_secs_f64() / 60.0;
        self.capacity = f64::from(capacity);
        self.level = (self.level + minutes * self.capacity).min(self.capacity);
        self.filled = now;
    }

    /// Takes some, or says how long to wait for them.
    pub(crate) fn take(&mut self, amount: f64) -> Result<(), Duration> {
        self.check(amount)?;
        self.level -= amount;
        Ok(())
    }

    /// Whether some could be taken.
    pub(crate) fn check(&self, amount: f64) -> Result<(), Duration> {
        if self.capacity == 0.0 || self.level < amount { Err(self.wait_for(amount)) } else { Ok(()) }
    }

    /// Whether it is as if nothing was ever taken.
    pub(crate) fn is_full(&self) -> bool {
        self.level >= self.capacity
    }

    fn wait_for(&self, amount: f64) -> Duration {
        let seconds = (amount - self.level).max(0.0) / self.capacity * 60.0;
        Duration::try_from_secs_f64(seconds).map_or(WAIT_MAX, |wait| wait.min(WAIT_MAX))
    }
}

fn account<'a>(accounts: &'a mut BTreeMap<TenantId, Account>, tenant: &Tenant, now: Instant) -> &'a mut Account {
    let account = accounts.entry(tenant.id).or_insert_with(|| Account {
        requests: Bucket::full(tenant.requests_per_minute, now),
        tokens: Bucket::full(tenant.tokens_per_minute, now),
        receipts: Bucket::full(RECEIPTS_PER_MINUTE, now),
    });
    account.requests.fill(tenant.requests_per_minute, now);
    account.tokens.fill(tenant.tokens_per_minute, now);
    account.receipts.fill(RECEIPTS_PER_MINUTE, now);
    account
}

/// The refusal of what passes a limit.
pub(crate) fn limited(what: &str, per_minute: u32, wait: Duration) -> Refusal {
    let retry_after = Micros(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
    let message = format!("more than {per_minute} {what} in a minute; try again in {}", span(wait));
    Refusal::new(Kind::RateLimited { retry_after }, message)
}

/// A span as official clients show it.
fn span(wait: Duration) -> String {
    let millis = wait.as_micros().div_ceil(1_000);
    if millis < 1_000 { format!("{millis}ms") } else { format!("{}s", millis.div_ceil(1_000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Tenant {
        Tenant { id: TenantId([1; 16]), name: String::new(), requests_per_minute: 2, tokens_per_minute: 60 }
    }

    #[test]
    fn requests_past_the_limit_wait_for_the_refill() {
        let (limits, tenant, now) = (Limits::default(), tenant(), Instant::now());
        assert_eq!(limits.take_request(&tenant, now), Ok(()));
        assert_eq!(limits.take_request(&tenant, now), Ok(()));
        let kind = Kind::RateLimited { retry_after: Micros::from_secs(30) };
        let refusal = Refusal::new(kind, "more than 2 requests in a minute; try again in 30s");
        assert_eq!(limits.take_request(&tenant, now), Err(refusal));
        assert_eq!(limits.take_request(&tenant, now + Duration::from_secs(31)), Ok(()));
    }

    #[test]
    fn receipts_have_a_limit_of_their_own() {
        let (limits, tenant, now) = (Limits::default(), tenant(), Instant::now());
        let taken = (0..=RECEIPTS_PER_MINUTE).take_while(|_| limits.take_receipt(&tenant, now).is_ok()).count();
        assert_eq!(taken, RECEIPTS_PER_MINUTE as usize);
        assert_eq!(limits.take_request(&tenant, now), Ok(()));
        assert_eq!(limits.take_receipt(&tenant, now + Duration::from_millis(11)), Ok(()));
    }

    #[test]
    fn unused_tokens_return_and_excess_is_owed() {
        let (limits, tenant, now) = (Arc::new(Limits::default()), tenant(), Instant::now());
        let mut reservation = limits.reserve(&tenant, 50, now).unwrap();
        assert!(limits.reserve(&tenant, 20, now).is_err());
        reservation.used = 10;
        drop(reservation);
        let mut large = limits.reserve(&tenant, 50, now).unwrap();
        large.used = 80;
        drop(large);
        let kind = Kind::RateLimited { retry_after: Micros::from_secs(31) };
        let refusal = Refusal::new(kind, "more than 60 tokens in a minute; try again in 31s");
        assert_eq!(limits.reserve(&tenant, 1, now).err(), Some(refusal));
    }
}
