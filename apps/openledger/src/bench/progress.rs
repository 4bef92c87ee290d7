//! How far a measurement is, on standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `steps` where standard error is a terminal; nothing elsewhere.
pub(super) fn bar(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {elapsed} (left: {eta})")
        .expect("the template is well formed");
    ProgressBar::new(steps).with_style(style)
}
