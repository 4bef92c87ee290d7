//! A node of another making that works for its money, and hands its batches in again, in any order and under each other's
//! numbers.

use super::random::Random;
use crate::http::Api;
use crate::process::LIMIT;
use ol_net::frame::{Assign, Hello, Role, Tokens};
use ol_net::{Down, Limits, NodeLink, PROTOCOL, Up, connect};
use ol_protocol::batch::{BatchHeader, SignedBatch};
use ol_protocol::certificate::Certificate;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::id::unhex_all;
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use ol_protocol::variant::Variant;
use ol_protocol::{Digest, Epoch, Micros, NodeId, Timestamp, TokenCount};
use std::collections::BTreeSet;
use std::time::Duration;

/// Tokens that it hands over of each task before it gives the task up.
const TOKENS: u32 = 3;

/// What it signs and sends: the attempts of a batch, and the batch's number.
type Batch = (u64, Vec<usize>);

pub(super) struct Stranger {
    ticket: Ticket,
    key: SecretKey,
    variant: Variant,
    certificate: Certificate,
}

impl Stranger {
    /// Knows what is served from a task's receipt.
    pub(super) fn new(ticket: &str, api: &Api, task: &str, random: &mut Random) -> Self {
        let ticket: Ticket = ticket.parse().unwrap();
        let mut secret = [0; 32];
        secret.chunks_mut(8).for_each(|part| part.copy_from_slice(&random.next().to_le_bytes()));
        let (key, owner) = (SecretKey::from_bytes(&secret), SecretKey::from_bytes(&[200; 32]));
        let variant = api.receipt(task)["receipt"]["variant"].as_str().unwrap().to_owned();
        let variant = unhex_all(&variant).unwrap();
        let certificate = Certificate::issue(&owner, ticket.network, NodeId(key.public()), Timestamp(1));
        Self { ticket, key, variant: Variant::from_bytes(&variant).unwrap(), certificate }
    }

