//! The hands of a node on its link to one gateway: frames in and out, engines, outbox. What to do is the machine's to say.

use crate::content;
use crate::measured::Measured;
use crate::outbox::{self, Handle, Job, Row};
use crate::several::Inbox;
use ol_engine::{Engine, Event, Flow, Scores, Token};
use ol_net::frame::{self, Assign, Audit, Down, Payload, Up};
use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::bytes::Reader;
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{output_root, vectors_root};
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::prf::Seed;
use ol_protocol::seal::Seal;
use ol_protocol::seed::seed_digest;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Digest, Epoch, NodeId, OperatorId, Salt, Timestamp, TokenCount, VariantId};
use ol_roles::node::{Attempt, FailCode, Input, Output, Work};
use ol_store::Peer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sealed verdicts that a node keeps: it scores one at a time, and a gateway waits two minutes for each member.
const SEALED_MAX: usize = 64;

/// What others send for what a node does for one gateway.
pub enum Message {
    /// The link is up.
    Up {
        /// Where frames to the gateway go.
        down: ol_net::Sender<Up>,
        /// The gateway's welcome.
        welcome: Box<frame::Welcome>,
    },
    /// The link is gone.
    Lost,
    /// A frame of the gateway.
    Frame(Down),
    /// An engine's news of an attempt.
    Engine(Attempt, Event),
    /// An engine stopped an attempt as it was asked to.
    Stopped(Attempt),
    /// Vectors of an attempt.
    Embedded(Attempt, Result<ol_engine::Embeddings, ol_engine::Error>),
    /// Scores of an audit.
    Scored(AuditId, Result<Scores, ol_engine::Error>),
    /// Vectors of an audit.
    Recomputed(AuditId, Result<ol_engine::Embeddings, ol_engine::Error>),
    /// A batch is on disk.
    Stored {
        /// Its number.
        sequence: u64,
        /// The batch with its orders.
        bytes: Vec<u8>,
    },
    /// What the outbox keeps of an attempt that the gateway asks for.
    Recalled {
        /// Which.
        attempt: Attempt,
        /// The task's, as the gateway says.
        salt: Salt,
        /// The content as an audit has it, and log-probability bytes.
        row: Option<(Vec<u8>, Vec<u8>)>,
    },
}

/// Who the node is to the gateway.
pub(crate) struct Identity {
    pub(crate) key: SecretKey,
    pub(crate) peer: Peer,
    pub(crate) operator: OperatorId,
    pub(crate) level: Level,
}

// An attempt from its assignment until its batch is stored.
struct Content {
    assign: Box<Assign>,
    stop: Arc<AtomicBool>,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    log_probs: Vec<u8>,
    tail: String,
    vectors: Vec<Vec<f32>>,
    // It is committed to even if nothing was made.
    is_paid: bool,
}

/// See the module.
pub(crate) struct LinkHands {
    identity: Identity,
    engines: BTreeMap<VariantId, Arc<dyn Engine>>,
    inbox: Inbox,
    outbox: Handle,
    // Stored batches that wait for an acknowledgement, to be sent again after a new link.
    stored: BTreeMap<u64, Vec<u8>>,
    link: Option<ol_net::Sender<Up>>,
    contents: BTreeMap<Attempt, Content>,
    // Attempts whose end the gateway of this link was told, and whose batch it has not acknowledged.
    told: BTreeSet<Attempt>,
    audits: BTreeMap<AuditId, Box<Audit>>,
    // Verdicts that are sealed, until the whole panel's are.
    sealed: VecDeque<(Seal, frame::Scored)>,
    acks: BTreeMap<u64, Vec<u8>>,
    // Looked up now.
    recalls: usize,
    // What a referee measured, by prover and verifier: said on each link.
    calibrations: BTreeMap<(VariantId, VariantId), Vec<u8>>,
}

