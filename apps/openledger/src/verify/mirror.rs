//! `openledger ledger mirror`: a second copy of a gateway's public log, checked before it counts.

use super::log::{self, Asked};
use super::source::Source;
use crate::logging::say;
use anyhow::Context as _;
use bytes::Bytes;
use ol_protocol::NetworkId;
use ol_protocol::tile::Tile;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Keep a second copy of a gateway's public log in a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the log is: http://HOST:PORT/log, or a folder with its tiles.
    #[arg(value_name = "LOG")]
    source: String,
    /// Where the copy is kept.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The network that it must be of.
    #[arg(long, value_name = "ID")]
    network: Option<NetworkId>,
}

/// Runs `openledger ledger mirror`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot make {}", args.folder.display()))?;
    let checkpoint = args.folder.join("checkpoint");
    let since = checkpoint.exists().then_some(checkpoint.as_path());
    let asked = Asked { network: args.network, since, ..Asked::default() };
    let mirror = Mirror::new(Source::new(&args.source)?, &args.folder)?;
    let source = Source::Mirror(Box::new(mirror));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let follow = log::follow(&source, &asked, |_, _| Ok(()));
    let followed = runtime.block_on(follow).context("the log does NOT hold; the copy stays as it was");
    let Source::Mirror(mirror) = source else { unreachable!("it was made above") };
    if followed.is_err() {
        // What is left is removed by the next run.
        drop(fs::remove_dir_all(&mirror.drafts));
    }
    let (follower, head) = followed?;
    let tiles = mirror.keep(&head.note)?;
    say(format!("the log of network {} holds up to epoch {}", follower.network(), head.checkpoint.epoch));
    say(format!("{} records are in {}, {tiles} files of them new", follower.size(), args.folder.display()));
    Ok(ExitCode::SUCCESS)
}

/// Reads a log from elsewhere and holds what a folder does not have yet, until it is known to be right.
pub(crate) struct Mirror {
    from: Source,
    folder: PathBuf,
    drafts: PathBuf,
    // New files: under which path each is for now, and will be.
    new: RefCell<BTreeMap<String, PathBuf>>,
}

impl Mirror {
    fn new(from: Source, folder: &Path) -> anyhow::Result<Self> {
        let drafts = folder.join("unchecked");
        if drafts.exists() {
            // Of an attempt that was broken off.
            fs::remove_dir_all(&drafts).with_context(|| format!("cannot remove {}", drafts.display()))?;
        }
        fs::create_dir(&drafts).with_context(|| format!("cannot make {}", drafts.display()))?;
        Ok(Self { from, folder: folder.into(), drafts, new: RefCell::default() })
    }

    /// A file of the log: a full tile is fetched once.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        if let Some(here) = self.find(path) {
            return Ok(fs::read(&here).with_context(|| format!("cannot read {}", here.display()))?.into());
        }
        let bytes = Box::pin(self.from.get(path)).await?;
        if Tile::parse(path).is_some() {
            let mut new = self.new.borrow_mut();
            let draft = self.drafts.join(new.len().to_string());
            written(&draft, &bytes)?;
            new.insert(path.to_owned(), draft);
        }
        Ok(bytes)
    }

    fn find(&self, path: &str) -> Option<PathBuf> {
        let kept = self.folder.join(path);
        let is_final = Tile::parse(path).is_some_and(|tile| tile.is_full()) && kept.exists();
        is_final.then_some(kept).or_else(|| self.new.borrow().get(path).cloned())
    }

    // Puts the new files in their places, the checkpoint last: whoever reads the folder finds everything under it.
    fn keep(self, note: &str) -> anyhow::Result<usize> {
        let new = self.new.into_inner();
        for (path, draft) in &new {
            let path = self.folder.join(path);
            let parent = path.parent().context("a tile without a folder")?;
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            fs::rename(draft, &path).with_context(|| format!("cannot write {}", path.display()))?;
            File::open(parent)?.sync_all()?;
        }
        let draft = self.drafts.join("checkpoint");
        written(&draft, note.as_bytes())?;
        fs::rename(&draft, self.folder.join("checkpoint")).context("cannot write the checkpoint")?;
        File::open(&self.folder)?.sync_all()?;
        fs::remove_dir(&self.drafts).with_context(|| format!("cannot remove {}", self.drafts.display()))?;
        new.keys().try_for_each(|path| forget_parts(&self.folder, path))?;
        Ok(new.len())
    }
}

// A tile that has grown makes its shorter forms useless.
fn forget_parts(folder: &Path, path: &str) -> anyhow::Result<()> {
    let tile = Tile::parse(path).context("not a tile")?;
    let whole = path.split_once(".p/").map_or(path, |(whole, _)| whole);
    let parts = folder.join(format!("{whole}.p"));
    let Ok(entries) = fs::read_dir(&parts) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let is_this = !tile.is_full() && entry.file_name().to_str() == Some(tile.width.to_string().as_str());
        if !is_this {
            fs::remove_file(entry.path())?;
        }
    }
    if tile.is_full() {
        fs::remove_dir(&parts)?;
    }
    Ok(())
}

fn written(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes)
        .and_then(|()| File::open(path)?.sync_all())
        .with_context(|| format!("cannot write {}: is the disk full, or the folder read-only?", path.display()))
}
