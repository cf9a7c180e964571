//! A project and its cache: files, a Dockerfile and flags in; builds, one after the other or side by side, out.
//!
//! Every build has a fresh work directory, as in a new Pod; only the cache, a layout beside the context, stays.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use karve_tests::{compare::differences, facts, images, layout::Layout, programs};
use tempfile::TempDir;

use crate::ended::Ended;

/// The tag of the image in the layout that every build writes.
pub(crate) const TAG: &str = "v1";

/// What a Dockerfile begins with to have a shell.
pub(crate) const BUSYBOX: &str = "ARG BASE\nFROM ${BASE}\n";

/// The flag of a build that knows no cache.
pub(crate) const CLEAN: &[&str] = &["--cache=false"];

/// A project on disk.
#[derive(Debug)]
pub(crate) struct Scene {
    directory: TempDir,
    /// Values of `--build-arg`, by name.
    pub(crate) arguments: BTreeMap<String, String>,
    /// Flags of every build.
    pub(crate) flags: Vec<String>,
    /// A command that runs the program of every build, which is given behind it.
    pub(crate) wrapper: Vec<String>,
    /// The environment of every build, beside `PATH`.
    pub(crate) environment: BTreeMap<String, String>,
    /// How many builds were started.
    builds: Cell<usize>,
}

/// A build that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    place: PathBuf,
}

impl Scene {
    /// Writes a project. Its Dockerfile may begin with [`BUSYBOX`].
    pub(crate) fn new(dockerfile: &str, files: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("karve-cache-").expect("there is room for a project");
        let base = format!("oci-layout:{}:{}", images::busybox().display(), images::TAG);
        let scene = Self {
            directory,
            arguments: BTreeMap::from([("BASE".to_owned(), base)]),
            flags: Vec::new(),
            wrapper: Vec::new(),
            environment: BTreeMap::new(),
            builds: Cell::new(0),
        };
        scene.write("Dockerfile", dockerfile);
        for (path, content) in files {
            scene.write(path, content);
        }
        scene
    }

    /// Writes a project that has one stage on busybox.
    pub(crate) fn on_busybox(steps: &str, files: &[(&str, &str)]) -> Self {
        Self::new(&format!("{BUSYBOX}{steps}"), files)
    }

    /// Returns a path beside the context.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns a path of the context.
    pub(crate) fn context(&self, path: &str) -> PathBuf {
        self.path("context").join(path)
    }

    /// Returns the cache.
    pub(crate) fn cache(&self) -> Layout {
        Layout::at(&self.path("cache"))
    }

    /// Writes a file of the context, and the directories above it.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.context(path);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the directory is ours");
        fs::write(path, content).expect("the directory is ours");
    }

    /// Renames a file of the context.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.context(from), self.context(to)).expect("the directory is ours");
    }

    /// Replaces words of the Dockerfile; panics when they are not in it.
    #[track_caller]
    pub(crate) fn edit(&self, old: &str, new: &str) {
        let dockerfile = fs::read_to_string(self.context("Dockerfile")).expect("the directory is ours");
        assert!(dockerfile.contains(old), "`{old}` is not in the Dockerfile:\n{dockerfile}");
        self.write("Dockerfile", &dockerfile.replace(old, new));
    }

    /// Sets a value of `--build-arg`.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.arguments.insert(name.to_owned(), value.to_owned());
    }

    /// Returns the flag that names the cache.
    pub(crate) fn cache_flag(&self) -> String {
        format!("--cache-repo=oci:{}", self.path("cache").display())
    }

    /// Builds with the cache.
    #[track_caller]
    pub(crate) fn build(&self) -> Ended {
        self.build_with(&[&self.cache_flag()])
    }

    /// Builds with flags beside the scene's own; panics when the build fails.
    #[track_caller]
    pub(crate) fn build_with(&self, flags: &[&str]) -> Ended {
        self.start(flags).end().succeeded()
    }

    /// Builds with the cache and without one, and compares the images. Returns the build with the cache.
    #[track_caller]
    pub(crate) fn check(&self) -> Ended {
        self.check_with(&[&self.cache_flag()])
    }

    /// Does the same as [`Scene::check`] with these flags in place of the cache's.
    #[track_caller]
    pub(crate) fn check_with(&self, flags: &[&str]) -> Ended {
        let cached = self.build_with(flags);
        self.compare(&cached, &self.build_with(CLEAN));
        cached
    }

    /// Builds, changes something, and builds again: exactly these steps miss, and the image is right.
    #[track_caller]
    pub(crate) fn check_change(&mut self, change: impl FnOnce(&mut Self), misses: &[&str]) {
        self.check();
        change(self);
        let ended = self.check();
        let mut misses = misses.to_vec();
        misses.sort_unstable();
        assert_eq!(ended.misses(), misses, "{}", ended.stderr);
        self.check_again(&ended);
    }

    /// Builds with the cache again, and demands that nothing misses and the image is the very same.
    #[track_caller]
    pub(crate) fn check_again(&self, before: &Ended) -> Ended {
        let again = self.build();
        assert_eq!(again.misses(), Vec::<String>::new(), "nothing was changed:\n{}", again.stderr);
        assert_eq!(again.digest(), before.digest(), "nothing was changed:\n{}", again.stderr);
        again
    }

    /// Demands that two builds made the same image but for times.
    #[track_caller]
    pub(crate) fn compare(&self, cached: &Ended, clean: &Ended) {
        let [ours, theirs] = [cached, clean].map(|ended| facts::of_layout(&ended.layout(), TAG));
        let differences = differences(("the cached build", &ours), ("the clean build", &theirs));
        if !differences.is_empty() {
            let dockerfile = fs::read_to_string(self.context("Dockerfile")).expect("the directory is ours");
            panic!("{}\n\n{dockerfile}\n\n{}", differences.join("\n"), cached.stderr);
        }
    }

    /// Starts a build with flags beside the scene's own. Without a destination among them it writes a layout.
    pub(crate) fn start(&self, flags: &[&str]) -> Running {
        let number = self.builds.replace(self.builds.get() + 1);
        let place = self.path(&format!("build-{number}"));
        fs::create_dir(&place).expect("the directory is ours");
        let file = |name: &str| File::create(place.join(name)).expect("the directory is ours");
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let program = programs::karve().display().to_string();
        let mut words = self.wrapper.iter().chain([&program]);
        let mut command = Command::new(words.next().expect("there is the program"));
        command.args(words).arg("build").arg(flag("context", &self.context(""))).args(&self.flags).args(flags);
        command.args(self.arguments.iter().map(|(name, value)| format!("--build-arg={name}={value}")));
        command.arg(flag("work-dir", &place.join("work"))).arg(flag("report", &place.join("report")));
        command.arg("--timeout=4m"); // it never outlives a test that gave up
        if flags.iter().all(|flag| !flag.starts_with("--destination")) {
            command.arg("--no-push").arg(flag("oci-layout-path", &place.join("layout")));
            command.arg(format!("--destination=registry.example/app:{TAG}"));
        }
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(&self.environment);
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        Running { child: command.spawn().expect("karve can be started"), place }
    }
}

impl Running {
    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let status = self.child.wait().expect("a child can be waited for");
        Ended::read(status, self.place)
    }
}
