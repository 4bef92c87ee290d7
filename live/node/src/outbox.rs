//! A thread round the outbox, so that a slow disk holds up batches and nothing else.

use crate::hands::Message;
use ol_protocol::bytes::{Reader, Writer};
use ol_protocol::{NodeId, Timestamp};
use ol_store::{AUDIT_WINDOW, Outbox, Payload, Peer};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::mpsc;

/// Jobs that may wait for the disk: a batch and its acknowledgement for each that a node may have open, so that a full
/// disk stops the grants before it fills this.
const JOBS_MAX: usize = 2 * 1_024 + 64;

/// What the outbox is asked for.
pub(crate) enum Job {
    /// Keep a batch; answered by [`Message::Stored`].
    Put { sequence: u64, bytes: Vec<u8>, payloads: Vec<Payload> },
    /// The gateway holds a batch.
    Ack { sequence: u64, countersigned: Vec<u8> },
}

/// The sending end.
#[derive(Clone)]
pub(crate) struct Handle(SyncSender<Job>);

impl Handle {
    /// Starts the thread.
    pub(crate) fn start(
        outbox: Outbox,
        peer: Peer,
        node: NodeId,
        inbox: mpsc::Sender<Message>,
    ) -> std::io::Result<Self> {
        let (sender, jobs) = sync_channel(JOBS_MAX);
        let name = format!("outbox-{}", node.short());
        std::thread::Builder::new().name(name).spawn(move || work(outbox, peer, &jobs, &inbox))?;
        Ok(Self(sender))
    }

    /// Asks for a job; false if too many wait.
    pub(crate) fn ask(&self, job: Job) -> bool {
        match self.0.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn work(mut outbox: Outbox, peer: Peer, jobs: &Receiver<Job>, inbox: &mpsc::Sender<Message>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Put { sequence, bytes, payloads } => {
                keep("a batch", sequence, || outbox.put(peer, sequence, &bytes, &payloads));
                let before = Timestamp(ol_drive::clock::now().0.saturating_sub(AUDIT_WINDOW.0));
                if let Err(error) = outbox.expire(before) {
                    tracing::warn!(%error, "old payloads can't be deleted; trying again with the next batch");
                }
                if inbox.blocking_send(Message::Stored { sequence, bytes }).is_err() {
                    return;
                }
            }
            Job::Ack { sequence, countersigned } => {
                keep("the gateway's signature", sequence, || outbox.ack(peer, sequence, &countersigned));
            }
        }
    }
}

// A batch is worth money: a full disk is waited out, since nothing signed may be sent that is not on disk. So is the gateway's
// signature, which comes once and is the proof of it.
fn keep(what: &str, sequence: u64, mut write: impl FnMut() -> Result<bool, ol_store::Error>) {
    let mut wait = std::time::Duration::from_millis(100);
    while let Err(error) = write() {
        tracing::error!(sequence, %error, "cannot store {what}; trying again");
        std::thread::sleep(wait);
        wait = (wait * 2).min(std::time::Duration::from_secs(10));
    }
}

/// A batch and its orders as one row.
pub(crate) fn join(batch: &[u8], orders: &[Vec<u8>]) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(batch).u32(u32::try_from(orders.len()).unwrap_or(u32::MAX));
    for order in orders {
        w.bytes(order);
    }
    w.finish()
}

/// What [`join`] made one row of.
pub(crate) fn split(row: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut r = Reader::new(row);
    let batch = r.bytes("batch", row.len()).ok()?.to_vec();
    let count = r.u32().ok()?;
    let orders = (0..count).map(|_| r.bytes("order", row.len()).ok().map(<[u8]>::to_vec)).collect::<Option<_>>()?;
    r.finish().ok()?;
    Some((batch, orders))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_written_as_soon_as_there_is() {
        let full = || ol_store::Error::Full { place: std::path::Path::new("outbox.db").into() };
        let mut answers = vec![Ok(true), Err(full())];
        keep("a batch", 0, || answers.pop().expect("not tried again after a success"));
        assert!(answers.is_empty());
    }

    #[test]
    fn a_row_splits_into_what_was_joined_and_garbage_does_not() {
        let orders = vec![vec![1, 2], vec![]];
        let row = join(b"batch", &orders);
        assert_eq!(split(&row), Some((b"batch".to_vec(), orders)));
        assert_eq!(split(&row[..row.len() - 1]), None);
        assert_eq!(split(&[255; 8]), None);
    }
}
