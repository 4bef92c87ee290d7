//! Starting a node: opens its outbox, keeps a link to its gateway up, and runs the loop.

use crate::hands::{Identity, Message, NodeHands};
use crate::outbox::Handle;
use crate::{Config, Error, content};
use ol_net::frame::{Down, Hello, PROTOCOL, RefuseCode, Role, Up, Welcome};
use ol_protocol::calibration::Calibration;
use ol_protocol::verdict::Level;
use ol_protocol::{NodeId, VariantId};
use ol_roles::Node;
use ol_roles::node::Setup;
use ol_store::{Outbox, Peer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long a draining node waits for what runs and for the acknowledgement of its batches.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Wait for the first frame of the gateway.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// A running node.
pub struct Running {
    /// True while the link is up.
    pub connected: watch::Receiver<bool>,
    tasks: JoinSet<Result<(), Error>>,
    inbox: mpsc::Sender<Message>,
    drained: watch::Receiver<bool>,
}

/// Tells a running referee what was measured.
#[derive(Clone)]
pub struct Teller(mpsc::Sender<Message>);

impl Teller {
    /// The referee signs it and says it to its gateway, now and on each later link. From a thread that may wait. False if the referee has ended.
    pub fn calibrated(&self, calibration: Calibration) -> bool {
        self.0.blocking_send(Message::Calibrated(Box::new(calibration))).is_ok()
    }
}

impl Running {
    /// For what a referee measures while it runs.
    pub fn teller(&self) -> Teller {
        Teller(self.inbox.clone())
    }

    /// Waits until the node ends by itself: because its gateway refuses it for good.
    pub async fn ended(&mut self) -> Result<(), Error> {
        match self.tasks.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Panicked),
            None => Ok(()),
        }
    }

    /// Finishes what runs, has its last batch acknowledged, and ends; at most 30 s.
    pub async fn drain(mut self) {
        if self.inbox.send(Message::Drain).await.is_ok() {
            let done = tokio::time::timeout(DRAIN_LIMIT, self.drained.wait_for(|done| *done)).await;
            if done.is_err() {
                tracing::warn!("not everything was acknowledged: it is kept on disk and sent at the next start");
            }
        }
        self.tasks.shutdown().await;
    }
}

/// Starts a node on the current runtime.
pub fn start(config: Config) -> Result<Running, Error> {
    let node = NodeId(config.key.public());
    let peer = Peer { network: config.ticket.network, gateway: config.ticket.gateway };
    let outbox = Outbox::open(&config.data_dir.join("outbox.db"), node, None)?;
    let next_batch = outbox.next_sequence(peer)?;
    let stored: BTreeMap<u64, Vec<u8>> = outbox.unacked(peer)?.into_iter().collect();
    let engines: BTreeMap<VariantId, _> =
        config.engines.iter().map(|engine| (content::variant(engine.variant()).id(), engine.clone())).collect();
    let setup = Setup {
        network: peer.network,
        gateway: peer.gateway,
        node,
        operator: config.certificate.operator,
        slots: engines.iter().map(|(id, engine)| (*id, engine.slots())).collect(),
        next_batch,
        unacked: stored.keys().copied().collect(),
    };
    let (inbox, messages) = mpsc::channel(ol_drive::INBOX_MAX);
    let (drained_sender, drained) = watch::channel(false);
    let handle = Handle::start(outbox, peer, node, inbox.clone()).map_err(Error::Thread)?;
    let level = match config.role {
        Role::Worker => Level::CrossAudit,
        Role::Referee => Level::Referee,
    };
    let identity = Identity {
        key: config.key.clone(),
        network: peer.network,
        gateway: peer.gateway,
        operator: config.certificate.operator,
        level,
    };
    let mut hands = NodeHands::new(identity, engines, inbox.clone(), handle, stored, drained_sender);
    config.calibrations.iter().for_each(|calibration| hands.calibrated(calibration.clone()));
    let (connected_sender, connected) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_link(Arc::new(config), next_batch, inbox.clone(), connected_sender));
    tasks.spawn(async move {
        ol_drive::run(Node::new(setup), hands, messages).await;
        Ok(())
    });
    Ok(Running { connected, tasks, inbox, drained })
}

