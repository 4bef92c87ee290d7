//! The simulated world: what exists, and what happens next.

use crate::agenda::Agenda;
use crate::bank::Bank;
use crate::check::{Ended, Facts};
use crate::config::{Broken, Config, Report, Violation};
use crate::conversation::Conversation;
use crate::host::{Host, Kind};
use crate::log::Log;
use crate::random::{Random, Use};
use crate::trace::Trace;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::parameters::{AuditRule, EscrowRule, ParameterChange, Parameters, PayoutRule, Split};
use ol_protocol::record::AttemptId;
use ol_protocol::{
    AuditId, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, Region, TaskId,
    TenantId, Timestamp, VariantId,
};
use ol_roles::Gateway;
use std::collections::{BTreeMap, VecDeque};

/// How long everything may take to come to rest after the last request: two time limits of an audit, and some.
const REST: Micros = Micros::from_secs(400);

/// How long a killed gateway is away.
const DOWN: Micros = Micros::from_secs(5);

/// What is paid out at once: little, so that some is in a run of a minute.
const PAYOUT: MicroCredits = MicroCredits(500);

/// From when on other parameters hold.
const CHANGE_FROM: Epoch = Epoch(3);

/// Price of the only model: half a credit for a million prompt tokens, one and a half for a million of output.
pub(crate) const PRICE: Price =
    Price { prompt_per_million: MicroCredits(500_000), output_per_million: MicroCredits(1_500_000) };

/// The only model.
pub(crate) const VARIANT: VariantId = VariantId([0x56; 32]);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Up { place: usize, link: u32, frame: crate::gate::Up },
    Down { place: usize, link: u32, frame: crate::host::Down },
    Lost { place: usize, link: u32 },
    Dropped { place: usize, link: u32 },
    Dial { place: usize },
    Return { place: usize },
    Churn,
    Hostile { place: usize },
    Arrive,
    Step { place: usize, life: u32, attempt: AttemptId },
    Scored { place: usize, life: u32, audit: AuditId },
    Stored { place: usize, life: u32, sequence: u64 },
    NodeTimer { place: usize, life: u32 },
    GatewayTimer { life: u32 },
    Durable { life: u32 },
    Claimed { life: u32, answer: Box<ol_roles::gateway::event::Input> },
    Responded { life: u32, task: TaskId },
    ClientGone { life: u32, task: TaskId },
    Crash,
    Restart,
    RefereeLeaves,
    SpeedsChange,
    RegionLost,
}

/// One stream of random numbers for each use.
#[derive(Debug)]
pub(crate) struct Chances {
    pub(crate) arrivals: Random,
    pub(crate) links: Random,
    pub(crate) churn: Random,
    pub(crate) engines: Random,
    pub(crate) audits: Random,
    pub(crate) hostile: Random,
    pub(crate) store: Random,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) now: Timestamp,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) chances: Chances,
    pub(crate) genesis: Genesis,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) life: u32,
    pub(crate) armed: Option<Timestamp>,
    pub(crate) disk_free: Timestamp,
    pub(crate) hosts: Vec<Host>,
    pub(crate) places: BTreeMap<NodeId, usize>,
    pub(crate) tasks: BTreeMap<TaskId, Facts>,
    pub(crate) log: Log,
    pub(crate) trace: Trace,
    pub(crate) report: Report,
    pub(crate) latencies: Vec<Micros>,
    // The same in hundredths of what each should take.
    pub(crate) stretches: Vec<u64>,
    pub(crate) answers: Vec<(Timestamp, Micros)>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) frame: Option<crate::gate::Frame>,
    pub(crate) bank: Bank,
    pub(crate) conversations: VecDeque<Conversation>,
    pub(crate) begun: u64,
    quiet_since: Option<u64>,
}

