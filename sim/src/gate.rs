//! The gateway's driver: its end of the links, its clients and its disk.

use crate::check::Facts;
use crate::config::{Broken, Demand, Home, LONG_SHARE};
use crate::content::{Content, Maker, calibration};
use crate::host::{Down, Evidence, Job, Kept, Kind};
use crate::world::{Event, PRICE, VARIANT, World, region, tenant};
use ol_protocol::batch::VerifiedBatch;
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::prf::Seed;
use ol_protocol::record::AttemptId;
use ol_protocol::seal::Seal;
use ol_protocol::variant::Assurance;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, Digest, Machine, Micros, NodeId, TaskId, TokenCount};
use ol_roles::Gateway;
use ol_roles::gateway::Setup;
use ol_roles::gateway::event::{Input, Match, Output, Submission, TrustFloor};
use ol_roles::node::FailCode;
use ol_sched::{Limits, Tier, Where};
use std::collections::VecDeque;

/// Time until entries are on disk, at least.
const DISK: Micros = Micros(1_500);

/// Chance that what an audit needs was lost.
const PAYLOAD_LOST: f64 = 0.002;

/// What some ask for: a newcomer's answer has it once its audit passed, a node's that passed thirty audits without one.
const FLOOR_PPM: u32 = 990_000;

/// What comes to the gateway.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Join,
    Draining,
    Grant { total: u64 },
    Started { attempt: AttemptId, prompt: TokenCount, resident: TokenCount },
    Tokens { attempt: AttemptId, count: TokenCount, added: TokenCount, maker: Maker },
    Done { commitment: Commitment, grant: u64 },
    Refuse { attempt: AttemptId, code: FailCode, grant: u64 },
    Batch(Kept),
    Verdict { verdict: Verdict, agrees: bool },
    Sealed { seal: Seal },
    AuditRefused { audit: AuditId },
}

/// The frame of tokens that is being taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    attempt: AttemptId,
    added: u32,
    maker: Maker,
}

impl World {
    /// The gateway starts from its log.
    pub(crate) fn begin(&mut self) -> Result<(), Broken> {
        let (settler, next_batch) = self.log.restart()?;
        let setup = Setup {
            gateway: self.genesis.gateway,
            master: digest(Domain::Nonce, &[&self.config.seed.to_le_bytes()]).0,
            seed: Seed(digest(Domain::Seed, &[&self.config.seed.to_le_bytes(), &self.now.0.to_le_bytes()]).0),
            settler,
            next_batch,
            limits: Limits::default(),
            rule: self.config.rule,
        };
        self.gateway = Some(Gateway::new(self.now, setup));
        self.arm_gateway();
        Ok(())
    }

