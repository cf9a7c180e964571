//! The work directory: where layers are spooled and root file systems are materialised, what it takes of the disk, and
//! how it is cleaned up.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat, statvfs};
use tokio::{task::spawn_blocking, time::sleep};

use super::remove::remove_all;

/// The shortest time between two measurements.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// A measurement is followed by a pause of this many times its own duration: measuring takes 5% of the time at most.
const MEASURE_PAUSE_FACTOR: u32 = 19;

/// What `st_blocks` counts, whatever the file system's own block is.
const BLOCK_BYTES: u64 = 512;

/// Less than this is no room for anything: the disk is full.
const DISK_FULL_BELOW_BYTES: u64 = 1 << 20;

/// How often removing the directory is tried while killed processes may still write to it.
const REMOVE_TRIES: usize = 20;
const REMOVE_WAIT: Duration = Duration::from_millis(100);

/// A directory of the build's own below the one that was given; removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct WorkDirectory {
    root: tempfile::TempDir,
    is_kept: bool,
    next: AtomicUsize,
}

impl WorkDirectory {
    /// Makes the directory below `parent`, which is created when missing. What is kept is somebody else's to remove: a
    /// volume that ends with its Pod is gone sooner than its files one by one.
    pub fn create(parent: &Path, is_kept: bool) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let root = tempfile::Builder::new().prefix("karve-").disable_cleanup(is_kept).tempdir_in(parent)?;
        Ok(Self { root, is_kept, next: AtomicUsize::new(0) })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// A path that nothing uses yet, named for what it holds.
    pub fn unused(&self, kind: &str) -> PathBuf {
        self.root.path().join(format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new empty directory, named for what it holds.
    pub fn directory(&self, kind: &str) -> io::Result<PathBuf> {
        let path = self.unused(kind);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Returns once the directory takes more of the disk than `limit_bytes`; until then it never does.
    ///
    /// It looks at most once a second, and less often where that takes long, unless the disk as a whole lost as much
    /// room as was left.
    pub async fn exceeds(&self, limit_bytes: u64) {
        let mut left_bytes = limit_bytes;
        let mut pause = Duration::ZERO;
        let mut measured = Instant::now();
        let mut free_then = self.free_bytes();
        loop {
            sleep(MEASURE_INTERVAL).await;
            let free = self.free_bytes();
            if measured.elapsed() < pause && free_then.saturating_sub(free) < left_bytes {
                continue;
            }
            let started = Instant::now();
            let path = self.path().to_owned();
            let used_bytes = spawn_blocking(move || File::open(path).map(|root| disk_usage(root.as_fd()))).await;
            match used_bytes.map_err(io::Error::other).flatten() {
                Ok(used_bytes) if used_bytes > limit_bytes => return,
                Ok(used_bytes) => left_bytes = limit_bytes - used_bytes,
                Err(error) => tracing::debug!(%error, "the work directory cannot be measured"),
            }
            (measured, free_then) = (Instant::now(), free);
            pause = started.elapsed().saturating_mul(MEASURE_PAUSE_FACTOR);
        }
    }

    /// Whether the disk that holds the directory has no room for anybody.
    pub fn is_disk_full(&self) -> bool {
        self.free_bytes() < DISK_FULL_BELOW_BYTES
    }

    /// Removes the directory. Processes that were killed a moment ago may still make files in it, so it tries for a while.
    pub async fn remove(&self) {
        if self.is_kept {
            return;
        }
        for _ in 0..REMOVE_TRIES {
            let path = self.path().to_owned();
            match spawn_blocking(move || remove_all(&path)).await.map_err(io::Error::other).flatten() {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => tracing::debug!(%error, "the work directory cannot be removed yet"),
            }
            sleep(REMOVE_WAIT).await;
        }
    }

    /// Bytes that the disk has left for users without privileges; as many as one can say where it does not tell.
    fn free_bytes(&self) -> u64 {
        statvfs(self.path()).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Adds up the blocks of everything below a directory, each file once whatever its names.
///
/// Steps may rename and delete while it walks: what cannot be opened or is gone counts nothing, no link is followed, and
/// neither is a mount.
fn disk_usage(root: BorrowedFd<'_>) -> u64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut bytes: u64 = 0;
    let mut several_names = HashSet::new();
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let Ok(directory) = openat2(root, &path, flags, Mode::empty(), resolve) else { continue };
        let Ok(entries) = Dir::read_from(&directory) else { continue };
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory {
                pending.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
            if is_directory || stat.st_nlink < 2 || several_names.insert((stat.st_dev, stat.st_ino)) {
                bytes = bytes.saturating_add(stat.st_blocks.cast_unsigned().saturating_mul(BLOCK_BYTES));
            }
        }
    }
    bytes
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = remove_all(self.path()) {
            tracing::debug!(%error, "the work directory remains");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn work() -> (tempfile::TempDir, WorkDirectory) {
        let parent = tempfile::tempdir().unwrap();
        let work = WorkDirectory::create(parent.path(), false).unwrap();
        (parent, work)
    }

    fn usage(work: &WorkDirectory) -> u64 {
        disk_usage(File::open(work.path()).unwrap().as_fd())
    }

    #[test]
    fn blocks_are_counted_once_and_links_are_not_followed() {
        let (_parent, work) = work();
        let directory = work.directory("deep").unwrap().join("er");
        fs::create_dir(&directory).unwrap();
        let empty = usage(&work);
        fs::write(directory.join("file"), vec![1; 1 << 20]).unwrap();
        File::create(directory.join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let one = usage(&work) - empty;
        assert!((1 << 20..2 << 20).contains(&one), "{one}");
        fs::hard_link(directory.join("file"), directory.join("again")).unwrap();
        symlink("/", directory.join("out")).unwrap();
        assert!(usage(&work) - empty < 2 << 20);
    }

    #[tokio::test]
    async fn the_limit_is_noticed() {
        let (_parent, work) = work();
        fs::write(work.unused("layer"), vec![1; 1 << 20]).unwrap();
        work.exceeds(1 << 19).await;
        let patient = tokio::time::timeout(2 * MEASURE_INTERVAL, work.exceeds(1 << 30));
        assert!(patient.await.is_err());
    }

    #[tokio::test]
    async fn what_was_removed_is_gone_and_may_be_removed_again() {
        let (parent, work) = work();
        fs::write(work.unused("layer"), "").unwrap();
        work.remove().await;
        work.remove().await;
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_kept_stays() {
        let parent = tempfile::tempdir().unwrap();
        let work = WorkDirectory::create(parent.path(), true).unwrap();
        let layer = work.unused("layer");
        fs::write(&layer, "").unwrap();
        work.remove().await;
        drop(work);
        assert!(layer.exists());
    }
}
