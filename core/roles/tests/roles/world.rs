//! A gateway on the bench, with a log that is written when the test says so.

use ol_ledger::Account;
use ol_protocol::batch::{BatchHeader, CountersignedBatch, SignedBatch, VerifiedBatch};
use ol_protocol::calibration::{self, Calibration};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::{output_root, prompt_digest};
use ol_protocol::evidence::Evidence;
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::parameters::Parameters;
use ol_protocol::prf::Seed;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::seed::seed_digest;
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, IssuerId, Machine, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price,
    Salt, TaskId, TenantId, Timestamp, TokenCount, VariantId, merkle,
};
use ol_roles::gateway::Setup;
use ol_roles::gateway::event::{Entry, Finished, Input, Match, Output, Refusal, Submission};
use ol_roles::{Gateway, Settler};
use ol_sched::{Limits, Rule, Tier, Where};
use std::collections::{BTreeMap, VecDeque};

pub(crate) const GATEWAY: GatewayId = GatewayId([0x67; 32]);
pub(crate) const VARIANT: VariantId = VariantId([0; 32]);
pub(crate) const TENANT: TenantId = TenantId([2; 16]);
/// One micro-credit a token.
pub(crate) const PRICE: Price =
    Price { prompt_per_million: MicroCredits(1_000_000), output_per_million: MicroCredits(1_000_000) };
/// What the tenant begins with, and what a submission of this bench may cost.
pub(crate) const FUNDS: u64 = 10_000;
pub(crate) const WORST: u64 = 150;
/// Prompt tokens of every task.
pub(crate) const PROMPT: u32 = 10;
const PROMPT_IDS: [u32; 10] = [9; 10];
const SALT: Salt = Salt([8; 32]);
const SEED: Seed = Seed([2; 32]);

pub(crate) fn genesis() -> Genesis {
    Genesis {
        issuer: IssuerId(issuer().public()),
        referee: referee(),
        referee_operator: OperatorId([3; 32]),
        born_at: Timestamp(0),
        epoch: Micros::from_secs(10),
        parameters: Parameters::DEFAULT,
        gateway: GATEWAY,
        owner: OwnerId([0; 32]),
        signature: Signature([0; 64]),
    }
    .of(GATEWAY, &owner())
}

fn issuer() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

pub(crate) fn referee() -> NodeId {
    NodeId([3; 32])
}

fn owner() -> SecretKey {
    SecretKey::from_bytes(&[4; 32])
}

pub(crate) fn top_up(tenant: u8, amount: u64, serial: u64) -> Slice {
    let (to, owner) = (TenantId([tenant; 16]), OwnerId(owner().public()));
    Slice::whole(TopUp::issue(&issuer(), genesis().network(), owner, to, MicroCredits(amount), serial))
}

pub(crate) fn setup() -> Setup {
    restarted(&[Record::Genesis(genesis())], BTreeMap::new())
}

fn restarted(records: &[Record], next_batch: BTreeMap<NodeId, u64>) -> Setup {
    let settler = Settler::from_log(None, records.iter().cloned()).expect("the log replays");
    Setup {
        gateway: GATEWAY,
        master: [9; 32],
        seed: Seed([3; 32]),
        settler,
        next_batch,
        limits: Limits::default(),
        rule: Rule::Cost,
    }
}

pub(crate) fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

pub(crate) fn task(n: u8) -> TaskId {
    TaskId([n; 16])
}

/// An attempt that was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) node: NodeId,
    pub(crate) attempt: AttemptId,
    pub(crate) epoch: Epoch,
    pub(crate) resumed_from: u32,
    pub(crate) order: Vec<u8>,
}

