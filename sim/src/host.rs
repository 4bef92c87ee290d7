//! A modelled node: its machine, engine, disk, and its end of the link.

use crate::config::{BreachOfPromise, Broken, Config};
use crate::content::{self, Content, HONEST, Maker};
use crate::conversation::Held;
use crate::engine::Run;
use crate::gate::Up;
use crate::random::Random;
use crate::world::{Event, VARIANT, World, issuer, node, operator};
use ol_protocol::batch::{BatchHeader, SignedBatch};
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::Signature;
use ol_protocol::record::AttemptId;
use ol_protocol::seal::Seal;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Digest, Epoch, Machine, Micros, NodeId, OperatorId, TaskId, Timestamp, TokenCount, merkle};
use ol_roles::Node;
use ol_roles::node::{self, Action, Input, Output, Served, Setup};
use std::collections::{BTreeMap, BTreeSet};

/// Time until a batch is signed and on a node's disk, at least.
const DISK: Micros = Micros(2_000);

/// When the gateway notices that a link is dead of which no end came.
const SILENT: Micros = Micros::from_secs(5);

/// How many times its slots a node grants that promises more than it has.
const PROMISED: u32 = 16;

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
    Cancel { attempt: AttemptId, is_paid: bool },
    Ack { sequence: u64 },
    Audit { audit: AuditId, content: Evidence },
    Unseal { audit: AuditId },
    Epoch { epoch: Epoch },
}

