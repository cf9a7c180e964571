//! The build context: a source goes in; a directory that nobody writes to any more comes out, with its revision.
//!
//! ```text
//! init container:  Source -> fetch -> OUTPUT/tree, then OUTPUT/source.json
//! build container: OUTPUT/tree -> Directory -> Dockerfile, ignore patterns, view, open files
//! ```
//!
//! `fetch` is the only part with a network, and holds the source's credentials only. What it writes is complete once
//! `source.json` is there.

pub mod arguments;
pub mod budget;
pub mod copy;
pub mod directory;
pub mod files;
pub mod git;
pub mod git_source;
pub mod hash;
pub mod view;
mod walk;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use karve_api::{Reason, SourceInfo};
use thiserror::Error;

use self::{
    budget::{Budget, VolumeFull},
    copy::CopyError,
    directory::Directory,
    files::FilesError,
    git_source::{GitError, GitSource},
};
use crate::in_root::open_in_root;

/// The context's files in the output directory.
pub const TREE: &str = "tree";

/// What is known about them; written last.
pub const SOURCE_INFO: &str = "source.json";

/// Where the tree grows; a crash leaves it behind and the next start removes it.
const INCOMING: &str = "incoming";

/// Waits between the tries of a fetch that met an unavailable server or a ConfigMap in motion.
pub const RETRY_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];

/// Where a context comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A git repository.
    Git(GitSource),
    /// A mounted directory: a volume.
    Directory(PathBuf),
    /// Files by path, without a cluster: what `karve run` takes from a manifest.
    Inline(BTreeMap<String, String>),
    /// A mounted ConfigMap, and the hash of the files that the build is for.
    Files {
        /// Where it is mounted.
        directory: PathBuf,
        /// `sha256:…`.
        hash: String,
    },
}

/// What `fetch` is asked to do.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// From where.
    pub source: Source,
    /// The directory of the source that is the context; links in the source are followed inside the source.
    pub sub_path: Option<String>,
    /// The directory that receives `tree` and `source.json`; must exist.
    pub output: PathBuf,
    /// What the context may take, in bytes.
    pub limit_bytes: Option<u64>,
}

/// Why there is no context.
#[derive(Debug, Error)]
pub enum ContextError {
    /// A git source failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A ConfigMap failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A volume failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The mounted directory is not there.
    #[error("cannot open the source directory `{path}`")]
    SourceDirectory {
        /// Where it should be.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The source has no such directory.
    #[error("the source has no directory `{sub_path}`: check `spec.context.subPath`")]
    SubPathNotFound {
        /// As it was given.
        sub_path: String,
    },
    /// The program is shutting down, or the thread that fetched ended in a panic.
    #[error("fetching the context was stopped")]
    Stopped,
    /// The output directory cannot be written.
    #[error("cannot write `{path}`")]
    Output {
        /// Which path.
        path: String,
        /// What the system says.
        source: io::Error,
    },
}

impl ContextError {
    /// Names the failure for reports and conditions.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Git(error) => git_reason(error),
            Self::Files(error) => match error {
                FilesError::VolumeFull(_) => Reason::VolumeFull,
                FilesError::NotRegular { .. } | FilesError::NotText { .. } | FilesError::TooLarge => {
                    Reason::ContextInvalid
                }
                FilesError::NotMounted { .. } | FilesError::Changed { .. } | FilesError::Read { .. } => {
                    Reason::ContextFetchFailed
                }
                FilesError::Write { source, .. } => write_reason(source),
            },
            Self::Copy(error) => match error {
                CopyError::VolumeFull(_) => Reason::VolumeFull,
                CopyError::TooLarge { .. } => Reason::ContextInvalid,
                CopyError::Read { .. } => Reason::ContextFetchFailed,
                CopyError::Write { source, .. } => write_reason(source),
            },
            Self::SourceDirectory { .. } | Self::SubPathNotFound { .. } => Reason::ContextNotFound,
            Self::Stopped => Reason::ContextFetchFailed,
            Self::Output { source, .. } => write_reason(source),
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Git(error) => error.is_retryable(),
            Self::Files(FilesError::Changed { .. } | FilesError::Read { .. }) => true,
            _ => false,
        }
    }
}