impl World {
    pub(crate) fn new(config: Config) -> Result<Self, Violation> {
        let genesis = genesis(&config);
        let first = |what| Violation { seed: config.seed, event: 0, at: Timestamp(0), what };
        let log = Log::new(&genesis).map_err(first)?;
        let mut world = Self {
            now: Timestamp(0),
            agenda: Agenda::new(),
            chances: Chances {
                arrivals: Random::new(config.seed, Use::Arrivals),
                links: Random::new(config.seed, Use::Links),
                churn: Random::new(config.seed, Use::Churn),
                engines: Random::new(config.seed, Use::Engines),
                audits: Random::new(config.seed, Use::Audits),
                hostile: Random::new(config.seed, Use::Hostile),
                store: Random::new(config.seed, Use::Store),
            },
            genesis,
            gateway: None,
            life: 0,
            armed: None,
            disk_free: Timestamp(0),
            hosts: Vec::new(),
            places: BTreeMap::new(),
            tasks: BTreeMap::new(),
            log,
            trace: Trace::default(),
            report: Report {
                nodes: config.nodes,
                seconds: config.seconds,
                rate: config.rate,
                seed: config.seed,
                ..Report::default()
            },
            latencies: Vec::new(),
            stretches: Vec::new(),
            answers: Vec::new(),
            ended: Vec::new(),
            frame: None,
            bank: Bank::default(),
            conversations: VecDeque::new(),
            begun: 0,
            quiet_since: None,
            config,
        };
        world.furnish();
        Ok(world)
    }

