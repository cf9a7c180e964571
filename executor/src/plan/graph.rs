//! The graph that `plan` makes and `solve` runs. Everything in it is decided: no variable, no name is left to resolve,
//! except what only a file system knows (user names, symlinks, wildcards).

use std::{collections::BTreeMap, sync::Arc};

use karve_dockerfile::{ignore::Patterns, lint::Findings};

use super::{contexts::Contexts, remote::Remote};
use crate::image::config::{History, ImageConfig};

/// The stages that the target needs, each behind those that it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// In an order in which every stage comes after the stages that it uses.
    pub stages: Vec<Stage>,
    /// The position in `stages` of the stage whose file system and configuration become the image.
    pub target: usize,
    /// What the lint rules found on the way.
    pub lint: Findings,
}

/// One stage: a base and the steps on top.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The name after `AS`, or the number of the stage in the Dockerfile.
    pub name: String,
    /// What the stage starts from.
    pub base: Base,
    /// In the order of the Dockerfile, ONBUILD triggers of the base first.
    pub steps: Vec<Step>,
    /// The configuration at the end of the stage: the base's with every instruction applied, but with the base's own
    /// `rootfs` and `history`, to which `solve` appends one layer and one record for each step.
    pub config: ImageConfig,
}

/// What a stage starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// `FROM scratch`.
    Scratch,
    /// An earlier stage, by its position in [`Graph::stages`].
    Stage(usize),
    /// An image, by its name as the Dockerfile has it after expansion.
    Image(ImageName),
}

/// An image as a Dockerfile names it after expansion: a reference, or `oci-layout:…`, with the platform that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// `debian:bookworm`, `registry.example/base@sha256:…`, `oci-layout:/path:tag`.
    pub reference: String,
    /// `os/architecture[/variant]`.
    pub platform: String,
}

/// One instruction that makes a layer, or a record of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The instruction as people know it, on one line, for progress and errors: `COPY --from=build /app /app`.
    pub text: String,
    /// The line of the Dockerfile where it starts, from 1; that of the FROM for a trigger of its base.
    pub line: usize,
    /// What it does to the file system.
    pub operation: Operation,
    /// Its history record, without `created`.
    pub history: History,
}

/// What a step does to the file system.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Nothing: it changed the configuration only.
    Metadata,
    /// Creates a directory if it is missing (WORKDIR). The path is absolute, not normalised.
    Directory {
        /// The directory.
        path: String,
        /// `USER` at this point: who owns what is created; empty is root.
        user: String,
    },
    /// Copies files.
    Copy(Copy),
    /// Runs a command.
    Run(Run),
}

impl Operation {
    /// Lists whose files it reads, besides those of its own stage.
    pub fn sources(&self) -> Vec<&From> {
        match self {
            Self::Copy(copy) if copy.sources.iter().any(|source| matches!(source, Source::Path(_))) => vec![&copy.from],
            Self::Metadata | Self::Directory { .. } | Self::Copy(_) => Vec::new(),
            Self::Run(run) => run.mounts.iter().filter_map(Mount::from).collect(),
        }
    }

    /// Lists what it takes from elsewhere.
    pub fn remotes(&self) -> impl Iterator<Item = &Remote> {
        let sources = match self {
            Self::Copy(copy) => copy.sources.as_slice(),
            Self::Metadata | Self::Directory { .. } | Self::Run(_) => &[],
        };
        sources.iter().filter_map(|source| match source {
            Source::Remote { remote, .. } => Some(remote),
            Source::Path(_) | Source::Inline { .. } => None,
        })
    }
}

impl Mount {
    /// Returns whose files are mounted.
    pub fn from(&self) -> Option<&From> {
        match self {
            Self::Bind(bind) => bind.from.as_ref(),
            Self::Cache(cache) => cache.from.as_ref(),
            Self::Secret(_) | Self::Ssh(_) | Self::Tmpfs { .. } => None,
        }
    }

    /// Returns which of these files are mounted, as an absolute path.
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Bind(BindMount { source, .. }) | Self::Cache(CacheMount { source, .. }) => Some(source),
            Self::Secret(_) | Self::Ssh(_) | Self::Tmpfs { .. } => None,
        }
    }
}

/// COPY and ADD.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of one instruction")]
pub struct Copy {
    /// Where the sources are.
    pub from: From,
    /// What to copy: paths and wildcards as written after expansion, and heredocs.
    pub sources: Vec<Source>,
    /// The destination as written after expansion: a trailing slash and `.` mean a directory.
    pub destination: String,
    /// `WORKDIR` at this point: what a relative destination is relative to. Absolute.
    pub working_directory: String,
    /// `--chown` after expansion.
    pub chown: Option<String>,
    /// `--chmod` after expansion, checked for form.
    pub chmod: Option<String>,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the layer does not depend on what is below.
    pub link: bool,
    /// Whether local archives among the sources are unpacked (ADD without `--unpack=false`).
    pub unpack: bool,
    /// Whether archives from URLs are unpacked (ADD with `--unpack`).
    pub unpack_remote: bool,
}

