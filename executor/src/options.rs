//! What the flags mean: `BuildFlags` and what the program took from its environment go in, a checked `Options` comes
//! out, or the first mistake. Pure.

mod cache;
mod contexts;
mod special;

pub use cache::CacheOptions;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use karve_dockerfile::duration;

use crate::{
    flags::{BuildFlags, Switch},
    image::{platform::Platform, reference::Reference},
    plan::{graph, platform, remote::Remote},
    secret::Secret,
};

/// The variable that names the socket of the user's SSH agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// A mistake on the command line.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A flag's value has the wrong form.
    #[error("--{flag}: `{value}` {problem}")]
    Value {
        /// The flag without dashes.
        flag: &'static str,
        /// What was typed.
        value: String,
        /// What is wrong with it, as the end of the sentence.
        problem: String,
    },
    /// Flags that contradict or need one another.
    #[error("{0}")]
    Combination(String),
    /// A flag of another builder that has no equal here.
    #[error("--{0} is not supported by this version")]
    Unsupported(&'static str),
}

/// What the program took out of its environment at start.
#[derive(Debug, Default)]
pub struct Environment {
    /// Every variable that is not Karve's: `--build-arg NAME` and `--secret id=…,env=…` look here.
    pub variables: BTreeMap<String, String>,
    /// docker `config.json` documents for all registries.
    pub registry_auth: Vec<Secret>,
    /// The docker `config.json` that wins for the destinations.
    pub push_auth: Option<Secret>,
    /// When the program started, in seconds since 1970: what the age of cache entries is counted from.
    pub now: i64,
}

/// Where a RUN secret's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file, any bytes.
    File(PathBuf),
    /// Here; it came from the environment.
    Value(Secret<Vec<u8>>),
}

/// Where the files of a named context are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// In a directory of this machine; its own `.dockerignore` holds.
    Directory(PathBuf),
    /// In a git repository, or behind a URL.
    Remote(Remote),
}

/// What an SSH agent for steps is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSource {
    /// The socket of another agent, or files with private keys.
    Paths(Vec<PathBuf>),
    /// One private key; it came from the environment.
    Key {
        /// The variable that held it.
        variable: String,
        /// The text of the key.
        value: Secret<Vec<u8>>,
    },
}

/// How one registry is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// Plain http.
    pub plain_http: bool,
    /// No certificate checks.
    pub skip_tls_verify: bool,
    /// Files with CA certificates that are trusted.
    pub certificates: Vec<PathBuf>,
}

/// A build, checked.
#[derive(Debug)]
pub struct Options {
    /// The directory with the context.
    pub context: PathBuf,
    /// The directory within the context that is used.
    pub context_sub_path: Option<String>,
    /// The Dockerfile; `None` looks for `Dockerfile`, then `dockerfile`.
    pub dockerfile: Option<PathBuf>,
    /// What the plan depends on.
    pub plan: graph::Options,
    /// The named contexts that are files, with their names; the first has the number 1.
    pub contexts: Vec<(String, ContextSource)>,
    /// Where the image goes; may be empty when it is not pushed.
    pub destinations: Vec<Reference>,
    /// Whether it is pushed.
    pub push: bool,
    /// The OCI image layout that receives it.
    pub oci_layout: Option<PathBuf>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// RUN secrets by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// SSH agents by id.
    pub agents: BTreeMap<String, AgentSource>,
    /// How caches are used; `None` is not at all.
    pub cache: Option<CacheOptions>,
    /// A directory that keeps layers of base images from one build to the next.
    pub cache_dir: Option<PathBuf>,
    /// What is special about registries, by host.
    pub registries: BTreeMap<String, HostOptions>,
    /// `--timestamp` or `SOURCE_DATE_EPOCH`: seconds since 1970.
    pub timestamp: Option<i64>,
    /// The name of the machine that RUN sees, where another one than usual was asked for.
    pub hostname: Option<String>,
    /// `--isolation=userns`: refuse to start where no user namespace can be made.
    pub require_userns: bool,
    /// End the build after this time.
    pub timeout: Option<Duration>,
    /// The work directory; `None` makes a temporary one.
    pub work_dir: Option<PathBuf>,
    /// Leave everything in the work directory.
    pub keep_work_dir: bool,
    /// What the work directory may take of its disk, in bytes; the build ends when it takes more.
    pub work_limit_bytes: Option<u64>,
    /// What `karve context` wrote.
    pub source_info: Option<PathBuf>,
    /// An image that an earlier attempt may have pushed.
    pub adopt: Option<Reference>,
    /// What the reader should know about flags that do nothing.
    pub notes: Vec<String>,
    /// Files that receive results.
    pub files: ResultFiles,
}

