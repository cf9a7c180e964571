//! A directory, as it was before and a bound -> an archive of what is in it now; none when nothing has changed.
//!
//! What does not fit into the bound is left out by [`trim`](super::trim). Nothing may be writing to the directory. Times of
//! directories do not count as changes: a tool that makes and removes a file leaves no other trace.

use std::{collections::HashMap, os::fd::BorrowedFd, path::Path};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat2, statx};

use super::{
    Compression, Layer,
    changes::{changes, open},
    error::LayerError,
    place::{BENEATH, failed},
    trim::{Omitted, Used, content_bytes, trim},
    write::{WriteOptions, Written, write},
};
use crate::{
    filesystem::{
        entry::{Action, Change, FileContent, Kind, Metadata},
        index::Index,
        path::TreePath,
        view::View,
    },
    hash::hash,
};

/// What an entry takes in an archive beside its content, at most, on the average of all entries: headers, a long path, a
/// few attributes and padding take 4 KiB.
pub const ENTRY_BYTES_MAX: u64 = 8 << 10;

/// How to pack a directory.
#[derive(Debug)]
pub struct PackOptions<'a> {
    /// What the directory held before, as an archive's index says.
    pub before: &'a [Change],
    /// The bytes of files that stay, at most.
    pub content_max: u64,
    /// How the archive is compressed.
    pub compression: Compression,
    /// Threads that compress.
    pub threads: usize,
}

/// A directory that was packed.
#[derive(Debug)]
pub struct Packed {
    /// The archive: a layer whose view is the directory.
    pub layer: Layer,
    /// What is in it.
    pub index: Index,
    /// Bytes of its files.
    pub content: u64,
    /// What is not in it.
    pub omitted: Omitted,
}

/// Writes what is in a directory to `blob`, unless it is what was in it before.
///
/// # Errors
/// Fails where something cannot be read or cannot be expressed in a layer: names beginning with `.wh.`.
pub fn pack(directory: BorrowedFd<'_>, blob: &Path, options: &PackOptions<'_>) -> Result<Option<Packed>, LayerError> {
    let empty = View::empty();
    let listed = changes(directory, &empty, &[])?;
    // Times of use come before anything is read.
    let (kept, omitted) = if content_bytes(&listed) > options.content_max {
        let used = times_of_use(directory, &listed)?;
        trim(listed, options.content_max, |path| used.get(path).copied().unwrap_or_default())
    } else {
        (listed, Omitted::default())
    };
    if is_unchanged(directory, &kept, options.before)? {
        return Ok(None);
    }
    let content = content_bytes(&kept);
    let entries = kept.len() as u64 + 1;
    let options = WriteOptions {
        compression: options.compression,
        threads: options.threads,
        size_max: content.saturating_add(entries.saturating_mul(ENTRY_BYTES_MAX)),
    };
    let Written { layer, index } = write(kept, &mut |location| open(directory, location), blob, &options)?;
    Ok(Some(Packed { layer, index, content, omitted }))
}

/// Asks when each file was read or written last. Where times of reading are not kept, those of writing decide.
fn times_of_use(directory: BorrowedFd<'_>, listed: &[Change]) -> Result<HashMap<TreePath, Used>, LayerError> {
    let files = listed.iter().filter(|change| matches!(change.action, Action::Put(_, Kind::File(_))));
    let time_of_use = |Change { path, .. }: &Change| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(directory, path.as_bytes(), flags, Mode::empty(), BENEATH).map_err(failed("open", path))?;
        let mask = StatxFlags::ATIME | StatxFlags::MTIME;
        let status = statx(&file, c"", AtFlags::EMPTY_PATH, mask).map_err(failed("look at", path))?;
        let (read, written) = (status.stx_atime, status.stx_mtime);
        Ok((path.clone(), (read.tv_sec, read.tv_nsec).max((written.tv_sec, written.tv_nsec))))
    };
    files.map(time_of_use).collect()
}

/// Whether all entries are what they were. Contents are read last, and only if all else is as it was.
fn is_unchanged(directory: BorrowedFd<'_>, now: &[Change], before: &[Change]) -> Result<bool, LayerError> {
    if now.len() != before.len() || !now.iter().zip(before).all(|(now, before)| is_alike(now, before)) {
        return Ok(false);
    }
    for (now, before) in now.iter().zip(before) {
        if let (Some(content), Some(known)) = (content(now), content(before)) {
            let failed = |source| LayerError::Operation { operation: "read", path: now.path.clone(), source };
            let found = open(directory, &content.location).and_then(hash).map_err(failed)?;
            if Some(found) != known.digest {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether two entries look the same from outside.
fn is_alike(now: &Change, before: &Change) -> bool {
    let without_time = |metadata: &Metadata| Metadata { mtime: 0, ..metadata.clone() };
    now.path == before.path
        && match (&now.action, &before.action) {
            (Action::Put(now, Kind::Directory), Action::Put(before, Kind::Directory)) => {
                without_time(now) == without_time(before)
            }
            (Action::Put(now, Kind::File(content)), Action::Put(before, Kind::File(known))) => {
                now == before && content.size == known.size
            }
            (now, before) => now == before,
        }
}

const fn content(change: &Change) -> Option<&FileContent> {
    match &change.action {
        Action::Put(_, Kind::File(content)) => Some(content),
        _ => None,
    }
}
