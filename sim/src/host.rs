//! A modelled node: its machine, engine, disk, and its end of the link.

use crate::config::{Broken, Config};
use crate::content::{self, Content, HONEST, Maker};
use crate::gate::Up;
use crate::random::Random;
use crate::world::{Event, VARIANT, World, issuer, node, operator};
use ol_protocol::batch::{BatchHeader, SignedBatch};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::Signature;
use ol_protocol::record::AttemptId;
use ol_protocol::seal::Seal;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Digest, Epoch, Machine, Micros, NodeId, OperatorId, TaskId, Timestamp, TokenCount, merkle};
use ol_roles::Node;
use ol_roles::node::{FailCode, Input, Output, Setup, Work};
use std::collections::{BTreeMap, BTreeSet};

/// Tokens of one frame.
const CHUNK: u32 = 16;

/// Chance that an engine gives an attempt up.
const ENGINE_FAILS: f64 = 0.002;

/// Chance that an engine stands still between two frames, about as long as the gateway waits, so that its next frame
/// crosses the gateway's decision; only where there is churn.
const ENGINE_STALLS: f64 = 0.01;
const STALL: Micros = Micros(19_950_000);
const STALL_JITTER: usize = 200_000;

/// Time until a batch is signed and on a node's disk, at least.
const DISK: Micros = Micros(2_000);

/// How long a node waits before it dials again.
pub(crate) const REDIAL: Micros = Micros::from_secs(1);

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Honest,
    Cheater,
    Hostile,
    Referee,
}

/// What comes to a node.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Welcome { next_batch: u64, epoch: Epoch },
    Assign { attempt: AttemptId, epoch: Epoch, resumed_from: TokenCount, order: Vec<u8>, job: Job },
    Cancel { attempt: AttemptId },
    Ack { sequence: u64 },
    Audit { audit: AuditId, content: Evidence },
    Unseal { audit: AuditId },
    Epoch { epoch: Epoch },
}

/// What an engine is asked.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) prompt: u32,
    // Where the model ends the text, and the request's limit.
    pub(crate) answer: u32,
    pub(crate) max: u32,
    pub(crate) content: Content,
}

/// What an auditor is sent.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(crate) task: TaskId,
    pub(crate) level: Level,
    pub(crate) prompt: u32,
    pub(crate) resumed_from: u32,
    // Tokens that are scored, with those before.
    pub(crate) until: u32,
    pub(crate) content: Content,
}

#[derive(Debug)]
struct Run {
    job: Job,
    stopped: bool,
    began: bool,
}

/// A signed batch with the orders that go with it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) batch: SignedBatch,
    pub(crate) orders: Vec<Vec<u8>>,
    pub(crate) outputs: Vec<Content>,
}

/// One node and what is round it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) operator: OperatorId,
    pub(crate) kind: Kind,
    pub(crate) region: u32,
    place: usize,
    slots: u32,
    prefill: Micros,
    decode: Micros,
    setup: Setup,
    // The process: another one after each start.
    pub(crate) life: u32,
    pub(crate) machine: Option<Node>,
    armed: Option<Timestamp>,
    links: u32,
    pub(crate) link: Option<u32>,
    pub(crate) gateway_link: Option<u32>,
    pub(crate) up_free: Timestamp,
    pub(crate) down_free: Timestamp,
    runs: BTreeMap<AttemptId, Run>,
    jobs: BTreeMap<AttemptId, Job>,
    pub(crate) orders: BTreeMap<AttemptId, Vec<u8>>,
    made: BTreeMap<AttemptId, Content>,
    // In memory until stored, then on disk until acknowledged.
    storing: BTreeMap<u64, Kept>,
    pub(crate) disk: BTreeMap<u64, Kept>,
    next_batch: u64,
    pub(crate) evidence: BTreeMap<AuditId, Evidence>,
    // Verdicts for panels that are not opened yet, and whether their log-probabilities are the prover's.
    pub(crate) sealed: BTreeMap<AuditId, (Verdict, bool)>,
    scoring_until: Timestamp,
    // The gateway's view of this link.
    pub(crate) sent: u64,
    pub(crate) granted: u64,
    pub(crate) signed: BTreeSet<AttemptId>,
    pub(crate) caught: bool,
    // The first batch ever, which a hostile node sends again and again.
    pub(crate) old: Option<Kept>,
}

