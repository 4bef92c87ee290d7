//! Quantities with their units.

/// A span of time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// `millis` thousandths of a second; saturates.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// `seconds` seconds; saturates.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// The sum, at most the largest span.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// A moment, in microseconds since 1970-01-01 UTC in a live driver and since the start in a simulated one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `span` later; saturates.
    pub const fn after(self, span: Micros) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span since `earlier`, zero if that is later.
    pub const fn since(self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

/// An amount of money: a millionth of a credit. Never negative; a balance that may be is an `i128` of the same unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MicroCredits(pub u64);

impl MicroCredits {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` past `u64::MAX`.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` below zero.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }
}

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TokenCount(pub u32);

/// The number of a settlement period, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl core::fmt::Display for Epoch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Price of a variant: micro-credits per million tokens, so that cheap models still have integer prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price {
    /// For a million prompt tokens.
    pub prompt_per_million: MicroCredits,
    /// For a million output tokens.
    pub output_per_million: MicroCredits,
}

impl Price {
    /// What `prompt` and `output` tokens cost, rounded up once on the sum; `None` if it passes `u64::MAX`.
    pub fn charge(&self, prompt: TokenCount, output: TokenCount) -> Option<MicroCredits> {
        let millionths = u128::from(self.prompt_per_million.0) * u128::from(prompt.0)
            + u128::from(self.output_per_million.0) * u128::from(output.0);
        u64::try_from(millionths.div_ceil(1_000_000)).ok().map(MicroCredits)
    }

    /// The price with an audit in it: `pay_bp` hundredths of a per cent of each charge are the audit's, and this price is left. Rounded up; `None` if all or
    /// more would be the audit's, or it passes `u64::MAX`.
    pub fn with_audit(&self, pay_bp: u16) -> Option<Self> {
        let left = 10_000_u128.checked_sub(u128::from(pay_bp)).filter(|left| *left > 0)?;
        let raised =
            |price: MicroCredits| u64::try_from((u128::from(price.0) * 10_000).div_ceil(left)).ok().map(MicroCredits);
        let (prompt, output) = (raised(self.prompt_per_million)?, raised(self.output_per_million)?);
        Some(Self { prompt_per_million: prompt, output_per_million: output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_rounded_up_once() {
        let price = Price { prompt_per_million: MicroCredits(500_000), output_per_million: MicroCredits(1_500_001) };
        assert_eq!(price.charge(TokenCount(1), TokenCount(1)), Some(MicroCredits(3)));
        assert_eq!(price.charge(TokenCount(0), TokenCount(0)), Some(MicroCredits(0)));
    }

    #[test]
    fn a_price_with_an_audit_leaves_the_price_without() {
        let price = Price { prompt_per_million: MicroCredits(600), output_per_million: MicroCredits(1_000) };
        let raised = Price { prompt_per_million: MicroCredits(1_000), output_per_million: MicroCredits(1_667) };
        assert_eq!(price.with_audit(4_000), Some(raised));
        assert_eq!((price.with_audit(0), price.with_audit(10_000)), (Some(price), None));
        let dear = Price { prompt_per_million: MicroCredits(u64::MAX), ..price };
        assert_eq!(dear.with_audit(1), None);
    }

    #[test]
    fn a_charge_past_the_largest_amount_is_refused() {
        let price = Price { prompt_per_million: MicroCredits(u64::MAX), output_per_million: MicroCredits(u64::MAX) };
        assert_eq!(price.charge(TokenCount(u32::MAX), TokenCount(u32::MAX)), None);
    }
}
