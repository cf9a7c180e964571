//! A layer's tar stream as a sequence of changes, each followed by its content.
//!
//! Archives are hostile: every size is bounded, every path is cleaned below the root, and what has no meaning in a layer is
//! an error that names the entry. Whatever follows the archive's end is read and hashed too: it belongs to the diffID.

use std::{
    io::{self, Read},
    ops::Range,
};

use tar_core::{
    EntryType, PaxExtensions,
    parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser},
};

use super::{
    compress::PIECE_BYTES,
    error::{LayerError, Problem},
};
use crate::filesystem::{
    entry::{Action, Change, Device, FileContent, Kind, Location, Metadata, Xattr},
    path::TreePath,
};

/// The longest path and link target of Linux, `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// The longest name of Linux's file systems, `NAME_MAX`.
const NAME_BYTES_MAX: usize = 255;
/// Long names, PAX records and extended attributes of one entry.
pub(super) const METADATA_BYTES_MAX: u32 = 1 << 20;
/// What begins the name of a deletion (OCI image-spec, layer.md, "Whiteouts").
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that hides everything that lower layers have in a directory.
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself; old Docker layers have them at their root.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

const ENTRIES_MAX: u64 = 5_000_000;
/// What the index of one archive holds in memory of paths, link targets, attributes and inline files. A few MiB of compressed
/// input could be any amount of it otherwise: the same inline file or attribute, a million times over.
const KEPT_BYTES_MAX: u64 = 512 << 20;
/// 1 TiB: far above any real layer, far below what an hour of inflating zeros can give.
const TAR_BYTES_MAX: u64 = 1 << 40;
/// All headers of one entry: metadata, their own headers and padding.
const HEADERS_BYTES_MAX: usize = 2 * METADATA_BYTES_MAX as usize;
const BLOCK_BYTES: u64 = 512;

/// Reads changes from a tar stream that is not compressed.
pub(super) struct TarReader<R> {
    reader: R,
    parser: Parser,
    buffer: Vec<u8>,
    window: Range<usize>,
    content_left: u64,
    padding_left: u64,
    bytes: u64,
    entries: u64,
    pub(super) kept_bytes_left: u64,
    last: TreePath,
}

/// What the parser saw, without its borrows.
enum Step {
    More(usize),
    Skip(usize),
    Entry { headers: usize, content: u64, change: Option<Change> },
    End(usize),
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(reader: R) -> Self {
        let limits = Limits {
            max_metadata_size: METADATA_BYTES_MAX,
            max_path_len: Some(2 * METADATA_BYTES_MAX), // Checked here, after cleaning, with the entry's name.
            ..Limits::default()
        };
        let mut parser = Parser::new(limits);
        // The parser has no negative times; numbers that matter are checked by `check_records`.
        parser.set_ignore_pax_errors(true);
        Self {
            reader,
            parser,
            buffer: vec![0; PIECE_BYTES],
            window: 0..0,
            content_left: 0,
            padding_left: 0,
            bytes: 0,
            entries: 0,
            kept_bytes_left: KEPT_BYTES_MAX,
            last: TreePath::ROOT,
        }
    }

    /// Returns the next change, skipping what is left of the last one's content; `None` at the archive's end. A file's
    /// location is not known yet.
    pub(super) fn next(&mut self) -> Result<Option<Change>, LayerError> {
        self.skip_content()?;
        loop {
            match self.step()? {
                Step::More(needed) => {
                    if !self.fill(needed)? {
                        // A missing end marker is common, and so is half of one.
                        let rest = &self.buffer[self.window.clone()];
                        return if rest.iter().all(|byte| *byte == 0) { Ok(None) } else { Err(self.truncated()) };
                    }
                }
                Step::Skip(consumed) => self.window.start += consumed,
                Step::End(consumed) => {
                    self.window.start += consumed;
                    return Ok(None);
                }
                Step::Entry { headers, content, change } => {
                    self.window.start += headers;
                    self.content_left = content;
                    self.padding_left = content.next_multiple_of(BLOCK_BYTES) - content;
                    self.entries += 1;
                    if self.entries > ENTRIES_MAX {
                        return Err(LayerError::Limit { limit: ENTRIES_MAX, unit: "entries" });
                    }
                    if let Some(change) = change {
                        self.keep(kept_bytes(&change))?;
                        self.last = change.path.clone();
                        return Ok(Some(change));
                    }
                    self.skip_content()?;
                }
            }
        }
    }

