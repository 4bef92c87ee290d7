//! What is on its way to the disk: one commit at a time, in order, each epoch's close made final once it is there.

use super::handle::{Shared, lock};
use super::instruct::Told;
use super::message::Message;
use ol_finality::Finality;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::{Digest, Epoch, NodeId, TaskId, Timestamp};
use ol_store::{AUDIT_WINDOW, Appended, Facts, Handle as Committer, Job, Note, Snapshot};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Wait before a commit that failed is tried again.
const COMMIT_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// What goes to disk together.
pub(super) struct Commit {
    // The machine's number for it; a checkpoint is the driver's own and has none.
    append: Option<u64>,
    pub(super) job: Job,
    /// Whose batches are in it, and at which of its records each one's first is.
    pub(super) batches: Vec<(NodeId, CountersignedBatch, u64)>,
    close: Option<Close>,
    /// Who is told once it is on the disk.
    pub(super) told: Vec<Told>,
}

/// The end of an epoch.
pub(super) struct Close {
    pub(super) epoch: Epoch,
    pub(super) state: Digest,
    pub(super) seals: (Digest, Digest),
    pub(super) snapshot: Option<Vec<u8>>,
    pub(super) summary: ol_ledger::Summary,
}

/// What a commit that ended brings.
#[derive(Default)]
pub(super) struct Done {
    /// The last of the machine's appends that is on disk now.
    pub(super) append: Option<u64>,
    /// The epoch that is final now.
    pub(super) closed: Option<ol_ledger::Summary>,
    /// Whether nothing can ever be written again.
    pub(super) is_lost: bool,
}

/// See the module.
pub(super) struct Journal {
    shared: Arc<Shared>,
    key: [u8; 32],
    committer: Committer,
    finality: Box<dyn Finality + Send>,
    answers: mpsc::UnboundedSender<Message>,
    waiting: VecDeque<Commit>,
    // What is on its way, and its job: a commit that failed is tried again.
    committing: Option<(Commit, Arc<Job>)>,
    // Batches that are on disk and not yet acknowledged to their nodes.
    acks: BTreeMap<(NodeId, u64), (CountersignedBatch, u64)>,
}

