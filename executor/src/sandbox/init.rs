//! The launcher, PID 1 of a step, and the process of the step itself.
//!
//! PID 1 builds the root, starts the process, reaps whatever is orphaned, and ends when the process ends: the kernel then
//! kills everything that is left in the pid namespace. It keeps its capabilities, is not dumpable, and so can be neither
//! traced nor read by the step.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
};

use rustix::{
    fs::{Gid, Mode, Uid, fchown},
    io::Errno,
    process::{
        Pid, Signal, WaitOptions, WaitStatus, fchdir, set_parent_process_death_signal, setsid, umask, wait, waitpid,
    },
    stdio, system,
    thread::{
        CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use super::{
    child,
    error::{Failure, cannot},
    filter,
    request::{Exit, Step, User},
    root::{self, Entered},
};

/// What container runtimes grant by default; the most that a step can hold.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Where commands are looked for when the environment has no PATH; as container runtimes have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What PID 1 tells the helper, one JSON text a line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// PID 1 runs, and dies with the launcher, and so with the helper, from now on.
    Started,
    /// The process could not be run.
    Failed(Failure),
    /// The process ended.
    Exited(Exit),
}

/// Makes the step's namespaces and PID 1 in them, and waits for it; returns its own exit status. This takes a process of
/// its own, because one whose children are to be in another pid namespace can have no threads, and the helper needs some
/// to compress the layer.
pub(super) fn launch(step: &Step, report: OwnedFd) -> u8 {
    let mut report = File::from(report);
    let mut namespaces = UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    namespaces.set(UnshareFlags::NEWNET, step.network_none);
    let init = set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(io::Error::from)
        .and_then(|()| child::unshare(namespaces))
        .and_then(|()| child::fork(|| report.try_clone().map_or(1, |report| run(step, report))));
    let ended = init.and_then(|init| Ok(waitpid(Some(init), WaitOptions::empty())?));
    match ended {
        Ok(_) => 0,
        Err(error) => {
            let failure = cannot("create the namespaces of the step")(error);
            u8::from(tell(&mut report, &Report::Failed(failure)).is_err())
        }
    }
}

/// Is PID 1 until the step's process has ended; returns PID 1's own exit status.
fn run(step: &Step, mut report: File) -> u8 {
    // The helper may have died before the signal was asked for: then nobody reads the report, and writing it fails.
    let bound = set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    if bound.and_then(|()| tell(&mut report, &Report::Started)).is_err() {
        return 1;
    }
    let outcome = match start(step, &report).and_then(reap_until) {
        Ok(exit) => Report::Exited(exit),
        Err(failure) => Report::Failed(failure),
    };
    u8::from(tell(&mut report, &outcome).is_err())
}

fn tell(report: &mut File, message: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    report.write_all(&line)
}

/// Builds the root and forks the step's process.
fn start(step: &Step, report: &File) -> Result<Pid, Failure> {
    umask(Mode::from_raw_mode(0o022));
    system::sethostname(step.hostname.as_bytes()).map_err(cannot("set the host name"))?;
    if step.network_none {
        child::bring_loopback_up().map_err(cannot("bring the loopback interface up"))?;
    }
    let entered = root::enter(step)?;
    let program = filter::program()?;
    // So that the step may open /dev/stdout and /dev/stderr whoever it is.
    for output in [stdio::stdout(), stdio::stderr()] {
        fchown(output, Some(Uid::from_raw(step.user.uid)), None).map_err(|error| cannot_become(&step.user, error))?;
    }
    let process = || {
        let failure = become_step(step, &entered, &program);
        // Without the report PID 1 sees status 127, the shell's for a command that cannot be run.
        let told = report.try_clone().and_then(|mut report| tell(&mut report, &Report::Failed(failure)));
        if told.is_ok() { 127 } else { 126 }
    };
    child::fork(process).map_err(cannot("start the process of the step"))
}

/// Reaps every child until the given one has ended.
fn reap_until(process: Pid) -> Result<Exit, Failure> {
    loop {
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::INTR) => continue,
            Err(error) => return Err(cannot("wait for the process of the step")(error)),
        };
        if pid == process {
            return Ok(exit_of(status));
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    status.terminating_signal().map_or_else(|| Exit::Code(status.exit_status().unwrap_or(1)), Exit::Signal)
}

/// Turns this process into the step's; returns only if that failed.
fn become_step(step: &Step, entered: &Entered, program: &BpfProgram) -> Failure {
    if let Err(failure) = confine(step, entered, program) {
        return failure;
    }
    execute(step)
}

/// Gives up, in this order, what the step must not have. The filter needs `CAP_SYS_ADMIN` and so comes before the
/// capabilities go; the user comes last, since every step before it needs some capability.
fn confine(step: &Step, entered: &Entered, program: &BpfProgram) -> Result<(), Failure> {
    let action = |what: &'static str| cannot::<io::Error>(format!("{what} of the step's process"));
    setsid().map_err(|error| action("start the session")(error.into()))?;
    stdio::dup2_stdin(&entered.input).map_err(|error| action("empty the input")(error.into()))?;
    fchdir(&entered.working_directory).map_err(|error| action("enter the working directory")(error.into()))?;
    child::close_others_on_exec().map_err(action("close the descriptors"))?;
    child::install_filter(program).map_err(action("install the seccomp filter"))?;
    limit_bounding_set().map_err(action("limit the capabilities"))?;
    become_user(&step.user).map_err(|error| cannot_become(&step.user, error))
}

fn cannot_become(user: &User, error: Errno) -> Failure {
    let action = format!("become user {} and group {}", user.uid, user.gid);
    match error {
        Errno::INVAL => cannot(action)("the Pod does not have these ids"),
        error => cannot(action)(error),
    }
}

/// Takes everything but the default capabilities out of the bounding set: the kernel gives a root program the rest.
fn limit_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if CAPABILITIES.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // beyond the last one that this kernel knows
            Err(error) => return Err(error.into()),
        }
    }
    Ok(clear_ambient_capability_set()?)
}

fn become_user(user: &User) -> Result<(), Errno> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid)?;
    let held = if uid.is_root() { CAPABILITIES } else { CapabilitySet::empty() };
    set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() })
}

/// Replaces this process by the command, looked up in the step's own PATH and root; returns only if that failed.
fn execute(step: &Step) -> Failure {
    let Some((command, arguments)) = step.arguments.split_first() else {
        return Failure::CommandNotFound { command: String::new(), path: "a step without a command".into() };
    };
    let path = step.environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let (candidates, place) = if command.contains('/') {
        (vec![command.clone()], "the image".to_owned())
    } else {
        let named = |directory: &str| format!("{}/{command}", if directory.is_empty() { "." } else { directory });
        (path.split(':').map(named).collect(), format!("PATH={path}"))
    };
    let mut refused = None;
    for candidate in candidates {
        // exec also restores the signals that Rust's runtime ignores.
        let error = Command::new(&candidate).arg0(command).args(arguments).env_clear().envs(&step.environment).exec();
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) if std::fs::symlink_metadata(&candidate).is_ok() => {
                let reason = "its interpreter or dynamic loader is not in the image".into();
                refused.get_or_insert(Failure::NotExecutable { command: candidate, reason });
            }
            Some(Errno::NOENT | Errno::NOTDIR) => {}
            _ => {
                refused.get_or_insert(Failure::NotExecutable { command: candidate, reason: error.to_string() });
            }
        }
    }
    refused.unwrap_or(Failure::CommandNotFound { command: command.clone(), path: place })
}