/// The files that receive the result of a build.
#[derive(Clone, Debug, Default)]
pub struct ResultFiles {
    /// The digest.
    pub digest: Option<PathBuf>,
    /// `REPOSITORY@DIGEST` lines.
    pub name_with_digest: Option<PathBuf>,
    /// `REPOSITORY:TAG@DIGEST` lines.
    pub name_tag_with_digest: Option<PathBuf>,
    /// The report as JSON, at most 4096 bytes.
    pub report: Option<PathBuf>,
    /// The token that the report repeats.
    pub nonce: Option<String>,
}

impl Options {
    /// Checks the flags. `machine_platform` is the platform of this machine, `os/architecture`.
    pub fn from_flags(
        flags: BuildFlags,
        environment: &Environment,
        machine_platform: &str,
    ) -> Result<Self, OptionsError> {
        if let Some(flag) = flags.foreign.iter().find(|flag| flag.pointless.is_none()) {
            return Err(OptionsError::Unsupported(flag.name));
        }
        let notes =
            flags.foreign.iter().filter_map(|flag| Some(format!("--{} does nothing: {}", flag.name, flag.pointless?)));
        let mut notes: Vec<String> = notes.collect();
        let platform = platform(flags.platform.as_deref(), machine_platform)?;
        let (named, contexts) = contexts::read(&flags.build_context)?;
        let push = !flags.no_push.0;
        let destinations = destinations(&flags)?;
        if push && destinations.is_empty() {
            let text = "no --destination: name the image to push, or give --no-push with --oci-layout-path";
            return Err(OptionsError::Combination(text.into()));
        }
        let build_args = build_args(&flags.build_arg, environment);
        let special = special::read(&build_args, flags.source_info.is_some())?;
        notes.extend(special.notes);
        let epoch = build_args.get("SOURCE_DATE_EPOCH").or_else(|| environment.variables.get("SOURCE_DATE_EPOCH"));
        let timestamp = match (&flags.timestamp, epoch) {
            (Some(text), _) => Some(timestamp("timestamp", text)?),
            (None, Some(text)) if !text.is_empty() => Some(timestamp("build-arg SOURCE_DATE_EPOCH", text)?),
            _ => None,
        };
        Ok(Self {
            context: context(&flags)?,
            context_sub_path: flags.context_sub_path.clone(),
            dockerfile: flags.dockerfile.clone(),
            plan: graph::Options {
                target: flags.target.clone(),
                build_args,
                contexts: named,
                labels: pairs("label", &flags.label)?,
                platform,
                platform_asked: flags.platform.is_some(),
                build_platform: machine_platform.to_owned(),
                ..graph::Options::default()
            },
            contexts,
            cache: cache::read(&flags, &destinations)?,
            cache_dir: flags.cache_dir.clone(),
            registries: registries(&flags, &destinations)?,
            destinations,
            push,
            oci_layout: flags.oci_layout_path.clone(),
            annotations: pairs("annotation", &flags.annotation)?,
            secrets: secrets(&flags.secret, environment)?,
            agents: agents(&flags.ssh, environment)?,
            timestamp,
            hostname: special.hostname,
            require_userns: isolation(&flags.isolation)?,
            timeout: flags.timeout.as_deref().map(timeout).transpose()?,
            work_dir: flags.work_dir,
            keep_work_dir: flags.keep_work_dir,
            work_limit_bytes: flags.work_limit_bytes,
            source_info: flags.source_info,
            adopt: flags.adopt.as_deref().map(|image| reference("adopt", image)).transpose()?,
            notes,
            files: ResultFiles {
                digest: flags.digest_file,
                name_with_digest: flags.image_name_with_digest_file,
                name_tag_with_digest: flags.image_name_tag_with_digest_file,
                report: flags.report,
                nonce: flags.nonce,
            },
        })
    }
}