/// A gateway with a funded tenant.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) gateway: Gateway,
    pub(crate) now: Timestamp,
    pub(crate) records: Vec<Record>,
    next_batch: BTreeMap<NodeId, u64>,
    pending: Vec<(u64, Vec<Entry>)>,
    granted: BTreeMap<NodeId, u64>,
    /// What claims bring, one after the other; then nothing.
    pub(crate) parts: VecDeque<Slice>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut bench = Self::uncalibrated();
        bench.feed(Input::Calibrated(Box::new(calibration(VARIANT, VARIANT))));
        bench.write();
        bench
    }

    /// Where no audit says anything yet.
    pub(crate) fn uncalibrated() -> Self {
        let mut bench = Self {
            gateway: Gateway::new(Timestamp(0), setup()),
            now: Timestamp(0),
            records: vec![Record::Genesis(genesis())],
            next_batch: BTreeMap::new(),
            pending: Vec::new(),
            granted: BTreeMap::new(),
            parts: VecDeque::new(),
        };
        bench.feed(Input::TopUp(top_up(2, FUNDS, 1)));
        bench.feed(Input::Tick);
        bench.write();
        bench
    }

    pub(crate) fn feed(&mut self, input: Input) -> Vec<Output> {
        let mut all = self.feed_only(input);
        while let Some(at) = all.iter().position(|output| matches!(output, Output::Claim { .. })) {
            let Output::Claim { tenant, .. } = all.remove(at) else { unreachable!() };
            let part = self.parts.pop_front();
            let answer = part.map_or(Input::NoFunds { tenant, is_unknown: false }, Input::TopUp);
            all.extend(self.feed_only(answer));
        }
        all
    }

    /// Feeds an input and leaves it to the caller to answer claims.
    pub(crate) fn feed_only(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.gateway.handle(self.now, input, &mut out);
        for output in &out {
            if let Output::Append { append, entries } = output {
                self.pending.push((*append, entries.clone()));
            }
        }
        out
    }

    /// Everything that was appended reaches the disk.
    pub(crate) fn write(&mut self) -> Vec<Output> {
        let mut last = None;
        for (append, entries) in std::mem::take(&mut self.pending) {
            last = Some(append);
            entries.into_iter().for_each(|entry| self.record(entry));
        }
        last.map_or(Vec::new(), |append| self.feed(Input::Durable { append }))
    }

    fn record(&mut self, entry: Entry) {
        match entry {
            Entry::Record(record) => self.records.push(record),
            Entry::Batch { header, signature, receipts, receipts_root } => {
                self.next_batch.insert(header.node, header.sequence + 1);
                self.records.extend(receipts.into_iter().map(Record::Receipt));
                let gateway_signature = Signature([0; 64]);
                let batch = CountersignedBatch { header, node_signature: signature, receipts_root, gateway_signature };
                self.records.push(Record::Batch(batch));
            }
        }
    }

    /// The gateway is killed and starts from its log; its nodes are gone.
    pub(crate) fn restart(&mut self) {
        self.pending.clear();
        self.granted.clear();
        let mut setup = restarted(&self.records, self.next_batch.clone());
        // Drawn anew at each start.
        setup.seed.0[31] ^= 1;
        self.gateway = Gateway::new(self.now, setup);
    }

    pub(crate) fn wait(&mut self, span: Micros) -> Vec<Output> {
        self.now = self.now.after(span);
        self.feed(Input::Tick)
    }

    /// A node of operator n with a slot, or the referee.
    pub(crate) fn join(&mut self, n: u8) -> Vec<Output> {
        self.join_of(n, n)
    }

    /// A node of another one's operator.
    pub(crate) fn join_of(&mut self, n: u8, operator: u8) -> Vec<Output> {
        let referee = node(n) == referee();
        let variants = vec![VARIANT];
        let operator = OperatorId([operator; 32]);
        let mut out = self.feed(Input::NodeJoined { node: node(n), operator, referee, variants, region: None });
        self.granted.insert(node(n), 0);
        if !referee {
            out.extend(self.grant(n));
        }
        out
    }

    /// The node grants one slot more.
    pub(crate) fn grant(&mut self, n: u8) -> Vec<Output> {
        let total = self.granted.entry(node(n)).or_default();
        *total += 1;
        let total = *total;
        self.feed(Input::Granted { node: node(n), variant: VARIANT, total })
    }

    pub(crate) fn submit(&mut self, n: u8) -> Vec<Output> {
        self.feed(Input::Submitted(submission(n)))
    }

    /// A task that a node has taken.
    pub(crate) fn assign(&mut self, n: u8) -> Assigned {
        let out = self.submit(n);
        assigned(&out).unwrap_or_else(|| panic!("nobody took it: {out:?}"))
    }

    /// The node relays tokens up to `count`.
    pub(crate) fn progress(&mut self, to: &Assigned, count: u32, added: u32) -> Vec<Output> {
        let (count, added) = (TokenCount(count), TokenCount(added));
        self.feed(Input::Progress { node: to.node, attempt: to.attempt, count, added })
    }

    pub(crate) fn done(&mut self, commitment: &Commitment) -> Vec<Output> {
        let relayed = commitment.output;
        self.feed(Input::Done { node: commitment.node, commitment: commitment.clone(), relayed })
    }

    /// Answers a task with `count` tokens in one frame.
    pub(crate) fn answer(&mut self, to: &Assigned, count: u32) -> Commitment {
        self.progress(to, count, count - to.resumed_from);
        let commitment = commitment(to, count, Finish::EndOfText);
        self.done(&commitment);
        self.feed(Input::Responded { task: to.attempt.task, response: Digest([0x72; 32]) });
        commitment
    }

    /// The node's batch comes.
    pub(crate) fn batch(&mut self, sequence: u64, of: &[(&Commitment, &Assigned)]) -> Vec<Output> {
        let all = of.iter().map(|(commitment, _)| Match::Until(commitment.output_tokens)).collect();
        self.batch_held(sequence, of, all)
    }

    /// A batch whose commitments were held against what was relayed.
    pub(crate) fn batch_held(
        &mut self,
        sequence: u64,
        of: &[(&Commitment, &Assigned)],
        matches: Vec<Match>,
    ) -> Vec<Output> {
        let input = batch(sequence, of, matches);
        self.feed(input)
    }

    /// One task from submission to a receipt on disk; what the write led to.
    pub(crate) fn whole(&mut self, n: u8, sequence: u64, count: u32) -> (Assigned, Vec<Output>) {
        let to = self.assign(n);
        let commitment = self.answer(&to, count);
        self.batch(sequence, &[(&commitment, &to)]);
        let out = self.write();
        (to, out)
    }

    /// Closes the open epoch.
    pub(crate) fn close(&mut self) -> ol_ledger::Summary {
        let out = self.wait(Micros::from_secs(10));
        self.write();
        let closed = out.into_iter().find_map(|output| match output {
            Output::Closed { summary, .. } => Some(summary),
            _ => None,
        });
        closed.expect("an epoch was due")
    }

    pub(crate) fn available(&self) -> u64 {
        self.gateway.available(TENANT).0
    }

    pub(crate) fn balance(&self) -> i128 {
        self.gateway.settler().balance(&Account::Tenant(TENANT))
    }

    pub(crate) fn receipts(&self) -> Vec<&Receipt> {
        self.records.iter().filter_map(|record| if let Record::Receipt(r) = record { Some(r) } else { None }).collect()
    }

    /// Prompt and output tokens that receipts charge, in the log's order.
    pub(crate) fn charged(&self) -> Vec<(u32, u32)> {
        self.receipts().iter().map(|r| (r.charge.prompt_tokens.0, r.charge.output_tokens.0)).collect()
    }

    pub(crate) fn verdict(
        &mut self,
        by: u8,
        audit: AuditId,
        of: &Commitment,
        change: impl FnOnce(&mut Verdict),
    ) -> Vec<Output> {
        let mut verdict = verdict_of(by, audit, of);
        change(&mut verdict);
        self.feed(Input::Verdict { node: node(by), verdict, agrees: true })
    }
}

