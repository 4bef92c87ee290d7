//! Conversations: requests that repeat what was said before, and what engines hold of them.

use crate::world::World;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::{TaskId, TenantId, TokenCount};
use ol_sched::Prefix;
use std::collections::VecDeque;

/// Conversations that somebody may go on with; more, and nobody comes back to most of them.
const OPEN_MAX: usize = 64;

/// Conversations that an engine holds.
const HELD_MAX: usize = 16;

/// Tokens after which one begins anew.
const TOKENS_MAX: u32 = 1_500;

/// A conversation as far as one of its prompts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversation {
    pub(crate) number: u64,
    pub(crate) tenant: TenantId,
    turn: u32,
    /// Tokens of the turns before, answers included.
    pub(crate) before: u32,
}

impl Conversation {
    /// What the gateway is told of it, where the whole prompt is bounded by so many tokens.
    pub(crate) fn prefixes(&self, prompt: u32, bound: u32) -> Vec<Prefix> {
        let of = |turn: u32, tokens: u32| {
            let parts: [&[u8]; 2] = [&self.number.to_le_bytes(), &turn.to_le_bytes()];
            let share = u64::from(bound) * u64::from(tokens) / u64::from(prompt.max(1));
            Prefix { digest: digest(Domain::Scope, &parts), tokens: TokenCount(share as u32) }
        };
        let earlier = self.turn.checked_sub(1).map(|turn| of(turn, self.before));
        earlier.into_iter().chain([of(self.turn, prompt)]).collect()
    }
}

/// What an engine holds: of each conversation, so many tokens.
#[derive(Debug, Default)]
pub(crate) struct Held(VecDeque<(u64, u32)>);

impl Held {
    /// Tokens of a conversation.
    pub(crate) fn of(&self, number: u64) -> u32 {
        self.0.iter().find(|(of, _)| *of == number).map_or(0, |(_, tokens)| *tokens)
    }

    /// The engine ended a turn.
    pub(crate) fn keep(&mut self, number: u64, tokens: u32) {
        self.0.retain(|(of, _)| *of != number);
        self.0.push_back((number, tokens));
        if self.0.len() > HELD_MAX {
            self.0.pop_front();
        }
    }
}

impl World {
    /// The conversation that a new request of a tenant's belongs to, if there are any: one that goes on is its own tenant's.
    pub(crate) fn converse(&mut self, tenant: TenantId) -> Option<Conversation> {
        let chance = self.config.demand.goes_on;
        if chance == 0.0 {
            return None;
        }
        let random = &mut self.chances.arrivals;
        let goes_on = random.happens(chance) && !self.conversations.is_empty();
        let place = random.below(self.conversations.len().max(1));
        if goes_on && let Some(known) = self.conversations.remove(place) {
            return Some(known);
        }
        self.begun += 1;
        Some(Conversation { number: self.begun, tenant, turn: 0, before: 0 })
    }

    /// A task was answered: somebody may go on from there.
    pub(crate) fn answered_in_conversation(&mut self, task: TaskId) {
        let Some(facts) = self.tasks.get(&task) else { return };
        let Some(conversation) = facts.conversation else { return };
        let before = facts.prompt + facts.content.count();
        if before > TOKENS_MAX {
            return;
        }
        self.conversations.push_back(Conversation { turn: conversation.turn + 1, before, ..conversation });
        if self.conversations.len() > OPEN_MAX {
            self.conversations.pop_front();
        }
    }
}
