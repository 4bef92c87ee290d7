//! Nodes and a gateway over loopback, through the public interface.
#![expect(clippy::unwrap_used, reason = "a test may")]

use ol_net::frame::{
    Assign, Audit, Done, FailCode, Generate, Hello, Made, Message, Payload, RefuseCode, Role, Scored, Tokens,
    TopLogProbs, Welcome,
};
use ol_net::{
    CloseCode, Down, Error, FrameError, GatewayLink, Limits, NodeLink, PROTOCOL, Reason, SendError, Server, Up, connect,
};
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::certificate::Certificate;
use ol_protocol::commitment::Commitment;
use ol_protocol::key::SecretKey;
use ol_protocol::seal::Seal;
use ol_protocol::ticket::Ticket;
use ol_protocol::variant::{Assurance, Variant, Work};
use ol_protocol::verdict::Verdict;
use ol_protocol::{AuditId, Digest, Epoch, GatewayId, NetworkId, NodeId, Salt, Scope, TaskId, VariantId};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const NETWORK: NetworkId = NetworkId([3; 32]);

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32])
}

async fn server(limits: Limits) -> (Server, Ticket) {
    let gateway = key(1);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &gateway, limits).await.unwrap();
    let ticket =
        Ticket { address: server.address().to_string(), gateway: GatewayId(gateway.public()), network: NETWORK };
    (server, ticket)
}

async fn pair(server: &mut Server, ticket: &Ticket, node: u8) -> (NodeLink, GatewayLink) {
    let node = connect(ticket, &key(node), &Limits::default()).await.unwrap();
    (node, server.accept().await.unwrap())
}

// A pair whose first frames are exchanged.
async fn joined(server: &mut Server, ticket: &Ticket, node: u8) -> (NodeLink, GatewayLink) {
    let (mut node, mut gateway) = pair(server, ticket, node).await;
    node.sender.try_send(hello()).unwrap();
    assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), hello());
    gateway.sender.try_send(welcome()).unwrap();
    assert_eq!(node.receiver.recv().await.unwrap().unwrap(), welcome());
    (node, gateway)
}

fn hello() -> Up {
    let variant = Variant {
        model: "tiny".into(),
        weights: Digest([4; 32]),
        quantisation: "f32".into(),
        numerics: "embedded-f32/1".into(),
        work: Work::Generate,
        assurance: Assurance::Seeded,
        context_tokens: 2048,
    };
    Up::Hello(Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        network: NETWORK,
        certificate: vec![5; Certificate::BYTES],
        join_token: Some("open sesame".into()),
        software: "openledger 0.1.0".into(),
        role: Role::Worker,
        region: "eu-north".into(),
        variants: vec![variant.clone(), Variant { model: "café".into(), work: Work::Embed, ..variant }],
        next_batch: 17,
    })
}

fn welcome() -> Down {
    Down::Welcome(Welcome {
        protocol: PROTOCOL,
        gateway: GatewayId([6; 32]),
        network: NETWORK,
        epoch: Epoch(9),
        acked_batches: 17,
        ping_every_ms: 5000,
        hold_seconds: 3_600,
        held_tasks: 180,
    })
}

fn generate() -> Generate {
    Generate {
        temperature: 0.7,
        top_p: 0.9,
        top_k: 40,
        min_p: 0.05,
        max_tokens: 128,
        stop: vec!["\n\n".into(), "END".into()],
        top_logprobs: 3,
    }
}

fn tokens(count: u32) -> Up {
    Up::Tokens(Tokens {
        task: TaskId([7; 16]),
        attempt: 1,
        count,
        ids: vec![0, u32::MAX],
        text: " né".into(),
        log_probs: vec![0, 255],
        top: vec![
            TopLogProbs { log_prob: -0.25, text: " n".into(), alternatives: vec![(5, " m".into(), -1.5)] },
            TopLogProbs { log_prob: 0.0, text: "é".into(), alternatives: Vec::new() },
        ],
    })
}

