//! A gateway and its nodes as processes of their own, and the processor time that one of them takes.

use anyhow::{Context as _, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Epochs shorter than a round, so that closing them is part of what is measured.
const EPOCH_SECONDS: &str = "5";

/// Beyond what one machine asks in a minute.
const UNLIMITED: &str = "4000000000";

/// A process that ends with its handle.
pub(super) struct Process {
    child: Child,
    // Kept open: a program whose output nobody takes ends.
    output: BufReader<std::process::ChildStdout>,
    log: PathBuf,
}

/// A running gateway.
pub(super) struct Gateway {
    /// Its process.
    pub(super) process: Process,
    /// Where HTTP is served.
    pub(super) address: SocketAddr,
    /// The owner's key.
    pub(super) key: String,
    /// What nodes join with.
    pub(super) ticket: String,
}

impl Process {
    fn start(arguments: &[&str], data_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("cannot make the folder {}", data_dir.display()))?;
        // A referee shares its gateway's folder.
        let log = data_dir.join(format!("{}-stderr.log", arguments.first().unwrap_or(&"")));
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command.args(arguments).arg("--data-dir").arg(data_dir);
        // Settings of whoever measures are not settings of what is measured.
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPENLEDGER_")).for_each(
            |(name, _)| {
                command.env_remove(name);
            },
        );
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?)
            .spawn()
            .with_context(|| format!("cannot start `{}`", arguments.first().unwrap_or(&"")))?;
        let output = BufReader::new(child.stdout.take().context("a child without output")?);
        Ok(Self { child, output, log })
    }

    // The rest of the first line that starts with `label`.
    fn said(&mut self, label: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).context("cannot read what a child says")? > 0 {
            if let Some(rest) = line.strip_prefix(label) {
                return Ok(rest.trim().to_owned());
            }
            line.clear();
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        bail!("a child ended before it said `{label}`: {}", log.trim())
    }

    /// Processor time of each living thread so far, in nanoseconds, by thread name.
    pub(super) fn cpu_ns(&self) -> BTreeMap<String, u64> {
        let mut by_name = BTreeMap::new();
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return by_name };
        for task in tasks.flatten() {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let ns = read("schedstat").split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
            *by_name.entry(read("comm").trim().to_owned()).or_default() += ns.unwrap_or(0);
        }
        by_name
    }

    /// Resident memory in KiB.
    pub(super) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Gateway {
    /// Starts a gateway with a folder of its own and prices that a benchmark can pay for long.
    pub(super) fn start(data_dir: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let settings = [
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--node-listen",
            "127.0.0.1:0",
            "--epoch-seconds",
            EPOCH_SECONDS,
            "--prompt-price",
            "1",
            "--output-price",
            "1",
            "--requests-per-minute",
            UNLIMITED,
            "--tokens-per-minute",
            UNLIMITED,
        ];
        let mut process = Process::start(&[&settings, more].concat(), data_dir)?;
        let url = process.said("API ")?;
        let key = process.said("API key")?;
        let ticket = process.said("ticket")?;
        let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let address = authority.parse().with_context(|| format!("no address in {url}"))?;
        Ok(Self { process, address, key, ticket })
    }

    /// Starts a node that answers at once with `tokens` tokens, or fewer if asked for fewer.
    pub(super) fn node(&self, tokens: u32, data_dir: &Path) -> anyhow::Result<Process> {
        let tokens = tokens.to_string();
        let mut process =
            Process::start(&["node", "--join", &self.ticket, "--instant", &tokens, "--slots", "512"], data_dir)?;
        process.said("node")?;
        Ok(process)
    }

    /// Starts a node that computes this model on one thread, two answers at a time.
    pub(super) fn engine(&self, model: &Path, data_dir: &Path) -> anyhow::Result<Process> {
        let model = model.to_str().context("a path that is no text")?;
        let models = ["--model", model, "--embedding-model", "tiny"];
        let node = ["node", "--join", &self.ticket, "--slots", "2", "--threads", "1"];
        let mut process = Process::start(&[&node[..], &models].concat(), data_dir)?;
        process.said("node")?;
        Ok(process)
    }

    /// Starts the gateway's referee, which measures what honest answers of such nodes look like: without it nobody audits them.
    pub(super) fn referee(&self, tokens: u32, data_dir: &Path) -> anyhow::Result<Process> {
        let tokens = tokens.to_string();
        let mut process =
            Process::start(&["node", "--join", &self.ticket, "--referee", "--instant", &tokens], data_dir)?;
        process.said("node")?;
        Ok(process)
    }
}
