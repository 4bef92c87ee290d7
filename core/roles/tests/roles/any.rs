//! Arbitrary inputs, from a seed: mostly about the same few nodes and tasks, so that they meet.

use crate::world::calibration;
use ol_protocol::batch::{BatchHeader, SignedBatch, VerifiedBatch};
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::prf::{Noise, Seed};
use ol_protocol::record::AttemptId;
use ol_protocol::seal::Seal;
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::variant::Assurance;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NetworkId, NodeId, OperatorId, OwnerId, Price,
    Region, TaskId, TenantId, Timestamp, TokenCount, VariantId,
};
use ol_roles::gateway::event::{Input, Match, Submission, TrustFloor};
use ol_roles::node::{self, FailCode, Work};
use ol_sched::{Prefix, Tier, Where};

/// Draws values.
#[derive(Debug)]
pub(crate) struct Any {
    noise: Noise,
    drawn: u32,
    network: NetworkId,
    gateway: GatewayId,
    // Orders and audits that a gateway gave out, to be sent back.
    pub(crate) orders: Vec<(AttemptId, Vec<u8>)>,
    pub(crate) audits: Vec<AuditId>,
}

impl Any {
    pub(crate) fn new(seed: u64, network: NetworkId, gateway: GatewayId) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let noise = Noise::new(&Seed(bytes), 0);
        Self { noise, drawn: 0, network, gateway, orders: Vec::new(), audits: Vec::new() }
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.drawn += 1;
        ((u64::from(self.noise.word(self.drawn)) * u64::from(bound)) >> 32) as u32
    }

    // Mostly small, sometimes at the edge of its type.
    fn number(&mut self) -> u32 {
        match self.below(10) {
            0 => u32::MAX - self.below(3),
            1 => self.below(u32::MAX),
            _ => self.below(40),
        }
    }

    fn large(&mut self) -> u64 {
        match self.below(8) {
            0 => u64::MAX - u64::from(self.below(3)),
            _ => u64::from(self.number()),
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        [self.below(4) as u8; N]
    }

    fn truth(&mut self) -> bool {
        self.below(2) == 0
    }

    fn tokens(&mut self) -> TokenCount {
        TokenCount(self.number())
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.bytes())
    }

    fn variant(&mut self) -> VariantId {
        VariantId([self.below(8) as u8 / 7; 32])
    }

    fn digest(&mut self) -> Digest {
        Digest([self.below(5) as u8 / 4; 32])
    }

    fn attempt(&mut self) -> AttemptId {
        let known = self.orders.len() as u32;
        let index = self.below(known) as usize;
        match known > 0 && self.below(4) > 0 {
            true => self.orders[index].0,
            false => AttemptId { task: TaskId([self.below(12) as u8; 16]), attempt: self.below(5) as u8 },
        }
    }

    fn audit(&mut self) -> AuditId {
        let known = self.audits.len() as u32;
        let index = self.below(known) as usize;
        if known > 0 { self.audits[index] } else { AuditId(self.bytes()) }
    }

    fn finish(&mut self) -> Finish {
        Finish::from_byte(self.below(5) as u8).expect("five cases")
    }

    fn code(&mut self) -> FailCode {
        let codes =
            [FailCode::Invalid, FailCode::Overloaded, FailCode::Draining, FailCode::UnknownVariant, FailCode::Internal];
        codes[self.below(5) as usize]
    }

    fn micros(&mut self) -> Micros {
        Micros(self.large())
    }

    fn commitment(&mut self, node: NodeId, attempt: AttemptId) -> Commitment {
        Commitment {
            network: self.network,
            gateway: self.gateway,
            node,
            operator: OperatorId(self.bytes()),
            task: attempt.task,
            attempt: attempt.attempt,
            epoch: Epoch(u64::from(self.below(4))),
            variant: self.variant(),
            sampler_version: 1,
            prompt: self.digest(),
            seed: self.digest(),
            output: self.digest(),
            log_probs: self.digest(),
            finish: self.finish(),
            prompt_tokens: self.tokens(),
            output_tokens: self.tokens(),
            resumed_from: self.tokens(),
            first_token: self.micros(),
            total: self.micros(),
        }
    }

    fn batch(&mut self) -> Input {
        let node = self.node();
        let count = self.below(4) as usize;
        let attempts: Vec<AttemptId> = (0..count).map(|_| self.attempt()).collect();
        let commitments: Vec<Commitment> = attempts.iter().map(|id| self.commitment(node, *id)).collect();
        let mut orders: Vec<Vec<u8>> = attempts.iter().map(|id| self.order(id)).collect();
        if self.below(10) == 0 {
            orders.pop();
        }
        let header = BatchHeader {
            network: self.network,
            gateway: self.gateway,
            node,
            operator: OperatorId(self.bytes()),
            sequence: u64::from(self.below(4)),
            epoch: Epoch(0),
            count: commitments.len() as u16,
            root: self.digest(),
        };
        let batch = SignedBatch { header, commitments, signature: Signature([9; 64]) };
        let matches = (0..self.below(4)).map(|_| self.held()).collect();
        Input::Batch { batch: VerifiedBatch::trusted(batch), orders, matches }
    }

    fn held(&mut self) -> Match {
        match self.below(3) {
            0 => Match::Unknown,
            1 => Match::Until(TokenCount(self.below(40))),
            _ => Match::Other,
        }
    }

    fn order(&mut self, id: &AttemptId) -> Vec<u8> {
        let known = self.orders.iter().rev().find(|(of, _)| of == id).map(|(_, order)| order.clone());
        known.unwrap_or_else(|| vec![3; 100])
    }

    fn verdict(&mut self) -> Verdict {
        let (one, other) = (self.tokens(), self.tokens());
        Verdict {
            network: self.network,
            audit: self.audit(),
            auditor: self.node(),
            operator: OperatorId(self.bytes()),
            level: Level::from_byte(self.below(3) as u8).expect("three cases"),
            variant: self.variant(),
            prompt: self.digest(),
            seed: self.digest(),
            output: self.digest(),
            log_probs: self.digest(),
            prompt_tokens: self.tokens(),
            output_tokens: one.max(other),
            scored_tokens: one.min(other),
            worst_margin_micro: self.number(),
            margin_sum_micro: self.large(),
            finish_fits: self.truth(),
            signature: Signature([8; 64]),
        }
    }

    fn submission(&mut self) -> Submission {
        Submission {
            task: TaskId([self.below(12) as u8; 16]),
            tenant: TenantId(self.bytes()),
            variant: self.variant(),
            prompt_tokens_max: self.tokens(),
            output_tokens_max: self.tokens(),
            price: Price {
                prompt_per_million: MicroCredits(self.large()),
                output_per_million: MicroCredits(1_000_000),
            },
            max_price: self.truth().then(|| MicroCredits(self.large())),
            deadline: self.micros(),
            request: self.digest(),
            public: self.truth(),
            floor: self.truth().then_some(TrustFloor { value_ppm: 500_000, assurance: Assurance::Seeded }),
            place: self.place(),
            tier: [Tier::Standard, Tier::Two, Tier::Three][self.below(3) as usize],
            prefixes: (0..self.below(4)).map(|_| self.prefix()).collect(),
        }
    }

    fn region(&mut self) -> Option<Region> {
        ["", "eu", "us"][self.below(3) as usize].parse().ok()
    }

    fn place(&mut self) -> Where {
        match (self.region(), self.truth()) {
            (None, _) => Where::Anywhere,
            (Some(region), false) => Where::Preferably(region),
            (Some(region), true) => Where::Only(region),
        }
    }

    // Of a few conversations, so that nodes are found that answered them.
    fn prefix(&mut self) -> Prefix {
        Prefix { digest: Digest([self.below(6) as u8; 32]), tokens: self.tokens() }
    }

    fn top_up(&mut self) -> Slice {
        let (from, amount) = (MicroCredits(self.large()), MicroCredits(self.large()));
        let top_up = TopUp {
            network: self.network,
            issuer: IssuerId(self.bytes()),
            owner: OwnerId(self.bytes()),
            tenant: TenantId(self.bytes()),
            amount: MicroCredits(self.large()),
            serial: self.large(),
            signature: Signature([7; 64]),
        };
        Slice { top_up, from, amount }
    }

    /// An input of a gateway.
    pub(crate) fn gateway_input(&mut self) -> Input {
        match self.below(26) {
            0 => Input::NodeJoined {
                node: self.node(),
                operator: OperatorId(self.bytes()),
                referee: self.below(5) == 0,
                variants: vec![self.variant()],
                region: self.region(),
            },
            1 => Input::NodeLeft { node: self.node() },
            2 => Input::NodeDraining { node: self.node() },
            3..=4 => Input::Granted { node: self.node(), variant: self.variant(), total: self.large() },
            5 => Input::Withdrawn { node: self.node(), variant: self.variant(), total: self.large() },
            6 => Input::RoundTrip { node: self.node(), took: self.micros() },
            7..=9 => Input::Submitted(self.submission()),
            10 => Input::Started {
                node: self.node(),
                attempt: self.attempt(),
                prompt_tokens: self.tokens(),
                resident_tokens: self.tokens(),
            },
            11 | 12 => {
                let (count, added) = (self.tokens(), self.tokens());
                Input::Progress { node: self.node(), attempt: self.attempt(), count, added }
            }
            13 | 14 => {
                let (node, attempt) = (self.node(), self.attempt());
                Input::Done { node, commitment: self.commitment(node, attempt), relayed: self.digest() }
            }
            15 => Input::Failed { node: self.node(), attempt: self.attempt(), code: self.code() },
            16 => Input::ClientGone { task: self.attempt().task },
            17 => Input::Responded { task: self.attempt().task, response: self.digest() },
            18 | 19 => self.batch(),
            20 => Input::Durable { append: self.large() },
            21 => Input::Verdict { node: self.node(), verdict: self.verdict(), agrees: self.truth() },
            22 => Input::AuditRefused { node: self.node(), audit: self.audit() },
            23 => Input::PayloadLost { audit: self.audit() },
            24 => match self.below(7) {
                5 | 6 => {
                    let verdict = self.verdict();
                    Input::Sealed { node: verdict.auditor, seal: Seal::new(&verdict, &SecretKey::from_bytes(&[7; 32])) }
                }
                4 => {
                    let (prover, verifier) = (self.variant(), self.variant());
                    let measured_at = Timestamp(self.large());
                    Input::Calibrated(Box::new(Calibration { measured_at, ..calibration(prover, verifier) }))
                }
                0 => Input::TopUp(self.top_up()),
                1 => Input::NoFunds { tenant: TenantId([2; 16]), is_unknown: self.below(2) == 0 },
                2 => Input::Misbehaved { node: self.node() },
                3 => Input::Published { tenant: TenantId(self.bytes()), task: self.attempt().task },
                _ => Input::NodeLeft { node: self.node() },
            },
            _ => Input::Tick,
        }
    }

    /// What happens to a node that serves these gateways, and no others.
    pub(crate) fn node_event(&mut self, gateways: &[GatewayId]) -> node::Event {
        match self.below(20) {
            0 if self.below(20) == 0 => node::Event::Drain,
            1 => node::Event::Tick,
            _ => {
                let gateway = gateways.get(self.below(gateways.len() as u32 + 1) as usize).copied();
                node::Event::At { gateway: gateway.unwrap_or(GatewayId([99; 32])), input: self.node_input() }
            }
        }
    }

    fn node_input(&mut self) -> node::Input {
        let attempt = AttemptId { task: TaskId([self.below(6) as u8; 16]), attempt: self.below(3) as u8 };
        match self.below(20) {
            0 => node::Input::Connected { next_batch: self.large() >> 1, epoch: Epoch(u64::from(self.number())) },
            1 => node::Input::Disconnected,
            2..=6 => node::Input::Assigned {
                attempt,
                variant: self.variant(),
                epoch: Epoch(u64::from(self.number())),
                resumed_from: self.tokens(),
            },
            7 => node::Input::Cancelled { attempt, is_paid: self.below(2) == 0 },
            8 => node::Input::FirstToken { attempt },
            9..=11 => node::Input::Finished { attempt, work: self.work() },
            12 => node::Input::EngineFailed { attempt, code: self.code() },
            13 => node::Input::AuditAsked { audit: self.audit(), variant: self.variant() },
            14 => node::Input::AuditDone { audit: self.audit() },
            15 => node::Input::Stored { sequence: u64::from(self.below(6)) },
            16 => node::Input::Acked { sequence: u64::from(self.below(6)) },
            17 => node::Input::EpochBegan { epoch: Epoch(self.large()) },
            _ => node::Input::Withdrawn { variant: self.variant() },
        }
    }

    fn work(&mut self) -> Work {
        Work {
            prompt: self.digest(),
            seed: self.digest(),
            output: self.digest(),
            log_probs: self.digest(),
            finish: self.finish(),
            prompt_tokens: self.tokens(),
            output_tokens: self.tokens(),
        }
    }
}
