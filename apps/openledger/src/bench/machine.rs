//! On what, and of what, something was measured.

use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};

/// The machine: processor, cores, memory, system.
pub(super) fn machine() -> Value {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    json!({
        "cpu": field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        "cores": cores,
        "memory_kib": field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok()),
        "system": fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).ok(),
    })
}

/// Memory of this process.
pub(super) fn resident_kib() -> Option<u64> {
    field("/proc/self/status", "VmRSS").and_then(|text| text.split(' ').next()?.parse().ok())
}

/// The commit of the working tree that the program is run in, if it is one.
pub(super) fn commit() -> Option<String> {
    let mut git = Command::new("git");
    let output = git.args(["rev-parse", "--short=12", "HEAD"]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Adds version, commit and machine to a record.
pub(super) fn stamp(mut record: Value) -> Value {
    if let Some(fields) = record.as_object_mut() {
        fields.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        fields.insert("commit".to_owned(), json!(commit()));
        fields.insert("machine".to_owned(), machine());
    }
    record
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}
