//! PostgreSQL servers for tests: the one that `OPENLEDGER_POSTGRES` names, one that may be killed, and a bad line to one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::config::Host;
use tokio_postgres::{Config, NoTls};

// Longest wait for a server to start: after a kill it must wait until the processes of the last one are gone.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs statements and answers the rows' first columns.
pub(crate) fn try_sql(url: &str, text: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let driver = tokio::spawn(connection);
        let messages = client.simple_query(text).await;
        drop(client);
        drop(driver.await);
        let rows = messages?.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(rows.collect())
    })
}

/// Runs statements that must not fail.
pub(crate) fn sql(url: &str, text: &str) -> Vec<String> {
    try_sql(url, text).expect("statements that don't fail")
}

/// The URL of the server for tests, and of a database of our own on it, dropped with this.
pub(crate) struct Database {
    server: String,
    name: String,
}

impl Database {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = std::env::var("OPENLEDGER_POSTGRES").expect("OPENLEDGER_POSTGRES");
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        sql(&server, &format!("CREATE DATABASE {name}"));
        Self { server, name }
    }

    pub(crate) fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("a URL that ends with a database's name");
        format!("{server}/{}", self.name)
    }

    /// The URL of the same database at another port of this machine.
    pub(crate) fn url_at(&self, port: u16) -> String {
        let url = self.url();
        let (start, host) = url.rsplit_once('@').expect("a URL with a user");
        let (_, name) = host.rsplit_once('/').expect("a name");
        format!("{start}@127.0.0.1:{port}/{name}")
    }

    /// Ends every session on it but the one that says so.
    pub(crate) fn end_sessions(&self) {
        let sessions = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'openledger'";
        sql(&self.url(), &format!("SELECT pg_terminate_backend(pid) {sessions}"));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(try_sql(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name)));
    }
}

/// A server of our own, that may be killed.
pub(crate) struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    options: Vec<String>,
    postmaster: Child,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let (programs, folder) = (programs(), tempfile::tempdir().expect("a folder"));
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(folder.path()).status().expect("chown").success());
        }
        let mut make = command(&programs.join("initdb"));
        let made = make.args(["-U", "postgres", "-A", "trust", "-D"]).arg(folder.path().join("data"));
        assert!(made.stdout(Stdio::null()).status().expect("initdb").success());
        let options = vec!["-c".to_owned(), "listen_addresses=".to_owned()];
        let postmaster = start(&programs, folder.path(), &options);
        let mut cluster = Self { programs, folder, options, postmaster };
        cluster.wait();
        cluster
    }

    /// Has it listen on this machine's port, for connections over TLS only, as `localhost` by a certificate of `authority`.
    pub(crate) fn encrypt(&mut self, port: u16, authority: &Authority) {
        let data = self.folder.path().join("data");
        authority.certify("localhost", &data.join("server.crt"), &data.join("server.key"));
        if is_root() {
            let files = [data.join("server.crt"), data.join("server.key")];
            assert!(Command::new("chown").arg("postgres").args(files).status().expect("chown").success());
        }
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all all trust\n").expect("written");
        let settings = ["listen_addresses=127.0.0.1".to_owned(), format!("port={port}"), "ssl=on".to_owned()];
        self.options = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect();
        self.kill_and_restart();
    }

    /// Takes TLS from it again.
    pub(crate) fn stop_encrypting(&mut self) {
        for setting in self.options.iter_mut().filter(|setting| *setting == "ssl=on") {
            *setting = "ssl=off".to_owned();
        }
        self.kill_and_restart();
    }

    pub(crate) fn url(&self) -> String {
        let port = self.options.iter().find_map(|setting| setting.strip_prefix("port=")).unwrap_or("5432");
        format!("postgres:///postgres?host={}&port={port}&user=postgres", self.folder.path().display())
    }

    /// Kills the server's processes where they stand, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        let id = self.postmaster.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its processes");
        self.postmaster.kill().expect("killed");
        // Some of them may be gone already.
        let killed = Command::new("kill").arg("-9").args(children.split_whitespace()).stderr(Stdio::null()).status();
        killed.expect("kill");
        self.postmaster.wait().expect("gone");
        self.postmaster = start(&self.programs, self.folder.path(), &self.options);
        self.wait();
    }

    fn wait(&mut self) {
        let end = Instant::now() + START_LIMIT;
        while let Err(error) = try_sql(&self.url(), "SELECT 1") {
            assert!(Instant::now() < end, "the server does not start: {error}");
            if self.postmaster.try_wait().expect("asked").is_some() {
                self.postmaster = start(&self.programs, self.folder.path(), &self.options);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGINT ends it at once, in order.
        drop(Command::new("kill").arg("-INT").arg(self.postmaster.id().to_string()).status());
        drop(self.postmaster.wait());
    }
}

fn start(programs: &Path, folder: &Path, options: &[String]) -> Child {
    let mut command = command(&programs.join("postgres"));
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).args(options);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

/// Who certifies servers' names.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, certificate) = (folder.path().join("ca.key"), folder.path().join("ca.crt"));
        let new = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=authority",
        ];
        openssl(Command::new("openssl").args(new).arg("-keyout").arg(key).arg("-out").arg(certificate));
        Self { folder }
    }

    /// The file of its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    fn certify(&self, name: &str, certificate: &Path, key: &Path) {
        let (of, ours) = (self.certificate(), self.folder.path().join("ca.key"));
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let mut command = Command::new("openssl");
        command.args(new).args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl(
            command.arg("-CA").arg(of).arg("-CAkey").arg(ours).arg("-keyout").arg(key).arg("-out").arg(certificate),
        );
    }
}

