//! `openledger ledger restore`: a backup put into a data folder, and whether its gateway may go on from it.
//!
//! A gateway that goes on from an earlier state signs a second history under its key. So a restored log is only read,
//! unless it has everything that the gateway is known to have signed: the records up to the head of a copy of its public
//! log, or a checkpoint that somebody kept.

use crate::backup::with_bar;
use crate::client::Client;
use crate::config::Role;
use crate::home::{Home, NETWORK};
use crate::logging::say;
use crate::verify::log::{self, Asked, Head};
use crate::verify::source::Source;
use crate::{flags, inspect};
use anyhow::{Context as _, bail, ensure};
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::key::SecretKey;
use ol_protocol::record::Record;
use ol_protocol::{Digest, GatewayId, NetworkId, Timestamp};
use ol_roles::follower::Follower;
use ol_store::backup::{self, Vacant};
use ol_store::{Identity, Job, Note, Options, Read as _, Snapshot, SqliteReader, SqliteStore, Store as _, keyfile};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Records that are written together: a few batches.
const GROUP_RECORDS: usize = 1_024;

/// What to say to whoever has no copy of the records that are missing.
const NO_COPY: &str = "If there is none, this log can't go on under its gateway's key: restore it without --public-log and \
                       --checkpoint to read it, and begin a new log with a new gateway key in another folder \
                       (docs/operate/upgrade-and-recovery.md)";

/// Put a backup into a data folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The newest copy of the gateway's public log: its later records are added, and the gateway may go on. A folder, as
    /// `openledger ledger mirror` keeps it, or the address of one.
    #[arg(long, value_name = "ADDRESS|FOLDER")]
    public_log: Option<String>,
    /// The newest checkpoint that the gateway signed: if it is in the log, the gateway may go on.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    common: flags::Common,
}

/// Runs `openledger ledger restore`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = flags::load(Role::Gateway, &args.common, None, None, None, None)?;
    let folder = config.data_dir.join(NETWORK);
    let goes_on = args.public_log.is_some() || args.checkpoint.is_some();
    let gateway = backup::gateway_of(&args.file)?.with_context(|| format!("{} is empty", args.file.display()))?;
    let keys = Home::open(&config.data_dir)?.sub(NETWORK)?;
    check_keys(&folder, goes_on.then_some(gateway))?;
    let place = Vacant::hold(&folder.join("gateway.db"))
        .with_context(|| format!("{} can't take a backup: name another --data-dir", folder.display()))?;
    keys.claim("a gateway")?;
    let staging = Staging::fill(&folder, &args.file)?;
    let origin = staging.check()?;
    if goes_on {
        backup::release(&staging.db())?;
    }
    if let Some(log) = &args.public_log {
        staging.extend(log, &origin)?;
    }
    if let Some(path) = &args.checkpoint {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let shown = path.display().to_string();
        let known = Checkpoint::open(&text, origin.network, origin.gateway.0).with_context(|| shown.clone())?;
        staging.is_newest(&known, &shown)?;
        contains(&staging.reader()?, &known, &shown)?;
    }
    tell(&staging.reader()?, &origin, goes_on)?;
    place.fill(&staging.db())?;
    Ok(ExitCode::SUCCESS)
}

// A missing key would be made anew at the gateway's start, and would not be the log's.
fn check_keys(folder: &Path, goes_on: Option<GatewayId>) -> anyhow::Result<()> {
    let copy_first = || format!("copy the gateway's *.key and *.secret files into {} first", folder.display());
    let load = |name: &str| keyfile::load(&folder.join(name)).with_context(copy_first);
    load("gateway.db.key")?;
    let Some(gateway) = goes_on else { return Ok(()) };
    load("gateway.secret")?;
    let found = GatewayId(SecretKey::from_bytes(&load("gateway.key")?).public());
    ensure!(found == gateway, "gateway.key in {} is of gateway {found}, the log of {gateway}", folder.display());
    for name in ["gateway-owner.key", "issuer.key", "referee.key", "referee-operator.key"] {
        if !folder.join(name).exists() {
            say(format!("note    {name} is not in {}: what needs it can't be signed", folder.display()));
        }
    }
    Ok(())
}

