//! What was typed: the command line of `karve`, with kaniko's names for what kaniko has and `docker build`'s habits.
//!
//! Nothing is checked here beyond its form; [`crate::options`] says what it means.

use std::{path::PathBuf, str::FromStr};

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::context::arguments::ContextArguments;

/// Builds container images from Dockerfiles, without a daemon and without privileges.
#[derive(Debug, Parser)]
#[command(name = "karve", version, disable_help_subcommand = true)]
pub struct Flags {
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Builds a Dockerfile and pushes the image (the default command: flags alone mean `build`)
    Build(Box<BuildFlags>),
    /// Reads a Dockerfile and tells what is wrong with it, without building it
    Check(CheckFlags),
    /// Runs an ImageBuild manifest on this machine, without a cluster, and prints it with its status
    Run(RunFlags),
    /// Fetches a build context into a directory (what the init container of an executor Pod runs)
    Context(ContextArguments),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags of `karve build`.
#[derive(Args, Clone, Debug, Default)]
pub struct BuildFlags {
    /// Build context: a directory, as a path or `dir://PATH` [default: .]
    #[arg(long, short = 'c', value_name = "DIR")]
    pub context: Option<String>,
    /// The same as --context, as docker build takes it
    #[arg(value_name = "CONTEXT", conflicts_with = "context")]
    pub context_argument: Option<String>,
    /// Directory of the context that is the real context
    #[arg(long, value_name = "DIR")]
    pub context_sub_path: Option<String>,
    /// Dockerfile, in the context or else on this machine [default: Dockerfile]
    #[arg(long, short = 'f', visible_alias = "file", value_name = "PATH")]
    pub dockerfile: Option<PathBuf>,
    /// Where to push the image; may be repeated
    #[arg(long, short = 'd', visible_short_alias = 't', visible_alias = "tag", value_name = "IMAGE")]
    pub destination: Vec<String>,
    /// Value of an ARG; a bare NAME takes the value from the environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<String>,
    /// Files or an image in place of the stage or the image of that name: a directory, `docker-image://IMAGE`, `oci-layout://PATH[:TAG]`, or a git repository or file by its URL; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_context: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Label of the image; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Annotation of the manifest; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Platform of the image, one; RUN needs a stage of this machine's [default: this machine's]
    #[arg(long, visible_alias = "custom-platform", value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh: default (`SSH_AUTH_SOCK`), ID=SOCKET, ID=KEYFILE[,KEYFILE...] or id=ID,env=VARIABLE; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub ssh: Vec<String>,
    /// Build only, push nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub no_push: Switch,
    /// Also write the image as an OCI image layout into this directory
    #[arg(long, visible_alias = "oci-layout", value_name = "DIR")]
    pub oci_layout_path: Option<PathBuf>,
    /// Write the digest of the image into this file
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Write REPOSITORY@DIGEST of every destination into this file
    #[arg(long, value_name = "FILE")]
    pub image_name_with_digest_file: Option<PathBuf>,
    /// Write REPOSITORY:TAG@DIGEST of every destination into this file
    #[arg(long, value_name = "FILE")]
    pub image_name_tag_with_digest_file: Option<PathBuf>,
    /// Use plain http with the destinations' registries
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub insecure: Switch,
    /// Use plain http with this registry; may be repeated
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Do not verify the certificates of the destinations' registries
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub skip_tls_verify: Switch,
    /// Do not verify the certificate of this registry; may be repeated
    #[arg(long, value_name = "HOST")]
    pub skip_tls_verify_registry: Vec<String>,
    /// CA certificates (PEM) to trust for a registry; may be repeated
    #[arg(long, value_name = "HOST=FILE")]
    pub registry_certificate: Vec<String>,
    /// Look steps up in a cache, and keep what was made [default: whether a cache is named]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cache: Option<Switch>,
    /// Where the cache is: a repository, or `oci:DIR` [default: the repository `cache` below the first destination's]
    #[arg(long, value_name = "REPOSITORY")]
    pub cache_repo: Option<String>,
    /// Another cache, which is only read: a repository, or `oci:DIR`; may be repeated
    #[arg(long, value_name = "REPOSITORY")]
    pub cache_from: Vec<String>,
    /// How old what is taken from a cache may be [default: 336h]
    #[arg(long, value_name = "DURATION")]
    pub cache_ttl: Option<String>,
    /// Cache RUN [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cache_run_layers: Option<Switch>,
    /// Cache COPY, ADD and WORKDIR [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cache_copy_layers: Option<Switch>,
    /// Keep what RUN --mount=type=cache holds in the cache [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cache_mounts: Option<Switch>,
    /// What is kept of one cache mount at most, the files used last first [default: 1Gi]
    #[arg(long, value_name = "BYTES")]
    pub cache_mount_max_size: Option<String>,
    /// Directory that keeps the layers of base images from one build to the next
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Look no step up in the cache; what is made is kept all the same
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub no_cache: Switch,
    /// Keep nothing in the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    pub no_push_cache: Switch,
    /// Time of the image and of what COPY, ADD and WORKDIR create: seconds since 1970, or RFC 3339 [default: `SOURCE_DATE_EPOCH`, or the source's own time, or 0]
    #[arg(long, value_name = "TIME")]
    pub timestamp: Option<String>,
    /// What to do where no user namespace can be made: auto builds Dockerfiles without RUN; userns refuses to start
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub isolation: String,
    /// End the build after this time, such as 1h30m
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Directory for layers and root file systems; needs a file system that overlayfs accepts [default: a new temporary directory]
    #[arg(long, visible_alias = "kaniko-dir", value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Leave everything in the work directory: for a volume that ends with its Pod
    #[arg(long)]
    pub keep_work_dir: bool,
    /// What the work directory may take of its disk, in bytes; the build fails when it takes more
    #[arg(long, value_name = "BYTES", hide = true)]
    pub work_limit_bytes: Option<u64>,
    /// What the context's revision and time are, as `karve context` wrote it
    #[arg(long, value_name = "FILE", hide = true)]
    pub source_info: Option<PathBuf>,
    /// Write the report of the build into this file
    #[arg(long, value_name = "FILE", hide = true)]
    pub report: Option<PathBuf>,
    /// Repeated in the report, so that its reader knows which build wrote it
    #[arg(long, value_name = "TOKEN", hide = true)]
    pub nonce: Option<String>,
    /// An image that an earlier attempt at this build may have pushed: if it exists, report it and build nothing
    #[arg(long, value_name = "IMAGE", hide = true)]
    pub adopt: Option<String>,
    /// Flags of other builders: what has lost its point, and what is refused. Filled by `parse`.
    #[arg(skip)]
    pub foreign: Vec<ForeignFlag>,
}

/// The flags of `karve check`.
#[derive(Args, Clone, Debug)]
pub struct CheckFlags {
    /// Build context: the directory with the Dockerfile and its `.dockerignore` [default: .]
    #[arg(value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Dockerfile, in the context or else on this machine; `-` reads standard input [default: Dockerfile]
    #[arg(long, short = 'f', visible_alias = "file", value_name = "PATH")]
    pub dockerfile: Option<PathBuf>,
    /// Value of an ARG; a bare NAME takes the value from the environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<String>,
    /// Check only what this stage needs [default: all stages]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub format: CheckFormat,
    /// Ask no registry for base images; what depends on them is not checked
    #[arg(long)]
    pub offline: bool,
    /// Use plain http with this registry; may be repeated
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Do not verify the certificate of this registry; may be repeated
    #[arg(long, value_name = "HOST")]
    pub skip_tls_verify_registry: Vec<String>,
    /// CA certificates (PEM) to trust for a registry; may be repeated
    #[arg(long, value_name = "HOST=FILE")]
    pub registry_certificate: Vec<String>,
}

/// How `karve check` writes what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckFormat {
    /// For people: with the lines.
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0, for code hosts.
    Sarif,
}