impl Host {
    pub(crate) fn new(place: usize, config: &Config, genesis: &Genesis, random: &mut Random) -> Self {
        let index = place as u32;
        let kind = match () {
            () if index == config.nodes => Kind::Referee,
            () if index < config.cheaters => Kind::Cheater,
            () if index < config.cheaters + config.hostile => Kind::Hostile,
            () => Kind::Honest,
        };
        let referee = kind == Kind::Referee;
        let operator = if referee { genesis.referee_operator } else { operator(index % config.operators.max(1)) };
        // One in eight is ten times slower than the others.
        let slow = if !referee && random.below(8) == 0 { 10 } else { 1 };
        let slots = if referee { 0 } else { 1 + random.below(4) as u32 };
        let setup = Setup {
            network: genesis.network(),
            gateway: genesis.gateway,
            node: node(index),
            operator,
            slots: vec![(VARIANT, slots)],
            next_batch: 0,
            unacked: Vec::new(),
        };
        Self {
            id: node(index),
            operator,
            kind,
            region: random.below(config.regions.max(1) as usize) as u32,
            place,
            slots,
            prefill: Micros((300 + random.below(300) as u64) * slow),
            decode: Micros((3_000 + random.below(4_000) as u64) * slow),
            machine: Some(Node::new(setup.clone())),
            setup,
            life: 0,
            armed: None,
            links: 0,
            link: None,
            gateway_link: None,
            up_free: Timestamp(0),
            down_free: Timestamp(0),
            runs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            orders: BTreeMap::new(),
            made: BTreeMap::new(),
            storing: BTreeMap::new(),
            disk: BTreeMap::new(),
            next_batch: 0,
            evidence: BTreeMap::new(),
            sealed: BTreeMap::new(),
            scoring_until: Timestamp(0),
            sent: 0,
            granted: 0,
            signed: BTreeSet::new(),
            caught: false,
            old: None,
        }
    }

    fn maker(&self) -> Maker {
        if self.kind == Kind::Cheater { self.place as u64 + 1 } else { HONEST }
    }

    /// What keeps this node from being at rest.
    pub(crate) fn unrest(&self) -> Option<&'static str> {
        let machine = self.machine.as_ref();
        match () {
            () if self.kind == Kind::Hostile => None,
            () if machine.is_none() => Some("a node is away"),
            () if self.link.is_none() || self.link != self.gateway_link => Some("a node is not connected"),
            () if machine.is_some_and(|node| node.running() > 0) => Some("a node works"),
            () if machine.is_some_and(|node| node.deadline().is_some()) => Some("a result waits for its batch"),
            () if !self.storing.is_empty() || !self.disk.is_empty() => Some("a batch is not acknowledged"),
            () => None,
        }
    }

    /// A process that ends without notice: what was in memory is gone.
    fn kill(&mut self) {
        self.life += 1;
        self.machine = None;
        self.armed = None;
        self.link = None;
        self.runs.clear();
        self.jobs.clear();
        self.orders.clear();
        self.made.clear();
        self.storing.clear();
        self.evidence.clear();
        self.sealed.clear();
    }

    fn start(&mut self) {
        let unacked = self.disk.keys().copied().collect();
        let setup = Setup { next_batch: self.next_batch, unacked, ..self.setup.clone() };
        self.machine = Some(Node::new(setup));
    }

    pub(crate) fn header(&self, sequence: u64, epoch: Epoch, commitments: &[Commitment]) -> BatchHeader {
        let leaves: Vec<Digest> = commitments.iter().map(Commitment::leaf).collect();
        BatchHeader {
            network: self.setup.network,
            gateway: self.setup.gateway,
            node: self.id,
            operator: self.operator,
            sequence,
            epoch,
            count: commitments.len() as u16,
            root: merkle::root(&leaves),
        }
    }
}

