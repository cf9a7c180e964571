//! Runs the steps of a build away from the executor: a request goes in, a process runs in a root of its own, its output,
//! its exit and the layer of what it changed come out.
//!
//! ```text
//! client (async, in the executor) --socket--> helper (own user and mount namespaces, the Pod's ids)
//!                                               |-- operations: unpack layers, write the step's layer
//!                                               `-- init (PID 1 of a step: root, then filter, then exec)
//! ```
//!
//! The executor itself never works under a stage's ids, and a step sees nothing of the executor: no file, no memory, no
//! environment. What is not allowed here is found by [`client::Sandbox::probe`] before anything is built.

use std::{fmt, io};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

mod child;
pub mod client;
mod dev;
pub mod error;
mod filter;
pub mod helper;
mod init;
mod maps;
pub mod memory;
mod operations;
pub mod output;
mod overlay;
mod place;
mod probe;
pub mod request;
mod requested;
mod root;
mod step;
mod stubs;
mod tree;

pub use child::share_heap;

/// How steps are kept apart from the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// A user namespace with an overlay in it.
    Userns,
    /// Nothing works here: a Dockerfile without RUN builds, a RUN is an error that tells the reason.
    None {
        /// What failed and what permission is missing.
        reason: String,
    },
}

impl fmt::Display for Isolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Userns => "userns",
            Self::None { .. } => "none",
        })
    }
}

/// Makes the memory, environment and descriptors of this process unreadable for processes with the same ids that hold no
/// capability over it. To be called early, before secrets are read.
pub fn protect() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