fn invalid(flag: &'static str, value: &str, problem: impl Into<String>) -> OptionsError {
    OptionsError::Value { flag, value: value.to_owned(), problem: problem.into() }
}

fn reference(flag: &'static str, image: &str) -> Result<Reference, OptionsError> {
    image.parse().map_err(|error| invalid(flag, image, format!("is not an image reference: {error}")))
}

/// Reads `--build-arg`; a bare name takes its value from the environment, and is none without.
fn build_args(arguments: &[String], environment: &Environment) -> BTreeMap<String, String> {
    let value = |argument: &String| match argument.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((argument.clone(), environment.variables.get(argument)?.clone())),
    };
    arguments.iter().filter_map(value).collect()
}

fn destinations(flags: &BuildFlags) -> Result<Vec<Reference>, OptionsError> {
    flags.destination.iter().map(|image| reference("destination", image)).collect()
}

fn context(flags: &BuildFlags) -> Result<PathBuf, OptionsError> {
    let Some(context) = flags.context.as_deref().or(flags.context_argument.as_deref()) else {
        return Ok(PathBuf::from("."));
    };
    match context.split_once("://") {
        None => Ok(PathBuf::from(context)),
        Some(("dir", path)) => Ok(PathBuf::from(path)),
        Some(_) => {
            Err(invalid("context", context, "is not a directory: this version builds from dir:// contexts only"))
        }
    }
}

/// Reads the platform of the image; it need not be the machine's.
fn platform(text: Option<&str>, machine_platform: &str) -> Result<String, OptionsError> {
    match text {
        None | Some("local") => Ok(machine_platform.to_owned()),
        Some(text) if text.contains(',') => {
            Err(invalid("platform", text, "names several platforms: build one image for each, one after the other"))
        }
        Some(text) => {
            let machine: Platform = machine_platform.parse().unwrap_or_else(|_| Platform::host());
            let problem = "is not a platform such as linux/arm64 or linux/arm/v7";
            let platform = platform::parse(text, &machine).ok_or_else(|| invalid("platform", text, problem))?;
            Ok(platform.to_string())
        }
    }
}

fn pairs(flag: &'static str, values: &[String]) -> Result<BTreeMap<String, String>, OptionsError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(invalid(flag, text, "is not of the form NAME=VALUE")),
    };
    values.iter().map(pair).collect()
}

fn secrets(specs: &[String], environment: &Environment) -> Result<BTreeMap<String, SecretSource>, OptionsError> {
    let mut secrets = BTreeMap::new();
    for spec in specs {
        let (mut id, mut source) = (None, None);
        for field in spec.split(',') {
            match field.split_once('=') {
                Some(("id", value)) if !value.is_empty() => id = Some(value.to_owned()),
                Some(("src" | "source", path)) => source = Some(SecretSource::File(path.into())),
                Some(("env", name)) => {
                    let value = environment.variables.get(name);
                    let value = value.ok_or_else(|| {
                        invalid("secret", spec, format!("names the variable {name}, which is not set"))
                    })?;
                    source = Some(SecretSource::Value(Secret::new(value.clone().into_bytes())));
                }
                Some(("type", "file" | "env")) => {}
                _ => {
                    return Err(invalid("secret", spec, "is not of the form id=NAME,src=FILE or id=NAME,env=VARIABLE"));
                }
            }
        }
        let id = id.ok_or_else(|| invalid("secret", spec, "has no id"))?;
        let source = source.or_else(|| {
            environment.variables.get(&id).map(|value| SecretSource::Value(Secret::new(value.clone().into_bytes())))
        });
        let source =
            source.ok_or_else(|| invalid("secret", spec, "has neither src nor env, and no variable has its name"))?;
        secrets.insert(id, source);
    }
    Ok(secrets)
}

