//! What the machine's refusals mean to clients.

use super::why;
use crate::refusal::{Kind, Refusal};
use ol_protocol::Micros;
use ol_roles::gateway::event;
use ol_sched::Passed;

/// Wait before asking again where the machine can't say when it is worth it.
const RETRY: Micros = Micros::from_secs(1);

// When the wait is no longer than it may be.
fn retry_after(gate: &ol_sched::Gate) -> Option<Micros> {
    let ol_sched::Gate::WaitTooLong { wait, max } = gate else { return None };
    Some(Micros(wait.0.saturating_sub(max.0)).max(RETRY))
}

/// The refusal that a client gets, with the gates that its task passed and those that it did not. `context` is that of the model, if it is
/// known.
pub(super) fn explain(
    refusal: &event::Refusal,
    passed: &[Passed],
    failed: &[ol_sched::Gate],
    context: Option<u32>,
) -> Refusal {
    Refusal { gates: why::gates(passed, failed), ..without_gates(refusal, context) }
}

fn without_gates(refusal: &event::Refusal, context: Option<u32>) -> Refusal {
    use event::Refusal as R;
    let first = |gates: &[ol_sched::Gate]| gates.first().map(ToString::to_string).unwrap_or_default();
    match refusal {
        R::Busy(gates) => {
            let kind = Kind::Overloaded { retry_after: gates.iter().find_map(retry_after).unwrap_or(RETRY) };
            Refusal::new(kind, first(gates))
        }
        // It is the request's own limit, and would be the same anywhere.
        R::Impossible(gates) if matches!(gates[..], [ol_sched::Gate::PriceTooHigh { .. }]) => {
            Refusal::invalid("openledger.max_price", first(gates))
        }
        R::Impossible(gates) => Refusal::new(Kind::Unservable, first(gates)),
        R::Budget(gate) => Refusal::new(Kind::Budget, gate.to_string()),
        R::Unconfirmed { failed: true } => {
            let message = "the answer failed its audit, and is not charged: ask again, of another node";
            Refusal::new(Kind::Unconfirmed, message)
        }
        R::Unconfirmed { failed: false } => {
            let message = "the answer was not audited in time; it is charged, and paid back if its audit fails: allow more time \
                           with deadline_ms, or ask without min_trust";
            Refusal { billed: true, ..Refusal::new(Kind::Unconfirmed, message) }
        }
        R::Deadline => Refusal::new(Kind::Deadline, "the deadline passed before the answer was complete"),
        R::Attempts { attempts, delivered } => {
            let message = format!("{attempts} nodes failed on this request after {} tokens", delivered.0);
            Refusal::new(Kind::NodeFailed, message)
        }
        R::Invalid => {
            let tokens = context.map(|tokens| format!(" of {tokens} tokens")).unwrap_or_default();
            let message = format!(
                "prompt and output don't fit the model's context{tokens}, or its template refuses the messages: shorten them, or \
                 ask for fewer tokens with max_tokens"
            );
            Refusal::new(Kind::TooLong, message)
        }
    }
}
