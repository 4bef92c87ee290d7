//! `openledger ledger prune`: old receipts, batches and audits deleted, with everything kept that proves and settles the
//! rest; and where to begin with a log whose beginning was pruned.

use crate::inspect::{self, Opened, Place};
use crate::logging::say;
use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ol_gateway::driver::start::settle;
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::record::{Close, Record};
use ol_protocol::tile::{Content, Tile};
use ol_protocol::{Epoch, Micros};
use ol_roles::Settler;
use ol_store::{Read, Snapshot, Space, records};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const DAY: Micros = Micros::from_secs(24 * 3_600);

/// Delete old receipts, batches and audits of a gateway's log.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("until").required(true).args(["keep_days", "before"]))]
#[command(group = clap::ArgGroup::new("mirrored").required(true).args(["copy", "no_copy"]))]
pub(crate) struct Args {
    /// Keep the epochs that closed in the last so many days.
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<u32>,
    /// Keep this epoch and what came after it.
    #[arg(long, value_name = "EPOCH")]
    before: Option<u64>,
    /// A copy of the public log, as `openledger ledger mirror` keeps it, which must have what is deleted.
    #[arg(long, value_name = "FOLDER")]
    copy: Option<PathBuf>,
    /// Delete without a copy: nobody can check these receipts again.
    #[arg(long)]
    no_copy: bool,
    #[command(flatten)]
    place: Place,
}

/// Runs `openledger ledger prune`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let opened = inspect::open(&args.place)?;
    let reader = opened.read();
    let settler = settle(reader)?;
    let unsettled = first_unsettled(reader, &settler)?;
    let covered = opened.oldest_snapshot()?.unwrap_or(0);
    let Some(end) = end(reader, &settler, unsettled, covered, args)? else {
        say("nothing to delete: what is not needed any more is gone already, or nothing is that old");
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(folder) = &args.copy {
        check_copy(reader, folder, end.size)?;
    }
    let base = accounts(reader, &end)?;
    say(format!("deleting receipts, batches and audits up to epoch {}, closed {}", end.close.epoch, end.age()));
    let bar = ProgressBar::new(end.size).with_style(ProgressStyle::with_template(
        "{wide_bar} {human_pos}/{human_len} records {elapsed} (left: {eta})",
    )?);
    let looked_at = |records| bar.set_position(records);
    let before = file_space(&opened)?;
    let deleted = match &opened {
        Opened::File { path, .. } => ol_store::prune(path, &base, looked_at),
        Opened::Server { server, gateway, key, .. } => ol_store::prune_server(server, key, *gateway, &base, looked_at),
    };
    bar.finish_and_clear();
    let ol_store::Deleted { receipts, batches, audits, facts } = deleted.context("the log can't be pruned")?;
    say(format!("{receipts} receipts, {batches} batches, {audits} audits and facts of {facts} tasks are deleted"));
    say(
        "kept: every hash, the genesis, top-ups, closes, checkpoints, the last batches of each node, and what is later",
    );
    say(match before.zip(file_space(&opened)?) {
        Some((before, after)) => {
            let freed = after.free_bytes.saturating_sub(before.free_bytes);
            format!("the file keeps its {} bytes; {freed} of them are free now for new records", after.bytes)
        }
        None => "the server uses the space for new records once it has vacuumed".to_owned(),
    });
    Ok(ExitCode::SUCCESS)
}

fn file_space(opened: &Opened) -> anyhow::Result<Option<Space>> {
    Ok(match opened {
        Opened::File { path, .. } => Some(ol_store::space(path)?),
        Opened::Server { .. } => None,
    })
}

// Where the part to be deleted ends: with the close of an epoch that a checkpoint covers.
struct End {
    close: Close,
    size: u64,
}

impl End {
    fn age(&self) -> String {
        let hours = ol_drive::clock::now().0.saturating_sub(self.close.at.0) / 3_600_000_000;
        format!("{} days and {} hours ago", hours / 24, hours % 24)
    }
}