/// Where a COPY or a mount takes its files from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// The build context.
    Context,
    /// The files of a named context, by its number from 1.
    Named(usize),
    /// A stage, by its position in [`Graph::stages`].
    Stage(usize),
    /// An image.
    Image(ImageName),
}

impl From {
    /// Whether the files are a context's: they have no owner and no time of their own.
    pub const fn is_context(&self) -> bool {
        matches!(self, Self::Context | Self::Named(_))
    }
}

/// One source of a COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or a wildcard (Go's `filepath.Match`) below the root of `from`.
    Path(String),
    /// A heredoc: a file of this name with this content.
    Inline {
        /// The word after `<<`.
        name: String,
        /// The body, expanded unless the word was quoted.
        content: Arc<[u8]>,
    },
    /// What ADD fetches from elsewhere.
    Remote {
        /// As written after expansion.
        text: String,
        /// What it means.
        remote: Remote,
    },
}

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command with SHELL in front where the shell form was used.
    pub arguments: Vec<String>,
    /// What the process sees: ENV and the ARGs in scope. `HOME` is added when the user is known.
    pub environment: BTreeMap<String, String>,
    /// What it sees besides, and what is no part of what it makes: proxies that no ARG declares.
    pub proxies: BTreeMap<String, String>,
    /// Absolute, not normalised; created when missing.
    pub working_directory: String,
    /// As written: `name`, `uid`, `name:group`, `uid:gid`; empty is root.
    pub user: String,
    /// Mounts in the order of the flags.
    pub mounts: Vec<Mount>,
    /// `--network=none`: only a loopback interface.
    pub network_none: bool,
    /// A script that a heredoc with `#!` holds: placed at `/dev/pipes/<name>`, mode 0755, and named by `arguments`.
    pub script: Option<(String, Arc<[u8]>)>,
}

/// `RUN --mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// `type=bind`.
    Bind(BindMount),
    /// `type=cache`.
    Cache(CacheMount),
    /// `type=secret`.
    Secret(SecretMount),
    /// `type=ssh`.
    Ssh(SshMount),
    /// `type=tmpfs`.
    Tmpfs {
        /// Absolute path.
        target: String,
        /// Bytes; `None` is the kernel's default.
        size: Option<u64>,
        /// Whether nothing can be written, which leaves it empty.
        read_only: bool,
    },
}

/// `RUN --mount=type=bind`: files of the context, a stage or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// Absolute path.
    pub target: String,
    /// Whose files; `None` is `scratch`, which has none.
    pub from: Option<From>,
    /// A file or directory of theirs, as an absolute path.
    pub source: String,
    /// Whether nothing can be written. What is written otherwise is thrown away after the step.
    pub read_only: bool,
}

/// `RUN --mount=type=cache`: a directory that steps share and no layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Absolute path.
    pub target: String,
    /// The namespace, a slash and the id; the mounts that agree in it, in `from`, `attributes` and, with `from`, `source` are one cache.
    pub id: String,
    /// What happens when another step uses it.
    pub sharing: Sharing,
    /// Whose files a new cache begins with; `None` begins empty.
    pub from: Option<From>,
    /// Which of those files, as an absolute path; without `from` the part of the cache that is mounted.
    pub source: String,
    /// What the directory itself gets when it is new, if anything was said. Without `from` but with a source it is not.
    pub attributes: Option<Attributes>,
    /// Whether this step only reads.
    pub read_only: bool,
}

/// What steps that use one cache at once do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They write to it together.
    Shared,
    /// The later ones get another cache.
    Private,
    /// The later ones wait.
    Locked,
}

/// Permission bits and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// `RUN --mount=type=ssh`: the socket of an SSH agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent.
    pub id: String,
    /// Where the socket goes.
    pub target: String,
    /// Whether its absence is an error.
    pub required: bool,
    /// Permission bits of the socket, 0600 by default.
    pub mode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

/// `RUN --mount=type=secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// Where the file goes; `None` when only `env` was given.
    pub target: Option<String>,
    /// The environment variable that carries the value.
    pub env: Option<String>,
    /// Whether its absence is an error.
    pub required: bool,
    /// Permission bits of the file, 0400 by default.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
}

/// Options of a build that the plan depends on.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--target`: a stage's name or number; `None` is the last stage.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--build-context`.
    pub contexts: Contexts,
    /// `--label`: applied last.
    pub labels: BTreeMap<String, String>,
    /// The platform of the result, `linux/amd64`.
    pub platform: String,
    /// Whether somebody asked for it: then the image is of it, also on a base that is not.
    pub platform_asked: bool,
    /// The platform of the machine.
    pub build_platform: String,
    /// What `.dockerignore` excludes: only the lint rules look at it here.
    pub ignored: Patterns,
}

/// The configurations of the images that a plan asked for.
pub type Bases = BTreeMap<ImageName, ImageConfig>;

/// The answer of the planner.
#[derive(Clone, Debug, PartialEq)]
pub enum Planned {
    /// Everything is decided.
    Graph(Graph),
    /// These images' configurations must be known first (ONBUILD triggers may ask again).
    Needs(Vec<Need>),
}

/// An image that must be known, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The image.
    pub image: ImageName,
    /// The line of the Dockerfile that needs it first.
    pub line: usize,
}
