//! A node of another making that lies at every step, beside one that is honest.

use crate::http::chat;
use crate::process::{Gateway, LIMIT, Node, eventually};
use ol_net::frame::{Assign, Done, FailCode, Hello, Made, RefuseCode, Role, Scored, Tokens};
use ol_net::{Down, Limits, NodeLink, PROTOCOL, Up, connect};
use ol_protocol::batch::{BatchHeader, SignedBatch};
use ol_protocol::certificate::Certificate;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::digest::output_root;
use ol_protocol::id::unhex_all;
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use ol_protocol::variant::Variant;
use ol_protocol::verdict::Verdict;
use ol_protocol::{AuditId, Digest, Epoch, Micros, NetworkId, NodeId, OperatorId, TaskId, Timestamp, TokenCount};
use std::path::Path;

struct World {
    gateway: Gateway,
    honest: Node,
    ticket: Ticket,
    variant: Variant,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new(folder: &Path) -> Self {
        let gateway = Gateway::start(&folder.join("gateway"), &[]);
        let honest = Node::join(&gateway.ticket, &folder.join("honest"));
        gateway.wait_for_nodes(1);
        // After three tasks its speed is known, and a newcomer's turn comes first.
        let answers = [1, 2, 3].map(|seed| gateway.api().chat(&chat("hello", 8, seed)).good());
        let answer = answers.last().unwrap();
        let receipt = gateway.api().receipt(answer["openledger"]["receipt"].as_str().unwrap());
        let variant =
            Variant::from_bytes(&unhex_all(receipt["receipt"]["variant"].as_str().unwrap()).unwrap()).unwrap();
        let ticket = gateway.ticket.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { gateway, honest, ticket, variant, runtime }
    }

    fn hello(&self, key: &SecretKey) -> Hello {
        let owner = SecretKey::from_bytes(&[200; 32]);
        let certificate = Certificate::issue(&owner, self.ticket.network, NodeId(key.public()), Timestamp(1));
        Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            network: self.ticket.network,
            certificate: certificate.to_bytes().to_vec(),
            join_token: None,
            software: "not openledger".into(),
            role: Role::Worker,
            region: "nowhere".into(),
            variants: vec![self.variant.clone()],
            next_batch: 0,
        }
    }

    // Says hello and reads what comes back.
    fn greet(&self, key: &SecretKey, hello: Hello) -> (NodeLink, Option<Down>) {
        self.runtime.block_on(async {
            let mut link = connect(&self.ticket, key, &Limits::default()).await.unwrap();
            link.sender.try_send(Up::Hello(hello)).unwrap();
            let first = link.receiver.recv().await.unwrap().ok();
            (link, first)
        })
    }

    // Joins with one slot, so that a newcomer's first task is this node's.
    fn join(&self, key: &SecretKey) -> NodeLink {
        self.gateway.wait_for_nodes(1);
        let (link, first) = self.greet(key, self.hello(key));
        assert!(matches!(first, Some(Down::Welcome(_))), "{first:?}");
        link.sender.try_send(Up::Grant { variant: self.variant.id(), total: 1 }).unwrap();
        self.gateway.wait_for_nodes(2);
        link
    }

    // The request that a client makes, and the task that the node gets of it.
    fn assigned(&self, link: &mut NodeLink, seed: u64) -> (std::thread::JoinHandle<serde_json::Value>, Box<Assign>) {
        let api = self.gateway.api();
        let client = std::thread::spawn(move || api.chat(&chat("are you honest?", 24, seed)).good());
        let assign = self.until("its task", link, |got| match got {
            Some(Ok(Down::Assign(assign))) => Some(assign),
            Some(Ok(_)) => None,
            ended => panic!("no task: {ended:?}"),
        });
        (client, assign)
    }

    // Why the gateway closed the link.
    fn closed(&self, mut link: NodeLink) -> String {
        self.until("the end of its link", &mut link, |got| match got {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some("without a reason".into()),
        })
    }

    // Reads frames until one is what is looked for.
    fn until<T>(
        &self,
        what: &str,
        link: &mut NodeLink,
        find: impl Fn(Option<Result<Down, ol_net::Error>>) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                if let Some(found) = find(link.receiver.recv().await) {
                    return found;
                }
            }
        };
        let found = self.runtime.block_on(async { tokio::time::timeout(LIMIT, found).await });
        found.unwrap_or_else(|_| panic!("in vain: {what}"))
    }
}

fn tokens(assign: &Assign, count: u32, ids: usize) -> Up {
    Up::Tokens(Tokens {
        task: assign.task,
        attempt: assign.attempt,
        count,
        ids: vec![1; ids],
        text: "no".into(),
        log_probs: vec![0; ids],
        top: Vec::new(),
    })
}

