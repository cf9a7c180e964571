//! What ADD takes from elsewhere: URLs and git repositories come in; spool files and trees in the work directory come out, each
//! fetched once, all of the graph's at the start of the build.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use karve_api::Reason;
use karve_dockerfile::ignore::Patterns;
use reqwest::Url;
use tokio::sync::{OnceCell, Semaphore};

use super::{
    copy::relocate,
    error::{StepError, reason_of},
    secrets::Secrets,
    work::WorkDirectory,
};
use crate::{
    context::{
        RETRY_WAITS,
        budget::Budget,
        directory::{Directory, DirectoryError},
        git, git_reason,
        git_source::{Checkout, GitCredentials, GitError, GitReference, GitSource},
    },
    filesystem::{
        entry::{Action, Kind, Location},
        path::TreePath,
        view::{Node, View, ViewError},
    },
    hash::hash,
    image::digest::Digest,
    plan::remote::{Remote, RemoteFile, RemoteRepository, is_commit, without_userinfo},
    registry::{
        Registry,
        download::{Download, DownloadError, host_of, shown},
    },
    secret::Secret,
};

/// Repositories that are fetched at one time. (Files wait for one of the registries' turns.)
const REPOSITORIES_MAX: usize = 2;

/// Where the file of a URL is, and what is known about it.
#[derive(Clone, Debug)]
pub(super) struct FetchedFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) mtime: i64,
    /// What the server calls exactly this content.
    pub(super) etag: Option<String>,
}

/// A checked-out repository; its files are at [`Location::Spool`].
#[derive(Clone, Debug)]
pub(super) struct FetchedTree {
    pub(super) view: View,
    /// The directory of it that is wanted.
    pub(super) root: TreePath,
    pub(super) commit: String,
    pub(super) commit_time: i64,
}

/// What was fetched.
#[derive(Clone, Debug)]
pub(super) enum FetchedSource {
    File(FetchedFile),
    Tree(FetchedTree),
}

/// Why a source is not here.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A file could not be fetched.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The URL has the wrong form.
    #[error("`{url}` is not a URL: {reason}")]
    Url {
        /// As it was written, without user and password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A repository refused, and credentials may help.
    #[error("`{url}` refused {}: pass a token for it with --secret id=GIT_AUTH_TOKEN,src=FILE, or a whole header as GIT_AUTH_HEADER", if *.signed_in { "the credentials" } else { "a request without credentials" })]
    GitUnauthorized {
        /// The repository.
        url: String,
        /// Whether credentials were given.
        signed_in: bool,
    },
    /// The server's certificate does not verify.
    #[error("the certificate of `{url}` is not trusted ({detail}): give its CA with --registry-certificate")]
    GitUntrusted {
        /// The repository.
        url: String,
        /// The cause in words.
        detail: String,
    },
    /// A repository could not be fetched.
    #[error(transparent)]
    Git(GitError),
    /// A repository has no such directory.
    #[error("`{url}` has no directory `{path}`, or one behind a symbolic link")]
    NoDirectory {
        /// The repository.
        url: String,
        /// The directory.
        path: String,
    },
    /// A checked-out repository cannot be listed.
    #[error("a checked-out repository cannot be read")]
    Tree(#[from] DirectoryError),
    /// Its entries do not fit together.
    #[error("a checked-out repository cannot be read")]
    View(#[from] ViewError),
    /// A secret with credentials cannot be read.
    #[error(transparent)]
    Secret(#[from] Box<StepError>),
    /// The work directory cannot be used.
    #[error("the work directory cannot be used")]
    Work(#[source] io::Error),
    /// The thread that fetched ended in a panic.
    #[error("internal error: fetching panicked; please report it")]
    Panicked,
}

impl RemoteError {
    /// The reason that the report names.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Download(error) => match error {
                DownloadError::Status { status: 401 | 403, .. } => Reason::Unauthorized,
                DownloadError::Status { .. } => Reason::FileNotFound,
                DownloadError::Unavailable { .. } | DownloadError::Refused { .. } => Reason::ContextFetchFailed,
                DownloadError::Checksum { .. } | DownloadError::TooLarge { .. } => Reason::ContextInvalid,
                DownloadError::Encoded { .. } => Reason::Unsupported,
                DownloadError::File { source, .. } => reason_of(source),
            },
            Self::Url { .. } => Reason::DockerfileInvalid,
            Self::GitUnauthorized { .. } => Reason::Unauthorized,
            Self::GitUntrusted { .. } => Reason::ContextFetchFailed,
            Self::Git(error) => git_reason(error),
            Self::NoDirectory { .. } => Reason::FileNotFound,
            Self::Tree(_) | Self::View(_) => Reason::ContextInvalid,
            Self::Secret(error) => error.reason(),
            Self::Work(error) => reason_of(error),
            Self::Panicked => Reason::Internal,
        }
    }
}

impl From<GitError> for RemoteError {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Unauthorized { url, signed_in } => Self::GitUnauthorized { url, signed_in },
            GitError::Untrusted { url, detail } => Self::GitUntrusted { url, detail },
            other => Self::Git(other),
        }
    }
}

