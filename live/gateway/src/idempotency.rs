//! Answers kept for a while, so that a repeated request is neither done nor charged twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use ol_protocol::{Digest, TenantId};
use tokio::time::Instant;

use crate::refusal::{Kind, Refusal};

/// How long an answer is kept: beyond any client's retries.
const KEPT: Duration = Duration::from_secs(600);
/// Answers kept.
const ENTRIES_MAX: usize = 4_096;
/// Bytes of bodies kept.
const BYTES_MAX: usize = 64 << 20;
/// Longest key.
pub(crate) const KEY_CHARS_MAX: usize = 255;

type Key = (TenantId, String);

/// A finished answer.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Answers by tenant and key.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    /// Finished ones, oldest first.
    finished: VecDeque<(Instant, Key)>,
    body_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    request: Digest,
    /// `None` while the request is under way.
    answer: Option<Kept>,
}

/// What a key stands for.
#[derive(Debug)]
pub(crate) enum Claim {
    /// A new request.
    New(Slot),
    /// One that has been answered.
    Answered(Kept),
}

/// The right to answer a key; dropped without an answer, the key is free again.
#[derive(Debug)]
pub(crate) struct Slot {
    answers: Arc<Answers>,
    key: Option<Key>,
}

impl Answers {
    /// Claims a key for a request.
    ///
    /// # Errors
    /// The key belongs to another request, or the same one is under way.
    pub(crate) fn claim(
        self: &Arc<Self>,
        tenant: TenantId,
        key: &str,
        request: Digest,
        now: Instant,
    ) -> Result<Claim, Refusal> {
        let mut inner = self.lock();
        inner.expire(now);
        let key = (tenant, key.to_owned());
        match inner.entries.get(&key) {
            None => {
                inner.entries.insert(key.clone(), Entry { request, answer: None });
                Ok(Claim::New(Slot { answers: Arc::clone(self), key: Some(key) }))
            }
            Some(entry) if entry.request != request => {
                Err(Refusal::new(Kind::KeyReused, "this idempotency key was used for another request"))
            }
            Some(Entry { answer: None, .. }) => {
                Err(Refusal::new(Kind::Conflict, "a request with this idempotency key is under way"))
            }
            Some(Entry { answer: Some(kept), .. }) => Ok(Claim::Answered(kept.clone())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn expire(&mut self, now: Instant) {
        while let Some((finished, _)) = self.finished.front() {
            let old = now.saturating_duration_since(*finished) >= KEPT;
            if !old && self.finished.len() <= ENTRIES_MAX && self.body_bytes <= BYTES_MAX {
                break;
            }
            if let Some((_, key)) = self.finished.pop_front()
                && let Some(Entry { answer: Some(kept), .. }) = self.entries.remove(&key)
            {
                self.body_bytes -= kept.body.len();
            }
        }
    }
}

impl Slot {
    /// Keeps the answer.
    pub(crate) fn answer(mut self, kept: Kept, now: Instant) {
        let Some(key) = self.key.take() else { return };
        let mut inner = self.answers.lock();
        if let Some(entry) = inner.entries.get_mut(&key) {
            let length = kept.body.len();
            entry.answer = Some(kept);
            inner.body_bytes += length;
            inner.finished.push_back((now, key));
            inner.expire(now);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.answers.lock().entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId([1; 16]);
    const REQUEST: Digest = Digest([2; 32]);

    fn kept(length: usize) -> Kept {
        Kept { headers: HeaderMap::new(), body: Bytes::from(vec![0; length]) }
    }

    fn slot(answers: &Arc<Answers>, key: &str, now: Instant) -> Slot {
        match answers.claim(TENANT, key, REQUEST, now) {
            Ok(Claim::New(slot)) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_kept_for_ten_minutes_and_no_longer() {
        let (answers, now) = (Arc::new(Answers::default()), Instant::now());
        slot(&answers, "a", now).answer(kept(3), now);
        let later = now + KEPT - Duration::from_secs(1);
        assert!(matches!(answers.claim(TENANT, "a", REQUEST, later), Ok(Claim::Answered(_))));
        assert!(matches!(answers.claim(TENANT, "a", REQUEST, now + KEPT), Ok(Claim::New(_))));
    }

    #[test]
    fn a_key_is_free_again_when_its_request_ends_without_an_answer() {
        let (answers, now) = (Arc::new(Answers::default()), Instant::now());
        let first = slot(&answers, "a", now);
        let refusal = answers.claim(TENANT, "a", REQUEST, now).unwrap_err();
        assert_eq!(refusal.kind, Kind::Conflict);
        drop(first);
        drop(slot(&answers, "a", now));
    }

    #[test]
    fn the_oldest_answers_give_way_when_the_bytes_run_out() {
        let (answers, now) = (Arc::new(Answers::default()), Instant::now());
        slot(&answers, "a", now).answer(kept(BYTES_MAX - 1), now);
        slot(&answers, "b", now).answer(kept(2), now);
        assert!(matches!(answers.claim(TENANT, "a", REQUEST, now), Ok(Claim::New(_))));
        assert!(matches!(answers.claim(TENANT, "b", REQUEST, now), Ok(Claim::Answered(_))));
    }
}
