//! Caches of sequences that ended, for those that begin with the same ids: the next turn of a conversation repeats all before it.
//!
//! A token's keys and values are the same bits whatever came with it in a pass (`kernel`, `attention`), so that a sequence may begin at
//! any position of another one's.

use std::collections::VecDeque;

use ol_protocol::Scope;

use crate::attention::Cache;
use crate::llama::Llama;

/// Of the room that the weights take, the part that caches may take which nobody uses now: whoever has memory for a model has as much
/// again of it for what runs.
const SHARE_OF_WEIGHTS: usize = 2;
/// Fewest tokens that are worth a look: less is computed in the step that gives the first token.
const TOKENS_MIN: usize = 16;

/// What a sequence left behind.
pub(crate) struct Resident {
    scope: Scope,
    /// What the cache holds, each id one position.
    ids: Vec<u32>,
    cache: Cache,
}

impl Resident {
    /// The keys and values of these ids in this scope; as many as the cache holds.
    pub(crate) fn new(scope: Scope, ids: &[u32], cache: Cache) -> Self {
        Self { scope, ids: ids[..cache.len()].to_vec(), cache }
    }

    /// Tokens that need not be computed.
    pub(crate) const fn tokens(&self) -> usize {
        self.cache.len()
    }

    /// The cache alone.
    pub(crate) fn into_cache(self) -> Cache {
        self.cache
    }

    fn truncate(&mut self, tokens: usize) {
        self.ids.truncate(tokens);
        self.cache.truncate(tokens);
    }

    fn common(&self, ids: &[u32]) -> usize {
        self.ids.iter().zip(ids).take_while(|(own, other)| own == other).count()
    }
}

/// Such caches, up to a number of tokens; what was not used for the longest time goes first.
pub(crate) struct Kept {
    entries: VecDeque<Resident>,
    tokens_max: usize,
}

impl Kept {
    /// Room for the caches of a model.
    pub(crate) fn new(model: &Llama) -> Self {
        let tokens_max = model.weights() / SHARE_OF_WEIGHTS / model.values_per_token().max(1);
        Self { entries: VecDeque::new(), tokens_max }
    }

    /// The longest cache of the scope that begins as these ids do, with at most `limit` of them. What is mostly used goes over to the
    /// caller; of what is used in a smaller part, as where conversations share their instructions, the caller gets a copy.
    pub(crate) fn take(&mut self, scope: Scope, ids: &[u32], limit: usize) -> Option<Resident> {
        let ids = &ids[..limit.min(ids.len())];
        let in_scope = self.entries.iter().enumerate().filter(|(_, entry)| entry.scope == scope);
        let (common, at) = in_scope.map(|(at, entry)| (entry.common(ids), at)).max()?;
        if common < TOKENS_MIN {
            return None;
        }
        let mut entry = self.entries.remove(at)?;
        if entry.tokens() > 2 * common {
            let copy = Resident::new(scope, ids, entry.cache.first(common));
            self.entries.push_back(entry);
            return Some(copy);
        }
        entry.truncate(common);
        Some(entry)
    }

    /// Keeps a cache, and drops those that it holds all of.
    pub(crate) fn put(&mut self, mut new: Resident) {
        new.truncate(self.tokens_max.min(new.tokens()));
        if new.tokens() < TOKENS_MIN {
            return;
        }
        let holds =
            |one: &Resident, other: &Resident| one.scope == other.scope && one.common(&other.ids) == other.ids.len();
        if let Some(at) = self.entries.iter().position(|entry| holds(entry, &new)) {
            let known = self.entries.remove(at);
            return self.entries.extend(known);
        }
        self.entries.retain(|entry| !holds(&new, entry));
        new.cache.shrink();
        self.entries.push_back(new);
        let mut tokens: usize = self.entries.iter().map(Resident::tokens).sum();
        while tokens > self.tokens_max
            && let Some(oldest) = self.entries.pop_front()
        {
            tokens -= oldest.tokens();
        }
    }
}
