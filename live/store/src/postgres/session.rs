//! One connection to a server, driven by a thread of its own and asked by whoever holds it, asynchronous or not.

use super::server::Server;
use crate::error::Error;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, mpsc};
use std::task::Wake;
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

/// Longest wait for any answer: many times what the largest group of jobs takes.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A value in a statement.
pub(super) type Value = Box<dyn ToSql + Sync>;

/// A statement with its values.
pub(super) struct Call {
    pub(super) sql: &'static str,
    pub(super) values: Vec<Value>,
}

impl Call {
    pub(super) fn new(sql: &'static str, values: Vec<Value>) -> Self {
        Self { sql, values }
    }
}

/// What a statement came to.
pub(super) type Answer = Result<Vec<Row>, tokio_postgres::Error>;

/// A connection and the statements it knows.
pub(super) struct Session {
    // Before the driver, so that it is dropped first and the driver takes leave of the server.
    client: Client,
    statements: RefCell<BTreeMap<&'static str, Statement>>,
    server: Server,
    abandoned: Cell<bool>,
    // Whether the log's lock is held by it.
    pub(super) owns_log: Cell<bool>,
    _driver: Driver,
}

impl Session {
    pub(super) fn connect(server: &Server) -> Result<Self, Error> {
        let (client, driver) = Driver::start(server)?;
        Ok(Self {
            client,
            statements: RefCell::default(),
            server: server.clone(),
            abandoned: Cell::new(false),
            owns_log: Cell::new(false),
            _driver: driver,
        })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Whether nothing more can be asked.
    pub(super) fn is_closed(&self) -> bool {
        self.abandoned.get() || self.client.is_closed()
    }

    /// Marks it as unfit: it is closed before anyone asks again.
    pub(super) fn abandon(&self) {
        self.abandoned.set(true);
    }

    /// Runs one statement.
    pub(super) fn ask(&self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.statement(sql)?;
        self.wait(self.client.query(&statement, values))?.map_err(|cause| self.server.failed(cause))
    }

    /// Runs several statements without values.
    pub(super) fn script(&self, sql: &str) -> Result<(), Error> {
        self.wait(self.client.batch_execute(sql))?.map_err(|cause| self.server.failed(cause))
    }

    /// Runs statements in order, all sent before the first answer is waited for. An error here means that nothing was
    /// heard of some of them; an error of a statement is its answer.
    pub(super) fn ask_all(&self, calls: &[Call]) -> Result<Vec<Answer>, Error> {
        let statements: Vec<Statement> = calls.iter().map(|call| self.statement(call.sql)).collect::<Result<_, _>>()?;
        let values: Vec<Vec<&(dyn ToSql + Sync)>> =
            calls.iter().map(|call| call.values.iter().map(|value| &**value as _).collect()).collect();
        let mut waiting: Vec<_> =
            statements.iter().zip(&values).map(|(sql, values)| Box::pin(self.client.query(sql, values))).collect();
        let mut answers: Vec<Option<Answer>> = waiting.iter().map(|_| None).collect();
        // A statement is sent when it is first polled, so their order is that of this loop.
        let all = poll_fn(|context| {
            for (future, answer) in waiting.iter_mut().zip(&mut answers) {
                if answer.is_none()
                    && let Poll::Ready(done) = future.as_mut().poll(context)
                {
                    *answer = Some(done);
                }
            }
            if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        });
        self.wait(all)?;
        Ok(answers.into_iter().flatten().collect())
    }

    fn statement(&self, sql: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let prepared = self.wait(self.client.prepare(sql))?.map_err(|cause| self.server.failed(cause))?;
        self.statements.borrow_mut().insert(sql, prepared.clone());
        Ok(prepared)
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        wait(pin!(future), ANSWER_LIMIT).ok_or_else(|| {
            self.abandon();
            Error::Silent { place: self.server.place().clone() }
        })
    }
}

// The thread that reads and writes the socket. Stopped when dropped.
struct Driver {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    fn start(server: &Server) -> Result<(Client, Self), Error> {
        let place = server.place();
        let failed = |cause: io::Error| Error::Thread { place: place.clone(), cause: Arc::new(cause) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (sender, connected) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let server = server.clone();
        let drive = async move {
            match server.connect().await {
                Ok((client, connection)) => {
                    // Whoever waited no longer may have gone; then the client is dropped, which ends the connection. How
                    // it ends otherwise, whoever asks next is told.
                    drop(sender.send(Ok(client)));
                    drop(connection.await);
                }
                Err(cause) => drop(sender.send(Err(server.failed(cause)))),
            }
        };
        let both = async move {
            tokio::select! {
                biased;
                () = drive => {}
                _ = stopped => {}
            }
        };
        let thread = thread::Builder::new().name("postgres".into()).spawn(move || runtime.block_on(both));
        let driver = Self { stop: Some(stop), thread: Some(thread.map_err(failed)?) };
        let silent = |_| Err(Error::Silent { place: place.clone() });
        Ok((connected.recv_timeout(ANSWER_LIMIT).unwrap_or_else(silent)?, driver))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

// Holds up this thread until an answer is there, also where a runtime's own waiting is not allowed.
fn wait<T>(mut future: Pin<&mut impl Future<Output = T>>, limit: Duration) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let end = Instant::now() + limit;
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return Some(done);
        }
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return None,
            left => thread::park_timeout(left),
        }
    }
}
