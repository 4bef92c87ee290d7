//! A node's way to its gateway.

use crate::error::Error;
use crate::fate::Fate;
use crate::frame::{Down, Up};
use crate::generated::link::link_client::LinkClient;
use crate::guard::Guard;
use crate::limits::{FRAME_BYTES_MAX, Limits};
use crate::link::{Link, NodeLink, Outgoing, Receiver, queue};
use crate::tls::{self, WrongKey};
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use rustls::pki_types::ServerName;
use std::future::Ready;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

// HTTP needs a name; the server is known by its key.
const NAME: &str = "gateway";

/// Connects a node to the gateway of its ticket, and to no other. The node's first frame has to be its hello.
pub async fn connect(ticket: &Ticket, key: &SecretKey, limits: &Limits) -> Result<NodeLink, Error> {
    let address = &ticket.address;
    let tcp = within(address, "connecting", limits, dial(address)).await??;
    let nodelay = tcp.set_nodelay(true).and_then(|()| tcp.nodelay());
    let unusable = |cause| Error::Connect { address: address.clone(), cause };
    let (nodelay, remote) = (nodelay.map_err(unusable)?, tcp.peer_addr().map_err(unusable)?);
    let config = tls::client(key, ticket.gateway).map_err(|cause| Error::Key { cause })?;
    let name = ServerName::try_from(NAME).expect("a word is a name");
    let shaken = TlsConnector::from(config).connect(name, tcp);
    let tls = within(address, "shaking hands", limits, shaken).await?.map_err(|cause| handshake(address, cause))?;
    let fate = Arc::new(Fate::default());
    let (sender, outgoing) = queue::<Up>(Arc::clone(&fate), limits);
    let opened = open(Guard::new(tls, Arc::clone(&fate), limits), outgoing, limits);
    let stream = within(address, "opening the stream", limits, opened).await??;
    fate.open();
    Ok(Link { peer: ticket.gateway, remote, receiver: Receiver::<Down>::new(stream, fate, limits), sender, nodelay })
}

async fn within<T>(
    address: &str,
    phase: &'static str,
    limits: &Limits,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    let limit = limits.connect;
    timeout(limit, work).await.map_err(|_| Error::Timeout { address: address.into(), phase, limit })
}

async fn dial(address: &str) -> Result<TcpStream, Error> {
    let resolve = |cause| Error::Resolve { address: address.into(), cause };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for candidate in lookup_host(address).await.map_err(resolve)? {
        match TcpStream::connect(candidate).await {
            Ok(tcp) => return Ok(tcp),
            Err(cause) => last = cause,
        }
    }
    Err(Error::Connect { address: address.into(), cause: last })
}

fn handshake(address: &str, cause: io::Error) -> Error {
    let address = address.into();
    let inner = cause.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(rustls::Error::Other(other)) = inner
        && let Some(WrongKey { expected, got }) = other.0.downcast_ref()
    {
        return Error::WrongGatewayKey { address, expected: *expected, got: *got };
    }
    Error::Tls { address, cause }
}

async fn open(
    io: Guard<TlsStream<TcpStream>>,
    outgoing: Outgoing<Up>,
    limits: &Limits,
) -> Result<tonic::Streaming<crate::generated::link::Down>, Error> {
    let channel = channel(io, limits).await.map_err(|cause| Error::Open { cause: cause.into() })?;
    let mut client = LinkClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
    // A request has no status of its own: a reason that only a server could send just ends it.
    let frames = outgoing.filter_map(|frame| std::future::ready(frame.ok()));
    let response = client.open(frames).await.map_err(|cause| Error::Open { cause: cause.into() })?;
    Ok(response.into_inner())
}

// The connection is there already: one that was lost is not replaced, so that it ends the link.
pub(crate) async fn channel<IO>(io: IO, limits: &Limits) -> Result<Channel, tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut io = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_: Uri| -> Ready<io::Result<_>> {
        std::future::ready(io.take().ok_or_else(|| io::ErrorKind::ConnectionAborted.into()))
    });
    Endpoint::from_static("http://gateway")
        .http2_keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive_answer)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
