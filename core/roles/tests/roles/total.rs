//! Whatever comes, in whatever order: no panic, sound books, and the same bytes give the same machine.

use crate::any::Any;
use crate::world::{GATEWAY, genesis, setup};
use ol_protocol::record::Record;
use ol_protocol::{GatewayId, Machine, Micros, NodeId, OperatorId, Timestamp, VariantId};
use ol_roles::gateway::codec::Origin;
use ol_roles::gateway::event::{Input, Output};
use ol_roles::settler::Reveal;
use ol_roles::{Gateway, Node, Settler, node};
use ol_sched::Limits;
use proptest::prelude::*;
use std::collections::BTreeMap;

const STEPS: u32 = 300;

fn origin() -> Origin {
    Origin {
        now: Timestamp(0),
        gateway: GATEWAY,
        master: [9; 32],
        seed: ol_protocol::prf::Seed([3; 32]),
        snapshot: None,
        records: vec![Record::Genesis(genesis())],
        next_batch: BTreeMap::from([(NodeId([200; 32]), 4)]),
        limits: Limits::default(),
    }
}

#[test]
fn a_snapshot_with_any_changed_byte_is_none_or_another_ones() {
    let secret = [5; 32];
    let seal = ol_trust::draw::seal(&secret);
    let reveal = Reveal { draw_secret: secret, nonce_secret: secret, next_draw_seal: seal, next_nonce_seal: seal };
    let mut settler = Settler::new(genesis()).unwrap();
    settler.close(Timestamp(10_000_000), &reveal).unwrap();
    let bytes = settler.to_bytes();
    assert_eq!(Settler::from_bytes(&bytes).map(|settler| settler.to_bytes()), Ok(bytes.clone()));
    for at in 0..bytes.len() {
        for change in [1, 2, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            if let Ok(other) = Settler::from_bytes(&changed) {
                assert_eq!(other.to_bytes(), changed, "byte {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_gateway_takes_any_inputs_and_a_recorded_one_answers_the_same(seed: u64) {
        let mut any = Any::new(seed, genesis().network(), GATEWAY);
        let mut gateway = Gateway::new(Timestamp(0), setup());
        let read = Origin::from_bytes(&Origin { next_batch: BTreeMap::new(), ..origin() }.to_bytes()).unwrap();
        let mut recorded = Gateway::new(read.now, read.setup().unwrap());
        let mut now = Timestamp(0);
        let mut first = vec![Input::TopUp(crate::world::top_up(2, 1_000_000, 1)), Input::Tick];
        for step in 0..STEPS {
            now = now.after(Micros(u64::from(any.below(400_000))));
            let input = first.pop().unwrap_or_else(|| any.gateway_input());
            let again = Input::from_bytes(&input.to_bytes());
            prop_assert_eq!(again.as_ref(), Ok(&input), "step {}", step);
            let (mut out, mut other) = (Vec::new(), Vec::new());
            gateway.handle(now, input, &mut out);
            recorded.handle(now, again.unwrap(), &mut other);
            prop_assert_eq!(&out, &other, "step {}", step);
            prop_assert_eq!(gateway.settler().ledger().check(), Ok(()), "step {}", step);
            for output in out {
                match output {
                    Output::Assign { attempt, order, .. } => any.orders.push((attempt, order)),
                    Output::Audit { audit, .. } => any.audits.push(audit),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_node_takes_any_inputs_and_never_runs_more_than_it_offers(seed: u64) {
        let mut any = Any::new(seed, genesis().network(), GATEWAY);
        let gateways = [GATEWAY, GatewayId([77; 32])];
        let served = |gateway| node::Served {
            network: genesis().network(),
            gateway,
            operator: OperatorId([1; 32]),
            next_batch: 0,
            unacked: vec![0, 1],
        };
        let slots = vec![(VariantId([0; 32]), 2), (VariantId([1; 32]), 1)];
        let gateways_served = gateways.map(served).to_vec();
        let mut node = Node::new(node::Setup { node: NodeId([1; 32]), slots: slots.clone(), gateways: gateways_served });
        let (mut now, mut granted) = (Timestamp(0), BTreeMap::<(GatewayId, VariantId), u64>::new());
        for step in 0..STEPS {
            now = now.after(Micros(u64::from(any.below(400_000))));
            let event = any.node_event(&gateways);
            if let node::Event::At { gateway, input: node::Input::Connected { .. } } = &event {
                granted.retain(|(of, _), _| of != gateway);
            }
            let mut out = Vec::new();
            node.handle(now, event, &mut out);
            prop_assert!(node.running() <= 3, "step {}", step);
            prop_assert!(slots.iter().all(|(variant, size)| node.held(*variant) <= u64::from(*size)), "step {}", step);
            for action in out {
                let node::Action::At { gateway, output } = action else { continue };
                match output {
                    node::Output::Grant { variant, total } => {
                        let before = granted.insert((gateway, variant), total).unwrap_or(0);
                        prop_assert!(total >= before, "a grant went down in step {}", step);
                    }
                    node::Output::Withdraw { variant, total } => {
                        granted.insert((gateway, variant), total);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_or_say_exactly_what_they_are(seed: u64, cut: u16, flip: u16, bit in 0..8u8) {
        let mut any = Any::new(seed, genesis().network(), GATEWAY);
        let bytes = any.gateway_input().to_bytes();
        prop_assert!(Input::from_bytes(&bytes[..usize::from(cut) % bytes.len()]).is_err());
        let mut flipped = bytes;
        let at = usize::from(flip) % flipped.len();
        flipped[at] ^= 1 << bit;
        if let Ok(other) = Input::from_bytes(&flipped) {
            prop_assert_eq!(other.to_bytes(), flipped);
        }
    }

    #[test]
    fn random_bytes_never_panic_a_reader(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(input) = Input::from_bytes(&bytes) {
            prop_assert_eq!(input.to_bytes(), bytes.clone());
        }
        prop_assert!(Origin::from_bytes(&bytes).is_err());
    }
}

#[test]
fn a_setup_reads_as_it_was_written_and_no_part_of_it_does() {
    let with_snapshot = Origin { snapshot: Some(vec![1, 2, 3]), ..origin() };
    for origin in [origin(), with_snapshot] {
        let bytes = origin.to_bytes();
        assert_eq!(Origin::from_bytes(&bytes), Ok(origin));
        for cut in 0..bytes.len() {
            assert!(Origin::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}

#[test]
fn a_snapshot_that_is_none_is_refused() {
    let origin = Origin { snapshot: Some(vec![1, 2, 3]), ..origin() };
    assert_eq!(origin.setup().err(), Some(ol_roles::settler::Fault::Snapshot));
}
