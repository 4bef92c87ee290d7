//! The trust value: how likely a result is what its receipt says.
//!
//! A node's results are honest with an unknown frequency, Beta-distributed a priori; its clean and failed audits give
//! the posterior mean. The audit of the result itself, if there was one, then weighs on it by Bayes' rule.
//!
//! The prior and the detection rates below are stated, not calibrated: they order results, and the number is only as
//! good as they are.

use crate::policy::Standing;
use ol_protocol::variant::Assurance;

/// Mean of the prior: one newcomer in ten is hostile, the rate that the network is built for.
const PRIOR_HONEST: f64 = 0.9;

/// Weight of the prior in audits: it is as strong as one.
const PRIOR_AUDITS: f64 = 1.0;

/// Chance that the audit of an honest result fails: the bound on wrongly withheld pay, one in a million.
const FALSE_ALARM: f64 = 1e-6;

/// What is known of the audit of one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evidence {
    /// It is not known yet whether it is audited, or the audit has not ended, or could not be held.
    Pending,
    /// It was not drawn.
    Undrawn,
    /// It passed.
    Clean,
    /// It failed.
    Failed,
}

/// Probability in (0, 1) that a result is what its receipt says. More clean audits, fewer failed ones, a clean audit of
/// the result and a stronger assurance never lower it, but that a stronger assurance makes a failure count for more.
/// Without an assurance audits say nothing, clean or failed.
pub fn value(standing: &Standing, evidence: Evidence, assurance: Assurance) -> f64 {
    let detection = detection(assurance);
    let honest = posterior(standing, detection);
    match evidence {
        Evidence::Pending | Evidence::Undrawn => honest,
        Evidence::Clean => bayes(honest, 1.0 - FALSE_ALARM, 1.0 - detection),
        Evidence::Failed => bayes(honest, FALSE_ALARM, detection),
    }
}

/// Chance that an audit finds a wrong result. Without an assurance it is the one of a false alarm: no evidence at all.
const fn detection(assurance: Assurance) -> f64 {
    match assurance {
        Assurance::Seeded => 0.95,
        Assurance::Greedy => 0.8,
        Assurance::Redundant => 0.6,
        Assurance::None => FALSE_ALARM,
    }
}

// A clean audit counts for as much as it would have detected.
fn posterior(standing: &Standing, detection: f64) -> f64 {
    let clean = detection * f64::from(standing.clean);
    (PRIOR_AUDITS * PRIOR_HONEST + clean) / (PRIOR_AUDITS + clean + f64::from(standing.failed))
}

fn bayes(honest: f64, if_honest: f64, if_not: f64) -> f64 {
    let right = honest * if_honest;
    right / (right + (1.0 - honest) * if_not)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ASSURANCES: [Assurance; 4] = [Assurance::Seeded, Assurance::Greedy, Assurance::Redundant, Assurance::None];

    fn standing(clean: u32, failed: u32) -> Standing {
        Standing { clean, failed, ..Standing::default() }
    }

    #[test]
    fn a_newcomer_has_the_prior() {
        for assurance in ASSURANCES {
            assert_eq!(value(&Standing::default(), Evidence::Undrawn, assurance), 0.9);
        }
    }

    #[test]
    fn without_an_assurance_an_audit_says_nothing() {
        let of = |evidence| value(&standing(0, 0), evidence, Assurance::None);
        assert!((of(Evidence::Clean) - 0.9).abs() < 1e-12);
        assert!((of(Evidence::Failed) - 0.9).abs() < 1e-12);
    }

    #[test]
    fn a_failed_audit_leaves_next_to_nothing() {
        assert!(value(&standing(100, 0), Evidence::Failed, Assurance::Seeded) < 0.002);
        assert!(value(&standing(0, 0), Evidence::Clean, Assurance::Seeded) > 0.994);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn better_evidence_never_lowers_the_value(
            clean in prop_oneof![0..u32::MAX, 0..200u32], failed in prop_oneof![0..u32::MAX, 0..5u32],
        ) {
            for (at, assurance) in ASSURANCES.into_iter().enumerate() {
                let of = |clean, failed, evidence| value(&standing(clean, failed), evidence, assurance);
                let all = [Evidence::Failed, Evidence::Undrawn, Evidence::Clean].map(|e| of(clean, failed, e));
                prop_assert!(all.iter().all(|v| *v > 0.0 && *v < 1.0), "{:?}", all);
                // Without an assurance the three are one number but for rounding.
                prop_assert!(all[0] <= all[1] + 1e-12 && all[1] <= all[2] + 1e-12, "{:?}", all);
                prop_assert_eq!(of(clean, failed, Evidence::Pending), all[1]);
                for evidence in [Evidence::Failed, Evidence::Undrawn, Evidence::Clean] {
                    prop_assert!(of(clean + 1, failed, evidence) >= of(clean, failed, evidence));
                    prop_assert!(of(clean, failed + 1, evidence) <= of(clean, failed, evidence));
                }
                if let Some(weaker) = ASSURANCES.get(at + 1) {
                    for evidence in [Evidence::Undrawn, Evidence::Clean] {
                        prop_assert!(
                            of(clean, failed, evidence) >= value(&standing(clean, failed), evidence, *weaker) - 1e-12
                        );
                    }
                }
            }
        }
    }
}
