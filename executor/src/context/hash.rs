//! The digests of a context's files: a view whose files are only listed comes in, and knows their contents afterwards.

use std::{
    collections::HashSet,
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    filesystem::{
        entry::Location,
        path::TreePath,
        view::{FileNode, Node, View, may_have_more_names},
    },
    hash::hash_with,
    image::digest::Digest,
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

/// Reads the files that `wanted` names, on `threads` threads, and gives the view their digests. A file that has one keeps it;
/// of a file with several names, one that is wanted is enough.
pub fn hash(
    view: &mut View,
    wanted: &dyn Fn(&TreePath) -> bool,
    open: &(dyn Fn(&Location) -> io::Result<File> + Sync),
    threads: usize,
) -> Result<(), UnreadableFile> {
    let unread = |node: &Node| node.content().is_some_and(|content| content.digest.is_none());
    let mut seen = HashSet::new();
    let mut first = |file: &Arc<FileNode>| !may_have_more_names(file) || seen.insert(Arc::as_ptr(file));
    let files = view.walk(&TreePath::ROOT).filter(|(path, node)| unread(node) && wanted(path));
    let files = files.filter(|(_, node)| node.as_file().is_some_and(&mut first));
    // Their paths, which may be a million, are not needed unless one cannot be read.
    let files: Vec<&Node> = files.map(|(_, node)| node).collect();
    let digests = digests(&files, open, threads).map_err(|(unreadable, source)| {
        let is_it = |node: &Node| std::ptr::eq(node, files[unreadable]);
        let path = view.walk(&TreePath::ROOT).find(|(_, node)| is_it(node)).map(|(path, _)| path);
        UnreadableFile { path: path.unwrap_or_default(), source }
    })?;
    let digests =
        digests.into_iter().filter_map(|(number, digest)| Some((Arc::as_ptr(files[number].as_file()?), digest)));
    let digests = digests.collect();
    view.give_digests(&digests);
    Ok(())
}

/// Hashes files, and returns the digest of each by its number; or the number of one that cannot be read, and why.
fn digests(
    files: &[&Node],
    open: &(dyn Fn(&Location) -> io::Result<File> + Sync),
    threads: usize,
) -> Result<Vec<(usize, Digest)>, (usize, io::Error)> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Ok(Vec::with_capacity(files.len())));
    let work = || {
        let mut piece = vec![0; PIECE_BYTES];
        let mut own = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(node) = files.get(number) else { break };
            let Some(content) = node.content() else { continue };
            match open(&content.location).and_then(|file| hash_with(file, &mut piece)) {
                Ok(digest) => own.push((number, digest)),
                Err(source) => {
                    next.store(files.len(), Ordering::Relaxed);
                    *results.lock().unwrap_or_else(PoisonError::into_inner) = Err((number, source));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::entry::{Action, Change, FileContent, Kind, Metadata};

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
        let mut hashed = view.clone();
        hash(&mut hashed, &|path| path.name() != b"3", &open, 3).unwrap();
        for number in 0..20 {
            let node = hashed.get(&TreePath::clean(format!("d/{number}").as_bytes())).unwrap();
            let expected = (number != 3).then(|| Digest::of(format!("content {number}").as_bytes()));
            assert_eq!(node.content().unwrap().digest, expected, "{number}");
        }
        assert_eq!(view.digest(&TreePath::ROOT), None, "what shares files with it is as it was");
        std::fs::remove_file(directory.path().join("7")).unwrap();
        assert_eq!(hash(&mut view, &|_| true, &open, 3).unwrap_err().path, TreePath::clean(b"d/7"));
    }

    #[test]
    fn the_names_of_a_file_stay_names_of_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let kind = Kind::File(FileContent { size: 7, digest: None, location: Location::Spool(path.clone()) });
        let named = |name: &[u8], action| Change { path: TreePath::clean(name), action };
        let mut view = View::empty();
        let linked = || Action::HardLink(TreePath::clean(b"d/a"));
        let file = named(b"d/a", Action::Put(Metadata::default(), kind));
        view.apply(&[file, named(b"d/b", linked()), named(b"e", linked())]).unwrap();
        // One name that is wanted is enough, and the file is read once.
        let (reads, open) = (AtomicUsize::new(0), |_: &Location| File::open(&path));
        let counted = |location: &Location| {
            reads.fetch_add(1, Ordering::Relaxed);
            open(location)
        };
        hash(&mut view, &|path| path.as_bytes() != b"d/b", &counted, 2).unwrap();
        assert_eq!(reads.into_inner(), 1);
        let mut changes = view.changes();
        let Action::Put(_, Kind::File(content)) = &changes[2].action else { panic!("{changes:?}") };
        assert_eq!(content.digest, Some(Digest::of(b"content")));
        let rest: Vec<_> = changes.drain(3..).map(|change| change.action).collect();
        assert_eq!(rest, [linked(), linked()]);
    }
}
