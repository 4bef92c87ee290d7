//! How far a result can be trusted, as its receipt tells it: when it was answered, what was found since, and now.

use super::message::Known;
use ol_protocol::id::unhex_all;
use ol_protocol::record::{AuditOutcome, Ruling};
use ol_protocol::variant::{Assurance, Variant};
use ol_protocol::verdict::Level;
use ol_protocol::{NodeId, VariantId};
use ol_store::TaskRecords;
use ol_trust::{Evidence, Finding, Standing};
use serde_json::{Value, json};

/// Whose answer it is, and what the log says of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    /// The node that ended the task.
    pub(super) node: NodeId,
    /// What it computed.
    pub(super) variant: VariantId,
    /// What the audit of the answer came to.
    pub(super) evidence: Evidence,
    /// Whether that audit is in the node's standing already.
    pub(super) is_counted: bool,
    /// How strongly it can be checked.
    pub(super) assurance: Assurance,
    /// What was stated when it was answered, if that is known.
    pub(super) answered: Option<f64>,
    /// The ends of its audits, by their records' indexes in the log.
    pub(super) audits: Vec<(u64, Option<Level>, &'static str)>,
}

/// What the log says of a task's last attempt. `covered`: how many records a checkpoint is over.
pub(super) fn subject(found: &TaskRecords, covered: u64, facts: &Value) -> Option<Subject> {
    let last = found.attempts.iter().max_by_key(|attempt| attempt.receipt.commitment.attempt)?;
    let commitment = &last.receipt.commitment;
    let (mut evidence, mut at, mut audits) = (Evidence::Pending, None, Vec::new());
    for (index, _, outcome) in found.audits.iter().filter(|(_, of, _)| of.attempt == commitment.attempt) {
        let AuditOutcome::Verdict { verdict, ruling } = outcome else {
            audits.push((*index, None, "unauditable"));
            continue;
        };
        audits.push((*index, Some(verdict.level), ruling.name()));
        match ruling {
            Ruling::Passed => (evidence, at) = (Evidence::Clean, Some(*index)),
            Ruling::Failed => (evidence, at) = (Evidence::Failed, Some(*index)),
            Ruling::Accused | Ruling::VotedFor | Ruling::VotedAgainst | Ruling::Unstated => {}
        }
    }
    let variant = facts["variant"].as_str().and_then(unhex_all).and_then(|bytes| Variant::from_bytes(&bytes).ok());
    Some(Subject {
        node: commitment.node,
        variant: commitment.variant,
        evidence,
        is_counted: at.is_some_and(|at| at < covered),
        assurance: variant.map_or(Assurance::None, |variant| variant.assurance),
        answered: facts["trust_when_answered"].as_f64(),
        audits,
    })
}

/// What the receipt says of it, from what is known of the node now.
pub(super) fn document(subject: &Subject, known: &Known) -> Value {
    let others = without(&known.standing, subject);
    let assurance = if known.is_calibrated { subject.assurance } else { Assurance::None };
    let value = ol_trust::value(&others, subject.evidence, assurance);
    let audits = subject.audits.iter().map(|(record, level, finding)| {
        json!({ "event": "audited", "level": level.map(|level| level.name()), "finding": finding, "record": record })
    });
    let answered = json!({ "event": "answered", "value": subject.answered });
    json!({
        "value": value,
        "evidence": match subject.evidence {
            Evidence::Pending | Evidence::Undrawn => "none",
            Evidence::Clean => "passed",
            Evidence::Failed => "failed",
        },
        "node_clean_audits": others.clean,
        "node_failed_audits": others.failed,
        "node_odds_of_cheating": others.suspicion.against(),
        "assurance": assurance.name(),
        "calibrated": known.is_calibrated,
        "history": std::iter::once(answered).chain(audits).collect::<Vec<_>>(),
    })
}

// A result's own audit is weighed apart.
fn without(standing: &Standing, subject: &Subject) -> Standing {
    match subject.evidence {
        Evidence::Clean if subject.is_counted => standing.without(Finding::Passed),
        Evidence::Failed if subject.is_counted => standing.without(Finding::Failed),
        Evidence::Clean | Evidence::Failed | Evidence::Pending | Evidence::Undrawn => *standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(evidence: Evidence, is_counted: bool) -> Subject {
        Subject {
            node: NodeId([1; 32]),
            variant: VariantId([2; 32]),
            evidence,
            is_counted,
            assurance: Assurance::Seeded,
            answered: Some(0.5),
            audits: vec![(7, Some(Level::Referee), "passed")],
        }
    }

    #[test]
    fn a_results_own_audit_counts_once() {
        let standing = Standing { clean: 5, failed: 1, ..Standing::default() };
        let said =
            |evidence, is_counted| document(&subject(evidence, is_counted), &Known { standing, is_calibrated: true });
        let passed = said(Evidence::Clean, true);
        assert_eq!((&passed["node_clean_audits"], &passed["node_failed_audits"]), (&4.into(), &1.into()));
        assert_eq!(said(Evidence::Clean, false)["node_clean_audits"], 5);
        let history = json!([
            { "event": "answered", "value": 0.5 },
            { "event": "audited", "level": "referee", "finding": "passed", "record": 7 },
        ]);
        assert_eq!(passed["history"], history);
        let failed = said(Evidence::Failed, true);
        assert_eq!((&failed["node_failed_audits"], &failed["evidence"]), (&0.into(), &"failed".into()));
        let value = |said: &Value| said["value"].as_f64().unwrap();
        assert!(value(&failed) < 0.1 && value(&passed) > value(&said(Evidence::Pending, false)));
    }
}
