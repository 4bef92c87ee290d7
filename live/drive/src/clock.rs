//! The wall clock as machines see it: microseconds since 1970, never going back within a process.

use ol_protocol::Timestamp;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: LazyLock<(Instant, Duration)> =
    LazyLock::new(|| (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));

/// Now: the wall clock at the process's start, and what the monotonic clock counted since.
pub fn now() -> Timestamp {
    let (begin, wall) = *START;
    let micros = (wall + begin.elapsed()).as_micros();
    Timestamp(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Time left until `moment`, zero if it is past.
pub fn until(moment: Timestamp) -> Duration {
    Duration::from_micros(moment.since(now()).0)
}