/// The flags of `karve run`.
#[derive(Args, Clone, Debug)]
pub struct RunFlags {
    /// The ImageBuild manifest (YAML); `-` reads standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    pub filename: PathBuf,
    /// OCI image layout that receives the image [default: karve-output/NAME]
    #[arg(long, short = 'o', value_name = "DIR")]
    pub oci_layout_path: Option<PathBuf>,
    /// Push to spec.output, with the cache of spec.cache, instead of writing an OCI image layout without a cache
    #[arg(long)]
    pub push: bool,
    /// Value of a secret of spec.secrets: id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// Directory for layers and root file systems [default: a new temporary directory]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
}

/// A flag of another builder, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFlag {
    /// The name without dashes.
    pub name: &'static str,
    /// Why it does nothing, or `None` when it is refused.
    pub pointless: Option<&'static str>,
}

/// A boolean as kaniko writes it: `--flag`, `--flag=true`, `--flag=false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Ok(Self(true)),
            "false" | "0" | "f" => Ok(Self(false)),
            _ => Err(format!("`{text}` is neither true nor false")),
        }
    }
}

/// kaniko's flags that have lost their point here, each with the reason, and those that are not supported (no reason).
const FOREIGN: [(&str, Option<&str>); 34] = [
    ("cleanup", Some("the work directory is removed at the end unless --keep-work-dir is given")),
    ("compressed-caching", Some("layers are always streamed")),
    ("compression", None),
    ("compression-level", None),
    ("credential-helpers", None),
    ("force", Some("Karve never builds in its own root file system")),
    ("git", None),
    ("ignore-path", None),
    ("ignore-var-run", Some("a layer holds only what the step changed")),
    ("image-download-retry", Some("downloads are always retried")),
    ("image-fs-extract-retry", Some("downloads are always retried")),
    ("insecure-pull", None),
    ("log-timestamp", Some("the Pod's log has the time of every line")),
    ("output", None),
    ("progress", Some("progress is always shown line by line")),
    ("push-ignore-immutable-tag-errors", None),
    ("push-retry", Some("uploads are always retried")),
    ("registry-client-cert", None),
    ("registry-map", None),
    ("registry-mirror", None),
    ("reproducible", None),
    ("single-snapshot", None),
    ("skip-default-registry-fallback", None),
    ("skip-push-permission-check", Some("nothing is pushed ahead of the image")),
    ("skip-unused-stages", Some("only the stages that the target needs are built")),
    ("skip-tls-verify-pull", None),
    ("snapshot-mode", Some("changes are taken from the overlay, not found by comparing files")),
    ("snapshotMode", Some("changes are taken from the overlay, not found by comparing files")),
    ("tar-path", None),
    ("tarPath", None),
    ("use-new-run", Some("changes are taken from the overlay, not found by comparing files")),
    ("use-old-run", None),
    ("verbosity", Some("progress is always shown")),
    ("whitelist-var-run", Some("a layer holds only what the step changed")),
];

