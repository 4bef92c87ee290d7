//! Which node answered which conversation last: it holds the keys and values of what was said so far, and the next turn repeats that.
//!
//! The gateway needs no word of the nodes for it, as it sent them the earlier turns. What a node says of an attempt (how many tokens of the
//! prompt it had) corrects the memory.

use alloc::collections::BTreeMap;
use ol_protocol::{Digest, NodeId, TokenCount};

/// Conversations that are remembered: more than a thousand nodes keep, some ten each. About 200 bytes each.
const CONVERSATIONS_MAX: usize = 16_384;
/// Beginnings of one conversation that are looked for: who goes back further than sixteen turns begins anew.
pub const PREFIXES_MAX: usize = 16;

/// A pass over fewer tokens takes as long as one over so many: 37 ms for a token against 3.4 ms for each of a prompt, in the figures that
/// `rate` begins with.
pub const PASS_TOKENS: TokenCount = TokenCount(11);

/// The beginning of a conversation, up to a message that was to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Of its messages, under a secret of the gateway; differs by tenant and variant.
    pub digest: Digest,
    /// How many of the prompt's tokens a node holds that answered it: these messages and the answer, in parts of the same bound as the
    /// prompt's.
    pub tokens: TokenCount,
}

/// A node that holds the first tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Who.
    pub node: NodeId,
    /// How many.
    pub tokens: TokenCount,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    node: NodeId,
    // On which of its links: a new one may be to an engine that began anew.
    link: u64,
    turn: u64,
}

/// Who answered which conversation last, up to a number of them; what was not asked for the longest time goes first.
/// O(log n) per call.
#[derive(Debug, Clone, Default)]
pub struct Residency {
    entries: BTreeMap<Digest, Entry>,
    by_turn: BTreeMap<u64, Digest>,
    links: BTreeMap<NodeId, u64>,
    next: u64,
}

impl Residency {
    /// A node answered a conversation.
    pub fn answered(&mut self, conversation: Digest, node: NodeId) {
        self.forget(conversation);
        self.next += 1;
        let turn = self.next;
        let link = *self.links.entry(node).or_insert(turn);
        self.entries.insert(conversation, Entry { node, link, turn });
        self.by_turn.insert(turn, conversation);
        if self.entries.len() > CONVERSATIONS_MAX
            && let Some((_, oldest)) = self.by_turn.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    /// Who holds the most of a conversation, of which these are beginnings, the shortest first.
    pub fn find(&self, prefixes: &[Prefix]) -> Option<Resident> {
        prefixes.iter().rev().take(PREFIXES_MAX).find_map(|prefix| {
            let entry = self.entries.get(&prefix.digest)?;
            let is_there = self.links.get(&entry.node) == Some(&entry.link);
            is_there.then_some(Resident { node: entry.node, tokens: prefix.tokens })
        })
    }

    /// A node that was asked to go on with a conversation had nothing of it.
    pub fn was_cold(&mut self, node: NodeId, prefixes: &[Prefix]) {
        for prefix in prefixes {
            if self.entries.get(&prefix.digest).is_some_and(|entry| entry.node == node) {
                self.forget(prefix.digest);
            }
        }
    }

    /// The node's link is gone, and its engine perhaps too.
    pub fn leave(&mut self, node: NodeId) {
        self.links.remove(&node);
    }

    fn forget(&mut self, conversation: Digest) {
        if let Some(entry) = self.entries.remove(&conversation) {
            self.by_turn.remove(&entry.turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn digest(number: u32) -> Digest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Digest(bytes)
    }

    // Conversations whose turns have ten tokens each.
    fn turns(numbers: &[u32]) -> Vec<Prefix> {
        let prefix = |(at, number): (u32, &u32)| Prefix { digest: digest(*number), tokens: TokenCount(10 * at) };
        (1..).zip(numbers).map(prefix).collect()
    }

    #[test]
    fn who_answered_the_longest_beginning_holds_it() {
        let mut residency = Residency::default();
        residency.answered(digest(1), A);
        residency.answered(digest(2), B);
        assert_eq!(residency.find(&turns(&[1, 2, 3])), Some(Resident { node: B, tokens: TokenCount(20) }));
        assert_eq!(residency.find(&turns(&[1, 9])), Some(Resident { node: A, tokens: TokenCount(10) }));
        assert_eq!(residency.find(&turns(&[9])), None);
        residency.answered(digest(2), A);
        assert_eq!(residency.find(&turns(&[2])), Some(Resident { node: A, tokens: TokenCount(10) }));
    }

    #[test]
    fn a_node_that_left_or_had_nothing_holds_nothing() {
        let mut residency = Residency::default();
        residency.answered(digest(1), A);
        residency.answered(digest(2), B);
        residency.leave(A);
        // A new link is to an engine that may have begun anew.
        residency.answered(digest(3), A);
        assert_eq!(residency.find(&turns(&[1])), None);
        assert_eq!(residency.find(&turns(&[3])), Some(Resident { node: A, tokens: TokenCount(10) }));
        residency.was_cold(A, &turns(&[2]));
        assert_eq!(residency.find(&turns(&[2])), Some(Resident { node: B, tokens: TokenCount(10) }));
        residency.was_cold(B, &turns(&[2]));
        assert_eq!(residency.find(&turns(&[2])), None);
    }

    #[test]
    fn what_was_not_asked_for_the_longest_time_is_forgotten_first() {
        let mut residency = Residency::default();
        (0..CONVERSATIONS_MAX as u32).for_each(|number| residency.answered(digest(number), A));
        residency.answered(digest(0), A);
        residency.answered(digest(u32::MAX), A);
        let is_known = |number| residency.find(&turns(&[number])).is_some();
        assert_eq!([0, 1, 2, u32::MAX].map(is_known), [true, false, true, true]);
        assert_eq!((residency.entries.len(), residency.by_turn.len()), (CONVERSATIONS_MAX, CONVERSATIONS_MAX));
    }

    #[test]
    fn only_the_latest_beginnings_are_looked_for() {
        let mut residency = Residency::default();
        residency.answered(digest(0), A);
        let numbers: Vec<u32> = (0..=PREFIXES_MAX as u32).collect();
        assert_eq!(residency.find(&turns(&numbers)), None);
        assert!(residency.find(&turns(&numbers[..PREFIXES_MAX])).is_some());
    }
}
