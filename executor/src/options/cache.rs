//! What the cache flags mean: kaniko's names with kaniko's meaning, except that the cache is on where somebody names one.

use std::{path::PathBuf, time::Duration};

use karve_dockerfile::duration;

use super::{OptionsError, invalid};
use crate::{
    cache::store::Place,
    flags::{BuildFlags, Switch},
    image::reference::{Reference, Repository},
};

/// How long an entry is used without `--cache-ttl`: two weeks, as in kaniko.
const TTL: Duration = Duration::from_hours(14 * 24);

/// What a cache mount may take in the cache without `--cache-mount-max-size`: 1 GiB.
const MOUNT_BYTES_MAX: u64 = 1 << 30;

/// The repository below the first destination's that holds the cache without `--cache-repo`.
const DEFAULT_REPOSITORY: &str = "cache";

/// How a build uses caches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the command line")]
pub struct CacheOptions {
    /// Where artifacts are looked for, in this order; the first is written to if `writes`.
    pub places: Vec<Place>,
    /// Whether what was made is kept.
    pub writes: bool,
    /// Whether steps are looked up.
    pub reads_steps: bool,
    /// How old an entry may be.
    pub ttl: Duration,
    /// Whether RUN is cached.
    pub run_layers: bool,
    /// Whether COPY, ADD and WORKDIR are cached.
    pub copy_layers: bool,
    /// Whether what steps leave in cache mounts is kept.
    pub mounts: bool,
    /// How many bytes of files are kept of one cache mount.
    pub mount_bytes_max: u64,
}

/// Reads the flags; `None` is a build without a cache.
pub(super) fn read(flags: &BuildFlags, destinations: &[Reference]) -> Result<Option<CacheOptions>, OptionsError> {
    let is_named = flags.cache_repo.is_some() || !flags.cache_from.is_empty();
    if !flags.cache.map_or(is_named, |Switch(on)| on) {
        return Ok(None);
    }
    let own = match (&flags.cache_repo, destinations.first()) {
        (Some(text), _) => Some(place("cache-repo", text)?),
        (None, _) if flags.cache.is_none() => None,
        (None, Some(destination)) => {
            let repository = destination.repository().child(DEFAULT_REPOSITORY);
            let wrong = |error| invalid("cache", "true", format!("has no repository: {error}"));
            Some(Place::Repository(repository.map_err(wrong)?))
        }
        (None, None) => {
            let text = "--cache needs --cache-repo where there is no --destination beside which the cache could be";
            return Err(OptionsError::Combination(text.into()));
        }
    };
    let others = flags.cache_from.iter().map(|text| place("cache-from", text)).collect::<Result<Vec<_>, _>>()?;
    let ttl = flags
        .cache_ttl
        .as_deref()
        .map(|text| duration::parse(text).ok_or_else(|| invalid("cache-ttl", text, "is not a duration such as 336h")));
    let bytes = flags.cache_mount_max_size.as_deref().map(|text| {
        bytes(text).ok_or_else(|| invalid("cache-mount-max-size", text, "is not a number of bytes such as 500Mi"))
    });
    let on = |switch: Option<Switch>| switch.is_none_or(|Switch(on)| on);
    Ok(Some(CacheOptions {
        writes: own.is_some() && !flags.no_push_cache.0,
        places: own.into_iter().chain(others).collect(),
        reads_steps: !flags.no_cache.0,
        ttl: ttl.transpose()?.unwrap_or(TTL),
        run_layers: on(flags.cache_run_layers),
        copy_layers: on(flags.cache_copy_layers),
        mounts: on(flags.cache_mounts),
        mount_bytes_max: bytes.transpose()?.unwrap_or(MOUNT_BYTES_MAX),
    }))
}