    /// Counts bytes that the index will hold.
    pub(super) fn keep(&mut self, bytes: u64) -> Result<(), LayerError> {
        let left = self.kept_bytes_left.checked_sub(bytes);
        let unit = "bytes of names, attributes and account files";
        self.kept_bytes_left = left.ok_or(LayerError::Limit { limit: KEPT_BYTES_MAX, unit })?;
        Ok(())
    }

    /// Returns the next piece of the current entry's content; `None` when there is no more.
    pub(super) fn content(&mut self) -> Result<Option<&[u8]>, LayerError> {
        let piece = self.take(self.content_left)?;
        self.content_left -= piece.len() as u64;
        Ok((!piece.is_empty()).then(|| &self.buffer[piece]))
    }

    /// Reads to the end of the stream: what lies behind the archive's end is part of the layer.
    pub(super) fn finish(mut self) -> Result<(), LayerError> {
        self.skip_content()?;
        loop {
            self.window = 0..0;
            if !self.fill(1)? {
                return Ok(());
            }
        }
    }

    fn step(&mut self) -> Result<Step, LayerError> {
        let malformed = |source| LayerError::Malformed { after: self.last.clone(), source };
        Ok(match self.parser.parse(&self.buffer[self.window.clone()]).map_err(malformed)? {
            ParseEvent::NeedData { min_bytes } if min_bytes > HEADERS_BYTES_MAX => {
                let limit = METADATA_BYTES_MAX;
                return Err(malformed(ParseError::MetadataTooLarge { size: min_bytes as u64, limit }));
            }
            ParseEvent::NeedData { min_bytes } => Step::More(min_bytes),
            // `git archive` puts its commit there; no reader of layers applies them.
            ParseEvent::GlobalExtensions { consumed, .. } => Step::Skip(consumed),
            ParseEvent::Entry { consumed, entry } => {
                let change = change(&entry)?;
                Step::Entry { headers: consumed, content: content_bytes(&entry)?, change }
            }
            ParseEvent::SparseEntry { entry, .. } => return Err(Problem::Sparse.of(&TreePath::clean(&entry.path))),
            ParseEvent::End { consumed } => Step::End(consumed),
        })
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        while self.content()?.is_some() {}
        while self.padding_left > 0 {
            self.padding_left -= self.take(self.padding_left)?.len() as u64;
        }
        Ok(())
    }

    /// Takes up to `wanted` bytes out of the window; none only if none are wanted.
    fn take(&mut self, wanted: u64) -> Result<Range<usize>, LayerError> {
        if wanted > 0 && self.window.is_empty() && !self.fill(1)? {
            return Err(self.truncated());
        }
        let length = usize::try_from(wanted).unwrap_or(usize::MAX).min(self.window.len());
        let piece = self.window.start..self.window.start + length;
        self.window.start += length;
        Ok(piece)
    }

