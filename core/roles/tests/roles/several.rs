//! A node on several gateways: never more is promised than it has, whoever asks, crosses, copies or goes away.

use ol_protocol::commitment::Finish;
use ol_protocol::prf::philox;
use ol_protocol::record::AttemptId;
use ol_protocol::{
    AuditId, Digest, Epoch, GatewayId, Machine as _, NetworkId, NodeId, OperatorId, TaskId, Timestamp, TokenCount,
    VariantId,
};
use ol_roles::Node;
use ol_roles::node::{Action, Event, FailCode, Input, Output, Served, Setup, Work};
use ol_sched::Offers;
use std::collections::{BTreeMap, VecDeque};

const VARIANT: VariantId = VariantId([9; 32]);
const NODE: NodeId = NodeId([5; 32]);
const SEEDS: u32 = 20;
const STEPS: u32 = 3_000;

struct Random {
    seed: u32,
    index: u32,
}

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.index += 1;
        philox([self.seed, 0], [self.index, 0, 0, 0])[0] as usize % bound
    }
}

#[derive(Debug)]
enum Up {
    Grant(u64),
    Withdraw(u64),
    // A task ended, and this is granted.
    Ended(u64),
}

#[derive(Debug)]
enum Down {
    Assign(AttemptId),
    Withdrawn,
}

// A gateway with its link: frames keep their order on it, and take their time.
#[derive(Default)]
struct Gateway {
    offers: Offers,
    is_linked: bool,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
}

struct World {
    now: Timestamp,
    size: u64,
    node: Node,
    gateways: BTreeMap<GatewayId, Gateway>,
    // What the engine has.
    runs: Vec<(GatewayId, AttemptId)>,
    tasks: u64,
    closed: Vec<GatewayId>,
    // Frames that are sent for the sake of slots alone.
    extra: u64,
}

fn gateway(number: u8) -> GatewayId {
    GatewayId([number; 32])
}

fn attempt(number: u64) -> AttemptId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    AttemptId { task: TaskId(id), attempt: 0 }
}

fn work() -> Work {
    let none = Digest([0; 32]);
    let (finish, prompt_tokens, output_tokens) = (Finish::Length, TokenCount(3), TokenCount(4));
    Work { prompt: none, seed: none, output: none, log_probs: none, finish, prompt_tokens, output_tokens }
}

fn node(size: u32, gateways: u8) -> Node {
    let served = |number| Served {
        network: NetworkId([number; 32]),
        gateway: gateway(number),
        operator: OperatorId([4; 32]),
        next_batch: 0,
        unacked: Vec::new(),
    };
    Node::new(Setup { node: NODE, slots: vec![(VARIANT, size)], gateways: (0..gateways).map(served).collect() })
}

impl World {
    fn new(size: u32, gateways: u8) -> Self {
        Self {
            now: Timestamp(1),
            size: u64::from(size),
            node: node(size, gateways),
            gateways: (0..gateways).map(|number| (gateway(number), Gateway::default())).collect(),
            runs: Vec::new(),
            tasks: 0,
            closed: Vec::new(),
            extra: 0,
        }
    }

    fn tell(&mut self, event: Event) {
        let mut out = Vec::new();
        self.node.handle(self.now, event, &mut out);
        for action in out {
            let Action::At { gateway: id, output } = action else { continue };
            let known = self.gateways.get_mut(&id).expect("one of its gateways");
            self.extra += u64::from(matches!(output, Output::Grant { .. } | Output::Withdraw { .. }));
            match output {
                Output::Grant { total, .. } => known.up.push_back(Up::Grant(total)),
                Output::Withdraw { total, .. } => known.up.push_back(Up::Withdraw(total)),
                Output::Close => self.closed.push(id),
                Output::Start { attempt } => self.runs.push((id, attempt)),
                Output::Done { grant, .. } => known.up.push_back(Up::Ended(grant)),
                Output::Refuse { code, grant, .. } => {
                    assert_ne!(code, FailCode::Overloaded, "a task that was granted finds no slot");
                    known.up.push_back(Up::Ended(grant));
                }
                Output::Store { sequence, .. } => {
                    // Stored and acknowledged at once: batches are not what this is about.
                    let at = |input| Event::At { gateway: id, input };
                    self.tell(at(Input::Stored { sequence }));
                    self.tell(at(Input::Acked { sequence }));
                }
                Output::Stop { .. }
                | Output::Send { .. }
                | Output::RefuseCopy { .. }
                | Output::Forget { .. }
                | Output::Audit { .. }
                | Output::RefuseAudit { .. } => {}
            }
        }
    }

