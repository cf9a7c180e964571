//! A busybox image in a temporary directory, and one step at a time on it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use karve::sandbox::{
    Isolation,
    client::Sandbox,
    error::SandboxError,
    output::Stream,
    request::{Exit, Step, StepResult, User},
};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_karve");

/// The modification time of everything in the image.
pub(crate) const MTIME: i64 = 1_000_000_000;

/// Applets that the scripts use.
const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "cut", "echo", "env", "grep", "head", "hostname", "id", "ip", "ls", "mkdir", "mount",
    "pwd", "readlink", "rm", "sh", "sleep", "stat", "touch", "tr", "true", "umount", "unshare", "wc", "yes",
];

pub(crate) struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    /// Makes the image; `None`, with a word on standard error, where the sandbox cannot work.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: needs root and a static /bin/busybox");
            return None;
        }
        // As the executor: everything must work from a process whose /proc files belong to root alone.
        karve::sandbox::protect().unwrap();
        let fixture = Self { directory: tempfile::tempdir().unwrap() };
        let probe = Sandbox::with_program(PROGRAM.into());
        if let Isolation::None { reason } = Self::runtime().block_on(probe.probe(fixture.directory.path())) {
            eprintln!("skipped: {reason}");
            return None;
        }
        fixture.make_image();
        Some(fixture)
    }

    fn make_image(&self) {
        let image = self.path("image");
        for directory in ["bin", "etc/deep", "tmp"] {
            fs::create_dir_all(image.join(directory)).unwrap();
        }
        fs::set_permissions(image.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", image.join("bin").join(applet)).unwrap();
        }
        fs::copy("/bin/busybox", image.join("bin/su")).unwrap();
        fs::set_permissions(image.join("bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(image.join("bin/lost"), "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(image.join("bin/lost"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(image.join("etc/passwd"), "root::0:0:root:/:/bin/sh\nuser:x:1000:1001::/:/bin/sh\n").unwrap();
        fs::write(image.join("etc/deep/old"), "").unwrap();
        let time = Timespec { tv_sec: MTIME, tv_nsec: 0 };
        for path in ["etc/deep/old", "etc/deep", "etc/passwd", "etc", "bin", "tmp", "."] {
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, image.join(path), &times, AtFlags::empty()).unwrap();
        }
    }

    pub(crate) fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.path("work/upper")
    }

    /// A shell script that root runs in `/made/here`, which the image lacks.
    pub(crate) fn step(&self, script: &str) -> Step {
        Step {
            lowers: vec![self.path("image")],
            upper: self.upper(),
            work: self.path("work/work"),
            mount_point: self.path("work/mount"),
            arguments: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            environment: BTreeMap::from([("PATH".into(), "/bin".into()), ("GREETING".into(), "hello world".into())]),
            working_directory: "/made/../made/here/".into(),
            user: User::default(),
            mounts: Vec::new(),
            network_none: false,
            script: None,
            hostname: "builder".into(),
            layer: None,
        }
    }

    /// Runs a step that can be run; returns both streams in one.
    pub(crate) fn run(step: Step) -> (Exit, String) {
        let (result, output) = Self::run_with(step, |_, _| ());
        (result.unwrap().exit, output)
    }

    pub(crate) fn run_with(
        step: Step,
        mut on_line: impl FnMut(Stream, &[u8]) + Send,
    ) -> (Result<StepResult, SandboxError>, String) {
        make_directories(&step);
        let mut output = String::new();
        let result = Self::runtime().block_on(Sandbox::with_program(PROGRAM.into()).step(step, |stream, line| {
            on_line(stream, line);
            if output.len() < 1 << 20 {
                output.push_str(&String::from_utf8_lossy(line));
                output.push('\n');
            }
        }));
        (result, output)
    }

    /// What lies in the upper directory, sorted.
    pub(crate) fn changes(&self) -> Vec<String> {
        let (mut found, mut open) = (Vec::new(), vec![self.upper()]);
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    open.push(path.clone());
                }
                found.push(format!("/{}", path.strip_prefix(self.upper()).unwrap().display()));
            }
        }
        found.sort();
        found
    }

    /// The modification times of the image's directories.
    pub(crate) fn image_times(&self) -> Vec<std::time::SystemTime> {
        ["", "etc", "tmp"].map(|path| fs::metadata(self.path("image").join(path)).unwrap().modified().unwrap()).to_vec()
    }

    /// Whether anything below the fixture is mounted in this process's namespace.
    pub(crate) fn is_mounted(&self) -> bool {
        let directory = self.directory.path().display().to_string();
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&directory)
    }

    /// Whether any process has something of the fixture mounted: a helper, or a process of a step.
    pub(crate) fn has_processes(&self) -> bool {
        let directory = self.directory.path().display().to_string();
        fs::read_dir("/proc").unwrap().any(|entry| {
            let mounts = entry.unwrap().path().join("mountinfo");
            fs::read_to_string(mounts).is_ok_and(|mounts| mounts.contains(&directory))
        })
    }
}

/// Makes the directories that a step needs; what an earlier one left in its upper directory stays.
pub(crate) fn make_directories(step: &Step) {
    for directory in [&step.work, &step.mount_point] {
        if directory.exists() {
            fs::remove_dir_all(directory).unwrap();
        }
    }
    for directory in [&step.upper, &step.work, &step.mount_point] {
        fs::create_dir_all(directory).unwrap();
    }
}

/// Asks until the answer is yes or the time is over, yielding in between.
pub(crate) fn wait_until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > limit {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