// Of one token that nobody relayed.
fn commitment(world: &World, key: &SecretKey, assign: &Assign) -> Commitment {
    Commitment {
        network: world.ticket.network,
        gateway: world.ticket.gateway,
        node: NodeId(key.public()),
        operator: Certificate::from_bytes(&world.hello(key).certificate).unwrap().operator,
        task: assign.task,
        attempt: assign.attempt,
        epoch: assign.epoch,
        variant: assign.variant,
        sampler_version: 1,
        prompt: Digest([1; 32]),
        seed: Digest([2; 32]),
        output: Digest([3; 32]),
        log_probs: Digest([4; 32]),
        finish: Finish::Length,
        prompt_tokens: TokenCount(9),
        output_tokens: TokenCount(1),
        resumed_from: TokenCount(0),
        first_token: Micros(1),
        total: Micros(2),
    }
}

fn batch(world: &World, key: &SecretKey, sequence: u64, commitments: Vec<Commitment>) -> SignedBatch {
    let header = BatchHeader {
        network: world.ticket.network,
        gateway: world.ticket.gateway,
        node: NodeId(key.public()),
        operator: Certificate::from_bytes(&world.hello(key).certificate).unwrap().operator,
        sequence,
        epoch: Epoch(0),
        count: 0,
        root: Digest([0; 32]),
    };
    SignedBatch::sign(key, header, commitments)
}

fn done(assign: &Assign, commitment: Vec<u8>) -> Up {
    Up::Done(Done {
        task: assign.task,
        attempt: assign.attempt,
        text: String::new(),
        commitment,
        grant_total: 2,
        vectors: Vec::new(),
    })
}

// A lie about a task. The task moves to another node; if the lie breaks the protocol, the link ends with this word.
type Lie = (&'static str, fn(&World, &SecretKey, &Assign) -> Vec<Up>, Option<&'static str>);

const LIES: [Lie; 12] = [
    ("a count that leaves tokens out", |_, _, assign| vec![tokens(assign, 9, 2)], None),
    ("more tokens than were asked for", |_, _, assign| vec![tokens(assign, 200, 200)], None),
    (
        "a prompt of more tokens than the request can have",
        |_, _, assign| {
            let (task, attempt) = (assign.task, assign.attempt);
            vec![Up::Started { task, attempt, prompt_tokens: 100_000, prompt: Digest([1; 32]), resident_tokens: 0 }]
        },
        None,
    ),
    ("text without tokens", |_, _, assign| vec![tokens(assign, 0, 0)], Some("without tokens")),
    (
        "a batch in another operator's name",
        |world, key, assign| {
            let mut batch = batch(world, key, 0, vec![commitment(world, key, assign)]);
            batch.header.operator = OperatorId([8; 32]);
            let batch = SignedBatch::sign(key, batch.header, batch.commitments);
            vec![Up::Batch { bytes: batch.to_bytes(), orders: vec![assign.order.clone()], outputs: Vec::new() }]
        },
        Some("operator"),
    ),
    ("a commitment that is garbage", |_, _, assign| vec![done(assign, vec![7; Commitment::BYTES])], Some("commitment")),
    (
        "a commitment for another task",
        |world, key, assign| {
            let other = Commitment { task: TaskId([9; 16]), ..commitment(world, key, assign) };
            vec![done(assign, other.to_bytes().to_vec())]
        },
        Some("commitment"),
    ),
    (
        "a commitment to an answer that was not given",
        |world, key, assign| vec![done(assign, commitment(world, key, assign).to_bytes().to_vec())],
        None,
    ),
    (
        "a batch signed with another key",
        |world, key, assign| {
            let mut batch = batch(world, key, 0, vec![commitment(world, key, assign)]);
            batch.signature = batch_of_another(world, assign).signature;
            vec![Up::Batch { bytes: batch.to_bytes(), orders: vec![assign.order.clone()], outputs: Vec::new() }]
        },
        Some("signature"),
    ),
    (
        "a batch of another node",
        |world, _, assign| {
            let bytes = batch_of_another(world, assign).to_bytes();
            vec![Up::Batch { bytes, orders: vec![assign.order.clone()], outputs: Vec::new() }]
        },
        Some("another node"),
    ),
    (
        "a batch of work that nobody ordered",
        |world, key, assign| {
            let invented = Commitment { task: TaskId([9; 16]), ..commitment(world, key, assign) };
            let bytes = batch(world, key, 0, vec![invented]).to_bytes();
            vec![Up::Batch { bytes, orders: vec![vec![0; 64]], outputs: Vec::new() }]
        },
        Some("order"),
    ),
    (
        "a verdict in another's name",
        |_, _, _| vec![Up::Verdict { audit: AuditId([1; 16]), outcome: Ok(garbage()), grant_total: 1 }],
        Some("verdict"),
    ),
];

fn batch_of_another(world: &World, assign: &Assign) -> SignedBatch {
    let other = SecretKey::from_bytes(&[99; 32]);
    batch(world, &other, 0, vec![commitment(world, &other, assign)])
}

fn garbage() -> Scored {
    Scored { verdict: vec![1; Verdict::BYTES], log_probs: Vec::new(), prompt_ids: Vec::new() }
}

