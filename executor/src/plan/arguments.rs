//! The scopes of ARG: the ARGs before the first FROM, `--build-arg`s and platforms come in; what FROM lines and the ARGs of a
//! stage see comes out.

use std::collections::BTreeMap;

use karve_dockerfile::{
    ast::{Argument, Dockerfile, Word},
    diagnostic::{Problem, Span},
    expand::{Budget, Expander},
};

use super::graph::Options;
use crate::image::platform::Platform;

/// Build arguments that every RUN sees without an ARG.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// ARGs that steer tools and are not part of any environment.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Names with values.
pub(super) type Variables = BTreeMap<String, String>;

/// What expansion needs besides a word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expansion<'a> {
    pub variables: &'a Variables,
    pub escape: char,
    pub budget: &'a Budget,
}

impl Expansion<'_> {
    /// Expands a word and puts its place to the error.
    pub(super) fn word(self, word: &Word) -> Result<String, Problem> {
        self.with(word.span, |expander| expander.word(&word.text))
    }

    /// Expands a word into words and puts its place to the error.
    pub(super) fn words(self, word: &Word) -> Result<Vec<String>, Problem> {
        self.with(word.span, |expander| expander.words(&word.text))
    }

    /// Expands the body of a heredoc and puts the place of its word to the error.
    pub(super) fn body(self, body: &str, span: Span) -> Result<String, Problem> {
        self.with(span, |expander| expander.body(body))
    }

    fn with<T>(self, span: Span, expand: impl FnOnce(&Expander<'_, '_>) -> Result<T, String>) -> Result<T, Problem> {
        let lookup = |name: &str| self.variables.get(name).map(String::as_str);
        let expander = Expander { escape: self.escape, lookup: &lookup, budget: self.budget };
        expand(&expander).map_err(|message| Problem::new(span, message))
    }
}

/// Computes what FROM lines see: the platforms, then the global ARGs in their order, each seeing those before it.
pub(super) fn globals(
    dockerfile: &Dockerfile,
    options: &Options,
    target: &Platform,
    machine: &Platform,
    budget: &Budget,
) -> Result<Variables, Vec<Problem>> {
    let mut variables = platform_arguments(dockerfile, options, target, machine);
    let mut problems = Vec::new();
    for argument in &dockerfile.arguments {
        let expansion = Expansion { variables: &variables, escape: dockerfile.escape, budget };
        match declare(argument, options, expansion) {
            Ok((name, Some(value))) => {
                variables.insert(name, value);
            }
            Ok((_, None)) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(variables) } else { Err(problems) }
}

/// Finds the name and the value of an ARG: `--build-arg`, else its default.
pub(super) fn declare(
    argument: &Argument,
    options: &Options,
    expansion: Expansion<'_>,
) -> Result<(String, Option<String>), Problem> {
    // A name is taken as it is written: BuildKit does not expand it.
    let name = argument.name.text.clone();
    if let Some(value) = options.build_args.get(&name) {
        return Ok((name, Some(value.clone())));
    }
    let value = argument.default.as_ref().map(|default| expansion.word(default)).transpose()?;
    Ok((name, value))
}

/// Whether an ARG is a variable of the steps that follow it.
pub(super) fn in_environment(name: &str) -> bool {
    !NOT_IN_ENVIRONMENT.contains(&name)
}

/// Returns the predefined proxies that a process gets beside its environment, in both spellings, where it has none of its own.
pub(super) fn proxies(environment: &Variables, options: &Options) -> Variables {
    let mut proxies = Variables::new();
    for (name, value) in &options.build_args {
        let lower = name.to_ascii_lowercase();
        if PROXIES.contains(&lower.as_str()) {
            proxies.entry(lower.to_ascii_uppercase()).or_insert_with(|| value.clone());
            proxies.entry(lower).or_insert_with(|| value.clone());
        }
    }
    proxies.retain(|name, _| !environment.contains_key(name));
    proxies
}

/// The arguments that every Dockerfile has; `--build-arg` overrides them.
fn platform_arguments(dockerfile: &Dockerfile, options: &Options, target: &Platform, machine: &Platform) -> Variables {
    let last = dockerfile.stages.last().and_then(|stage| stage.name.clone());
    let stage = options.target.clone().or(last).unwrap_or_else(|| "default".into());
    let mut variables = Variables::new();
    for (prefix, platform) in [("BUILD", machine), ("TARGET", target)] {
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
        ] {
            variables.insert(format!("{prefix}{suffix}"), value);
        }
    }
    variables.insert("TARGETSTAGE".into(), stage);
    for (name, value) in &mut variables {
        if let Some(given) = options.build_args.get(name) {
            value.clone_from(given);
        }
    }
    variables
}