/// The result of one fetch, for everybody who waits for it.
type Cell = OnceCell<Result<FetchedSource, Arc<RemoteError>>>;

/// Fetches sources, each once.
#[derive(Debug)]
pub struct Remotes {
    registry: Registry,
    secrets: Secrets,
    work: Arc<WorkDirectory>,
    /// What a repository may take of the disk, in bytes.
    limit_bytes: Option<u64>,
    turns: Semaphore,
    cells: Mutex<HashMap<Remote, Arc<Cell>>>,
    /// What files must be that were named before they were fetched.
    expected: Mutex<HashMap<Remote, Digest>>,
}

impl Remotes {
    /// `secrets` may hold credentials; `limit_bytes` is what the work directory may take.
    pub fn new(registry: Registry, secrets: Secrets, work: Arc<WorkDirectory>, limit_bytes: Option<u64>) -> Self {
        let turns = Semaphore::new(REPOSITORIES_MAX);
        Self { registry, secrets, work, limit_bytes, turns, cells: Mutex::default(), expected: Mutex::default() }
    }

    /// Returns what a source is, fetching it when nobody has yet. A failure is the same for everybody.
    pub(super) async fn get(&self, remote: &Remote) -> Result<FetchedSource, Arc<RemoteError>> {
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(remote.clone()).or_default())
        };
        let fetched = cell.get_or_init(|| async {
            match remote {
                // Boxed: whoever waits for a source would carry the whole of a fetch along.
                Remote::Url(file) => Box::pin(self.file(remote, file)).await.map(FetchedSource::File),
                Remote::Git(repository) => Box::pin(self.repository(repository)).await.map(FetchedSource::Tree),
            }
            .map_err(Arc::new)
        });
        fetched.await.clone()
    }

    /// Returns the digest of a file, and what the server calls this content; `None` where it cannot be fetched, which
    /// whoever needs it says.
    pub(super) async fn file_digest(&self, remote: &Remote) -> Option<(Digest, Option<String>)> {
        let FetchedSource::File(file) = self.get(remote).await.ok()? else { return None };
        let digest = tokio::task::spawn_blocking(move || hash(fs::File::open(file.path)?)).await.ok()?;
        let digest = digest.inspect_err(|error| tracing::debug!(%error, "a fetched file has no digest")).ok()?;
        Some((digest, file.etag))
    }

    /// Says what a file must be when it is fetched, because it is part of keys already.
    pub(super) fn expect(&self, remote: &Remote, digest: &Digest) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.insert(remote.clone(), digest.clone());
    }

    /// Whether a server still has the content that it called by this name.
    pub(super) async fn is_current(&self, file: &RemoteFile, etag: &str) -> Result<bool, RemoteError> {
        let url = parse_url(&file.url)?;
        let authorization = self.http_authorization(url.host_str().unwrap_or_default())?;
        Ok(self.registry.is_current(&Download { url: &url, authorization, checksum: None }, etag).await?)
    }

    async fn file(&self, remote: &Remote, file: &RemoteFile) -> Result<FetchedFile, RemoteError> {
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).get(remote).cloned();
        let expected = expected.and_then(|digest| digest.to_string().parse().ok());
        let url = parse_url(&file.url)?;
        let authorization = self.http_authorization(url.host_str().unwrap_or_default())?;
        let path = self.work.unused("download");
        let download = Download { url: &url, authorization, checksum: file.checksum.as_ref().or(expected.as_ref()) };
        let downloaded = self.registry.download(&download, &path).await?;
        // As BuildKit: what a server does not date is from the beginning of time.
        let (mtime, etag) = (downloaded.last_modified.unwrap_or_default(), downloaded.etag);
        Ok(FetchedFile { path, bytes: downloaded.bytes, mtime, etag })
    }

    /// The Authorization header for a host: BuildKit's names of secrets, of which the token wins.
    fn http_authorization(&self, host: &str) -> Result<Option<Secret>, RemoteError> {
        if let Some(token) = self.secret(&format!("HTTP_AUTH_TOKEN_{host}"))? {
            return Ok(Some(Secret::new(format!("Bearer {}", token.expose()))));
        }
        self.secret(&format!("HTTP_AUTH_HEADER_{host}"))
    }

    /// A secret that is one line of text.
    fn secret(&self, id: &str) -> Result<Option<Secret>, RemoteError> {
        let Some(value) = self.secrets.get(id).map_err(Box::new)? else { return Ok(None) };
        let text = String::from_utf8(value.expose().clone());
        let text = text.map_err(|_| Box::new(StepError::SecretNotText(id.to_owned())))?;
        Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())))
    }

    async fn repository(&self, wanted: &RemoteRepository) -> Result<FetchedTree, RemoteError> {
        let _turn = self.turns.acquire().await;
        let url = parse_url(&wanted.url)?;
        let credentials = self.git_credentials(&url)?;
        let path = self.work.unused("checkout");
        let ca_pem = self.registry.certificates(&host_of(&url));
        let (source, references) = (source(wanted, credentials, ca_pem), references(wanted));
        let (tree, limit_bytes) = (path.clone(), self.limit_bytes);
        let mut waits = RETRY_WAITS.iter();
        let checkout = loop {
            let (source, references, tree) = (source.clone(), references.clone(), tree.clone());
            let checkout = move || first_of(&source, &references, &tree, limit_bytes);
            match tokio::task::spawn_blocking(checkout).await.map_err(|_| RemoteError::Panicked)? {
                Ok(checkout) => break checkout,
                Err(error) => match waits.next().filter(|_| error.is_retryable()) {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => return Err(error.into()),
                },
            }
        };
        let view = tokio::task::spawn_blocking(move || list(&path)).await.map_err(|_| RemoteError::Panicked)??;
        let root = TreePath::clean(wanted.sub_directory.as_bytes());
        if !view.get(&root).is_some_and(Node::is_directory) {
            return Err(RemoteError::NoDirectory { url: shown(&url), path: wanted.sub_directory.clone() });
        }
        Ok(FetchedTree { view, root, commit: checkout.commit, commit_time: checkout.commit_time })
    }

    /// The credentials for a repository: BuildKit's names of secrets, those with the host first, and headers before tokens.
    fn git_credentials(&self, url: &Url) -> Result<Option<GitCredentials>, RemoteError> {
        let host = host_of(url);
        for suffix in [format!(".{host}"), String::new()] {
            if let Some(header) = self.secret(&format!("GIT_AUTH_HEADER{suffix}"))? {
                return Ok(Some(GitCredentials::Header(header)));
            }
            if let Some(password) = self.secret(&format!("GIT_AUTH_TOKEN{suffix}"))? {
                return Ok(Some(GitCredentials::Basic { username: "x-access-token".to_owned(), password }));
            }
        }
        Ok(None)
    }
}