/// What an engine is asked.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) prompt: u32,
    pub(crate) conversation: Option<u64>,
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
    // That it grants, and that it has.
    pub(crate) slots: u32,
    pub(crate) engines: u32,
    pub(crate) breach: Option<BreachOfPromise>,
    // Of a token, before `slow`.
    pub(crate) prefill: Micros,
    pub(crate) decode: Micros,
    pub(crate) slow: u64,
    setup: Setup,
    served: Served,
    // The process: another one after each start.
    pub(crate) life: u32,
    pub(crate) machine: Option<Node>,
    armed: Option<Timestamp>,
    links: u32,
    pub(crate) link: Option<u32>,
    pub(crate) gateway_link: Option<u32>,
    pub(crate) up_free: Timestamp,
    pub(crate) down_free: Timestamp,
    pub(crate) runs: BTreeMap<AttemptId, Run>,
    pub(crate) jobs: BTreeMap<AttemptId, Job>,
    pub(crate) held: Held,
    // Work of its engine, as a node that is not slow would take for it.
    pub(crate) worked: Micros,
    // How long its slots were taken, in each third of the time.
    pub(crate) busy: [Micros; 3],
    pub(crate) orders: BTreeMap<AttemptId, Vec<u8>>,
    pub(crate) made: BTreeMap<AttemptId, Content>,
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
        let slow = if !referee && random.happens(config.fleet.slow) { config.fleet.slow_factor } else { 1 };
        let engines = if referee { 0 } else { 1 + random.below(config.fleet.slots_max as usize) as u32 };
        let breach = config.fleet.breach.filter(|_| !referee && index.is_multiple_of(10));
        let slots = if breach == Some(BreachOfPromise::OverPromises) { engines * PROMISED } else { engines };
        let served = Served {
            network: genesis.network(),
            gateway: genesis.gateway,
            operator,
            next_batch: 0,
            unacked: Vec::new(),
        };
        let setup = Setup { node: node(index), slots: vec![(VARIANT, slots)], gateways: vec![served.clone()] };
        Self {
            id: node(index),
            operator,
            kind,
            region: random.below(config.regions.max(1) as usize) as u32,
            place,
            slots,
            engines,
            breach,
            prefill: Micros(300 + random.below(300) as u64),
            decode: Micros(3_000 + random.below(4_000) as u64),
            slow,
            machine: Some(Node::new(setup.clone())),
            setup,
            served,
            life: 0,
            armed: None,
            links: 0,
            link: None,
            gateway_link: None,
            up_free: Timestamp(0),
            down_free: Timestamp(0),
            runs: BTreeMap::new(),
            worked: Micros(0),
            busy: [Micros(0); 3],
            jobs: BTreeMap::new(),
            held: Held::default(),
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

    pub(crate) fn maker(&self) -> Maker {
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
    pub(crate) fn kill(&mut self, now: Timestamp) {
        self.abandon_runs(now);
        self.life += 1;
        self.machine = None;
        self.armed = None;
        self.link = None;
        self.jobs.clear();
        self.held = Held::default();
        self.orders.clear();
        self.made.clear();
        self.storing.clear();
        self.evidence.clear();
        self.sealed.clear();
    }

    fn start(&mut self) {
        let unacked = self.disk.keys().copied().collect();
        let served = Served { next_batch: self.next_batch, unacked, ..self.served.clone() };
        let setup = Setup { gateways: vec![served], ..self.setup.clone() };
        self.machine = Some(Node::new(setup));
    }

    pub(crate) fn header(&self, sequence: u64, epoch: Epoch, commitments: &[Commitment]) -> BatchHeader {
        let leaves: Vec<Digest> = commitments.iter().map(Commitment::leaf).collect();
        BatchHeader {
            network: self.served.network,
            gateway: self.served.gateway,
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
        let gateway = self.hosts[place].served.gateway;
        self.tell_machine(place, node::Event::At { gateway, input })
    }

    fn tell_machine(&mut self, place: usize, event: node::Event) -> Result<(), Broken> {
        let Some(mut machine) = self.hosts[place].machine.take() else { return Ok(()) };
        let mut out = Vec::new();
        machine.handle(self.now, event, &mut out);
        let held = machine.held(VARIANT).max(machine.running() as u64);
        let granted = u64::from(self.hosts[place].slots);
        if held > granted {
            return Err(Broken::OverGrant { node: place, held, granted });
        }
        let due = machine.deadline();
        self.hosts[place].machine = Some(machine);
        self.arm(place, due);
        for action in out {
            self.trace.node(self.now, place, &action);
            match action {
                Action::At { output, .. } => self.obey(place, output)?,
                Action::Drained => self.drained(place),
            }
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
        self.tell_machine(place, node::Event::Tick)
    }

    fn obey(&mut self, place: usize, output: Output) -> Result<(), Broken> {
        match output {
            Output::Grant { total, .. } => self.send_up(place, Up::Grant { total }),
            Output::Start { attempt } => return self.start_run(place, attempt),
            Output::Stop { attempt } => self.stop_run(place, attempt),
            Output::Refuse { attempt, code, grant } => {
                self.hosts[place].orders.remove(&attempt);
                self.hosts[place].jobs.remove(&attempt);
                self.send_up(place, Up::Refuse { attempt, code, grant });
            }
            Output::RefuseCopy { .. } => return Err(Broken::Unexpected("the gateway gave an attempt out twice")),
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
            Output::Withdraw { .. } | Output::Close => {
                return Err(Broken::Unexpected("a node with one gateway divides its slots"));
            }
        }
        Ok(())
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
            Down::Cancel { attempt, is_paid } => self.tell(place, Input::Cancelled { attempt, is_paid }),
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
        let at = host.scoring_until.max(self.now).after(Micros(host.prefill.0 * host.slow * tokens));
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
        self.hosts[place].kill(self.now);
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
        self.hosts[place].kill(self.now);
        self.agenda.plan(self.ends(), Event::Return { place });
        Ok(())
    }

    /// The nodes of the last region lose power; their links end later, or never.
    pub(crate) fn region_lost(&mut self) -> Result<(), Broken> {
        let last = self.config.regions.saturating_sub(1);
        for place in 0..self.config.nodes as usize {
            if self.hosts[place].region != last {
                continue;
            }
            if let Some(link) = self.hosts[place].link {
                self.agenda.plan(self.now.after(SILENT), Event::Lost { place, link });
            }
            self.hosts[place].kill(self.now);
            self.agenda.plan(self.ends(), Event::Return { place });
        }
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
        let place = self.chances.churn.below(self.hosts.len() - usize::from(self.config.fleet.is_killed));
        let Some(link) = self.hosts[place].link else { return Ok(()) };
        let silent = self.chances.churn.happens(0.3);
        let notice = if silent { SILENT } else { self.delay(place) };
        let kind = if self.config.fleet.is_killed { 1 } else { self.chances.churn.below(3) };
        match kind {
            0 => {
                self.agenda.plan(self.now.after(notice), Event::Lost { place, link });
                self.dropped(place, link)
            }
            1 => {
                self.agenda.plan(self.now.after(notice), Event::Lost { place, link });
                self.hosts[place].kill(self.now);
                self.come_back_later(place);
                Ok(())
            }
            _ => {
                self.send_up(place, Up::Draining);
                self.tell_machine(place, node::Event::Drain)
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
