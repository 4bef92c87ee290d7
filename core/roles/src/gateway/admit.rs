//! Whether a request is taken: the gates that it has to pass before it may wait for a node.

use super::event::{Output, Refusal, Submission};
use super::task::{State, Task};
use super::{Gateway, limits};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use ol_protocol::{MicroCredits, Micros, Timestamp, TokenCount};
use ol_sched::attempt::ATTEMPTS_MAX;
use ol_sched::queue::QUEUE_MAX;
use ol_sched::reliability::attempts_in;
use ol_sched::{Attempts, Gate, Limits, Passed, Rule, Tier};

// Gates that a task passes at its admission.
const GATES: usize = 9;

impl Gateway {
    pub(super) fn submit(&mut self, now: Timestamp, submission: Submission, out: &mut Vec<Output>) {
        let (task, tenant) = (submission.task, submission.tenant);
        if self.tasks.contains_key(&task) {
            self.counters.refused += 1;
            return out.push(Output::Refuse {
                task,
                refusal: Refusal::Invalid,
                passed: Vec::new(),
                failed: Vec::new(),
            });
        }
        self.decisions.open(now, &submission);
        let audited_price = self.audited_price(&submission);
        let mut passed = Vec::with_capacity(GATES);
        let admitted = self.admit(now, &submission, &mut passed);
        if let Some(of) = self.decisions.of(task) {
            of.passed = passed;
        }
        if let Err(refusal) = admitted {
            return self.turn_down(now, submission, refusal, out);
        }
        self.claim_ahead(now, tenant, out);
        self.counters.promised += u64::from(submission.tier != Tier::Standard);
        let total = submission.deadline.min(self.setup.limits.total);
        let limits = Limits { total, output_max: submission.output_tokens_max, ..self.setup.limits };
        let entry = Task {
            attempts: Attempts::new(limits, now),
            state: State::Queued,
            said: BTreeMap::new(),
            shares: Vec::new(),
            alarm: None,
            response: None,
            client_gone: false,
            audited_price,
            waits: false,
            settled: MicroCredits::ZERO,
            submission,
        };
        self.tasks.insert(task, Box::new(entry));
        self.enqueue(now, task, out);
    }

    // A budget that is empty here may be filled by the next part of what the tenant bought.
    fn turn_down(&mut self, now: Timestamp, submission: Submission, refusal: Refusal, out: &mut Vec<Output>) {
        let (task, gates) = (submission.task, refusal.gates());
        if let Refusal::Budget(Gate::BudgetEmpty { available, needed }) = refusal {
            let missing = MicroCredits(needed.0.saturating_sub(available.0));
            if self.await_funds(now, submission, missing, out).is_none() {
                return;
            }
        }
        self.refuse(now, task, refusal, gates, out);
    }

    fn admit(&mut self, now: Timestamp, submission: &Submission, passed: &mut Vec<Passed>) -> Result<(), Refusal> {
        let &Submission { task, tenant, variant, floor, .. } = submission;
        match self.offers.supply(variant).node_count {
            0 => return Err(Refusal::Impossible(vec![Gate::NoNodeHasVariant])),
            node_count => passed.push(Passed::Variant { node_count }),
        }
        if let Some(region) = submission.place.bound() {
            match self.offers.supply(submission.want()).node_count {
                0 => return Err(Refusal::Impossible(vec![Gate::NoNodeInRegion { region }])),
                node_count => passed.push(Passed::Region { region, node_count }),
            }
        }
        self.can_be_promised(now, submission, passed)?;
        let needed = self.is_affordable(submission, passed)?;
        self.can_be_trusted(now, submission)?;
        passed.extend(floor.map(|floor| Passed::Trust { needed_ppm: floor.value_ppm }));
        passed.extend(self.is_served_soon(submission)?);
        self.collect(tenant);
        let available = self.budget.available(&tenant);
        self.budget
            .reserve(task, tenant, needed)
            .map_err(|empty| Refusal::Budget(Gate::BudgetEmpty { available: empty.available, needed: empty.needed }))?;
        passed.push(Passed::Budget { available, needed });
        passed.push(Passed::Queue { queued: self.queue.len() as u64, max: QUEUE_MAX as u64 });
        Ok(())
    }

