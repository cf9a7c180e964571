//! Waiting for what other processes do: polls until there is a value, and panics at the deadline with what was expected.
//!
//! This is the only file of the tests that lets time pass.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Time between two looks: short beside whatever a test waits for, long beside what a look costs.
const INTERVAL: Duration = Duration::from_millis(50);

/// Returns the first value that `look` finds, looking at least once; panics when `deadline` has passed without one.
#[track_caller]
pub fn eventually<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(INTERVAL);
    }
}

/// Does the same as [`eventually`] where looking is asynchronous, as with a Kubernetes client.
pub async fn eventually_async<T>(deadline: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
