//! Rust of `proto/link.proto`, written by the generator; `tests/generated.rs` holds it to that.

#[rustfmt::skip]
#[expect(unreachable_pub, unused_qualifications, clippy::allow_attributes, reason = "the generator writes `pub`, whole paths and `allow` as it likes")]
pub mod link;
