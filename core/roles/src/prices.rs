//! Posted prices: one for all, and others for models, for ways to store their weights, and for work that is bound to a region.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ol_protocol::variant::Variant;
use ol_protocol::{Price, Region};

/// A price for some of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRule {
    /// Only of this model.
    pub model: Option<String>,
    /// Only with weights stored like this.
    pub quantisation: Option<String>,
    /// Only of requests that are bound to this region: where others are computed is not known when they are charged.
    pub region: Option<Region>,
    /// What is charged.
    pub price: Price,
}

impl PriceRule {
    fn fits(&self, variant: &Variant, region: Option<Region>) -> bool {
        self.model.as_ref().is_none_or(|model| *model == variant.model)
            && self.quantisation.as_ref().is_none_or(|quantisation| *quantisation == variant.quantisation)
            && self.region.is_none_or(|of| region == Some(of))
    }
}

/// What a gateway charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    /// Where no rule fits.
    pub usual: Price,
    /// The first that fits holds.
    pub rules: Vec<PriceRule>,
}

impl Prices {
    /// The price of work by a variant that is bound to a region, or to none.
    pub fn of(&self, variant: &Variant, region: Option<Region>) -> Price {
        self.rules.iter().find(|rule| rule.fits(variant, region)).map_or(self.usual, |rule| rule.price)
    }

    /// The regions to which work by the variant is bound at a price of its own.
    pub fn by_region(&self, variant: &Variant) -> BTreeMap<String, Price> {
        let elsewhere = self.of(variant, None);
        let regions = self.rules.iter().filter_map(|rule| rule.region);
        let of = regions.map(|region| (region.to_string(), self.of(variant, Some(region))));
        of.filter(|(_, price)| *price != elsewhere).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::vec;
    use ol_protocol::variant::{Assurance, Work};
    use ol_protocol::{Digest, MicroCredits};

    fn price(prompt: u64) -> Price {
        Price { prompt_per_million: MicroCredits(prompt), output_per_million: MicroCredits(2 * prompt) }
    }

    fn variant(model: &str, quantisation: &str) -> Variant {
        Variant {
            model: model.into(),
            quantisation: quantisation.into(),
            work: Work::Generate,
            assurance: Assurance::Seeded,
            context_tokens: 100,
            weights: Digest([1; 32]),
            numerics: "embedded-f32/1".into(),
        }
    }

    #[test]
    fn the_first_rule_that_fits_holds_and_a_region_s_for_who_is_bound_to_it_only() {
        let region = |name: &str| name.parse::<Region>().ok();
        let rule = |model: Option<&str>, quantisation: Option<&str>, of: Option<&str>, charged| PriceRule {
            model: model.map(str::to_owned),
            quantisation: quantisation.map(str::to_owned),
            region: of.and_then(region),
            price: price(charged),
        };
        let rules = vec![
            rule(Some("a"), None, Some("eu"), 1),
            rule(None, None, Some("eu"), 2),
            rule(Some("a"), Some("q8_0"), None, 3),
        ];
        let prices = Prices { usual: price(9), rules };
        let of = |model, quantisation, of: Option<&str>| {
            prices.of(&variant(model, quantisation), of.and_then(region)).prompt_per_million.0
        };
        assert_eq!([of("a", "f32", Some("eu")), of("b", "f32", Some("eu")), of("a", "q8_0", None)], [1, 2, 3]);
        assert_eq!([of("a", "q8_0", Some("us")), of("a", "f32", None), of("b", "q8_0", Some("us"))], [3, 9, 9]);
        assert_eq!(prices.by_region(&variant("b", "f32")), BTreeMap::from([("eu".to_owned(), price(2))]));
    }
}