async fn keep_link(
    config: Arc<Config>,
    next_batch: u64,
    inbox: mpsc::Sender<Message>,
    connected: watch::Sender<bool>,
) -> Result<(), Error> {
    let mut backoff = ol_net::Backoff::default();
    // Nodes of one gateway that lose it together come back at different moments.
    let mut random = u64::from_le_bytes(first_eight(&config.key.public()));
    loop {
        match open(&config, next_batch).await {
            Ok((mut link, welcome)) => {
                backoff.reset();
                connected.send_replace(true);
                let (held_tasks, hold_seconds) = (welcome.held_tasks, welcome.hold_seconds);
                tracing::info!(gateway = %config.ticket.gateway.short(), epoch = %welcome.epoch, hold_seconds, held_tasks, "connected; pay stays in escrow for hold_seconds, and until held_tasks later tasks are settled");
                if inbox.send(Message::Up { down: link.sender.clone(), welcome: Box::new(welcome) }).await.is_err() {
                    return Ok(());
                }
                let why = relay(&mut link, &inbox).await;
                connected.send_replace(false);
                tracing::warn!(%why, "the link to the gateway is lost");
                if inbox.send(Message::Lost).await.is_err() {
                    return Ok(());
                }
            }
            Err(refused @ Error::Refused { .. }) => return Err(refused),
            Err(Error::Link(error)) => {
                tracing::warn!(error = %describe(&error), "cannot reach the gateway; trying again");
            }
            Err(other) => return Err(other),
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(backoff.next(random >> 1)).await;
    }
}

async fn relay(link: &mut ol_net::NodeLink, inbox: &mpsc::Sender<Message>) -> String {
    loop {
        match link.receiver.recv().await {
            Some(Ok(frame)) => {
                if inbox.send(Message::Frame(frame)).await.is_err() {
                    return "the node ends".into();
                }
            }
            Some(Err(error)) => return describe(&error),
            None => return "the gateway closed it".into(),
        }
    }
}

async fn open(config: &Config, next_batch: u64) -> Result<(ol_net::NodeLink, Welcome), Error> {
    let mut link = ol_net::connect(&config.ticket, &config.key, &ol_net::Limits::default()).await?;
    let hello = Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        network: config.ticket.network,
        certificate: config.certificate.to_bytes(),
        join_token: config.join_token.clone(),
        software: concat!("openledger/", env!("CARGO_PKG_VERSION")).into(),
        role: config.role,
        region: config.region.clone(),
        variants: config.engines.iter().map(|engine| content::variant(engine.variant())).collect(),
        next_batch,
    };
    link.sender.try_send(Up::Hello(hello)).map_err(|_| closed())?;
    let first = tokio::time::timeout(WELCOME_LIMIT, link.receiver.recv()).await;
    match first {
        Ok(Some(Ok(Down::Welcome(welcome)))) => Ok((link, welcome)),
        Ok(Some(Ok(Down::Refused { code, message }))) => match code {
            RefuseCode::Draining | RefuseCode::Full | RefuseCode::Duplicate => {
                tracing::warn!(message, "the gateway takes no nodes now");
                Err(closed())
            }
            _ => Err(Error::Refused { message }),
        },
        Ok(Some(Err(error))) => Err(Error::Link(error)),
        Ok(Some(Ok(_)) | None) | Err(_) => Err(closed()),
    }
}

fn closed() -> Error {
    let reason = ol_net::Reason::new(ol_net::CloseCode::Ended, "the gateway closed the link before its welcome");
    Error::Link(ol_net::Error::Closed { reason })
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn first_eight(key: &[u8; 32]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[..8]);
    bytes
}