    /// Feeds the gateway's machine, and whatever follows from its outputs at once.
    pub(crate) fn feed(&mut self, input: Input) -> Result<(), Broken> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(gateway) = self.gateway.as_mut() else { return Ok(()) };
            let mut out = Vec::new();
            gateway.handle(self.now, input, &mut out);
            for output in out {
                self.trace.gateway(self.now, &output);
                self.carry(output, &mut inputs)?;
            }
        }
        self.arm_gateway();
        Ok(())
    }

    fn arm_gateway(&mut self) {
        let due = self.gateway.as_ref().and_then(Machine::deadline);
        let Some(due) = due.filter(|due| self.armed.is_none_or(|armed| *due < armed)) else { return };
        self.armed = Some(due);
        self.agenda.plan(due.max(self.now), Event::GatewayTimer { life: self.life });
    }

    pub(crate) fn gateway_timer(&mut self, life: u32) -> Result<(), Broken> {
        if life != self.life || self.armed.is_none_or(|armed| armed > self.now) {
            return Ok(());
        }
        self.armed = None;
        self.feed(Input::Tick)
    }

    pub(crate) fn up(&mut self, place: usize, link: u32, frame: Up) -> Result<(), Broken> {
        if self.gateway.is_none() {
            return self.dropped(place, link);
        }
        let node = self.hosts[place].id;
        if matches!(frame, Up::Join) {
            return self.joined(place, link);
        }
        if self.hosts[place].gateway_link != Some(link) {
            return Ok(());
        }
        match frame {
            Up::Join => Ok(()),
            Up::Draining => self.feed(Input::NodeDraining { node }),
            Up::Grant { total } => self.granted(place, total),
            Up::Started { attempt, prompt, resident } => {
                self.feed(Input::Started { node, attempt, prompt_tokens: prompt, resident_tokens: resident })
            }
            Up::Tokens { attempt, count, added, maker } => {
                self.frame = Some(Frame { attempt, added: added.0, maker });
                self.feed(Input::Progress { node, attempt, count, added })
            }
            Up::Done { commitment, grant } => {
                let relayed = self.relayed(&commitment.task);
                self.feed(Input::Done { node, commitment, relayed })?;
                self.granted(place, grant)
            }
            Up::Refuse { attempt, code, grant } => {
                if code == FailCode::Overloaded && self.hosts[place].kind != Kind::Hostile {
                    return Err(Broken::Honest { node: place, why: "it granted more than it can take" });
                }
                self.feed(Input::Failed { node, attempt, code })?;
                self.granted(place, grant)
            }
            Up::Batch(Kept { batch, orders, outputs }) => {
                let held = batch.commitments.iter().zip(&outputs).map(|(c, made)| self.held(c, made));
                let matches = held.collect();
                self.feed(Input::Batch { batch: VerifiedBatch::trusted(batch), orders, matches })
            }
            Up::Verdict { verdict, agrees } => self.feed(Input::Verdict { node, verdict, agrees }),
            Up::Sealed { seal } => self.feed(Input::Sealed { node, seal }),
            Up::AuditRefused { audit } => self.feed(Input::AuditRefused { node, audit }),
        }
    }

    // A commitment against what was relayed of its task: of this attempt, or of one that went on with the same tokens.
    fn held(&self, commitment: &Commitment, made: &Content) -> Match {
        match self.tasks.get(&commitment.task) {
            None => Match::Unknown,
            Some(_) if made.root(&commitment.task) != commitment.output => Match::Other,
            Some(facts) => Match::Until(TokenCount(facts.content.common(made))),
        }
    }

    fn relayed(&self, task: &TaskId) -> Digest {
        self.tasks.get(task).map_or(Digest([0; 32]), |facts| facts.content.root(task))
    }

    fn granted(&mut self, place: usize, total: u64) -> Result<(), Broken> {
        // Closed for something in the same frame.
        if self.hosts[place].gateway_link.is_none() {
            return Ok(());
        }
        let host = &mut self.hosts[place];
        host.granted = host.granted.max(total);
        self.feed(Input::Granted { node: self.hosts[place].id, variant: VARIANT, total })
    }

    fn joined(&mut self, place: usize, link: u32) -> Result<(), Broken> {
        // A link that broke without notice is replaced by its successor.
        if let Some(before) = self.hosts[place].gateway_link {
            self.lost(place, before)?;
        }
        let took = Micros(2 * self.delay(place).0);
        let host = &mut self.hosts[place];
        host.gateway_link = Some(link);
        (host.sent, host.granted) = (0, 0);
        let (node, operator, referee) = (host.id, host.operator, host.kind == Kind::Referee);
        let region = Some(region(host.region));
        self.feed(Input::NodeJoined { node, operator, referee, variants: vec![VARIANT], region })?;
        if referee {
            // It says again what it measured, on each link.
            self.feed(Input::Calibrated(Box::new(calibration(self.genesis.network(), node))))?;
        }
        self.feed(Input::RoundTrip { node, took })
    }

    /// The gateway notices that a link is gone.
    pub(crate) fn lost(&mut self, place: usize, link: u32) -> Result<(), Broken> {
        if self.hosts[place].gateway_link != Some(link) {
            return Ok(());
        }
        self.hosts[place].gateway_link = None;
        self.feed(Input::NodeLeft { node: self.hosts[place].id })
    }

    fn carry(&mut self, output: Output, inputs: &mut VecDeque<Input>) -> Result<(), Broken> {
        match output {
            Output::Welcome { node, next_batch, epoch, .. } => self.send_to(&node, Down::Welcome { next_batch, epoch }),
            Output::Assign { node, attempt, epoch, resumed_from, order, .. } => {
                return self.assign(node, attempt, epoch, resumed_from, order);
            }
            Output::Cancel { node, attempt, is_paid } => self.send_to(&node, Down::Cancel { attempt, is_paid }),
            Output::Relay { attempt, count } => return self.relay(attempt, count),
            Output::Finish { task, finished } => {
                self.respond(task);
                self.answered_in_conversation(task);
                return self.finished(task, &finished);
            }
            Output::Own { like, .. } => self.own(&like, inputs),
            Output::Release { task } => return self.released(task),
            Output::Refuse { task, refusal, .. } => {
                self.respond(task);
                return self.turned_away(task, &refusal);
            }
            Output::Forget { task } => {
                if let Some(facts) = self.tasks.get_mut(&task) {
                    facts.forgotten = true;
                }
            }
            Output::Append { append, entries } => {
                self.log.append(append, entries);
                let latency = DISK.saturating_add(self.chances.store.span(DISK));
                self.disk_free = self.disk_free.max(self.now.after(latency));
                self.agenda.plan(self.disk_free, Event::Durable { life: self.life });
            }
            Output::Ack { node, sequence } => self.send_to(&node, Down::Ack { sequence }),
            Output::Audit { auditor, audit, subject, level, reach, .. } => {
                if let Some(place) = self.places.get(&auditor) {
                    self.check_place(&subject.task, *place)?;
                }
                match self.evidence(subject, level, reach) {
                    Some(content) => self.send_to(&auditor, Down::Audit { audit, content }),
                    None => inputs.push_back(Input::PayloadLost { audit }),
                }
            }
            // A node with one gateway has nobody to give slots to.
            Output::Withdrawn { .. } => return Err(Broken::Unexpected("a node took its slots back")),
            Output::Unseal { auditor, audit, .. } => self.send_to(&auditor, Down::Unseal { audit }),
            Output::Audited { subject, node, passed, .. } => {
                if let Some(facts) = self.tasks.get_mut(&subject.task) {
                    facts.passed |= passed == Some(true);
                    if passed == Some(false) && !facts.public && agrees_later(&subject.task) {
                        inputs.push_back(Input::Published { tenant: facts.tenant, task: subject.task });
                    }
                }
                return self.audited(&node, passed);
            }
            Output::Open { subject, commitment } => return self.open(subject, &commitment, inputs),
            Output::Closed { snapshot, .. } => {
                self.log.snapshot(snapshot);
                return self.closed();
            }
            Output::Claim { tenant, amount, booked } => self.claim(tenant, amount, booked),
            Output::Denied { .. } => return Err(Broken::Unexpected("an order of the issuer was refused")),
            Output::Close { node, .. } => return self.close_link(&node, inputs),
        }
        Ok(())
    }

    fn send_to(&mut self, node: &NodeId, frame: Down) {
        if let Some(place) = self.places.get(node).copied() {
            self.send_down(place, frame);
        }
    }

    fn assign(
        &mut self,
        node: NodeId,
        attempt: AttemptId,
        epoch: ol_protocol::Epoch,
        resumed_from: TokenCount,
        order: Vec<u8>,
    ) -> Result<(), Broken> {
        let place = self.places.get(&node).copied().ok_or(Broken::Unexpected("an attempt for nobody"))?;
        self.check_place(&attempt.task, place)?;
        let host = &mut self.hosts[place];
        host.sent += 1;
        if host.sent > host.granted {
            return Err(Broken::OverGrant { node: place, held: host.sent, granted: host.granted });
        }
        let kind = host.kind;
        let Some(facts) = self.tasks.get_mut(&attempt.task) else { return Err(Broken::Unexpected("an unknown task")) };
        facts.attempts += 1;
        facts.foreign |= kind != Kind::Honest;
        facts.hostile |= kind == Kind::Hostile;
        if facts.content.count() != resumed_from.0 {
            return Err(facts.wrong(attempt.task, "resumed elsewhere than it was relayed to"));
        }
        let job = Job {
            prompt: facts.prompt,
            conversation: facts.conversation.map(|conversation| conversation.number),
            answer: facts.answer,
            max: facts.max,
            content: facts.content.clone(),
        };
        self.send_down(place, Down::Assign { attempt, epoch, resumed_from, order, job });
        Ok(())
    }

    fn relay(&mut self, attempt: AttemptId, count: TokenCount) -> Result<(), Broken> {
        let Some(Frame { attempt: of, added, maker }) = self.frame.take() else {
            return Err(Broken::Unexpected("a frame relayed twice"));
        };
        let Some(facts) = self.tasks.get_mut(&attempt.task).filter(|_| of == attempt) else {
            return Err(Broken::Unexpected("a frame relayed for another attempt"));
        };
        if facts.content.count() + added != count.0 {
            return Err(facts.wrong(attempt.task, "tokens lost or repeated"));
        }
        facts.content.extend(added, maker);
        self.report.tokens += u64::from(added);
        Ok(())
    }

    fn respond(&mut self, task: TaskId) {
        let at = self.now.after(self.chances.arrivals.span(Micros(3_000)));
        self.agenda.plan(at, Event::Responded { life: self.life, task });
    }

    pub(crate) fn responded(&mut self, life: u32, task: TaskId) -> Result<(), Broken> {
        if life != self.life {
            return Ok(());
        }
        self.feed(Input::Responded { task, response: digest(Domain::Response, &[&task.0]) })
    }

    pub(crate) fn client_gone(&mut self, life: u32, task: TaskId) -> Result<(), Broken> {
        match self.tasks.get_mut(&task) {
            Some(facts) if life == self.life && !facts.is_over() => facts.gone = true,
            Some(_) | None => return Ok(()),
        }
        self.report.client_gone += 1;
        self.feed(Input::ClientGone { task })
    }

    pub(crate) fn durable(&mut self, life: u32) -> Result<(), Broken> {
        if life != self.life {
            return Ok(());
        }
        match self.log.durable()? {
            Some(append) => self.feed(Input::Durable { append }),
            None => Err(Broken::Unexpected("the disk wrote what nobody asked for")),
        }
    }

    // What was relayed, as far as the commitment goes: a frame that never came can't be audited.
    fn evidence(&mut self, subject: AttemptId, level: Level, reach: TokenCount) -> Option<Evidence> {
        let lost = self.chances.audits.happens(PAYLOAD_LOST);
        let commitment = self.gateway.as_ref()?.settler().commitment(&subject)?;
        let facts = self.tasks.get(&subject.task).filter(|facts| !lost && !facts.forgotten)?;
        let content = facts.content.first(commitment.output_tokens.0)?;
        let resumed_from = commitment.resumed_from.0.min(content.count());
        let until = resumed_from.saturating_add(reach.0).min(content.count());
        Some(Evidence { task: subject.task, level, prompt: facts.prompt, resumed_from, until, content })
    }

    fn open(
        &mut self,
        subject: AttemptId,
        commitment: &Commitment,
        inputs: &mut VecDeque<Input>,
    ) -> Result<(), Broken> {
        let node = self.places.get(&commitment.node).copied();
        if let Some(node) = node.filter(|place| self.hosts[*place].kind == Kind::Honest) {
            return Err(Broken::Honest { node, why: "its answer would be evidence against it" });
        }
        let is_given = |facts: &Facts| facts.public || agrees_later(&subject.task);
        if !self.tasks.get(&subject.task).is_some_and(is_given) {
            return Err(Broken::Unexpected("a private answer was asked for as evidence"));
        }
        let content = self.tasks.get(&subject.task).and_then(|f| f.content.first(commitment.output_tokens.0));
        inputs.extend(content.map(|content| Input::Evidence(content.evidence(subject))));
        Ok(())
    }

    fn close_link(&mut self, node: &NodeId, inputs: &mut VecDeque<Input>) -> Result<(), Broken> {
        let Some(place) = self.places.get(node).copied() else { return Ok(()) };
        if self.hosts[place].kind != Kind::Hostile {
            return Err(Broken::Honest { node: place, why: "its link was closed" });
        }
        if let Some(link) = self.hosts[place].gateway_link.take() {
            inputs.push_back(Input::NodeLeft { node: *node });
            let at = self.now.after(self.delay(place));
            self.agenda.plan(at, Event::Dropped { place, link });
        }
        Ok(())
    }

    /// A request comes.
    pub(crate) fn arrive(&mut self) -> Result<(), Broken> {
        if self.now >= self.ends() {
            return Ok(());
        }
        let random = &mut self.chances.arrivals;
        let demand = self.config.demand;
        let next = self.now.after(Micros((random.exponential(1e6 / self.config.rate)).max(1)));
        let mut lengths = [60.0, 100.0].map(|mean| (random.exponential(mean) as u32).clamp(1, 512));
        let mut max = if random.happens(0.2) { 64 } else { 512 };
        if let Some(equal) = demand.lengths {
            (lengths, max) = (demand.long.filter(|_| random.happens(LONG_SHARE)).unwrap_or(equal), 512);
        }
        let [asked, answer] = lengths;
        let of = tenant(random.below(self.config.tenants as usize) as u32);
        let leaves = random.happens(demand.leaves).then(|| random.span(Micros::from_secs(1)));
        let conversation = self.converse(of);
        let (of, prompt) = conversation.map_or((of, asked), |known| (known.tenant, known.before + asked));
        self.agenda.plan(next, Event::Arrive);
        self.report.tasks += 1;
        let bytes = digest(Domain::Task, &[&self.config.seed.to_le_bytes(), &self.report.tasks.to_le_bytes()]).0;
        let mut task = TaskId([0; 16]);
        task.0.copy_from_slice(&bytes[..16]);
        let public = f64::from(task.0[0]) < self.config.public * 256.0;
        let mut facts = Facts::new(self.now, [prompt, answer, max], of, public);
        (facts.home, facts.place) = self.origin(&task);
        facts.tier = if demand.plain { Tier::Standard } else { tier_of(&task) };
        facts.conversation = conversation;
        self.tasks.insert(task, facts);
        if self.gateway.is_none() {
            return self.refused(task);
        }
        if let Some(after) = leaves {
            self.agenda.plan(self.now.after(after), Event::ClientGone { life: self.life, task });
        }
        let floor = (!demand.plain && has_floor(&task))
            .then_some(TrustFloor { value_ppm: FLOOR_PPM, assurance: Assurance::Seeded });
        self.feed(Input::Submitted(submission(task, &self.tasks[&task], demand.deadline, floor)))
    }

    // Where a request comes from, and where it may be computed.
    fn origin(&mut self, task: &TaskId) -> (u32, Where) {
        let Demand { home, plain, .. } = self.config.demand;
        let Some(home) = home else {
            let named = region(u32::from(task.0[4]) % self.config.regions);
            let place = match task.0[3] % 16 {
                0 if !plain => Where::Only(named),
                1 if !plain => Where::Preferably(named),
                _ => Where::Anywhere,
            };
            return (0, place);
        };
        let third = self.now.0 * 3 / (u64::from(self.config.seconds) * 1_000_000);
        let lengths = self.config.demand.lengths.unwrap_or([60, 100]);
        let weigh = |of: u32| {
            let hosts = self.hosts.iter().filter(|host| host.region == of);
            let can: f64 = hosts.map(|host| self.capacity_of(host, lengths)).sum();
            can * if of == 0 && third == 1 { 4.0 } else { 1.0 }
        };
        let weights: Vec<f64> = (0..self.config.regions).map(weigh).collect();
        let mut left = self.chances.arrivals.unit() * weights.iter().sum::<f64>();
        let from = weights.iter().position(|weight| {
            left -= weight;
            left <= 0.0
        });
        let from = from.map_or(0, |from| from as u32);
        let place = match home {
            Home::Preferred => Where::Preferably(region(from)),
            Home::Bound => Where::Only(region(from)),
            Home::Unknown => Where::Anywhere,
        };
        (from, place)
    }

    // Who is bound to a region is computed and audited there, or audited by the referee.
    fn check_place(&self, task: &TaskId, place: usize) -> Result<(), Broken> {
        let Some(facts) = self.tasks.get(task) else { return Ok(()) };
        let host = &self.hosts[place];
        let is_there = facts.place.bound().is_none_or(|bound| bound == region(host.region));
        if is_there || host.kind == Kind::Referee {
            return Ok(());
        }
        Err(facts.wrong(*task, "it left the region that it is bound to"))
    }

    // With the same lengths, from nobody who could leave.
    fn own(&mut self, like: &TaskId, inputs: &mut VecDeque<Input>) {
        let Some(&Facts { prompt, answer, max, .. }) = self.tasks.get(like) else { return };
        let mut task = *like;
        task.0.reverse();
        let facts = Facts::new(self.now, [prompt, answer, max], self.genesis.own_tenant(), true);
        inputs.push_back(Input::Submitted(submission(task, &facts, self.config.demand.deadline, None)));
        self.tasks.insert(task, facts);
        self.report.tasks += 1;
        self.report.own += 1;
    }
}