impl World {
    /// Feeds a node's machine and carries out what it wants.
    pub(crate) fn tell(&mut self, place: usize, input: Input) -> Result<(), Broken> {
        let Some(mut machine) = self.hosts[place].machine.take() else { return Ok(()) };
        let mut out = Vec::new();
        machine.handle(self.now, input, &mut out);
        let held = machine.running() as u64;
        let granted = u64::from(self.hosts[place].slots);
        if held > granted {
            return Err(Broken::OverGrant { node: place, held, granted });
        }
        let due = machine.deadline();
        self.hosts[place].machine = Some(machine);
        self.arm(place, due);
        for output in out {
            self.trace.node(self.now, place, &output);
            self.obey(place, output)?;
        }
        Ok(())
    }

    fn arm(&mut self, place: usize, due: Option<Timestamp>) {
        let host = &mut self.hosts[place];
        let Some(due) = due.filter(|due| host.armed.is_none_or(|armed| *due < armed)) else { return };
        host.armed = Some(due);
        self.agenda.plan(due.max(self.now), Event::NodeTimer { place, life: host.life });
    }

    pub(crate) fn node_timer(&mut self, place: usize, life: u32) -> Result<(), Broken> {
        let host = &mut self.hosts[place];
        if host.life != life || host.armed.is_none_or(|armed| armed > self.now) {
            return Ok(());
        }
        host.armed = None;
        self.tell(place, Input::Tick)
    }

    fn obey(&mut self, place: usize, output: Output) -> Result<(), Broken> {
        match output {
            Output::Grant { total, .. } => self.send_up(place, Up::Grant { total }),
            Output::Start { attempt } => return self.start_run(place, attempt),
            Output::Stop { attempt } => {
                if let Some(run) = self.hosts[place].runs.get_mut(&attempt) {
                    run.stopped = true;
                }
            }
            Output::Refuse { attempt, code, grant } => {
                self.hosts[place].orders.remove(&attempt);
                self.hosts[place].jobs.remove(&attempt);
                self.send_up(place, Up::Refuse { attempt, code, grant });
            }
            Output::Done { commitment, grant } => self.send_up(place, Up::Done { commitment, grant }),
            Output::Store { sequence, epoch, commitments } => self.store(place, sequence, epoch, commitments),
            Output::Send { sequence } => {
                if let Some(kept) = self.hosts[place].disk.get(&sequence).cloned() {
                    self.send_up(place, Up::Batch(kept));
                }
            }
            Output::Forget { sequence } => {
                self.hosts[place].disk.remove(&sequence);
            }
            Output::Audit { audit } => self.score(place, audit),
            Output::RefuseAudit { audit } => self.send_up(place, Up::AuditRefused { audit }),
            Output::Drained => self.drained(place),
        }
        Ok(())
    }

    fn start_run(&mut self, place: usize, attempt: AttemptId) -> Result<(), Broken> {
        let Some(job) = self.hosts[place].jobs.remove(&attempt) else {
            return Err(Broken::Unexpected("a node starts what it was not given"));
        };
        let host = &mut self.hosts[place];
        let prefill = Micros(host.prefill.0 * u64::from(job.prompt + job.content.count()));
        let at = self.now.after(prefill);
        let prompt = TokenCount(job.prompt);
        host.runs.insert(attempt, Run { job, stopped: false, began: false });
        self.agenda.plan(at, Event::Step { place, life: self.hosts[place].life, attempt });
        self.send_up(place, Up::Started { attempt, prompt });
        Ok(())
    }

