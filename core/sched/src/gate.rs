//! Why a node or a request was refused, with the figures that a person needs to change it.

use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::{MicroCredits, Micros, NodeId, Region, Timestamp, TokenCount};

/// One reason for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gate {
    /// Nobody offers the variant.
    #[error("no connected node serves this model variant: start a node that does, or ask for another model")]
    NoNodeHasVariant,
    /// Nobody in the only region that may compute it offers the variant.
    #[error(
        "no connected node stands in region {region} and serves this model variant, as far as round trips show: ask for another region, or let others do as well (`prefer_region`)"
    )]
    NoNodeInRegion {
        /// The region.
        region: Region,
    },
    /// No node is reliable enough for the tier.
    #[error(
        "the best node ends {} of 100 attempts well, too few for tier {tier} with time for {attempts} attempts: allow more time, or ask for a lower tier", f64::from(*.best_ppm) / 1e4
    )]
    TierTooHigh {
        /// What was asked for.
        tier: &'static str,
        /// The best node's share of attempts that ended well, in millionths.
        best_ppm: u32,
        /// How many attempts there is time for.
        attempts: u64,
    },
    /// The longest answer that was asked for would come after its deadline, so that no tier can be promised.
    #[error(
        "the longest answer takes {} ms and {} ms are left, so that no tier can be promised: allow more time, or ask for fewer tokens", .needed.0.div_ceil(1_000), .left.0 / 1_000
    )]
    AnswerTooLong {
        /// Predicted time on a node as they usually are.
        needed: Micros,
        /// Time to the request's deadline.
        left: Micros,
    },
    /// Every slot that was granted is taken.
    #[error("all slots of {node_count} nodes are taken, {in_flight} tasks in flight: try again or add nodes")]
    NoFreeSlot {
        /// Nodes that serve the variant and take new work.
        node_count: u64,
        /// Tasks of the variant that run now.
        in_flight: u64,
    },
    /// The task already failed on this node.
    #[error("node {} already failed on this task", .node.short())]
    Excluded {
        /// The node.
        node: NodeId,
    },
    /// The node failed lately and gets no work yet.
    #[error("node {} failed lately and is left out until unix second {}", .node.short(), .until.0 / 1_000_000)]
    Quarantined {
        /// The node.
        node: NodeId,
        /// When it may get work again.
        until: Timestamp,
    },
    /// The node's speed is not known, and the task can't wait to learn it.
    #[error("node {} was not measured yet", .node.short())]
    NotMeasured {
        /// The node.
        node: NodeId,
    },
    /// So many wait that an answer would be late.
    #[error("a slot comes free in {} ms and {} ms is the longest wait: try again later, or add nodes", .wait.0.div_ceil(1_000), .max.0 / 1_000)]
    WaitTooLong {
        /// Predicted time until a slot comes free.
        wait: Micros,
        /// How long a task may wait.
        max: Micros,
    },
    /// The nodes with the variant finish what they have and take nothing new.
    #[error("nodes that serve this model variant are shutting down and take no new work")]
    Draining,
    /// The gateway's waiting queue is full.
    #[error("{queued} of at most {max} tasks wait already: try again later")]
    QueueFull {
        /// Tasks that wait.
        queued: u64,
        /// How many may wait.
        max: u64,
    },
    /// The tenant's share of the waiting queue is full.
    #[error("{queued} of at most {max} tasks of this tenant wait already: send fewer at a time")]
    TenantQueueFull {
        /// Tasks of the tenant that wait.
        queued: u64,
        /// How many of one tenant may wait.
        max: u64,
    },
    /// The answer could not begin in time.
    #[error("an answer takes {} ms to begin and {} ms are left: allow more time", .needed.0.div_ceil(1_000), .left.0 / 1_000)]
    DeadlineTooShort {
        /// Predicted time to the first token.
        needed: Micros,
        /// Time to the request's deadline.
        left: Micros,
    },
    /// Prompt and answer do not fit the model.
    #[error("prompt and answer need up to {} tokens, the model holds {}: shorten one", .tokens.0, .max.0)]
    ContextTooLong {
        /// Tokens asked for.
        tokens: TokenCount,
        /// The model's context.
        max: TokenCount,
    },
    /// The tenant cannot pay the worst case.
    #[error("{} micro-credits available, up to {} needed: top up or ask for fewer tokens", .available.0, .needed.0)]
    BudgetEmpty {
        /// Balance less what is reserved.
        available: MicroCredits,
        /// The reservation.
        needed: MicroCredits,
    },
    /// What the tenant has left is shared with other gateways, and can't be asked for.
    #[error("what this tenant has left can't be asked for now: try again in a moment")]
    BudgetUnknown,
    /// The worst case costs more than the tenant allows.
    #[error(
        "this may cost up to {} micro-credits and {} may be paid: ask for fewer tokens, or allow more with max_price", .worst.0, .max.0
    )]
    PriceTooHigh {
        /// The worst case.
        worst: MicroCredits,
        /// What the tenant pays at most.
        max: MicroCredits,
    },
    /// No node could be trusted so far even if the answer's audit passes.
    #[error(
        "no connected node is trusted more than {} after an audit, {} is asked for: ask for less, or wait until nodes have proved themselves",
        f64::from(*.best_ppm) / 1e6, f64::from(*.needed_ppm) / 1e6
    )]
    TrustTooHigh {
        /// What is asked for, in millionths.
        needed_ppm: u32,
        /// What the best node could have.
        best_ppm: u32,
    },
    /// Nobody could audit the answer.
    #[error(
        "nobody can audit this model variant now: start the referee, let it measure the variant, or ask without min_trust"
    )]
    NoAuditor,
    /// The task has had the attempts that it may have.
    #[error("ended after {attempts} attempts, no further one")]
    AttemptsSpent {
        /// How many it had.
        attempts: u8,
    },
}