fn every_up() -> Vec<Up> {
    let (task, attempt) = (TaskId([7; 16]), 255);
    let fail = |code| Up::Failed { task, attempt, code, message: "no".into(), grant_total: 12 };
    let verdict = |outcome| Up::Verdict { audit: AuditId([8; 16]), outcome, grant_total: 13 };
    vec![
        Up::Grant { variant: VariantId([9; 32]), total: u64::MAX },
        Up::Withdraw { variant: VariantId([9; 32]), total: 3 },
        Up::Started { task, attempt: 0, prompt_tokens: 33, prompt: Digest([10; 32]), resident_tokens: 32 },
        tokens(2),
        Up::Done(Done {
            task,
            attempt,
            text: "tail".into(),
            commitment: vec![11; Commitment::BYTES],
            grant_total: 14,
            vectors: vec![vec![0.5, -0.5], Vec::new(), vec![f32::MIN_POSITIVE]],
        }),
        fail(FailCode::Invalid),
        fail(FailCode::Overloaded),
        fail(FailCode::Draining),
        fail(FailCode::Internal),
        fail(FailCode::UnknownVariant),
        Up::Batch {
            bytes: vec![1, 2, 3],
            orders: vec![vec![4], vec![]],
            outputs: vec![Made { place: 1, ids: vec![7, u32::MAX], log_probs: vec![8, 9] }],
        },
        verdict(Ok(Scored { verdict: vec![12; Verdict::BYTES], log_probs: vec![1, 2], prompt_ids: vec![7] })),
        verdict(Err("out of memory".into())),
        Up::Pong { nonce: 77 },
        Up::Sealed { bytes: vec![6; Seal::BYTES] },
        Up::Recalled { task: TaskId([7; 16]), attempt: 1, content: None },
        Up::Recalled { task: TaskId([7; 16]), attempt: 1, content: Some((Box::new(audit()), vec![3, 4])) },
        Up::Leaving,
    ]
}

fn assign(payload: Payload) -> Down {
    Down::Assign(Box::new(Assign {
        task: TaskId([7; 16]),
        attempt: 2,
        variant: VariantId([9; 32]),
        epoch: Epoch(10),
        salt: Salt([13; 32]),
        seed: [14; 32],
        payload,
        resume: vec![1, 2, 3],
        deadline_ms: 30_000,
        order: vec![5; 200],
        scope: Some(Scope([15; 16])),
    }))
}

fn audit() -> Audit {
    Audit {
        audit: AuditId([8; 16]),
        variant: VariantId([9; 32]),
        salt: Salt([13; 32]),
        seed: [14; 32],
        payload: Payload::Text { prompt: "Once".into(), generate: generate() },
        output: vec![4, 5],
        vectors: vec![vec![1.0, 0.0]],
        finish: 3,
        tolerance_micro: 1000,
        prover_numerics: "embedded-f32/1".into(),
        deadline_ms: 60_000,
        resumed_from: 1,
        until: 2,
        sealed: true,
    }
}

#[test]
fn what_is_kept_of_an_attempt_is_read_as_it_was_written() {
    assert_eq!(Audit::from_kept(&audit().to_kept()), Some(audit()));
    assert_eq!(Audit::from_kept(b"no audit"), None);
}

fn every_down() -> Vec<Down> {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let chat = vec![message("system", "Be brief."), message("user", "Grüezi")];
    vec![
        assign(Payload::Chat { messages: chat, generate: generate() }),
        assign(Payload::Text { prompt: "Once".into(), generate: generate() }),
        assign(Payload::Tokens { ids: vec![1, 0, 500_000], generate: generate() }),
        assign(Payload::Embed { texts: vec!["a".into(), String::new()] }),
        Down::Cancel { task: TaskId([7; 16]), attempt: 3, is_paid: true },
        Down::Unseal { audit: AuditId([5; 16]), seals: vec![vec![6; Seal::BYTES]; 3] },
        Down::Recall { task: TaskId([7; 16]), attempt: 3, salt: Salt([13; 32]) },
        Down::Audit(Box::new(audit())),
        Down::BatchAck { sequence: 16, countersigned: vec![15; CountersignedBatch::BYTES], first_record: 4096 },
        Down::EpochBegan { epoch: Epoch(11) },
        Down::Ping { nonce: 78 },
        Down::Withdrawn { variant: VariantId([9; 32]) },
        Down::Drain { message: "restart".into() },
    ]
}

#[tokio::test]
async fn every_kind_of_frame_arrives_as_it_was_sent() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (mut node, mut gateway) = joined(&mut server, &ticket, 2).await;
    for frame in every_up() {
        node.sender.try_send(frame.clone()).unwrap();
        assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), frame);
    }
    for frame in every_down() {
        gateway.sender.send(frame.clone()).await.unwrap();
        assert_eq!(node.receiver.recv().await.unwrap().unwrap(), frame);
    }
}

#[tokio::test]
async fn both_ends_know_whose_key_the_other_has() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (node, gateway) = pair(&mut server, &ticket, 2).await;
    assert_eq!(gateway.peer, NodeId(key(2).public()));
    assert_eq!(node.peer, ticket.gateway);
    assert_eq!(node.remote, server.address());
}