impl LinkHands {
    pub(crate) fn new(
        identity: Identity,
        engines: BTreeMap<VariantId, Arc<dyn Engine>>,
        inbox: Inbox,
        outbox: Handle,
        stored: BTreeMap<u64, Vec<u8>>,
    ) -> Self {
        Self {
            identity,
            engines,
            inbox,
            outbox,
            stored,
            link: None,
            contents: BTreeMap::new(),
            told: BTreeSet::new(),
            audits: BTreeMap::new(),
            sealed: VecDeque::new(),
            acks: BTreeMap::new(),
            recalls: 0,
            calibrations: BTreeMap::new(),
        }
    }

    // A link that doesn't take a frame is broken: its end is noticed where frames are read.
    fn send(&self, frame: Up) {
        if let Some(link) = &self.link
            && let Err(error) = link.try_send(frame)
        {
            tracing::warn!(gateway = %self.name(), %error, "a frame to the gateway is lost with its link");
        }
    }

    // As logs name it.
    fn name(&self) -> String {
        self.identity.peer.gateway.short()
    }

    /// Tells the gateway that the node goes.
    pub(crate) fn leave(&self) {
        self.send(Up::Leaving);
    }

    /// Signs what was measured, and says it.
    pub(crate) fn calibrated(&mut self, calibration: Calibration) {
        let Identity { key, peer, .. } = &self.identity;
        let referee = NodeId(key.public());
        let signed = Calibration { network: peer.network, referee, ..calibration }.sign(key);
        let bytes = signed.to_bytes();
        self.calibrations.insert((signed.prover, signed.verifier), bytes.clone());
        self.send(Up::Calibration { bytes });
    }

    fn frame(&mut self, frame: Down, inputs: &mut Vec<Input>) {
        match frame {
            Down::Assign(assign) => {
                let attempt = Attempt { task: assign.task, attempt: assign.attempt };
                let resumed_from = TokenCount(u32::try_from(assign.resume.len()).unwrap_or(u32::MAX));
                inputs.push(Input::Assigned { attempt, variant: assign.variant, epoch: assign.epoch, resumed_from });
                self.contents.entry(attempt).or_insert_with(|| Content::new(assign));
            }
            Down::Cancel { task, attempt, is_paid } => {
                let attempt = Attempt { task, attempt };
                // Its end may have crossed with this, and then the gateway has not taken it.
                self.told.remove(&attempt);
                if let Some(content) = self.contents.get_mut(&attempt) {
                    content.is_paid = is_paid;
                }
                inputs.push(Input::Cancelled { attempt, is_paid });
            }
            Down::Audit(audit) => {
                inputs.push(Input::AuditAsked { audit: audit.audit, variant: audit.variant });
                self.audits.entry(audit.audit).or_insert(audit);
            }
            Down::Unseal { audit, seals } => self.unseal(audit, &seals),
            // Acknowledged before: the answer to a batch that was sent twice.
            Down::BatchAck { sequence, .. } if !self.stored.contains_key(&sequence) => {}
            Down::BatchAck { sequence, countersigned, .. } => {
                if !self.is_countersigned(sequence, &countersigned) {
                    // What it signed is the node's only proof. Without it the batch waits, and is sent again.
                    let gateway = self.name();
                    return tracing::error!(%gateway, sequence, "the gateway acknowledged a batch with a wrong signature");
                }
                self.acks.insert(sequence, countersigned);
                inputs.push(Input::Acked { sequence });
            }
            Down::Recall { task, attempt, salt } => self.recall(Attempt { task, attempt }, salt),
            Down::EpochBegan { epoch } => inputs.push(Input::EpochBegan { epoch }),
            Down::Ping { nonce } => self.send(Up::Pong { nonce }),
            Down::Withdrawn { variant } => inputs.push(Input::Withdrawn { variant }),
            Down::Drain { message } => tracing::info!(gateway = %self.name(), message, "the gateway asks to drain"),
            Down::Welcome(_) | Down::Refused { .. } => {
                tracing::warn!(gateway = %self.name(), "a second welcome on one link");
            }
        }
    }

