//! The hands of the gateway: frames, replies, the log on disk. What to do is the machine's to say.

mod audits;
mod beside;
mod facts;

use super::content::{Content, length};
use super::explain::explain;
use super::handle::{Shared, lock};
use super::instruct::Told;
use super::journal::{Close, Commit, Journal};
use super::message::{Message, New, News, Scoring};
use super::own;
use super::peers::Peer;
use crate::backend::{Finished, Reason, Reply, TokenLogProb};
use audits::Running;
use beside::Asked;
use ol_drive::Hands;
use ol_net::frame::{self, Role, Welcome};
use ol_net::{CloseCode, Down, Up};
use ol_protocol::batch::{CountersignedBatch, SignedBatch};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{Domain, digest, salted};
use ol_protocol::key::SecretKey;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::seal::Seal;
use ol_protocol::top_up::Slice;
use ol_protocol::variant::Assurance;
use ol_protocol::verdict::Level;
use ol_protocol::{AuditId, Digest, Epoch, Micros, NodeId, TaskId, Timestamp, TokenCount, VariantId};
use ol_roles::Gateway;
use ol_roles::gateway::event::{self, Entry, Input, Output};
use ol_roles::node::FailCode;
use ol_sched::{Gate, Passed};
use ol_store::Appended;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// How long a draining gateway waits for the last batches of its nodes: one is due a second after its first result.
const LAST_BATCHES: Micros = Micros::from_secs(3);

/// How often metrics are written anew.
const METRICS_EVERY: Micros = Micros::from_millis(250);

/// What came with the end of an attempt that is being taken.
struct Ending {
    task: TaskId,
    attempt: u8,
    text: String,
    vectors: Vec<Vec<f32>>,
}

/// See the module.
pub(super) struct GatewayHands {
    pub(super) shared: Arc<Shared>,
    pub(super) key: SecretKey,
    pub(super) journal: Journal,
    pub(super) news: broadcast::Sender<News>,
    asker: mpsc::Sender<own::Told>,
    pub(super) event_log: Option<ol_drive::log::Writer>,
    peers: BTreeMap<NodeId, Peer>,
    // Boxed: ids come in the order of time, so that whatever leaves the front of a tree's leaf moves all that follow.
    contents: BTreeMap<TaskId, Box<Content>>,
    frame: Option<frame::Tokens>,
    ending: Option<Ending>,
    audits: BTreeMap<AuditId, Running>,
    // What nodes were asked for because it is not here any more: for which audit, by whom, and how.
    recalls: BTreeMap<AttemptId, (AuditId, Vec<(NodeId, Scoring)>)>,
    // Whose answers are kept back until their audits pass.
    awaited: BTreeMap<TaskId, mpsc::Sender<Reply>>,
    pings: BTreeMap<u64, (NodeId, Timestamp)>,
    next_ping: u64,
    metrics_due: Timestamp,
    draining_since: Option<Timestamp>,
    // Questions that the machine answers once it has taken all inputs.
    asked: Vec<Asked>,
    // Who asked for what the machine is being told.
    told: Option<Told>,
    // Questions for money that are not answered.
    claims: usize,
    done: bool,
}

