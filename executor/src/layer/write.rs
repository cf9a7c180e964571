//! Changes -> deterministic tar -> diffID -> compressed -> digest -> a file, in constant memory.
//!
//! The bytes depend on the changes alone: no user or group names, whole seconds, PAX records only for what a ustar header
//! cannot hold. The blob appears under its name when it is complete, never before. What cannot be written truly (a file that
//! changed while it was read, entries out of order, reserved names) is an error that names the entry.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tar_core::{EntryType, HeaderError, builder::EntryBuilder};

use super::{
    Compression, Layer,
    compress::{Compressor, PIECE_BYTES},
    error::{LayerError, Problem},
    tar::{METADATA_BYTES_MAX, OPAQUE_NAME, WHITEOUT_PREFIX, check_path, check_target},
};
use crate::{
    filesystem::{
        entry::{Action, Change, FileContent, Kind, Location, Metadata},
        index::{Index, is_inline},
        path::TreePath,
    },
    image::digest::Digest,
};

/// Two blocks of zeros end an archive.
const END: [u8; 1024] = [0; 1024];
const BLOCK_BYTES: u64 = 512;

/// How to write a layer.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// Threads that compress; they do not change the bytes.
    pub threads: usize,
    /// The largest tar stream in bytes.
    pub size_max: u64,
}

/// A layer that was written, with its index.
#[derive(Debug)]
pub struct Written {
    /// The blob and its digests.
    pub layer: Layer,
    /// What was written: the changes with every file's digest, located in this layer.
    pub index: Index,
}

/// Writes a layer to `blob`. The changes come sorted by path, each path once; a directory may be followed by its own
/// [`Action::Opaque`]. `open` returns a reader of a file's bytes; inline bytes are not asked for.
///
/// # Errors
/// Fails where a file cannot be read or has another size or digest than its [`FileContent`] says, where an entry cannot be
/// expressed in a layer, and where the blob cannot be written. No file is left behind then.
pub fn write(
    changes: impl IntoIterator<Item = Change>,
    open: &mut dyn FnMut(&Location) -> io::Result<Box<dyn Read>>,
    blob: &Path,
    options: &WriteOptions,
) -> Result<Written, LayerError> {
    let (partial, file) = Partial::create(blob)?;
    let mut writer = TarWriter::new(&partial, file, options)?;
    // There may be a million: they are completed where they are. A list that comes as one is not copied here.
    let mut changes: Vec<Change> = changes.into_iter().collect();
    for position in 0..changes.len() {
        let (written, rest) = changes.split_at_mut(position);
        let Some(change) = rest.first_mut() else { break };
        check_order(written.last(), change)?;
        let headers = headers(change, written)?;
        writer.entry(&headers, change, open)?;
    }
    let (diff_id, digest, size) = writer.finish()?;
    partial.complete(blob)?;
    let layer =
        Layer { diff_id: diff_id.clone(), digest, size, compression: options.compression, blob: blob.to_path_buf() };
    Ok(Written { layer, index: Index::new(diff_id, changes) })
}

/// The blob under its temporary name; removed when dropped before it is complete.
struct Partial {
    path: PathBuf,
    complete: bool,
}

impl Partial {
    fn create(blob: &Path) -> Result<(Self, File), LayerError> {
        let mut name = blob.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".partial");
        let path = blob.with_file_name(name);
        let file = File::create(&path).map_err(|source| LayerError::Write { path: path.clone(), source })?;
        Ok((Self { path, complete: false }, file))
    }

    fn complete(mut self, blob: &Path) -> Result<(), LayerError> {
        fs::rename(&self.path, blob).map_err(|source| LayerError::Write { path: blob.to_path_buf(), source })?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.complete
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove an unfinished layer");
        }
    }
}

/// The archive under construction.
struct TarWriter<'a> {
    stream: Compressor<BufWriter<File>>,
    bytes: u64,
    size_max: u64,
    blob: &'a Path,
    buffer: Vec<u8>,
}

impl<'a> TarWriter<'a> {
    fn new(partial: &'a Partial, file: File, options: &WriteOptions) -> Result<Self, LayerError> {
        let file = BufWriter::with_capacity(PIECE_BYTES, file);
        let stream = Compressor::new(file, options.compression, options.threads).map_err(LayerError::Compress)?;
        Ok(Self { stream, bytes: 0, size_max: options.size_max, blob: &partial.path, buffer: vec![0; PIECE_BYTES] })
    }

