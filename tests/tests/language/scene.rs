//! What all cases share: a registry, both builders' sources of files, and the images that cases build on. It lives as long
//! as a test needs it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use karve_tests::{
    buildkit::BuildKit,
    git_server::GitServer,
    images,
    registry::Registry,
    web_server::{Answer, Request, WebServer},
};
use tempfile::TempDir;

use crate::{
    builders,
    corpus::{self, Case},
    tree::{self, Names},
};

/// The directory of a case whose files are served by http.
const HTTP: &str = "http";

/// The directory of a case whose files are in a git repository.
const GIT: &str = "git";

/// The token for files that are private.
const TOKEN: &str = "let-me-in";

/// Servers, and names for what is on them.
#[derive(Debug)]
pub(crate) struct Scene {
    pub registry: Registry,
    pub buildkit: BuildKit,
    /// Of the files that are served.
    files: TempDir,
    web: WebServer,
    git: GitServer,
    bases: Names,
}

/// A case on disk.
#[derive(Debug)]
pub(crate) struct Place {
    pub directory: TempDir,
    pub names: Names,
}

impl Scene {
    /// Returns the scene that all tests share.
    pub(crate) fn shared() -> Arc<Self> {
        static SCENE: Mutex<Weak<Scene>> = Mutex::new(Weak::new());
        let mut shared = SCENE.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let scene = Arc::new(Self::start());
            *shared = Arc::downgrade(&scene);
            scene
        })
    }

    fn start() -> Self {
        let registry = Registry::start();
        let buildkit = BuildKit::start(registry.host());
        let files = TempDir::with_prefix("karve-files-").expect("there is room for files");
        let root = files.path().to_owned();
        let web = WebServer::start(move |request| serve(&root, request));
        let mut scene = Self { buildkit, files, web, git: GitServer::start(), bases: Names::new(), registry };
        let busybox = images::busybox();
        let layout = format!("oci:{}:{}", busybox.display(), images::TAG);
        let image = format!("{}/busybox:1", scene.registry.host());
        builders::copy_image(&layout, &image);
        scene.bases.insert("busybox".into(), image);
        scene.bases.insert("layout".into(), busybox.display().to_string());
        scene.bases.insert("registry".into(), scene.registry.host().to_owned());
        for case in corpus::bases() {
            let place = scene.place(&case);
            let repository = format!("bases/{}", case.name);
            let outcome = builders::buildkit(&scene, &case, &place, &repository);
            assert!(outcome.succeeded, "{}: BuildKit cannot build it:\n{}", case.place, outcome.output);
            scene.bases.insert(case.name, format!("{}/{repository}:1", scene.registry.host()));
        }
        scene
    }

    /// Writes the files of a case, and offers by http and git what it wants to be offered.
    pub(crate) fn place(&self, case: &Case) -> Place {
        let directory = TempDir::with_prefix("karve-case-").expect("there is room for a case");
        let mut names = self.bases.clone();
        let name = &case.name;
        names.insert("directory".into(), directory.path().display().to_string());
        names.insert("http".into(), self.web.url(&format!("/{name}")));
        names.insert("git".into(), self.git.url(name));
        tree::write_files(case, directory.path(), &names);
        tree::write_others(case, directory.path());
        let directories = tree::directories(case);
        if directories.contains(&HTTP) {
            move_directory(&directory.path().join(HTTP), &self.files.path().join(name));
        }
        if directories.contains(&GIT) {
            let repository = self.git.create(name);
            let commit = repository.commit_tree(&directory.path().join(GIT));
            repository.tag("v1");
            names.insert("commit".into(), commit);
            // Only now the commit's id is known, which files may name.
            tree::write_files(case, directory.path(), &names);
        }
        Place { directory, names }
    }
}

impl Place {
    /// Returns a directory of the case.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

/// Answers with a file; what is below `private` needs a token.
fn serve(root: &Path, request: &Request) -> Answer {
    let path = request.target.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/');
    let private = path.split('/').any(|name| name == "private");
    if private && request.field("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Answer::status(401);
    }
    std::fs::read(root.join(path)).map_or_else(|_| Answer::status(404), Answer::file)
}

fn move_directory(from: &Path, to: &Path) {
    std::fs::rename(from, to).expect("temporary directories are on one file system");
}
