//! The gates that a task passed, with the figures by which it did: beside those of a refusal they show how near it was.

use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::{MicroCredits, Micros, Region};

/// One gate that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Passed {
    /// Somebody serves the variant.
    #[error("{node_count} connected nodes serve this model variant")]
    Variant {
        /// How many.
        node_count: u64,
    },
    /// Somebody in the only region that may compute it serves the variant.
    #[error("{node_count} nodes in region {region} serve this model variant")]
    Region {
        /// The region.
        region: Region,
        /// How many.
        node_count: u64,
    },
    /// Some node is reliable enough for the tier.
    #[error("the best node ends {} of 100 attempts well, and there is time for {attempts}", f64::from(*.best_ppm) / 1e4)]
    Tier {
        /// The best node's share of attempts that ended well, in millionths.
        best_ppm: u32,
        /// How many attempts there is time for.
        attempts: u64,
    },
    /// There is time for the longest answer that was asked for.
    #[error("the longest answer takes {} ms, {} ms left", .needed.0.div_ceil(1_000), .left.0 / 1_000)]
    Length {
        /// Predicted time on a node as they usually are.
        needed: Micros,
        /// Time to the request's deadline.
        left: Micros,
    },
    /// The worst case is within what the tenant allows.
    #[error("costs {} micro-credits at most, {} may be paid", .worst.0, .max.0)]
    Price {
        /// The worst case.
        worst: MicroCredits,
        /// What the tenant pays at most.
        max: MicroCredits,
    },
    /// Some node can be trusted so far, perhaps after an audit.
    #[error("some node can be trusted {}", f64::from(*.needed_ppm) / 1e6)]
    Trust {
        /// What is asked for, in millionths.
        needed_ppm: u32,
    },
    /// A slot comes free soon enough.
    #[error("a slot comes free in {} ms, {} ms may be waited", .wait.0.div_ceil(1_000), .max.0 / 1_000)]
    Wait {
        /// Predicted time until a slot comes free.
        wait: Micros,
        /// How long the task may wait.
        max: Micros,
    },
    /// The tenant can pay the worst case.
    #[error("{} micro-credits available, up to {} needed", .available.0, .needed.0)]
    Budget {
        /// Balance less what is reserved.
        available: MicroCredits,
        /// The reservation.
        needed: MicroCredits,
    },
    /// The waiting queue has room.
    #[error("{queued} tasks wait, {max} may")]
    Queue {
        /// Tasks that wait.
        queued: u64,
        /// How many may wait.
        max: u64,
    },
    /// The answer begins in time on the node that was chosen.
    #[error("begins in {} ms, {} ms left", .needed.0.div_ceil(1_000), .left.0 / 1_000)]
    Deadline {
        /// Predicted time to the first token.
        needed: Micros,
        /// Time to the request's deadline.
        left: Micros,
    },
}

impl Passed {
    /// The gate's name for programs: the same as where it is not passed.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Variant { .. } => "variant",
            Self::Region { .. } => "region",
            Self::Tier { .. } => "tier",
            Self::Length { .. } => "length",
            Self::Price { .. } => "price",
            Self::Trust { .. } => "trust",
            Self::Wait { .. } => "wait",
            Self::Budget { .. } => "budget",
            Self::Queue { .. } => "queue",
            Self::Deadline { .. } => "deadline",
        }
    }

    /// Its figures by name; the name ends with the unit.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        match *self {
            Self::Variant { node_count } | Self::Region { node_count, .. } => vec![("nodes", node_count)],
            Self::Tier { best_ppm, attempts } => vec![("best_ppm", best_ppm.into()), ("attempts", attempts)],
            Self::Price { worst, max } => vec![("worst_micro_credits", worst.0), ("max_micro_credits", max.0)],
            Self::Trust { needed_ppm } => vec![("needed_ppm", needed_ppm.into())],
            Self::Wait { wait, max } => vec![("wait_us", wait.0), ("max_us", max.0)],
            Self::Budget { available, needed } => {
                vec![("available_micro_credits", available.0), ("needed_micro_credits", needed.0)]
            }
            Self::Queue { queued, max } => vec![("queued", queued), ("max", max)],
            Self::Length { needed, left } | Self::Deadline { needed, left } => {
                vec![("needed_us", needed.0), ("left_us", left.0)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gate;
    use alloc::string::ToString;

    #[test]
    fn a_gate_has_one_name_and_the_same_figures_whether_it_is_passed_or_not() {
        let (needed, left) = (Micros(119_001), Micros(3_000_000));
        let (passed, failed) = (Passed::Length { needed, left }, Gate::AnswerTooLong { needed: left, left: needed });
        assert_eq!((passed.name(), passed.figures().len()), (failed.name(), failed.figures().len()));
        let (passed, failed) =
            (Passed::Deadline { needed, left }, Gate::DeadlineTooShort { needed: left, left: needed });
        assert_eq!(passed.to_string(), "begins in 120 ms, 3000 ms left");
        assert_eq!(
            (passed.name(), passed.figures()),
            (failed.name(), vec![("needed_us", 119_001), ("left_us", 3_000_000)])
        );
        assert_eq!(failed.figures(), [("needed_us", 3_000_000), ("left_us", 119_001)]);
    }
}
