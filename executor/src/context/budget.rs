//! How much of the context volume is left: bytes are charged before they are written, and what does not fit is an error
//! that names the field to raise, before the kubelet evicts the Pod.

use std::{
    fs,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use thiserror::Error;

/// Volumes are filled in blocks: a file of one byte takes 4 KiB.
const BLOCK_BYTES: u64 = 4096;

/// How often the size of what has been received is looked at.
const SIZE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// What to raise when a volume of an executor Pod is full.
pub const VOLUME_SIZE_HINT: &str = "raise `executor.volumeSizeGiB` of the chart (`--volume-size-gib` of the operator)";

/// The context does not fit into the volume that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the context needs more than {limit_bytes} bytes: {VOLUME_SIZE_HINT}")]
pub struct VolumeFull {
    /// What may be written, in bytes.
    pub limit_bytes: u64,
}

/// Counts what is written against a limit.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    limit_bytes: u64,
    used_bytes: u64,
}

impl Budget {
    /// Starts a budget; `None` is without a limit.
    pub fn new(limit_bytes: Option<u64>) -> Self {
        Self { limit_bytes: limit_bytes.unwrap_or(u64::MAX), used_bytes: 0 }
    }

    /// Takes a file or directory of this size off the budget, rounded up to whole blocks.
    pub fn charge(&mut self, bytes: u64) -> Result<(), VolumeFull> {
        let blocks = bytes.div_ceil(BLOCK_BYTES).max(1);
        self.used_bytes = self.used_bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
        if self.used_bytes > self.limit_bytes { Err(self.full()) } else { Ok(()) }
    }

    /// Returns what is left, in bytes.
    pub fn left(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }

    /// The error for when nothing is left.
    pub fn full(&self) -> VolumeFull {
        VolumeFull { limit_bytes: self.limit_bytes }
    }
}

/// Runs a fetch that is interrupted when the files in a directory exceed a limit; tells whether they did.
pub(super) fn interrupted_above<T>(
    limit_bytes: u64,
    directory: &Path,
    fetch: impl FnOnce(&AtomicBool) -> T,
) -> (T, bool) {
    let interrupt = AtomicBool::new(false);
    let (ended, end) = mpsc::channel::<()>();
    let interrupt_ref = &interrupt;
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            while end.recv_timeout(SIZE_CHECK_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                if directory_bytes(directory) > limit_bytes {
                    interrupt_ref.store(true, Ordering::Relaxed);
                }
            }
        });
        let result = fetch(&interrupt);
        drop(ended);
        result
    });
    let exceeded = interrupt.load(Ordering::Relaxed) || directory_bytes(directory) > limit_bytes;
    (result, exceeded)
}

/// Adds up the files directly in a directory. One that vanishes in between counts nothing.
pub(super) fn directory_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_charged_in_blocks() {
        let mut budget = Budget::new(Some(12_288));
        budget.charge(0).unwrap();
        budget.charge(4097).unwrap();
        assert_eq!(budget.left(), 0);
        assert_eq!(
            budget.charge(1).unwrap_err().to_string(),
            "the context needs more than 12288 bytes: \
             raise `executor.volumeSizeGiB` of the chart (`--volume-size-gib` of the operator)"
        );
        Budget::new(None).charge(u64::MAX - 4096).unwrap();
    }
}
