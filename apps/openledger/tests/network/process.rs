//! Processes of the binary: their folders, what they print, and their end.

use crate::http::Api;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for anything: many times what it takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The binary, without this process's own settings.
pub(crate) fn openledger(args: &[&str]) -> Command {
    openledger_under(&[], args)
}

/// The binary as another program runs it, which comes first with its own arguments.
pub(crate) fn openledger_under(runner: &[String], args: &[&str]) -> Command {
    let all = [runner, &[env!("CARGO_BIN_EXE_openledger").to_owned()]].concat();
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPENLEDGER_")) {
        command.env_remove(name);
    }
    command
}

/// How a command that ends by itself ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Its only line of output, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("no JSON: {}\n{}", self.out, self.err))
    }

    /// A failure with one clear complaint.
    pub(crate) fn complaint(&self) -> &str {
        assert!(!self.status.success(), "it did not fail: {}", self.out);
        assert!(!self.err.contains("panicked"), "it panicked: {}", self.err);
        &self.err
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: Command) -> Ended {
    let mut process = Process::start(command);
    let status = process.wait();
    Ended { status, out: process.out.all(), err: process.err.all() }
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    finish(openledger(args))
}

/// What a process has printed so far.
#[derive(Clone, Default)]
pub(crate) struct Printed(Arc<Mutex<String>>);

impl Printed {
    fn of(pipe: impl Read + Send + 'static) -> (Self, std::thread::JoinHandle<()>) {
        let printed = Self::default();
        let ours = printed.clone();
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = ours.0.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        (printed, thread)
    }

    /// Everything.
    pub(crate) fn all(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn after(&self, start: &str) -> Option<String> {
        self.all().lines().find_map(|line| line.strip_prefix(start).map(|rest| rest.trim().to_owned()))
    }
}

/// A process that ends with its handle.
pub(crate) struct Process {
    child: Child,
    pub(crate) out: Printed,
    pub(crate) err: Printed,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (out, first) = Printed::of(child.stdout.take().unwrap());
        let (err, second) = Printed::of(child.stderr.take().unwrap());
        Self { child, out, err, readers: vec![first, second] }
    }

    /// What follows the first line that starts so.
    pub(crate) fn printed(&mut self, start: &str) -> String {
        eventually(&format!("a line that starts with {start:?}"), || {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() || self.out.after(start).is_some(),
                "it ended: {}{}",
                self.out.all(),
                self.err.all()
            );
            self.out.after(start)
        })
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = eventually("the end of a process", || self.child.try_wait().unwrap());
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Ends it as a service manager does, and waits.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.wait()
    }

    /// The system's number for it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it with no time for anything.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "what helps with a test that failed")]
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- a process of the test printed\n{}{}", self.out.all(), self.err.all());
        }
    }
}

/// A gateway process.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) ticket: String,
    pub(crate) folder: PathBuf,
    /// The URL of the database that its log is in when it begins again, if it isn't a file.
    pub(crate) store: Option<String>,
}

impl Gateway {
    /// On free ports, with epochs of two seconds.
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Self {
        let both = [&["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0", "--epoch-seconds", "2"], more];
        Self::with(folder, &both.concat())
    }

    /// With these settings only.
    pub(crate) fn with(folder: &Path, args: &[&str]) -> Self {
        let all = [&["gateway", "--data-dir", folder.to_str().unwrap()], args].concat();
        Self::of(openledger(&all), folder)
    }

    /// From the command that runs it.
    pub(crate) fn of(command: Command, folder: &Path) -> Self {
        let mut process = Process::start(command);
        let url = process.printed("API      http://");
        let address = url.trim_end_matches("/v1").parse().unwrap();
        let key = process.printed("API key");
        let ticket = process.printed("ticket");
        Self { process, address, key, ticket, folder: folder.to_path_buf(), store: None }
    }

    /// Begins again on the same ports after its end.
    pub(crate) fn again(&mut self) {
        self.again_as(self.command_again(&[]));
    }

    /// What begins it again on the same ports, run by another program if one is named.
    pub(crate) fn command_again(&self, runner: &[String]) -> Command {
        let node_listen = self.ticket.trim_start_matches("ol1:").split('/').next().unwrap();
        let (folder, listen) = (self.folder.to_str().unwrap(), self.address.to_string());
        let args = ["gateway", "--data-dir", folder, "--listen", &listen, "--node-listen", node_listen];
        let mut command = openledger_under(runner, &args);
        command.envs(self.store.iter().map(|url| ("OPENLEDGER_STORE", url)));
        command
    }

    /// Begins again by a command.
    pub(crate) fn again_as(&mut self, command: Command) {
        let (ticket, key, store) = (self.ticket.clone(), self.key.clone(), self.store.take());
        *self = Self { store, ..Self::of(command, &self.folder.clone()) };
        assert_eq!((&self.ticket, &self.key), (&ticket, &key));
    }

    /// Its API with the owner's key.
    pub(crate) fn api(&self) -> Api {
        Api::new(self.address, &self.key)
    }

    /// Waits until so many nodes are there, and each has room for a task.
    pub(crate) fn wait_for_nodes(&self, count: u64) {
        eventually(&format!("{count} nodes with room"), || {
            let there = self.api().get("/health").json()["nodes"].as_u64();
            (there == Some(count) && self.metric("nodes_ready") == count).then_some(())
        });
    }

    /// A counter or gauge.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.api().get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("openledger_{name} ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Its log and books, checked offline.
    pub(crate) fn fsck(&self) {
        let mut command = openledger(&["ledger", "fsck", "--data-dir", self.folder.to_str().unwrap()]);
        command.envs(self.store.iter().map(|url| ("OPENLEDGER_STORE", url)));
        let ended = finish(command);
        assert!(ended.status.success() && ended.out.contains(" 0 faults"), "{}{}", ended.out, ended.err);
    }
}

/// A node process.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) id: String,
    pub(crate) operator: String,
}

impl Node {
    /// With the tiny models.
    pub(crate) fn join(ticket: &str, folder: &Path) -> Self {
        Self::with(ticket, folder, &["--slots", "2", "--threads", "1"])
    }

    /// The referee, in the gateway's folder.
    pub(crate) fn referee(gateway: &Gateway) -> Self {
        Self::with(&gateway.ticket, &gateway.folder, &["--referee", "--threads", "1"])
    }

    pub(crate) fn with(ticket: &str, folder: &Path, more: &[&str]) -> Self {
        Self::of(Self::command(&[], ticket, folder, more))
    }

    /// What begins a node, run by another program if one is named.
    pub(crate) fn command(runner: &[String], ticket: &str, folder: &Path, more: &[&str]) -> Command {
        let args = ["node", "--join", ticket, "--data-dir", folder.to_str().unwrap()];
        let models = ["--model", "tiny", "--embedding-model", "tiny"];
        openledger_under(runner, &[&args[..], &models, more].concat())
    }

    /// From the command that runs it.
    pub(crate) fn of(command: Command) -> Self {
        let mut process = Process::start(command);
        let id = process.printed("node");
        let operator = process.printed("operator");
        Self { process, id, operator }
    }
}