impl GatewayHands {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: SecretKey,
        journal: Journal,
        news: broadcast::Sender<News>,
        asker: mpsc::Sender<own::Told>,
        event_log: Option<ol_drive::log::Writer>,
    ) -> Self {
        Self {
            shared,
            key,
            journal,
            news,
            asker,
            event_log,
            peers: BTreeMap::new(),
            contents: BTreeMap::new(),
            frame: None,
            ending: None,
            audits: BTreeMap::new(),
            recalls: BTreeMap::new(),
            awaited: BTreeMap::new(),
            pings: BTreeMap::new(),
            next_ping: 0,
            metrics_due: Timestamp(0),
            draining_since: None,
            asked: Vec::new(),
            told: None,
            claims: 0,
            done: false,
        }
    }

    // A link that doesn't take a frame is broken, and its reader notices.
    fn send(&self, node: NodeId, frame: Down) {
        let Some(peer) = self.peers.get(&node) else { return };
        match peer.sender.try_send(frame) {
            Ok(()) => {}
            Err(error @ ol_net::SendError::Invalid { .. }) => {
                // Both ends count what was sent: the link begins anew, or they would count differently from here on.
                tracing::error!(node = %node.short(), %error, "a frame can't be sent: its link is closed");
                peer.sender.close(ol_net::Reason::new(CloseCode::Ended, "a frame could not be sent"));
            }
            Err(error) => tracing::info!(node = %node.short(), %error, "a frame is lost with its link"),
        }
    }

    fn region(&self, node: NodeId) -> String {
        let region = self.peers.get(&node).and_then(|peer| peer.region);
        region.map(|region| region.to_string()).unwrap_or_default()
    }

    fn has(&self, node: NodeId, attempt: AttemptId) -> bool {
        self.contents.get(&attempt.task).is_some_and(|content| content.has(node, attempt.attempt))
    }

    fn reply(&self, task: TaskId, reply: Reply) {
        if let Some(content) = self.contents.get(&task) {
            // The client is gone, and HTTP says so in a message of its own.
            drop(content.replies.try_send(reply));
        }
    }

    fn joined(&mut self, node: NodeId, peer: Peer, inputs: &mut Vec<Input>) {
        if let Some(old) = self.peers.remove(&node) {
            old.left(&self.shared);
            old.sender.close(ol_net::Reason::new(CloseCode::Ended, "the node connected anew"));
            inputs.push(Input::NodeLeft { node });
        }
        inputs.push(Input::NodeJoined {
            node,
            operator: peer.certificate.operator,
            referee: peer.referee,
            variants: peer.variants.iter().map(|(id, _)| *id).collect(),
            region: peer.region,
        });
        peer.joined(&self.shared);
        self.peers.insert(node, peer);
        // Nobody has to listen.
        drop(self.news.send(News::Joined(node)));
    }

    fn left(&mut self, node: NodeId, generation: u64, inputs: &mut Vec<Input>) {
        if self.peers.get(&node).is_some_and(|peer| peer.generation == generation)
            && let Some(peer) = self.peers.remove(&node)
        {
            peer.left(&self.shared);
            inputs.push(Input::NodeLeft { node });
        }
    }

    fn frame(&mut self, now: Timestamp, node: NodeId, frame: Up, inputs: &mut Vec<Input>) {
        match frame {
            Up::Grant { variant, total } => inputs.push(Input::Granted { node, variant, total }),
            Up::Withdraw { variant, total } => inputs.push(Input::Withdrawn { node, variant, total }),
            Up::Started { task, attempt, prompt_tokens, resident_tokens, .. } => {
                let attempt = AttemptId { task, attempt };
                if self.has(node, attempt) && self.contents.get_mut(&task).is_some_and(|it| it.tells(attempt.attempt)) {
                    let region = self.region(node);
                    self.reply(task, Reply::Started { prompt_tokens, node: node.to_string(), region });
                }
                let [prompt_tokens, resident_tokens] = [prompt_tokens, resident_tokens].map(TokenCount);
                inputs.push(Input::Started { node, attempt, prompt_tokens, resident_tokens });
            }
            Up::Tokens(tokens) => self.tokens(node, tokens, inputs),
            Up::Done(done) => self.node_done(node, done, inputs),
            Up::Failed { task, attempt, code, message, grant_total } => {
                let attempt = AttemptId { task, attempt };
                tracing::info!(node = %node.short(), %task, message, "a node gives an attempt up");
                let variant = self.contents.get(&task).and_then(|c| c.orders.get(usize::from(attempt.attempt)));
                if let Some((variant, _)) = variant {
                    inputs.push(Input::Granted { node, variant: *variant, total: grant_total });
                }
                inputs.push(Input::Failed { node, attempt, code: fail_code(code) });
            }
            Up::Batch { bytes, orders, outputs } => self.batch(node, &bytes, orders, outputs, inputs),
            Up::Verdict { audit, outcome, .. } => self.verdict(node, audit, outcome, inputs),
            Up::Pong { nonce } => {
                // Another's ping stays: only who it was sent to knows its nonce.
                if self.pings.get(&nonce).is_some_and(|(to, _)| *to == node)
                    && let Some((_, sent)) = self.pings.remove(&nonce)
                {
                    inputs.push(Input::RoundTrip { node, took: now.since(sent) });
                }
            }
            Up::Calibration { bytes } => self.calibrated(node, &bytes, inputs),
            Up::Sealed { bytes } => self.sealed(node, &bytes, inputs),
            Up::Recalled { task, attempt, content } => {
                self.recalled(now, node, AttemptId { task, attempt }, content, inputs);
            }
            Up::Leaving => inputs.push(Input::NodeDraining { node }),
            Up::Hello(_) => self.misbehaved(node, "a second hello", inputs),
        }
    }

    fn misbehaved(&mut self, node: NodeId, why: &str, inputs: &mut Vec<Input>) {
        tracing::warn!(node = %node.short(), why, "a node broke the protocol: its link is closed");
        if let Some(peer) = self.peers.get(&node) {
            peer.sender.close(ol_net::Reason::new(CloseCode::Malformed, why));
        }
        inputs.push(Input::Misbehaved { node });
    }

    fn tokens(&mut self, node: NodeId, tokens: frame::Tokens, inputs: &mut Vec<Input>) {
        if tokens.log_probs.len() != tokens.ids.len() {
            return self.misbehaved(node, "another number of log-probabilities than tokens", inputs);
        }
        if tokens.ids.is_empty() {
            return self.misbehaved(node, "a frame of tokens without tokens", inputs);
        }
        let attempt = AttemptId { task: tokens.task, attempt: tokens.attempt };
        let (count, added) = (TokenCount(tokens.count), TokenCount(length(&tokens.ids)));
        self.frame = Some(tokens);
        inputs.push(Input::Progress { node, attempt, count, added });
    }

    // The machine took the frame at hand: the client gets it.
    fn relay(&mut self, attempt: AttemptId) {
        let Some(frame) = self.frame.take() else { return };
        let Some(content) = self.contents.get_mut(&attempt.task) else { return };
        content.ids.extend_from_slice(&frame.ids);
        if let Some(bytes) = content.log_probs.get_mut(usize::from(attempt.attempt)) {
            bytes.extend_from_slice(&frame.log_probs);
        }
        if let Some(reached) = content.reached.get_mut(usize::from(attempt.attempt)) {
            *reached = length(&content.ids);
        }
        let logprobs = frame
            .top
            .into_iter()
            .map(|top| TokenLogProb {
                text: top.text,
                log_prob: top.log_prob,
                top: top.alternatives.into_iter().map(|(_, text, log_prob)| (text, log_prob)).collect(),
            })
            .collect();
        let delta = Reply::Delta { text: frame.text, count: length(&frame.ids), logprobs };
        drop(content.replies.try_send(delta));
    }

    fn node_done(&mut self, node: NodeId, done: frame::Done, inputs: &mut Vec<Input>) {
        let Ok(commitment) = Commitment::from_bytes(&done.commitment) else {
            return self.misbehaved(node, "a commitment that can't be read", inputs);
        };
        if (commitment.task, commitment.attempt, commitment.node) != (done.task, done.attempt, node) {
            return self.misbehaved(node, "a commitment for another task or node", inputs);
        }
        inputs.push(Input::Granted { node, variant: commitment.variant, total: done.grant_total });
        let mut relayed = Digest([0; 32]);
        if let Some(content) = self.contents.get(&done.task)
            && content.has(node, done.attempt)
            && !content.ended
        {
            relayed = content.root(&done.vectors);
            self.ending =
                Some(Ending { task: done.task, attempt: done.attempt, text: done.text, vectors: done.vectors });
        }
        inputs.push(Input::Done { node, commitment, relayed });
    }

    fn batch(
        &mut self,
        node: NodeId,
        bytes: &[u8],
        orders: Vec<Vec<u8>>,
        outputs: Vec<frame::Made>,
        inputs: &mut Vec<Input>,
    ) {
        let Ok(batch) = SignedBatch::from_bytes(bytes) else {
            return self.misbehaved(node, "a batch that can't be read", inputs);
        };
        if batch.header.node != node || batch.header.network != self.shared.network {
            return self.misbehaved(node, "a batch of another node or network", inputs);
        }
        if self.peers.get(&node).is_none_or(|peer| peer.certificate.operator != batch.header.operator) {
            return self.misbehaved(node, "a batch of another operator than the certificate's", inputs);
        }
        match batch.verify() {
            Ok(batch) => {
                let matches = self.matches(&batch.batch().commitments, outputs);
                inputs.push(Input::Batch { batch, orders, matches });
            }
            Err(error) => self.misbehaved(node, &error.to_string(), inputs),
        }
    }

    fn matches(&mut self, commitments: &[Commitment], outputs: Vec<frame::Made>) -> Vec<event::Match> {
        let mut made: BTreeMap<u16, frame::Made> = outputs.into_iter().map(|made| (made.place, made)).collect();
        let mut held = |(place, commitment): (u16, &Commitment)| {
            let content = self.contents.get_mut(&commitment.task)?;
            content.hold_against(commitment, made.remove(&place))
        };
        (0u16..).zip(commitments).map(|it| held(it).unwrap_or(event::Match::Unknown)).collect()
    }

    fn submit(&mut self, now: Timestamp, new: New, inputs: &mut Vec<Input>) {
        let submission = new.submission.clone();
        self.contents.insert(submission.task, Box::new(Content::of(new, now)));
        inputs.push(Input::Submitted(submission));
    }

    fn assign(&mut self, output: Output) {
        let Output::Assign { node, attempt, variant, epoch, order, deadline, .. } = output else { return };
        let Some(content) = self.contents.get_mut(&attempt.task) else { return };
        content.orders.push((variant, node));
        content.log_probs.push(Vec::new());
        content.resumed.push(length(&content.ids));
        content.reached.push(length(&content.ids));
        let assign = frame::Assign {
            task: attempt.task,
            attempt: attempt.attempt,
            variant,
            epoch,
            salt: content.salt,
            seed: content.seed,
            payload: content.payload.clone(),
            resume: content.ids.clone(),
            deadline_ms: deadline.0 / 1_000,
            order,
            scope: Some(content.scope),
        };
        self.send(node, Down::Assign(Box::new(assign)));
    }

    fn finish(&mut self, task: TaskId, finished: &event::Finished) {
        let region = self.region(finished.node);
        self.overhear(task, finished.charge);
        let Some(content) = self.contents.get_mut(&task) else { return };
        (content.ended, content.answered_by) = (true, Some(finished.attempt));
        let of_this = |ending: &Ending| (ending.task, ending.attempt) == (task, finished.attempt);
        let ending = self.ending.take().filter(of_this);
        let (text, vectors) = ending.map(|ending| (ending.text, ending.vectors)).unwrap_or_default();
        content.vectors = vectors;
        if !text.is_empty() {
            drop(content.replies.try_send(Reply::Delta { text, count: 0, logprobs: Vec::new() }));
        }
        let assurance = if finished.is_calibrated { content.assurance } else { Assurance::None };
        let evidence = if finished.waits { ol_trust::Evidence::Clean } else { ol_trust::Evidence::Pending };
        let trust = ol_trust::value(&finished.standing, evidence, assurance);
        content.trust = Some(trust);
        let reply = Finished {
            reason: match finished.finish {
                Finish::Length => Reason::Length,
                Finish::EndOfText | Finish::StopString | Finish::Cancelled | Finish::Embedded => Reason::Stop,
            },
            prompt_tokens: finished.prompt_tokens.0,
            cached_tokens: finished.resident_tokens.0,
            output_tokens: finished.output_tokens.0,
            charge: finished.charge,
            price: finished.price,
            waits: finished.waits,
            node: finished.node.to_string(),
            region,
            attempts: u32::from(finished.attempts),
            trust,
            assurance: assurance.name(),
            vectors: content.vectors.clone(),
        };
        drop(content.replies.try_send(Reply::Finished(Box::new(reply))));
        if finished.waits {
            self.awaited.insert(task, content.replies.clone());
        }
    }

    // The content may have left memory with its receipt.
    fn release(&mut self, task: TaskId) {
        if let Some(replies) = self.awaited.remove(&task) {
            drop(replies.try_send(Reply::Released));
        }
    }

    fn context_of(&self, variant: VariantId) -> Option<u32> {
        let variants = self.shared.variants.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        Some(variants.get(&variant)?.variant.context_tokens)
    }

    fn refuse(&mut self, task: TaskId, refusal: &event::Refusal, passed: &[Passed], failed: &[Gate]) {
        let context = self.contents.get(&task).and_then(|content| self.context_of(content.orders.last()?.0));
        let reply = Reply::Failed(explain(refusal, passed, failed, context));
        if let Some(replies) = self.awaited.remove(&task) {
            return drop(replies.try_send(reply));
        }
        self.reply(task, reply);
        if let Some(content) = self.contents.get_mut(&task) {
            content.ended = true;
            if content.orders.is_empty() {
                self.contents.remove(&task);
            }
        }
    }

    /// Writes the rest of the event log.
    pub(super) fn end_event_log(&mut self) {
        if let Some(Err(error)) = self.event_log.as_mut().map(ol_drive::log::Writer::mark) {
            tracing::error!(%error, "the event log is cut off");
        }
    }

    fn client_gone(&mut self, task: TaskId) {
        let Some(content) = self.contents.get_mut(&task) else { return };
        content.ended = true;
        if content.orders.is_empty() {
            self.contents.remove(&task);
        }
    }

    fn append(&mut self, now: Timestamp, append: u64, entries: Vec<Entry>) {
        let mut commit = Commit::of(append);
        commit.told.extend(self.told.take());
        for entry in entries {
            match entry {
                Entry::Record(record) => {
                    self.keep_rendered(&record, &mut commit.job);
                    commit.job.records.push(record);
                }
                Entry::Batch { header, signature, receipts, receipts_root } => {
                    let node = header.node;
                    for receipt in &receipts {
                        self.keep(now, &receipt.commitment, &mut commit.job);
                    }
                    commit.job.records.extend(receipts.into_iter().map(Record::Receipt));
                    let batch = CountersignedBatch::sign(&self.key, header, signature, receipts_root);
                    commit.batches.push((node, batch.clone(), commit.job.records.len() as u64));
                    commit.job.records.push(Record::Batch(batch));
                }
            }
        }
        self.journal.push(commit);
    }

    fn closed(&mut self, output: Output) {
        let Output::Closed { summary, state, seals, snapshot } = output else { return };
        let epoch = summary.epoch;
        self.journal.close(Close { epoch, state, seals, snapshot, summary });
        self.shared.epoch.store(epoch.next().0, Ordering::Relaxed);
        self.shared.counter.store(0, Ordering::Relaxed);
        let frame = Down::EpochBegan { epoch: epoch.next() };
        for peer in self.peers.values() {
            drop(peer.sender.try_send(frame.clone()));
        }
    }

    fn committed(&mut self, now: Timestamp, result: Result<Appended, ol_store::Error>, inputs: &mut Vec<Input>) {
        let done = self.journal.committed(now, result);
        if let Some(append) = done.append {
            inputs.push(Input::Durable { append });
        }
        // A log that somebody else goes on with is lost to this process for good.
        self.done |= done.is_lost;
        if let Some(summary) = done.closed {
            // Nobody has to listen.
            drop(self.news.send(News::Closed { summary }));
        }
    }

    fn denied(&mut self, error: ol_ledger::Error) {
        tracing::warn!(%error, "an order of the issuer is refused");
        if let Some(told) = self.told.take() {
            // Whoever asked may have gone.
            let _ = told.send(Err(error));
        }
    }

    // Who could guess it would answer before it was asked, and seem to stand next door.
    fn nonce(&self, ping: u64) -> u64 {
        let Digest([a, b, c, d, e, f, g, h, ..]) = digest(
            Domain::Nonce,
            &[b"ping", &self.shared.master, &self.shared.started_at.to_le_bytes(), &ping.to_le_bytes()],
        );
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn ping(&mut self, now: Timestamp, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.next_ping += 1;
            let nonce = self.nonce(self.next_ping);
            self.pings.insert(nonce, (node, now));
            self.send(node, Down::Ping { nonce });
        }
    }

    fn drain(&mut self, now: Timestamp) {
        if self.draining_since.replace(now).is_none() {
            for node in self.peers.keys() {
                self.send(*node, Down::Drain { message: "the gateway is stopping".into() });
            }
        }
        self.shared.draining.store(true, Ordering::Relaxed);
    }
}