// The last epoch that may go: asked for, under a checkpoint, too old for late findings, among the records that every snapshot covers, with nothing
// unsettled before.
fn end(
    reader: &dyn Read,
    settler: &Settler,
    unsettled: Option<u64>,
    covered: u64,
    args: &Args,
) -> anyhow::Result<Option<End>> {
    let first_needed = settler.epoch().0.saturating_sub(settler.ledger().kept_epochs());
    let asked = args.before.unwrap_or(u64::MAX).min(first_needed);
    let done = reader.pruned()?.map_or(0, |pruned| pruned.epoch.0 + 1);
    let days = u64::from(args.keep_days.unwrap_or(0));
    let closed_before = ol_drive::clock::now().0.saturating_sub(DAY.0.saturating_mul(days));
    let mut is_told = false;
    for epoch in (done..asked).rev() {
        let Some(note) = reader.checkpoint(Epoch(epoch))? else { continue };
        let Some(Record::Close(close)) = reader.record(note.size.saturating_sub(1))? else {
            bail!("the checkpoint of epoch {epoch} is not over its close: openledger ledger fsck says more");
        };
        if close.at.0 >= closed_before || note.size > covered {
            continue;
        }
        if let Some(index) = unsettled.filter(|index| *index < note.size) {
            if !is_told {
                say(format!(
                    "the receipt at record {index} waits for its audit: its epoch and what came after it stay"
                ));
            }
            is_told = true;
        } else {
            let size = note.size;
            let signed = Checkpoint::open(&note.text, settler.genesis().network(), settler.genesis().gateway.0)?;
            ensure!((signed.size, Some(signed.root)) == (size, reader.root(size)?), "the checkpoint does not hold");
            return Ok(Some(End { close, size }));
        }
    }
    Ok(None)
}

// The first receipt of a closed epoch that was drawn and has no verdict.
fn first_unsettled(reader: &dyn Read, settler: &Settler) -> anyhow::Result<Option<u64>> {
    let open = settler.unsettled_charges().map(|receipt| (receipt.commitment.task, receipt.commitment.attempt));
    let open: BTreeSet<_> = open.collect();
    let mut indexes = Vec::new();
    for (id, _) in settler.unsettled().filter(|(id, _)| !open.contains(&(id.task, id.attempt))) {
        let attempts = reader.task(id.task)?.attempts;
        indexes.push(attempts.iter().map(|attempt| attempt.index).min().unwrap_or(0));
    }
    Ok(indexes.into_iter().min())
}

// What is to be deleted is folded once more, and must come to the accounts that the close states.
fn accounts(reader: &dyn Read, end: &End) -> anyhow::Result<Snapshot> {
    let (mut settler, first) = begin(reader)?;
    for found in records(reader, first..end.size) {
        let (index, record) = found?;
        match &mut settler {
            None => settler = Some(Settler::begin(&record)?),
            Some(settler) => drop(settler.apply(&record).with_context(|| format!("record {index}"))?),
        }
    }
    let settler = settler.context("the log is empty")?;
    ensure!(settler.digest() == end.close.state, "the accounts are not those that epoch {} states", end.close.epoch);
    Ok(Snapshot { epoch: end.close.epoch, size: end.size, bytes: settler.to_bytes() })
}

fn check_copy(reader: &dyn Read, folder: &Path, size: u64) -> anyhow::Result<()> {
    let (shown, path) = (folder.display(), folder.join("checkpoint"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(Record::Genesis(genesis)) = reader.record(0)? else { bail!("the log is empty") };
    let copied = Checkpoint::open(&text, genesis.network(), genesis.gateway.0).context("the copy's checkpoint")?;
    ensure!(
        copied.size >= size,
        "the copy in {shown} ends with epoch {}, before what would be deleted: bring it up to date first",
        copied.epoch
    );
    let root = if copied.size <= reader.size()? { reader.root(copied.size)? } else { None };
    ensure!(root == Some(copied.root), "the copy in {shown} is of another history, or newer than the log");
    for tile in Tile::all(Content::Entries, copied.size) {
        ensure!(folder.join(tile.path()).exists(), "{} is missing in {shown}", tile.path());
    }
    Ok(())
}

/// The first record that is surely there with all that follow.
pub(crate) fn first(read: &dyn Read) -> anyhow::Result<u64> {
    Ok(read.pruned()?.map_or(0, |pruned| pruned.size))
}

/// The accounts that a pruned log begins with, and the first record that is folded.
pub(crate) fn begin(read: &dyn Read) -> anyhow::Result<(Option<Settler>, u64)> {
    let Some(base) = read.base()? else { return Ok((None, 0)) };
    let settler = Settler::from_bytes(&base.bytes).context("the accounts that the pruned log begins with")?;
    Ok((Some(settler), base.size))
}
