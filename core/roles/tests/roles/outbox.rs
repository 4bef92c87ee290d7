//! A node's batches: kept until the gateway has signed for each.

use crate::world::{GATEWAY, VARIANT, genesis};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, Epoch, Machine as _, NodeId, OperatorId, TaskId, Timestamp, TokenCount};
use ol_roles::Node;
use ol_roles::node::{Action, Event, Input, Output, Served, Setup, Work};

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

#[test]
fn what_added_nothing_is_signed_only_if_it_is_paid() {
    for is_paid in [false, true] {
        let (operator, next_batch) = (OperatorId([1; 32]), 0);
        let served = Served { network: genesis().network(), gateway: GATEWAY, operator, next_batch, unacked: vec![] };
        let mut node = Node::new(Setup { node: NodeId([1; 32]), slots: vec![(VARIANT, 1)], gateways: vec![served] });
        let mut told = |at, event| {
            let mut out = Vec::new();
            node.handle(Timestamp(at), event, &mut out);
            out
        };
        let said = |input| Event::At { gateway: GATEWAY, input };
        told(0, said(Input::Connected { next_batch: 0, epoch: Epoch(1) }));
        let attempt = AttemptId { task: TaskId([7; 16]), attempt: 1 };
        let resumed_from = TokenCount(0);
        told(0, said(Input::Assigned { attempt, variant: VARIANT, epoch: Epoch(1), resumed_from }));
        told(1, said(Input::Cancelled { attempt, is_paid }));
        let (none, prompt_tokens) = (Digest([0; 32]), TokenCount(3));
        let (finish, output_tokens) = (Finish::Cancelled, TokenCount(0));
        let work =
            Work { prompt: none, seed: none, output: none, log_probs: none, finish, prompt_tokens, output_tokens };
        told(2, said(Input::Finished { attempt, work }));
        let out = told(2_000_000, Event::Tick);
        let stored = out.iter().find_map(|action| match action {
            Action::At { output: Output::Store { commitments, .. }, .. } => Some(commitments),
            _ => None,
        });
        let tokens = |commitments: &Vec<Commitment>| commitments.iter().map(|it| it.prompt_tokens.0).collect();
        assert_eq!(stored.map(tokens), is_paid.then(|| vec![3]));
    }
}
