//! The thread that owns a store and commits whatever waits, together.

use crate::error::Error;
use crate::store::{Appended, Job, Store};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

// Jobs that may wait. A job is a batch of up to 256 receipts; a node sends one a second, so this is a thousand nodes'.
const QUEUE_JOBS_MAX: usize = 1_024;

// Jobs of one transaction: enough that the disk's flush is shared, few enough that no one waits for many others.
const GROUP_JOBS_MAX: usize = 256;

/// Owns the thread. When it is dropped or stopped, jobs that wait are committed and later ones answered with
/// [`Error::Closed`].
#[derive(Debug)]
pub struct Committer {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Takes jobs for a committer from any thread; cheap to copy.
#[derive(Debug, Clone)]
pub struct Handle(SyncSender<Message>);

enum Message {
    Job(Arc<Job>, Answer),
    Stop,
}

type Callback = Box<dyn FnOnce(Result<Appended, Error>) + Send>;

// Answers once; a job that is dropped on the way was not committed.
struct Answer(Option<Callback>);

impl Answer {
    fn give(mut self, result: Result<Appended, Error>) {
        if let Some(answer) = self.0.take() {
            answer(result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Err(Error::Closed));
        }
    }
}

impl Committer {
    /// Starts the thread.
    pub fn start(store: impl Store + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE_JOBS_MAX);
        let thread = thread::Builder::new().name("committer".into()).spawn(move || run(store, &receiver))?;
        Ok(Self { handle: Handle(sender), thread: Some(thread) })
    }

    /// A handle for submitters.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Commits what waits, then ends the thread and closes the store.
    pub fn stop(self) {}
}

impl Drop for Committer {
    fn drop(&mut self) {
        // The thread is gone already only if it panicked; there is nothing left to stop then.
        let _ = self.handle.0.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Handle {
    /// Hands in a job without waiting. `answer` is called exactly once, on the committer's thread when the job is durable
    /// or has failed, or at once on this one with [`Error::Busy`] or [`Error::Closed`]; it must not block or panic.
    pub fn submit(&self, job: Arc<Job>, answer: impl FnOnce(Result<Appended, Error>) + Send + 'static) {
        let message = Message::Job(job, Answer(Some(Box::new(answer))));
        let (message, error) = match self.0.try_send(message) {
            Ok(()) => return,
            Err(TrySendError::Full(message)) => (message, Error::Busy),
            Err(TrySendError::Disconnected(message)) => (message, Error::Closed),
        };
        if let Message::Job(_, answer) = message {
            answer.give(Err(error));
        }
    }

    /// Hands in a job and waits for its answer: for starting up and for tools, not for an asynchronous task.
    pub fn commit(&self, job: Job) -> Result<Appended, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let answer = Answer(Some(Box::new(move |result| drop(sender.send(result)))));
        // A full queue is waited for here; a closed one drops the message, which answers it.
        drop(self.0.send(Message::Job(Arc::new(job), answer)));
        receiver.recv().unwrap_or(Err(Error::Closed))
    }
}

fn run(mut store: impl Store, receiver: &Receiver<Message>) {
    while let Ok(Message::Job(job, answer)) = receiver.recv() {
        let (mut jobs, mut answers) = (vec![job], vec![answer]);
        let mut stopped = false;
        while jobs.len() < GROUP_JOBS_MAX && !stopped {
            match receiver.try_recv() {
                Ok(Message::Job(job, answer)) => {
                    jobs.push(job);
                    answers.push(answer);
                }
                Ok(Message::Stop) => stopped = true,
                Err(_) => break,
            }
        }
        let results = store.commit(&jobs);
        answers.into_iter().zip(results).for_each(|(answer, result)| answer.give(result));
        if stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Read;
    use ol_protocol::Digest;
    use std::sync::mpsc::Sender;

    // Tells the size of each group that it is given and waits for leave to answer it.
    struct Gated {
        entered: Sender<usize>,
        leave: Receiver<()>,
    }

    impl Store for Gated {
        fn commit(&mut self, jobs: &[Arc<Job>]) -> Vec<Result<Appended, Error>> {
            self.entered.send(jobs.len()).expect("the test listens");
            self.leave.recv().expect("the test lets it go");
            let answer = |place| Appended { first_index: place, size: 0, root: Digest([0; 32]), expired: 0 };
            (0..jobs.len() as u64).map(|place| Ok(answer(place))).collect()
        }

        fn read(&self) -> &dyn Read {
            unreachable!("not asked here")
        }

        fn reader(&self) -> Result<Box<dyn Read>, Error> {
            unreachable!("not asked here")
        }
    }

    struct Setup {
        committer: Committer,
        entered: Receiver<usize>,
        leave: Sender<()>,
    }

    fn setup() -> Setup {
        let ((entered, listen), (leave, wait)) = (mpsc::channel(), mpsc::channel());
        let committer = Committer::start(Gated { entered, leave: wait }).expect("a thread");
        Setup { committer, entered: listen, leave }
    }

    fn submit(handle: &Handle, answers: &Sender<Result<u64, String>>) {
        let answers = answers.clone();
        handle.submit(Arc::new(Job::default()), move |result| {
            let place = result.map(|done| done.first_index).map_err(|error| error.to_string());
            answers.send(place).expect("the test listens");
        });
    }

    #[test]
    fn what_waits_is_committed_together_and_each_gets_its_own_answer() {
        let Setup { committer, entered, leave } = setup();
        let (sender, answers) = mpsc::channel();
        submit(&committer.handle(), &sender);
        assert_eq!(entered.recv(), Ok(1));
        (0..3).for_each(|_| submit(&committer.handle(), &sender));
        leave.send(()).expect("waits");
        assert_eq!(entered.recv(), Ok(3));
        leave.send(()).expect("waits");
        let heard: Vec<_> = answers.iter().take(4).collect();
        assert_eq!(heard, [Ok(0), Ok(0), Ok(1), Ok(2)]);
    }

    #[test]
    fn a_full_queue_refuses_and_stopping_commits_what_waits() {
        let Setup { committer, entered, leave } = setup();
        let (handle, (sender, answers)) = (committer.handle(), mpsc::channel());
        submit(&handle, &sender);
        assert_eq!(entered.recv(), Ok(1));
        (0..=QUEUE_JOBS_MAX).for_each(|_| submit(&handle, &sender));
        assert_eq!(answers.recv(), Ok(Err("the store's queue is full".into())));
        let groups = 1 + QUEUE_JOBS_MAX / GROUP_JOBS_MAX;
        (0..groups).for_each(|_| leave.send(()).expect("waits"));
        committer.stop();
        submit(&handle, &sender);
        drop(sender);
        let heard: Vec<_> = answers.iter().collect();
        let closed = Err("the store is closed".into());
        let in_groups = (0..QUEUE_JOBS_MAX).map(|place| Ok((place % GROUP_JOBS_MAX) as u64));
        let expected: Vec<_> = [Ok(0)].into_iter().chain(in_groups).chain([closed]).collect();
        assert_eq!(heard, expected);
    }
}