pub(crate) fn submission(n: u8) -> Submission {
    Submission {
        task: task(n),
        tenant: TENANT,
        variant: VARIANT,
        prompt_tokens_max: TokenCount(50),
        output_tokens_max: TokenCount(100),
        price: PRICE,
        max_price: None,
        deadline: Micros::from_secs(300),
        request: Digest([0x71; 32]),
        public: n.is_multiple_of(2),
        floor: None,
        place: Where::Anywhere,
        tier: Tier::Standard,
        prefixes: Vec::new(),
    }
}

pub(crate) fn assigned(out: &[Output]) -> Option<Assigned> {
    out.iter().find_map(|output| match output {
        Output::Assign { node, attempt, epoch, resumed_from, order, .. } => {
            let (node, attempt, epoch) = (*node, *attempt, *epoch);
            Some(Assigned { node, attempt, epoch, resumed_from: resumed_from.0, order: order.clone() })
        }
        _ => None,
    })
}

/// Who is asked to audit what.
pub(crate) fn asked(out: &[Output]) -> Vec<(NodeId, AuditId, AttemptId, Level)> {
    let asked = |output: &Output| match output {
        Output::Audit { auditor, audit, subject, level, .. } => Some((*auditor, *audit, *subject, *level)),
        _ => None,
    };
    out.iter().filter_map(asked).collect()
}