fn openssl(command: &mut Command) {
    assert!(command.stderr(Stdio::null()).status().expect("openssl").success());
}

// The server refuses to run as root.
fn command(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program).current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("this process").uid() == 0
}

// Debian's folder of the newest version, or the one that is named.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("OPENLEDGER_POSTGRES_PROGRAMS") {
        return folder.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's programs").flatten();
    versions.map(|version| version.path().join("bin")).max().expect("a version of PostgreSQL")
}

/// What a line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Line {
    /// Carries everything.
    Good,
    /// Breaks instead of carrying the answer to a commit.
    BreaksAfterCommit,
    /// Breaks at the next word of the client, and takes no new connection.
    Cut,
}

/// A line to the server of a database, that can be made to break.
pub(crate) struct Proxy {
    port: u16,
    line: Arc<AtomicU8>,
}

impl Proxy {
    pub(crate) fn new(database: &Database) -> Self {
        let config: Config = database.url().parse().expect("a URL");
        let [Host::Tcp(host)] = config.get_hosts() else { panic!("the server for tests listens on TCP") };
        let upstream = (host.clone(), config.get_ports().first().copied().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let line = Arc::new(AtomicU8::new(Line::Good as u8));
        let state = line.clone();
        // Both end with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.load(Ordering::SeqCst) != Line::Cut as u8 {
                    let server = TcpStream::connect(&upstream).expect("the server");
                    carry(&client, &server, &state);
                }
            }
        });
        Self { port, line }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.store(line as u8, Ordering::SeqCst);
    }

    pub(crate) fn is(&self, line: Line) -> bool {
        self.line.load(Ordering::SeqCst) == line as u8
    }
}

fn carry(client: &TcpStream, server: &TcpStream, state: &Arc<AtomicU8>) {
    let pump = |from: &TcpStream, to: &TcpStream, breaks: fn(&AtomicU8, &[u8]) -> bool| {
        let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
        let state = state.clone();
        thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                if breaks(&state, &bytes[..length]) || to.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
            // Either side may be gone.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    };
    pump(client, server, |state, _| state.load(Ordering::SeqCst) == Line::Cut as u8);
    pump(server, client, |state, bytes| {
        let (from, to) = (Line::BreaksAfterCommit as u8, Line::Good as u8);
        bytes.windows(7).any(|it| it == b"COMMIT\0")
            && state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    });
}
