//! Git repositories as contexts, over https and http: a source goes in; a checked-out tree and the commit come out.
//!
//! Only the one revision is fetched, without history, and nothing of the machine's git configuration is used. Submodules
//! are checked out too. What cannot be done right is refused: other protocols, abbreviated commits, Git LFS. Credentials
//! go to the host of the source alone and are in no error. Nothing outside this file and its folder
//! knows gix.

mod connection;

use std::{fs, os::fd::AsFd, path::Path, sync::atomic::AtomicBool};

use gix::{
    bstr::{BString, ByteSlice},
    clone::PrepareFetch,
    create,
    index::entry::Mode,
    open,
    progress::Discard,
    protocol::handshake::Ref,
    remote::fetch::Shallow,
    url::Scheme,
    worktree::{stack::state::attributes, state},
};

use self::connection::ConnectionSettings;
use super::{
    budget::{Budget, directory_bytes, interrupted_above},
    git_source::{Checkout, GitCredentials, GitError, GitReference, GitSource, without_userinfo},
    walk::open_directory,
};
use crate::{filesystem::path::TreePath, secret::Secret};

/// Submodules of submodules beyond this depth are refused.
const SUBMODULE_DEPTH_MAX: usize = 8;

/// More entries in one tree than this are refused.
const ENTRIES_MAX: usize = 5_000_000;

/// Git LFS pointers are never larger (git-lfs specification), and begin with this.
const LFS_POINTER_BYTES_MAX: u64 = 1024;
const LFS_POINTER_START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Checks a revision out into `destination`, which must be empty or missing.
///
/// Blocks; call it from `spawn_blocking`. Links in the tree are written as links. The budget covers the received pack and
/// the tree, submodules included.
pub fn checkout(source: &GitSource, destination: &Path, budget: &mut Budget) -> Result<Checkout, GitError> {
    let mut url = parse_url(&source.url)?;
    let from_url = url.user.take().map(|username| {
        let password = Secret::new(url.password.take().unwrap_or_default());
        GitCredentials::Basic { username, password }
    });
    let origin = Origin {
        host: url.host.clone(),
        port: url.port_or_default(),
        scheme: url.scheme.clone(),
        credentials: source.credentials.clone().or(from_url),
        ca_pem: source.ca_pem.clone(),
        keep_git_directory: source.keep_git_directory,
        submodules: source.submodules,
    };
    let repository = Repository { origin: &origin, url, depth: 0 };
    repository.checkout(&source.reference, source.checksum.as_deref(), destination, budget)
}

/// What all fetches of one checkout share.
struct Origin {
    scheme: Scheme,
    host: Option<String>,
    port: Option<u16>,
    credentials: Option<GitCredentials>,
    ca_pem: Option<String>,
    keep_git_directory: bool,
    submodules: bool,
}

impl Origin {
    /// Whether a URL is on the server that the credentials are for.
    fn covers(&self, url: &gix::Url) -> bool {
        self.scheme == url.scheme && self.host == url.host && self.port == url.port_or_default()
    }
}

struct Repository<'a> {
    origin: &'a Origin,
    /// Without user and password.
    url: gix::Url,
    depth: usize,
}

/// A fetched repository and where it stands.
struct Fetched {
    repository: gix::Repository,
    commit: gix::ObjectId,
    /// The annotated tag that leads to the commit.
    tag: Option<gix::ObjectId>,
    /// The branch behind the server's HEAD.
    head_branch: Option<String>,
}

