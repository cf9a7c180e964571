//! Why a build ended without an image: whatever failed on the way, with the reason that the report names.

use std::{io, path::PathBuf};

use karve_api::Reason;
use karve_dockerfile::diagnostic::{Diagnostics, Fault};

use crate::{
    agent::AgentError,
    context::{budget::VOLUME_SIZE_HINT, directory::DirectoryError},
    image::platform::InvalidPlatform,
    registry::RegistryError,
    solve::error::{SolveError, reason_of, reason_of_registry},
};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The context or the Dockerfile cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The Dockerfile is wrong.
    #[error("{}", .diagnostics.render(.file))]
    Dockerfile {
        /// How messages call it.
        file: String,
        /// Everything that is wrong.
        diagnostics: Diagnostics,
    },
    /// The Dockerfile says that a warning is a failure.
    #[error("lint violation found for rules: {}", .0.join(", "))]
    Lint(Vec<&'static str>),
    /// An image that the Dockerfile names cannot be had.
    #[error("{file}:{line}: cannot use the image `{image}`")]
    Image {
        /// How messages call the Dockerfile.
        file: String,
        /// The first line that names it.
        line: usize,
        /// The image, as the Dockerfile has it after expansion.
        image: String,
        /// Why.
        source: Box<Self>,
    },
    /// A registry or an OCI layout.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A step or a layer.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// No user namespace can be made, and `--isolation=userns` demands one.
    #[error("--isolation=userns: {0}")]
    IsolationRequired(String),
    /// The Dockerfile has a RUN, and nothing may be run here.
    #[error("RUN cannot be executed in this Pod: {0}")]
    Isolation(String),
    /// An SSH agent cannot be used.
    #[error("--ssh {id}")]
    Agent {
        /// Which.
        id: String,
        /// Why.
        source: AgentError,
    },
    /// A platform has the wrong form.
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    /// A file cannot be read or written.
    #[error("cannot use `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The build took too long.
    #[error("the build took longer than {0}; raise the timeout")]
    Timeout(String),
    /// The work directory takes all that it may: the build ends before the kubelet evicts the Pod.
    #[error("the build needs more than {limit_bytes} bytes in its work directory: {VOLUME_SIZE_HINT}")]
    VolumeFull {
        /// What it may take, in bytes.
        limit_bytes: u64,
    },
    /// The disk that holds the work directory is full.
    #[error("no space is left on the disk of the work directory: free some, or {VOLUME_SIZE_HINT}")]
    DiskFull(#[source] Box<Self>),
    /// The program was asked to end.
    #[error("ended by signal {0}")]
    Interrupted(u8),
    /// The configuration cannot be written as JSON.
    #[error("a document is not the JSON that it should be")]
    Documents(#[from] serde_json::Error),
}

impl BuildError {
    /// The stage in which the build failed.
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::Solve(error) => error.stage(),
            Self::DiskFull(error) => error.stage(),
            _ => None,
        }
    }

    /// The last lines of the output of the step that failed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Solve(error) => error.tail(),
            Self::DiskFull(error) => error.tail(),
            _ => &[],
        }
    }

    /// Whether the build was ended from outside, while steps were running or for want of room.
    pub const fn is_cut_off(&self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::Timeout(_) | Self::VolumeFull { .. } | Self::DiskFull(_))
    }

    /// The reason that the report names.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Directory(DirectoryError::DockerfileNotFound { .. }) => Reason::FileNotFound,
            Self::Directory(_) => Reason::ContextInvalid,
            Self::Dockerfile { diagnostics, .. } => match diagnostics.fault() {
                Fault::Mistake => Reason::DockerfileInvalid,
                Fault::StageNotFound => Reason::StageNotFound,
                Fault::Unsupported => Reason::Unsupported,
            },
            Self::Agent { .. } => Reason::SecretNotFound,
            Self::Platform(_) | Self::Lint(_) => Reason::DockerfileInvalid,
            Self::Image { source, .. } => source.reason(),
            Self::Registry(error) => reason_of_registry(error),
            Self::Solve(error) => error.reason(),
            Self::Isolation(_) | Self::IsolationRequired(_) => Reason::IsolationUnavailable,
            Self::File { source, .. } => reason_of(source),
            Self::Timeout(_) => Reason::Timeout,
            Self::VolumeFull { .. } | Self::DiskFull(_) => Reason::VolumeFull,
            Self::Interrupted(_) => Reason::Cancelled,
            Self::Documents(_) => Reason::Internal,
        }
    }
}