impl Hands for GatewayHands {
    type Machine = Gateway;
    type Message = Message;

    fn take(&mut self, now: Timestamp, message: Message, inputs: &mut Vec<Input>) {
        match message {
            Message::Joined { node, generation, sender, certificate, hello } => {
                let peer = Peer {
                    generation,
                    sender,
                    variants: hello.variants.into_iter().map(|variant| (variant.id(), variant)).collect(),
                    referee: hello.role == Role::Referee,
                    certificate: *certificate,
                    // A node of before regions had a form may say anything: then it stands nowhere.
                    region: hello.region.parse().ok(),
                };
                self.joined(node, peer, inputs);
            }
            Message::Left { node, generation } => self.left(node, generation, inputs),
            Message::Frame { node, generation, frame } => {
                if self.peers.get(&node).is_some_and(|peer| peer.generation == generation) {
                    self.frame(now, node, frame, inputs);
                }
            }
            Message::Submit(new) => self.submit(now, *new, inputs),
            Message::Responded { task, digest, complete } => {
                if let Some(content) = self.contents.get(&task) {
                    let response = salted(Domain::Response, &content.salt, &digest.0);
                    inputs.push(Input::Responded { task, response });
                }
                if !complete {
                    self.client_gone(task);
                    inputs.push(Input::ClientGone { task });
                }
            }
            Message::Committed(result) => self.committed(now, result, inputs),
            Message::Retry => self.journal.retry(),
            Message::Ping => {
                self.pings.retain(|_, (_, sent)| now.since(*sent) < Micros::from_secs(60));
                let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
                self.ping(now, nodes);
            }
            Message::TopUp { top_up, answer } => {
                self.told = Some(answer);
                inputs.push(Input::TopUp(Slice::whole(*top_up)));
            }
            Message::Change { change, answer } => {
                self.told = Some(answer);
                inputs.push(Input::Change(*change));
            }
            Message::Evidence { auditor, audit, how, row } => self.audit(auditor, audit, how, row, inputs),
            Message::RecallDue { audit, subject } => self.recall_due(audit, subject, inputs),
            Message::Opened { commitment, row } => beside::opened(&commitment, row, inputs),
            Message::Found { node, generation, sequence, batch } => self.found(node, generation, sequence, *batch),
            Message::Claimed { tenant, result } => {
                self.claims = self.claims.saturating_sub(1);
                inputs.push(beside::claimed(tenant, result));
            }
            Message::IsKnown { tenant, task, answer } => {
                let known = self.contents.get(&task).is_some_and(|content| content.tenant == tenant)
                    || self.journal.facts_waiting(task).is_some();
                // Whoever asked may have gone.
                let _ = answer.send(known);
            }
            Message::Look(look) => self.asked.push(Asked::Look(look)),
            Message::Standing { node, variant, answer } => self.asked.push(Asked::Standing(node, variant, answer)),
            Message::Publish { tenant, task, answer } => {
                self.asked.push(Asked::Publishable(tenant, task, answer));
                inputs.push(Input::Published { tenant, task });
            }
            Message::Drain => self.drain(now),
        }
    }

