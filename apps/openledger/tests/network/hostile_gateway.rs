//! A gateway of another making that a node serves beside an honest one.

use crate::http::{Demand, chat};
use crate::process::{Gateway, Node, eventually};
use ol_net::frame::{Assign, FailCode, Generate, Payload, Welcome};
use ol_net::{Down, GatewayLink, Limits, PROTOCOL, Server, Up};
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use ol_protocol::{Epoch, GatewayId, NetworkId, Salt, TaskId, VariantId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

const NETWORK: NetworkId = NetworkId([7; 32]);

// What a node says until a frame that is looked for; the grants meanwhile.
async fn until(link: &mut GatewayLink, grants: &mut BTreeMap<VariantId, u64>, found: impl Fn(&Up) -> bool) -> Up {
    loop {
        let frame = link.receiver.recv().await.expect("the link is up").expect("frames that can be read");
        if let Up::Grant { variant, total } = &frame {
            grants.insert(*variant, *total);
        }
        if found(&frame) {
            return frame;
        }
    }
}

fn assign(task: u8, variant: VariantId) -> Down {
    let generate = Generate {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        max_tokens: 4,
        stop: Vec::new(),
        top_logprobs: 0,
    };
    Down::Assign(Box::new(Assign {
        task: TaskId([task; 16]),
        attempt: 0,
        variant,
        epoch: Epoch(1),
        salt: Salt([1; 32]),
        seed: [2; 32],
        payload: Payload::Text { prompt: "for nothing".into(), generate },
        resume: Vec::new(),
        deadline_ms: 60_000,
        order: Vec::new(),
        scope: None,
    }))
}

// Keeps all that it is granted, sends more than that, and does not give back what it is asked for: how often it was refused
// until the node closed the link.
async fn hoard(server: &mut Server, gateway: GatewayId) -> u32 {
    let mut link = server.accept().await.expect("the node comes");
    let mut grants = BTreeMap::new();
    until(&mut link, &mut grants, |frame| matches!(frame, Up::Hello(_))).await;
    let welcome = Welcome {
        protocol: PROTOCOL,
        gateway,
        network: NETWORK,
        epoch: Epoch(1),
        // It claims to have batches that the node never made.
        acked_batches: u64::MAX,
        ping_every_ms: 1_000,
        hold_seconds: 0,
        held_tasks: 0,
    };
    link.sender.try_send(Down::Welcome(welcome)).expect("sent");
    let asked = until(&mut link, &mut grants, |frame| matches!(frame, Up::Withdraw { .. })).await;
    let Up::Withdraw { variant, total } = asked else { panic!("{asked:?}") };
    let granted = grants[&variant];
    assert!(total < granted, "{total} of {granted}");
    let acked = Down::BatchAck { sequence: 0, countersigned: vec![0; 340], first_record: 0 };
    link.sender.try_send(acked).expect("sent");
    // All that it was granted with one id, and then more than that.
    for task in std::iter::repeat_n(1, granted as usize).chain(2..7) {
        link.sender.try_send(assign(task, variant)).expect("sent");
    }
    let mut refused = 0;
    while let Some(Ok(frame)) = link.receiver.recv().await {
        refused += u32::from(matches!(frame, Up::Failed { code: FailCode::Overloaded, .. }));
    }
    refused
}

#[test]
fn a_gateway_that_hoards_and_floods_takes_nothing_from_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let honest = Gateway::start(&folder.path().join("honest"), &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let key = SecretKey::from_bytes(&[66; 32]);
    let gateway = GatewayId(key.public());
    let bound = Server::bind("127.0.0.1:0".parse().unwrap(), &key, Limits::default());
    let mut server = runtime.block_on(bound).unwrap();
    let ticket = Ticket { address: server.address().to_string(), gateway, network: NETWORK }.to_string();
    let hoarded = runtime.spawn(async move { (hoard(&mut server, gateway).await, server) });
    let join = ["--join", &ticket, "--slots", "4", "--threads", "1"];
    let mut node = Node::with(&honest.ticket, &folder.path().join("node"), &join);
    honest.wait_for_nodes(1);
    let stop = AtomicBool::new(false);
    let (refused, _silent) = std::thread::scope(|scope| {
        let _demand = Demand(&stop);
        for client in 0..6 {
            let (api, stop) = (honest.api(), &stop);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    api.chat(&chat(&format!("{client} {number}"), 100, number)).good();
                }
            });
        }
        let hoarded = runtime.block_on(hoarded).unwrap();
        // It takes no link any more: all slots are the honest one's, of text and of vectors.
        eventually("all slots", || (honest.metric("slots") == 8).then_some(()));
        hoarded
    });
    assert_eq!(refused, 5);
    assert_eq!(honest.metric("attempts_failed_over_total"), 0);
    assert!(node.process.is_running());
    // What it never acknowledges keeps nobody else's batches.
    let receipt = honest.api().chat(&chat("the last one", 8, 1)).good()["openledger"]["receipt"].take();
    honest.api().receipt(receipt.as_str().unwrap());
}
