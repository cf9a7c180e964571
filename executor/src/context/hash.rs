//! The digests of a context's files: a view whose files are only listed comes in, one that knows their contents goes out.

use std::{
    fs::File,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    filesystem::{
        entry::{Action, Change, FileContent, Kind, Location},
        path::TreePath,
        view::View,
    },
    image::digest::Digest,
    layer::changes::hash_with,
};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 128 << 10;

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct UnreadableFile {
    /// The file, in the view.
    pub path: TreePath,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Reads the files that `wanted` names, on `threads` threads, and returns the view with their digests. A file that has one
/// keeps it.
pub fn hash(
    view: View,
    wanted: &dyn Fn(&TreePath) -> bool,
    open: &(dyn Fn(&Location) -> io::Result<File> + Sync),
    threads: usize,
) -> Result<View, UnreadableFile> {
    let mut changes = view.changes();
    // There may be a million files: they are not here three times.
    drop(view);
    let unread = |change: &Change| matches!(content(change), Some(content) if content.digest.is_none());
    let files: Vec<usize> =
        (0..changes.len()).filter(|number| unread(&changes[*number]) && wanted(&changes[*number].path)).collect();
    let digests = digests(&changes, &files, open, threads)?;
    for (number, digest) in digests {
        if let Action::Put(_, Kind::File(content)) = &mut changes[number].action {
            content.digest = Some(digest);
        }
    }
    let mut hashed = View::empty();
    // A view's own changes fit together.
    hashed.apply(&changes).map_err(|error| UnreadableFile { path: TreePath::ROOT, source: io::Error::other(error) })?;
    Ok(hashed)
}

fn content(change: &Change) -> Option<&FileContent> {
    match &change.action {
        Action::Put(_, Kind::File(content)) => Some(content),
        _ => None,
    }
}

/// Hashes the files with these numbers among the changes.
fn digests(
    changes: &[Change],
    files: &[usize],
    open: &(dyn Fn(&Location) -> io::Result<File> + Sync),
    threads: usize,
) -> Result<Vec<(usize, Digest)>, UnreadableFile> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Ok(Vec::with_capacity(files.len())));
    let work = || {
        let mut piece = vec![0; PIECE_BYTES];
        let mut own = Vec::new();
        while let Some(number) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let change = &changes[*number];
            let Some(content) = content(change) else { continue };
            match open(&content.location).and_then(|file| hash_with(file, &mut piece)) {
                Ok(digest) => own.push((*number, digest)),
                Err(source) => {
                    next.store(files.len(), Ordering::Relaxed);
                    let path = change.path.clone();
                    *results.lock().unwrap_or_else(PoisonError::into_inner) = Err(UnreadableFile { path, source });
                }
            }
        }
        if let Ok(all) = &mut *results.lock().unwrap_or_else(PoisonError::into_inner) {
            all.append(&mut own);
        }
    };
    thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the digest of a file's bytes.
pub fn file(file: File) -> io::Result<Digest> {
    hash_with(file, &mut vec![0; PIECE_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::entry::Metadata;

    #[test]
    fn files_that_are_wanted_get_the_digest_of_their_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let mut view = View::empty();
        for number in 0..20 {
            let path = directory.path().join(number.to_string());
            std::fs::write(&path, format!("content {number}")).unwrap();
            let kind = Kind::File(FileContent { size: 10, digest: None, location: Location::Spool(path) });
            let change = Change {
                path: TreePath::clean(format!("d/{number}").as_bytes()),
                action: Action::Put(Metadata::default(), kind),
            };
            view.apply(&[change]).unwrap();
        }
        let open = |location: &Location| match location {
            Location::Spool(path) => File::open(path),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let hashed = hash(view.clone(), &|path| path.name() != b"3", &open, 3).unwrap();
        for number in 0..20 {
            let node = hashed.get(&TreePath::clean(format!("d/{number}").as_bytes())).unwrap();
            let expected = (number != 3).then(|| Digest::of(format!("content {number}").as_bytes()));
            assert_eq!(node.content().unwrap().digest, expected, "{number}");
        }
        std::fs::remove_file(directory.path().join("7")).unwrap();
        assert_eq!(hash(view, &|_| true, &open, 3).unwrap_err().path, TreePath::clean(b"d/7"));
    }
}
