//! What can go wrong in a sandbox, on the executor's side and on the helper's.

use std::{error::Error, io, process::ExitStatus};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Says why an operation in the sandbox gave no result. A process that ran and failed is a result, not an error.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The helper could not be started.
    #[error("cannot start the sandbox helper: {0}")]
    Start(#[source] io::Error),
    /// The helper's user namespace could not be given the Pod's ids.
    #[error(
        "may not map the Pod's ids into a user namespace (write {map}: {source}): \
         the executor must run as root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP"
    )]
    Map {
        /// `uid_map` or `gid_map`.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper ended, or was killed (often for want of memory), before it answered.
    #[error("the sandbox helper ended without an answer ({status})")]
    Ended {
        /// How it ended.
        status: ExitStatus,
    },
    /// The connection to the helper broke, or it sent something else than was expected.
    #[error("lost the sandbox helper: {0}")]
    Connection(#[source] io::Error),
    /// The operation failed inside the sandbox.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What failed inside the helper.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// No user namespace may be made here.
    #[error(
        "may not create a user namespace (unshare: {reason}): \
         the Pod's seccomp profile must be unset or allow it, and user.max_user_namespaces must not be 0"
    )]
    Namespace {
        /// What the kernel said.
        reason: String,
    },
    /// Nothing may be mounted even in a user namespace of our own.
    #[error(
        "may not mount in a user namespace ({action}: {reason}): \
         the Pod's seccomp, AppArmor and SELinux profiles must allow mounts, and its work directory must be an emptyDir"
    )]
    Mount {
        /// What was tried.
        action: String,
        /// What the kernel said.
        reason: String,
    },
    /// The command is not in the image.
    #[error("command `{command}` was not found in {path}")]
    CommandNotFound {
        /// The first argument.
        command: String,
        /// Where it was looked for: `PATH=…`, or the image.
        path: String,
    },
    /// The command is in the image and cannot be run.
    #[error("command `{command}` cannot be run: {reason}")]
    NotExecutable {
        /// The first argument, or the file that it names.
        command: String,
        /// What the kernel said, or what is missing.
        reason: String,
    },
    /// What a mount is to show does not exist.
    #[error("\"{path}\": not found: no such file or directory in what is mounted at {target}")]
    MountSource {
        /// The path in the context, stage or image.
        path: String,
        /// Where it was to be mounted.
        target: String,
    },
    /// Nothing can be mounted at the target: it cannot be made in the mount around it, or is something else.
    #[error("cannot mount at {target}: {reason}")]
    MountPoint {
        /// Where it was to be mounted.
        target: String,
        /// What the kernel said.
        reason: String,
    },
    /// The disk or its quota is full.
    #[error("cannot {action}: {reason}")]
    NoSpace {
        /// What was to be done.
        action: String,
        /// What the kernel said, and of which file.
        reason: String,
    },
    /// Anything else.
    #[error("cannot {action}: {reason}")]
    Other {
        /// What was to be done.
        action: String,
        /// Why it failed.
        reason: String,
    },
}

/// Makes a [`Failure::Other`] of an error, or a [`Failure::NoSpace`] if its cause is a full disk; for `map_err`.
pub(super) fn cannot<E: Into<Box<dyn Error>>>(action: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| {
        let (action, error) = (action.into(), error.into());
        let reason = error.to_string();
        if is_no_space(&*error) { Failure::NoSpace { action, reason } } else { Failure::Other { action, reason } }
    }
}

/// Looks for a full disk or quota among the causes.
fn is_no_space(error: &(dyn Error + 'static)) -> bool {
    let kind = match (error.downcast_ref::<io::Error>(), error.downcast_ref::<Errno>()) {
        (Some(error), _) => Some(error.kind()),
        (None, Some(errno)) => Some(errno.kind()),
        (None, None) => None,
    };
    matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        || error.source().is_some_and(is_no_space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::error::LayerError;

    #[track_caller]
    fn check(error: impl Into<Box<dyn Error>>, is_full: bool) {
        let failure = cannot("write")(error);
        assert_eq!(matches!(failure, Failure::NoSpace { .. }), is_full, "{failure:?}");
    }

    #[test]
    fn a_full_disk_is_known_from_every_kind_of_error() {
        check(Errno::NOSPC, true);
        check(io::Error::from(Errno::DQUOT), true);
        check(LayerError::Write { path: "/layer".into(), source: Errno::NOSPC.into() }, true);
        check(LayerError::Read(Errno::IO.into()), false);
        check("no space left on device", false);
    }
}
