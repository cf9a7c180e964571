//! Runs one step from the helper's side: new namespaces, PID 1 in them, its report, and the layer of what changed.

use std::{
    io::{BufRead, BufReader, Read},
    os::fd::OwnedFd,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{WaitOptions, waitpid},
};

use super::{
    child,
    error::{Failure, cannot},
    init::{self, Report},
    operations::{self, Ask},
    request::{Exit, LOWERS_MAX, Step, StepResult},
};

/// The largest report of PID 1: 1 MiB.
const REPORT_BYTES_MAX: u64 = 1 << 20;

/// Runs the step; its processes are all dead and its mounts gone when this returns.
pub(super) fn run(step: &Step, ask: &mut Ask<'_>) -> Result<StepResult, Failure> {
    if step.lowers.len() > LOWERS_MAX {
        return Err(cannot("mount the root of the step")(format!("more than {LOWERS_MAX} lower directories")));
    }
    let exit = run_process(step)?;
    let mut result = StepResult { exit, layer: None };
    if exit == Exit::Code(0)
        && let Some(output) = &step.layer
    {
        result.layer = Some(operations::write_layer(&step.upper, output, ask)?);
    }
    Ok(result)
}

fn run_process(step: &Step) -> Result<Exit, Failure> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(cannot("make a pipe"))?;
    let mut ends = Some((reader, writer));
    let body = || match ends.take() {
        Some((reader, writer)) => {
            drop(reader);
            init::launch(step, writer)
        }
        None => 1,
    };
    let launcher = child::fork(body).map_err(cannot("start the launcher of the step"))?;
    let Some((reader, writer)) = ends else { return Err(cannot("start the launcher of the step")("no pipe")) };
    drop(writer);
    let reported = read_report(reader);
    waitpid(Some(launcher), WaitOptions::empty()).map_err(cannot("wait for the launcher of the step"))?;
    reported
}

/// Reads the report up to its first outcome. A failure of the step's process comes before PID 1's word that the process
/// ended with 127.
fn read_report(reader: OwnedFd) -> Result<Exit, Failure> {
    let lines = BufReader::new(std::fs::File::from(reader).take(REPORT_BYTES_MAX)).lines();
    for line in lines {
        let line = line.map_err(cannot("read the report of the step"))?;
        match serde_json::from_str(&line).map_err(cannot("read the report of the step"))? {
            Report::Started => {}
            Report::Failed(failure) => return Err(failure),
            Report::Exited(exit) => return Ok(exit),
        }
    }
    Err(cannot("run the step")("its init was killed, perhaps for want of memory"))
}