#[tokio::test]
async fn small_frames_are_not_held_back_at_either_end() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (node, gateway) = pair(&mut server, &ticket, 2).await;
    assert_eq!((node.nodelay, gateway.nodelay), (true, true));
}

#[tokio::test]
async fn a_gateway_with_another_key_than_the_tickets_is_refused() {
    let (server, mut ticket) = server(Limits::default()).await;
    let got = std::mem::replace(&mut ticket.gateway, GatewayId(key(9).public()));
    let error = connect(&ticket, &key(2), &Limits::default()).await.unwrap_err();
    let Error::WrongGatewayKey { address, expected, got: seen } = error else { panic!("{error:?}") };
    assert_eq!((address, expected, seen), (server.address().to_string(), ticket.gateway, got));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_as_such() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ticket = Ticket { address: free.to_string(), gateway: GatewayId([0; 32]), network: NETWORK };
    let error = connect(&ticket, &key(2), &Limits::default()).await.unwrap_err();
    let Error::Connect { cause, .. } = error else { panic!("{error:?}") };
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_as_such() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ticket = Ticket { address, gateway: GatewayId([0; 32]), network: NETWORK };
    let answer = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tcp
    };
    let (key, limits) = (key(2), Limits::default());
    let (error, _tcp) = tokio::join!(connect(&ticket, &key, &limits), answer);
    assert!(matches!(error, Err(Error::Tls { .. })), "{error:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ticket = Ticket { address, gateway: GatewayId([0; 32]), network: NETWORK };
    let limits = Limits { connect: Duration::from_millis(100), ..Limits::default() };
    let error = connect(&ticket, &key(2), &limits).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { phase: "shaking hands", .. }), "{error:?}");
}

#[tokio::test]
async fn a_port_in_use_is_told_as_such() {
    let (server, _) = server(Limits::default()).await;
    let error = Server::bind(server.address(), &key(1), Limits::default()).await.unwrap_err();
    let Error::Bind { address, cause } = error else { panic!("{error:?}") };
    assert_eq!((address, cause.kind()), (server.address().to_string(), std::io::ErrorKind::AddrInUse));
}

#[tokio::test]
async fn garbage_and_silence_in_place_of_tls_end_and_keep_nobody_out() {
    let limits = Limits { connect: Duration::from_secs(1), handshakes: 4, ..Limits::default() };
    let (mut server, ticket) = server(limits).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let mut garbage = TcpStream::connect(server.address()).await.unwrap();
    garbage.write_all(&[0x47; 1000]).await.unwrap();
    let (_node, _gateway) = joined(&mut server, &ticket, 2).await;
    // Both were ended by the server: a read returns. What it returns depends on unread bytes.
    let _ = garbage.read_to_end(&mut Vec::new()).await;
    for tcp in &mut silent {
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn a_thousand_frames_arrive_in_order_both_ways() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (mut node, mut gateway) = joined(&mut server, &ticket, 2).await;
    for n in 2..1002 {
        node.sender.try_send(tokens(n)).unwrap();
        gateway.sender.try_send(Down::Ping { nonce: n.into() }).unwrap();
    }
    for n in 2..1002 {
        assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), tokens(n));
        assert_eq!(node.receiver.recv().await.unwrap().unwrap(), Down::Ping { nonce: n.into() });
    }
    let traffic = server.traffic();
    for carried in [traffic.sent(), traffic.received()] {
        assert_eq!(carried.frames, 1_001);
        // A frame is at least a gRPC prefix of five bytes and one more.
        assert!((6_000..200_000).contains(&carried.bytes), "{carried:?}");
    }
}

#[tokio::test]
async fn a_frame_over_a_limit_is_not_sent_and_the_link_goes_on() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (node, mut gateway) = joined(&mut server, &ticket, 2).await;
    let big = Payload::Text { prompt: "x".repeat(ol_net::limits::FRAME_BYTES_MAX), generate: generate() };
    let refused = gateway.sender.try_send(assign(big)).unwrap_err();
    assert!(matches!(refused, SendError::Invalid { cause: FrameError::TooLarge { .. } }), "{refused:?}");
    let field = "batch.bytes";
    let Err(SendError::Invalid { cause }) =
        node.sender.try_send(Up::Batch { bytes: vec![0; 1 << 20], orders: Vec::new(), outputs: Vec::new() })
    else {
        panic!("a batch of a megabyte")
    };
    assert!(matches!(cause, FrameError::TooLong { field: f, length: 1_048_576, .. } if f == field), "{cause:?}");
    node.sender.try_send(Up::Pong { nonce: 1 }).unwrap();
    assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), Up::Pong { nonce: 1 });
}

