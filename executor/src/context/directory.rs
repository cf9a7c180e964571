//! A local directory as the build context: a path goes in; the Dockerfile, the list of entries that COPY may take and an
//! opener for their bytes come out.
//!
//! The directory is reached through descriptors only: no symbolic link inside it is ever followed out of it, and a
//! listing follows none at all. What `.dockerignore` excludes is not in the listing; the Dockerfile is read even then
//! (criteria G1, G4 to G6 of the language). More than 5 million entries and paths over 4095 bytes are refused.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use karve_dockerfile::ignore::{IgnoreError, Patterns};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};
use thiserror::Error;

use super::walk;
use crate::{
    filesystem::{path::TreePath, view::View},
    in_root::open_in_root,
};

/// The largest Dockerfile or ignore file, in bytes.
pub const DOCKERFILE_BYTES_MAX: u64 = karve_dockerfile::DOCKERFILE_BYTES_MAX as u64;

/// The names that are looked for when no Dockerfile is named (G6).
const DOCKERFILE_NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// Why a context directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The directory is missing, or is something else.
    #[error("cannot open the build context `{path}`")]
    Open {
        /// As it was given.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Something inside it cannot be read.
    #[error("cannot read `{path}` in the build context")]
    Read {
        /// The path in the context.
        path: TreePath,
        /// What the system says.
        source: io::Error,
    },
    /// More entries than a listing may have.
    #[error("the build context has more than {limit} entries; exclude some in `.dockerignore`")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// A path that no system call takes.
    #[error("a path in the build context is longer than {limit} bytes, below `{directory}`")]
    PathTooLong {
        /// The limit.
        limit: usize,
        /// The directory of the entry.
        directory: TreePath,
    },
    /// There is no Dockerfile where it was looked for.
    #[error("there is no Dockerfile: looked for {tried}; name it with `--dockerfile`")]
    DockerfileNotFound {
        /// The places, in the order in which they were tried.
        tried: String,
    },
    /// The Dockerfile or ignore file is a directory, larger than [`DOCKERFILE_BYTES_MAX`], or no UTF-8.
    #[error("`{path}` {problem}")]
    DockerfileUnusable {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The ignore file has a line that cannot be used.
    #[error("`{path}`")]
    Ignore {
        /// Which file.
        path: String,
        /// The line and what is wrong with it.
        source: IgnoreError,
    },
}

/// An open context directory.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
}

/// A Dockerfile with the ignore patterns that go with it.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The path by which it was found, for messages.
    pub path: String,
    /// Its text.
    pub text: String,
    /// The patterns of `<path>.dockerignore`, else of `.dockerignore` in the context's root, else none (G1).
    pub ignore: Patterns,
}