    fn carry_out(&mut self, now: Timestamp, output: Output, inputs: &mut Vec<Input>) {
        match output {
            Output::Welcome { node, next_batch, epoch, held } => {
                let (gateway, network) = (self.shared.gateway, self.shared.network);
                let welcome = Welcome {
                    protocol: frame::PROTOCOL,
                    gateway,
                    network,
                    epoch,
                    acked_batches: next_batch,
                    ping_every_ms: 10_000,
                    hold_seconds: held.hold.0 / 1_000_000,
                    held_tasks: held.tasks,
                };
                self.send(node, Down::Welcome(welcome));
                // How far away it is decides what it gets from the start.
                self.ping(now, [node]);
            }
            output @ Output::Assign { .. } => self.assign(output),
            Output::Cancel { node, attempt: AttemptId { task, attempt }, is_paid } => {
                self.send(node, Down::Cancel { task, attempt, is_paid });
            }
            Output::Relay { attempt, .. } => self.relay(attempt),
            Output::Finish { task, finished } => self.finish(task, &finished),
            Output::Refuse { task, refusal, passed, failed } => self.refuse(task, &refusal, &passed, &failed),
            Output::Own { like, variant } => self.want_own(like, variant),
            Output::Release { task } => self.release(task),
            Output::Forget { task } => {
                if self.contents.get(&task).is_some_and(|content| content.ended) {
                    self.contents.remove(&task);
                }
            }
            Output::Append { append, entries } => self.append(now, append, entries),
            Output::Ack { node, sequence } => {
                self.acknowledge(node, sequence);
            }
            Output::Audit {
                auditor,
                audit,
                subject,
                prover,
                level,
                variant,
                tolerance_micro,
                log_prob_steps,
                reach,
            } => {
                let sealed = level == Level::Panel;
                let how = Scoring { subject, prover, variant, tolerance_micro, log_prob_steps, reach, sealed };
                self.ask(
                    Duration::ZERO,
                    move |read| read.payload(subject),
                    move |row| Message::Evidence { auditor, audit, how, row },
                );
            }
            Output::Withdrawn { node, variant } => self.send(node, Down::Withdrawn { variant }),
            Output::Unseal { auditor, audit, seals } => {
                let seals = seals.iter().map(Seal::to_bytes).collect();
                self.send(auditor, Down::Unseal { audit, seals });
            }
            output @ Output::Audited { .. } => self.audited(&output),
            Output::Open { subject, commitment } => self.open(subject, commitment),
            output @ Output::Closed { .. } => self.closed(output),
            Output::Claim { tenant, amount, booked } => self.claim(tenant, amount, booked, inputs),
            Output::Denied { error } => self.denied(error),
            Output::Close { node, why } => self.misbehaved(node, why, inputs),
        }
    }

