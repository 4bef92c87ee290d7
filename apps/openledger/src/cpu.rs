//! CPU time of some of this process's threads, from the kernel's own clocks.

use std::fs;

/// CPU time in microseconds of all living threads whose name begins with one of `prefixes`, and of those alone.
pub(crate) fn of_threads(prefixes: &[&str]) -> u64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .flatten()
        .filter(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        })
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum::<u64>()
        / 1_000
}
