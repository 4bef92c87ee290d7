//! CPU time of some of this process's threads, from the kernel's own clocks.

use std::fs;
use std::path::Path;

/// CPU time in microseconds of all living threads whose name begins with one of `prefixes`, and of those alone.
pub(crate) fn of_threads(prefixes: &[&str]) -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .flatten()
        .filter(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        })
        .filter_map(|task| nanoseconds(&task.path()))
        .sum::<u64>()
        / 1_000
}

/// CPU time in microseconds of the thread that asks.
pub(crate) fn of_this_thread() -> u64 {
    nanoseconds(Path::new("/proc/thread-self")).unwrap_or(0) / 1_000
}

fn nanoseconds(task: &Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}