fn parse_url(text: &str) -> Result<Url, RemoteError> {
    Url::parse(text).map_err(|error| RemoteError::Url { url: without_userinfo(text), reason: error.to_string() })
}

fn source(wanted: &RemoteRepository, credentials: Option<GitCredentials>, ca_pem: Option<String>) -> GitSource {
    GitSource {
        url: wanted.url.clone(),
        reference: GitReference::Default,
        credentials,
        ca_pem,
        // Below a directory of the repository there is none.
        keep_git_directory: wanted.keep_git_directory && wanted.sub_directory.is_empty(),
        submodules: wanted.submodules,
        checksum: wanted.checksum.clone(),
    }
}

/// What a reference may mean, the likeliest first: as git does, a branch before a tag.
fn references(wanted: &RemoteRepository) -> Vec<GitReference> {
    let name = wanted.reference.as_str();
    let checksum = wanted.checksum.as_deref().filter(|checksum| wanted.fetch_by_commit && is_commit(checksum));
    if let Some(commit) = checksum {
        return vec![GitReference::Commit(commit.to_owned())];
    }
    if name.is_empty() {
        return vec![GitReference::Default];
    }
    if is_commit(name) {
        return vec![GitReference::Commit(name.to_owned())];
    }
    if name.starts_with("refs/") {
        return vec![GitReference::Full(name.to_owned())];
    }
    let mut references = vec![GitReference::Branch(name.to_owned()), GitReference::Tag(name.to_owned())];
    if name.contains('/') {
        // `heads/main`, `pull/1/head`
        references.insert(0, GitReference::Full(format!("refs/{name}")));
    }
    references
}

