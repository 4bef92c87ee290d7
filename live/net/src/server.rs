//! A gateway's end: an accept loop with bounds, TLS, and one stream a connection.

use crate::error::Error;
use crate::fate::{CloseCode, Fate, Reason};
use crate::frame::{Down, Up};
use crate::generated::link as pb;
use crate::generated::link::link_server::LinkServer;
use crate::guard::Guard;
use crate::limits::{FRAME_BYTES_MAX, Limits};
use crate::link::{GatewayLink, Link, Outgoing, Receiver, queue};
use crate::tls;
use crate::traffic::Traffic;
use ol_protocol::NodeId;
use ol_protocol::key::SecretKey;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

// Links that were opened and that the gateway has not taken yet; more are refused.
const UNTAKEN_MAX: usize = 1024;

// Connections between handshake and HTTP/2.
const SHAKEN_MAX: usize = 64;

// A handshake on a sound path needs two round trips; one younger than this does not have to make room for others.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(500);

// Pause after an accept that failed, for example because the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

// Largest headers of a request. Ours have some 200 bytes.
const HEADER_BYTES_MAX: u32 = 8 << 10;

/// Listens for nodes.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    links: mpsc::Receiver<GatewayLink>,
    open: Arc<Fates>,
    traffic: Arc<Traffic>,
    stop: Option<oneshot::Sender<()>>,
    accepting: JoinSet<()>,
    serving: JoinSet<()>,
    linger: Duration,
}

