//! The threads that an engine computes on.

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Threads of one engine: beyond it, shares of a product are too small for any model that fits.
const THREADS_MAX: usize = 64;

/// A pool of threads, or the caller's own.
#[derive(Debug)]
pub(crate) struct Compute {
    pool: Option<ThreadPool>,
}

impl Compute {
    /// Up to `threads` threads; 0 is one per core. Where the system gives none, the caller's thread computes alone.
    pub(crate) fn new(threads: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads as usize }.min(THREADS_MAX);
        let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("engine-{index}"));
        Self { pool: (threads > 1).then(|| builder.build().ok()).flatten() }
    }

    /// Threads that compute.
    pub(crate) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, ThreadPool::current_num_threads)
    }

    /// Runs work where its parallel parts use these threads.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce(usize) -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(|| work(pool.current_num_threads())),
            None => work(1),
        }
    }
}