    // A disk that can't follow has nothing now: the gateway does without.
    fn recall(&mut self, attempt: Attempt, salt: Salt) {
        let (to, peer) = (self.inbox.clone(), self.identity.peer);
        if self.recalls < outbox::RECALLS_MAX && self.outbox.ask(Job::Recall { to, peer, attempt, salt }) {
            self.recalls += 1;
        }
    }

    // Of another gateway's tasks this one is told nothing.
    fn recalled(&mut self, attempt: Attempt, salt: Salt, row: Option<(Vec<u8>, Vec<u8>)>) {
        self.recalls = self.recalls.saturating_sub(1);
        let kept = |(row, log_probs): (Vec<u8>, Vec<u8>)| {
            let audit = row.strip_prefix(&self.identity.peer.gateway.0)?;
            Some((Box::new(Audit::from_kept(audit)?), log_probs))
        };
        let content = row.and_then(kept).filter(|(audit, _)| audit.salt == salt);
        self.send(Up::Recalled { task: attempt.task, attempt: attempt.attempt, content });
    }

    fn start(&mut self, attempt: Attempt, inputs: &mut Vec<Input>) {
        let Some(content) = self.contents.get(&attempt) else { return };
        let assign = &content.assign;
        let Some(engine) = self.engines.get(&assign.variant).cloned() else {
            return inputs.push(Input::EngineFailed { attempt, code: FailCode::UnknownVariant });
        };
        let inbox = self.inbox.clone();
        if let Payload::Embed { texts } = &assign.payload {
            let texts = texts.clone();
            return engine.embed(
                texts,
                Box::new(move |result| {
                    // The loop has ended: nobody waits for it.
                    drop(inbox.tell(Message::Embedded(attempt, result)));
                }),
            );
        }
        match content::task(assign, self.identity.peer) {
            Ok(task) => engine.generate(task, sink(attempt, content.stop.clone(), inbox)),
            Err(_) => inputs.push(Input::EngineFailed { attempt, code: FailCode::Invalid }),
        }
    }

    fn news(&mut self, attempt: Attempt, event: Event, inputs: &mut Vec<Input>) {
        let Some(content) = self.contents.get_mut(&attempt) else { return };
        match event {
            Event::Started { prompt_ids, resident_tokens } => {
                content.prompt_ids = prompt_ids.to_vec();
                let prompt = content.prompt().unwrap_or(Digest([0; 32]));
                let prompt_tokens = count(prompt_ids.len()).0;
                let (task, attempt) = (attempt.task, attempt.attempt);
                self.send(Up::Started { task, attempt, prompt_tokens, prompt, resident_tokens });
            }
            Event::Tokens(tokens) => {
                if content.ids.len() == content.assign.resume.len() {
                    inputs.push(Input::FirstToken { attempt });
                }
                let frame = content.tokens(attempt, tokens);
                self.send(frame);
            }
            Event::Finished(finish) => {
                content.tail = finish.text;
                let work = content.work(content::finish(finish.reason));
                inputs.push(ended(attempt, work));
            }
            Event::Failed(error) => {
                let code = code(&error);
                match code {
                    FailCode::Invalid => {
                        tracing::info!(gateway = %self.name(), task = %attempt.task, %error, "a request can't be served");
                    }
                    _ => {
                        tracing::warn!(gateway = %self.name(), task = %attempt.task, %error, "the engine gave an attempt up");
                    }
                }
                self.contents.remove(&attempt);
                inputs.push(Input::EngineFailed { attempt, code });
            }
        }
    }

    fn embedded(
        &mut self,
        attempt: Attempt,
        result: Result<ol_engine::Embeddings, ol_engine::Error>,
        inputs: &mut Vec<Input>,
    ) {
        let Some(content) = self.contents.get_mut(&attempt) else { return };
        match result {
            Ok(embeddings) => {
                content.prompt_ids = embeddings.tokens.into_iter().flatten().collect();
                content.vectors = embeddings.vectors;
                inputs.push(Input::FirstToken { attempt });
                inputs.push(ended(attempt, content.work(Finish::Embedded)));
            }
            Err(error) => {
                inputs.push(Input::EngineFailed { attempt, code: code(&error) });
                self.contents.remove(&attempt);
            }
        }
    }

