//! What nodes hold of conversations, as far as the gateway's choice of a node goes by it.

use super::Gateway;
use super::task::{Begun, Task};
use ol_protocol::record::AttemptId;
use ol_protocol::{NodeId, TokenCount};
use ol_sched::{Resident, Trial};

impl Gateway {
    /// Who holds how much of a task's prompt, which has so many tokens.
    pub(super) fn resident(&self, task: &Task, prompt: TokenCount) -> Option<Resident> {
        let Resident { node, tokens } = self.residency.find(&task.submission.prefixes)?;
        // The beginning was bounded by its bytes, as the whole was: of what is known better it is the same share.
        let bound = u64::from(task.submission.prompt_tokens_max.0.max(1));
        let share = u64::from(tokens.0).min(bound) * u64::from(prompt.0) / bound;
        Some(Resident { node, tokens: TokenCount(u32::try_from(share).unwrap_or(prompt.0)) })
    }

    /// A node said how much it holds of a prompt: if it was expected to hold some, it is late by what it said.
    pub(super) fn correct(&mut self, node: NodeId, attempt: AttemptId, said: Begun) {
        let Some(task) = self.tasks.get(&attempt.task) else { return };
        let expected = self.resident(task, said.prompt).filter(|expected| expected.node == node);
        let Some(Resident { tokens: expected, .. }) = expected else { return };
        let mut ask = self.needs(attempt.task, task, &[], Trial::Last);
        ask.resident = Some(Resident { node, tokens: said.resident });
        let begin = self.placement().predict(node, &ask).begin;
        let late_after = self.rates.late_after(ask.variant, begin);
        if said.resident == TokenCount(0) {
            self.residency.was_cold(node, &task.submission.prefixes);
        }
        if let Some(task) = self.tasks.get_mut(&attempt.task) {
            task.attempts.expect(attempt.attempt, late_after);
            let is_odd = said.resident.0 < expected.0 / 2;
            task.said.insert(attempt.attempt, Begun { is_odd, is_expected: true, ..said });
        }
    }
}