    /// Reads until the window has `needed` bytes; false if the stream ends before.
    fn fill(&mut self, needed: usize) -> Result<bool, LayerError> {
        self.buffer.copy_within(self.window.clone(), 0);
        self.window = 0..self.window.len();
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
        while self.window.len() < needed {
            match self.reader.read(&mut self.buffer[self.window.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.window.end += count;
                    self.bytes += count as u64;
                    if self.bytes > TAR_BYTES_MAX {
                        return Err(LayerError::Limit { limit: TAR_BYTES_MAX, unit: "bytes" });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
        Ok(true)
    }

    fn truncated(&self) -> LayerError {
        LayerError::Truncated { after: self.last.clone() }
    }
}

/// Bytes that a change holds beside its fixed size.
fn kept_bytes(change: &Change) -> u64 {
    let rest = match &change.action {
        Action::Put(metadata, kind) => {
            let target = if let Kind::Symlink(target) = kind { target.len() } else { 0 };
            target + metadata.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum::<usize>()
        }
        Action::HardLink(target) => target.as_bytes().len(),
        Action::Whiteout | Action::Opaque => 0,
    };
    (change.path.as_bytes().len() + rest) as u64
}

/// Bytes of content that follow the headers. Go's reader, which is every container runtime's, knows none after links,
/// directories and devices, whatever their size field says.
fn content_bytes(entry: &ParsedEntry<'_>) -> Result<u64, LayerError> {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    let has_none = matches!(entry.entry_type, Link | Symlink | Char | Block | Directory | Fifo) || is_directory(entry);
    let size = if has_none { 0 } else { entry.size };
    if size > TAR_BYTES_MAX {
        return Err(out_of_range("size", size).of(&TreePath::clean(&entry.path)));
    }
    Ok(size)
}

/// Version 7 of Unix had no directories in its archives, only regular files whose name ends in a slash.
fn is_directory(entry: &ParsedEntry<'_>) -> bool {
    entry.entry_type == EntryType::Directory || (entry.header.as_bytes()[156] == 0 && entry.path.ends_with(b"/"))
}

/// What the entry does; `None` for what AUFS left behind.
fn change(entry: &ParsedEntry<'_>) -> Result<Option<Change>, LayerError> {
    let path = TreePath::clean(&entry.path);
    check_path(&path, &entry.path)?;
    if path.as_bytes().starts_with(AUFS_PREFIX) && path.as_bytes() != OPAQUE_NAME {
        return Ok(None);
    }
    let parent = path.parent().unwrap_or_default();
    if parent.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return Err(Problem::ReservedName.of(&path));
    }
    if path.name() == OPAQUE_NAME {
        return Ok(Some(Change { path: parent, action: Action::Opaque }));
    }
    if let Some(name) = path.name().strip_prefix(WHITEOUT_PREFIX) {
        // `.wh..`, `.wh...` and `.wh.` would delete a directory itself or its parent.
        if matches!(name, b"" | b"." | b"..") || name.starts_with(WHITEOUT_PREFIX) {
            return Err(Problem::ReservedName.of(&path));
        }
        return Ok(Some(Change { path: parent.child(name), action: Action::Whiteout }));
    }
    let mtime = check_records(entry, &path)?;
    if entry.entry_type == EntryType::Link {
        let target = TreePath::clean(entry.link_target.as_deref().unwrap_or_default());
        check_path(&target, target.as_bytes())?;
        if target.is_root() || target == path {
            return Err(Problem::LinkToItself(target).of(&path));
        }
        return Ok(Some(Change { path, action: Action::HardLink(target) }));
    }
    let kind = kind(entry, &path)?;
    if path.is_root() && kind != Kind::Directory {
        return Err(Problem::RootNotDirectory.of(&path));
    }
    let metadata = metadata(entry, mtime, &path)?;
    Ok(Some(Change { path, action: Action::Put(metadata, kind) }))
}

fn kind(entry: &ParsedEntry<'_>, path: &TreePath) -> Result<Kind, LayerError> {
    let device = || Device { major: entry.dev_major.unwrap_or(0), minor: entry.dev_minor.unwrap_or(0) };
    Ok(match entry.entry_type {
        _ if is_directory(entry) => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => {
            Kind::File(FileContent { size: entry.size, digest: None, location: Location::unknown() })
        }
        EntryType::Symlink => {
            let target = entry.link_target.as_deref().unwrap_or_default();
            check_target(target).map_err(|problem| problem.of(path))?;
            Kind::Symlink(target.to_vec())
        }
        EntryType::Char => Kind::CharacterDevice(device()),
        EntryType::Block => Kind::BlockDevice(device()),
        EntryType::Fifo => Kind::Fifo,
        EntryType::GnuSparse => return Err(Problem::Sparse.of(path)),
        other => return Err(Problem::UnknownType(other.to_byte()).of(path)),
    })
}

fn metadata(entry: &ParsedEntry<'_>, mtime: i64, path: &TreePath) -> Result<Metadata, LayerError> {
    // -1 means "leave it" to chown(2): no file can have it.
    let id = |field, value: u64| match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(out_of_range(field, value).of(path)),
    };
    let mut xattrs: Vec<Xattr> = Vec::with_capacity(entry.xattrs.len());
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return Err(Problem::AttributeName(name.escape_ascii().to_string()).of(path));
        }
        let xattr = Xattr { name: name.to_vec(), value: value.to_vec() };
        match xattrs.binary_search_by(|known| known.name.cmp(&xattr.name)) {
            Ok(place) => xattrs[place] = xattr, // POSIX: the last record of a name counts.
            Err(place) => xattrs.insert(place, xattr),
        }
    }
    let (uid, gid) = (id("uid", entry.uid)?, id("gid", entry.gid)?);
    // Linux has no mode of symlinks: whatever an archive says, every one of them is read as 0777.
    let mode = if entry.entry_type == EntryType::Symlink { 0o777 } else { entry.mode & 0o7777 };
    Ok(Metadata { mode, uid, gid, mtime, xattrs })
}

