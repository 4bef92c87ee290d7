//! A node's batches: kept until the gateway has signed for each.

use crate::world::{GATEWAY, genesis};
use ol_protocol::{Epoch, Machine as _, NodeId, OperatorId, Timestamp};
use ol_roles::Node;
use ol_roles::node::{Action, Event, Input, Output, Served, Setup};

#[test]
fn a_gateway_that_says_it_has_a_batch_is_sent_it_again_until_it_signs_for_it() {
    let served = Served {
        network: genesis().network(),
        gateway: GATEWAY,
        operator: OperatorId([1; 32]),
        next_batch: 2,
        unacked: vec![0, 1],
    };
    let mut node = Node::new(Setup { node: NodeId([1; 32]), slots: Vec::new(), gateways: vec![served] });
    let mut told = |input| {
        let mut out = Vec::new();
        node.handle(Timestamp(0), Event::At { gateway: GATEWAY, input }, &mut out);
        out
    };
    let said = |output| Action::At { gateway: GATEWAY, output };
    let connected = || Input::Connected { next_batch: 2, epoch: Epoch(0) };
    assert_eq!(told(connected()), [said(Output::Send { sequence: 0 }), said(Output::Send { sequence: 1 })]);
    assert_eq!(told(Input::Acked { sequence: 0 }), [said(Output::Forget { sequence: 0 })]);
    assert_eq!(told(Input::Disconnected), []);
    assert_eq!(told(connected()), [said(Output::Send { sequence: 1 })]);
}
