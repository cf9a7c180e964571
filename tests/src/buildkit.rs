//! BuildKit itself, the judge of how the language is meant: a registry in, a daemon that builds and pushes to it out.
//!
//! The daemon runs as root in mount and pid namespaces of its own, so that its end takes every mount and process along.
//! Its cgroups have a name of their own and are removed after it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use tempfile::TempDir;

use crate::{eventually, process::Process, scripts};

/// It takes half a second on an idle machine.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// How long the kernel may take to let go of a dead daemon's files and cgroups.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// Becomes the daemon, after mounting memory where its files go: it waits for the disk several times in each step, and nobody
/// wants the files afterwards.
const IN_MEMORY: &str = r#"mount -t tmpfs -o size=4g,mode=0700 karve-judge "$1" && shift && exec "$@""#;

/// A running daemon; it is gone when this value is dropped.
#[derive(Debug)]
pub struct BuildKit {
    process: Process,
    client: PathBuf,
    socket: PathBuf,
    cgroup: String,
    directory: PathBuf,
}

impl BuildKit {
    /// Starts a daemon that may use the registry at `registry`, an address with a port, by plain http; the first call on a
    /// machine builds it.
    pub fn start(registry: &str) -> Self {
        let programs = scripts::run("../judge/build.sh", &[]).expect("build.sh cannot build BuildKit: see above");
        let programs = Path::new(&programs);
        let directory = TempDir::with_prefix("karve-buildkit-").expect("there is room for a daemon").keep();
        let [root, socket] = ["root", "socket"].map(|name| directory.join(name));
        let cgroup = format!("karve-judge-{}", process::id());
        let configuration = format!(
            "root = \"{root}\"\n[grpc]\naddress = [\"unix://{socket}\"]\n\
             [worker.oci]\nsnapshotter = \"overlayfs\"\ndefaultCgroupParent = \"/{cgroup}\"\n\
             [registry.\"{registry}\"]\nhttp = true\n",
            root = root.display(),
            socket = socket.display(),
        );
        let file = directory.join("buildkitd.toml");
        fs::write(&file, configuration).expect("the directory is ours");
        fs::create_dir(&root).expect("the directory is ours");
        let arguments = ["--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", IN_MEMORY, "sh"];
        let arguments = arguments.map(PathBuf::from).into_iter();
        let arguments = arguments.chain([root, programs.join("buildkitd"), "--config".into(), file]);
        let mut process = Process::start_with(&directory.join("log"), "unshare", arguments, |command| {
            // Steps would get some of what is in the environment of whoever runs the tests. The daemon looks for runc here.
            command.env_clear().env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()));
        });
        process.ready(START_DEADLINE, |log| log.contains("running server on").then_some(()));
        Self { process, client: programs.join("buildctl"), socket, cgroup, directory }
    }

    /// Returns a command that builds; the caller adds context, options and output.
    pub fn build(&self) -> Command {
        let mut command = Command::new(&self.client);
        command.arg(format!("--addr=unix://{}", self.socket.display()));
        command.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        // Neither the credentials nor the proxies of whoever runs the tests.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.directory);
        command
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        self.process.kill();
        // Its processes die with it, but after it.
        eventually(END_DEADLINE, "the daemon's files are released", || {
            fs::remove_dir_all(&self.directory)
                .or_else(|_| fs::metadata(&self.directory).map_or(Ok(()), |_| Err(())))
                .ok()
        });
        eventually(END_DEADLINE, "the daemon's cgroups are empty", || {
            cgroups(&self.cgroup).iter().all(|cgroup| remove_cgroup(cgroup)).then_some(())
        });
    }
}

/// Returns the directories of a cgroup: one in each hierarchy, or the one of cgroup v2.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(name)).filter(|path| path.exists()).collect()
}

/// Removes a cgroup and those in it; tells whether it is gone.
fn remove_cgroup(path: &Path) -> bool {
    let children = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let emptied = children.filter(|path| path.is_dir()).all(|child| remove_cgroup(&child));
    emptied && fs::remove_dir(path).is_ok()
}