impl Repository<'_> {
    fn checkout(
        &self,
        reference: &GitReference,
        checksum: Option<&str>,
        destination: &Path,
        budget: &mut Budget,
    ) -> Result<Checkout, GitError> {
        let fetched = self.fetch(reference, destination, budget)?;
        self.check(&fetched, checksum)?;
        let local = |error: gix::Error| self.local(&error);
        let commit = fetched.repository.find_commit(fetched.commit).map_err(local)?;
        let commit_time = commit.time().map_err(local)?.seconds;
        let tree = commit.tree_id().map_err(local)?.detach();
        let mut index = fetched.repository.index_from_tree(&tree).map_err(local)?;
        self.charge(&fetched.repository, &index, budget)?;
        if self.origin.keep_git_directory {
            // Before the checkout, which puts times and inode numbers in: with them no two checkouts would be the same.
            index.write(gix::index::write::Options::default()).map_err(local)?;
        }
        self.write(&fetched.repository, &mut index, destination)?;
        let submodules =
            if self.origin.submodules { self.submodules(&fetched.repository, &index)? } else { Vec::new() };
        if self.origin.keep_git_directory {
            tidy(&fetched.repository).map_err(|error| self.unwritable(&error))?;
        } else {
            let git_directory = fetched.repository.git_dir().to_owned();
            drop(commit);
            drop(fetched.repository);
            fs::remove_dir_all(git_directory).map_err(|error| self.unwritable(&error))?;
        }
        for (path, url, commit) in submodules {
            self.checkout_submodule(&path, url, commit, destination, budget)
                .map_err(|source| GitError::Submodule { path, source: Box::new(source) })?;
        }
        let commit = fetched.commit.to_string();
        let revision = match reference {
            GitReference::Branch(name) | GitReference::Tag(name) | GitReference::Full(name) => {
                format!("{name}@sha1:{commit}")
            }
            GitReference::Commit(_) => format!("sha1:{commit}"),
            GitReference::Default => format!("{}@sha1:{commit}", fetched.head_branch.as_deref().unwrap_or("HEAD")),
        };
        Ok(Checkout { revision, commit, commit_time })
    }

    /// Compares the commit, or the tag that leads to it, with what was demanded.
    fn check(&self, fetched: &Fetched, checksum: Option<&str>) -> Result<(), GitError> {
        let Some(expected) = checksum else { return Ok(()) };
        let is_it = |id: &gix::ObjectId| id.to_string().starts_with(expected);
        if is_it(&fetched.commit) || fetched.tag.as_ref().is_some_and(is_it) {
            return Ok(());
        }
        let (url, expected) = (self.shown_url(), expected.to_owned());
        Err(GitError::Checksum { url, expected, actual: fetched.commit.to_string() })
    }

    /// Fetches the revision alone; a commit that the server does not hand out alone comes with all branches and tags.
    fn fetch(&self, reference: &GitReference, destination: &Path, budget: &mut Budget) -> Result<Fetched, GitError> {
        if let GitReference::Commit(commit) = reference
            && (commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            let problem = "is not a full commit: give all 40 hexadecimal digits";
            return Err(GitError::Invalid { value: commit.clone(), problem });
        }
        match (self.fetch_once(reference, Some(reference), destination, budget), reference) {
            (Err(GitError::ReferenceNotFound { .. }), GitReference::Commit(_)) => {
                self.clear(destination)?;
                self.fetch_once(reference, None, destination, budget)
            }
            (result, _) => result,
        }
    }

    /// Removes what a fetch left behind, so that another one finds an empty directory.
    fn clear(&self, destination: &Path) -> Result<(), GitError> {
        match fs::remove_dir_all(destination.join(".git")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.unwritable(&error)),
            _ => Ok(()),
        }
    }

    fn fetch_once(
        &self,
        reference: &GitReference,
        only: Option<&GitReference>,
        destination: &Path,
        budget: &mut Budget,
    ) -> Result<Fetched, GitError> {
        let not_found = || GitError::ReferenceNotFound { url: self.shown_url(), reference: reference.describe() };
        let options = open::Options::isolated();
        let kind = create::Kind::WithWorktree;
        let mut prepared = PrepareFetch::new(self.url.clone(), destination, kind, create::Options::default(), options)
            .map_err(|error| self.local(&error))?;
        if let Some(only) = only {
            let named =
                prepared.with_shallow(Shallow::DepthAtRemote(1.try_into().unwrap_or(std::num::NonZeroU32::MIN)));
            let problem = "is not a name that git allows";
            prepared = named
                .with_revision(Some(only.full_name()))
                .map_err(|_| GitError::Invalid { value: only.full_name(), problem })?;
        }
        let connection = self.connection_settings()?;
        let mut prepared = prepared.configure_connection(move |connect| {
            connection.apply(connect);
            Ok(())
        });
        let packs = destination.join(".git/objects/pack");
        let limit = budget.left();
        let (result, exceeded) = interrupted_above(limit, &packs, |interrupt| prepared.fetch_only(Discard, interrupt));
        if exceeded {
            return Err(budget.full().into());
        }
        let (repository, outcome) = result.map_err(|error| self.classify(&error, reference))?;
        budget.charge(directory_bytes(&packs))?;
        let head_branch = outcome.ref_map.remote_refs.iter().find_map(|candidate| match candidate {
            Ref::Symbolic { full_ref_name, target, .. } if full_ref_name == "HEAD" => {
                target.strip_prefix(b"refs/heads/").map(|name| name.to_str_lossy().into_owned())
            }
            _ => None,
        });
        let wanted = match reference {
            GitReference::Commit(commit) => gix::ObjectId::from_hex(commit.as_bytes()).map_err(|_| not_found())?,
            _ => repository.head_id().map_err(|_| not_found())?.detach(),
        };
        let object = repository.find_object(wanted).map_err(|_| not_found())?;
        let commit = object.peel_to_commit().map_err(|_| not_found())?.id;
        let tag = outcome.ref_map.remote_refs.iter().find_map(|candidate| match candidate {
            Ref::Peeled { full_ref_name, tag, object }
                if *object == commit && *full_ref_name == reference.full_name().as_str() =>
            {
                Some(*tag)
            }
            _ => None,
        });
        // The server's word alone is none: the tag must be there, and lead to the commit.
        let leads_there = |tag: &gix::ObjectId| {
            let tag = repository.find_object(*tag).ok().filter(|object| object.kind == gix::object::Kind::Tag);
            tag.and_then(|tag| tag.peel_to_commit().ok()).is_some_and(|peeled| peeled.id == commit)
        };
        let tag = tag.filter(leads_there);
        Ok(Fetched { repository, commit, tag, head_branch })
    }

    /// Takes the tree off the budget before it is written, and refuses what would not come out as its author sees it.
    fn charge(
        &self,
        repository: &gix::Repository,
        index: &gix::index::File,
        budget: &mut Budget,
    ) -> Result<(), GitError> {
        let local = |error: gix::Error| self.local(&error);
        if index.entries().len() > ENTRIES_MAX {
            return Err(self.unsupported("", "has more than 5 million entries"));
        }
        let mut uses_lfs = false;
        for entry in index.entries().iter().filter(|entry| entry.mode != Mode::COMMIT) {
            budget.charge(repository.find_header(entry.id).map_err(local)?.size())?;
            let path = entry.path(index);
            if !uses_lfs && (path == ".gitattributes" || path.ends_with(b"/.gitattributes")) {
                uses_lfs = repository.find_blob(entry.id).map_err(local)?.data.contains_str("filter=lfs");
            }
        }
        for entry in index.entries().iter().filter(|entry| uses_lfs && is_file(entry.mode)) {
            if repository.find_header(entry.id).map_err(local)?.size() <= LFS_POINTER_BYTES_MAX
                && repository.find_blob(entry.id).map_err(local)?.data.starts_with(LFS_POINTER_START)
            {
                let path = entry.path(index).to_str_lossy();
                return Err(self.unsupported(&path, "is stored in Git LFS, which is not supported"));
            }
        }
        Ok(())
    }

    fn write(
        &self,
        repository: &gix::Repository,
        index: &mut gix::index::File,
        destination: &Path,
    ) -> Result<(), GitError> {
        let local = |error: gix::Error| self.local(&error);
        let mut options = repository.checkout_options(attributes::Source::IdMapping).map_err(local)?;
        options.destination_is_initially_empty = true;
        let objects = repository.objects.clone().into_arc().map_err(|error| self.unwritable(&error))?;
        let interrupt = AtomicBool::new(false);
        let outcome =
            state::checkout(index, destination, objects, &Discard, &Discard, &interrupt, options).map_err(local)?;
        let collision = outcome.collisions.first().map(|collision| &collision.path);
        match collision.or(outcome.errors.first().map(|error| &error.path)) {
            Some(path) => Err(self.unsupported(&path.to_str_lossy(), "cannot be written beside another path")),
            None => Ok(()),
        }
    }

    /// Finds path, URL and commit of each submodule.
    fn submodules(
        &self,
        repository: &gix::Repository,
        index: &gix::index::File,
    ) -> Result<Vec<(String, gix::Url, String)>, GitError> {
        let links: Vec<_> = index.entries().iter().filter(|entry| entry.mode == Mode::COMMIT).collect();
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let definitions = match index.entry_by_path(".gitmodules".into()) {
            Some(entry) if is_file(entry.mode) => {
                repository.find_blob(entry.id).map_err(|error| self.local(&error))?.take_data()
            }
            _ => Vec::new(),
        };
        let unusable = |path: &str| self.unsupported(path, "is a submodule without a usable entry in `.gitmodules`");
        let modules = gix::submodule::File::from_bytes(&definitions, None, &gix::config::File::default())
            .map_err(|_| unusable(".gitmodules"))?;
        let mut submodules = Vec::new();
        for link in links {
            let path = link.path(index);
            let text = path.to_str().map_err(|_| unusable(&path.to_str_lossy()))?;
            let name = modules.name_by_path(path).ok_or_else(|| unusable(text))?;
            let url = modules.url(name).map_err(|_| unusable(text))?;
            submodules.push((text.to_owned(), self.resolve(url), link.id.to_string()));
        }
        Ok(submodules)
    }

    /// Resolves a submodule's URL that is relative to its parent's.
    fn resolve(&self, url: gix::Url) -> gix::Url {
        let relative = url.path.starts_with(b"./") || url.path.starts_with(b"../");
        if url.scheme != Scheme::File || !relative {
            return url;
        }
        let mut parts: Vec<&[u8]> = self.url.path.trim_end_with(|character| character == '/').split_str("/").collect();
        for part in url.path.split_str("/") {
            match part {
                b"." | b"" => {}
                b".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let mut resolved = self.url.clone();
        resolved.path = BString::from(parts.join(&b"/"[..]));
        resolved
    }

    fn checkout_submodule(
        &self,
        path: &str,
        mut url: gix::Url,
        commit: String,
        parent: &Path,
        budget: &mut Budget,
    ) -> Result<(), GitError> {
        check_scheme(&url)?;
        if self.depth == SUBMODULE_DEPTH_MAX {
            return Err(self.unsupported(path, "is nested in more than 8 submodules"));
        }
        // A user name in the URL of a submodule is not a credential that anybody gave to this build.
        url.user = None;
        url.password = None;
        let destination = parent.join(path);
        let root = fs::File::open(parent).map_err(|error| self.unwritable(&error))?;
        if open_directory(root.as_fd(), &TreePath::clean(path.as_bytes())).is_err() {
            return Err(self.unsupported(path, "is a submodule that is no directory in the tree"));
        }
        let repository = Repository { origin: self.origin, url, depth: self.depth + 1 };
        repository.checkout(&GitReference::Commit(commit), None, &destination, budget).map(drop)
    }

    fn connection_settings(&self) -> Result<ConnectionSettings, GitError> {
        let problem = "is not a PEM bundle of certificates";
        let refused = || GitError::Invalid { value: "ca.crt".to_owned(), problem };
        let certificates = match &self.origin.ca_pem {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| refused())?,
            None => Vec::new(),
        };
        if certificates.is_empty() && self.origin.ca_pem.is_some() {
            return Err(refused());
        }
        let credentials = if self.origin.covers(&self.url) { self.origin.credentials.clone() } else { None };
        Ok(ConnectionSettings { url: self.url.clone(), credentials, certificates })
    }

    fn classify(&self, error: &gix::Error, reference: &GitReference) -> GitError {
        let url = self.shown_url();
        let signed_in = self.origin.credentials.is_some() && self.origin.covers(&self.url);
        let detail = describe(error);
        let is_commit = matches!(reference, GitReference::Commit(_));
        match http_status(error) {
            Some(401 | 403) => GitError::Unauthorized { url, signed_in },
            Some(404 | 410) => GitError::RepositoryNotFound { url },
            _ if error.is_unauthenticated() => GitError::Unauthorized { url, signed_in },
            // gix says the first; the second is the server's answer when it does not hand a commit out.
            _ if detail.contains("the requested revision") || (is_commit && detail.contains("\"ERR ")) => {
                GitError::ReferenceNotFound { url, reference: reference.describe() }
            }
            _ if detail.contains("certificate") => GitError::Untrusted { url, detail },
            _ => GitError::Unavailable { url, detail },
        }
    }

    fn local(&self, error: &gix::Error) -> GitError {
        GitError::Checkout { url: self.shown_url(), detail: describe(error) }
    }

    fn unwritable(&self, error: &std::io::Error) -> GitError {
        GitError::Checkout { url: self.shown_url(), detail: error.to_string() }
    }

    fn unsupported(&self, path: &str, problem: &'static str) -> GitError {
        GitError::Unsupported { url: self.shown_url(), path: path.to_owned(), problem }
    }

    fn shown_url(&self) -> String {
        self.url.to_bstring().to_string()
    }
}