impl Journal {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: [u8; 32],
        committer: Committer,
        finality: Box<dyn Finality + Send>,
        answers: mpsc::UnboundedSender<Message>,
    ) -> Self {
        Self {
            shared,
            key,
            committer,
            finality,
            answers,
            waiting: VecDeque::new(),
            committing: None,
            acks: BTreeMap::new(),
        }
    }

    pub(super) fn push(&mut self, commit: Commit) {
        self.waiting.push_back(commit);
    }

    /// The last commit pushed ends an epoch. While the disk can't be written only the newest snapshot is kept: the log
    /// before it leads to it.
    pub(super) fn close(&mut self, close: Close) {
        if close.snapshot.is_some() {
            self.waiting.iter_mut().filter_map(|commit| commit.close.as_mut()).for_each(|older| older.snapshot = None);
        }
        if let Some(commit) = self.waiting.back_mut() {
            commit.close = Some(close);
        }
    }

    /// Where answers to the loop go.
    pub(super) fn answers(&self) -> mpsc::UnboundedSender<Message> {
        self.answers.clone()
    }

    /// Sends what waits on its way, up to and including a close, if nothing is.
    pub(super) fn pump(&mut self) {
        if self.committing.is_some() {
            return;
        }
        let Some(mut group) = self.waiting.pop_front() else { return };
        while group.close.is_none() {
            let Some(next) = self.waiting.pop_front() else { break };
            group.join(next);
        }
        let job = Arc::new(std::mem::take(&mut group.job));
        self.submit(Arc::clone(&job));
        *lock(&self.shared.committing_since) = Some(Instant::now());
        self.committing = Some((group, job));
    }

    fn submit(&self, job: Arc<Job>) {
        let answers = self.answers.clone();
        self.committer.submit(job, move |result| drop(answers.send(Message::Committed(result))));
    }

    /// Tries the commit that failed again.
    pub(super) fn retry(&mut self) {
        if let Some((_, job)) = &self.committing {
            self.submit(Arc::clone(job));
        }
    }

    /// The committer's answer.
    pub(super) fn committed(&mut self, now: Timestamp, result: Result<Appended, ol_store::Error>) -> Done {
        let appended = match result {
            Ok(appended) => appended,
            Err(error) => {
                let is_lost = matches!(error, ol_store::Error::Overtaken { .. });
                self.failed(&error, is_lost);
                return Done { is_lost, ..Done::default() };
            }
        };
        if lock(&self.shared.fault).take().is_some() {
            tracing::info!("the log can be written again");
        }
        *lock(&self.shared.committing_since) = None;
        let Some((group, _)) = self.committing.take() else { return Done::default() };
        for (node, batch, at) in group.batches {
            self.acks.insert((node, batch.header.sequence), (batch, appended.first_index + at));
        }
        let closed = group.close.map(|close| self.checkpoint(now, &appended, close));
        for told in group.told {
            // Whoever asked may have gone.
            let _ = told.send(Ok(()));
        }
        Done { append: group.append, closed, is_lost: false }
    }

    fn failed(&mut self, error: &ol_store::Error, is_lost: bool) {
        *lock(&self.shared.fault) = Some(error.to_string());
        if is_lost {
            return tracing::error!(%error, "the log is lost to this process, which ends: what it had not written is not acknowledged");
        }
        tracing::error!(%error, "the log can't be written; trying again, new requests are refused until then");
        let answers = self.answers.clone();
        tokio::spawn(async move {
            tokio::time::sleep(COMMIT_RETRY).await;
            drop(answers.send(Message::Retry));
        });
    }

    fn checkpoint(&mut self, now: Timestamp, appended: &Appended, close: Close) -> ol_ledger::Summary {
        let checkpoint = Checkpoint {
            network: self.shared.network,
            gateway: self.key,
            size: appended.size,
            root: appended.root,
            epoch: close.epoch,
            state: close.state,
            draw_seal: close.seals.0,
            nonce_seal: close.seals.1,
        };
        match self.finality.finalise(&checkpoint) {
            Ok(text) => {
                let note = Note { epoch: close.epoch, size: appended.size, text };
                let job = Job {
                    checkpoint: Some(note),
                    snapshot: close.snapshot.map(|bytes| Snapshot { epoch: close.epoch, size: appended.size, bytes }),
                    expire_before: Some(Timestamp(now.0.saturating_sub(AUDIT_WINDOW.0))),
                    ..Job::default()
                };
                self.waiting.push_front(Commit {
                    append: None,
                    job,
                    batches: Vec::new(),
                    close: None,
                    told: Vec::new(),
                });
            }
            Err(error) => tracing::error!(%error, epoch = %close.epoch, "the epoch can't be made final"),
        }
        close.summary
    }

    /// A batch that has just come to the disk, countersigned, and the index of its first record.
    pub(super) fn batch(&mut self, node: NodeId, sequence: u64) -> Option<(CountersignedBatch, u64)> {
        self.acks.remove(&(node, sequence))
    }

    /// The last facts about a task that this process remembers nothing of, on disk or on their way there. While the disk
    /// can't be written it is not asked either: the loop would stand still.
    pub(super) fn facts(&self, task: TaskId) -> Option<Facts> {
        if let Some(waiting) = self.facts_waiting(task) {
            return Some(waiting.clone());
        }
        let is_faulty = lock(&self.shared.fault).is_some();
        if is_faulty { None } else { lock(&self.shared.reader).facts(task).ok().flatten() }
    }

    /// The last facts about a task that are not on disk yet.
    pub(super) fn facts_waiting(&self, task: TaskId) -> Option<&Facts> {
        let jobs =
            self.waiting.iter().rev().map(|commit| &commit.job).chain(self.committing.iter().map(|(_, job)| &**job));
        let mut facts = jobs.flat_map(|job| job.facts.iter().rev());
        facts.find(|facts| facts.task == task)
    }

    /// Whether everything is on disk.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.committing.is_none()
    }
}

impl Commit {
    /// An empty one for an append of the machine.
    pub(super) fn of(append: u64) -> Self {
        Self { append: Some(append), job: Job::default(), batches: Vec::new(), close: None, told: Vec::new() }
    }

    fn join(&mut self, next: Self) {
        let shift = self.job.records.len() as u64;
        self.append = next.append.or(self.append);
        self.batches.extend(next.batches.into_iter().map(|(node, batch, at)| (node, batch, at + shift)));
        self.job.records.extend(next.job.records);
        self.job.payloads.extend(next.job.payloads);
        self.job.facts.extend(next.job.facts);
        self.job.snapshot = next.job.snapshot.or(self.job.snapshot.take());
        self.job.checkpoint = next.job.checkpoint.or(self.job.checkpoint.take());
        self.job.expire_before = next.job.expire_before.or(self.job.expire_before);
        self.told.extend(next.told);
        self.close = next.close;
    }
}