    fn at(&mut self, id: GatewayId, input: Input) {
        self.tell(Event::At { gateway: id, input });
    }

    fn of(&mut self, id: GatewayId) -> &mut Gateway {
        self.gateways.get_mut(&id).expect("a gateway")
    }

    fn link(&mut self, id: GatewayId) {
        let known = self.of(id);
        known.is_linked = true;
        known.offers.join(NODE);
        self.at(id, Input::Connected { next_batch: 0, epoch: Epoch(0) });
    }

    fn unlink(&mut self, id: GatewayId) {
        let known = self.of(id);
        *known = Gateway::default();
        self.at(id, Input::Disconnected);
    }

    // The gateway takes the first frame that is on its way.
    fn take_up(&mut self, id: GatewayId) -> bool {
        let known = self.of(id);
        let Some(frame) = known.up.pop_front() else { return false };
        match frame {
            Up::Grant(total) => known.offers.grant(NODE, VARIANT, total).expect("within the limits"),
            Up::Withdraw(total) => {
                known.offers.withdraw(NODE, VARIANT, total);
                known.down.push_back(Down::Withdrawn);
            }
            Up::Ended(total) => {
                known.offers.grant(NODE, VARIANT, total).expect("within the limits");
                known.offers.finish(NODE, VARIANT);
            }
        }
        true
    }

    // The node takes the first frame that is on its way.
    fn take_down(&mut self, id: GatewayId) -> bool {
        let Some(frame) = self.of(id).down.pop_front() else { return false };
        match frame {
            Down::Assign(attempt) => {
                let resumed_from = TokenCount(0);
                self.at(id, Input::Assigned { attempt, variant: VARIANT, epoch: Epoch(0), resumed_from });
            }
            Down::Withdrawn => self.at(id, Input::Withdrawn { variant: VARIANT }),
        }
        true
    }

    fn assign(&mut self, id: GatewayId) -> bool {
        self.tasks += 1;
        let (number, known) = (self.tasks, self.of(id));
        if known.offers.spend(NODE, VARIANT).is_none() {
            return false;
        }
        known.down.push_back(Down::Assign(attempt(number)));
        true
    }

    fn finish(&mut self, place: usize) {
        let (id, attempt) = self.runs.remove(place);
        self.at(id, Input::Finished { attempt, work: work() });
    }

    // All frames arrive.
    fn settle(&mut self) {
        while self
            .gateways
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .any(|id| self.take_up(id) || self.take_down(id))
        {}
    }

    // What a gateway may still send, and what it sent that has not arrived.
    fn promised(&self, id: GatewayId) -> u64 {
        let known = &self.gateways[&id];
        let sent = known.down.iter().filter(|frame| matches!(frame, Down::Assign(_))).count() as u64;
        known.offers.free(NODE, VARIANT) + sent
    }

    fn check(&self, at: &str) {
        let promised: u64 = self.gateways.keys().map(|id| self.promised(*id)).sum();
        assert!(promised + self.runs.len() as u64 <= self.size, "promised {promised}, runs {}, {at}", self.runs.len());
        assert!(self.node.held(VARIANT) <= self.size, "{at}");
    }
}

#[test]
fn whatever_crosses_no_more_is_promised_than_there_are_slots_and_no_task_finds_none() {
    for seed in 0..SEEDS {
        let mut random = Random { seed, index: 0 };
        let (size, count) = (1 + random.below(9) as u32, 1 + random.below(4) as u8);
        let mut world = World::new(size, count);
        for step in 0..STEPS {
            let at = format!("seed {seed} step {step}");
            let id = gateway(random.below(usize::from(count)) as u8);
            // Demand comes and goes.
            let is_busy = (step / 500 + u32::from(id.0[0])) % 2 == 0;
            match random.below(20) {
                0 if random.below(10) == 0 && world.of(id).is_linked => world.unlink(id),
                0 | 1 if !world.of(id).is_linked => world.link(id),
                2..=6 => drop(world.take_up(id)),
                7..=11 => drop(world.take_down(id)),
                12..=15 if is_busy || random.below(20) == 0 => drop(world.assign(id)),
                16..=18 if !world.runs.is_empty() => {
                    let place = random.below(world.runs.len());
                    world.finish(place);
                }
                19 => {
                    world.now = Timestamp(world.now.0 + 200_000);
                    world.tell(Event::Tick);
                }
                _ => {}
            }
            world.check(&at);
        }
        // All links up and every frame there: every slot is somebody's.
        let ids: Vec<GatewayId> = world.gateways.keys().copied().collect();
        for id in &ids {
            if !world.of(*id).is_linked {
                world.link(*id);
            }
        }
        for _ in 0..40 {
            world.settle();
            world.now = Timestamp(world.now.0 + 1_000_000);
            world.tell(Event::Tick);
            world.check(&format!("seed {seed} at the end"));
        }
        world.settle();
        let promised: u64 = ids.iter().map(|id| world.promised(*id)).sum();
        assert_eq!(promised + world.runs.len() as u64, world.size, "seed {seed}");
        assert_eq!(world.closed, [], "seed {seed}");
    }
}