#[tokio::test]
async fn the_largest_frame_arrives() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (mut node, gateway) = joined(&mut server, &ticket, 2).await;
    let prompt = "x".repeat(ol_net::limits::FRAME_BYTES_MAX - 512);
    let frame = assign(Payload::Text { prompt, generate: generate() });
    gateway.sender.try_send(frame.clone()).unwrap();
    assert_eq!(node.receiver.recv().await.unwrap().unwrap(), frame);
}

#[tokio::test]
async fn a_refused_node_gets_a_frame_and_a_status_that_say_why() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (mut node, mut gateway) = pair(&mut server, &ticket, 2).await;
    node.sender.try_send(hello()).unwrap();
    gateway.receiver.recv().await.unwrap().unwrap();
    gateway.sender.refuse(RefuseCode::Network, "this is network 03");
    let refused = Down::Refused { code: RefuseCode::Network, message: "this is network 03".into() };
    assert_eq!(node.receiver.recv().await.unwrap().unwrap(), refused);
    let error = node.receiver.recv().await.unwrap().unwrap_err();
    let Error::Closed { reason } = error else { panic!("{error:?}") };
    assert_eq!(reason, Reason::new(CloseCode::Refused, "this is network 03"));
    assert!(node.receiver.recv().await.is_none());
    assert_eq!(node.sender.try_send(Up::Leaving), Err(SendError::Closed));
}

#[tokio::test]
async fn a_link_that_does_not_begin_with_hello_is_closed_with_the_reason() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (mut node, mut gateway) = pair(&mut server, &ticket, 2).await;
    node.sender.try_send(Up::Leaving).unwrap();
    let error = gateway.receiver.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Malformed { cause: FrameError::Order { opening: "hello" } }), "{error:?}");
    let error = node.receiver.recv().await.unwrap().unwrap_err();
    let Error::Closed { reason } = error else { panic!("{error:?}") };
    assert_eq!(reason, Reason::new(CloseCode::Malformed, "a link begins with one hello, and only there"));
}

#[tokio::test]
async fn a_second_hello_ends_its_link_and_no_other() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (honest, mut honest_gateway) = joined(&mut server, &ticket, 2).await;
    let (hostile, mut hostile_gateway) = joined(&mut server, &ticket, 3).await;
    hostile.sender.try_send(hello()).unwrap();
    assert!(hostile_gateway.receiver.recv().await.unwrap().is_err());
    assert!(hostile_gateway.receiver.recv().await.is_none());
    honest.sender.try_send(tokens(5)).unwrap();
    assert_eq!(honest_gateway.receiver.recv().await.unwrap().unwrap(), tokens(5));
}

#[tokio::test]
async fn a_node_that_says_nothing_is_closed_with_the_reason() {
    let (mut server, ticket) = server(Limits { opening: Duration::from_millis(500), ..Limits::default() }).await;
    let (mut node, mut gateway) = pair(&mut server, &ticket, 2).await;
    let reason = Reason::new(CloseCode::TimedOut, "no hello in time");
    let at_gateway = gateway.receiver.recv().await.unwrap().unwrap_err();
    let at_node = node.receiver.recv().await.unwrap().unwrap_err();
    for error in [at_gateway, at_node] {
        let Error::Closed { reason: got } = error else { panic!("{error:?}") };
        assert_eq!(got, reason);
    }
}

#[tokio::test]
async fn a_node_that_reads_nothing_is_cut_when_the_queue_is_full() {
    let (mut server, ticket) = server(Limits { queue_bytes: 1 << 16, ..Limits::default() }).await;
    let (_node, mut gateway) = joined(&mut server, &ticket, 2).await;
    let frame = Down::Drain { message: "x".repeat(1000) };
    let mut sent = 0_u32;
    let error = loop {
        match gateway.sender.try_send(frame.clone()) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
        assert!(sent < 1_000_000, "the queue never fills");
    };
    assert_eq!(error, SendError::Stalled);
    let error = gateway.receiver.recv().await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Closed { reason } if reason.code == CloseCode::Stalled), "{error:?}");
}

#[tokio::test]
async fn a_node_that_reads_nothing_is_cut_after_the_stall_limit() {
    let limits = Limits { queue_bytes: 1 << 16, stall: Duration::from_millis(100), ..Limits::default() };
    let (mut server, ticket) = server(limits).await;
    let (_node, gateway) = joined(&mut server, &ticket, 2).await;
    let frame = Down::Drain { message: "x".repeat(1000) };
    let error = loop {
        if let Err(error) = gateway.sender.send(frame.clone()).await {
            break error;
        }
    };
    assert_eq!(error, SendError::Stalled);
}