impl Server {
    /// Begins to listen.
    pub async fn bind(address: SocketAddr, key: &SecretKey, limits: Limits) -> Result<Self, Error> {
        let failed = |cause| Error::Bind { address: address.to_string(), cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let acceptor = TlsAcceptor::from(tls::server(key).map_err(|cause| Error::Key { cause })?);
        let (taken, links) = mpsc::channel(UNTAKEN_MAX);
        let (shaken, connections) = mpsc::channel(SHAKEN_MAX);
        let (stop, stopped) = oneshot::channel();
        let (open, traffic) = (Arc::new(Fates::default()), Arc::new(Traffic::default()));
        let room = Arc::new(Semaphore::new(limits.links));
        let linger = limits.linger;
        let gate = Arc::new(Gate {
            acceptor,
            limits: limits.clone(),
            open: Arc::clone(&open),
            traffic: Arc::clone(&traffic),
            shaken,
        });
        let (mut accepting, mut serving) = (JoinSet::new(), JoinSet::new());
        accepting.spawn(Acceptor { listener, room, gate, running: JoinSet::new(), begun: VecDeque::new() }.run());
        serving.spawn(serve(connections, Service { taken, limits }, stopped));
        Ok(Self { address, links, open, traffic, stop: Some(stop), accepting, serving, linger })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its links carry.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// The next link that a node opened. Its first frame is the node's hello. Cancel safe.
    pub async fn accept(&mut self) -> Option<GatewayLink> {
        self.links.recv().await
    }

    /// Stops listening, closes every link with `message`, and waits until they are gone, at most some seconds.
    pub async fn shutdown(mut self, message: &str) {
        self.accepting.shutdown().await;
        self.links.close();
        self.open.close(&Reason::new(CloseCode::Stopping, message));
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = timeout(self.linger * 2, self.serving.join_next()).await;
        self.serving.shutdown().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.open.close(&Reason::new(CloseCode::Stopping, "the gateway stopped"));
    }
}

async fn serve(connections: mpsc::Receiver<io::Result<Connection>>, service: Service, stopped: oneshot::Receiver<()>) {
    let limits = service.limits.clone();
    let service = LinkServer::new(service).max_decoding_message_size(FRAME_BYTES_MAX);
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(1)
        .http2_keepalive_interval(Some(limits.keep_alive))
        .http2_keepalive_timeout(Some(limits.keep_alive_answer))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .serve_with_incoming_shutdown(service, ReceiverStream::new(connections), async {
            // An error is a server that was dropped: that stops it as well.
            let _ = stopped.await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(error = &error as &dyn std::error::Error, "serving nodes failed");
    }
}

/// The fates of all connections, so that a shutdown reaches them.
#[derive(Debug, Default)]
struct Fates(Mutex<Vec<Weak<Fate>>>);

impl Fates {
    fn add(&self, fate: &Arc<Fate>) {
        let mut fates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fates.len() == fates.capacity() {
            fates.retain(|fate| fate.strong_count() > 0);
        }
        fates.push(Arc::downgrade(fate));
    }

    fn close(&self, reason: &Reason) {
        let fates = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for fate in fates.iter().filter_map(Weak::upgrade) {
            fate.close(reason.clone());
        }
    }
}

struct Gate {
    acceptor: TlsAcceptor,
    limits: Limits,
    open: Arc<Fates>,
    traffic: Arc<Traffic>,
    shaken: mpsc::Sender<io::Result<Connection>>,
}

struct Acceptor {
    listener: TcpListener,
    room: Arc<Semaphore>,
    gate: Arc<Gate>,
    running: JoinSet<()>,
    begun: VecDeque<(Instant, AbortHandle)>,
}

impl Acceptor {
    async fn run(mut self) {
        loop {
            self.make_room().await;
            match self.listener.accept().await {
                Ok((tcp, remote)) => self.begin(tcp, remote),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(&mut self, tcp: TcpStream, remote: SocketAddr) {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            tracing::warn!(%remote, "no room for another link");
            return;
        };
        let handle = self.running.spawn(Arc::clone(&self.gate).shake(tcp, remote, room));
        self.begun.push_back((Instant::now(), handle));
    }

    // Whoever connects and stays silent cannot keep others out: the oldest handshake makes room.
    async fn make_room(&mut self) {
        while self.running.try_join_next().is_some() {}
        while self.begun.len() >= self.gate.limits.handshakes.max(1) {
            self.begun.retain(|(_, handle)| !handle.is_finished());
            let Some((begin, oldest)) = self.begun.front() else { return };
            if self.begun.len() < self.gate.limits.handshakes.max(1) {
                return;
            }
            tokio::select! {
                _ = self.running.join_next() => {}
                () = sleep_until(*begin + HANDSHAKE_GRACE) => {
                    oldest.abort();
                    self.begun.pop_front();
                }
            }
        }
    }
}

impl Gate {
    async fn shake(self: Arc<Self>, tcp: TcpStream, remote: SocketAddr, room: OwnedSemaphorePermit) {
        match timeout(self.limits.connect, self.handshake(tcp, remote, room)).await {
            Ok(Ok(connection)) => {
                let _ = self.shaken.send(Ok(connection)).await;
            }
            Ok(Err(error)) => tracing::debug!(%remote, error = &error as &dyn std::error::Error, "handshake failed"),
            Err(_) => tracing::debug!(%remote, "handshake not done in time"),
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        room: OwnedSemaphorePermit,
    ) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        let nodelay = tcp.nodelay()?;
        let tls = self.acceptor.accept(tcp).await?;
        let node = tls::proven_node(tls.get_ref().1).ok_or(io::ErrorKind::InvalidData)?;
        let fate = Arc::new(Fate::counted(Arc::clone(&self.traffic)));
        self.open.add(&fate);
        let peer = Peer { node, remote, nodelay, fate: Arc::clone(&fate) };
        Ok(Connection { io: Guard::new(tls, fate, &self.limits), peer, _room: room })
    }
}

/// What a connection tells its stream.
#[derive(Clone)]
struct Peer {
    node: NodeId,
    remote: SocketAddr,
    nodelay: bool,
    fate: Arc<Fate>,
}

struct Connection {
    io: Guard<TlsStream<TcpStream>>,
    peer: Peer,
    _room: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.fate.cut(Reason::new(CloseCode::Ended, "the connection was lost"));
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

struct Service {
    taken: mpsc::Sender<GatewayLink>,
    limits: Limits,
}

#[tonic::async_trait]
impl pb::link_server::Link for Service {
    type OpenStream = Outgoing<Down>;

    async fn open(&self, request: Request<Streaming<pb::Up>>) -> Result<Response<Outgoing<Down>>, Status> {
        let Some(Peer { node, remote, nodelay, fate }) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("a stream without a connection"));
        };
        if !fate.open() {
            return Err(Status::invalid_argument("one stream a connection"));
        }
        let (sender, outgoing) = queue(Arc::clone(&fate), &self.limits);
        let receiver = Receiver::<Up>::new(request.into_inner(), fate, &self.limits);
        let link = Link { peer: node, remote, receiver, sender, nodelay };
        match self.taken.try_send(link) {
            Ok(()) => Ok(Response::new(outgoing)),
            Err(_) => Err(Status::unavailable("the gateway has no room for another link")),
        }
    }
}