    fn rest(&mut self, now: Timestamp, machine: &Gateway) {
        (self.frame, self.ending) = (None, None);
        self.journal.pump();
        self.asked.drain(..).for_each(|asked| asked.answer(machine));
        if now >= self.metrics_due {
            self.metrics_due = now.after(METRICS_EVERY);
            *lock(&self.shared.parameters) = *machine.settler().ledger().parameters_from(Epoch(u64::MAX));
            *lock(&self.shared.metrics) = super::start::metrics(machine, self.peers.len(), &self.shared.traffic);
        }
        // Looking at every task is for the end only.
        let is_idle = || machine.active() == 0 && self.journal.is_idle();
        if let Some(since) = self.draining_since.filter(|_| is_idle()) {
            // A node that is gone sends no batch: its work is not waited for longer than one takes.
            self.done = machine.is_settled_down() || now.since(since) > LAST_BATCHES;
        }
    }

    fn tick(&self) -> Input {
        Input::Tick
    }

    fn record_input(&mut self, now: Timestamp, input: &Input) {
        if let Some(log) = &mut self.event_log
            && let Err(error) = log.input(now, &input.to_bytes())
        {
            tracing::error!(%error, "the event log ends here");
            self.event_log = None;
        }
    }

    fn record_output(&mut self, output: &Output) {
        if let Some(log) = &mut self.event_log {
            log.output(output);
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

const fn fail_code(code: frame::FailCode) -> FailCode {
    match code {
        frame::FailCode::Invalid => FailCode::Invalid,
        frame::FailCode::Overloaded => FailCode::Overloaded,
        frame::FailCode::Draining => FailCode::Draining,
        frame::FailCode::Internal => FailCode::Internal,
        frame::FailCode::UnknownVariant => FailCode::UnknownVariant,
    }
}