impl Gate {
    /// Its name for programs: the same as that of what was passed there.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoNodeHasVariant => "variant",
            Self::NoNodeInRegion { .. } => "region",
            Self::TierTooHigh { .. } => "tier",
            Self::AnswerTooLong { .. } => "length",
            Self::NoFreeSlot { .. } => "slot",
            Self::Excluded { .. } => "excluded",
            Self::Quarantined { .. } => "quarantine",
            Self::NotMeasured { .. } => "measured",
            Self::WaitTooLong { .. } => "wait",
            Self::Draining => "draining",
            Self::QueueFull { .. } => "queue",
            Self::TenantQueueFull { .. } => "tenant_queue",
            Self::DeadlineTooShort { .. } => "deadline",
            Self::ContextTooLong { .. } => "context",
            Self::BudgetEmpty { .. } | Self::BudgetUnknown => "budget",
            Self::PriceTooHigh { .. } => "price",
            Self::TrustTooHigh { .. } => "trust",
            Self::NoAuditor => "auditor",
            Self::AttemptsSpent { .. } => "attempts",
        }
    }

    /// Its figures by name; the name ends with the unit.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        match *self {
            Self::NoNodeHasVariant | Self::NoNodeInRegion { .. } => Vec::new(),
            Self::Excluded { .. } | Self::NotMeasured { .. } => Vec::new(),
            Self::TierTooHigh { best_ppm, attempts, .. } => {
                vec![("best_ppm", best_ppm.into()), ("attempts", attempts)]
            }
            Self::Draining | Self::BudgetUnknown | Self::NoAuditor => Vec::new(),
            Self::NoFreeSlot { node_count, in_flight } => vec![("nodes", node_count), ("in_flight", in_flight)],
            Self::Quarantined { until, .. } => vec![("until_unix_us", until.0)],
            Self::WaitTooLong { wait, max } => vec![("wait_us", wait.0), ("max_us", max.0)],
            Self::QueueFull { queued, max } | Self::TenantQueueFull { queued, max } => {
                vec![("queued", queued), ("max", max)]
            }
            Self::AnswerTooLong { needed, left } | Self::DeadlineTooShort { needed, left } => {
                vec![("needed_us", needed.0), ("left_us", left.0)]
            }
            Self::ContextTooLong { tokens, max } => vec![("tokens", tokens.0.into()), ("max", max.0.into())],
            Self::BudgetEmpty { available, needed } => {
                vec![("available_micro_credits", available.0), ("needed_micro_credits", needed.0)]
            }
            Self::PriceTooHigh { worst, max } => {
                vec![("worst_micro_credits", worst.0), ("max_micro_credits", max.0)]
            }
            Self::TrustTooHigh { needed_ppm, best_ppm } => {
                vec![("needed_ppm", needed_ppm.into()), ("best_ppm", best_ppm.into())]
            }
            Self::AttemptsSpent { attempts } => vec![("attempts", attempts.into())],
        }
    }

    /// Whose gate it is, if it is one node's.
    pub const fn node(&self) -> Option<NodeId> {
        match *self {
            Self::Excluded { node } | Self::Quarantined { node, .. } | Self::NotMeasured { node } => Some(node),
            Self::NoNodeHasVariant
            | Self::NoNodeInRegion { .. }
            | Self::TierTooHigh { .. }
            | Self::AnswerTooLong { .. }
            | Self::NoFreeSlot { .. }
            | Self::WaitTooLong { .. }
            | Self::Draining
            | Self::QueueFull { .. }
            | Self::TenantQueueFull { .. }
            | Self::DeadlineTooShort { .. }
            | Self::ContextTooLong { .. }
            | Self::BudgetEmpty { .. }
            | Self::BudgetUnknown
            | Self::PriceTooHigh { .. }
            | Self::TrustTooHigh { .. }
            | Self::NoAuditor
            | Self::AttemptsSpent { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_gate_says_its_figures_and_what_to_do() {
        let gate = Gate::DeadlineTooShort { needed: Micros(1_500_001), left: Micros(200_000) };
        assert_eq!(gate.to_string(), "an answer takes 1501 ms to begin and 200 ms are left: allow more time");
        let gate = Gate::Quarantined { node: NodeId([0xab; 32]), until: Timestamp(15_000_000) };
        assert_eq!(gate.to_string(), "node abababab failed lately and is left out until unix second 15");
    }
}
