//! Request bodies, within limits of length and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::refusal::{Kind, Refusal};

/// Bytes of an unwanted body that are read, so that a client that is still sending sees the answer and no reset.
const DISCARD_BYTES_MAX: usize = 16 << 20;
/// Time for it.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Limits of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyLimits {
    pub(crate) bytes_max: usize,
    pub(crate) time: Duration,
}

/// The whole body.
pub(crate) async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, Refusal> {
    match timeout(limits.time, collect(body, limits.bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(Fault::TooLarge(rest))) => {
            discard(rest).await;
            let message = format!("the body passes the limit of {} bytes", limits.bytes_max);
            Err(Refusal::new(Kind::BodyTooLarge, message))
        }
        Ok(Err(Fault::Broken)) => Err(Refusal::new(Kind::Invalid { param: None }, "the body broke off")),
        Err(_) => {
            let message = format!("the body did not arrive within {} ms", limits.time.as_millis());
            Err(Refusal::new(Kind::SlowBody, message))
        }
    }
}

enum Fault {
    TooLarge(Body),
    Broken,
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, Fault> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Fault::Broken)?.into_data() else { continue };
        if all.len() + data.len() > bytes_max {
            return Err(Fault::TooLarge(body));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// Reads a body that nobody wants, up to a limit.
pub(crate) async fn discard(mut body: Body) {
    let reading = async {
        let mut read = 0;
        while read < DISCARD_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            read += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // A client that is slower than this has to live with a reset.
    let _ = timeout(DISCARD_TIME, reading).await;
}