    /// Writes one entry, and completes what the change knows of a file's content.
    fn entry(
        &mut self,
        headers: &[u8],
        change: &mut Change,
        open: &mut dyn FnMut(&Location) -> io::Result<Box<dyn Read>>,
    ) -> Result<(), LayerError> {
        self.append(headers)?;
        match &mut change.action {
            Action::Put(_, Kind::File(content)) => self.content(&change.path, content, open),
            Action::Put(..) | Action::HardLink(_) | Action::Whiteout | Action::Opaque => Ok(()),
        }
    }

    fn content(
        &mut self,
        path: &TreePath,
        content: &mut FileContent,
        open: &mut dyn FnMut(&Location) -> io::Result<Box<dyn Read>>,
    ) -> Result<(), LayerError> {
        let failed = |source| LayerError::Operation { operation: "read", path: path.clone(), source };
        if content.size > self.size_max.saturating_sub(self.bytes) {
            // At once: a file of holes can be larger than anything, and takes hours to read.
            return Err(LayerError::Limit { limit: self.size_max, unit: "bytes" });
        }
        let mut reader: Box<dyn Read> = match &content.location {
            Location::Inline(bytes) => Box::new(io::Cursor::new(bytes.clone())),
            location => open(location).map_err(failed)?,
        };
        let keep = is_inline(path, content.size);
        let mut kept = Vec::new();
        let (mut hasher, mut found) = (Sha256::new(), 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            found += count as u64;
            if found > content.size {
                break; // It grows: how long it would become does not matter.
            }
            hasher.update(&buffer[..count]);
            self.append(&buffer[..count])?;
            if keep {
                kept.extend_from_slice(&buffer[..count]);
            }
        }
        self.buffer = buffer;
        if found != content.size {
            return Err(Problem::SizeChanged { expected: content.size, found }.of(path));
        }
        let padding = usize::try_from(found.next_multiple_of(BLOCK_BYTES) - found).unwrap_or_default();
        self.append(&END[..padding])?;

        let found = Digest::from_hasher(hasher);
        if let Some(expected) = content.digest.take()
            && expected != found
        {
            return Err(Problem::ContentChanged { expected, found }.of(path));
        }
        content.digest = Some(found);
        content.location = if keep { Location::Inline(kept.into()) } else { Location::unknown() };
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.size_max {
            return Err(LayerError::Limit { limit: self.size_max, unit: "bytes" });
        }
        self.stream.write_all(bytes).map_err(|source| LayerError::Write { path: self.blob.to_path_buf(), source })
    }

    /// Returns the diffID, the digest and the size of the blob.
    fn finish(mut self) -> Result<(Digest, Digest, u64), LayerError> {
        self.append(&END)?;
        let finished = self.stream.finish();
        let finished = finished.map_err(|source| LayerError::Write { path: self.blob.to_path_buf(), source })?;
        Ok((finished.diff_id, finished.digest, finished.size))
    }
}

fn check_order(last: Option<&Change>, change: &Change) -> Result<(), LayerError> {
    let Some(last) = last else { return Ok(()) };
    let is_directory = matches!(last.action, Action::Put(_, Kind::Directory));
    let opaque_follows_directory = change.path == last.path && is_directory && change.action == Action::Opaque;
    if change.path > last.path || opaque_follows_directory {
        return Ok(());
    }
    Err(Problem::Unsorted(last.path.clone()).of(&change.path))
}

/// A name that begins like a deletion would be read as one.
fn check_names(path: &TreePath) -> Result<(), LayerError> {
    if path.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return Err(Problem::ReservedName.of(path));
    }
    check_path(path, path.as_bytes())
}

/// The header blocks of an entry, PAX records included.
fn headers(change: &Change, written: &[Change]) -> Result<Vec<u8>, LayerError> {
    let Change { path, action } = change;
    check_names(path)?;
    let mut builder = EntryBuilder::new_ustar();
    builder.path(tar_path(path, action));
    let nothing = Metadata::default();
    let (entry_type, metadata) = match action {
        // Container runtimes set owner, mode and attributes again when they come to the second name of a file.
        Action::HardLink(target) => (EntryType::Link, linked(path, target, written)?),
        Action::Whiteout | Action::Opaque => (EntryType::Regular, &nothing),
        Action::Put(metadata, kind) => (entry_type(kind), metadata),
    };
    builder.entry_type(entry_type);
    match action {
        Action::HardLink(target) => drop(builder.link_name(target.as_bytes())),
        Action::Put(_, Kind::Symlink(target)) => {
            check_target(target).map_err(|problem| problem.of(path))?;
            builder.link_name(target);
        }
        Action::Put(..) | Action::Whiteout | Action::Opaque => {}
    }
    set_metadata(&mut builder, metadata, path)?;
    set_numbers(&mut builder, action, metadata)
        .map_err(|(field, value)| Problem::OutOfRange { field, value }.of(path))?;
    let headers = builder.finish_bytes();
    let limit = METADATA_BYTES_MAX as usize;
    if headers.len() > limit {
        return Err(Problem::TooMuchMetadata { size: headers.len(), limit }.of(path));
    }
    Ok(headers)
}

