//! The store as it is asked while the loop goes on, for HTTP and for audits: on a connection of its own, so that a slow
//! answer keeps nobody else waiting, off the threads that serve sockets, and one question at a time, in the order in which they came.

use super::handle::lock;
use ol_store::Read;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// A cheap handle.
#[derive(Clone)]
pub(super) struct Questions {
    // Waiting for it takes no thread, as waiting for the lock would.
    turn: Arc<Semaphore>,
    reader: Arc<Mutex<Box<dyn Read>>>,
}

impl Questions {
    pub(super) fn new(reader: Box<dyn Read>) -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), reader: Arc::new(Mutex::new(reader)) }
    }

    /// Asks; `None` if the question panicked or the process is about to end.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Read) -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok()?;
        let reader = Arc::clone(&self.reader);
        let answer = tokio::task::spawn_blocking(move || {
            let answer = question(lock(&reader).as_ref());
            drop(turn);
            answer
        });
        answer.await.ok()
    }
}
