//! Why a build failed: facts with the place in the Dockerfile, and the reason that the report names.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use karve_api::Reason;
use karve_dockerfile::{chmod::InvalidChmod, ignore::IgnoreError};

use super::remote::RemoteError;
use crate::{
    context::{directory::DirectoryError, hash::UnreadableFile},
    filesystem::{copy::CopyError, path::TreePath, users::UserError, view::ViewError},
    image::digest::Digest,
    layer::error::LayerError,
    plan::graph::Step,
    registry::{ErrorKind, RegistryError},
    sandbox::{
        error::{Failure, SandboxError},
        request::Exit,
    },
};

/// A build that failed.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// One step failed.
    #[error("{place}")]
    Step {
        /// File and line of the instruction, and the instruction.
        place: String,
        /// The stage.
        stage: String,
        /// What went wrong.
        #[source]
        error: Box<StepError>,
    },
    /// A registry did not do what was asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer cannot be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A layer of a base image is not what the image's configuration says.
    #[error("layer {layer} holds {found}, but the image's configuration says {expected}: the base image is damaged")]
    DiffId {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What the configuration has.
        expected: Digest,
        /// What the layer has.
        found: Digest,
    },
    /// The layers of a base image do not fit together.
    #[error("the layers of the base image do not fit together")]
    Base(#[from] ViewError),
    /// A base image has a layer of an unknown kind.
    #[error("image {image} has a layer of media type `{media_type}`, which is no layer of files")]
    LayerMediaType {
        /// The image.
        image: String,
        /// The media type.
        media_type: String,
    },
    /// A file of the context cannot be read.
    #[error("{path} of the build context cannot be read")]
    Context {
        /// The file.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A named context cannot be fetched.
    #[error("the named context `{name}`")]
    RemoteContext {
        /// The name that `--build-context` gives it.
        name: String,
        /// Why.
        source: Arc<RemoteError>,
    },
    /// A named context cannot be read.
    #[error("the named context `{name}`")]
    NamedContext {
        /// The name that `--build-context` gives it.
        name: String,
        /// Why.
        source: Box<DirectoryError>,
    },
    /// A file of the work directory cannot be read or written.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layer that an earlier build made cannot be had. The build begins again without it.
    #[error("the layer {layer} of the cache cannot be used")]
    Cached {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A defect of Karve.
    #[error("internal error: {0}; please report it")]
    Internal(&'static str),
}

/// What can go wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A user or group is unknown.
    #[error(transparent)]
    User(#[from] UserError),
    /// Files cannot be copied so.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// No command can be run here.
    #[error("RUN cannot be executed in this Pod: {0}")]
    Isolation(String),
    /// `--chmod` has the wrong form.
    #[error(transparent)]
    Chmod(#[from] InvalidChmod),
    /// `--exclude` has the wrong form.
    #[error(transparent)]
    Exclude(#[from] IgnoreError),
    /// A required secret was not given.
    #[error("secret `{0}` was not given: pass it with --secret id={0},src=FILE or spec.secrets")]
    SecretMissing(String),
    /// A secret's file cannot be read.
    #[error("secret `{id}` cannot be read")]
    SecretUnreadable {
        /// Which.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// A secret for an environment variable is not text.
    #[error("secret `{0}` is not UTF-8 text and cannot be an environment variable: mount it as a file")]
    SecretNotText(String),
    /// A required SSH agent was not given.
    #[error("SSH agent `{0}` was not given: pass it with --ssh {0}=SOCKET or --ssh {0}=KEYFILE")]
    AgentMissing(String),
    /// The kernel killed something at the memory limit while the step ran.
    #[error("the step needed more memory than it may have: raise `spec.resources.limits.memory`")]
    OutOfMemory(#[source] Box<Self>),
    /// The command ended with an error.
    #[error("process `{command}` did not complete successfully: {exit}{}", memory_hint(*exit))]
    RunFailed {
        /// The command.
        command: String,
        /// How it ended.
        exit: Exit,
        /// The last lines of its output, secrets hidden.
        tail: Vec<String>,
    },
    /// The command could not be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A source of ADD that is elsewhere cannot be fetched.
    #[error(transparent)]
    Remote(#[from] Arc<RemoteError>),
    /// The work directory cannot be used.
    #[error("the work directory cannot be used")]
    Work(#[source] io::Error),
    /// Everything else.
    #[error(transparent)]
    Solve(#[from] SolveError),
}

/// Characters of an instruction that an error repeats.
const INSTRUCTION_CHARACTERS_MAX: usize = 120;

impl StepError {
    /// Says where in the Dockerfile the error arose. An error that another step raised first keeps its place.
    pub(super) fn at(self, dockerfile: &str, stage: &str, step: &Step) -> SolveError {
        if let Self::Solve(error @ SolveError::Step { .. }) = self {
            return error;
        }
        let mut instruction: String = step.text.chars().take(INSTRUCTION_CHARACTERS_MAX).collect();
        if instruction.len() < step.text.len() {
            instruction.push('…');
        }
        let place = format!("{dockerfile}:{}: {instruction}", step.line);
        SolveError::Step { place, stage: stage.to_owned(), error: Box::new(self) }
    }

    /// Whether a process of the step failed, which may be for want of memory.
    pub(super) fn is_of_process(&self) -> bool {
        matches!(self, Self::RunFailed { .. } | Self::Sandbox(_))
    }

    fn tail(&self) -> &[String] {
        match self {
            Self::RunFailed { tail, .. } => tail,
            Self::OutOfMemory(error) => error.tail(),
            _ => &[],
        }
    }

    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Copy(CopyError::Missing { .. }) => Reason::FileNotFound,
            Self::User(_) | Self::Copy(_) | Self::Chmod(_) | Self::Exclude(_) => Reason::DockerfileInvalid,
            Self::SecretMissing(_) | Self::SecretUnreadable { .. } | Self::AgentMissing(_) => Reason::SecretNotFound,
            Self::SecretNotText(_) => Reason::Unsupported,
            Self::Isolation(_) => Reason::IsolationUnavailable,
            Self::RunFailed { .. } => Reason::RunFailed,
            Self::OutOfMemory(_) => Reason::OutOfMemory,
            Self::Sandbox(error) => reason_of_sandbox(error),
            Self::Remote(error) => error.reason(),
            Self::Work(error) => reason_of(error),
            Self::Solve(error) => error.reason(),
        }
    }
}

impl From<UnreadableFile> for SolveError {
    fn from(UnreadableFile { path, source }: UnreadableFile) -> Self {
        Self::Context { path, source }
    }
}

impl SolveError {
    /// The layer of the cache without which the build would not have failed.
    pub fn unusable_layer(&self) -> Option<&Digest> {
        match self {
            // A full disk is not the cache's fault.
            Self::Cached { source, .. } if reason_of_chain(&**source) == Reason::VolumeFull => None,
            Self::Cached { layer, .. } => Some(layer),
            Self::Step { error, .. } => match &**error {
                StepError::Solve(error) => error.unusable_layer(),
                _ => None,
            },
            _ => None,
        }
    }

    /// Wraps an error of a file in the work directory.
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// The reason that the report names.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Step { error, .. } => error.reason(),
            Self::Registry(error) => reason_of_registry(error),
            Self::Layer(error) => reason_of_chain(error),
            Self::DiffId { .. } | Self::Base(_) | Self::LayerMediaType { .. } => Reason::DockerfileInvalid,
            Self::RemoteContext { source, .. } => source.reason(),
            Self::NamedContext { source, .. } => match **source {
                DirectoryError::Open { .. } => Reason::ContextNotFound,
                _ => Reason::ContextInvalid,
            },
            Self::Context { source, .. } | Self::File { source, .. } => reason_of(source),
            Self::Cached { source, .. } => match reason_of_chain(&**source) {
                Reason::VolumeFull => Reason::VolumeFull,
                _ => Reason::RegistryUnavailable,
            },
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// The stage in which the build failed.
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::Step { stage, .. } => Some(stage),
            _ => None,
        }
    }

    /// The last lines of the output of the step that failed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Step { error, .. } => error.tail(),
            _ => &[],
        }
    }
}

/// What to think of when a process was killed and nobody says why.
fn memory_hint(exit: Exit) -> &'static str {
    match exit {
        Exit::Signal(9) | Exit::Code(137) => {
            " (killed, perhaps for want of memory: see `spec.resources.limits.memory`)"
        }
        Exit::Signal(_) | Exit::Code(_) => "",
    }
}

/// What an error of a registry means for the build.
pub fn reason_of_registry(error: &RegistryError) -> Reason {
    match error {
        RegistryError::BaseImageNotFound { .. } | RegistryError::NotFound { .. } => Reason::BaseImageNotFound,
        RegistryError::File { source, .. } => reason_of(source),
        other => match other.kind() {
            ErrorKind::Unauthorized => Reason::Unauthorized,
            ErrorKind::NotFound => Reason::BaseImageNotFound,
            ErrorKind::Unavailable | ErrorKind::Tls | ErrorKind::Corrupt => Reason::RegistryUnavailable,
            ErrorKind::Invalid => Reason::DockerfileInvalid,
            ErrorKind::Refused => Reason::PushRefused,
            ErrorKind::Local => Reason::Internal,
        },
    }
}

fn reason_of_sandbox(error: &SandboxError) -> Reason {
    match error {
        SandboxError::Failed(Failure::Namespace { .. } | Failure::Mount { .. }) | SandboxError::Map { .. } => {
            Reason::IsolationUnavailable
        }
        SandboxError::Failed(Failure::CommandNotFound { .. } | Failure::NotExecutable { .. }) => Reason::RunFailed,
        SandboxError::Failed(Failure::MountSource { .. }) => Reason::FileNotFound,
        SandboxError::Failed(Failure::MountPoint { .. }) => Reason::DockerfileInvalid,
        SandboxError::Failed(Failure::NoSpace { .. }) => Reason::VolumeFull,
        other => reason_of_chain(other),
    }
}

/// Looks for an error of the file system among the causes.
fn reason_of_chain(error: &(dyn std::error::Error + 'static)) -> Reason {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return reason_of(error);
        }
        next = error.source();
    }
    Reason::Internal
}

/// What an error of the file system means for the build.
pub fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::VolumeFull,
        io::ErrorKind::NotFound => Reason::FileNotFound,
        _ => Reason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::config::History, plan::graph::Operation, progress::explain};

    fn step(line: usize, text: &str) -> Step {
        Step { text: text.into(), line, operation: Operation::Metadata, history: History::default() }
    }

    fn failed(exit: Exit) -> StepError {
        StepError::RunFailed { command: "make".into(), exit, tail: vec!["last line".into()] }
    }

    #[track_caller]
    fn check(error: StepError, reason: Reason, message: &str) {
        let error = error.at("Dockerfile", "build", &step(3, "RUN make"));
        assert_eq!((error.reason(), explain(&error).as_str()), (reason, message));
        assert_eq!(error.stage(), Some("build"));
    }

    #[test]
    fn a_step_that_failed_names_line_and_exit() {
        let message = "Dockerfile:3: RUN make: process `make` did not complete successfully: exit code: 2";
        check(failed(Exit::Code(2)), Reason::RunFailed, message);
    }

    #[test]
    fn a_kill_points_to_the_memory_limit() {
        let killed = "process `make` did not complete successfully: killed by signal 9 (killed, perhaps for want of \
                      memory: see `spec.resources.limits.memory`)";
        check(failed(Exit::Signal(9)), Reason::RunFailed, &format!("Dockerfile:3: RUN make: {killed}"));
        let known = "the step needed more memory than it may have: raise `spec.resources.limits.memory`";
        let message = format!("Dockerfile:3: RUN make: {known}: {killed}");
        check(StepError::OutOfMemory(Box::new(failed(Exit::Signal(9)))), Reason::OutOfMemory, &message);
    }

    #[test]
    fn the_tail_of_the_output_survives_every_wrapper() {
        let error = StepError::OutOfMemory(Box::new(failed(Exit::Code(1)))).at("Dockerfile", "0", &step(1, ""));
        assert_eq!(error.tail(), ["last line"]);
    }

    #[test]
    fn causes_decide_the_reason() {
        let no_space = || io::Error::from(io::ErrorKind::StorageFull);
        let sandbox = |failure| StepError::Sandbox(SandboxError::Failed(failure));
        let (action, reason) = (String::new(), String::new());
        for (error, expected) in [
            (StepError::Work(no_space()), Reason::VolumeFull),
            (SolveError::file(Path::new("/layer"), no_space()).into(), Reason::VolumeFull),
            (SolveError::from(LayerError::Compress(no_space())).into(), Reason::VolumeFull),
            (sandbox(Failure::NoSpace { action: action.clone(), reason: reason.clone() }), Reason::VolumeFull),
            (sandbox(Failure::Mount { action, reason: reason.clone() }), Reason::IsolationUnavailable),
            (sandbox(Failure::Namespace { reason }), Reason::IsolationUnavailable),
            (StepError::SecretMissing("npm".into()), Reason::SecretNotFound),
            (StepError::AgentMissing("default".into()), Reason::SecretNotFound),
            (StepError::SecretNotText("npm".into()), Reason::Unsupported),
            (SolveError::Internal("a defect").into(), Reason::Internal),
        ] {
            let message = explain(&error);
            assert_eq!(error.at("Dockerfile", "0", &step(1, "")).reason(), expected, "{message}");
        }
    }

    #[test]
    fn the_place_that_was_named_first_stays() {
        let first = failed(Exit::Code(1)).at("Dockerfile", "base", &step(2, "RUN make"));
        let error = StepError::Solve(first).at("Dockerfile", "final", &step(9, "COPY --from=base / /"));
        assert_eq!((error.to_string().as_str(), error.stage()), ("Dockerfile:2: RUN make", Some("base")));
    }

    #[test]
    fn long_instructions_are_cut() {
        let text = "é".repeat(INSTRUCTION_CHARACTERS_MAX + 1);
        let long = failed(Exit::Code(1)).at("Dockerfile", "app", &step(1, &text)).to_string();
        assert_eq!(long, format!("Dockerfile:1: {}…", "é".repeat(INSTRUCTION_CHARACTERS_MAX)));
    }
}