    /// Works on two tasks, sends its batches in any order and again, and at last in order until each is acknowledged.
    /// Returns how often the gateway closed its link.
    pub(super) fn work(&self, random: &mut Random) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut link = self.join().await;
            let work = self.take_tasks(&mut link).await;
            let all: [Batch; 7] =
                [(0, vec![0]), (0, vec![0]), (0, vec![1]), (1, vec![1]), (1, vec![1]), (2, vec![0, 1]), (3, vec![0])];
            let mut closed = 0;
            for batch in &random.shuffled(&all) {
                closed += u64::from(!self.hand_in(&mut link, self.signed(&work, batch)).await);
            }
            // The gateway may be about to close the link over the last of them.
            link = self.join().await;
            self.until_acknowledged(&mut link, &work).await;
            closed
        })
    }

    async fn join(&self) -> NodeLink {
        let mut link = connect(&self.ticket, &self.key, &Limits::default()).await.unwrap();
        let hello = Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            network: self.ticket.network,
            certificate: self.certificate.to_bytes().to_vec(),
            join_token: None,
            software: "not openledger".into(),
            role: Role::Worker,
            region: "nowhere".into(),
            variants: vec![self.variant.clone()],
            next_batch: 0,
        };
        link.sender.try_send(Up::Hello(hello)).unwrap();
        let first = next(&mut link).await;
        assert!(matches!(first, Some(Down::Welcome(_))), "{first:?}");
        link
    }

    async fn take_tasks(&self, link: &mut NodeLink) -> Vec<Box<Assign>> {
        link.sender.try_send(Up::Grant { variant: self.variant.id(), total: 2 }).unwrap();
        let mut work: Vec<Box<Assign>> = Vec::new();
        while work.len() < 2 {
            match next(link).await {
                Some(Down::Assign(assign)) => work.push(assign),
                Some(_) => {}
                None => panic!("the gateway closed the link of a node that did nothing wrong"),
            }
        }
        // Only now: who fails at one gets no other for a while.
        work.iter().for_each(|assign| self.begin(link, assign));
        work
    }

    // A little, and then no more: another node goes on from there.
    fn begin(&self, link: &NodeLink, assign: &Assign) {
        let (task, attempt) = (assign.task, assign.attempt);
        let tokens = Tokens {
            task,
            attempt,
            count: u32::try_from(assign.resume.len()).unwrap() + TOKENS,
            ids: vec![1; TOKENS as usize],
            text: "no".into(),
            log_probs: vec![0; TOKENS as usize],
            top: Vec::new(),
        };
        let (code, message) = (ol_net::frame::FailCode::Internal, "enough".into());
        for frame in [Up::Tokens(tokens), Up::Failed { task, attempt, code, message, grant_total: 2 }] {
            link.sender.try_send(frame).unwrap();
        }
    }

    fn commitment(&self, assign: &Assign) -> Commitment {
        let before = u32::try_from(assign.resume.len()).unwrap();
        Commitment {
            network: self.ticket.network,
            gateway: self.ticket.gateway,
            node: NodeId(self.key.public()),
            operator: self.certificate.operator,
            task: assign.task,
            attempt: assign.attempt,
            epoch: assign.epoch,
            variant: assign.variant,
            sampler_version: 1,
            prompt: Digest([1; 32]),
            seed: Digest([2; 32]),
            output: Digest([3; 32]),
            log_probs: Digest([4; 32]),
            finish: Finish::Cancelled,
            prompt_tokens: TokenCount(9),
            output_tokens: TokenCount(before + TOKENS),
            resumed_from: TokenCount(before),
            first_token: Micros(1),
            total: Micros(2),
        }
    }

    fn signed(&self, work: &[Box<Assign>], (sequence, of): &Batch) -> Up {
        let header = BatchHeader {
            network: self.ticket.network,
            gateway: self.ticket.gateway,
            node: NodeId(self.key.public()),
            operator: self.certificate.operator,
            sequence: *sequence,
            epoch: Epoch(0),
            count: 0,
            root: Digest([0; 32]),
        };
        let commitments = of.iter().map(|at| self.commitment(&work[*at])).collect();
        let bytes = SignedBatch::sign(&self.key, header, commitments).to_bytes();
        Up::Batch { bytes, orders: of.iter().map(|at| work[*at].order.clone()).collect(), outputs: Vec::new() }
    }

    // False if the gateway closed the link over it; then there is a new one.
    async fn hand_in(&self, link: &mut NodeLink, frame: Up) -> bool {
        let is_open = link.sender.try_send(frame).is_ok() && self.is_open(link).await;
        if !is_open {
            *link = self.join().await;
        }
        is_open
    }

    // A moment in which the gateway may close it.
    async fn is_open(&self, link: &mut NodeLink) -> bool {
        let pause = tokio::time::sleep(Duration::from_millis(60));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                frame = link.receiver.recv() => match frame {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return false,
                },
            }
        }
    }

    // In order, so that none is left out. Whatever it holds, a number that the gateway has is acknowledged.
    async fn until_acknowledged(&self, link: &mut NodeLink, work: &[Box<Assign>]) {
        let mut waiting: BTreeSet<u64> = (0..3).collect();
        while !waiting.is_empty() {
            for sequence in &waiting {
                link.sender.try_send(self.signed(work, &(*sequence, vec![*sequence as usize % 2]))).unwrap();
            }
            while let Ok(frame) = tokio::time::timeout(Duration::from_secs(1), link.receiver.recv()).await {
                match frame {
                    Some(Ok(Down::BatchAck { sequence, .. })) => drop(waiting.remove(&sequence)),
                    Some(Ok(_)) => {}
                    ended => panic!("the gateway closed the link over a repetition: {ended:?}"),
                }
            }
        }
    }
}

async fn next(link: &mut NodeLink) -> Option<Down> {
    tokio::time::timeout(LIMIT, link.receiver.recv()).await.expect("a frame of the gateway")?.ok()
}