fn agents(specs: &[String], environment: &Environment) -> Result<BTreeMap<String, AgentSource>, OptionsError> {
    let mut agents = BTreeMap::new();
    for spec in specs {
        let wrong = |problem: String| invalid("ssh", spec, problem);
        let variable = |name: &str| {
            let value = environment.variables.get(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| wrong(format!("names the variable {name}, which is not set")))
        };
        let from_variable = spec.strip_prefix("id=").and_then(|rest| rest.split_once(",env="));
        let (id, source) = if let Some((id, name)) = from_variable {
            let value = Secret::new(variable(name)?.clone().into_bytes());
            (id, AgentSource::Key { variable: name.to_owned(), value })
        } else {
            match spec.split_once('=') {
                Some((id, paths)) if !paths.is_empty() => {
                    (id, AgentSource::Paths(paths.split(',').map(PathBuf::from).collect()))
                }
                Some((id, _)) => (id, AgentSource::Paths(vec![variable(AGENT_VARIABLE)?.into()])),
                None => (spec.as_str(), AgentSource::Paths(vec![variable(AGENT_VARIABLE)?.into()])),
            }
        };
        if id.is_empty() {
            return Err(wrong("has no id".into()));
        }
        if agents.insert(id.to_owned(), source).is_some() {
            return Err(wrong(format!("has the id of another: {id}")));
        }
    }
    Ok(agents)
}

fn registries(flags: &BuildFlags, destinations: &[Reference]) -> Result<BTreeMap<String, HostOptions>, OptionsError> {
    let mut hosts: BTreeMap<String, HostOptions> = BTreeMap::new();
    let pushed = |switch: Switch| {
        destinations.iter().filter(move |_| switch.0).map(|image| image.repository().registry().to_owned())
    };
    for host in flags.insecure_registry.iter().cloned().chain(pushed(flags.insecure)) {
        hosts.entry(host).or_default().plain_http = true;
    }
    for host in flags.skip_tls_verify_registry.iter().cloned().chain(pushed(flags.skip_tls_verify)) {
        hosts.entry(host).or_default().skip_tls_verify = true;
    }
    for text in &flags.registry_certificate {
        match text.split_once('=') {
            Some((host, path)) if !host.is_empty() && !path.is_empty() => {
                hosts.entry(host.to_owned()).or_default().certificates.push(path.into());
            }
            _ => return Err(invalid("registry-certificate", text, "is not of the form HOST=FILE")),
        }
    }
    Ok(hosts)
}

fn timestamp(flag: &'static str, text: &str) -> Result<i64, OptionsError> {
    let seconds = text.parse().ok().or_else(|| text.parse().ok().map(|time: jiff::Timestamp| time.as_second()));
    seconds
        .filter(|seconds| *seconds >= 0)
        .ok_or_else(|| invalid(flag, text, "is neither seconds since 1970 nor RFC 3339"))
}

fn isolation(mode: &str) -> Result<bool, OptionsError> {
    match mode {
        "auto" => Ok(false),
        "userns" => Ok(true),
        other => Err(invalid("isolation", other, "is neither auto nor userns")),
    }
}

