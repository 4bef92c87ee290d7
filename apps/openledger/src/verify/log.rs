//! `openledger verify --log`: a gateway's whole log from its tiles, with nothing else at hand.

use super::source::Source;
use crate::logging::say;
use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::genesis::Genesis;
use ol_protocol::merkle::leaf_hash;
use ol_protocol::record::Record;
use ol_protocol::tile::{Content, TILE_WIDTH, Tile, entries, hashes, parent};
use ol_protocol::{Digest, Epoch, GatewayId, Micros, NetworkId, Timestamp};
use ol_roles::follower::Follower;
use std::path::Path;

/// What was asked of a log.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    /// The network that it must be of.
    pub(crate) network: Option<NetworkId>,
    /// The gateway that it must be of.
    pub(crate) gateway: Option<GatewayId>,
    /// Only up to the close of this epoch.
    pub(crate) epoch: Option<Epoch>,
    /// A checkpoint that it must go on from.
    pub(crate) since: Option<&'a Path>,
}

/// Checks a log and says what was checked; an error says what is wrong.
pub(super) async fn check(source: &Source, asked: &Asked<'_>) -> anyhow::Result<()> {
    let (reading, head, older) = read(source, asked, |_, _| Ok(())).await?;
    tell(&reading, &head.checkpoint, older.as_ref(), asked);
    Ok(())
}

/// The signed head of a log that was read and checked.
pub(crate) struct Head {
    /// What it says.
    pub(crate) checkpoint: Checkpoint,
    /// As it was signed.
    pub(crate) note: String,
}

/// Reads and checks a whole log; shows each record after the genesis.
pub(crate) async fn follow(
    source: &Source,
    asked: &Asked<'_>,
    seen: impl FnMut(&Follower, &Record) -> anyhow::Result<()>,
) -> anyhow::Result<(Follower, Head)> {
    read(source, asked, seen).await.map(|(reading, head, _)| (reading.follower, head))
}

async fn read(
    source: &Source,
    asked: &Asked<'_>,
    mut seen: impl FnMut(&Follower, &Record) -> anyhow::Result<()>,
) -> anyhow::Result<(Reading, Head, Option<Checkpoint>)> {
    let note = String::from_utf8(source.get("checkpoint").await?.to_vec()).context("the checkpoint is not text")?;
    let size = claimed_size(&note)?;
    let mut reading = Reading::begin(source, size).await?;
    let here = reading.follower.network();
    if let Some(network) = asked.network {
        ensure!(network == here, "this is the log of network {here}, not of {network}");
    }
    let keeper = reading.follower.settler().genesis().gateway;
    if let Some(gateway) = asked.gateway {
        ensure!(gateway == keeper, "this is the log of gateway {keeper}, not of {gateway}");
    }
    let open = |note: &str| Checkpoint::open(note, here, reading.follower.settler().genesis().gateway.0);
    let checkpoint = open(&note).context("the checkpoint")?;
    let older = match asked.since {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let older = open(&text).with_context(|| path.display().to_string())?;
            let (from, to) = (older.epoch, checkpoint.epoch);
            ensure!(from <= to, "the log's checkpoint is of epoch {to}, older than that of epoch {from} given");
            Some(older)
        }
        None => None,
    };
    if let Some(epoch) = asked.epoch.filter(|epoch| *epoch > checkpoint.epoch) {
        bail!("epoch {epoch} is not under the log's checkpoint yet, the last that is there is {}", checkpoint.epoch);
    }
    reading.run(source, older.as_ref(), asked.epoch, &mut seen).await?;
    if asked.epoch.is_none() {
        reading.follower.check_checkpoint(&checkpoint)?;
    }
    Ok((reading, Head { checkpoint, note }, older))
}

/// The first record of a log: which network and gateway it is of. Nothing else is read or checked.
pub(crate) async fn genesis(source: &Source) -> anyhow::Result<Genesis> {
    let note = String::from_utf8(source.get("checkpoint").await?.to_vec()).context("the checkpoint is not text")?;
    let reading = Reading::begin(source, claimed_size(&note)?).await?;
    reading.bar.finish_and_clear();
    Ok(reading.follower.settler().genesis().clone())
}