    fn done(&mut self, commitment: &Commitment, grant: u64) {
        let attempt = Attempt { task: commitment.task, attempt: commitment.attempt };
        let Some(content) = self.contents.get_mut(&attempt) else { return };
        let text = std::mem::take(&mut content.tail);
        let vectors = content.vectors.clone();
        self.told.insert(attempt);
        self.send(Up::Done(frame::Done {
            task: attempt.task,
            attempt: attempt.attempt,
            text,
            commitment: commitment.to_bytes(),
            grant_total: grant,
            vectors,
        }));
    }

    fn store(&mut self, now: Timestamp, sequence: u64, epoch: Epoch, commitments: Vec<Commitment>) {
        let Identity { key, peer, operator, .. } = &self.identity;
        let header = BatchHeader {
            network: peer.network,
            gateway: peer.gateway,
            node: NodeId(key.public()),
            operator: *operator,
            sequence,
            epoch,
            count: 0,
            root: Digest([0; 32]),
        };
        let mut taken = |c: &Commitment| self.contents.remove(&Attempt { task: c.task, attempt: c.attempt });
        let contents: Vec<Option<Content>> = commitments.iter().map(&mut taken).collect();
        let of = |(c, content): (&Commitment, &Option<Content>)| {
            content.as_ref()?.payload(c, now, self.engines.get(&c.variant)?.variant().numerics.clone())
        };
        let payloads = commitments.iter().zip(&contents).filter_map(of).collect();
        let mut row = Row { batch: SignedBatch::sign(key, header, commitments).to_bytes(), ..Row::default() };
        for content in contents {
            let (order, output) = content.map(Content::into_parts).unwrap_or_default();
            row.orders.push(order);
            row.outputs.push(output);
        }
        let (to, peer) = (self.inbox.clone(), *peer);
        if !self.outbox.ask(Job::Put { to, peer, sequence, bytes: row.to_bytes(), payloads }) {
            tracing::error!(gateway = %self.name(), sequence, "the disk is too slow: a batch is lost, and its tasks are not paid");
        }
    }

    fn audit(&mut self, id: AuditId, inputs: &mut Vec<Input>) {
        let Some(audit) = self.audits.get(&id) else { return inputs.push(Input::AuditDone { audit: id }) };
        let Some(engine) = self.engines.get(&audit.variant).cloned() else {
            inputs.push(Input::AuditDone { audit: id });
            return self.refuse_audit(id, "the variant is not served here".into());
        };
        let inbox = self.inbox.clone();
        if let Payload::Embed { texts } = &audit.payload {
            return engine
                .embed(texts.clone(), Box::new(move |result| drop(inbox.tell(Message::Recomputed(id, result)))));
        }
        let finish = Finish::from_byte(audit.finish).unwrap_or(Finish::Cancelled);
        let tolerance = audit.tolerance_micro as f32 / 1e6;
        match content::score(&audit.payload, audit.seed, audit.output.clone(), finish, tolerance) {
            Ok(mut task) => {
                task.sampling = ol_engine::narrowed(task.sampling, &audit.prover_numerics);
                if audit.until > 0 {
                    task.until = audit.until as usize;
                }
                engine.score(task, Box::new(move |result| drop(inbox.tell(Message::Scored(id, result)))));
            }
            Err(error) => {
                inputs.push(Input::AuditDone { audit: id });
                self.refuse_audit(id, error.to_string());
            }
        }
    }

    fn refuse_audit(&mut self, audit: AuditId, message: String) {
        self.audits.remove(&audit);
        self.send(Up::Verdict { audit, outcome: Err(message), grant_total: 0 });
    }