/// Parses the command line. Flags without a command mean `build`.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Flags, clap::Error> {
    let mut arguments: Vec<String> = arguments.into_iter().collect();
    if arguments
        .get(1)
        .is_some_and(|first| first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first.as_str()))
    {
        arguments.insert(1, "build".to_owned());
    }
    let matches = command().try_get_matches_from(arguments)?;
    let mut flags = Flags::from_arg_matches(&matches)?;
    if let (Command::Build(build), Some(matches)) = (&mut flags.command, matches.subcommand_matches("build")) {
        build.foreign = foreign(matches);
    }
    Ok(flags)
}

/// The command line's definition, with the foreign flags that the help does not show.
pub fn command() -> clap::Command {
    Flags::command().mut_subcommand("build", |build| {
        FOREIGN.iter().fold(build, |build, (name, _)| {
            let argument = Arg::new(*name).long(*name).hide(true).num_args(0..=1).action(ArgAction::Append);
            build.arg(if *name == "verbosity" { argument.short('v') } else { argument })
        })
    })
}

fn foreign(matches: &ArgMatches) -> Vec<ForeignFlag> {
    let switched_off =
        // The flag alone has no value, and asks for it.
        |name: &str| matches.get_many::<String>(name).is_some_and(|mut values| values.len() > 0 && values.all(|value| value == "false"));
    FOREIGN
        .iter()
        .filter(|(name, pointless)| {
            matches.value_source(name).is_some()
                && (pointless.is_some() || !switched_off_is_harmless(name) || !switched_off(name))
        })
        .map(|(name, pointless)| ForeignFlag { name, pointless: *pointless })
        .collect()
}

/// Whether `--name=false` asks for nothing: an unsupported feature that is switched off needs no error.
fn switched_off_is_harmless(name: &str) -> bool {
    ["reproducible", "single-snapshot"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(line: &str) -> BuildFlags {
        let arguments = std::iter::once("karve").chain(line.split_whitespace()).map(str::to_owned);
        match parse(arguments).unwrap().command {
            Command::Build(flags) => *flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_alone_mean_build() {
        let flags = build(
            "--context=dir:///workspace --dockerfile Dockerfile --destination=r.example/a:1 --destination r.example/a:2 --no-push",
        );
        assert_eq!(flags.context.as_deref(), Some("dir:///workspace"));
        assert_eq!(flags.destination, ["r.example/a:1", "r.example/a:2"]);
        assert_eq!((flags.no_push, flags.insecure), (Switch(true), Switch(false)));
    }

    #[test]
    fn docker_habits_work() {
        let flags = build("build -t r.example/a:1 -f Other --build-arg A=1 --secret id=x,src=/x .");
        assert_eq!(flags.context_argument.as_deref(), Some("."));
        assert_eq!((flags.destination.len(), flags.build_arg.len(), flags.secret.len()), (1, 1, 1));
    }

    #[test]
    fn foreign_flags_are_noted_or_refused_and_unknown_ones_are_errors() {
        let names = |line: &str| {
            let foreign = build(line).foreign;
            foreign
                .iter()
                .map(|flag| format!("{}{}", flag.name, if flag.pointless.is_some() { "" } else { "!" }))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("--snapshot-mode=redo --use-new-run -v debug --cleanup"),
            ["cleanup", "snapshot-mode", "use-new-run", "verbosity"]
        );
        assert_eq!(names("--reproducible --tar-path=x"), ["reproducible!", "tar-path!"]);
        assert_eq!(names("--reproducible=false"), Vec::<String>::new());
        assert!(parse(["karve", "build", "--no-such-flag"].map(str::to_owned)).is_err());
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }
}
