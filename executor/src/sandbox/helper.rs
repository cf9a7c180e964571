//! The helper: the executor's own program, started again to do one thing under the ids of the sandbox.
//!
//! ```text
//! executor                         helper (fd 0: the socket; 1 and 2: the step's output)
//!   start ------------------------>  unshare user and mount namespaces
//!   write uid_map, gid_map <-------  Unshared
//!   request ---------------------->  do it, with one thread until no more process is forked
//!   what was below  <--------------  Changed, where a layer is to be made
//!   Answered  -------------------->
//!   result <-----------------------  reply, exit
//! ```

use std::{fs::File, io, os::fd::OwnedFd, process::ExitCode};

use rustix::{
    process::{DumpableBehavior, Gid, Signal, Uid, set_dumpable_behavior, set_parent_process_death_signal},
    stdio,
    thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{
    child,
    error::{Failure, cannot},
    operations::{self, Ask},
    probe,
    request::{Answered, Reply, Request, receive, send},
    step,
};

/// The first argument that makes the program a helper; hidden, and of no use to people.
pub const HELPER_ARGUMENT: &str = "sandbox-helper";

/// Serves one request on standard input, a socket. `main` calls it before it starts any thread or runtime.
pub fn helper_main() -> ExitCode {
    // A lost connection means that the executor gave up: there is nobody to tell.
    serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn serve() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A copy that no process of a step inherits; standard input itself becomes /dev/null there.
    let socket: OwnedFd = rustix::io::fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
    let socket = File::from(socket);
    if let Err(error) = child::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) {
        return send(&socket, &Reply::Failed(Failure::Namespace { reason: error.to_string() }));
    }
    send(&socket, &Reply::Unshared)?;
    let request = receive(&socket)?;
    // Now that the maps are written: no process with the same ids may read the request's secrets from our memory.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut ask = |question| {
        send(&socket, &Reply::Asked(question))?;
        receive::<Answered>(&socket).map(drop)
    };
    let reply = perform(request, &mut ask).unwrap_or_else(Reply::Failed);
    send(&socket, &reply)
}

fn perform(request: Request, ask: &mut Ask<'_>) -> Result<Reply, Failure> {
    become_root()?;
    Ok(match request {
        Request::Probe { directory } => {
            probe::run(&directory)?;
            Reply::Probed
        }
        Request::Unpack(request) => Reply::Unpacked(operations::unpack(&request, ask)?),
        Request::Pack(request) => Reply::Packed(operations::pack_directory(&request)?),
        Request::Step(step) => Reply::Stepped(step::run(&step, ask)?),
    })
}

/// Takes over uid and gid 0 of the namespace in full, without the groups that the Pod may have given the executor
/// (`supplementalGroups`): what a step creates belongs to nobody else.
fn become_root() -> Result<(), Failure> {
    set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
        .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
        // Again: a change of ids clears it.
        .and_then(|()| set_parent_process_death_signal(Some(Signal::KILL)))
        .map_err(cannot("become root of the sandbox"))
}