    /// The engine made a frame of tokens, or is through.
    pub(crate) fn step(&mut self, place: usize, life: u32, attempt: AttemptId) -> Result<(), Broken> {
        if self.hosts[place].life != life {
            return Ok(());
        }
        let maker = self.hosts[place].maker();
        let fails = self.chances.engines.happens(ENGINE_FAILS);
        let Some(run) = self.hosts[place].runs.get_mut(&attempt) else { return Ok(()) };
        if run.stopped || fails {
            return self.end_run(place, attempt, fails);
        }
        let target = run.job.answer.min(run.job.max);
        let added = CHUNK.min(target.saturating_sub(run.job.content.count()));
        run.job.content.extend(added, maker);
        let count = run.job.content.count();
        let first = !std::mem::replace(&mut run.began, true);
        if first {
            self.tell(place, Input::FirstToken { attempt })?;
        }
        if added > 0 {
            self.send_up(place, Up::Tokens { attempt, count: TokenCount(count), added: TokenCount(added), maker });
        }
        if count >= target {
            return self.end_run(place, attempt, false);
        }
        let next = CHUNK.min(target - count);
        let stalls = self.config.churn_per_minute > 0.0 && self.chances.engines.happens(ENGINE_STALLS);
        let stall = match stalls {
            true => STALL.saturating_add(Micros(self.chances.engines.below(STALL_JITTER) as u64)),
            false => Micros(0),
        };
        let at = self.now.after(Micros(self.hosts[place].decode.0 * u64::from(next)).saturating_add(stall));
        self.agenda.plan(at, Event::Step { place, life, attempt });
        Ok(())
    }

    fn end_run(&mut self, place: usize, attempt: AttemptId, failed: bool) -> Result<(), Broken> {
        let Some(run) = self.hosts[place].runs.remove(&attempt) else { return Ok(()) };
        if failed {
            return self.tell(place, Input::EngineFailed { attempt, code: FailCode::Internal });
        }
        let job = run.job;
        self.hosts[place].made.insert(attempt, job.content.clone());
        let whole = job.content.count() >= job.answer.min(job.max);
        let finish = match (whole, job.answer <= job.max) {
            (false, _) => Finish::Cancelled,
            (true, true) => Finish::EndOfText,
            (true, false) => Finish::Length,
        };
        let work = Work {
            prompt: content::prompt(&attempt.task),
            seed: content::seed(&attempt.task),
            output: job.content.root(&attempt.task),
            log_probs: Digest([0x6c; 32]),
            finish,
            prompt_tokens: TokenCount(job.prompt),
            output_tokens: TokenCount(job.content.count()),
        };
        self.tell(place, Input::Finished { attempt, work })
    }

    fn store(&mut self, place: usize, sequence: u64, epoch: Epoch, commitments: Vec<Commitment>) {
        let latency = DISK.saturating_add(self.chances.store.span(DISK));
        let host = &mut self.hosts[place];
        let orders = commitments
            .iter()
            .map(|c| host.orders.remove(&AttemptId { task: c.task, attempt: c.attempt }).unwrap_or_default())
            .collect();
        let outputs = commitments
            .iter()
            .map(|c| host.made.remove(&AttemptId { task: c.task, attempt: c.attempt }).unwrap_or_default())
            .collect();
        let header = host.header(sequence, epoch, &commitments);
        let batch = SignedBatch { header, commitments, signature: Signature([0; 64]) };
        host.storing.insert(sequence, Kept { batch, orders, outputs });
        let (at, life) = (self.now.after(latency), host.life);
        self.agenda.plan(at, Event::Stored { place, life, sequence });
    }

    pub(crate) fn stored(&mut self, place: usize, life: u32, sequence: u64) -> Result<(), Broken> {
        let host = &mut self.hosts[place];
        if host.life != life {
            return Ok(());
        }
        // One disk writes in order: with a later batch the ones before it are there.
        let later = host.storing.split_off(&(sequence + 1));
        for (number, kept) in std::mem::replace(&mut host.storing, later) {
            let host = &mut self.hosts[place];
            host.signed.extend(kept.batch.commitments.iter().map(|c| AttemptId { task: c.task, attempt: c.attempt }));
            host.old.get_or_insert_with(|| kept.clone());
            host.disk.insert(number, kept);
            host.next_batch = number + 1;
            self.tell(place, Input::Stored { sequence: number })?;
        }
        Ok(())
    }