fn submission(task: TaskId, facts: &Facts, deadline: Micros, floor: Option<TrustFloor>) -> Submission {
    let bound = facts.prompt + facts.prompt / 4 + 8;
    let prefixes = facts.conversation.map(|conversation| conversation.prefixes(facts.prompt, bound));
    Submission {
        task,
        tenant: facts.tenant,
        variant: VARIANT,
        prompt_tokens_max: TokenCount(bound),
        output_tokens_max: TokenCount(facts.max),
        price: PRICE,
        max_price: None,
        deadline,
        request: digest(Domain::Request, &[&task.0]),
        public: facts.public,
        floor,
        place: facts.place,
        tier: facts.tier,
        prefixes: prefixes.unwrap_or_default(),
    }
}

// Of the tenants whose answers failed, every second gives what it kept private.
const fn agrees_later(task: &TaskId) -> bool {
    task.0[2].is_multiple_of(2)
}

// One in sixteen asks for each tier.
const fn tier_of(task: &TaskId) -> Tier {
    match task.0[5] % 16 {
        0 => Tier::Two,
        1 => Tier::Three,
        _ => Tier::Standard,
    }
}

// One in sixteen asks for an answer that can be trusted.
const fn has_floor(task: &TaskId) -> bool {
    task.0[1].is_multiple_of(16)
}
