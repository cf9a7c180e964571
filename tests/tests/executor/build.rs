//! One run of `karve build`: files of a context and flags in; exit, output, report and what was seen while it ran out.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use karve_api::{BuildReport, Outcome, Reason};
use karve_tests::{eventually, images, inspect::Image, programs};
use tempfile::TempDir;

/// The slowest build here makes a layer of a gibibyte.
const DEADLINE: Duration = Duration::from_mins(5);

/// The tag of the image in the layout that a build without destination writes.
pub(crate) const TAG: &str = "v1";

/// A build that has not run: a directory with a context, and flags.
#[derive(Debug)]
pub(crate) struct Build {
    directory: TempDir,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    is_pushed: bool,
}

/// A build that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Standard output: what scripts read.
    pub(crate) stdout: String,
    /// Standard error: what people read.
    pub(crate) stderr: String,
    /// What `--report` left; empty if it left nothing.
    pub(crate) report: BuildReport,
    /// The names that were seen in the work directory, without their numbers.
    pub(crate) work: BTreeSet<String>,
    /// The most memory that karve and all its descendants held, together.
    pub(crate) memory_bytes_peak: u64,
    directory: TempDir,
}

impl Build {
    /// Writes the files of a context. A Dockerfile may say `ARG BASE` and `FROM ${BASE}` for busybox.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("karve-build-").expect("there is room for a build");
        let this = Self { directory, flags: Vec::new(), environment: Vec::new(), is_pushed: false };
        for (path, content) in files {
            let path = this.context().join(path);
            fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the directory is ours");
            fs::write(path, content).expect("the directory is ours");
        }
        this.flag(&format!("--build-arg=BASE={}", busybox()))
    }

    /// Returns the directory of the context, for what is more than text.
    pub(crate) fn context(&self) -> PathBuf {
        self.directory.path().join("context")
    }

    /// Adds a flag.
    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Sets a variable of the environment, which is empty otherwise but for `PATH`.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Pushes to an image instead of writing a layout.
    pub(crate) fn destination(mut self, image: &str) -> Self {
        self.is_pushed = true;
        self.flag(&format!("--destination={image}"))
    }

    /// Runs karve to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Ended {
        let path = self.directory.path();
        let [stdout, stderr, report, work] = ["stdout", "stderr", "report", "work"].map(|name| path.join(name));
        let mut command = Command::new(programs::karve());
        command.arg("build").arg(format!("--context={}", self.context().display())).args(&self.flags);
        command.arg(format!("--work-dir={}", work.display())).arg(format!("--report={}", report.display()));
        if self.flags.iter().all(|flag| !flag.starts_with("--timeout")) {
            command.arg("--timeout=4m"); // it never outlives a test that gave up
        }
        if !self.is_pushed {
            command.arg("--no-push").arg(format!("--oci-layout-path={}", layout(path).display()));
            command.arg(format!("--destination=registry.example/app:{TAG}"));
        }
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let mut child = command.spawn().expect("karve can be started");
        let (mut seen, mut memory_bytes_peak) = (BTreeSet::new(), 0);
        let status = eventually(DEADLINE, "karve ends", || {
            seen.extend(kinds(&work));
            memory_bytes_peak = memory_bytes_peak.max(high_water_bytes(child.id()));
            child.try_wait().expect("a child can be asked for its status")
        });
        let left: Vec<PathBuf> = list(&work).collect();
        assert!(left.is_empty(), "the work directory is not empty: {left:?}");
        Ended {
            status,
            stdout: fs::read_to_string(&stdout).expect("output is text"),
            stderr: fs::read_to_string(&stderr).expect("output is text"),
            report: fs::read(&report)
                .map(|report| serde_json::from_slice(&report).expect("a report is JSON"))
                .unwrap_or_default(),
            work: seen,
            memory_bytes_peak,
            directory: self.directory,
        }
    }
}

impl Ended {
    /// Checks that the build succeeded and said so.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "karve ended with {}:\n{}", self.status, self.stderr);
        assert_eq!(self.report.result, Outcome::Succeeded);
        self
    }

    /// Checks that the build failed for this reason, that its message and its output hold these words, and that nothing was
    /// printed for scripts.
    #[track_caller]
    pub(crate) fn failed(self, reason: Reason, words: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(1), "karve ended with {}:\n{}", self.status, self.stderr);
        let message = self.report.message.clone().unwrap_or_default();
        assert_eq!(self.report.reason, Some(reason), "{message}");
        for word in words {
            assert!(message.contains(word), "`{word}` is not in the message: {message}");
            assert!(self.stderr.contains(word), "`{word}` is not in the output: {}", self.stderr);
        }
        assert_eq!((self.report.result, &self.report.digest, self.stdout.as_str()), (Outcome::Failed, &None, ""));
        self
    }

    /// Returns the image in the layout that the build wrote.
    #[track_caller]
    pub(crate) fn image(&self) -> Image {
        Image::of_layout(&self.layout(), TAG)
    }

    /// Returns the layout that the build wrote.
    pub(crate) fn layout(&self) -> PathBuf {
        layout(self.directory.path())
    }

    /// Returns the digest that the build printed for scripts.
    pub(crate) fn digest(&self) -> String {
        let (_, digest) = self.stdout.trim_end().rsplit_once('@').expect("karve prints images by digest");
        digest.to_owned()
    }
}

/// Returns the reference of busybox.
pub(crate) fn busybox() -> String {
    reference(&images::busybox(), images::TAG)
}

/// Returns the reference of an image in a layout.
pub(crate) fn reference(layout: &Path, tag: &str) -> String {
    format!("oci-layout:{}:{tag}", layout.display())
}

fn layout(directory: &Path) -> PathBuf {
    directory.join("layout")
}

/// Returns the kinds of file and directory in a build's directory below the work directory: `base` of `base-7`.
fn kinds(work: &Path) -> Vec<String> {
    let names = list(work).flat_map(|directory| list(&directory).collect::<Vec<_>>());
    let names = names.map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    names
        .map(|name| name.trim_end_matches(|digit: char| digit.is_ascii_digit()).trim_end_matches('-').to_owned())
        .collect()
}

fn list(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Returns the most memory that the process and all its descendants have held so far, each by itself, added up.
fn high_water_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let own: u64 = line.trim().trim_end_matches(" kB").parse().map_or(0, |kibibytes: u64| kibibytes << 10);
    let tasks = list(Path::new(&format!("/proc/{process}/task")));
    let children = tasks.map(|task| fs::read_to_string(task.join("children")).unwrap_or_default());
    let children: Vec<u32> =
        children.collect::<String>().split_whitespace().filter_map(|child| child.parse().ok()).collect();
    own + children.into_iter().map(high_water_bytes).sum::<u64>()
}
