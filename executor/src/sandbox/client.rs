//! The executor's side of the sandbox: one helper process for each operation, started, given its ids, asked, and reaped.
//!
//! Dropping a future kills its helper; with it die PID 1 of the step, everything in its pid namespace and all mounts.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::pipe::Receiver},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::{
    Isolation,
    error::{SandboxError, cannot},
    helper::HELPER_ARGUMENT,
    maps,
    output::{Stream, pump},
    request::{Answered, Pack, PackResult, Question, Reply, Request, Step, StepResult, Unpack, body_length, encode},
};
use crate::filesystem::{index::write_changes, path::TreePath, view::View};

/// Starts helpers. Cheap to clone; holds no process between operations.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe") }
    }
}

impl Sandbox {
    /// Uses another program as the helper: one whose `main` calls [`helper_main`](super::helper::helper_main) when its
    /// first argument is [`HELPER_ARGUMENT`]. The default is the running program itself.
    pub fn with_program(program: PathBuf) -> Self {
        Self { program }
    }

    /// Tries what a step needs in a directory of its own below `work_directory`, and says what is missing.
    pub async fn probe(&self, work_directory: &Path) -> Isolation {
        let directory = work_directory.join(format!("probe-{}", std::process::id()));
        let probed = async {
            fs::create_dir_all(&directory).map_err(cannot(format!("make {}", directory.display())))?;
            self.operate(&Request::Probe { directory: directory.clone() }, |_, _| (), no_answer).await
        };
        let outcome = match probed.await {
            Ok(Reply::Probed) => Isolation::Userns,
            Ok(_) => Isolation::None { reason: unexpected().to_string() },
            Err(error) => Isolation::None { reason: error.to_string() },
        };
        if let Err(error) = fs::remove_dir_all(&directory) {
            tracing::debug!(%error, "the directory of the sandbox probe remains");
        }
        outcome
    }

    /// Unpacks layers into empty directories, the archives of which `fetched` brings while their indexes are read. Returns
    /// warnings: what could not be made here and is true in the layers' indexes only. The outer error is that of `fetched`.
    pub async fn unpack<E>(
        &self,
        request: Unpack,
        fetched: impl Future<Output = Result<(), E>>,
    ) -> Result<Result<Vec<String>, SandboxError>, E> {
        let are_here = Notify::new();
        let request = Request::Unpack(request);
        let answer = |_| async {
            are_here.notified().await;
            Ok(())
        };
        // A helper that dies while it waits is missed when the archives are here.
        let mut operation = pin!(self.operate(&request, warn, answer));
        let result = tokio::select! {
            result = &mut operation => result,
            result = fetched => {
                result?;
                are_here.notify_one();
                operation.await
            }
        };
        Ok(match result {
            Ok(Reply::Unpacked(warnings)) => Ok(warnings),
            Ok(_) => Err(unexpected()),
            Err(error) => Err(error),
        })
    }

    /// Runs one step to its end and makes its layer. `on_line` gets each line of output without its newline. A process
    /// that ran and failed is a result; a command that cannot be run is an error.
    pub async fn step(
        &self,
        step: Step,
        on_line: impl FnMut(Stream, &[u8]) + Send,
    ) -> Result<StepResult, SandboxError> {
        let below = step.layer.as_ref().map(|output| (output.below.clone(), output.below_part.clone()));
        let answer = |question| {
            let below = below.clone();
            async move {
                match (question, below) {
                    (Question::Below(directories), Some((below, file))) => write_part(below, directories, file).await,
                    (question, _) => no_answer(question).await,
                }
            }
        };
        match self.operate(&Request::Step(Box::new(step)), on_line, answer).await? {
            Reply::Stepped(result) => Ok(result),
            _ => Err(unexpected()),
        }
    }

    /// Makes an archive of what is in a directory; `None` if nothing has changed.
    pub async fn pack(&self, request: Pack) -> Result<Option<PackResult>, SandboxError> {
        match self.operate(&Request::Pack(request), warn, no_answer).await? {
            Reply::Packed(result) => Ok(result),
            _ => Err(unexpected()),
        }
    }

    async fn operate<A: Future<Output = io::Result<()>>>(
        &self,
        request: &Request,
        on_line: impl FnMut(Stream, &[u8]) + Send,
        answer: impl FnMut(Question) -> A,
    ) -> Result<Reply, SandboxError> {
        let helper = Helper::start(self.program.clone()).await?;
        // The exchange owns the socket: whatever ends it also tells the helper to end, which closes the output.
        let (reply, pumped) = tokio::join!(
            exchange(helper.socket, helper.pid, request, answer),
            pump(helper.stdout, helper.stderr, on_line)
        );
        let status = helper.ended.await.map_err(io::Error::other).flatten().map_err(SandboxError::Connection)?;
        drop(helper.kill);
        match reply {
            Err(SandboxError::Connection(error)) if is_hangup(&error) => Err(SandboxError::Ended { status }),
            Err(error) => Err(error),
            Ok(Reply::Failed(failure)) => Err(failure.into()),
            Ok(reply) => pumped.map(|()| reply).map_err(SandboxError::Connection),
        }
    }
}

