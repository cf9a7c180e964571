//! COPY, ADD and WORKDIR as arithmetic on views: where the files land, as whom, in which mode, without touching one.
//!
//! ```text
//! request -> sources (what is meant) -> target (a copy of the lower view that remembers what changed) -> changes
//! ```
//!
//! The rules are BuildKit's, except that several sources need a destination with a trailing slash. Refuses a literal source
//! that is missing, a file over a directory and a directory over a file.

use std::{collections::BTreeMap, fmt, sync::Arc};

use karve_dockerfile::chmod::Chmod;

use super::{
    entry::{Action, Change, FileContent, Kind, Location, Metadata},
    path::TreePath,
    view::{FileNode, Node, ResolveError, Resolved, View, ViewError},
};
use crate::{
    image::digest::Digest,
    plan::{graph::Source, remote::Remote},
};

mod archive;
mod glob;
mod reads;
mod sources;
mod target;
mod tree;

pub use reads::{Read, digest_of_reads, reads};
use sources::Selection;
use target::Target;

/// What a COPY or ADD says, with everything decided that needs no file system.
#[derive(Clone)]
pub struct CopyRequest<'request> {
    /// What to copy.
    pub sources: &'request [Source],
    /// Where to, as written after expansion.
    pub destination: &'request str,
    /// What a relative destination is relative to.
    pub working_directory: &'request str,
    /// `--chown`, resolved.
    pub ownership: Option<(u32, u32)>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--exclude`: whether a path, relative to its source (to the pivot with `--parents`), is left out. A directory that is
    /// left out appears all the same when something below it is not.
    pub excluded: &'request dyn Fn(&TreePath) -> bool,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the changes do not depend on the lower view. Without effect beside `--chmod`, as in BuildKit.
    pub link: bool,
    /// Whether the sources are a build context: root owns its files, and their time is `mtime`.
    pub from_context: bool,
    /// What ADD unpacks: the entries of the archives among [`archive_candidates`].
    pub archives: &'request BTreeMap<TreePath, Vec<Change>>,
    /// What was fetched for the sources of ADD that are elsewhere.
    pub fetched: &'request BTreeMap<Remote, Fetched>,
    /// The time, in seconds since 1970, of files from a context and of directories that the copy makes; without it the files
    /// keep theirs, and the directories get 0. Files from a stage or image always keep theirs.
    pub mtime: Option<i64>,
}

/// What ADD fetched from elsewhere.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// A file.
    File {
        /// Its name in a directory.
        name: String,
        /// When it was changed last, in seconds since 1970.
        mtime: i64,
        /// Its bytes.
        content: FileContent,
        /// What it holds, if it is an archive and to be unpacked.
        entries: Option<Vec<Change>>,
    },
    /// A tree, of which the contents of one directory are copied.
    Tree {
        /// The tree.
        view: View,
        /// The directory.
        root: TreePath,
        /// The time that its files get; `None` is the copy's.
        mtime: Option<i64>,
    },
}

/// Permission bits of a file from a URL.
const REMOTE_FILE_MODE: u32 = 0o600;

/// What a copy does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyPlan {
    /// The layer: sorted, parents first, with every directory above a changed entry, but without the root.
    pub changes: Vec<Change>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Says why a copy can't be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// A literal source that does not exist.
    #[error("\"{path}\": not found: no such file or directory in what is copied from")]
    Missing {
        /// The source, cleaned.
        path: TreePath,
    },
    /// A wildcard that is none.
    #[error("`{pattern}` is not a valid pattern: a `[` without `]`, an empty class or a trailing backslash")]
    BadPattern {
        /// The source as written.
        pattern: String,
    },
    /// Several sources and a destination that is not marked as a directory.
    #[error("several sources need a destination that is a directory and ends with a slash: write `{destination}/`")]
    SeveralSources {
        /// The destination as written.
        destination: String,
    },
    /// A file where there is a directory.
    #[error("cannot replace to directory {path} with file")]
    FileOverDirectory {
        /// The directory.
        path: TreePath,
    },
    /// A directory where there is a file or a symlink, or a path through a file.
    #[error("cannot copy to non-directory: {path}")]
    NotADirectory {
        /// The file.
        path: TreePath,
    },
    /// Symlinks that lead nowhere.
    #[error(transparent)]
    Unresolved(ResolveError),
    /// An archive with impossible entries.
    #[error("the archive {path} can't be unpacked: {source}")]
    Archive {
        /// The archive.
        path: TreePath,
        /// What is wrong with it.
        source: ViewError,
    },
}

/// Plans a COPY or an ADD.
pub fn plan(lower: &View, source: &View, request: &CopyRequest<'_>) -> Result<CopyPlan, CopyError> {
    request.check_destination()?;
    let independent = request.link && request.chmod.is_none();
    let target = Target::new(if independent { View::empty() } else { lower.clone() });
    let mut copier = Copier { source, request, target, warnings: Vec::new() };
    for each in request.sources {
        match each {
            Source::Inline { name, content } => copier.copy_inline(name, content)?,
            Source::Path(text) if request.parents => copier.copy_with_parents(text)?,
            Source::Path(text) => copier.copy_path(text)?,
            Source::Remote { text, remote } => match request.fetched.get(remote) {
                Some(fetched) => copier.copy_fetched(fetched)?,
                None => return Err(CopyError::Missing { path: TreePath::clean(text.as_bytes()) }),
            },
        }
    }
    Ok(CopyPlan { changes: copier.target.into_changes(), warnings: copier.warnings })
}

/// Lists the regular files that the sources name themselves, symlinks followed. ADD unpacks those that are archives, by their
/// content and not by their name: the caller looks into each and hands the entries of archives to [`plan`]. Archives inside a
/// directory that is copied are not among them.
pub fn archive_candidates(source: &View, sources: &[Source]) -> Result<Vec<TreePath>, CopyError> {
    let mut candidates = Vec::new();
    for each in sources {
        let Source::Path(text) = each else { continue };
        for path in sources::select(source, text)?.into_paths() {
            let resolved = source.resolve(path.as_bytes(), &TreePath::ROOT).map_err(CopyError::Unresolved)?;
            if resolved.node.is_some_and(|node| node.content().is_some()) {
                candidates.push(resolved.path);
            }
        }
    }
    candidates.sort();
    candidates.dedup();
    Ok(candidates)
}

/// Plans a WORKDIR: creates what is missing of an absolute path, each directory owned by `owner`. What exists is not touched;
/// the answer is empty when all of it does.
pub fn directory(lower: &View, path: &str, owner: (u32, u32), mtime: i64) -> Result<Vec<Change>, CopyError> {
    let mut target = Target::new(lower.clone());
    let destination = target.resolve(&TreePath::clean(path.as_bytes()))?.path;
    let (uid, gid) = owner;
    target.make_directories(&destination, &Metadata { uid, gid, ..Metadata::directory(mtime) })?;
    Ok(target.into_changes())
}

/// Lists the files of some changes whose bytes lie in layers: by diffID and by path in the layer.
pub fn needed_layers(changes: &[Change]) -> BTreeMap<Digest, BTreeMap<TreePath, &FileContent>> {
    let mut layers: BTreeMap<Digest, BTreeMap<TreePath, &FileContent>> = BTreeMap::new();
    for change in changes {
        if let Action::Put(_, Kind::File(content)) = &change.action
            && let Location::Layer(diff_id, path) = &content.location
        {
            layers.entry(diff_id.clone()).or_default().insert(path.clone(), content);
        }
    }
    layers
}

impl CopyRequest<'_> {
    /// Whether the destination is written as a directory.
    fn names_directory(&self) -> bool {
        matches!(self.destination, "" | ".") || self.destination.ends_with('/') || self.destination.ends_with("/.")
    }

    fn check_destination(&self) -> Result<(), CopyError> {
        if self.sources.len() > 1 && !self.names_directory() {
            return Err(CopyError::SeveralSources { destination: self.destination.to_owned() });
        }
        Ok(())
    }

    /// The destination from the root, symlinks not followed.
    fn destination_path(&self) -> TreePath {
        if self.destination.starts_with('/') {
            TreePath::clean(self.destination.as_bytes())
        } else {
            TreePath::clean(self.working_directory.as_bytes()).join(self.destination.as_bytes())
        }
    }

    /// The attributes of directories that the copy makes on its way.
    fn directory_metadata(&self) -> Metadata {
        let (uid, gid) = self.ownership.unwrap_or_default();
        let mode = self.chmod.as_ref().and_then(Chmod::octal).unwrap_or(0o755);
        Metadata { mode, uid, gid, ..Metadata::directory(self.mtime.unwrap_or_default()) }
    }

    /// The attributes that a copied entry gets.
    fn entry_metadata(&self, metadata: &Metadata, kind: &Kind) -> Metadata {
        let kept = if self.from_context { (0, 0) } else { (metadata.uid, metadata.gid) };
        let (uid, gid) = self.ownership.unwrap_or(kept);
        let mode = match &self.chmod {
            Some(chmod) if !matches!(kind, Kind::Symlink(_)) => chmod.apply(metadata.mode, *kind == Kind::Directory),
            _ => metadata.mode,
        };
        Metadata { mode, uid, gid, mtime: self.entry_mtime(metadata), xattrs: metadata.xattrs.clone() }
    }

    fn entry_mtime(&self, metadata: &Metadata) -> i64 {
        self.mtime.filter(|_| self.from_context).unwrap_or(metadata.mtime)
    }
}

impl fmt::Debug for CopyRequest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CopyRequest")
            .field("sources", &self.sources)
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

/// A copy under way.
struct Copier<'plan> {
    source: &'plan View,
    request: &'plan CopyRequest<'plan>,
    target: Target,
    warnings: Vec<String>,
}

impl Copier<'_> {
    fn copy_inline(&mut self, name: &str, content: &Arc<[u8]>) -> Result<(), CopyError> {
        let mtime = self.request.mtime.unwrap_or_default();
        let kind = Kind::File(FileContent {
            size: content.len() as u64,
            digest: Some(Digest::of(content)),
            location: Location::Inline(Arc::clone(content)),
        });
        // A heredoc is root's, whatever it is copied beside.
        let metadata = Metadata { mode: 0o644, mtime, ..Metadata::default() };
        let node = Node::new(self.request.entry_metadata(&metadata, &kind), kind);
        self.copy_file(TreePath::clean(name.as_bytes()).name(), node)
    }

    fn copy_fetched(&mut self, fetched: &Fetched) -> Result<(), CopyError> {
        match fetched {
            Fetched::File { name, .. } if (self.request.excluded)(&TreePath::clean(name.as_bytes())) => Ok(()),
            Fetched::File { name, entries: Some(entries), .. } => {
                let path = TreePath::clean(name.as_bytes());
                self.warnings.extend(archive::unpack(&mut self.target, &path, entries, self.request)?);
                Ok(())
            }
            Fetched::File { name, mtime, content, entries: None } => {
                let kind = Kind::File(content.clone());
                let metadata = Metadata { mode: REMOTE_FILE_MODE, ..Metadata::default() };
                // Its time is the server's word, which is as lasting as the file is.
                let metadata = Metadata { mtime: *mtime, ..self.request.entry_metadata(&metadata, &kind) };
                self.copy_file(name.as_bytes(), Node::new(metadata, kind))
            }
            Fetched::Tree { view, root, mtime } => {
                let request = CopyRequest { mtime: mtime.or(self.request.mtime), ..self.request.clone() };
                let target = std::mem::replace(&mut self.target, Target::new(View::empty()));
                let mut copier = Copier { source: view, request: &request, target, warnings: Vec::new() };
                let result = copier.copy_tree(root, &[TreePath::ROOT]);
                self.target = copier.target;
                result
            }
        }
    }

    fn copy_path(&mut self, text: &str) -> Result<(), CopyError> {
        let selection = sources::select(self.source, text)?;
        self.check_matches(text, &selection)?;
        for path in selection.into_paths() {
            let resolved = self.source.resolve(path.as_bytes(), &TreePath::ROOT);
            let resolved = resolved.map_err(CopyError::Unresolved)?;
            match resolved.node {
                None => return Err(CopyError::Missing { path }),
                Some(Node::Directory(_)) => self.copy_tree(&resolved.path, &[TreePath::ROOT])?,
                Some(Node::File(_)) if (self.request.excluded)(&TreePath::clean(path.name())) => {}
                Some(Node::File(file)) => match self.request.archives.get(&resolved.path) {
                    Some(entries) => {
                        let warnings = archive::unpack(&mut self.target, &resolved.path, entries, self.request)?;
                        self.warnings.extend(warnings);
                    }
                    None => self.copy_file(path.name(), self.copied(file))?,
                },
            }
        }
        Ok(())
    }

    /// Warns of a wildcard without matches, and refuses several files that would become one.
    fn check_matches(&mut self, text: &str, selection: &Selection) -> Result<(), CopyError> {
        let Selection::Matches(paths) = selection else { return Ok(()) };
        if paths.is_empty() {
            self.warnings.push(format!("the wildcard `{text}` matches nothing: nothing is copied for it"));
        }
        let is_file = |path: &&TreePath| {
            let resolved = self.source.resolve(path.as_bytes(), &TreePath::ROOT);
            resolved.is_ok_and(|resolved| resolved.node.is_some_and(|node| !node.is_directory()))
        };
        if !self.request.parents && !self.request.names_directory() && paths.iter().filter(is_file).count() > 1 {
            let destination = self.target.resolve(&self.request.destination_path())?;
            if !destination.node.is_some_and(Node::is_directory) {
                return Err(CopyError::SeveralSources { destination: self.request.destination.to_owned() });
            }
        }
        Ok(())
    }

    fn copy_with_parents(&mut self, text: &str) -> Result<(), CopyError> {
        let (pivot, selection) = sources::select_below_pivot(self.source, text)?;
        self.check_matches(text, &selection)?;
        let starts = selection.into_paths();
        if starts.is_empty() { Ok(()) } else { self.copy_tree(&pivot, &starts) }
    }

    /// Copies one file into the destination, or to it.
    fn copy_file(&mut self, name: &[u8], node: Node) -> Result<(), CopyError> {
        let destination = self.target.resolve(&self.request.destination_path())?;
        let into = self.request.names_directory() || destination.node.is_some_and(Node::is_directory);
        let destination = destination.path;
        let path = if into { destination.child(name) } else { destination };
        let parent = path.parent().ok_or(CopyError::FileOverDirectory { path: TreePath::ROOT })?;
        self.target.make_directories(&parent, &self.request.directory_metadata())?;
        self.target.put_file(path, node)
    }

    fn copied(&self, file: &FileNode) -> Node {
        Node::new(self.request.entry_metadata(&file.metadata, &file.kind), file.kind.clone())
    }
}

#[cfg(test)]
mod tests;