    pub(crate) fn down(&mut self, place: usize, link: u32, frame: Down) -> Result<(), Broken> {
        if self.hosts[place].link != Some(link) || self.hosts[place].machine.is_none() {
            return Ok(());
        }
        match frame {
            Down::Welcome { next_batch, epoch } => self.tell(place, Input::Connected { next_batch, epoch }),
            Down::Assign { attempt, epoch, resumed_from, order, job } => {
                self.hosts[place].jobs.insert(attempt, job);
                self.hosts[place].orders.insert(attempt, order);
                self.tell(place, Input::Assigned { attempt, variant: VARIANT, epoch, resumed_from })
            }
            Down::Cancel { attempt } => self.tell(place, Input::Cancelled { attempt }),
            Down::Ack { sequence } => self.tell(place, Input::Acked { sequence }),
            Down::Audit { audit, content } => {
                self.hosts[place].evidence.insert(audit, content);
                self.tell(place, Input::AuditAsked { audit, variant: VARIANT })
            }
            Down::Unseal { audit } => {
                if let Some((verdict, agrees)) = self.hosts[place].sealed.remove(&audit) {
                    self.send_up(place, Up::Verdict { verdict, agrees });
                }
                Ok(())
            }
            Down::Epoch { epoch } => self.tell(place, Input::EpochBegan { epoch }),
        }
    }

    // Audits wait for each other: scoring has one lane.
    fn score(&mut self, place: usize, audit: AuditId) {
        let host = &mut self.hosts[place];
        let Some(evidence) = host.evidence.get(&audit) else { return };
        let tokens = u64::from(evidence.prompt + evidence.until);
        let at = host.scoring_until.max(self.now).after(Micros(host.prefill.0 * tokens));
        host.scoring_until = at;
        let life = host.life;
        self.agenda.plan(at, Event::Scored { place, life, audit });
    }

    pub(crate) fn scored(&mut self, place: usize, life: u32, audit: AuditId) -> Result<(), Broken> {
        if self.hosts[place].life != life {
            return Ok(());
        }
        let Some(evidence) = self.hosts[place].evidence.remove(&audit) else { return Ok(()) };
        let (verdict, agrees) = self.measure(place, audit, &evidence);
        if evidence.level == Level::Panel {
            self.send_up(place, Up::Sealed { seal: seal(&verdict) });
            self.hosts[place].sealed.insert(audit, (verdict, agrees));
        } else {
            self.send_up(place, Up::Verdict { verdict, agrees });
        }
        self.tell(place, Input::AuditDone { audit })
    }

    // A cheater doesn't compute: it accuses or waves through, and its log-probabilities are nobody's.
    fn measure(&mut self, place: usize, audit: AuditId, evidence: &Evidence) -> (Verdict, bool) {
        let seen = evidence.content.first(evidence.until).unwrap_or_default();
        let foreign = seen.foreign_after(evidence.resumed_from);
        let visible = self.config.cheat_visible;
        let computes = self.hosts[place].kind != Kind::Cheater;
        let bad = match computes {
            // The same arithmetic sees the same: whoever scores a token, and however many others.
            true => (0..foreign).any(|at| shows(&evidence.task, at, visible)),
            false => self.chances.audits.happens(0.5),
        };
        // One bad answer in four has no margin above the limit: only several of them show it.
        let is_plain = bad && (!computes || !shows(&evidence.task, u32::MAX, 0.25));
        let mean_micro = if bad { 20_000 } else { self.chances.audits.below(content::HONEST_MARGINS_MICRO) as u32 };
        let output = evidence.content.count() - evidence.resumed_from;
        let scored = evidence.until - evidence.resumed_from;
        let host = &self.hosts[place];
        let verdict = Verdict {
            network: self.genesis.network(),
            audit,
            auditor: host.id,
            operator: host.operator,
            level: evidence.level,
            variant: VARIANT,
            prompt: content::prompt(&evidence.task),
            seed: content::seed(&evidence.task),
            output: evidence.content.root(&evidence.task),
            log_probs: Digest([0x6c; 32]),
            prompt_tokens: TokenCount(evidence.prompt),
            output_tokens: TokenCount(output),
            scored_tokens: TokenCount(scored),
            worst_margin_micro: if is_plain { 1_000_000 } else { mean_micro },
            margin_sum_micro: u64::from(mean_micro) * u64::from(scored),
            finish_fits: true,
            signature: Signature([0; 64]),
        };
        (verdict, computes)
    }

