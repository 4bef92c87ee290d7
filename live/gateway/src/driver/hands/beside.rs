//! What the loop asks others for and goes on: the database for payloads, batches that come again and tenants' money, with messages for answers; and whoever
//! asks for the network's own tasks.

use super::GatewayHands;
use crate::driver::content;
use crate::driver::handle::lock;
use crate::driver::message::{Known, Look, Message};
use crate::driver::own;
use ol_net::Down;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::commitment::Commitment;
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::{Funded, Slice};
use ol_protocol::{MicroCredits, NodeId, TaskId, TenantId, VariantId};
use ol_roles::Gateway;
use ol_roles::gateway::event::Input;
use ol_store::{NodeBatch, Read};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Questions for tenants' money at the same time: they are answered one after the other, each in a millisecond, or not at
/// all.
const CLAIMS_MAX: usize = 64;

/// Wait before a batch that could not be read is asked for again: as long as before a commit.
const LOOK_UP_RETRY: Duration = Duration::from_secs(1);

impl GatewayHands {
    // Who asks for the network's own tasks is slow, or gone: then there is one less.
    fn tell_asker(&self, told: own::Told) {
        drop(self.asker.try_send(told));
    }

    /// What a tenant lets become public, and has paid for, the network may ask again.
    pub(super) fn overhear(&self, task: TaskId, charge: MicroCredits) {
        let Some(content) = self.contents.get(&task).filter(|content| content.public) else { return };
        if charge > MicroCredits::ZERO && content.tenant != self.shared.genesis.own_tenant() {
            self.tell_asker(own::Told::Seen { tenant: content.tenant, payload: content.payload.clone() });
        }
    }

    pub(super) fn want_own(&self, like: TaskId, variant: VariantId) {
        let variants = self.shared.variants.read().unwrap_or_else(PoisonError::into_inner);
        let of = variants.get(&variant).map(|served| served.variant.clone());
        drop(variants);
        if let (Some(variant), Some(content)) = (of, self.contents.get(&like)) {
            let (like, scope) = (content.payload.clone(), content.scope);
            self.tell_asker(own::Told::Wanted { variant: Box::new(variant), like, scope });
        }
    }

    pub(super) fn claim(
        &mut self,
        tenant: TenantId,
        amount: MicroCredits,
        booked: Option<Funded>,
        inputs: &mut Vec<Input>,
    ) {
        if self.shared.funds.is_none() {
            return inputs.push(Input::NoFunds { tenant, is_unknown: false });
        }
        if self.claims >= CLAIMS_MAX {
            return inputs.push(Input::NoFunds { tenant, is_unknown: true });
        }
        self.claims += 1;
        let (shared, answers) = (Arc::clone(&self.shared), self.journal.answers());
        tokio::task::spawn_blocking(move || {
            let Some(funds) = &shared.funds else { return };
            let result = lock(funds).claim(tenant, amount, booked);
            // The loop has ended: nobody waits for it.
            drop(answers.send(Message::Claimed { tenant, result }));
        });
    }

    // Asks the store beside the loop, which goes on; the answer comes as a message.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        after: Duration,
        question: impl FnOnce(&dyn Read) -> T + Send + 'static,
        tell: impl FnOnce(T) -> Message + Send + 'static,
    ) {
        let (questions, answers) = (self.shared.questions.clone(), self.journal.answers());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(answer) = questions.ask(question).await {
                // The loop has ended: nobody waits for it.
                drop(answers.send(tell(answer)));
            }
        });
    }

    pub(super) fn acknowledge(&mut self, node: NodeId, sequence: u64) {
        match self.journal.batch(node, sequence) {
            Some((batch, first_record)) => self.send_ack(node, &batch, first_record),
            None => self.look_up(node, sequence, Duration::ZERO),
        }
    }

    // A batch that a node sent again. It does so once on a link: what can't be read now is asked for until then.
    fn look_up(&self, node: NodeId, sequence: u64, after: Duration) {
        let Some(generation) = self.peers.get(&node).map(|peer| peer.generation) else { return };
        self.ask(
            after,
            move |read| read.batch(node, sequence),
            move |batch| Message::Found { node, generation, sequence, batch: Box::new(batch) },
        );
    }

    pub(super) fn found(
        &self,
        node: NodeId,
        generation: u64,
        sequence: u64,
        batch: Result<Option<NodeBatch>, ol_store::Error>,
    ) {
        if self.peers.get(&node).is_none_or(|peer| peer.generation != generation) {
            return;
        }
        match batch {
            Ok(Some(NodeBatch { index, batch })) => {
                self.send_ack(node, &batch, index.saturating_sub(u64::from(batch.header.count)));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "a batch can't be read now: its node waits for its signature");
                self.look_up(node, sequence, LOOK_UP_RETRY);
            }
        }
    }

    fn send_ack(&self, node: NodeId, batch: &CountersignedBatch, first_record: u64) {
        let (sequence, countersigned) = (batch.header.sequence, batch.to_bytes());
        self.send(node, Down::BatchAck { sequence, countersigned, first_record });
    }
}

impl GatewayHands {
    /// Looks for the content of a refuted attempt that may become public.
    pub(super) fn open(&self, subject: AttemptId, commitment: Commitment) {
        let commitment = Box::new(commitment);
        self.ask(Duration::ZERO, move |read| read.payload(subject), move |row| Message::Opened { commitment, row });
    }
}

/// A question that the machine answers once it has taken all inputs.
pub(super) enum Asked {
    /// What audits found of a node in a variant.
    Standing(NodeId, VariantId, oneshot::Sender<Known>),
    /// Anything else.
    Look(Look),
    /// Whether a tenant's task is refuted, and not public.
    Publishable(TenantId, TaskId, oneshot::Sender<bool>),
}

impl Asked {
    pub(super) fn answer(self, machine: &Gateway) {
        let settler = machine.settler();
        // Whoever asked may have gone.
        match self {
            Self::Look(look) => look(machine),
            Self::Standing(node, variant, answer) => {
                let (standing, is_calibrated) = (settler.standing(node, variant), settler.is_calibrated(variant));
                let _ = answer.send(Known { standing, is_calibrated });
            }
            Self::Publishable(tenant, task, answer) => {
                let _ = answer.send(settler.concealed(task, tenant).next().is_some());
            }
        }
    }
}

/// What that brought, for the machine.
pub(super) fn opened(
    commitment: &Commitment,
    row: Result<Option<ol_store::Payload>, ol_store::Error>,
    inputs: &mut Vec<Input>,
) {
    let task = commitment.task;
    match row.map(|row| row.and_then(|row| content::evidence(&row, commitment))) {
        Ok(Some(evidence)) => inputs.push(Input::Evidence(evidence)),
        Ok(None) => {
            tracing::warn!(%task, "the content of a refuted answer is not here any more, or too long for the log")
        }
        Err(error) => {
            tracing::warn!(%task, %error, "the content of a refuted answer can't be read now: a public one is tried again at the next start, a private one when its tenant asks again");
        }
    }
}

/// What a claim brought, for the machine.
pub(super) fn claimed(tenant: TenantId, result: Result<Option<Slice>, ol_store::Error>) -> Input {
    match result {
        Ok(Some(slice)) => Input::TopUp(slice),
        Ok(None) => Input::NoFunds { tenant, is_unknown: false },
        Err(error) => {
            tracing::warn!(%error, "what a tenant has left can't be asked for");
            Input::NoFunds { tenant, is_unknown: true }
        }
    }
}