impl Directory {
    /// Opens `dir://PATH` or a plain path.
    pub fn open(location: &str) -> Result<Self, DirectoryError> {
        let path = location.strip_prefix("dir://").unwrap_or(location);
        match openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(root) => Ok(Self { root }),
            Err(error) => Err(DirectoryError::Open { path: location.to_owned(), source: error.into() }),
        }
    }

    /// Opens a directory of the context as a context of its own. Links are followed inside the context only.
    pub fn subdirectory(&self, path: &str) -> Result<Self, DirectoryError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open_in_root(self.root.as_fd(), path, flags) {
            Ok(root) => Ok(Self { root }),
            Err(error) => Err(DirectoryError::Open { path: path.to_owned(), source: error.into() }),
        }
    }

    /// Lists what the ignore patterns leave.
    ///
    /// Owner and group are 0. Files are at `Location::Context(number, path)` without a digest; the names of one file are names
    /// of one file; a socket becomes an empty file. A directory that is excluded is listed only
    /// where it holds something that an exception includes.
    pub fn scan(&self, number: usize, ignore: &Patterns) -> Result<View, DirectoryError> {
        walk::list(self.root.as_fd(), number, ignore)
    }

    /// Opens a file that [`Self::scan`] listed, for reading. A symbolic link anywhere on the path is an error.
    pub fn open_file(&self, path: &TreePath) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat2(&self.root, path.as_bytes(), flags, Mode::empty(), resolve)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{path}` is not a regular file")));
        }
        Ok(file)
    }

    /// Finds and reads the Dockerfile and its ignore file.
    ///
    /// A relative `name` is looked up in the context and then, when one is given, in `working_directory`, as kaniko does;
    /// an absolute one the other way round: it is how a Dockerfile from elsewhere is given, which no file of the context
    /// may take the place of. Without a name `Dockerfile` and then `dockerfile` are tried in the context.
    pub fn dockerfile(
        &self,
        name: Option<&str>,
        working_directory: Option<&Path>,
    ) -> Result<Dockerfile, DirectoryError> {
        let Some(name) = name else {
            for name in DOCKERFILE_NAMES {
                if let Some(found) = self.dockerfile_inside(name)? {
                    return Ok(found);
                }
            }
            let tried = DOCKERFILE_NAMES.map(|name| format!("`{name}` in the build context"));
            return Err(DirectoryError::DockerfileNotFound { tried: tried.join(", ") });
        };
        let outside = working_directory.map(|directory| directory.join(name));
        let inside_first = !Path::new(name).is_absolute();
        for inside in [inside_first, !inside_first] {
            let found = match &outside {
                _ if inside => self.dockerfile_inside(name)?,
                Some(path) => self.dockerfile_outside(name, path)?,
                None => None,
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let outside = outside.map(|path| format!(", `{}`", path.display())).unwrap_or_default();
        Err(DirectoryError::DockerfileNotFound { tried: format!("`{name}` in the build context{outside}") })
    }

    fn dockerfile_inside(&self, name: &str) -> Result<Option<Dockerfile>, DirectoryError> {
        let Some(text) = self.read_text(name)? else { return Ok(None) };
        let ignore = self.ignore_beside(name, &|path| self.read_text(path))?;
        Ok(Some(Dockerfile { path: name.to_owned(), text, ignore }))
    }

    fn dockerfile_outside(&self, name: &str, path: &Path) -> Result<Option<Dockerfile>, DirectoryError> {
        let Some(text) = read_outside(path)? else { return Ok(None) };
        let beside =
            |ignore: &str| read_outside(&path.with_file_name(Path::new(ignore).file_name().unwrap_or_default()));
        let ignore = self.ignore_beside(name, &beside)?;
        Ok(Some(Dockerfile { path: name.to_owned(), text, ignore }))
    }

    /// Reads `.dockerignore` of the context's root: what holds for a Dockerfile that is no file.
    pub fn ignore(&self) -> Result<Patterns, DirectoryError> {
        let text = self.read_text(".dockerignore")?.unwrap_or_default();
        parse_ignore(".dockerignore", &text)
    }

    fn ignore_beside(
        &self,
        dockerfile: &str,
        read: &dyn Fn(&str) -> Result<Option<String>, DirectoryError>,
    ) -> Result<Patterns, DirectoryError> {
        let path = format!("{dockerfile}.dockerignore");
        match read(&path)? {
            Some(text) => parse_ignore(&path, &text),
            None => self.ignore(),
        }
    }

    /// Reads a text file of the context; links are followed inside the context. `None` when it does not exist.
    fn read_text(&self, path: &str) -> Result<Option<String>, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match open_in_root(self.root.as_fd(), path, flags) {
            Ok(file) => read_limited(path, File::from(file)).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(DirectoryError::Read { path: TreePath::clean(path.as_bytes()), source: error.into() }),
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

fn parse_ignore(path: &str, text: &str) -> Result<Patterns, DirectoryError> {
    Patterns::parse(text).map_err(|source| DirectoryError::Ignore { path: path.to_owned(), source })
}

/// Reads a file that the user named on the command line and that need not be in the context.
fn read_outside(path: &Path) -> Result<Option<String>, DirectoryError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => read_limited(&name, file).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(DirectoryError::Open { path: name, source }),
    }
}

fn read_limited(name: &str, file: File) -> Result<String, DirectoryError> {
    let unusable = |problem| DirectoryError::DockerfileUnusable { path: name.to_owned(), problem };
    let failed = |source| DirectoryError::Open { path: name.to_owned(), source };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(unusable("is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > DOCKERFILE_BYTES_MAX {
        return Err(unusable("is larger than 10 MB"));
    }
    String::from_utf8(bytes).map_err(|_| unusable("is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::PermissionsExt, net::UnixListener},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::filesystem::entry::{Action, Kind, Location};

    /// A directory with the given files; parents are made, content is the path.
    fn tree(files: &[&str]) -> (TempDir, Directory) {
        let temporary = TempDir::new().unwrap();
        for file in files {
            let path = temporary.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let directory = Directory::open(&format!("dir://{}", temporary.path().display())).unwrap();
        (temporary, directory)
    }

    #[track_caller]
    fn check(directory: &Directory, ignore: &str, expected: &[&str]) {
        let changes = directory.scan(0, &Patterns::parse(ignore).unwrap()).unwrap().changes();
        let paths: Vec<String> = changes.iter().map(|change| change.path.to_string()).collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_listing_is_sorted_with_parents_first() {
        let (_temporary, directory) = tree(&["b", "a/z", "a-b", "a/y/x"]);
        check(&directory, "", &["/", "/a", "/a/y", "/a/y/x", "/a/z", "/a-b", "/b"]);
    }

    #[test]
    fn g4_exceptions_below_excluded_directories_are_listed_with_their_parents() {
        let (_temporary, directory) = tree(&["d/e/f", "d/e/g", "d/x", "keep/q/r", "z"]);
        check(&directory, "*\n!d/e/f", &["/", "/d", "/d/e", "/d/e/f"]);
        check(&directory, "keep/q/*\nd\nz", &["/", "/keep", "/keep/q"]);
    }

    #[test]
    fn links_are_listed_as_links_and_never_followed() {
        let (temporary, directory) = tree(&["d/file"]);
        let outside = TempDir::new().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.path(), temporary.path().join("out")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", temporary.path().join("passwd")).unwrap();
        check(&directory, "", &["/", "/d", "/d/file", "/out", "/passwd"]);
        for path in ["out/secret", "passwd"] {
            let error = directory.open_file(&TreePath::clean(path.as_bytes())).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP), "{path}");
        }
        let mut text = String::new();
        directory.open_file(&TreePath::clean(b"d/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "d/file");
    }

    #[test]
    fn every_kind_of_entry_is_described() {
        let (temporary, directory) = tree(&["b"]);
        let path = |name: &str| temporary.path().join(name);
        fs::set_permissions(path("b"), fs::Permissions::from_mode(0o4750)).unwrap();
        File::options().write(true).open(path("b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        fs::hard_link(path("b"), path("a")).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        rustix::fs::mkfifoat(CWD, path("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        let changes = directory.scan(3, &Patterns::default()).unwrap().changes();
        let [_, first, second, fifo, socket] = &changes[..] else { panic!("{changes:?}") };
        let Action::Put(metadata, Kind::File(content)) = &first.action else { panic!("{first:?}") };
        assert_eq!((metadata.mode, metadata.uid, metadata.gid, metadata.mtime), (0o4750, 0, 0, 0));
        assert_eq!((content.size, &content.location), (1, &Location::Context(3, TreePath::clean(b"a"))));
        assert_eq!(second.action, Action::HardLink(TreePath::clean(b"a")));
        assert!(matches!(fifo.action, Action::Put(_, Kind::Fifo)));
        let Action::Put(_, Kind::File(content)) = &socket.action else { panic!("{socket:?}") };
        assert_eq!(content.size, 0);
    }

    #[track_caller]
    fn check_dockerfile(directory: &Directory, name: Option<&str>, expected: &str, excluded: &[&str]) {
        let found = directory.dockerfile(name, None).unwrap();
        assert_eq!(found.text, expected);
        for path in ["one", "two"] {
            let verdict = found.ignore.excludes(path.as_bytes());
            assert_eq!(verdict, excluded.contains(&path), "{path}");
        }
    }

    #[test]
    fn g1_the_ignore_file_beside_the_dockerfile_replaces_the_general_one() {
        let (temporary, directory) = tree(&["Dockerfile", "sub/app.Dockerfile"]);
        fs::write(temporary.path().join(".dockerignore"), "one\nDockerfile").unwrap();
        fs::write(temporary.path().join("sub/app.Dockerfile.dockerignore"), "two").unwrap();
        check_dockerfile(&directory, None, "Dockerfile", &["one"]);
        check_dockerfile(&directory, Some("sub/app.Dockerfile"), "sub/app.Dockerfile", &["two"]);
    }

    #[test]
    fn g6_the_lower_case_name_is_the_fallback() {
        let (_temporary, directory) = tree(&["dockerfile"]);
        check_dockerfile(&directory, None, "dockerfile", &[]);
    }

    #[test]
    fn a_named_dockerfile_is_looked_up_in_the_working_directory_last() {
        let (_first, context) = tree(&["sub/Dockerfile"]);
        let (working, _) = tree(&["other"]);
        let found = context.dockerfile(Some("other"), Some(working.path())).unwrap();
        assert_eq!(found.text, "other");
        let error = context.dockerfile(Some("none"), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no Dockerfile: looked for `none` in the build context; name it with `--dockerfile`"
        );
        let error = context.dockerfile(Some("sub"), None).unwrap_err();
        assert_eq!(error.to_string(), "`sub` is not a regular file");
    }

    #[test]
    fn a_file_of_the_context_never_takes_the_place_of_a_dockerfile_from_elsewhere() {
        let (elsewhere, _) = tree(&["Dockerfile"]);
        fs::write(elsewhere.path().join("Dockerfile.dockerignore"), "two").unwrap();
        let path = elsewhere.path().join("Dockerfile").display().to_string();
        let (temporary, context) = tree(&[path.trim_start_matches('/')]);
        fs::write(temporary.path().join(path.trim_start_matches('/')), "hostile").unwrap();
        let found = context.dockerfile(Some(&path), Some(Path::new("."))).unwrap();
        assert_eq!(found.text, "Dockerfile");
        assert!(found.ignore.excludes(b"two"));
        fs::remove_file(&path).unwrap();
        assert_eq!(context.dockerfile(Some(&path), Some(Path::new("."))).unwrap().text, "hostile");
    }

    #[test]
    fn a_missing_context_is_named() {
        let error = Directory::open("dir:///nowhere/at/all").unwrap_err();
        assert_eq!(error.to_string(), "cannot open the build context `dir:///nowhere/at/all`");
        let (_temporary, directory) = tree(&["a/b"]);
        check(&directory.subdirectory("../a").unwrap(), "", &["/", "/b"]);
    }
}