    /// The node dials, and goes on until it is let in.
    pub(crate) fn dial(&mut self, place: usize) -> Result<(), Broken> {
        let host = &mut self.hosts[place];
        if host.machine.is_none() || host.link.is_some() {
            return Ok(());
        }
        if self.gateway.is_none() {
            let at = self.now.after(REDIAL.saturating_add(self.chances.links.span(REDIAL)));
            self.agenda.plan(at, Event::Dial { place });
            return Ok(());
        }
        host.links += 1;
        host.link = Some(host.links);
        self.send_up(place, Up::Join);
        Ok(())
    }

    /// The node's end of a link broke, while the gateway knows or will.
    pub(crate) fn dropped(&mut self, place: usize, link: u32) -> Result<(), Broken> {
        if self.hosts[place].link != Some(link) {
            return Ok(());
        }
        self.hosts[place].link = None;
        self.hosts[place].evidence.clear();
        self.hosts[place].sealed.clear();
        let at = self.now.after(REDIAL.saturating_add(self.chances.links.span(REDIAL)));
        self.agenda.plan(at, Event::Dial { place });
        self.tell(place, Input::Disconnected)
    }

    fn drained(&mut self, place: usize) {
        let Some(link) = self.hosts[place].link else { return };
        let at = self.now.after(self.delay(place));
        self.agenda.plan(at, Event::Lost { place, link });
        self.hosts[place].kill();
        self.come_back_later(place);
    }

    fn come_back_later(&mut self, place: usize) {
        let away = Micros::from_secs(2).saturating_add(self.chances.churn.span(Micros::from_secs(8)));
        self.agenda.plan(self.now.after(away), Event::Return { place });
    }

    pub(crate) fn come_back(&mut self, place: usize) -> Result<(), Broken> {
        if self.hosts[place].machine.is_none() {
            self.hosts[place].start();
        }
        self.dial(place)
    }

    /// The referee goes, and comes back when no more requests come.
    pub(crate) fn referee_leaves(&mut self) -> Result<(), Broken> {
        let place = self.config.nodes as usize;
        let Some(link) = self.hosts[place].link else { return Ok(()) };
        self.agenda.plan(self.now, Event::Lost { place, link });
        self.hosts[place].kill();
        self.agenda.plan(self.ends(), Event::Return { place });
        Ok(())
    }

    /// A node leaves, crashes or loses its link; the gateway notices a silent end late.
    pub(crate) fn churn(&mut self) -> Result<(), Broken> {
        if self.now >= self.ends() {
            return Ok(());
        }
        let mean = Micros((60e6 / self.config.churn_per_minute) as u64);
        let next = self.now.after(self.chances.churn.span(mean));
        self.agenda.plan(next, Event::Churn);
        let place = self.chances.churn.below(self.hosts.len());
        let Some(link) = self.hosts[place].link else { return Ok(()) };
        let silent = self.chances.churn.happens(0.3);
        let notice = if silent { Micros::from_secs(10) } else { self.delay(place) };
        match self.chances.churn.below(3) {
            0 => {
                self.agenda.plan(self.now.after(notice), Event::Lost { place, link });
                self.dropped(place, link)
            }
            1 => {
                self.agenda.plan(self.now.after(notice), Event::Lost { place, link });
                self.hosts[place].kill();
                self.come_back_later(place);
                Ok(())
            }
            _ => {
                self.send_up(place, Up::Draining);
                self.tell(place, Input::Drain)
            }
        }
    }
}

/// Nobody checks signatures here: one key is as good as another.
pub(crate) fn seal(verdict: &Verdict) -> Seal {
    Seal::new(verdict, &issuer())
}

// Whether a wrong token of a task shows itself, by its number among the wrong ones.
fn shows(task: &TaskId, at: u32, visible: f64) -> bool {
    let Digest([a, b, c, d, ..]) = digest(Domain::Task, &[&task.0, &at.to_le_bytes()]);
    f64::from(u32::from_le_bytes([a, b, c, d])) < visible * f64::from(u32::MAX)
}