/// Names the failure of a git source for reports and conditions.
pub fn git_reason(error: &GitError) -> Reason {
    match error {
        GitError::Unauthorized { .. } => Reason::Unauthorized,
        GitError::RepositoryNotFound { .. } | GitError::ReferenceNotFound { .. } => Reason::ContextNotFound,
        GitError::Invalid { .. }
        | GitError::Unsupported { .. }
        | GitError::Untrusted { .. }
        | GitError::Checksum { .. } => Reason::ContextInvalid,
        GitError::VolumeFull(VolumeFull { .. }) => Reason::VolumeFull,
        GitError::Unavailable { .. } | GitError::Checkout { .. } => Reason::ContextFetchFailed,
        GitError::Submodule { source, .. } => git_reason(source),
    }
}

fn write_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::VolumeFull,
        _ => Reason::ContextFetchFailed,
    }
}

/// Fetches a context into the output directory, trying again a few times where that may help.
///
/// What an earlier try left in the output directory is removed. `tree` appears complete, and `source.json` after it. The
/// work runs on a thread for blocking work, and goes on there when the future is dropped.
pub async fn fetch(request: FetchRequest) -> Result<SourceInfo, ContextError> {
    match tokio::task::spawn_blocking(move || fetch_with_waits(&request, &RETRY_WAITS)).await {
        Ok(result) => result,
        Err(_) => Err(ContextError::Stopped),
    }
}

fn fetch_with_waits(request: &FetchRequest, waits: &[Duration]) -> Result<SourceInfo, ContextError> {
    let mut waits = waits.iter();
    loop {
        match fetch_once(request) {
            Err(error) if error.is_retryable() => {
                let Some(wait) = waits.next() else { return Err(error) };
                tracing::warn!(%error, wait_seconds = wait.as_secs(), "fetching the context failed, trying again");
                thread::sleep(*wait);
            }
            result => return result,
        }
    }
}

fn fetch_once(request: &FetchRequest) -> Result<SourceInfo, ContextError> {
    let output = &request.output;
    for name in [SOURCE_INFO, TREE, INCOMING] {
        remove(&output.join(name))?;
    }
    let incoming = output.join(INCOMING);
    in_output(&incoming, fs::create_dir(&incoming))?;
    let mut budget = Budget::new(request.limit_bytes);
    let sub_path = request.sub_path.as_deref().unwrap_or_default();
    let info = match &request.source {
        Source::Git(source) => {
            let checkout = git::checkout(source, &incoming, &mut budget)?;
            select(&incoming, sub_path, output)?;
            SourceInfo { revision: Some(checkout.revision), commit_time: Some(checkout.commit_time) }
        }
        Source::Files { directory, hash } => {
            let target = in_output(&incoming, File::open(&incoming))?;
            files::copy_config_map(directory, hash, target.as_fd(), &mut budget)?;
            select(&incoming, sub_path, output)?;
            SourceInfo::default()
        }
        Source::Inline(files) => {
            let target = in_output(&incoming, File::open(&incoming))?;
            let files = files.iter().map(|(path, text)| (path.as_str(), text.as_bytes()));
            files::write_files(files, target.as_fd(), &mut budget)?;
            select(&incoming, sub_path, output)?;
            SourceInfo::default()
        }
        Source::Directory(directory) => {
            let source = open_source(directory, sub_path)?;
            let target = in_output(&incoming, File::open(&incoming))?;
            copy::copy_tree(source.as_fd(), target.as_fd(), &mut budget)?;
            select(&incoming, "", output)?;
            SourceInfo::default()
        }
    };
    write_info(output, &info)?;
    Ok(info)
}

/// Opens a directory below a mounted one.
fn open_source(directory: &Path, sub_path: &str) -> Result<File, ContextError> {
    let named = |source| ContextError::SourceDirectory { path: directory.display().to_string(), source };
    let root = File::open(directory).map_err(named)?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    match open_in_root(root.as_fd(), sub_path, flags) {
        Ok(opened) => Ok(File::from(opened)),
        Err(errno) if sub_path.is_empty() => Err(named(errno.into())),
        Err(_) => Err(ContextError::SubPathNotFound { sub_path: sub_path.to_owned() }),
    }
}

