//! What a spec asks for, resolved: build arguments and file hashes read from ConfigMaps, durations parsed, the request
//! token chosen, and the key of it all. In: the object and the ConfigMaps that it names; out: [`Inputs`], or why not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use karve_api::{
    ANNOTATION_FLUX_REQUESTED_AT, ANNOTATION_REQUESTED_AT, BuildArg, ImageBuild, ImageBuildSpec, Reason, files_hash,
    repository_of,
};
use kube::ResourceExt;

use super::key::{KeyInputs, build_key};

/// How long a build may run if the spec does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_hours(1);
/// How old a result that is taken from the cache may be allowed to be, at least and at most.
pub const CACHE_TTL_BOUNDS: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(87_600);
/// The longest token that is kept in the status.
const TOKEN_LENGTH_MAX: usize = 512;

/// The ConfigMaps that a spec names, by name; `None` is one that does not exist.
pub type ConfigMaps = BTreeMap<String, Option<ConfigMap>>;

/// What is to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The build key.
    pub key: String,
    /// The hash of the files of an inline or configMap context.
    pub files_hash: Option<String>,
    /// The build arguments by name.
    pub build_args: BTreeMap<String, String>,
    /// How long the executor may run.
    pub timeout: Duration,
    /// How old a result may be that is taken from the cache; `None`: as the operator was started.
    pub cache_ttl: Option<Duration>,
    /// How often a failure of the build's own is tried again.
    pub retries: i64,
    /// The request token that the key holds.
    pub token: Option<String>,
}

/// Why a spec cannot be built: the reason and the message that name what to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// `InvalidSpec` or `ConfigMapNotFound`.
    pub reason: Reason,
    /// The sentence that names the field or the object.
    pub message: String,
}

/// Returns the names of the ConfigMaps that a spec's inputs are read from.
pub fn config_map_names(spec: &ImageBuildSpec) -> BTreeSet<String> {
    let context = spec.context.config_map.iter().map(|config_map| config_map.name.clone());
    let sources = spec.build_args.iter().filter_map(|arg| arg.value_from.as_ref());
    context.chain(sources.map(|source| source.config_map_key_ref.name.clone())).collect()
}

/// Resolves what a spec asks for.
pub fn resolve(object: &ImageBuild, config_maps: &ConfigMaps) -> Result<Inputs, Unusable> {
    let spec = &object.spec;
    check(spec)?;
    let timeout = match &spec.timeout {
        None => DEFAULT_TIMEOUT,
        Some(text) => parse_duration(text)
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| invalid(format!("spec.timeout {text:?} is not a positive duration such as 1h30m")))?,
    };
    let cache_ttl = cache_ttl(spec)?;
    let files_hash = context_hash(spec, config_maps)?;
    let build_args = spec
        .build_args
        .iter()
        .map(|arg| Ok((arg.name.clone(), build_arg(arg, config_maps)?)))
        .collect::<Result<BTreeMap<String, String>, Unusable>>()?;
    let token = token(object);
    let inputs = KeyInputs { files_hash: files_hash.as_deref(), build_args: &build_args, token: token.as_deref() };
    let key = build_key(spec, &inputs);
    let retries = i64::from(spec.retries.unwrap_or(0));
    Ok(Inputs { key, files_hash, build_args, timeout, cache_ttl, retries, token })
}

/// Refuses what the schema refuses too: an object may be older than the rule, or the rule may be missing.
fn check(spec: &ImageBuildSpec) -> Result<(), Unusable> {
    let context = &spec.context;
    let sources = [
        context.git.is_some(),
        context.inline.is_some(),
        context.config_map.is_some(),
        context.persistent_volume_claim.is_some(),
    ];
    if sources.iter().filter(|set| **set).count() != 1 {
        let message = "spec.context must have exactly one of git, inline, configMap and persistentVolumeClaim";
        return Err(invalid(message.to_owned()));
    }
    let dockerfile = spec.dockerfile.as_ref();
    if dockerfile.is_some_and(|dockerfile| dockerfile.path.is_some() == dockerfile.inline.is_some()) {
        return Err(invalid("spec.dockerfile must have exactly one of path and inline".to_owned()));
    }
    let output = &spec.output;
    let part = |character: char| character.is_ascii_alphanumeric() || "._-:/[]".contains(character);
    if output.image.is_empty() || !output.image.chars().all(part) {
        let message = format!("spec.output.image {:?} is not an image such as registry.example/web:v1", output.image);
        return Err(invalid(message));
    }
    let repository = spec.cache.as_ref().and_then(|cache| cache.repository.as_deref());
    // To the executor, `oci:` begins the path of a directory.
    let is_one = |text: &str| !text.is_empty() && !text.starts_with("oci:") && repository_of(text) == text;
    if let Some(repository) = repository.filter(|text| !is_one(text) || !text.chars().all(part)) {
        let message = "is not a repository such as registry.example/web/cache, without a tag and without a digest";
        return Err(invalid(format!("spec.cache.repository {repository:?} {message}")));
    }
    Ok(())
}

