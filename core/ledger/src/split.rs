//! How a charge is shared out.

use ol_protocol::MicroCredits;
use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::parameters::Split;

/// The parts of one charge. They add up to it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shares {
    /// The node's, into escrow.
    pub node: MicroCredits,
    /// For audits.
    pub verification: MicroCredits,
    /// The reserve's, with all that rounding leaves over.
    pub reserve: MicroCredits,
    /// The gateway's.
    pub gateway: MicroCredits,
}

impl Shares {
    /// Splits an amount: each share is rounded down and the reserve keeps the rest, at most three micro-credits.
    /// `split` must be whole.
    pub fn of(amount: MicroCredits, split: &Split) -> Self {
        let (node, verification) = (share(amount, split.node_bp), share(amount, split.verification_bp));
        let gateway = share(amount, split.gateway_bp);
        let reserve = amount.0.saturating_sub(node).saturating_sub(verification).saturating_sub(gateway);
        Self {
            node: MicroCredits(node),
            verification: MicroCredits(verification),
            reserve: MicroCredits(reserve),
            gateway: MicroCredits(gateway),
        }
    }

    /// Splits an amount that an audit is paid from first: its part, rounded down, is for audits, and the rest is split.
    pub fn with_audit(amount: MicroCredits, split: &Split, pay_bp: u16) -> Self {
        let audit = share(amount, pay_bp);
        let rest = Self::of(MicroCredits(amount.0.saturating_sub(audit)), split);
        Self { verification: MicroCredits(rest.verification.0.saturating_add(audit)), ..rest }
    }

    /// The charge.
    pub const fn total(&self) -> MicroCredits {
        let rest = self.verification.0.saturating_add(self.reserve.0).saturating_add(self.gateway.0);
        MicroCredits(self.node.0.saturating_add(rest))
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.node.0).u64(self.verification.0).u64(self.reserve.0).u64(self.gateway.0);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let mut amount = || r.u64().map(MicroCredits);
        Ok(Self { node: amount()?, verification: amount()?, reserve: amount()?, gateway: amount()? })
    }
}

/// A part of an amount in hundredths of a per cent, rounded down; at most the amount itself for at most the whole.
pub(crate) fn share(amount: MicroCredits, bp: u16) -> u64 {
    u64::try_from(u128::from(amount.0) * u128::from(bp) / 10_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(cuts: [u16; 3]) -> Split {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let [a, b, c] = cuts;
        Split { node_bp: a, verification_bp: b - a, reserve_bp: c - b, gateway_bp: 10_000 - c }
    }

    #[test]
    fn the_reserve_keeps_what_rounding_leaves() {
        let shares = Shares::of(MicroCredits(99), &Split::DEFAULT);
        let expected = Shares {
            node: MicroCredits(84),
            verification: MicroCredits(1),
            reserve: MicroCredits(7),
            gateway: MicroCredits(7),
        };
        assert_eq!(shares, expected);
        let audited = Shares::with_audit(MicroCredits(165), &Split::DEFAULT, 4_000);
        assert_eq!(audited, Shares { verification: MicroCredits(expected.verification.0 + 66), ..expected });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn shares_add_up_and_rounding_costs_each_less_than_one(
            amount in prop_oneof![any::<u64>(), 0..20_000u64],
            cuts in prop::array::uniform3(0..=10_000u16),
        ) {
            let split = split(cuts);
            prop_assert!(split.is_whole());
            let s = Shares::of(MicroCredits(amount), &split);
            let parts = [s.node.0, s.verification.0, s.reserve.0, s.gateway.0];
            prop_assert_eq!(parts.iter().map(|p| u128::from(*p)).sum::<u128>(), u128::from(amount));
            let exact = |bp: u16| u128::from(amount) * u128::from(bp);
            for (part, bp) in [(s.node, split.node_bp), (s.verification, split.verification_bp), (s.gateway, split.gateway_bp)] {
                prop_assert!(u128::from(part.0) * 10_000 <= exact(bp));
                prop_assert!((u128::from(part.0) + 1) * 10_000 > exact(bp));
            }
            prop_assert!(u128::from(s.reserve.0) * 10_000 >= exact(split.reserve_bp));
            prop_assert!(u128::from(s.reserve.0) * 10_000 < exact(split.reserve_bp) + 40_000);
        }
    }
}