#[test]
fn a_gateway_with_all_the_demand_gets_all_slots_but_one_for_each_other() {
    let mut world = World::new(8, 3);
    (0..3).for_each(|number| world.link(gateway(number)));
    world.settle();
    let promised = |world: &World| [0, 1, 2].map(|number| world.promised(gateway(number)));
    assert_eq!(promised(&world).iter().sum::<u64>(), 8);
    while world.assign(gateway(0)) {
        world.settle();
    }
    assert_eq!((world.runs.len(), promised(&world)), (6, [0, 1, 1]));
    // The second comes into work: task by task it gets what the first has beyond its half.
    for _ in 0..50 {
        while world.assign(gateway(1)) || world.assign(gateway(0)) {
            world.settle();
        }
        world.finish(0);
        world.settle();
    }
    while world.assign(gateway(1)) || world.assign(gateway(0)) {
        world.settle();
    }
    let runs = |world: &World, of| world.runs.iter().filter(|(id, _)| *id == gateway(of)).count();
    assert_eq!((runs(&world, 0), runs(&world, 1), promised(&world)[2]), (4, 3, 1));
    // It goes away, and what ran for it ends: the first has all again.
    world.unlink(gateway(1));
    while let Some(place) = world.runs.iter().position(|(id, _)| *id == gateway(1)) {
        world.finish(place);
    }
    world.settle();
    while world.assign(gateway(0)) {
        world.settle();
    }
    assert_eq!((runs(&world, 0), promised(&world)), (7, [0, 0, 1]));
    // And it is back, with one slot as soon as any is free.
    world.link(gateway(1));
    world.finish(0);
    world.settle();
    assert_eq!(promised(&world), [0, 1, 1]);
}

#[test]
fn at_a_steady_load_nothing_is_sent_for_the_sake_of_slots() {
    // How many of three gateways have work for more than all slots.
    for busy in 1..=3 {
        let mut world = World::new(10, 3);
        (0..3).for_each(|number| world.link(gateway(number)));
        world.settle();
        for ended in 0..1_000 {
            while (0..busy).any(|number| world.assign(gateway(number))) {
                world.settle();
            }
            world.now = Timestamp(world.now.0 + 100_000);
            world.tell(Event::Tick);
            world.finish(0);
            world.settle();
            if ended == 100 {
                world.extra = 0;
            }
        }
        assert_eq!(world.extra, 0, "{busy} busy");
    }
}

fn feed(node: &mut Node, now: Timestamp, event: Event) -> Vec<Action> {
    let mut out = Vec::new();
    node.handle(now, event, &mut out);
    out
}

fn assigned(attempt: AttemptId) -> Input {
    Input::Assigned { attempt, variant: VARIANT, epoch: Epoch(0), resumed_from: TokenCount(0) }
}

