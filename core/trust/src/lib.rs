//! Which results are audited, what an audit says, and how far a result can be trusted.
//!
//! Everything here is a pure function or a machine over the log: the same records give the same draws, standings and
//! judgements everywhere. `f64` is only used for the trust value and the margin of honesty, which nothing that is signed or settled depends on.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod agree;
pub mod draw;
pub mod honesty;
pub mod judge;
pub mod policy;
pub mod suspicion;
pub mod value;

pub use agree::agrees;
pub use draw::Chance;
pub use judge::{Fault, Judgement, judge, ruling};
pub use policy::{Finding, Policy, RestoreError, Standing};
pub use suspicion::{Odds, Suspicion};
pub use value::{Evidence, value};