/// Findings that are final.
pub(crate) fn found(out: &[Output]) -> Vec<(NodeId, Option<bool>)> {
    let found = |output: &Output| match output {
        Output::Audited { node, passed, .. } => Some((*node, *passed)),
        _ => None,
    };
    out.iter().filter_map(found).collect()
}

/// A gateway with two nodes of two operators.
pub(crate) fn two_nodes() -> Bench {
    let mut bench = Bench::new();
    bench.join(10);
    bench.join(11);
    bench
}

pub(crate) fn finished(out: &[Output]) -> Option<Finished> {
    out.iter()
        .find_map(|output| if let Output::Finish { finished, .. } = output { Some(finished.clone()) } else { None })
}

pub(crate) fn refused(out: &[Output]) -> Option<Refusal> {
    out.iter().find_map(|output| if let Output::Refuse { refusal, .. } = output { Some(refusal.clone()) } else { None })
}

pub(crate) fn commitment(to: &Assigned, count: u32, finish: Finish) -> Commitment {
    Commitment {
        network: genesis().network(),
        gateway: GATEWAY,
        node: to.node,
        operator: OperatorId(to.node.0),
        task: to.attempt.task,
        attempt: to.attempt.attempt,
        epoch: to.epoch,
        variant: VARIANT,
        sampler_version: 1,
        prompt: prompt_digest(&SALT, &PROMPT_IDS, b"chat", &[]),
        seed: seed_digest(&SALT, &SEED),
        output: output_root(&SALT, &vec![7; count as usize]),
        log_probs: Digest([5; 32]),
        finish,
        prompt_tokens: TokenCount(PROMPT),
        output_tokens: TokenCount(count),
        resumed_from: TokenCount(to.resumed_from),
        first_token: Micros(10),
        total: Micros(20),
    }
}

/// What opens an answer of this bench.
pub(crate) fn evidence(of: &Commitment) -> Evidence {
    Evidence {
        subject: AttemptId { task: of.task, attempt: of.attempt },
        salt: SALT,
        seed: SEED,
        template: b"chat".to_vec(),
        parameters: Vec::new(),
        prompt: PROMPT_IDS.to_vec(),
        output: vec![7; of.output_tokens.0 as usize],
    }
}

fn batch(sequence: u64, of: &[(&Commitment, &Assigned)], matches: Vec<Match>) -> Input {
    let commitments: Vec<Commitment> = of.iter().map(|(commitment, _)| (*commitment).clone()).collect();
    let orders = of.iter().map(|(_, to)| to.order.clone()).collect();
    let leaves: Vec<Digest> = commitments.iter().map(Commitment::leaf).collect();
    let header = BatchHeader {
        network: genesis().network(),
        gateway: GATEWAY,
        node: commitments[0].node,
        operator: commitments[0].operator,
        sequence,
        epoch: Epoch(0),
        count: commitments.len() as u16,
        root: merkle::root(&leaves),
    };
    let batch = SignedBatch { header, commitments, signature: Signature([0; 64]) };
    Input::Batch { batch: VerifiedBatch::trusted(batch), orders, matches }
}

/// Three thousand honest answers without margins, and cheats with large ones.
pub(crate) fn calibration(prover: VariantId, verifier: VariantId) -> Calibration {
    let honest = [[3_000, 0, 0, 0, 0, 0, 0, 0, 0, 0]; calibration::SETTINGS];
    let counts = calibration::Counts { honest, cheats: [1, 0, 0, 0, 0, 0, 0, 100, 100, 100] };
    Calibration {
        network: genesis().network(),
        referee: referee(),
        prover,
        verifier,
        measured_at: Timestamp(1),
        tolerance_micro: 50_000,
        log_prob_steps: 2,
        lengths: [counts; calibration::LENGTHS],
        signature: Signature([0; 64]),
    }
}

/// A clean verdict.
pub(crate) fn verdict_of(by: u8, audit: AuditId, of: &Commitment) -> Verdict {
    Verdict {
        network: of.network,
        audit,
        auditor: node(by),
        operator: OperatorId([by; 32]),
        level: if node(by) == referee() { Level::Referee } else { Level::CrossAudit },
        variant: of.variant,
        prompt: of.prompt,
        seed: of.seed,
        output: of.output,
        log_probs: Digest([6; 32]),
        prompt_tokens: of.prompt_tokens,
        output_tokens: of.added_tokens(),
        scored_tokens: of.added_tokens(),
        worst_margin_micro: 0,
        margin_sum_micro: 0,
        finish_fits: true,
        signature: Signature([0; 64]),
    }
}
