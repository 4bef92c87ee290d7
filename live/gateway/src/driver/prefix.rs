//! By what the gateway's machine knows a conversation again: digests of how it began, never its words.

use super::handle::TEMPLATE_TOKENS_PER_MESSAGE;
use crate::backend::{Message, Payload, Role};
use ol_protocol::{Scope, TokenCount, scope};
use ol_sched::residency::{PREFIXES_MAX, Prefix};

/// The beginnings of a conversation that may have been answered before, and all of it, the shortest first; of other work none. The prompt has
/// so many tokens at most.
pub(super) fn prefixes(master: &[u8; 32], scope: &Scope, payload: &Payload, prompt_max: u32) -> Vec<Prefix> {
    let Payload::Chat(messages) = payload else { return Vec::new() };
    let size = |message: &Message| (message.content.len() + TEMPLATE_TOKENS_PER_MESSAGE) as u64;
    let all = messages.iter().map(size).sum::<u64>().max(1);
    let (mut conversation, mut bytes) = (scope::empty(master, scope), 0);
    let mut prefixes: Vec<Prefix> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        conversation = scope::next(&conversation, message.role.name(), &message.content);
        bytes += size(message);
        let tokens = TokenCount(u32::try_from(u64::from(prompt_max) * bytes / all).unwrap_or(prompt_max));
        let is_answer = message.role == Role::Assistant;
        // Who gave the answer holds that, too.
        if let Some(asked) = prefixes.last_mut().filter(|_| is_answer) {
            asked.tokens = tokens;
        }
        if !is_answer || at + 1 == messages.len() {
            prefixes.push(Prefix { digest: conversation, tokens });
        }
    }
    prefixes.drain(..prefixes.len().saturating_sub(PREFIXES_MAX));
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = Scope([2; 16]);

    fn say(role: Role, bytes: usize) -> Message {
        Message { role, content: "x".repeat(bytes) }
    }

    fn of(messages: &[Message]) -> Vec<Prefix> {
        prefixes(&[1; 32], &SCOPE, &Payload::Chat(messages.to_vec()), 1_000)
    }

    #[test]
    fn the_next_turn_begins_with_what_was_asked_before() {
        let mut messages = vec![say(Role::System, 84), say(Role::User, 84)];
        let first = of(&messages);
        messages.extend([say(Role::Assistant, 284), say(Role::User, 484)]);
        let second = of(&messages);
        assert_eq!(second[1].digest, first[1].digest);
        assert_eq!(first.iter().map(|p| p.tokens.0).collect::<Vec<_>>(), [500, 1_000]);
        // 100, 100, 300 and 500 of 1,000: with the answer to the second message half of it is there.
        assert_eq!(second.iter().map(|p| p.tokens.0).collect::<Vec<_>>(), [100, 500, 1_000]);
    }

    #[test]
    fn an_answer_that_is_to_be_gone_on_with_is_a_beginning_too() {
        let messages = [say(Role::User, 9), say(Role::Assistant, 9)];
        let whole = of(&messages);
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].digest, of(&messages[..1])[0].digest);
        assert_eq!(whole.iter().map(|p| p.tokens.0).collect::<Vec<_>>(), [1_000, 1_000]);
    }

    #[test]
    fn other_scopes_and_secrets_know_nothing_of_it_and_long_ones_are_known_by_their_end() {
        let messages = vec![say(Role::User, 9); 40];
        let payload = Payload::Chat(messages.clone());
        let ours = of(&messages);
        assert_eq!((ours.len(), ours[PREFIXES_MAX - 1].tokens), (PREFIXES_MAX, TokenCount(1_000)));
        assert!(!prefixes(&[9; 32], &SCOPE, &payload, 1_000).contains(&ours[0]));
        assert!(!prefixes(&[1; 32], &Scope([9; 16]), &payload, 1_000).contains(&ours[0]));
        assert_eq!(prefixes(&[1; 32], &SCOPE, &Payload::Text("x".to_owned()), 1_000), []);
        assert_eq!(of(&[]), []);
    }
}
