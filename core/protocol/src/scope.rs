//! Within which tasks a node may use again what it computed of a prompt, and by what a gateway knows a conversation again.
//!
//! Whoever shares a cache with another learns by time what that one asked. So a cache is one tenant's, and a node is not told whose: it
//! sees which tasks of a day are of one tenant, and neither who that is nor that it is the same on the next day.

use crate::digest::{Domain, digest};
use crate::id::{Digest, Scope, TenantId, VariantId};

/// The scope of a tenant's tasks of a variant on a day, counted from 1970-01-01 UTC, from a secret of the gateway.
pub fn scope(master: &[u8; 32], tenant: &TenantId, variant: &VariantId, day: u64) -> Scope {
    let whole = digest(Domain::Scope, &[b"scope", master, &tenant.0, &variant.0, &day.to_le_bytes()]).0;
    let mut short = [0; Scope::BYTES];
    short.copy_from_slice(&whole[..Scope::BYTES]);
    Scope(short)
}

/// A conversation without messages, in a scope: where [`next`] begins. Says nothing without the gateway's secret.
pub fn empty(master: &[u8; 32], scope: &Scope) -> Digest {
    digest(Domain::Scope, &[b"conversation", master, &scope.0])
}

/// A conversation with one more message.
pub fn next(conversation: &Digest, role: &str, content: &str) -> Digest {
    digest(Domain::Scope, &[b"message", &conversation.0, role.as_bytes(), content.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_secret_tenant_variant_or_day_is_another_scope() {
        let (tenant, variant) = (TenantId([2; 16]), VariantId([3; 32]));
        let one = scope(&[1; 32], &tenant, &variant, 4);
        let others = [
            scope(&[9; 32], &tenant, &variant, 4),
            scope(&[1; 32], &TenantId([9; 16]), &variant, 4),
            scope(&[1; 32], &tenant, &VariantId([9; 32]), 4),
            scope(&[1; 32], &tenant, &variant, 5),
        ];
        assert_eq!(one, scope(&[1; 32], &tenant, &variant, 4));
        assert!(!others.contains(&one), "{others:?}");
    }

    #[test]
    fn a_conversation_is_known_by_all_of_its_messages_in_order() {
        let begin = empty(&[1; 32], &Scope([2; 16]));
        let of = |messages: [&str; 2]| messages.iter().fold(begin, |before, content| next(&before, "user", content));
        assert_eq!(of(["a", "b"]), of(["a", "b"]));
        assert_ne!(of(["a", "b"]), of(["b", "a"]));
        assert_ne!(of(["ab", ""]), of(["a", "b"]));
        assert_ne!(next(&begin, "user", "a"), next(&begin, "assistant", "a"));
        assert_ne!(begin, empty(&[1; 32], &Scope([3; 16])));
    }
}