    fn scored(&mut self, id: AuditId, result: Result<Scores, ol_engine::Error>, inputs: &mut Vec<Input>) {
        inputs.push(Input::AuditDone { audit: id });
        let Some(audit) = self.audits.remove(&id) else { return };
        match result {
            Ok(scores) => {
                let finish = Finish::from_byte(audit.finish).unwrap_or(Finish::Length);
                let measured = Measured::text(&audit.salt, &audit.output, audit.resumed_from, finish, &scores);
                self.send_verdict(&audit, measured, scores.log_prob_bytes);
            }
            Err(error) => self.refuse_audit(id, error.to_string()),
        }
    }

    fn recomputed(
        &mut self,
        id: AuditId,
        result: Result<ol_engine::Embeddings, ol_engine::Error>,
        inputs: &mut Vec<Input>,
    ) {
        inputs.push(Input::AuditDone { audit: id });
        let Some(audit) = self.audits.remove(&id) else { return };
        match result {
            Ok(own) => {
                let ids: Vec<u32> = own.tokens.into_iter().flatten().collect();
                let worst_micro = content::deviation_micro(&audit.vectors, &own.vectors);
                let measured = Measured::vectors(&audit.salt, &audit.vectors, ids, worst_micro);
                self.send_verdict(&audit, measured, Vec::new());
            }
            Err(error) => self.refuse_audit(id, error.to_string()),
        }
    }

    fn send_verdict(&mut self, audit: &Audit, measured: Measured, log_probs: Vec<u8>) {
        let Identity { key, peer, operator, level } = &self.identity;
        let level = match level {
            Level::CrossAudit if audit.sealed => Level::Panel,
            level => *level,
        };
        let prompt = content::prompt_digest(&audit.salt, &measured.prompt_ids, &audit.payload);
        let verdict = Verdict {
            network: peer.network,
            audit: audit.audit,
            auditor: NodeId(key.public()),
            operator: *operator,
            level,
            variant: audit.variant,
            prompt: prompt.unwrap_or(Digest([0; 32])),
            seed: seed_digest(&audit.salt, &Seed(audit.seed)),
            output: measured.output,
            log_probs: content::log_probs_digest(&audit.salt, &log_probs),
            prompt_tokens: count(measured.prompt_ids.len()),
            output_tokens: TokenCount(measured.output_tokens),
            scored_tokens: TokenCount(measured.scored),
            worst_margin_micro: measured.worst_micro,
            margin_sum_micro: measured.sum_micro,
            finish_fits: measured.finish_fits,
            signature: Signature([0; 64]),
        }
        .sign(key);
        // Evidence needs the prompt as it was rendered, which a gateway can't do.
        let prompt_ids = if level == Level::Referee { measured.prompt_ids } else { Vec::new() };
        let scored = frame::Scored { verdict: verdict.to_bytes(), log_probs, prompt_ids };
        if level != Level::Panel {
            return self.send(Up::Verdict { audit: audit.audit, outcome: Ok(scored), grant_total: 0 });
        }
        let seal = Seal::new(&verdict, key);
        let bytes = seal.to_bytes();
        // A gateway that never asks for them is none to keep them for.
        if self.sealed.len() >= SEALED_MAX {
            self.sealed.pop_front();
        }
        self.sealed.push_back((seal, scored));
        self.send(Up::Sealed { bytes });
    }

    // Nobody learns what this node found before all have said what they did.
    fn unseal(&mut self, audit: AuditId, seals: &[Vec<u8>]) {
        let seals: Option<Vec<Seal>> = seals.iter().map(|bytes| Seal::from_bytes(bytes).ok()).collect();
        let place = self.sealed.iter().rposition(|(seal, _)| seal.audit == audit);
        let Some((own, scored)) = place.and_then(|place| self.sealed.remove(place)) else {
            return tracing::warn!(gateway = %self.name(), "the gateway asks for a verdict that is not here");
        };
        if seals.is_some_and(|seals| own.is_one_of(&seals)) {
            self.send(Up::Verdict { audit, outcome: Ok(scored), grant_total: 0 });
        } else {
            let gateway = self.name();
            tracing::error!(%gateway, "the gateway asks for a verdict without the seals of a whole panel: it gets none");
        }
    }