/// Makes a directory of what came in the context's tree, and removes the rest.
fn select(incoming: &Path, sub_path: &str, output: &Path) -> Result<(), ContextError> {
    let selected = if sub_path.is_empty() {
        incoming.to_owned()
    } else {
        let missing = || ContextError::SubPathNotFound { sub_path: sub_path.to_owned() };
        let root = Directory::open(&incoming.display().to_string()).map_err(|_| missing())?;
        let directory = root.subdirectory(sub_path).map_err(|_| missing())?;
        // Resolved inside the tree; the kernel tells where that is without links.
        let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        in_output(incoming, fs::read_link(link))?
    };
    let tree = output.join(TREE);
    in_output(&tree, fs::rename(selected, &tree))?;
    remove(incoming)
}

fn write_info(output: &Path, info: &SourceInfo) -> Result<(), ContextError> {
    let path = output.join(SOURCE_INFO);
    let unfinished = output.join(INCOMING);
    let written = serde_json::to_vec(info)
        .map_err(io::Error::from)
        .and_then(|bytes| File::create(&unfinished)?.write_all(&bytes))
        .and_then(|()| fs::rename(&unfinished, &path));
    in_output(&path, written)
}

fn remove(path: &Path) -> Result<(), ContextError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    in_output(path, removed)
}

fn in_output<T>(path: &Path, result: io::Result<T>) -> Result<T, ContextError> {
    result.map_err(|source| ContextError::Output { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn request(source: Source, sub_path: Option<&str>, output: &TempDir) -> FetchRequest {
        let sub_path = sub_path.map(str::to_owned);
        FetchRequest { source, sub_path, output: output.path().to_owned(), limit_bytes: None }
    }

    fn volume(files: &[&str]) -> TempDir {
        let volume = TempDir::new().unwrap();
        for file in files {
            let path = volume.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        volume
    }

    #[tokio::test]
    async fn inline_files_become_a_tree() {
        let output = TempDir::new().unwrap();
        let files = [("Dockerfile", "FROM scratch\n"), ("web/a/b", "b"), ("../../out", "stays inside")];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        fetch(request(Source::Inline(files.into()), None, &output)).await.unwrap();
        let read = |path: &str| fs::read_to_string(output.path().join(TREE).join(path)).unwrap();
        assert_eq!([read("web/a/b"), read("out")], ["b", "stays inside"]);
    }

    #[tokio::test]
    async fn a_fetch_leaves_the_tree_and_what_is_known_about_it() {
        let (volume, output) = (volume(&["web/Dockerfile", "other"]), TempDir::new().unwrap());
        // What an earlier try left behind is no obstacle.
        fs::create_dir_all(output.path().join("incoming/half")).unwrap();
        fs::create_dir_all(output.path().join("tree/old")).unwrap();
        let info = fetch(request(Source::Directory(volume.path().to_owned()), Some("web"), &output)).await.unwrap();
        assert_eq!(info, SourceInfo::default());
        let names = |path: &str| {
            let mut names: Vec<_> =
                fs::read_dir(output.path().join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["source.json", "tree"]);
        assert_eq!(names("tree"), ["Dockerfile"]);
        assert_eq!(fs::read_to_string(output.path().join(SOURCE_INFO)).unwrap(), "{}");
    }

    #[track_caller]
    fn check_error(source: Source, sub_path: Option<&str>, reason: Reason, message: &str) {
        let output = TempDir::new().unwrap();
        let error = fetch_with_waits(&request(source, sub_path, &output), &[Duration::ZERO]).unwrap_err();
        assert_eq!((error.reason(), error.to_string().as_str()), (reason, message));
        assert!(!output.path().join(SOURCE_INFO).exists());
    }

    #[test]
    fn failures_are_named() {
        let (volume, outside) = (volume(&["a/b"]), volume(&["secret"]));
        std::os::unix::fs::symlink(outside.path(), volume.path().join("out")).unwrap();
        let directory = || Source::Directory(volume.path().to_owned());
        let missing = |path| format!("the source has no directory `{path}`: check `spec.context.subPath`");
        check_error(directory(), Some("web"), Reason::ContextNotFound, &missing("web"));
        check_error(directory(), Some("out"), Reason::ContextNotFound, &missing("out"));
        check_error(directory(), Some("a/b"), Reason::ContextNotFound, &missing("a/b"));
        check_error(
            Source::Directory("/nowhere".into()),
            None,
            Reason::ContextNotFound,
            "cannot open the source directory `/nowhere`",
        );
        check_error(
            Source::Files { directory: outside.path().to_owned(), hash: String::new() },
            None,
            Reason::ContextFetchFailed,
            &format!("`{}` is not a mounted ConfigMap: it has no `..data`", outside.path().display()),
        );
    }
}
