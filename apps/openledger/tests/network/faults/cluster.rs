//! A PostgreSQL server of a test's own, that can be killed, ended, and made to stand still.

use crate::process::{Process, eventually};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server with its defaults but for where it listens, ended with this.
pub(super) struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    postmaster: Process,
}

impl Cluster {
    /// With new databases in this folder.
    pub(super) fn new(folder: &Path) -> Self {
        let programs = programs();
        fs::create_dir_all(folder).unwrap();
        if is_root() {
            // Whoever makes temporary folders keeps others out.
            let above = folder.parent().unwrap();
            assert!(Command::new("chmod").arg("o+x").arg(above).status().unwrap().success());
            assert!(Command::new("chown").arg("postgres").arg(folder).status().unwrap().success());
        }
        let mut make = command(&programs.join("initdb"));
        make.args(["--username=postgres", "--auth=trust", "--no-sync", "--pgdata"]).arg(folder.join("data"));
        assert!(make.stdout(Stdio::null()).status().unwrap().success());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postmaster = start(&programs, folder, port);
        let mut cluster = Self { programs, folder: folder.to_path_buf(), port, postmaster };
        cluster.wait();
        cluster
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills all of its processes where they stand.
    pub(super) fn kill(&mut self) {
        // Who stands still makes no more processes.
        self.signal("-STOP", &[self.postmaster.id()]);
        self.signal("-KILL", &self.processes());
        self.postmaster.wait();
    }

    /// Ends it in order: sessions are cut off, and what they have not committed is undone.
    pub(super) fn end(&mut self) {
        self.signal("-INT", &[self.postmaster.id()]);
        assert!(self.postmaster.wait().success(), "{}", self.postmaster.err.all());
    }

    /// Begins it again after its end.
    pub(super) fn again(&mut self) {
        self.postmaster = start(&self.programs, &self.folder, self.port);
        self.wait();
    }

    /// All of its processes stand still.
    pub(super) fn stop(&self) {
        self.signal("-STOP", &[self.postmaster.id()]);
        self.signal("-STOP", &self.processes());
    }

    /// All of them go on.
    pub(super) fn go_on(&self) {
        self.signal("-CONT", &self.processes());
    }

    fn processes(&self) -> Vec<u32> {
        let id = self.postmaster.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        std::iter::once(id).chain(children.split_whitespace().map(|child| child.parse().unwrap())).collect()
    }

    fn signal(&self, signal: &str, to: &[u32]) {
        let mut kill = Command::new("kill");
        kill.arg(signal).args(to.iter().map(u32::to_string)).stderr(Stdio::null());
        // A session may have ended meanwhile.
        let _ = kill.status().expect("kill runs");
    }

    // After a kill it does not start before the processes of the last one are gone.
    fn wait(&mut self) {
        eventually("a server that answers", || {
            if !self.postmaster.is_running() {
                self.postmaster = start(&self.programs, &self.folder, self.port);
            }
            let mut ask = command(&self.programs.join("pg_isready"));
            ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            ask.status().unwrap().success().then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.postmaster.is_running() {
            self.signal("-KILL", &self.processes());
        }
    }
}

fn start(programs: &Path, folder: &Path, port: u16) -> Process {
    let mut command = command(&programs.join("postgres"));
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).args(["-p", &port.to_string()]);
    command.args(["-c", "listen_addresses=127.0.0.1"]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::start(command)
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
    fs::metadata("/proc/self").unwrap().uid() == 0
}

// Debian's folder of the newest version, or the one that is named.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("OPENLEDGER_POSTGRES_PROGRAMS") {
        return folder.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's programs").flatten();
    versions.map(|version| version.path().join("bin")).max().expect("a version of PostgreSQL")
}