/// Reads a repository, or a directory as `oci:PATH`; docker's `type=registry,ref=…` and `type=local,src=…` are understood.
fn place(flag: &'static str, text: &str) -> Result<Place, OptionsError> {
    let repository = |name: &str| {
        let parsed: Result<Repository, _> = name.parse();
        parsed.map(Place::Repository).map_err(|error| invalid(flag, text, format!("is not a repository: {error}")))
    };
    let directory = |path: &str| match path {
        "" => Err(invalid(flag, text, "names no directory")),
        path => Ok(Place::Directory(PathBuf::from(path))),
    };
    if let Some(path) = text.strip_prefix("oci:") {
        return directory(path);
    }
    let fields: Vec<(&str, &str)> = text.split(',').filter_map(|field| field.split_once('=')).collect();
    let field = |names: &[&str]| fields.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| *value);
    match field(&["type"]) {
        None => repository(text),
        Some("registry") => repository(field(&["ref"]).unwrap_or_default()),
        Some("local") => directory(field(&["src", "dest"]).unwrap_or_default()),
        Some(other) => Err(invalid(flag, text, format!("is of the type `{other}`, which is not supported"))),
    }
}

/// Reads a number of bytes with Kubernetes' or docker's units.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "ki" => 1 << 10,
        "m" | "mb" | "mi" => 1 << 20,
        "g" | "gb" | "gi" => 1 << 30,
        "t" | "tb" | "ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(flags: &BuildFlags) -> Result<Option<CacheOptions>, String> {
        read(flags, &["r.example/shop/web:1".parse().unwrap()]).map_err(|error| error.to_string())
    }

    fn places(flags: &BuildFlags) -> Vec<String> {
        cache(flags).unwrap().map_or(Vec::new(), |cache| cache.places.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_cache_is_used_where_somebody_names_one() {
        assert_eq!(cache(&BuildFlags::default()), Ok(None));
        let on = BuildFlags { cache: Some(Switch(true)), ..BuildFlags::default() };
        assert_eq!(places(&on), ["r.example/shop/web/cache"]);
        let named = BuildFlags { cache_repo: Some("oci:/cache".into()), ..BuildFlags::default() };
        assert_eq!(places(&named), ["oci:/cache"]);
        assert_eq!(places(&BuildFlags { cache: Some(Switch(false)), ..named }), Vec::<String>::new());
        let from = ["type=registry,ref=r.example/a", "type=local,src=/b", "r.example/c"].map(str::to_owned).to_vec();
        let read_only = BuildFlags { cache_from: from.clone(), ..BuildFlags::default() };
        assert_eq!(places(&read_only), ["r.example/a", "oci:/b", "r.example/c"]);
        assert!(!cache(&read_only).unwrap().unwrap().writes);
        let both = BuildFlags { cache_from: from, ..on };
        assert_eq!(places(&both)[..2], ["r.example/shop/web/cache", "r.example/a"]);
    }

    #[test]
    fn mistakes_are_named() {
        let with = |change: &dyn Fn(&mut BuildFlags)| {
            let mut flags = BuildFlags { cache: Some(Switch(true)), ..BuildFlags::default() };
            change(&mut flags);
            cache(&flags).unwrap_err()
        };
        assert!(with(&|flags| flags.cache_repo = Some("r.example/a:tag".into())).contains("has no tag"));
        assert!(with(&|flags| flags.cache_from = vec!["type=gha".into()]).contains("`gha`, which is not supported"));
        assert!(with(&|flags| flags.cache_ttl = Some("soon".into())).contains("not a duration"));
        assert!(with(&|flags| flags.cache_mount_max_size = Some("much".into())).contains("500Mi"));
        let alone = BuildFlags { cache: Some(Switch(true)), ..BuildFlags::default() };
        assert!(read(&alone, &[]).unwrap_err().to_string().starts_with("--cache needs --cache-repo"));
    }

    #[test]
    fn sizes_have_units() {
        let all = [("17", 17), ("2Ki", 2048), ("1Gi", 1 << 30), ("3m", 3 << 20)];
        for (text, expected) in all {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "Gi", "1x", "99999999999T", "-1"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