    fn refuse(&self, attempt: Attempt, code: FailCode, grant: u64) {
        let (code, message) = match code {
            FailCode::Invalid => (frame::FailCode::Invalid, "the request does not fit the model"),
            FailCode::Overloaded => (frame::FailCode::Overloaded, "more was sent than was granted"),
            FailCode::Draining => (frame::FailCode::Draining, "the node is leaving"),
            FailCode::UnknownVariant => (frame::FailCode::UnknownVariant, "the variant is not served here"),
            FailCode::Internal => (frame::FailCode::Internal, "the engine failed"),
        };
        let (task, attempt) = (attempt.task, attempt.attempt);
        self.send(Up::Failed { task, attempt, code, message: message.into(), grant_total: grant });
    }

    fn row(&self, sequence: u64) -> Option<Row> {
        self.stored.get(&sequence).and_then(|bytes| Row::from_bytes(bytes))
    }

    // What was made goes along where the gateway can't have compared it at the end. What passes the limit stays behind,
    // and is not paid.
    fn send_batch(&self, sequence: u64) {
        let Some(Row { batch, orders, outputs }) = self.row(sequence) else { return };
        let attempts = attempts(&batch);
        let mut room = ol_net::limits::MADE_TOKENS_MAX;
        let mut made = Vec::new();
        for ((place, outbox::Output { ids, log_probs }), attempt) in (0u16..).zip(outputs).zip(attempts) {
            if ids.is_empty() || ids.len() > room || self.told.contains(&attempt) {
                continue;
            }
            room -= ids.len();
            made.push(frame::Made { place, ids, log_probs });
        }
        self.send(Up::Batch { bytes: batch, orders, outputs: made });
    }

    fn forget(&mut self, sequence: u64) {
        let row = self.row(sequence).unwrap_or_default();
        for attempt in attempts(&row.batch) {
            self.told.remove(&attempt);
        }
        self.stored.remove(&sequence);
    }

    // Whether the gateway signed just this batch. One that is acknowledged already needs no proof.
    fn is_countersigned(&self, sequence: u64, countersigned: &[u8]) -> bool {
        let Some(Row { batch, .. }) = self.row(sequence) else { return false };
        let mut reader = Reader::new(countersigned);
        let (Ok(ours), Ok(theirs)) = (SignedBatch::from_bytes(&batch), CountersignedBatch::read(&mut reader)) else {
            return false;
        };
        let is_ours = (ours.header, ours.signature) == (theirs.header.clone(), theirs.node_signature);
        is_ours && reader.finish().is_ok() && theirs.verify().is_ok()
    }

    /// Turns a message into inputs.
    pub(crate) fn take(&mut self, _now: Timestamp, message: Message, inputs: &mut Vec<Input>) {
        match message {
            Message::Up { down, welcome } => {
                self.link = Some(down);
                for bytes in self.calibrations.values() {
                    self.send(Up::Calibration { bytes: bytes.clone() });
                }
                inputs.push(Input::Connected { next_batch: welcome.acked_batches, epoch: welcome.epoch });
            }
            Message::Lost => {
                self.link = None;
                self.told.clear();
                self.audits.clear();
                self.sealed.clear();
                inputs.push(Input::Disconnected);
            }
            Message::Frame(frame) => self.frame(frame, inputs),
            Message::Engine(attempt, event) => self.news(attempt, event, inputs),
            Message::Stopped(attempt) => {
                if let Some(content) = self.contents.get(&attempt) {
                    inputs.push(ended(attempt, content.work(Finish::Cancelled)));
                    // Nothing was made: no batch will ask for it.
                    if content.ids.len() == content.assign.resume.len() && !content.is_paid {
                        self.contents.remove(&attempt);
                    }
                }
            }
            Message::Embedded(attempt, result) => self.embedded(attempt, result, inputs),
            Message::Scored(audit, result) => self.scored(audit, result, inputs),
            Message::Recomputed(audit, result) => self.recomputed(audit, result, inputs),
            Message::Stored { sequence, bytes } => {
                self.stored.insert(sequence, bytes);
                inputs.push(Input::Stored { sequence });
            }
            Message::Recalled { attempt, salt, row } => self.recalled(attempt, salt, row),
        }
    }