#[tokio::test]
async fn when_one_end_goes_the_other_notices() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (node, mut gateway) = joined(&mut server, &ticket, 2).await;
    drop(node);
    assert!(!matches!(gateway.receiver.recv().await, Some(Ok(_))));
    assert_eq!(gateway.sender.try_send(Down::Ping { nonce: 0 }), Err(SendError::Closed));
    let (mut node, gateway) = joined(&mut server, &ticket, 2).await;
    drop(gateway);
    assert!(node.receiver.recv().await.is_none());
}

#[tokio::test]
async fn a_frame_queued_before_the_end_still_arrives() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (node, mut gateway) = joined(&mut server, &ticket, 2).await;
    node.sender.try_send(Up::Leaving).unwrap();
    let closed = node.close(Reason::new(CloseCode::Ended, "done"));
    let read = async { (gateway.receiver.recv().await, gateway.receiver.recv().await) };
    let ((), (first, second)) = tokio::join!(closed, read);
    assert_eq!(first.unwrap().unwrap(), Up::Leaving);
    assert!(second.is_none());
}

#[tokio::test]
async fn a_gateway_that_stops_tells_its_nodes() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (mut node, gateway) = joined(&mut server, &ticket, 2).await;
    gateway.sender.try_send(Down::Drain { message: "restart".into() }).unwrap();
    let (drained, ()) = tokio::join!(
        async { (node.receiver.recv().await, node.receiver.recv().await) },
        server.shutdown("back in a minute")
    );
    assert_eq!(drained.0.unwrap().unwrap(), Down::Drain { message: "restart".into() });
    let Some(Err(Error::Closed { reason })) = drained.1 else { panic!("{:?}", drained.1) };
    assert_eq!(reason, Reason::new(CloseCode::Stopping, "back in a minute"));
    assert!(connect(&ticket, &key(2), &Limits::default()).await.is_err());
}

#[tokio::test]
async fn more_links_than_the_limit_are_not_taken() {
    let (mut server, ticket) = server(Limits { links: 1, ..Limits::default() }).await;
    let (node, gateway) = joined(&mut server, &ticket, 2).await;
    assert!(connect(&ticket, &key(3), &Limits::default()).await.is_err());
    drop((node, gateway));
    // The place is free again once the connection is gone.
    while connect(&ticket, &key(3), &Limits::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn frames_that_came_before_the_node_went_are_still_read() {
    let (mut server, ticket) = server(Limits::default()).await;
    let (node, mut gateway) = joined(&mut server, &ticket, 2).await;
    for n in 2..102 {
        node.sender.try_send(tokens(n)).unwrap();
    }
    node.sender.try_send(Up::Leaving).unwrap();
    let end = Reason::new(CloseCode::Ended, "done");
    assert!(tokio::time::timeout(Duration::from_millis(300), node.close(end)).await.is_err());
    for n in 2..102 {
        assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), tokens(n));
    }
    assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), Up::Leaving);
    assert!(!matches!(gateway.receiver.recv().await, Some(Ok(_))));
}

#[tokio::test]
async fn a_path_that_goes_dead_is_noticed_at_both_ends() {
    let quick = Duration::from_millis(400);
    let limits = Limits { keep_alive: quick, keep_alive_answer: quick, ..Limits::default() };
    let (mut server, mut ticket) = server(limits.clone()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    ticket.address = listener.local_addr().unwrap().to_string();
    let upstream = server.address();
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    let mut path = tokio::task::JoinSet::new();
    path.spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(upstream).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = is_cut.changed() => {}
        }
        // Both connections stay open, and nothing passes.
        std::future::pending::<()>().await;
    });
    let mut node = connect(&ticket, &key(2), &limits).await.unwrap();
    let mut gateway = server.accept().await.unwrap();
    node.sender.try_send(hello()).unwrap();
    gateway.sender.try_send(welcome()).unwrap();
    assert_eq!(gateway.receiver.recv().await.unwrap().unwrap(), hello());
    assert_eq!(node.receiver.recv().await.unwrap().unwrap(), welcome());
    cut.send(true).unwrap();
    assert!(!matches!(gateway.receiver.recv().await, Some(Ok(_))));
    let error = node.receiver.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    assert!(gateway.sender.is_over() && node.sender.is_over());
}