    fn furnish(&mut self) {
        let mut random = Random::new(self.config.seed, Use::Hosts);
        for place in 0..self.config.nodes as usize + 1 {
            let host = Host::new(place, &self.config, &self.genesis, &mut random);
            self.places.insert(host.id, place);
            self.agenda.plan(Timestamp(random.below(200_000) as u64), Event::Dial { place });
            if host.kind == Kind::Hostile {
                self.agenda.plan(Timestamp(1_000_000), Event::Hostile { place });
            }
            self.hosts.push(host);
        }
        self.agenda.plan(Timestamp(500_000), Event::Arrive);
        if self.config.churn_per_minute > 0.0 {
            self.agenda.plan(Timestamp(1_000_000), Event::Churn);
        }
        if let Some(at) = self.config.restart_at {
            self.agenda.plan(at, Event::Crash);
        }
        if let Some(every) = self.config.fleet.changes_every {
            self.agenda.plan(Timestamp(every.0), Event::SpeedsChange);
        }
        if let Some(at) = self.config.fleet.region_lost_at {
            self.agenda.plan(at, Event::RegionLost);
        }
        if self.config.referee_leaves {
            self.agenda.plan(Timestamp(self.ends().0 / 3), Event::RefereeLeaves);
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Report, Violation> {
        let result = self.play();
        let Self { config, now, report, .. } = &self;
        result.map_err(|what| Violation { seed: config.seed, event: report.events, at: *now, what })?;
        Ok(self.report)
    }

    fn play(&mut self) -> Result<(), Broken> {
        self.begin()?;
        self.change()?;
        let limit = self.ends().after(REST);
        while let Some((at, event)) = self.agenda.next() {
            self.now = at;
            self.report.events += 1;
            let settled = matches!(event, Event::Durable { .. });
            self.happen(event)?;
            if settled && self.is_at_rest() {
                break;
            }
            if at > limit {
                return Err(Broken::NoEnd(self.unrest()));
            }
        }
        self.conclude()
    }

    // When requests stop.
    pub(crate) fn ends(&self) -> Timestamp {
        Timestamp(0).after(Micros::from_secs(u64::from(self.config.seconds)))
    }

    // At rest: everything ended, and two epochs were settled since.
    fn is_at_rest(&mut self) -> bool {
        if self.now < self.ends() || !self.unrest().is_empty() {
            self.quiet_since = None;
            return false;
        }
        let since = *self.quiet_since.get_or_insert(self.report.epochs);
        self.report.epochs >= since + 2
    }

    fn change(&mut self) -> Result<(), Broken> {
        self.sell();
        let network = self.genesis.network();
        let before = self.genesis.parameters;
        let (split, audit) = (Split { node_bp: 8_400, reserve_bp: 550, gateway_bp: 850, ..before.split }, before.audit);
        let audit = AuditRule { rate_ppm: audit.rate_ppm / 10 * 9, pay_bp: audit.pay_bp / 10 * 11, ..audit };
        let parameters = Parameters { split, audit, ..before };
        let change = ParameterChange::issue(&issuer(), network, CHANGE_FROM, parameters);
        self.feed(ol_roles::gateway::event::Input::Change(change))
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Up { place, link, frame } => self.up(place, link, frame),
            Event::Down { place, link, frame } => self.down(place, link, frame),
            Event::Lost { place, link } => self.lost(place, link),
            Event::Dropped { place, link } => self.dropped(place, link),
            Event::Dial { place } => self.dial(place),
            Event::Return { place } => self.come_back(place),
            Event::Churn => self.churn(),
            Event::Hostile { place } => self.misbehave(place),
            Event::Arrive => self.arrive(),
            Event::Step { place, life, attempt } => self.step(place, life, attempt),
            Event::Scored { place, life, audit } => self.scored(place, life, audit),
            Event::Stored { place, life, sequence } => self.stored(place, life, sequence),
            Event::NodeTimer { place, life } => self.node_timer(place, life),
            Event::GatewayTimer { life } => self.gateway_timer(life),
            Event::Durable { life } => self.durable(life),
            Event::Claimed { life, answer } => self.claimed(life, *answer),
            Event::Responded { life, task } => self.responded(life, task),
            Event::ClientGone { life, task } => self.client_gone(life, task),
            Event::Crash => self.crash(),
            Event::Restart => self.begin(),
            Event::RefereeLeaves => self.referee_leaves(),
            Event::SpeedsChange => self.speeds_change(),
            Event::RegionLost => self.region_lost(),
        }
    }

    // The gateway is killed: what it had not on disk is gone, clients and nodes lose their connections.
    fn crash(&mut self) -> Result<(), Broken> {
        self.gateway = None;
        self.armed = None;
        self.life += 1;
        self.log.crash();
        for place in 0..self.hosts.len() {
            if let Some(link) = self.hosts[place].gateway_link.take() {
                let at = self.now.after(self.delay(place));
                self.agenda.plan(at, Event::Dropped { place, link });
            }
        }
        self.tasks.values_mut().for_each(|facts| facts.waits = false);
        for facts in self.tasks.values_mut().filter(|facts| !facts.is_over()) {
            facts.interrupted = true;
            self.report.interrupted += 1;
        }
        self.agenda.plan(self.now.after(DOWN), Event::Restart);
        Ok(())
    }

    pub(crate) fn delay(&mut self, place: usize) -> Micros {
        let host = &self.hosts[place];
        let fleet = &self.config.fleet;
        let [first, further] = fleet.distances;
        let base = Micros(first.0 + further.0 * u64::from(host.region));
        let took = base.saturating_add(self.chances.links.span(Micros(base.0 / 10)));
        // A frame that follows tells the sender what is missing, a round trip later.
        let is_lost = fleet.loss > 0.0 && self.chances.links.happens(fleet.loss);
        if is_lost { Micros(took.0 + 2 * base.0) } else { took }
    }

    // One link carries frames in order: none overtakes the one before it.
    pub(crate) fn send_down(&mut self, place: usize, frame: crate::host::Down) {
        let Some(link) = self.hosts[place].gateway_link else { return };
        let at = self.now.after(self.delay(place)).max(self.hosts[place].down_free);
        self.hosts[place].down_free = at;
        self.agenda.plan(at, Event::Down { place, link, frame });
    }

    pub(crate) fn send_up(&mut self, place: usize, frame: crate::gate::Up) {
        let Some(link) = self.hosts[place].link else { return };
        let at = self.now.after(self.delay(place)).max(self.hosts[place].up_free);
        self.hosts[place].up_free = at;
        self.agenda.plan(at, Event::Up { place, link, frame });
    }
}

/// Who may issue money.
pub(crate) fn issuer() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

pub(crate) fn tenant(index: u32) -> TenantId {
    let mut id = [0x7e; 16];
    id[..4].copy_from_slice(&index.to_le_bytes());
    TenantId(id)
}

pub(crate) fn operator(index: u32) -> OperatorId {
    OperatorId(digest(Domain::Certificate, &[&index.to_le_bytes()]).0)
}

pub(crate) fn region(index: u32) -> Region {
    format!("region-{index}").parse().expect("it is a name")
}

pub(crate) fn node(index: u32) -> NodeId {
    NodeId(digest(Domain::Batch, &[&index.to_le_bytes()]).0)
}

fn owner() -> SecretKey {
    SecretKey::from_bytes(&[3; 32])
}

// Escrow is short, so that some is released in a run of a minute.
fn genesis(config: &Config) -> Genesis {
    Genesis {
        issuer: IssuerId(issuer().public()),
        referee: node(config.nodes),
        referee_operator: operator(u32::MAX),
        born_at: Timestamp(0),
        epoch: config.epoch,
        parameters: Parameters {
            escrow: EscrowRule { hold: Micros(2 * config.epoch.0), tasks: 3 },
            payout: PayoutRule { threshold: PAYOUT },
            ..Parameters::DEFAULT
        },
        gateway: GatewayId([0x67; 32]),
        owner: OwnerId([0; 32]),
        signature: Signature([0; 64]),
    }
    .of(GatewayId([0x67; 32]), &owner())
}