    /// Carries out an output; what it leads to at once becomes inputs.
    pub(crate) fn carry_out(&mut self, now: Timestamp, output: Output, inputs: &mut Vec<Input>) {
        match output {
            Output::Grant { variant, total } => self.send(Up::Grant { variant, total }),
            Output::Withdraw { variant, total } => self.send(Up::Withdraw { variant, total }),
            Output::Close => self.close(),
            Output::Start { attempt } => self.start(attempt, inputs),
            Output::Stop { attempt } => {
                if let Some(content) = self.contents.get(&attempt) {
                    content.stop.store(true, Ordering::Relaxed);
                }
            }
            Output::Refuse { attempt, code, grant } => {
                self.contents.remove(&attempt);
                self.refuse(attempt, code, grant);
            }
            Output::RefuseCopy { attempt, grant } => self.refuse(attempt, FailCode::Invalid, grant),
            Output::Done { commitment, grant } => self.done(&commitment, grant),
            Output::Store { sequence, epoch, commitments } => self.store(now, sequence, epoch, commitments),
            Output::Send { sequence } => {
                self.send_batch(sequence);
            }
            Output::Forget { sequence } => {
                self.forget(sequence);
                let countersigned = self.acks.remove(&sequence).unwrap_or_default();
                if !self.outbox.ask(Job::Ack { peer: self.identity.peer, sequence, countersigned }) {
                    tracing::warn!(gateway = %self.name(), sequence, "the disk is slow: an acknowledged batch will be sent again");
                }
            }
            Output::Audit { audit } => self.audit(audit, inputs),
            Output::RefuseAudit { audit } => {
                self.refuse_audit(audit, "the variant is not served here, or too much is audited already".into())
            }
        }
    }

    fn close(&self) {
        tracing::warn!(gateway = %self.name(), "the gateway keeps slots that it was asked for: its link is closed");
        if let Some(link) = &self.link {
            link.close(ol_net::Reason::new(ol_net::CloseCode::Ended, "slots were asked for and not given back"));
        }
    }
}

impl Content {
    fn new(assign: Box<Assign>) -> Self {
        Self {
            ids: assign.resume.clone(),
            assign,
            stop: Arc::new(AtomicBool::new(false)),
            prompt_ids: Vec::new(),
            log_probs: Vec::new(),
            tail: String::new(),
            vectors: Vec::new(),
            is_paid: false,
        }
    }

    fn into_parts(self) -> (Vec<u8>, outbox::Output) {
        let Assign { order, resume, .. } = *self.assign;
        (order, outbox::Output { ids: self.ids[resume.len()..].to_vec(), log_probs: self.log_probs })
    }

    fn prompt(&self) -> Result<Digest, content::Error> {
        content::prompt_digest(&self.assign.salt, &self.prompt_ids, &self.assign.payload)
    }

    fn tokens(&mut self, attempt: Attempt, tokens: Vec<Token>) -> Up {
        let wanted = self.assign.payload.generate().is_some_and(|g| g.top_logprobs > 0);
        let mut frame = frame::Tokens {
            task: attempt.task,
            attempt: attempt.attempt,
            count: 0,
            ids: Vec::with_capacity(tokens.len()),
            text: String::new(),
            log_probs: Vec::with_capacity(tokens.len()),
            top: Vec::new(),
        };
        for token in tokens {
            frame.ids.push(token.id);
            frame.log_probs.push(token.log_prob_byte);
            frame.text.push_str(&token.text);
            if wanted {
                let top = frame::TopLogProbs { log_prob: token.log_prob, text: token.text, alternatives: token.top };
                frame.top.push(top);
            }
        }
        self.ids.extend_from_slice(&frame.ids);
        self.log_probs.extend_from_slice(&frame.log_probs);
        frame.count = count(self.ids.len()).0;
        Up::Tokens(frame)
    }