/// Removes what differs from one fetch to the next, and what belongs to a machine rather than to a repository.
fn tidy(repository: &gix::Repository) -> std::io::Result<()> {
    for name in ["logs", "hooks"] {
        match fs::remove_dir_all(repository.git_dir().join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn parse_url(text: &str) -> Result<gix::Url, GitError> {
    let url = gix::url::parse(text.as_bytes().as_bstr())
        .map_err(|_| GitError::Invalid { value: without_userinfo(text), problem: "is not a URL" })?;
    check_scheme(&url)?;
    Ok(url)
}

fn check_scheme(url: &gix::Url) -> Result<(), GitError> {
    if matches!(url.scheme, Scheme::Https | Scheme::Http) && url.host.is_some() {
        return Ok(());
    }
    let problem = "is not a supported git URL: only https:// and http:// are";
    Err(GitError::Invalid { value: without_userinfo(&url.to_bstring().to_str_lossy()), problem })
}

fn is_file(mode: Mode) -> bool {
    mode == Mode::FILE || mode == Mode::FILE_EXECUTABLE
}

/// Returns the HTTP status that an error goes back to, wherever in its causes it is.
fn http_status(error: &gix::Error) -> Option<u16> {
    error.iter_errors().find_map(|cause| status_of(cause, 0))
}

fn status_of(error: &(dyn std::error::Error + 'static), depth: usize) -> Option<u16> {
    const DEPTH_MAX: usize = 16;
    if depth == DEPTH_MAX {
        return None;
    }
    if let Some(status) = error.downcast_ref::<reqwest::Error>().and_then(reqwest::Error::status) {
        return Some(status.as_u16());
    }
    // An I/O error's `source` leaves the error that it wraps out.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let wrapped = wrapped.and_then(|inner| status_of(inner, depth + 1));
    let nested = || error.downcast_ref::<gix::Error>().and_then(http_status);
    wrapped.or_else(nested).or_else(|| error.source().and_then(|source| status_of(source, depth + 1)))
}

/// Says what went wrong: the outermost words and the innermost cause.
fn describe(error: &gix::Error) -> String {
    let outermost = error.to_string();
    let mut cause: &(dyn std::error::Error + 'static) = error.probable_cause();
    while let Some(source) = cause.source() {
        cause = source;
    }
    let innermost = cause.to_string();
    if innermost == outermost { outermost } else { format!("{outermost}: {innermost}") }
}
