//! `openledger ledger backup`: a gateway's log as it is at one moment, in one file.

use crate::config::Role;
use crate::logging::say;
use crate::{flags, home};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use ol_store::backup::{self, Copied};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Copy a gateway's log to a file, also while the gateway runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A new file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    common: flags::Common,
}

/// Runs `openledger ledger backup`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = flags::load(Role::Gateway, &args.common, None, None, None, None)?;
    let folder = config.data_dir.join(home::NETWORK);
    let path = folder.join("gateway.db");
    anyhow::ensure!(path.exists(), "no ledger in {}: name its folder with --data-dir", config.data_dir.display());
    let shown = args.file.display();
    with_bar(|progress| backup::backup(&path, &args.file, progress))?
        .with_context(|| format!("cannot write the backup {shown}"))?;
    let bytes = std::fs::metadata(&args.file)?.len();
    say(format!("the log of {} is in {shown}: {bytes} bytes, undamaged and on the disk", folder.display()));
    say("keys are not in it: keep a copy of the *.key and *.secret files apart from it");
    say(format!("  {}", key_files(&folder)?.join(" ")));
    say("to put it back: openledger ledger restore FILE --data-dir FOLDER --public-log ADDRESS|FOLDER");
    Ok(ExitCode::SUCCESS)
}

/// Shows how far a copy is.
pub(crate) fn with_bar<T>(copy: impl FnOnce(&mut dyn FnMut(Copied)) -> T) -> anyhow::Result<T> {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} (left: {eta})")?;
    let bar = ProgressBar::new(0).with_style(style);
    let done = copy(&mut |Copied { bytes, of }| {
        bar.set_length(of);
        bar.set_position(bytes);
    });
    bar.finish_and_clear();
    Ok(done)
}

fn key_files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<String>>>()?;
    names.retain(|name| name.ends_with(".key") || name.ends_with(".secret"));
    names.sort();
    Ok(names)
}
