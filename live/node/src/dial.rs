//! Starting a node: opens its outbox, keeps a link to each of its gateways up, and runs the loop.

use crate::hands::{Identity, LinkHands, Message};
use crate::outbox::Handle;
use crate::several::{Inbox, Mail, NodeHands};
use crate::{Config, Error, Membership, content};
use ol_net::frame::{Down, Hello, PROTOCOL, RefuseCode, Role, Up, Welcome};
use ol_protocol::calibration::Calibration;
use ol_protocol::verdict::Level;
use ol_protocol::{NodeId, OperatorId, VariantId};
use ol_roles::Node;
use ol_roles::node::{Served, Setup};
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
    tasks: JoinSet<Result<(), Error>>,
    mail: mpsc::Sender<Mail>,
    drained: watch::Receiver<bool>,
}

/// Tells a running referee what was measured.
#[derive(Clone)]
pub struct Teller(mpsc::Sender<Mail>);

impl Teller {
    /// The referee signs it and says it to its gateways, now and on each later link. From a thread that may wait. False if the referee has ended.
    pub fn calibrated(&self, calibration: Calibration) -> bool {
        self.0.blocking_send(Mail::Calibrated(Box::new(calibration))).is_ok()
    }
}

impl Running {
    /// For what a referee measures while it runs.
    pub fn teller(&self) -> Teller {
        Teller(self.mail.clone())
    }

    /// Waits until the node ends by itself: because all its gateways refuse it for good.
    pub async fn ended(&mut self) -> Result<(), Error> {
        match self.tasks.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Panicked),
            None => Ok(()),
        }
    }

    /// Finishes what runs, has its last batch acknowledged, and ends; at most 30 s.
    pub async fn drain(mut self) {
        if self.mail.send(Mail::Drain).await.is_ok() {
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
    let outbox = Outbox::open(&config.data_dir.join("outbox.db"), node, None)?;
    let kept: Vec<Kept> = config.gateways.iter().map(|of| Kept::read(&outbox, of)).collect::<Result<_, _>>()?;
    let engines: BTreeMap<VariantId, _> =
        config.engines.iter().map(|engine| (content::variant(engine.variant()).id(), engine.clone())).collect();
    let setup = Setup {
        node,
        slots: engines.iter().map(|(id, engine)| (*id, engine.slots())).collect(),
        gateways: kept.iter().map(Kept::served).collect(),
    };
    let (mail, messages) = mpsc::channel(ol_drive::INBOX_MAX);
    let (drained_sender, drained) = watch::channel(false);
    let handle = Handle::start(outbox, node, kept.len()).map_err(Error::Thread)?;
    let level = match config.role {
        Role::Worker => Level::CrossAudit,
        Role::Referee => Level::Referee,
    };
    let config = Arc::new(config);
    let (mut hands, mut links) = (NodeHands { links: BTreeMap::new(), drained: drained_sender }, JoinSet::new());
    for (place, Kept { peer, operator, next_batch, stored }) in kept.into_iter().enumerate() {
        let identity = Identity { key: config.key.clone(), peer, operator, level };
        let inbox = Inbox { mail: mail.clone(), gateway: peer.gateway };
        let mut link = LinkHands::new(identity, engines.clone(), inbox.clone(), handle.clone(), stored);
        config.calibrations.iter().for_each(|calibration| link.calibrated(calibration.clone()));
        hands.links.insert(peer.gateway, link);
        links.spawn(keep_link(config.clone(), place, next_batch, inbox));
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_links(links));
    tasks.spawn(async move {
        ol_drive::run(Node::new(setup), hands, messages).await;
        Ok(())
    });
    Ok(Running { tasks, mail, drained })
}

// What the outbox keeps for a gateway.
struct Kept {
    peer: Peer,
    operator: OperatorId,
    next_batch: u64,
    stored: BTreeMap<u64, Vec<u8>>,
}

impl Kept {
    fn read(outbox: &Outbox, of: &Membership) -> Result<Self, Error> {
        let peer = Peer { network: of.ticket.network, gateway: of.ticket.gateway };
        let stored = outbox.unacked(peer)?.into_iter().collect();
        Ok(Self { peer, operator: of.certificate.operator, next_batch: outbox.next_sequence(peer)?, stored })
    }

    fn served(&self) -> Served {
        Served {
            network: self.peer.network,
            gateway: self.peer.gateway,
            operator: self.operator,
            next_batch: self.next_batch,
            unacked: self.stored.keys().copied().collect(),
        }
    }
}

// Until the last gateway refuses the node for good: one that does keeps it from no other.
async fn keep_links(mut links: JoinSet<Result<(), Error>>) -> Result<(), Error> {
    while let Some(ended) = links.join_next().await {
        let result = ended.unwrap_or(Err(Error::Panicked));
        match result {
            Err(error) if !links.is_empty() => {
                tracing::error!(error = %describe(&error), "a link ends for good; the other gateways are served");
            }
            last => return last,
        }
    }
    Ok(())
}

async fn keep_link(config: Arc<Config>, place: usize, next_batch: u64, inbox: Inbox) -> Result<(), Error> {
    let mut backoff = ol_net::Backoff::default();
    let gateway = inbox.gateway.short();
    // Nodes of one gateway that lose it together come back at different moments, and so do the links of a node.
    let mut random = first_eight(&config.key.public()) ^ first_eight(&inbox.gateway.0);
    loop {
        match open(&config, place, next_batch).await {
            Ok((mut link, welcome)) => {
                backoff.reset();
                let (held_tasks, hold_seconds) = (welcome.held_tasks, welcome.hold_seconds);
                tracing::info!(%gateway, epoch = %welcome.epoch, hold_seconds, held_tasks, "connected; pay stays in escrow for hold_seconds, and until held_tasks later tasks are settled");
                let up = Message::Up { down: link.sender.clone(), welcome: Box::new(welcome) };
                if inbox.send(up).await.is_err() {
                    return Ok(());
                }
                let why = relay(&mut link, &inbox).await;
                tracing::warn!(%gateway, %why, "the link to the gateway is lost");
                if inbox.send(Message::Lost).await.is_err() {
                    return Ok(());
                }
            }
            Err(Error::Link(error)) => {
                tracing::warn!(%gateway, error = %describe(&error), "cannot reach the gateway; trying again");
            }
            Err(other) => return Err(other),
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(backoff.next(random >> 1)).await;
    }
}

async fn relay(link: &mut ol_net::NodeLink, inbox: &Inbox) -> String {
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

async fn open(config: &Config, place: usize, next_batch: u64) -> Result<(ol_net::NodeLink, Welcome), Error> {
    let Membership { ticket, certificate, join_token } = &config.gateways[place];
    let mut link = ol_net::connect(ticket, &config.key, &ol_net::Limits::default()).await?;
    let hello = Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        network: ticket.network,
        certificate: certificate.to_bytes(),
        join_token: join_token.clone(),
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
                tracing::warn!(gateway = %ticket.gateway.short(), message, "the gateway takes no nodes now");
                Err(closed())
            }
            _ => Err(Error::Refused { gateway: ticket.gateway, message }),
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

fn first_eight(key: &[u8; 32]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[..8]);
    u64::from_le_bytes(bytes)
}
