//! A file that appears under its name only when it is complete and its digest proves it.
//!
//! Bytes are written beside the destination, hashed on the way, counted against the promised size, and renamed at the
//! end; whatever goes wrong, nothing is left behind.

use std::{
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::error::RegistryError;
use crate::image::{digest::Digest, manifest::Descriptor};

/// Bytes copied at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Tells apart the unfinished files of one process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A blob in the making.
#[derive(Debug)]
pub(super) struct Spool<'a> {
    what: String,
    expected: &'a Descriptor,
    destination: &'a Path,
    unfinished: Unfinished,
    file: File,
    hasher: Sha256,
    written: u64,
}

/// Removes the file unless it was renamed.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "cannot remove an unfinished blob");
        }
    }
}

impl<'a> Spool<'a> {
    /// Creates the unfinished file; `what` names the content in errors.
    pub(super) async fn create(
        what: String,
        expected: &'a Descriptor,
        destination: &'a Path,
    ) -> Result<Self, RegistryError> {
        let unfinished = beside(destination);
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(&unfinished).await;
        let file = opened.map_err(RegistryError::file("create", &unfinished))?;
        let unfinished = Unfinished(Some(unfinished));
        Ok(Self { what, expected, destination, unfinished, file, hasher: Sha256::new(), written: 0 })
    }

    /// Bytes that are there so far.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes.
    pub(super) async fn append(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        if self.written + bytes.len() as u64 > self.expected.size {
            return Err(self.wrong_size(self.expected.size + 1));
        }
        self.file.write_all(bytes).await.map_err(RegistryError::file("write", self.destination))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything, for a server that cannot continue where it broke off.
    pub(super) async fn restart(&mut self) -> Result<(), RegistryError> {
        self.file.flush().await.map_err(RegistryError::file("write", self.destination))?;
        self.file.set_len(0).await.map_err(RegistryError::file("truncate", self.destination))?;
        let start = std::io::SeekFrom::Start(0);
        tokio::io::AsyncSeekExt::seek(&mut self.file, start)
            .await
            .map_err(RegistryError::file("truncate", self.destination))?;
        (self.hasher, self.written) = (Sha256::new(), 0);
        Ok(())
    }

    /// Verifies size and digest and gives the file its name.
    pub(super) async fn finish(mut self) -> Result<(), RegistryError> {
        if self.written != self.expected.size {
            return Err(self.wrong_size(self.written));
        }
        let actual = Digest::from_hasher(std::mem::take(&mut self.hasher));
        if actual != self.expected.digest {
            let expected = self.expected.digest.clone();
            return Err(RegistryError::DigestMismatch { what: self.what.clone(), expected, actual });
        }
        // Dropping a tokio file loses what a failing last write has to say.
        self.file.flush().await.map_err(RegistryError::file("write", self.destination))?;
        if let Some(path) = &self.unfinished.0 {
            fs::rename(path, self.destination).await.map_err(RegistryError::file("create", self.destination))?;
        }
        self.unfinished.0 = None;
        Ok(())
    }

    fn wrong_size(&self, actual: u64) -> RegistryError {
        RegistryError::SizeMismatch { what: self.what.clone(), expected: self.expected.size, actual }
    }
}

/// Copies a file that is open under a verified name.
pub(super) async fn copy_verified(
    what: String,
    source: std::fs::File,
    expected: &Descriptor,
    destination: &Path,
) -> Result<(), RegistryError> {
    let mut spool = Spool::create(what, expected, destination).await?;
    let mut source = File::from_std(source);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = source.read(&mut buffer).await.map_err(RegistryError::file("read", destination))?;
        if count == 0 {
            return spool.finish().await;
        }
        spool.append(&buffer[..count]).await?;
    }
}

/// Names an unfinished file in the directory of its destination, so that the rename is atomic.
pub(super) fn beside(destination: &Path) -> PathBuf {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}.partial", process::id()));
    destination.with_file_name(name)
}