// The size has to be known before the genesis can be read, and the genesis before the signature can be checked.
fn claimed_size(note: &str) -> anyhow::Result<u64> {
    let size = note.lines().nth(1).and_then(|line| line.parse().ok());
    size.filter(|size| *size > 0).context("the checkpoint states no number of records")
}

struct Reading {
    follower: Follower,
    size: u64,
    // Hashes of the last, open tile of each level, the leaves' first.
    edge: Vec<Vec<Digest>>,
    tiles: u64,
    // When the last epoch closed, by the gateway's clock.
    closed_at: Option<Timestamp>,
    bar: ProgressBar,
}

impl Reading {
    async fn begin(source: &Source, size: u64) -> anyhow::Result<Self> {
        let first = Tile::all(Content::Entries, size).next().context("an empty log")?;
        let bytes = source.get(&first.path()).await?;
        let records = entries(&bytes, first.width).with_context(|| format!("{} is damaged", first.path()))?;
        let genesis = records.first().context("an empty log")?;
        let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} records {elapsed} (left: {eta})")?;
        let bar = ProgressBar::new(size).with_style(style);
        let mut reading =
            Self { follower: Follower::begin(genesis)?, size, edge: Vec::new(), tiles: 0, closed_at: None, bar };
        reading.push(source, leaf_hash(genesis)).await?;
        Ok(reading)
    }

    // Up to the end, or the close of an epoch.
    async fn run(
        &mut self,
        source: &Source,
        older: Option<&Checkpoint>,
        epoch: Option<Epoch>,
        seen: &mut impl FnMut(&Follower, &Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for tile in Tile::all(Content::Entries, self.size) {
            let bytes = source.get(&tile.path()).await?;
            let records = entries(&bytes, tile.width).with_context(|| format!("{} is damaged", tile.path()))?;
            // The genesis was taken to begin with.
            for record in records.into_iter().skip(usize::from(tile.index == 0)) {
                let (taken, summary) = self.follower.take(record)?;
                if let Record::Close(close) = &taken {
                    self.closed_at = Some(close.at);
                }
                seen(&self.follower, &taken)?;
                self.push(source, leaf_hash(record)).await?;
                if let Some(older) = older.filter(|older| older.size == self.follower.size()) {
                    self.follower.check_checkpoint(older).context("the older checkpoint")?;
                }
                let Some(summary) = summary else { continue };
                if Some(summary.epoch) == epoch {
                    self.bar.finish_and_clear();
                    let charged = crate::inspect::credits(i128::from(summary.charged.0));
                    let state = self.follower.settler().digest();
                    say(format!("epoch {}: {} receipts for {charged} credits", summary.epoch, summary.settled));
                    say(format!("state {state} under the root {}", self.follower.root()));
                    return Ok(());
                }
            }
            self.bar.set_position(self.follower.size());
        }
        for level in 0..self.edge.len() {
            let open = std::mem::take(&mut self.edge[level]);
            if !open.is_empty() {
                self.compare(source, level, &open).await?;
            }
        }
        self.bar.finish_and_clear();
        if let Some(older) = older {
            ensure!(older.size <= self.size, "the log has {} records, fewer than the older checkpoint", self.size);
        }
        Ok(())
    }

    // Adds a hash to a level; a full tile is compared with the log's own and hashes to one of the level above.
    async fn push(&mut self, source: &Source, leaf: Digest) -> anyhow::Result<()> {
        let (mut level, mut hash) = (0, leaf);
        loop {
            if self.edge.len() == level {
                self.edge.push(Vec::new());
            }
            self.edge[level].push(hash);
            if (self.edge[level].len() as u64) < TILE_WIDTH {
                return Ok(());
            }
            let full = std::mem::take(&mut self.edge[level]);
            self.compare(source, level, &full).await?;
            hash = parent(&full);
            level += 1;
        }
    }

    async fn compare(&mut self, source: &Source, level: usize, expected: &[Digest]) -> anyhow::Result<()> {
        let content = Content::Hashes { level: u8::try_from(level)? };
        let before = self.follower.size().saturating_sub(1) >> (8 * level);
        let tile = Tile { content, index: before / TILE_WIDTH, width: u16::try_from(expected.len())? };
        let bytes = source.get(&tile.path()).await?;
        let same = hashes(&bytes, tile.width).is_some_and(|found| found == expected);
        ensure!(same, "{} does not hold the hashes of the records under it", tile.path());
        self.tiles += 1;
        Ok(())
    }
}

