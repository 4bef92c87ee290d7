//! How far a download is: a bar on a terminal, else a line every few seconds.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A bar that is redrawn.
    Bar,
    /// A line now and then.
    Lines,
    /// Not at all.
    Silent,
}

impl Progress {
    /// A bar if standard error is a terminal, else lines.
    pub(crate) fn detect() -> Self {
        if io::stderr().is_terminal() { Self::Bar } else { Self::Lines }
    }

    /// Says a sentence.
    pub(super) fn say(self, sentence: &str) {
        if self != Self::Silent {
            // A closed standard error is no reason to stop a download.
            let _ = writeln!(io::stderr(), "{sentence}");
        }
    }
}

/// The progress of one download.
pub(super) struct Meter {
    progress: Progress,
    title: &'static str,
    bytes: u64,
    bar: ProgressBar,
    start: Instant,
    last_line: Instant,
}

impl Meter {
    /// Starts at nothing of `bytes`.
    pub(super) fn start(progress: Progress, title: &'static str, bytes: u64) -> Self {
        let bar = if progress == Progress::Bar { bar(title, bytes) } else { ProgressBar::hidden() };
        if progress == Progress::Lines {
            progress.say(&format!("fetching {title}, {}", megabytes(bytes)));
        }
        Self { progress, title, bytes, bar, start: Instant::now(), last_line: Instant::now() }
    }

    /// So many bytes are there.
    pub(super) fn at(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if self.progress == Progress::Lines && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.progress.say(&format!("fetching {}, {} of {}", self.title, megabytes(bytes), megabytes(self.bytes)));
        }
    }

    /// The download ended.
    pub(super) fn finish(&mut self, whole: bool) {
        self.bar.finish_and_clear();
        if whole {
            let seconds = self.start.elapsed().as_secs_f32();
            self.progress.say(&format!("fetched {}, {} in {seconds:.1} s", self.title, megabytes(self.bytes)));
        }
    }
}

fn bar(title: &'static str, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .expect("the template is well formed");
    let bar = ProgressBar::new(bytes).with_style(style).with_message(format!("fetching {title}"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
