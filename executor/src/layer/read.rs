//! A layer or an archive -> its index, or chosen files of it, in constant memory beside the result.
//!
//! Archives are hostile: see `tar.rs` for what is refused. Nothing is created but the files that the caller names.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};
use tar_core::{HEADER_SIZE, Header};

use super::{
    compress::{ArchiveKind, decompress, read_ahead},
    error::LayerError,
    tar::TarReader,
};
use crate::{
    filesystem::{
        entry::{Action, Change, FileContent, Kind, Location},
        index::{Index, is_inline},
        path::TreePath,
    },
    image::digest::Digest,
};

/// Reads a whole layer and returns what it does, with the digest of every file.
///
/// Paths are cleaned below the root. The order is the archive's, in which a path may come more than once.
///
/// # Errors
/// Fails where the stream is damaged, exceeds a limit or holds what a layer cannot have.
pub fn index(reader: impl Read + Send, kind: impl Into<ArchiveKind>) -> Result<Index, LayerError> {
    let (changes, diff_id) = read_ahead(reader, kind, described_changes).map_err(LayerError::Read)?;
    Ok(Index::new(diff_id, changes?))
}

fn described_changes(stream: &mut dyn Read) -> Result<Vec<Change>, LayerError> {
    let mut tar = TarReader::new(stream);
    let mut changes = Vec::new();
    while let Some(mut change) = tar.next()? {
        if let Action::Put(_, Kind::File(content)) = &mut change.action {
            describe(&mut tar, &change.path, content)?;
        }
        changes.push(change);
    }
    tar.finish()?;
    Ok(changes)
}

/// Hashes the content of a file, and keeps it if an index should have it.
fn describe(tar: &mut TarReader<&mut dyn Read>, path: &TreePath, content: &mut FileContent) -> Result<(), LayerError> {
    let keep = is_inline(path, content.size);
    if keep {
        tar.keep(content.size)?;
    }
    let (mut hasher, mut kept) = (Sha256::new(), Vec::new());
    while let Some(piece) = tar.content()? {
        hasher.update(piece);
        if keep {
            kept.extend_from_slice(piece);
        }
    }
    content.digest = Some(Digest::from_hasher(hasher));
    if keep {
        content.location = Location::Inline(kept.into());
    }
    Ok(())
}

/// Copies chosen regular files out of a layer into files of the work directory and returns the layer's diffID, which the
/// caller compares with the one it expects. `wanted` is asked for each file in the archive's order and names its
/// destination; where a path comes more than once, the last file wins if the destination is the same.
///
/// # Errors
/// Fails like [`index`], and where a destination cannot be written.
pub fn files(
    reader: impl Read + Send,
    kind: impl Into<ArchiveKind>,
    wanted: &mut dyn FnMut(&TreePath) -> Option<PathBuf>,
) -> Result<Digest, LayerError> {
    let (read, diff_id) = read_ahead(reader, kind, |stream| {
        let mut tar = TarReader::new(stream);
        while let Some(change) = tar.next()? {
            let Action::Put(_, Kind::File(_)) = &change.action else { continue };
            let Some(path) = wanted(&change.path) else { continue };
            let failed = |source| LayerError::Write { path: path.clone(), source };
            let mut file = File::create(&path).map_err(failed)?;
            while let Some(piece) = tar.content()? {
                file.write_all(piece).map_err(failed)?;
            }
        }
        tar.finish()
    })
    .map_err(LayerError::Read)?;
    read.map(|()| diff_id)
}

/// Says in which compression a file is a tar archive, by its content and not by its name: `None` for whatever is not a tar
/// with at least one entry inside, a compressed single file among them. Reads little: one block of the compression.
///
/// # Errors
/// Fails where the reader does; damaged compression is no archive.
pub fn archive_kind(mut reader: impl Read + Send) -> io::Result<Option<ArchiveKind>> {
    const MAGIC: [(&[u8], ArchiveKind); 4] = [
        (&[0x1f, 0x8b, 0x08], ArchiveKind::Gzip),
        (b"BZh", ArchiveKind::Bzip2),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], ArchiveKind::Xz),
        (&[0x28, 0xb5, 0x2f, 0xfd], ArchiveKind::Zstd),
    ];
    let mut first = Vec::with_capacity(HEADER_SIZE);
    reader.by_ref().take(6).read_to_end(&mut first)?;
    let kind = MAGIC.iter().find(|(magic, _)| first.starts_with(magic)).map_or(ArchiveKind::Tar, |(_, kind)| *kind);
    let mut header = [0; HEADER_SIZE];
    let mut stream = decompress(io::Cursor::new(first).chain(reader), kind)?;
    Ok(stream.read_exact(&mut header).is_ok_and(|()| is_header(&header)).then_some(kind))
}

/// A tar has no magic number in its oldest form; its checksum is right by chance once in 100,000 files.
fn is_header(block: &[u8; HEADER_SIZE]) -> bool {
    let header = Header::from_bytes(block);
    !header.is_empty() && header.verify_checksum().is_ok() && !header.path_bytes().is_empty()
}