fn tell(reading: &Reading, checkpoint: &Checkpoint, older: Option<&Checkpoint>, asked: &Asked<'_>) {
    let (follower, counts) = (&reading.follower, reading.follower.counts());
    let (network, gateway) = (follower.network(), follower.settler().genesis().gateway);
    say(format!("ok      gateway {} signed the checkpoint of epoch {}", gateway.short(), checkpoint.epoch));
    if follower.size() == checkpoint.size {
        say(format!(
            "ok      its root is over these {} records, and so are {} tiles of hashes",
            follower.size(),
            reading.tiles
        ));
    } else {
        say(format!("ok      {} records up to that epoch were read, of {}", follower.size(), checkpoint.size));
    }
    say(format!(
        "ok      signatures of {} batches by node and gateway, {} audits, {} top-ups, {} changes of parameters, {} calibrations",
        counts.batches, counts.audits, counts.top_ups, counts.changes, counts.calibrations
    ));
    if counts.panels > 0 {
        say(format!(
            "ok      {} panels of three nodes, who sealed their verdicts before any was opened",
            counts.panels
        ));
    }
    if counts.evidence > 0 {
        say(format!("ok      {} times what a node signed was opened against it: see --evidence", counts.evidence));
    }
    say(format!("ok      {} receipts, each under its batch's two roots", counts.receipts));
    say(format!(
        "ok      {} epochs settle to the states that the log says, by secrets sealed before them",
        counts.closes
    ));
    if let Some(older) = older.filter(|older| older.size <= follower.size()) {
        say(format!("ok      the log goes on from the checkpoint of epoch {} that you kept", older.epoch));
    }
    tell_age(reading);
    if asked.network.is_none() {
        say(format!("open    whether {network} is your network: name yours with --network"));
    }
    if asked.gateway.is_none() {
        say(format!(
            "open    whether {gateway} is the gateway that you mean: name yours with --gateway, as on the ticket"
        ));
    }
    say("the log holds");
}

// Epochs without a close after which one is late: a gateway that is stopped, or one that keeps its secrets to itself.
const LATE_EPOCHS: u64 = 10;

// Nobody can tell the two apart from a log; both leave what came last unsettled.
fn tell_age(reading: &Reading) {
    let epoch = reading.follower.settler().genesis().epoch;
    let late = reading.closed_at.and_then(|at| late_minutes(at, epoch, ol_drive::clock::now()));
    if let Some(minutes) = late {
        say(format!(
            "open    the last epoch closed {minutes} minutes ago: what came after is not settled, and its draws are not revealed"
        ));
    }
}

fn late_minutes(closed_at: Timestamp, epoch: Micros, now: Timestamp) -> Option<u64> {
    let age = now.since(closed_at);
    (age.0 > epoch.0.saturating_mul(LATE_EPOCHS)).then_some(age.0 / 60_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_stops_closing_epochs_is_late_after_ten() {
        let late = |age| late_minutes(Timestamp(5), Micros::from_secs(60), Timestamp(5).after(Micros::from_secs(age)));
        assert_eq!([0, 599, 600, 601, 7_200].map(late), [None, None, None, Some(10), Some(120)]);
        assert_eq!(
            late_minutes(Timestamp(9), Micros::from_secs(60), Timestamp(0)),
            None,
            "a clock behind the gateway's"
        );
    }
}
