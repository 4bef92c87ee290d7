//! A bare HTTP server that answers at once: what the network stack and the load generator cost by themselves.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it answers, as long as a gateway's answer with a few words.
const ANSWER: &[u8] = &[b'a'; 640];

/// Serves on a thread of its own until the process ends; where.
pub(super) fn start() -> anyhow::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("floor".to_owned()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        if socket.set_nodelay(true).is_ok() {
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
            connections.spawn(serving);
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // A body that breaks off is the load generator's failure, which it reports.
    drop(request.into_body().collect().await);
    Ok(Response::new(Full::new(Bytes::from_static(ANSWER))))
}
