//! A directory with a context that holds busybox, and `karve build` on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use karve::sandbox::{Isolation, client::Sandbox};
use karve_api::BuildReport;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_karve");

/// The first lines of every Dockerfile here: a base image with a shell.
const BASE: &str = "FROM scratch\nCOPY busybox /bin/sh\n";

pub(crate) struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    /// Makes the context; `steps` follow in the Dockerfile, from line 3 on. `None` where no step can be run.
    pub(crate) fn new(steps: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: needs root and a static /bin/busybox");
            return None;
        }
        let fixture = Self { directory: tempfile::tempdir().unwrap() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let probe = Sandbox::with_program(PROGRAM.into());
        if let Isolation::None { reason } = runtime.block_on(probe.probe(fixture.directory.path())) {
            eprintln!("skipped: {reason}");
            return None;
        }
        fs::create_dir(fixture.path("context")).unwrap();
        fs::create_dir(fixture.path("work")).unwrap();
        fs::copy("/bin/busybox", fixture.path("context/busybox")).unwrap();
        fs::write(fixture.path("context/Dockerfile"), format!("{BASE}{steps}\n")).unwrap();
        Some(fixture)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds a file that no compressor makes smaller.
    pub(crate) fn add_noise(&self, name: &str, bytes: usize) {
        let mut state: u64 = 1;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        fs::write(self.path("context").join(name), noise.take(bytes).collect::<Vec<u8>>()).unwrap();
    }

    /// What builds the context into the layout `image`.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        self.add_arguments(&mut command, flags);
        command
    }

    /// The same with the work directory on a disk of its own, of `size` as mount(8) takes it; gone with the process.
    pub(crate) fn command_on_small_disk(&self, size: &str) -> Command {
        let mut command = Command::new("unshare");
        let mount = format!("mount -t tmpfs -o size={size} tmpfs {} && exec \"$@\"", self.path("work").display());
        command.args(["--mount", "sh", "-c", &mount, "sh", PROGRAM]);
        self.add_arguments(&mut command, &[]);
        command
    }

    fn add_arguments(&self, command: &mut Command, flags: &[&str]) {
        command.args(["build", "--no-push"]).args(flags);
        for (flag, name) in
            [("context", "context"), ("work-dir", "work"), ("oci-layout-path", "image"), ("report", "report")]
        {
            command.arg(format!("--{flag}={}", self.path(name).display()));
        }
    }

    pub(crate) fn report(&self) -> BuildReport {
        serde_json::from_slice(&fs::read(self.path("report")).unwrap()).unwrap()
    }

    /// Whether the build left nothing behind, neither an image nor files.
    pub(crate) fn is_clean(&self) -> bool {
        !self.path("image").exists() && fs::read_dir(self.path("work")).unwrap().next().is_none()
    }
}

/// How a program ended: its exit code and what it wrote to standard error.
pub(crate) fn end(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