/// Checks the numbers of the PAX records and returns the modification time, which may be before 1970.
fn check_records(entry: &ParsedEntry<'_>, path: &TreePath) -> Result<i64, LayerError> {
    let mut mtime = entry.mtime.cast_signed();
    let malformed = |source| LayerError::Malformed { after: path.clone(), source };
    for record in PaxExtensions::new(entry.pax.unwrap_or_default()) {
        let record = record.map_err(|error| malformed(error.into()))?;
        let text = std::str::from_utf8(record.value_bytes()).unwrap_or_default();
        let invalid = |key| malformed(ParseError::InvalidPaxValue { key, value: text.to_owned().into() });
        match record.key_bytes() {
            // A size that one reader takes and another ignores hides entries inside a file.
            b"size" => drop(text.parse::<u64>().map_err(|_| invalid("size"))?),
            b"uid" => drop(text.parse::<u64>().map_err(|_| invalid("uid"))?),
            b"gid" => drop(text.parse::<u64>().map_err(|_| invalid("gid"))?),
            b"mtime" => {
                let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
                mtime = seconds.parse().map_err(|_| invalid("mtime"))?;
                // Whole seconds are the floor: -0.5 is in the second that begins at -1.
                if text.starts_with('-') && fraction.bytes().any(|digit| digit != b'0') {
                    mtime = mtime.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
    Ok(mtime)
}

const fn out_of_range(field: &'static str, value: u64) -> Problem {
    Problem::OutOfRange { field, value }
}

/// Checks a cleaned path against the limits of Linux; `text` is how the archive wrote it.
pub(super) fn check_path(path: &TreePath, text: &[u8]) -> Result<(), LayerError> {
    if text.contains(&0) {
        return Err(Problem::NulByte.of(path));
    }
    let name_bytes = path.components().map(|name| name.strip_prefix(WHITEOUT_PREFIX).unwrap_or(name).len()).max();
    let name_bytes = name_bytes.unwrap_or(0);
    if name_bytes > NAME_BYTES_MAX {
        return Err(Problem::TooLong { length: name_bytes, limit: NAME_BYTES_MAX }.of(path));
    }
    if path.as_bytes().len() >= PATH_BYTES_MAX {
        return Err(Problem::TooLong { length: path.as_bytes().len(), limit: PATH_BYTES_MAX - 1 }.of(path));
    }
    Ok(())
}

/// Checks the target of a symlink, which is stored as it is.
pub(super) fn check_target(target: &[u8]) -> Result<(), Problem> {
    if target.is_empty() || target.len() >= PATH_BYTES_MAX {
        return Err(Problem::TooLong { length: target.len(), limit: PATH_BYTES_MAX - 1 });
    }
    if target.contains(&0) { Err(Problem::NulByte) } else { Ok(()) }
}
