//! A thread round the outbox, so that a slow disk holds up batches and nothing else.

use crate::hands::Message;
use crate::several::Inbox;
use ol_protocol::bytes::{Reader, Writer};
use ol_protocol::record::AttemptId;
use ol_protocol::{NodeId, Salt, Timestamp};
use ol_store::{AUDIT_WINDOW, Outbox, Payload, Peer};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// What a gateway may have looked up at a time: a busy one asks for a few in a second.
pub(crate) const RECALLS_MAX: usize = 64;

/// Jobs of each gateway that may wait for the disk: a batch and its acknowledgement for each that a node may have open, so that a
/// full disk stops the grants before it fills this.
const JOBS_MAX: usize = 2 * 1_024 + RECALLS_MAX;

/// Longest that a payload outlives the audit window while nothing else happens.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// What the outbox is asked for.
pub(crate) enum Job {
    /// Keep a batch; answered by [`Message::Stored`].
    Put { to: Inbox, peer: Peer, sequence: u64, bytes: Vec<u8>, payloads: Vec<Payload> },
    /// What is kept of an attempt; answered by [`Message::Recalled`].
    Recall { to: Inbox, peer: Peer, attempt: AttemptId, salt: Salt },
    /// The gateway holds a batch.
    Ack { peer: Peer, sequence: u64, countersigned: Vec<u8> },
}

/// The sending end.
#[derive(Clone)]
pub(crate) struct Handle(SyncSender<Job>);

impl Handle {
    /// Starts the thread, for so many gateways.
    pub(crate) fn start(outbox: Outbox, node: NodeId, gateways: usize) -> std::io::Result<Self> {
        let (sender, jobs) = sync_channel(gateways * JOBS_MAX);
        let name = format!("outbox-{}", node.short());
        std::thread::Builder::new().name(name).spawn(move || work(outbox, &jobs))?;
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

fn work(mut outbox: Outbox, jobs: &Receiver<Job>) {
    loop {
        // At the start and while nothing comes, too: an idle node keeps nothing for longer than a busy one.
        expire(&mut outbox);
        let job = match jobs.recv_timeout(EXPIRE_EVERY) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match job {
            Job::Put { to, peer, sequence, bytes, payloads } => {
                keep("a batch", sequence, || outbox.put(peer, sequence, &bytes, &payloads));
                if to.tell(Message::Stored { sequence, bytes }).is_err() {
                    return;
                }
            }
            Job::Recall { to, peer, attempt, salt } => {
                let found = outbox.payload(peer, attempt).unwrap_or_else(|error| {
                    tracing::warn!(%error, "what was kept of an attempt can't be read");
                    None
                });
                let row = found.map(|row| (row.prompt, row.output));
                if to.tell(Message::Recalled { attempt, salt, row }).is_err() {
                    return;
                }
            }
            Job::Ack { peer, sequence, countersigned } => {
                keep("the gateway's signature", sequence, || outbox.ack(peer, sequence, &countersigned));
            }
        }
    }
}

fn expire(outbox: &mut Outbox) {
    let before = Timestamp(ol_drive::clock::now().0.saturating_sub(AUDIT_WINDOW.0));
    if let Err(error) = outbox.expire(before) {
        tracing::warn!(%error, "old payloads can't be deleted; trying again later");
    }
}

// A batch is worth money: a full disk is waited out, since nothing signed may be sent that is not on disk. So is the gateway's
// signature, which comes once and is the proof of it.
fn keep(what: &str, sequence: u64, mut write: impl FnMut() -> Result<bool, ol_store::Error>) {
    let mut wait = Duration::from_millis(100);
    while let Err(error) = write() {
        tracing::error!(sequence, %error, "cannot store {what}; trying again");
        std::thread::sleep(wait);
        wait = (wait * 2).min(Duration::from_secs(10));
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
    use ol_protocol::{GatewayId, NetworkId, TaskId};

    #[test]
    fn a_node_without_work_forgets_old_payloads_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.db");
        let (node, peer) = (NodeId([1; 32]), Peer { network: NetworkId([2; 32]), gateway: GatewayId([3; 32]) });
        let mut outbox = Outbox::open(&path, node, None).expect("opened");
        let attempt = AttemptId { task: TaskId([4; 16]), attempt: 0 };
        let old = Payload { attempt, created: Timestamp(5), prompt: vec![6], output: vec![7] };
        outbox.put(peer, 0, b"batch", &[old]).expect("written");
        let (jobs, waiting) = sync_channel(1);
        drop(jobs);
        work(outbox, &waiting);
        let outbox = Outbox::open(&path, node, None).expect("opened");
        assert_eq!(outbox.payload(peer, attempt).expect("read"), None);
        assert_eq!(outbox.unacked(peer).expect("read"), [(0, b"batch".to_vec())]);
    }

    #[test]
    fn what_finds_no_room_is_written_as_soon_as_there_is() {
        let full = || ol_store::Error::Full { place: std::path::Path::new("outbox.db").into() };
        let mut answers = vec![Ok(true), Err(full())];
        keep("a batch", 0, || answers.pop().expect("not tried again after a success"));
        assert!(answers.is_empty());
    }

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