fn cache_ttl(spec: &ImageBuildSpec) -> Result<Option<Duration>, Unusable> {
    let Some(text) = spec.cache.as_ref().and_then(|cache| cache.ttl.as_deref()) else { return Ok(None) };
    let ttl = parse_duration(text).filter(|ttl| CACHE_TTL_BOUNDS.contains(ttl));
    ttl.map(Some).ok_or_else(|| invalid(format!("spec.cache.ttl {text:?} is not a duration from 1m to 87600h")))
}

fn context_hash(spec: &ImageBuildSpec, config_maps: &ConfigMaps) -> Result<Option<String>, Unusable> {
    if let Some(inline) = &spec.context.inline {
        return Ok(Some(files_hash(&inline.files)));
    }
    let Some(reference) = &spec.context.config_map else { return Ok(None) };
    let config_map = lookup(config_maps, &reference.name, "spec.context.configMap")?;
    let text = config_map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = config_map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    Ok(Some(files_hash(text.chain(binary))))
}

fn build_arg(arg: &BuildArg, config_maps: &ConfigMaps) -> Result<String, Unusable> {
    match (&arg.value, &arg.value_from) {
        (Some(value), None) => Ok(value.clone()),
        (None, Some(source)) => {
            let reference = &source.config_map_key_ref;
            let field = format!("build argument {}", arg.name);
            let config_map = lookup(config_maps, &reference.name, &field)?;
            let value = config_map.data.as_ref().and_then(|data| data.get(&reference.key));
            value.cloned().ok_or_else(|| Unusable {
                reason: Reason::ConfigMapNotFound,
                message: format!("ConfigMap {:?} has no key {:?} ({field})", reference.name, reference.key),
            })
        }
        _ => Err(invalid(format!("build argument {} must have exactly one of value and valueFrom", arg.name))),
    }
}

fn lookup<'a>(config_maps: &'a ConfigMaps, name: &str, field: &str) -> Result<&'a ConfigMap, Unusable> {
    config_maps.get(name).and_then(Option::as_ref).ok_or_else(|| Unusable {
        reason: Reason::ConfigMapNotFound,
        message: format!("ConfigMap {name:?} does not exist ({field}); the build starts when it is created"),
    })
}

/// Returns the request token: the annotations' values, else the one that was handled last, so that removing the annotation
/// rebuilds nothing. If both annotations are set, both count.
fn token(object: &ImageBuild) -> Option<String> {
    let annotations = object.annotations();
    let keys = [ANNOTATION_REQUESTED_AT, ANNOTATION_FLUX_REQUESTED_AT];
    let set: Vec<&str> = keys.iter().filter_map(|key| annotations.get(*key)).map(String::as_str).collect();
    if set.is_empty() {
        return object.status.as_ref().and_then(|status| status.last_handled_reconcile_at.clone());
    }
    Some(set.join(" ").chars().take(TOKEN_LENGTH_MAX).collect())
}

fn invalid(message: String) -> Unusable {
    Unusable { reason: Reason::InvalidSpec, message }
}

/// Parses a Go duration such as `1h30m`, `1.5h` or `500ms`. Negative ones and ones beyond a century are refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const SECONDS_MAX: f64 = 100.0 * 366.0 * 86_400.0;
    let mut seconds = 0.0;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end =
            tail.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_seconds;
        rest = tail;
    }
    (seconds <= SECONDS_MAX).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse_duration;

    #[track_caller]
    fn check(text: &str, milliseconds: Option<u64>) {
        assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        check("1h30m", Some(5_400_000));
        check("1h0m0s", Some(3_600_000));
        check("1.5h", Some(5_400_000));
        check("500ms", Some(500));
        check("0", Some(0));
        check("", None);
        check("1", None);
        check("-1h", None);
        check("1d", None);
        check("h", None);
        check("1..5h", None);
        check("99999999999999h", None);
    }
}
