//! Peers that keep the handshake's rules and then no others.

use crate::client;
use crate::error::Error;
use crate::fate::{CloseCode, Reason};
use crate::frame::Frame as _;
use crate::generated::link::link_client::LinkClient;
use crate::generated::link::{self as pb, up};
use crate::limits::{FRAME_BYTES_MAX, FrameError, Limits};
use crate::link::GatewayLink;
use crate::server::Server;
use crate::{Down, Up, tls};
use ol_protocol::GatewayId;
use ol_protocol::key::SecretKey;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Status, Streaming};

async fn server() -> Server {
    let limits = Limits { opening: Duration::from_secs(1), ..Limits::default() };
    Server::bind("127.0.0.1:0".parse().unwrap(), &SecretKey::from_bytes(&[1; 32]), limits).await.unwrap()
}

async fn shaken(server: &Server, node: u8) -> TlsStream<TcpStream> {
    let gateway = GatewayId(SecretKey::from_bytes(&[1; 32]).public());
    let config = tls::client(&SecretKey::from_bytes(&[node; 32]), gateway).unwrap();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    TlsConnector::from(config).connect("gateway".try_into().unwrap(), tcp).await.unwrap()
}

// A stream of frames that nothing has checked.
async fn raw(server: &mut Server, node: u8, frames: Vec<pb::Up>) -> (Streaming<pb::Down>, GatewayLink) {
    let channel = client::channel(shaken(server, node).await, &Limits::default()).await.unwrap();
    let mut client = LinkClient::new(channel);
    let frames = futures_util::StreamExt::chain(tokio_stream::iter(frames), tokio_stream::pending());
    let (stream, link) = tokio::join!(client.open(frames), server.accept());
    (stream.unwrap().into_inner(), link.unwrap())
}

async fn outcome(frames: Vec<pb::Up>) -> (FrameError, Status) {
    let mut server = server().await;
    let (mut stream, mut link) = raw(&mut server, 2, frames).await;
    let Some(Err(Error::Malformed { cause })) = link.receiver.recv().await else { panic!("a frame was taken") };
    (cause, stream.message().await.unwrap_err())
}

fn wire(frame: up::Frame) -> Vec<pb::Up> {
    vec![pb::Up { frame: Some(frame) }]
}

#[tokio::test]
async fn an_empty_frame_is_told_to_its_sender() {
    let (cause, status) = outcome(vec![pb::Up { frame: None }]).await;
    assert_eq!(cause, FrameError::Missing { field: "frame" });
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "frame is missing"));
}

#[tokio::test]
async fn an_id_of_another_length_is_told_to_its_sender() {
    let grant = pb::Grant { variant: vec![0; 31], total: 1 };
    let (cause, status) = outcome(wire(up::Frame::Grant(grant))).await;
    assert_eq!(cause, FrameError::Length { field: "variant", length: 31, expected: 32 });
    assert_eq!(status.message(), "variant has 31 bytes instead of 32");
}

#[tokio::test]
async fn a_code_that_stands_for_nothing_is_told_to_its_sender() {
    let failed = pb::Failed { task: vec![0; 16], code: 99, ..pb::Failed::default() };
    let (cause, _) = outcome(wire(up::Frame::Failed(failed))).await;
    assert_eq!(cause, FrameError::Unknown { field: "failed.code", value: 99 });
}

#[tokio::test]
async fn more_ids_than_the_limit_are_told_to_their_sender() {
    let tokens =
        pb::Tokens { task: vec![0; 16], count: 257, ids: vec![1; 257], log_probs: vec![0; 257], ..<_>::default() };
    let (cause, _) = outcome(wire(up::Frame::Tokens(tokens))).await;
    assert_eq!(cause, FrameError::TooLong { field: "tokens.ids", length: 257, max: 256 });
}

#[tokio::test]
async fn a_frame_over_four_megabytes_is_told_to_its_sender() {
    let batch = pb::Batch { bytes: vec![0; FRAME_BYTES_MAX + 1], orders: Vec::new(), outputs: Vec::new() };
    let (cause, status) = outcome(wire(up::Frame::Batch(batch))).await;
    assert!(matches!(&cause, FrameError::Undecodable(text) if text.contains("4194304")), "{cause:?}");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn numbers_that_are_none_are_no_vector() {
    let commitment = vec![0; ol_protocol::commitment::Commitment::BYTES];
    let vectors = vec![pb::Vector { values: vec![f32::NAN] }];
    let done = pb::Done { task: vec![0; 16], commitment, vectors, ..pb::Done::default() };
    assert_eq!(
        Up::from_wire(pb::Up { frame: Some(up::Frame::Done(done)) }),
        Err(FrameError::Range { field: "done.vectors" })
    );
}

#[tokio::test]
async fn garbage_inside_tls_ends_and_disturbs_no_other_link() {
    let mut server = server().await;
    let (mut stream, link) = raw(&mut server, 2, Vec::new()).await;
    let mut hostile = shaken(&server, 3).await;
    hostile.write_all(&[0xff; 4096]).await.unwrap();
    let _ = hostile.read_to_end(&mut Vec::new()).await;
    link.sender.try_send(Down::Ping { nonce: 5 }).unwrap();
    let got = Down::from_wire(stream.message().await.unwrap().unwrap());
    assert_eq!(got, Ok(Down::Ping { nonce: 5 }));
}

#[tokio::test]
async fn a_connection_that_opens_no_stream_ends() {
    let server = server().await;
    let mut idle = shaken(&server, 2).await;
    let _ = idle.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_connection_has_one_stream() {
    let mut server = server().await;
    let channel = client::channel(shaken(&server, 2).await, &Limits::default()).await.unwrap();
    let mut client = LinkClient::new(channel);
    let (first, link) = tokio::join!(client.open(tokio_stream::pending()), server.accept());
    drop((first, link));
    assert!(client.open(tokio_stream::pending()).await.is_err());
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_cut_after_the_link_was_closed() {
    let mut server = server().await;
    let (_stream, link) = raw(&mut server, 2, Vec::new()).await;
    while link.sender.try_send(Down::Drain { message: "x".repeat(1000) }).is_ok() {
        tokio::task::yield_now().await;
    }
    link.close(Reason::new(CloseCode::Ended, "done")).await;
    assert!(tokio::time::timeout(Duration::from_secs(5), server.shutdown("bye")).await.is_ok());
}
