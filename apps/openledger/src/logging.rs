//! What the process says: logs to standard error, results to standard output.

use crate::config::LogFormat;
use anyhow::Context as _;
use std::io::{IsTerminal as _, Write as _};
use tracing_subscriber::EnvFilter;

/// Sends tracing to standard error. `filter` is a level, or targets with levels.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("{filter:?} is no log filter: give a level such as info, or target=level"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Prints a line of results. A closed pipe ends the process quietly at the next write, as other tools do.
pub(crate) fn say(line: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints an error with everything that led to it.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("\n  because: {cause}"));
    }
    // There is nowhere else to complain to.
    drop(writeln!(std::io::stderr(), "{text}"));
}
