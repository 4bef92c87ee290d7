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
                put(&mut outbox, peer, sequence, &bytes, &payloads);
                let before = Timestamp(ol_drive::clock::now().0.saturating_sub(AUDIT_WINDOW.0));
                if let Err(error) = outbox.expire(before) {
                    tracing::warn!(%error, "old payloads can't be deleted; trying again with the next batch");
                }
                if inbox.blocking_send(Message::Stored { sequence, bytes }).is_err() {
                    return;
                }
            }
            Job::Ack { sequence, countersigned } => {
                if let Err(error) = outbox.ack(peer, sequence, &countersigned) {
                    tracing::error!(sequence, %error, "cannot mark a batch as acknowledged; it will be sent again");
                }
            }
        }
    }
}

// A batch is worth money: a full disk is waited out, since nothing signed may be sent that is not on disk.
fn put(outbox: &mut Outbox, peer: Peer, sequence: u64, bytes: &[u8], payloads: &[Payload]) {
    let mut wait = std::time::Duration::from_millis(100);
    while let Err(error) = outbox.put(peer, sequence, bytes, payloads) {
        tracing::error!(sequence, %error, "cannot store a batch; trying again");
        std::thread::sleep(wait);
        wait = (wait * 2).min(std::time::Duration::from_secs(10));
    }
}

/// A batch with what goes with it, one of each a commitment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row {
    /// The signed batch.
    pub(crate) batch: Vec<u8>,
    /// The gateway's sealed orders.
    pub(crate) orders: Vec<Vec<u8>>,
    /// What was made, for a gateway that did not see how an attempt ended.
    pub(crate) outputs: Vec<Output>,
}

/// What an attempt added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Output {
    pub(crate) ids: Vec<u32>,
    pub(crate) log_probs: Vec<u8>,
}

impl Row {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&self.batch).u32(u32::try_from(self.orders.len()).unwrap_or(u32::MAX));
        for (order, output) in self.orders.iter().zip(&self.outputs) {
            let ids: Vec<u8> = output.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            w.bytes(order).bytes(&ids).bytes(&output.log_probs);
        }
        w.finish()
    }

    pub(crate) fn from_bytes(row: &[u8]) -> Option<Self> {
        let mut r = Reader::new(row);
        let mut read = Self { batch: r.bytes("batch", row.len()).ok()?.to_vec(), ..Self::default() };
        for _ in 0..r.u32().ok()? {
            read.orders.push(r.bytes("order", row.len()).ok()?.to_vec());
            let (ids, rest) = r.bytes("ids", row.len()).ok()?.as_chunks::<4>();
            let log_probs = r.bytes("log-probabilities", row.len()).ok()?.to_vec();
            let ids = rest.is_empty().then(|| ids.iter().map(|id| u32::from_le_bytes(*id)).collect())?;
            read.outputs.push(Output { ids, log_probs });
        }
        r.finish().ok()?;
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written_and_garbage_is_not() {
        let made = Output { ids: vec![1, u32::MAX], log_probs: vec![3, 4] };
        let row =
            Row { batch: b"batch".to_vec(), orders: vec![vec![1, 2], vec![]], outputs: vec![Output::default(), made] };
        let bytes = row.to_bytes();
        assert_eq!(Row::from_bytes(&bytes), Some(row));
        assert_eq!(Row::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Row::from_bytes(&[255; 8]), None);
    }
}