// What a backup is and holds.
struct Origin {
    network: NetworkId,
    gateway: GatewayId,
    size: u64,
    root: Digest,
}

// The folder in which a log is made ready; gone when this is dropped.
struct Staging(PathBuf);

impl Staging {
    fn fill(folder: &Path, file: &Path) -> anyhow::Result<Self> {
        let path = folder.join("restoring");
        if path.exists() {
            // Of an attempt that was broken off.
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let staging = Self(path);
        with_bar(|progress| backup::unpack(file, &staging.db(), progress))?
            .with_context(|| format!("cannot read {}", file.display()))?;
        std::fs::copy(folder.join("gateway.db.key"), staging.0.join("gateway.db.key"))?;
        Ok(staging)
    }

    fn db(&self) -> PathBuf {
        self.0.join("gateway.db")
    }

    fn reader(&self) -> anyhow::Result<SqliteReader> {
        SqliteReader::open(&self.db()).context("the backup")
    }

    fn check(&self) -> anyhow::Result<Origin> {
        let reader = self.reader()?;
        let faults = inspect::faults(&reader)?;
        ensure!(faults.is_empty(), "the backup does not hold: {}", faults.join("; "));
        let Some(Record::Genesis(genesis)) = reader.record(0)? else { bail!("the backup is empty") };
        let size = reader.size()?;
        let root = reader.root(size)?.context("the backup has no root")?;
        Ok(Origin { network: genesis.network(), gateway: genesis.gateway, size, root })
    }

    // A checkpoint from before the backup's last one doesn't tell what was signed after that.
    fn is_newest(&self, known: &Checkpoint, whence: &str) -> anyhow::Result<()> {
        let last = self.reader()?.latest_checkpoint()?.map_or(known.epoch, |last| last.epoch);
        ensure!(
            last <= known.epoch,
            "the checkpoint in {whence} is of epoch {}, the backup's last one of epoch {last}: name the newest that the gateway \
             signed, as this one can't tell what was signed since. {NO_COPY}",
            known.epoch
        );
        Ok(())
    }

    // Adds the records that a copy of the public log has after the backup's.
    fn extend(&self, log: &str, origin: &Origin) -> anyhow::Result<()> {
        let source = Source::new(log)?;
        let last = self.reader()?.latest_checkpoint()?;
        let identity = Identity { network: Some(origin.network), gateway: origin.gateway };
        let store = SqliteStore::open(&self.db(), identity, Options::default())?;
        let mut extension = Extension { store, size: origin.size, root: origin.root, group: Vec::new() };
        let asked = Asked { network: Some(origin.network), gateway: Some(origin.gateway), ..Asked::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(refuse_running(log))?;
        let follow = log::follow(&source, &asked, |follower, record| extension.take(follower, record));
        let (follower, head) = runtime.block_on(follow).with_context(|| format!("the log at {log}"))?;
        if let Some(last) = last.filter(|last| last.epoch > head.checkpoint.epoch) {
            bail!(
                "the log at {log} ends with epoch {}, the backup with epoch {}: name a newer copy, as this one can't \
                 tell what was signed since. {NO_COPY}",
                head.checkpoint.epoch,
                last.epoch
            );
        }
        extension.end(&follower, &head)?;
        contains(&self.reader()?, &head.checkpoint, log)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What is left is removed by the next attempt.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct Extension {
    store: SqliteStore,
    // Of the backup.
    size: u64,
    root: Digest,
    group: Vec<Record>,
}

impl Extension {
    fn take(&mut self, follower: &Follower, record: &Record) -> anyhow::Result<()> {
        if follower.size() == self.size {
            ensure!(follower.root() == self.root, "it holds other records than the backup: there are two histories");
        }
        if follower.size() > self.size {
            self.group.push(record.clone());
        }
        let is_whole = !matches!(record, Record::Receipt(_));
        if is_whole && self.group.len() >= GROUP_RECORDS { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> anyhow::Result<()> {
        self.store.append(&std::mem::take(&mut self.group))?;
        Ok(())
    }

    // The gateway settles from here on.
    fn end(mut self, follower: &Follower, Head { checkpoint, note }: &Head) -> anyhow::Result<()> {
        self.write()?;
        let (epoch, size) = (checkpoint.epoch, checkpoint.size);
        if size <= self.size {
            return Ok(());
        }
        let snapshot = Some(Snapshot { epoch, size, bytes: follower.settler().to_bytes() });
        let checkpoint = Some(Note { epoch, size, text: note.clone() });
        self.store.commit_one(Job { snapshot, checkpoint, ..Job::default() })?;
        Ok(())
    }
}

// A log that is handed out by its gateway goes on while it is copied: then there would be two of the gateway.
async fn refuse_running(log: &str) -> anyhow::Result<()> {
    let Some(base) = log.trim_end_matches('/').strip_suffix("/log").filter(|base| base.starts_with("http://")) else {
        return Ok(());
    };
    let health = Client::to(base).get("/health").await.with_context(|| format!("cannot reach {base}"))?;
    let says = serde_json::from_slice::<serde_json::Value>(&health.body).unwrap_or_default();
    ensure!(
        !says["live"].is_boolean(),
        "a gateway runs at {base}: copy its log with openledger ledger mirror, stop it for good, and name the copy"
    );
    Ok(())
}

fn contains(reader: &SqliteReader, known: &Checkpoint, whence: &str) -> anyhow::Result<()> {
    let (epoch, size) = (known.epoch, reader.size()?);
    ensure!(
        known.size <= size,
        "the backup has {size} records, and the gateway signed the checkpoint of epoch {epoch} over {}, which is in \
         {whence}: name a copy of the log that has the others with --public-log. {NO_COPY}",
        known.size
    );
    ensure!(
        reader.root(known.size)? == Some(known.root),
        "the checkpoint of epoch {epoch} in {whence} is over other records than the backup: there are two histories"
    );
    Ok(())
}

fn tell(reader: &SqliteReader, origin: &Origin, goes_on: bool) -> anyhow::Result<()> {
    let size = reader.size()?;
    say(format!("ok      the backup's {} records, proofs and signatures, and the books", origin.size));
    if size > origin.size {
        say(format!("ok      {} later records, checked, from the copy of the log", size - origin.size));
    }
    match reader.latest_checkpoint()? {
        Some(note) => say(format!("ok      the last checkpoint is of epoch {}{}", note.epoch, age(reader, note.size)?)),
        None => say("ok      no checkpoint was signed yet"),
    }
    if !goes_on {
        say(
            "this log can be read and is NOT continued: a gateway refuses to start on it, since the backup alone can't",
        );
        say(
            "tell what was signed after it. To go on, restore it with --public-log or --checkpoint into a folder without a log",
        );
        return Ok(());
    }
    say("open    whether the gateway signed a later checkpoint than that: if you know of one, do NOT start it, but");
    say("        restore again from a copy of the log that has it");
    say("open    batches that it acknowledged after that checkpoint are in no log: their nodes hold its signature");
    say("the gateway can go on from here; the old machine must never start again with its log");
    Ok(())
}

fn age(reader: &SqliteReader, size: u64) -> anyhow::Result<String> {
    let Some(Record::Close(close)) = reader.record(size.saturating_sub(1))? else { return Ok(String::new()) };
    let Timestamp(now) = ol_drive::clock::now();
    let minutes = now.saturating_sub(close.at.0) / 60_000_000;
    Ok(format!(", closed {} h {} min ago", minutes / 60, minutes % 60))
}