/// Has no answer for helpers that ask nothing.
async fn no_answer(_: Question) -> io::Result<()> {
    Err(io::Error::other("it asked for what it does not need"))
}

/// Passes on what a helper says that should say nothing.
fn warn(stream: Stream, line: &[u8]) {
    tracing::warn!(?stream, line = %line.escape_ascii());
}

fn is_hangup(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn unexpected() -> SandboxError {
    SandboxError::Connection(io::Error::other("it answered another question"))
}

/// A helper that runs. Dropped, it dies.
struct Helper {
    socket: UnixStream,
    stdout: Receiver,
    stderr: Receiver,
    pid: Pid,
    kill: KillOnDrop,
    ended: JoinHandle<io::Result<ExitStatus>>,
}

/// What the starting thread hands over before it waits.
struct Started {
    pid: Pid,
    kill: KillOnDrop,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Helper {
    /// Starts the program on a thread that stays until the helper has ended. The kernel kills the helper when the
    /// *thread* that started it ends (`PR_SET_PDEATHSIG`), so no thread of a pool that shrinks may do it; and the thread
    /// reaps the helper even when nobody waits for the result any more.
    async fn start(program: PathBuf) -> Result<Self, SandboxError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(SandboxError::Start)?;
        let (sender, receiver) = oneshot::channel();
        let ended = tokio::task::spawn_blocking(move || {
            let (mut child, started) = spawn(&program, theirs.into())?;
            // If the future is gone already, `started` is dropped and kills the helper.
            drop(sender.send(started));
            child.wait()
        });
        let Ok(started) = receiver.await else {
            let error = ended.await.map_err(io::Error::other).flatten().map(|_| unexpected());
            return Err(error.unwrap_or_else(SandboxError::Start));
        };
        let connected = ours.set_nonblocking(true).and_then(|()| UnixStream::from_std(ours));
        Ok(Self {
            socket: connected.map_err(SandboxError::Start)?,
            stdout: Receiver::from_owned_fd(started.stdout).map_err(SandboxError::Start)?,
            stderr: Receiver::from_owned_fd(started.stderr).map_err(SandboxError::Start)?,
            pid: started.pid,
            kill: started.kill,
            ended,
        })
    }
}

fn spawn(program: &Path, socket: OwnedFd) -> io::Result<(Child, Started)> {
    let mut child = Command::new(program)
        .arg(HELPER_ARGUMENT)
        .env_clear()
        // A terminal's Ctrl-C is for the executor, which ends its helpers itself.
        .process_group(0)
        .stdin(socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let started = i32::try_from(child.id()).ok().and_then(Pid::from_raw).map(|pid| {
        let kill = KillOnDrop(pidfd_open(pid, PidfdFlags::empty())?);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        Ok(Started { pid, kill, stdout: stdout.into(), stderr: stderr.into() })
    });
    match started.unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into())) {
        Ok(started) => Ok((child, started)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// Kills a process by a descriptor, which cannot mean another process of the same number.
struct KillOnDrop(OwnedFd);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Err(error) = pidfd_send_signal(&self.0, Signal::KILL) {
            tracing::trace!(%error, "the sandbox helper had ended");
        }
    }
}

/// Gives the helper its ids, sends the request and waits for the reply.
async fn exchange<A: Future<Output = io::Result<()>>>(
    mut socket: UnixStream,
    pid: Pid,
    request: &Request,
    mut answer: impl FnMut(Question) -> A,
) -> Result<Reply, SandboxError> {
    match receive(&mut socket).await? {
        Reply::Unshared => {}
        reply => return Ok(reply),
    }
    // The order is free: the executor holds CAP_SETGID in its own namespace, so setgroups stays allowed.
    for map in ["uid_map", "gid_map"] {
        let error = |source| SandboxError::Map { map, source };
        let own = fs::read_to_string(format!("/proc/self/{map}")).map_err(error)?;
        let identity = maps::identity(&own).ok_or_else(|| error(io::ErrorKind::InvalidData.into()))?;
        fs::write(format!("/proc/{}/{map}", pid.as_raw_nonzero()), identity).map_err(error)?;
    }
    send(&mut socket, request).await?;
    loop {
        match receive(&mut socket).await? {
            Reply::Asked(question) => {
                answer(question).await.map_err(SandboxError::Connection)?;
                send(&mut socket, &Answered).await?;
            }
            reply => return Ok(reply),
        }
    }
}

/// Writes what was below the directories that a step may have changed, for its helper.
async fn write_part(below: View, directories: Vec<TreePath>, file: PathBuf) -> io::Result<()> {
    let write = move || File::create_new(file)?.write_all(&write_changes(&below.part(&directories))?);
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
}

async fn send(socket: &mut UnixStream, message: &impl Serialize) -> Result<(), SandboxError> {
    let message = encode(message).map_err(SandboxError::Connection)?;
    socket.write_all(&message).await.map_err(SandboxError::Connection)
}

async fn receive(socket: &mut UnixStream) -> Result<Reply, SandboxError> {
    let message = async {
        let mut prefix = [0; 4];
        socket.read_exact(&mut prefix).await?;
        let mut bytes = vec![0; body_length(prefix)?];
        socket.read_exact(&mut bytes).await?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    message.await.map_err(SandboxError::Connection)
}