#[test]
fn a_node_that_lies_loses_its_link_and_nobody_else_notices() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path());
    for (seed, (what, lie, word)) in LIES.iter().enumerate() {
        let key = SecretKey::from_bytes(&[100 + seed as u8; 32]);
        let mut link = world.join(&key);
        let (client, assign) = world.assigned(&mut link, seed as u64);
        for frame in lie(&world, &key, &assign) {
            // The gateway may have hung up already.
            drop(link.sender.try_send(frame));
        }
        let answer = client.join().unwrap();
        match word {
            Some(word) => {
                let reason = world.closed(link);
                assert!(reason.contains(word), "{what}: {reason}");
            }
            None => drop(link),
        }
        assert_eq!(answer["openledger"]["attempts"], 2, "{what}");
        assert_eq!(answer["openledger"]["node"], world.honest.id.as_str(), "{what}");
        assert_eq!(answer["choices"][0]["message"]["content"], undisturbed(&world, seed as u64), "{what}");
    }
    // The honest node's answers are scored as soon as there is somebody to do it.
    assert!(world.gateway.metric("audits_open") > 0);
    let _referee = Node::referee(&world.gateway);
    eventually("the audits", || (world.gateway.metric("audits_open") == 0).then_some(()));
    assert!(world.gateway.metric("audits_passed_total") >= 3);
    assert_eq!(world.gateway.metric("audits_failed_total"), 0);
    world.gateway.fsck();
}

// Breaks an answer off after a token, and signs for it with these tokens as its output; says what it is charged.
fn broken_off(world: &World, key: &SecretKey, output: &[u32]) -> (u64, u64) {
    let mut link = world.join(key);
    let wrong = world.gateway.metric("frames_wrong_total");
    let (client, assign) = world.assigned(&mut link, 50);
    let (task, attempt) = (assign.task, assign.attempt);
    let made = Commitment {
        output: output_root(&assign.salt, output),
        finish: Finish::Cancelled,
        ..commitment(world, key, &assign)
    };
    let (code, message) = (FailCode::Internal, String::new());
    let own = Made { place: 0, ids: output.to_vec(), log_probs: vec![0; output.len()] };
    let (bytes, orders) = (batch(world, key, 0, vec![made]).to_bytes(), vec![assign.order.clone()]);
    for frame in [
        tokens(&assign, 1, 1),
        Up::Failed { task, attempt, code, message, grant_total: 1 },
        Up::Batch { bytes, orders, outputs: vec![own] },
    ] {
        link.sender.try_send(frame).unwrap();
    }
    client.join().unwrap();
    let both = |receipt: &serde_json::Value| receipt["attempts"].as_array().unwrap().len() == 2;
    let document = world.gateway.api().receipt_when(&task.to_string(), both);
    let charged = document["receipt"]["attempts"].as_array().unwrap().iter().find_map(|attempt| {
        let is_own = attempt["commitment"]["node"] == NodeId(key.public()).to_string();
        is_own.then(|| attempt["charge"]["output_tokens"].as_u64().unwrap())
    });
    (charged.unwrap(), world.gateway.metric("frames_wrong_total") - wrong)
}

#[test]
fn who_signs_for_other_tokens_than_it_sent_before_it_broke_off_is_not_paid() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path());
    assert_eq!(broken_off(&world, &SecretKey::from_bytes(&[150; 32]), &[1]), (1, 0), "what it sent");
    assert_eq!(broken_off(&world, &SecretKey::from_bytes(&[151; 32]), &[2]), (0, 1), "what it did not send");
    world.gateway.fsck();
}

fn undisturbed(world: &World, seed: u64) -> serde_json::Value {
    world.gateway.api().chat(&chat("are you honest?", 24, seed)).good()["choices"][0]["message"]["content"].clone()
}

#[test]
fn who_may_not_join_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path());
    let key = SecretKey::from_bytes(&[50; 32]);
    let hello = || world.hello(&key);
    let stolen = world.hello(&SecretKey::from_bytes(&[51; 32])).certificate;
    for (hello, code) in [
        (Hello { protocol_min: PROTOCOL + 1, protocol_max: PROTOCOL + 2, ..hello() }, RefuseCode::Protocol),
        (Hello { network: NetworkId([7; 32]), ..hello() }, RefuseCode::Network),
        (Hello { role: Role::Referee, ..hello() }, RefuseCode::Role),
        (Hello { certificate: vec![0; Certificate::BYTES], ..hello() }, RefuseCode::Certificate),
        (Hello { certificate: stolen, ..hello() }, RefuseCode::Certificate),
    ] {
        let (_, said) = world.greet(&key, hello);
        let Some(Down::Refused { code: got, message }) = said else { panic!("{code:?}: {said:?}") };
        assert_eq!(got, code, "{message}");
        assert!(!message.is_empty());
    }
    assert_eq!(world.gateway.api().get("/health").json()["nodes"], 1);
}