#[test]
fn a_gateway_that_copies_anothers_task_gets_in_nobodys_way() {
    let mut node = node(4, 2);
    let now = Timestamp(1);
    let mut at = |number, input| feed(&mut node, now, Event::At { gateway: gateway(number), input });
    at(0, Input::Connected { next_batch: 0, epoch: Epoch(3) });
    let out = at(1, Input::Connected { next_batch: 0, epoch: Epoch(7) });
    // The first had been granted all four.
    let asked = Output::Withdraw { variant: VARIANT, total: 2 };
    assert_eq!(out, [Action::At { gateway: gateway(0), output: asked }]);
    let granted = Output::Grant { variant: VARIANT, total: 2 };
    assert_eq!(at(0, Input::Withdrawn { variant: VARIANT }), [Action::At { gateway: gateway(1), output: granted }]);
    let id = attempt(1);
    let started = |number| Action::At { gateway: gateway(number), output: Output::Start { attempt: id } };
    assert_eq!(at(0, assigned(id)), [started(0)]);
    assert_eq!(at(1, assigned(id)), [started(1)]);
    // Given out again it is refused, and what runs goes on.
    let copy = Output::RefuseCopy { attempt: id, grant: 3 };
    assert_eq!(at(0, assigned(id)), [Action::At { gateway: gateway(0), output: copy }]);
    // What the one takes back goes on for the other.
    let stop = Action::At { gateway: gateway(1), output: Output::Stop { attempt: id } };
    assert_eq!(at(1, Input::Cancelled { attempt: id, is_paid: false }), [stop]);
    let out = at(0, Input::Finished { attempt: id, work: work() });
    let [Action::At { gateway: of, output: Output::Done { commitment, grant: 4 } }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((*of, commitment.gateway, commitment.network), (gateway(0), gateway(0), NetworkId([0; 32])));
    let copy = Output::RefuseCopy { attempt: id, grant: 5 };
    assert_eq!(at(0, assigned(id)), [Action::At { gateway: gateway(0), output: copy }]);
    // Each counts its own batches, and acknowledges no other's.
    let out = feed(&mut node, Timestamp(2_000_000), Event::Tick);
    let [Action::At { gateway: of, output: Output::Store { sequence: 0, epoch: Epoch(3), commitments } }] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!((*of, commitments.len()), (gateway(0), 1));
    let mut at = |number, input| feed(&mut node, Timestamp(2_000_000), Event::At { gateway: gateway(number), input });
    let sent = Action::At { gateway: gateway(0), output: Output::Send { sequence: 0 } };
    assert_eq!(at(0, Input::Stored { sequence: 0 }), [sent]);
    assert_eq!(at(1, Input::Acked { sequence: 0 }), []);
    let forgotten = Action::At { gateway: gateway(0), output: Output::Forget { sequence: 0 } };
    assert_eq!(at(0, Input::Acked { sequence: 0 }), [forgotten]);
}

#[test]
fn a_gateway_that_keeps_what_it_does_not_use_loses_its_link_and_harms_nobody() {
    let mut world = World::new(4, 2);
    (0..2).for_each(|number| world.link(gateway(number)));
    world.settle();
    // It was asked, and says nothing.
    while world.assign(gateway(0)) {
        while world.take_up(gateway(0)) || world.take_down(gateway(0)) {}
    }
    assert_eq!(world.runs.len(), 2);
    world.now = Timestamp(20_000_000);
    world.tell(Event::Tick);
    assert_eq!(world.closed, [gateway(1)]);
    world.unlink(gateway(1));
    world.settle();
    while world.assign(gateway(0)) {
        world.settle();
    }
    assert_eq!(world.runs.len(), 4);
}

#[test]
fn a_gateway_that_asks_for_audit_after_audit_keeps_none_from_the_others() {
    let mut node = node(4, 2);
    let mut asked = |number, audit| {
        let input = Input::AuditAsked { audit: AuditId([audit; 16]), variant: VARIANT };
        feed(&mut node, Timestamp(1), Event::At { gateway: gateway(number), input })
    };
    let done = |number, audit| {
        [Action::At { gateway: gateway(number), output: Output::Audit { audit: AuditId([audit; 16]) } }]
    };
    (0..16).for_each(|audit| assert_eq!(asked(0, audit), done(0, audit)));
    let refused = Output::RefuseAudit { audit: AuditId([16; 16]) };
    assert_eq!(asked(0, 16), [Action::At { gateway: gateway(0), output: refused }]);
    // The first again is answered with the first.
    assert_eq!(asked(0, 0), []);
    assert_eq!(asked(1, 0), done(1, 0));
}

#[test]
fn a_draining_node_waits_for_all_its_gateways() {
    let mut node = node(2, 2);
    let now = Timestamp(1);
    let at = |number, input| Event::At { gateway: gateway(number), input };
    (0..2)
        .for_each(|number| drop(feed(&mut node, now, at(number, Input::Connected { next_batch: 0, epoch: Epoch(0) }))));
    feed(&mut node, now, at(0, Input::Withdrawn { variant: VARIANT }));
    assert_eq!(feed(&mut node, now, at(1, assigned(attempt(1)))).len(), 1);
    assert_eq!(feed(&mut node, now, Event::Drain), []);
    let refused = Output::Refuse { attempt: attempt(2), code: FailCode::Draining, grant: 1 };
    assert_eq!(
        feed(&mut node, now, at(0, assigned(attempt(2)))),
        [Action::At { gateway: gateway(0), output: refused }]
    );
    let out = feed(&mut node, now, at(1, Input::Finished { attempt: attempt(1), work: work() }));
    assert!(matches!(
        &out[..],
        [Action::At { output: Output::Done { .. }, .. }, Action::At { output: Output::Store { .. }, .. }]
    ));
    feed(&mut node, now, at(1, Input::Stored { sequence: 0 }));
    let forgotten = Action::At { gateway: gateway(1), output: Output::Forget { sequence: 0 } };
    assert_eq!(feed(&mut node, now, at(1, Input::Acked { sequence: 0 })), [forgotten, Action::Drained]);
}