fn timeout(text: &str) -> Result<Duration, OptionsError> {
    duration::parse(text).ok_or_else(|| invalid("timeout", text, "is not a duration such as 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Command, parse};

    fn options(line: &str) -> Result<Options, OptionsError> {
        let arguments = std::iter::once("karve").chain(line.split_whitespace()).map(str::to_owned);
        let Command::Build(flags) = parse(arguments).unwrap().command else { panic!("not build") };
        let environment = Environment {
            variables: [("TOKEN", "from-env"), ("VERSION", "7"), ("SSH_AUTH_SOCK", "/agent")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ..Environment::default()
        };
        Options::from_flags(*flags, &environment, "linux/amd64")
    }

    #[track_caller]
    fn check_error(line: &str, expected: &str) {
        assert_eq!(options(line).unwrap_err().to_string(), expected);
    }

    #[test]
    fn values_come_from_flags_and_environment() {
        let options = options("-d r.example/a:1 --build-arg VERSION --build-arg X=1=2 --build-arg ABSENT --secret id=TOKEN --label a=b --timestamp 1970-01-01T00:00:09Z").unwrap();
        assert_eq!(
            options.plan.build_args,
            [("VERSION", "7"), ("X", "1=2")].map(|(name, value)| (name.into(), value.into())).into()
        );
        assert_eq!(options.secrets["TOKEN"], SecretSource::Value(Secret::new(b"from-env".to_vec())));
        assert_eq!((options.timestamp, options.push), (Some(9), true));
    }

    #[test]
    fn f8_platforms_are_normalised() {
        let platform = |line: &str| options(&format!("-d r.example/a {line}")).unwrap().plan.platform;
        assert_eq!(platform(""), "linux/amd64");
        assert_eq!(platform("--platform local"), "linux/amd64");
        assert_eq!(platform("--platform linux/aarch64/v8"), "linux/arm64");
        assert_eq!(platform("--custom-platform linux/arm"), "linux/arm/v7");
        assert_eq!(platform("--platform arm64"), "linux/arm64");
    }

    #[test]
    fn r7_an_agent_is_a_socket_key_files_or_a_variable() {
        let line = "-d r.example/a --ssh default --ssh a=/k1,/k2 --ssh id=/k3 --ssh id=b,env=TOKEN";
        let paths = |paths: &[&str]| AgentSource::Paths(paths.iter().map(PathBuf::from).collect());
        let key = AgentSource::Key { variable: "TOKEN".into(), value: Secret::new(b"from-env".to_vec()) };
        let expected =
            [("default", paths(&["/agent"])), ("a", paths(&["/k1", "/k2"])), ("id", paths(&["/k3"])), ("b", key)];
        assert_eq!(options(line).unwrap().agents, expected.map(|(id, source)| (id.to_owned(), source)).into());
        check_error("-d r.example/a --ssh =/x", "--ssh: `=/x` has no id");
        check_error("-d r.example/a --ssh a=/x --ssh a=/y", "--ssh: `a=/y` has the id of another: a");
        let absent = "--ssh: `id=a,env=ABSENT` names the variable ABSENT, which is not set";
        check_error("-d r.example/a --ssh id=a,env=ABSENT", absent);
    }

    #[test]
    fn mistakes_are_named() {
        check_error(
            "--no-push=false",
            "no --destination: name the image to push, or give --no-push with --oci-layout-path",
        );
        check_error("-d r.example/a --tar-path=x", "--tar-path is not supported by this version");
        check_error(
            "-d r.example/a -c s3://bucket/x",
            "--context: `s3://bucket/x` is not a directory: this version builds from dir:// contexts only",
        );
        check_error(
            "-d r.example/a --platform linux/amd64,linux/arm64",
            "--platform: `linux/amd64,linux/arm64` names several platforms: build one image for each, one after the other",
        );
        check_error(
            "-d r.example/a --platform amd",
            "--platform: `amd` is not a platform such as linux/arm64 or linux/arm/v7",
        );
        check_error("-d r.example/a --secret src=/x", "--secret: `src=/x` has no id");
        check_error("-d r.example/a --timeout soon", "--timeout: `soon` is not a duration such as 1h30m");
        check_error("-d r.example/a --isolation none", "--isolation: `none` is neither auto nor userns");
    }
}
