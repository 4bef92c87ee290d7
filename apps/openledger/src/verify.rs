//! `openledger verify`: a receipt, offline; or a whole log.

mod draws;
mod evidence;
pub(crate) mod log;
pub(crate) mod mirror;
pub(crate) mod source;

use crate::config::{Config, Role};
use crate::flags;
use crate::logging::say;
use anyhow::Context as _;
use ol_gateway::driver::document::{Outcome, verify};
use ol_protocol::{Epoch, GatewayId, NetworkId};
use source::Source;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest file that is read: a response of a million tokens stays below.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Check a receipt offline, with request and response bytes, or a gateway's whole log.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The receipt, as GET /v1/receipts/{id} gives it.
    #[arg(value_name = "RECEIPT.json", required_unless_present_any = ["log", "rescore"], conflicts_with_all = ["log", "rescore"])]
    receipt: Option<PathBuf>,
    /// The request's body, byte for byte as it was sent.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The response's body, byte for byte as it came.
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// Check a gateway's whole log instead: the address of its tiles, http://HOST:PORT/log, or a folder with them.
    #[arg(long, value_name = "ADDRESS|FOLDER", conflicts_with_all = ["request", "response"])]
    log: Option<String>,
    /// With --log: the network that it must be of.
    #[arg(long, value_name = "ID", requires = "log")]
    network: Option<NetworkId>,
    /// With --log: the gateway that it must be of.
    #[arg(long, value_name = "ID", requires = "log")]
    gateway: Option<GatewayId>,
    /// With --log: only up to the close of this epoch, and say what it came to.
    #[arg(long, value_name = "NUMBER", requires = "log")]
    epoch: Option<u64>,
    /// With --log: draw the results of this epoch again, with the secret that its close revealed, and say what became of them.
    #[arg(long, value_name = "EPOCH", requires = "log", conflicts_with = "epoch")]
    draws: Option<u64>,
    /// With --log: write each piece of evidence against a node to a file in this folder.
    #[arg(long, value_name = "FOLDER", requires = "log", conflicts_with_all = ["epoch", "draws"])]
    evidence: Option<PathBuf>,
    /// Run the model over evidence, as --evidence wrote it: does it agree with the referee?
    #[arg(long, value_name = "EVIDENCE.json", conflicts_with = "log")]
    rescore: Option<PathBuf>,
    /// With --rescore: the GGUF file that the node claims to run, if it is not the default model.
    #[arg(long, value_name = "FILE", requires = "rescore")]
    model: Option<PathBuf>,
    /// With --rescore: the folder that has the default model, or is to get it [default: ~/.local/share/openledger].
    #[arg(long, value_name = "FOLDER", requires = "rescore")]
    data_dir: Option<PathBuf>,
    /// With --log: a checkpoint of the same log that was kept; the log must go on from it.
    #[arg(long, value_name = "FILE", requires = "log")]
    since: Option<PathBuf>,
}

/// Runs `openledger verify`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.rescore {
        let common = flags::Common::of(args.data_dir.clone());
        let config = flags::load(Role::Node, &common, None, None, None, None)?;
        return evidence::check(path, &Config { model: args.model.clone().or_else(|| config.model.clone()), ..config });
    }
    if let Some(log) = &args.log {
        let source = Source::new(log)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = log::Asked {
            network: args.network,
            gateway: args.gateway,
            epoch: args.epoch.map(Epoch),
            since: args.since.as_deref(),
        };
        return match (args.draws, &args.evidence) {
            (Some(epoch), _) => runtime.block_on(draws::check(&source, &asked, Epoch(epoch))),
            (None, Some(folder)) => runtime.block_on(evidence::collect(&source, &asked, folder)),
            (None, None) => runtime.block_on(log::check(&source, &asked)).context("the log does NOT hold"),
        }
        .map(|()| ExitCode::SUCCESS);
    }
    let path = args.receipt.as_deref().context("name a receipt, or a log with --log")?;
    let text = read(path)?;
    let document = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not JSON: save the receipt as the API gave it", path.display()))?;
    let request = args.request.as_deref().map(read).transpose()?;
    let response = args.response.as_deref().map(read).transpose()?;
    let checks = verify(&document, request.as_deref(), response.as_deref())
        .with_context(|| format!("cannot check {}", path.display()))?;
    let (mut failed, mut open) = (0, 0);
    for check in &checks {
        match &check.result {
            Outcome::Holds => say(format!("ok      {}", check.what)),
            Outcome::Fails(why) => {
                failed += 1;
                say(format!("WRONG   {}: {why}", check.what));
            }
            Outcome::Open(why) => {
                open += 1;
                say(format!("open    {}: {why}", check.what));
            }
        }
    }
    say(match (failed, open) {
        (0, 0) => format!("the receipt holds: {} checks", checks.len()),
        (0, open) => format!("the receipt holds so far: {} checks; {open} can't be made yet", checks.len() - open),
        (failed, _) => format!("the receipt does NOT hold: {failed} of {} checks fail", checks.len()),
    });
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{} has {size} bytes, more than any receipt or answer", path.display());
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
