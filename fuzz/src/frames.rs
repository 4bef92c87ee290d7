//! Frames of a link, from either end.

use crate::formats::{genesis, vector};
use crate::{Heap, Target};
use ol_net::frame::{
    Assign, Audit, Done, Down, FailCode, Frame, Generate, Hello, Made, Message, Payload, Role, Scored, Tokens,
    TopLogProbs, Up, Welcome,
};
use ol_protocol::variant::Variant;
use ol_protocol::{AuditId, Digest, Epoch, Salt, Scope, TaskId};
use prost::Message as _;

/// The form on the wire has a structure for every two bytes at worst, and it is read twice.
const FRAMES: Heap = Heap { fixed: 256 << 10, per_byte: 512 };

/// The targets.
pub const TARGETS: [Target; 2] = [
    Target { name: "frame-up", seeds: || ups().into_iter().map(bytes).collect(), read: read::<Up>, heap: FRAMES },
    Target { name: "frame-down", seeds: || downs().into_iter().map(bytes).collect(), read: read::<Down>, heap: FRAMES },
];

fn bytes<F: Frame>(frame: F) -> Vec<u8> {
    frame.into_wire().encode_to_vec()
}

// Whatever is taken keeps the limits, and is the same after it was sent on.
fn read<F: Frame + Clone + std::fmt::Debug>(input: &[u8]) {
    let Ok(frame) = F::Wire::decode(input).map_err(drop).and_then(|wire| F::from_wire(wire).map_err(drop)) else {
        return;
    };
    assert_eq!(frame.check(), Ok(()), "a frame beyond the limits");
    let sent = bytes(frame.clone());
    let again = F::from_wire(F::Wire::decode(sent.as_slice()).expect("it was just encoded"));
    assert_eq!(again.map(bytes), Ok(sent), "{frame:?} is another when it was sent on");
}

fn generate() -> Generate {
    Generate {
        temperature: 0.7,
        top_p: 0.9,
        top_k: 40,
        min_p: 0.0,
        max_tokens: 64,
        stop: vec!["\n\n".into()],
        top_logprobs: 2,
    }
}

fn ups() -> Vec<Up> {
    let task = TaskId([1; 16]);
    let variant = Variant::from_bytes(&vector("variant")).expect("it is a vector");
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        network: genesis().network(),
        certificate: vector("certificate"),
        join_token: Some("token".into()),
        software: "node/1".into(),
        role: Role::Worker,
        region: "eu".into(),
        variants: vec![variant.clone()],
        next_batch: 3,
    };
    let top = TopLogProbs { log_prob: -0.5, text: "a".into(), alternatives: vec![(2, "b".into(), -1.5)] };
    let tokens =
        Tokens { task, attempt: 0, count: 1, ids: vec![1], text: "a".into(), log_probs: vec![9], top: vec![top] };
    let done = Done {
        task,
        attempt: 0,
        text: String::new(),
        commitment: vector("commitment"),
        grant_total: 2,
        vectors: vec![vec![0.5, -0.5]],
    };
    let scored = Scored { verdict: vector("verdict"), log_probs: vec![1, 2], prompt_ids: vec![7] };
    let audit = AuditId([2; 16]);
    vec![
        Up::Hello(hello),
        Up::Grant { variant: variant.id(), total: 4 },
        Up::Withdraw { variant: variant.id(), total: 3 },
        Up::Started { task, attempt: 0, prompt_tokens: 5, prompt: Digest([3; 32]), resident_tokens: 4 },
        Up::Tokens(tokens),
        Up::Done(done),
        Up::Failed { task, attempt: 0, code: FailCode::Internal, message: "broke".into(), grant_total: 1 },
        Up::Batch {
            bytes: vector("signed batch"),
            orders: vec![vec![1; 40], vec![2; 40]],
            outputs: vec![Made { place: 1, ids: vec![7, 8], log_probs: vec![9, 10] }],
        },
        Up::Verdict { audit, outcome: Ok(scored), grant_total: 1 },
        Up::Verdict { audit, outcome: Err("no".into()), grant_total: 1 },
        Up::Pong { nonce: 7 },
        Up::Sealed { bytes: vector("seal") },
        Up::Recalled { task, attempt: 0, content: None },
        Up::Leaving,
    ]
}

fn downs() -> Vec<Down> {
    let (task, audit, variant) = (TaskId([1; 16]), AuditId([2; 16]), ol_protocol::VariantId([4; 32]));
    let welcome = Welcome {
        protocol: 1,
        gateway: genesis().gateway,
        network: genesis().network(),
        epoch: Epoch(3),
        acked_batches: 1,
        ping_every_ms: 5_000,
        hold_seconds: 3_600,
        held_tasks: 180,
    };
    let messages = vec![Message { role: "user".into(), content: "hi".into() }];
    let assign = Assign {
        task,
        attempt: 0,
        variant,
        epoch: Epoch(3),
        salt: Salt([5; 32]),
        seed: [6; 32],
        payload: Payload::Chat { messages, generate: generate() },
        resume: vec![1, 2],
        deadline_ms: 1_000,
        order: vec![7; 40],
        scope: Some(Scope([8; 16])),
    };
    let payloads = [
        Payload::Text { prompt: "a".into(), generate: generate() },
        Payload::Tokens { ids: vec![1], generate: generate() },
        Payload::Embed { texts: vec!["a".into()] },
    ];
    let check = |payload| Audit {
        prover_numerics: "embedded-f32/1".into(),
        audit,
        variant,
        salt: Salt([5; 32]),
        seed: [6; 32],
        payload,
        output: vec![1],
        resumed_from: 0,
        until: 1,
        vectors: Vec::new(),
        finish: 0,
        tolerance_micro: 50_000,
        deadline_ms: 1_000,
        sealed: true,
    };
    let mut downs = vec![
        Down::Welcome(welcome),
        Down::Refused { code: ol_net::frame::RefuseCode::Full, message: "full".into() },
        Down::Assign(Box::new(assign)),
        Down::Cancel { task, attempt: 0, is_paid: false },
        Down::Unseal { audit, seals: vec![vector("seal"); 3] },
        Down::Recall { task, attempt: 0, salt: Salt([5; 32]) },
        Down::BatchAck { sequence: 1, countersigned: vector("countersigned batch"), first_record: 2 },
        Down::EpochBegan { epoch: Epoch(4) },
        Down::Ping { nonce: 7 },
        Down::Withdrawn { variant },
        Down::Drain { message: "bye".into() },
    ];
    downs.extend(payloads.map(|payload| Down::Audit(Box::new(check(payload)))));
    downs
}