const fn entry_type(kind: &Kind) -> EntryType {
    match kind {
        Kind::Directory => EntryType::Directory,
        Kind::File(_) => EntryType::Regular,
        Kind::Symlink(_) => EntryType::Symlink,
        Kind::CharacterDevice(_) => EntryType::Char,
        Kind::BlockDevice(_) => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    }
}

/// The metadata of the entry that a hard link names. It must come before the link, in this layer: a reader may create
/// entries one by one.
fn linked<'a>(path: &TreePath, target: &TreePath, written: &'a [Change]) -> Result<&'a Metadata, LayerError> {
    let mut at = target;
    // Each step goes to an earlier entry, so this ends.
    while let Ok(place) = written.binary_search_by(|known| known.path.cmp(at)) {
        match &written[place].action {
            Action::HardLink(next) => at = next,
            Action::Put(_, Kind::Directory) | Action::Whiteout | Action::Opaque => break,
            Action::Put(metadata, _) => return Ok(metadata),
        }
    }
    Err(Problem::LinkToMissing(target.clone()).of(path))
}

/// The path as the archive has it: directories end in a slash, deletions are names.
fn tar_path(path: &TreePath, action: &Action) -> Vec<u8> {
    match action {
        Action::Whiteout => {
            let name = [WHITEOUT_PREFIX, path.name()].concat();
            path.parent().unwrap_or_default().child(&name).as_bytes().to_vec()
        }
        Action::Opaque => path.child(OPAQUE_NAME).as_bytes().to_vec(),
        Action::Put(_, Kind::Directory) if path.is_root() => b"./".to_vec(),
        Action::Put(_, Kind::Directory) => [path.as_bytes(), b"/"].concat(),
        Action::Put(..) | Action::HardLink(_) => path.as_bytes().to_vec(),
    }
}

fn set_metadata(builder: &mut EntryBuilder, metadata: &Metadata, path: &TreePath) -> Result<(), LayerError> {
    if metadata.mtime < 0 {
        builder.add_pax("mtime", metadata.mtime.to_string());
    }
    for xattr in &metadata.xattrs {
        // PAX keys are UTF-8 and end at the first `=`; names of attributes in Linux need not be either.
        let refused = || Problem::AttributeName(xattr.name.escape_ascii().to_string()).of(path);
        let name = std::str::from_utf8(&xattr.name).map_err(|_| refused())?;
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(refused());
        }
        builder.add_pax(&format!("SCHILY.xattr.{name}"), &xattr.value);
    }
    Ok(())
}

/// Sets what can be too large for the format, and names it then.
fn set_numbers(builder: &mut EntryBuilder, action: &Action, metadata: &Metadata) -> Result<(), (&'static str, u64)> {
    if metadata.mode > 0o7777 {
        return Err(("mode", metadata.mode.into()));
    }
    let named = |field, value: u64| move |_: HeaderError| (field, value);
    let size = if let Action::Put(_, Kind::File(content)) = action { content.size } else { 0 };
    builder.mode(metadata.mode).map_err(named("mode", metadata.mode.into()))?;
    builder.uid(metadata.uid.into()).map_err(named("uid", metadata.uid.into()))?;
    builder.gid(metadata.gid.into()).map_err(named("gid", metadata.gid.into()))?;
    let mtime = u64::try_from(metadata.mtime).unwrap_or(0);
    builder.mtime(mtime).map_err(named("mtime", mtime))?;
    builder.size(size).map_err(named("size", size))?;
    if let Action::Put(_, Kind::CharacterDevice(device) | Kind::BlockDevice(device)) = action {
        let number = u64::from(device.major.max(device.minor));
        builder.device(device.major, device.minor).map_err(named("device number", number))?;
    }
    Ok(())
}