    // The worst case, if it is within what the tenant allows.
    fn is_affordable(&self, submission: &Submission, passed: &mut Vec<Passed>) -> Result<MicroCredits, Refusal> {
        let &Submission { prompt_tokens_max, output_tokens_max, price, max_price, .. } = submission;
        let price = self.audited_price(submission).unwrap_or(price);
        let worst = price.charge(prompt_tokens_max, output_tokens_max).ok_or(Refusal::Invalid)?;
        match max_price {
            Some(max) if worst > max => return Err(Refusal::Impossible(vec![Gate::PriceTooHigh { worst, max }])),
            Some(max) => passed.push(Passed::Price { worst, max }),
            None => {}
        }
        Ok(worst)
    }

    // Whether there is time for the longest answer that was asked for on a usual node, and any node is reliable enough for the tier, with the
    // attempts that there is time for: one that takes over goes on with what there is.
    fn can_be_promised(
        &mut self,
        now: Timestamp,
        submission: &Submission,
        passed: &mut Vec<Passed>,
    ) -> Result<(), Refusal> {
        let &Submission { variant, prompt_tokens_max, output_tokens_max, deadline, tier, .. } = submission;
        if tier == Tier::Standard {
            return Ok(());
        }
        let Some(best) = self.most_reliable(now, submission.want()) else { return Ok(()) };
        let usual = self.rates.usual(variant);
        // A guess refuses nobody.
        if self.rates.is_known(variant) {
            // Of the prompt only a bound is known, several times what most have.
            let longest = usual.predict(TokenCount(0), output_tokens_max);
            if longest > deadline {
                return Err(Refusal::Impossible(vec![Gate::AnswerTooLong { needed: longest, left: deadline }]));
            }
            passed.push(Passed::Length { needed: longest, left: deadline });
        }
        let output = self.rates.length(variant).min(output_tokens_max);
        let takes = usual.predict(prompt_tokens_max, output);
        let attempts = attempts_in(deadline, takes, u64::from(ATTEMPTS_MAX));
        let best_ppm = best.ppm();
        match tier.is_kept(best, attempts) {
            true => passed.push(Passed::Tier { best_ppm, attempts }),
            false => {
                return Err(Refusal::Impossible(vec![Gate::TierTooHigh { tier: tier.name(), best_ppm, attempts }]));
            }
        }
        Ok(())
    }

    // Whether a task that has to wait is worth taking: what is refused at once can be asked for elsewhere. By the place of its
    // tenant, so that one who floods the queue shuts out nobody else.
    fn is_served_soon(&self, submission: &Submission) -> Result<Option<Passed>, Refusal> {
        let &Submission { tenant, variant, deadline, .. } = submission;
        let waiters = self.queue.waiters(submission.want(), tenant);
        let (flow, place) = (self.flow(submission.want()), waiters.place());
        let (Some(wait), Some(service)) = (flow.wait(place), flow.service()) else { return Ok(None) };
        // A guess refuses nobody.
        if waiters.tasks == 0 || self.setup.rule != Rule::Cost || !self.rates.is_known(variant) {
            return Ok(None);
        }
        let longest = match place > limits::QUEUE_FREE {
            true => Micros(service.0.saturating_mul(limits::WAIT_SERVICES)).max(limits::WAIT_FREE).min(deadline),
            false => deadline,
        };
        let max = Micros(longest.0.min(deadline.0.saturating_sub(service.0)));
        match wait > max {
            true => Err(Refusal::Busy(vec![Gate::WaitTooLong { wait, max }])),
            false => Ok(Some(Passed::Wait { wait, max })),
        }
    }
}
