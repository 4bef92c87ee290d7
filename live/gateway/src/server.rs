//! Sockets: accepted within limits, without delay, and closed in order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::Service as _;

use crate::backend::Backend;
use crate::body::BodyLimits;
use crate::metrics::Metrics;
use crate::room::{Place, Room};
use crate::routes::{self, App};
use crate::timed::Timed;
use crate::visitors::{Visitor, Visitors};

/// Longest body: several times the context of any model served here.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Connections at a time: within the descriptors that a process usually gets. Of those that ask for nothing the oldest makes room.
pub const CONNECTIONS_MAX: usize = 512;
/// Time for a request's head, and for a quiet connection.
pub const HEAD_TIME: Duration = Duration::from_secs(75);
/// Time for a request's body.
pub const BODY_TIME: Duration = Duration::from_secs(30);
/// Time for which a client may take nothing of what it asked for.
pub const WRITE_TIME: Duration = Duration::from_secs(30);
/// Longest silence of a task: beyond any deadline that the network sets itself.
pub const STALL_TIME: Duration = Duration::from_secs(300);
/// Time that answers under way get when the gateway ends.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Pause after a failed accept: the process is out of descriptors, and others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked at whether a client has taken all that it was sent, before its connection makes room.
const UNSENT_LOOK: Duration = Duration::from_millis(50);

/// How to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Serve without encryption on addresses that other machines reach.
    pub plain_http: PlainHttp,
    /// Longest body.
    pub body_bytes_max: usize,
    /// Connections at a time.
    pub connections_max: usize,
    /// Time for a request's head.
    pub head_time: Duration,
    /// Time for a request's body.
    pub body_time: Duration,
    /// Time for which a client may take nothing.
    pub write_time: Duration,
    /// Longest silence of a task.
    pub stall_time: Duration,
    /// Time that answers under way get at the end.
    pub drain_time: Duration,
}

/// Where requests and keys may travel in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// On this machine only.
    Loopback,
    /// Everywhere: something in front encrypts, or nobody else is on the network.
    Everywhere,
}

impl Config {
    /// The defaults at an address.
    pub const fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            plain_http: PlainHttp::Loopback,
            body_bytes_max: BODY_BYTES_MAX,
            connections_max: CONNECTIONS_MAX,
            head_time: HEAD_TIME,
            body_time: BODY_TIME,
            write_time: WRITE_TIME,
            stall_time: STALL_TIME,
            drain_time: DRAIN_TIME,
        }
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
pub enum Error {
    /// Other machines would see keys and prompts.
    #[error("{listen} is reachable from other machines and plain HTTP hides nothing; allow it explicitly")]
    NotLoopback {
        /// The address.
        listen: SocketAddr,
    },
    /// The address can't be had.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// An address where clients can connect, and wait until a [`Server`] serves them.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
}

impl Bound {
    /// Listens.
    ///
    /// # Errors
    /// The address is taken, or is open to other machines without leave.
    pub async fn new(config: Config) -> Result<Self, Error> {
        let listen = config.listen;
        if config.plain_http == PlainHttp::Loopback && !listen.ip().is_loopback() {
            return Err(Error::NotLoopback { listen });
        }
        let failed = |cause| Error::Listen { listen, cause };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, config })
    }

    /// What answers there; clients wait until [`Server::run`].
    pub fn serve<B: Backend>(self, backend: Arc<B>) -> Server {
        let Self { listener, address, config } = self;
        let metrics = Arc::new(Metrics::default());
        let app = App {
            backend,
            limits: Arc::default(),
            visitors: Visitors::new(Instant::now()),
            answers: Arc::default(),
            metrics: Arc::clone(&metrics),
            body: BodyLimits { bytes_max: config.body_bytes_max, time: config.body_time },
            stall: config.stall_time,
        };
        Server { listener, address, router: routes::router(Arc::new(app)), metrics, config }
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    metrics: Arc<Metrics>,
    config: Config,
}

impl Server {
    /// Listens; connections wait until [`Server::run`].
    ///
    /// # Errors
    /// The address is taken, or is open to other machines without leave.
    pub async fn bind<B: Backend>(config: Config, backend: Arc<B>) -> Result<Self, Error> {
        Ok(Bound::new(config).await?.serve(backend))
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets answers under way end.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let room = Room::new(self.config.connections_max);
        // Accepted, and without a place.
        let mut newcomer = None;
        let (ending, ended) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // Nobody makes room before somebody is there who needs it.
            let next = async {
                let client = match newcomer.take() {
                    Some(client) => client,
                    None => accept(&self.listener).await,
                };
                newcomer = Some(client);
                room.place().await
            };
            tokio::select! {
                place = next => {
                    let Some((socket, from)) = newcomer.take() else { continue };
                    connections.spawn(self.serve(socket, Visitor(from), place, ended.clone()));
                }
                Some(_) = connections.join_next() => {}
                () = &mut shutdown => break,
            }
        }
        drop(self.listener);
        ending.send_replace(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(self.config.drain_time, drained).await.is_err() {
            tracing::warn!(connections = connections.len(), "ended with answers under way");
        }
    }

    /// Serves one connection until it or the server ends.
    fn serve(
        &self,
        socket: TcpStream,
        from: Visitor,
        place: Arc<Place>,
        mut ended: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + use<> {
        let unsent = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Timed::new(socket, self.config.write_time, Arc::clone(&unsent)));
        let router = self.router.clone();
        let head_time = self.config.head_time;
        let open = Open::new(Arc::clone(&self.metrics));
        async move {
            let _open = open;
            let of_requests = Arc::clone(&place);
            let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(from);
                let (asking, answer) = (of_requests.ask(), router.clone().call(request.map(Body::new)));
                async move {
                    // Its place is kept as long as the answer's body lives.
                    let kept = |body: Body| {
                        Body::new(body.map_frame(move |frame| {
                            let _ = &asking;
                            frame
                        }))
                    };
                    answer.await.map(|answer| answer.map(kept))
                }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(head_time);
            let mut connection = std::pin::pin!(builder.serve_connection(io, service));
            let ending = async {
                // A sender that is gone means the same.
                let _ = ended.wait_for(|ended| *ended).await;
            };
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = place.left() => {
                    tracing::debug!("a connection makes room for another");
                    // What its client has not taken yet of an answer still goes out.
                    let emptied = async {
                        while unsent.load(Ordering::Relaxed) {
                            sleep(UNSENT_LOOK).await;
                        }
                    };
                    tokio::select! {
                        result = connection.as_mut() => result,
                        () = emptied => return,
                    }
                }
                () = ending => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(cause) = result {
                tracing::debug!(%cause, "connection ended");
            }
        }
    }
}

/// The next connection, ready to use, and where it comes from.
async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            // Without it a stream of small events waits 40 ms for each acknowledgement.
            Ok((socket, from)) if socket.set_nodelay(true).is_ok() => return (socket, from.ip()),
            // The client has left already.
            Ok(_) => {}
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_send_small_events_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(accept(&listener).await.0.nodelay().unwrap());
        drop(client);
    }
}