/// Checks out the first reference that the repository has, into an empty directory.
fn first_of(
    source: &GitSource,
    references: &[GitReference],
    tree: &Path,
    limit_bytes: Option<u64>,
) -> Result<Checkout, GitError> {
    let mut result = None;
    for reference in references {
        match fs::remove_dir_all(tree) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let url = without_userinfo(&source.url);
                return Err(GitError::Checkout { url, detail: error.to_string() });
            }
            _ => {}
        }
        let source = GitSource { reference: reference.clone(), ..source.clone() };
        match git::checkout(&source, tree, &mut Budget::new(limit_bytes)) {
            Err(error @ GitError::ReferenceNotFound { .. }) => result = Some(error),
            other => return other,
        }
    }
    let name = |reference: &GitReference| match reference {
        GitReference::Branch(name) => format!("branch or tag `{name}`"),
        other => other.describe(),
    };
    let asked = references.iter().find(|reference| matches!(reference, GitReference::Branch(_)));
    match (result, asked.or(references.first())) {
        (Some(GitError::ReferenceNotFound { url, .. }), Some(asked)) => {
            Err(GitError::ReferenceNotFound { url, reference: name(asked) })
        }
        (Some(error), _) => Err(error),
        (None, _) => Err(GitError::Invalid { value: without_userinfo(&source.url), problem: "has no reference" }),
    }
}

/// Lists a checked-out tree, which nobody else writes to.
fn list(path: &Path) -> Result<View, RemoteError> {
    let directory = Directory::open(&path.to_string_lossy())?;
    let changes = directory.scan(0, &Patterns::default())?.changes();
    let mut changes = relocate(changes, &mut |location| match location {
        Location::Context(_, file) => Some(Location::Spool(path.join(OsStr::from_bytes(file.as_bytes())))),
        _ => None,
    });
    // Git knows one bit of a mode; the others are this process's umask.
    for change in &mut changes {
        if let Action::Put(metadata, kind) = &mut change.action {
            match kind {
                Kind::Symlink(_) => {}
                Kind::Directory => metadata.mode = 0o755,
                _ => metadata.mode = if metadata.mode & 0o100 == 0 { 0o644 } else { 0o755 },
            }
        }
    }
    let mut view = View::empty();
    view.apply(&changes)?;
    Ok(view)
}
