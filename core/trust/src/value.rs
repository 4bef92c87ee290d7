//! The trust value: how likely a result is what its receipt says.
//!
//! A node is honest, or it cheats in some share of its results that is the same all the time. What is known before is a
//! weight for each of these; by Bayes' rule every clean audit, and every failed one, shifts the weights, and so does the audit of
//! the result itself. On top some honest nodes turn, and nothing tells until the floor of the audits finds them.
//!
//! How well stated values and true ones agree is measured in simulation, also against nodes of other kinds than the weights
//! assume: docs/bench/2026-11-trust.md.

use crate::policy::Standing;
use ol_protocol::variant::Assurance;

/// One newcomer in ten is hostile: the rate that the network is built for.
const HOSTILE: f64 = 0.1;

/// Of the hostile, those that cheat in every result. The others cheat in a half, a quarter and so on, each as many.
const ALWAYS: f64 = 0.5;

/// The least that a hostile node cheats: in a half to the power of this.
const HALVINGS: i32 = 7;

/// Wrong results of nodes that were honest and turned, as a share of all: a tenth of the hostile, each found by the floor of one in a
/// hundred after some hundred wrong results of ten thousand. Nothing is trusted more than this allows.
const TURNED: f64 = 1e-4;

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

/// Probability in (0, 1) that a result is what its receipt says; the standing is the node's without that result's own audit.
/// More clean audits, fewer failed ones and a clean audit of the result never lower it, nor does a stronger assurance where none
/// failed. Without an assurance audits say
/// nothing, clean or failed. Some twenty powers.
pub fn value(standing: &Standing, evidence: Evidence, assurance: Assurance) -> f64 {
    let detection = detection(assurance);
    let (mut right, mut wrong) = (0.0, 0.0);
    // What a node's margins say together speaks against it, never for it: for it speak its clean audits.
    let suspicion = standing.suspicion.against().max(1.0);
    for (prior, wrongs) in kinds() {
        let weight = prior * likelihood(standing, wrongs, detection) * if wrongs > TURNED { suspicion } else { 1.0 };
        let (if_right, if_wrong) = match evidence {
            Evidence::Pending | Evidence::Undrawn => (1.0, 1.0),
            Evidence::Clean => (1.0 - FALSE_ALARM, 1.0 - detection),
            Evidence::Failed => (FALSE_ALARM, detection),
        };
        right += weight * (1.0 - wrongs) * if_right;
        wrong += weight * wrongs * if_wrong;
    }
    // Neither certainty is ever had, whatever the rounding.
    (right / (right + wrong)).clamp(f64::EPSILON, 1.0 - f64::EPSILON)
}

// The honest, who may turn, and each kind of cheats: their share of all newcomers, and the share of their results that is wrong.
fn kinds() -> impl Iterator<Item = (f64, f64)> {
    let cheats = (0..=HALVINGS).map(|halvings| {
        let share = if halvings == 0 { ALWAYS } else { (1.0 - ALWAYS) / f64::from(HALVINGS) };
        (HOSTILE * share, libm::ldexp(1.0, -halvings))
    });
    core::iter::once((1.0 - HOSTILE, TURNED)).chain(cheats)
}

// How likely the node's audits are, if that share of its results is wrong.
fn likelihood(standing: &Standing, wrongs: f64, detection: f64) -> f64 {
    let fails = wrongs * detection + (1.0 - wrongs) * FALSE_ALARM;
    let (clean, failed) = (standing.clean.min(CLEAN_COUNTED), standing.failed.min(FAILED_COUNTED));
    libm::pow(1.0 - fails, f64::from(clean)) * libm::pow(fails, f64::from(failed))
}

/// Audits that are counted: more of them say nothing new, and their powers would leave the numbers.
const CLEAN_COUNTED: u32 = 10_000;
const FAILED_COUNTED: u32 = 16;

/// Chance that an audit finds a wrong result. Without an assurance it is the one of a false alarm: no evidence at all.
const fn detection(assurance: Assurance) -> f64 {
    match assurance {
        Assurance::Seeded => 0.95,
        Assurance::Greedy => 0.8,
        Assurance::Redundant => 0.6,
        Assurance::None => FALSE_ALARM,
    }
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
        // Half of the hostile tenth always cheats; the other seven kinds average 127 / 128 / 7.
        let right = 1.0 - 0.1 * (0.5 + 0.5 * 127.0 / 128.0 / 7.0) - 0.9 * 1e-4;
        for assurance in ASSURANCES {
            assert!((value(&Standing::default(), Evidence::Undrawn, assurance) - right).abs() < 1e-12);
        }
    }

    #[test]
    fn thirty_clean_audits_leave_one_wrong_result_in_two_thousand() {
        let wrong = 1.0 - value(&standing(30, 0), Evidence::Undrawn, Assurance::Seeded);
        assert!((0.000_4..0.000_8).contains(&wrong), "{wrong}");
        assert!(1.0 - value(&standing(3_000, 0), Evidence::Undrawn, Assurance::Seeded) < 0.000_11);
    }

    #[test]
    fn without_an_assurance_an_audit_says_nothing() {
        let of = |evidence| value(&standing(0, 0), evidence, Assurance::None);
        assert!((of(Evidence::Clean) - of(Evidence::Undrawn)).abs() < 1e-6);
        assert!((of(Evidence::Failed) - of(Evidence::Undrawn)).abs() < 1e-6);
    }

    #[test]
    fn a_failed_audit_leaves_next_to_nothing() {
        assert!(value(&standing(100, 0), Evidence::Failed, Assurance::Seeded) < 0.02);
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
                // Without an assurance the three are nearly one number.
                prop_assert!(all[0] <= all[1] + 1e-6 && all[1] <= all[2] + 1e-6, "{:?}", all);
                prop_assert_eq!(of(clean, failed, Evidence::Pending), all[1]);
                for evidence in [Evidence::Failed, Evidence::Undrawn, Evidence::Clean] {
                    prop_assert!(of(clean + 1, failed, evidence) >= of(clean, failed, evidence) - 1e-12);
                    prop_assert!(of(clean, failed + 1, evidence) <= of(clean, failed, evidence) + 1e-12);
                }
                // A failed audit counts for more with a stronger one.
                if let Some(weaker) = ASSURANCES.get(at + 1).filter(|_| failed == 0) {
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