    fn work(&self, finish: Finish) -> Work {
        let salt = &self.assign.salt;
        let embeds = matches!(self.assign.payload, Payload::Embed { .. });
        let output = if embeds { vectors_root(salt, &self.vectors) } else { output_root(salt, &self.ids) };
        Work {
            prompt: self.prompt().unwrap_or(Digest([0; 32])),
            seed: seed_digest(salt, &Seed(self.assign.seed)),
            output,
            log_probs: content::log_probs_digest(salt, &self.log_probs),
            finish,
            prompt_tokens: count(self.prompt_ids.len()),
            output_tokens: count(self.ids.len()),
        }
    }

    // What the node itself would need to answer for this attempt later.
    fn payload(&self, of: &Commitment, now: Timestamp, numerics: String) -> Option<ol_store::Payload> {
        let audit = Audit {
            audit: AuditId([0; 16]),
            variant: of.variant,
            salt: self.assign.salt,
            seed: self.assign.seed,
            payload: self.assign.payload.clone(),
            output: self.ids.clone(),
            resumed_from: of.resumed_from.0,
            until: 0,
            vectors: self.vectors.clone(),
            finish: of.finish.to_byte(),
            tolerance_micro: 0,
            prover_numerics: numerics,
            deadline_ms: 0,
            sealed: false,
        };
        let attempt = Attempt { task: of.task, attempt: of.attempt };
        // Whose task it was comes first.
        let prompt = [&of.gateway.0[..], &audit.to_kept()].concat();
        let output = self.log_probs.clone();
        let fits = prompt.len() + output.len() <= ol_store::PAYLOAD_BYTES_MAX;
        fits.then_some(ol_store::Payload { attempt, created: now, prompt, output })
    }
}

// Of a batch of one's own, in its order.
fn attempts(batch: &[u8]) -> Vec<Attempt> {
    let read = SignedBatch::from_bytes(batch).map(|batch| batch.commitments).unwrap_or_default();
    read.iter().map(|c| Attempt { task: c.task, attempt: c.attempt }).collect()
}

fn ended(attempt: Attempt, work: Work) -> Input {
    Input::Finished { attempt, work }
}

fn sink(attempt: Attempt, stop: Arc<AtomicBool>, inbox: Inbox) -> ol_engine::Sink {
    Box::new(move |event| {
        let last = matches!(event, Event::Finished(_) | Event::Failed(_));
        let message = match stop.load(Ordering::Relaxed) && !last {
            true => Message::Stopped(attempt),
            false => Message::Engine(attempt, event),
        };
        let stopped = matches!(message, Message::Stopped(_));
        // A full inbox holds the engine up: better than memory without bound.
        match inbox.tell(message) {
            Ok(()) if !stopped => Flow::Continue,
            Ok(()) | Err(_) => Flow::Stop,
        }
    })
}

const fn code(error: &ol_engine::Error) -> FailCode {
    match error {
        ol_engine::Error::TooLong { .. }
        | ol_engine::Error::Empty
        | ol_engine::Error::UnknownToken { .. }
        | ol_engine::Error::WrongKind { .. }
        | ol_engine::Error::Sampling(_)
        | ol_engine::Error::Template { .. }
        | ol_engine::Error::Tokenise
        | ol_engine::Error::CannotScore => FailCode::Invalid,
        ol_engine::Error::Busy { .. } => FailCode::Overloaded,
        ol_engine::Error::Server | ol_engine::Error::Ended => FailCode::Internal,
    }
}

fn count(length: usize) -> TokenCount {
    TokenCount(u32::try_from(length).unwrap_or(u32::MAX))
}
