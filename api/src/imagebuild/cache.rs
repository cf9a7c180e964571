//! `spec.cache` and `status.lastBuild.cache`: what is kept between builds, where and how long, and what it spared. The
//! cache decides how soon an image is there and not what it is made of, so nothing of it is an input of the build key.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spec::ImageBuildSpec;
use crate::{CacheReport, MissReport, canonical_repository};

/// The longest sentence about a miss, in characters.
const MISSED_LENGTH_MAX: usize = 512;

/// Says what is kept between builds, where and how long.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// True: every step runs, nothing is taken from a cache and nothing is kept. False: the cache is used even where the
    /// operator was installed without. Absent: as the operator was installed, which is with the cache unless its
    /// administrator says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,

    /// The repository that results of steps are read from and written to, such as `registry.example/shop/web/cache`.
    /// Absent: `cache` below the repository of `output.image`. Builds that name the same repository share results;
    /// whoever may write to it decides what the images hold. It needs credentials as `output.image` does; without them
    /// the build goes on uncached. Docker Hub has no repositories below others: name one there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(
        "self.matches('^(([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|[[][0-9a-fA-F:]+[]])(:[0-9]{1,5})?/)?[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*$') && !self.startsWith('oci:')")
        .message("must be a repository such as registry.example/shop/web/cache, without a tag and without a digest"))]
    pub repository: Option<String>,

    /// How old a result may be that is taken from the cache, as a Go duration; an older step runs again, and sees what
    /// has changed where it downloads from. Absent: as the operator was installed, which is `336h`, two weeks, unless its
    /// administrator says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('87600h')")
        .message("must be a duration from 1m to 87600h, such as 336h"))]
    pub ttl: Option<String>,

    /// Whether what RUN steps leave in `--mount=type=cache` directories is kept for the next build. Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<bool>,
}

impl ImageBuildSpec {
    /// Returns the repository of the cache: the given one, or `cache` below the output's.
    ///
    /// Docker Hub is spelled out: `web/cache` would be a repository of Docker Hub's user `web`, not one below
    /// `library/web`.
    pub fn cache_repository(&self) -> String {
        let given = self.cache.as_ref().and_then(|cache| cache.repository.clone());
        given.unwrap_or_else(|| format!("{}/cache", canonical_repository(&self.output.image)))
    }
}

/// Says how much of a build was taken from the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheStatus {
    /// Steps that were taken from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<i64>,

    /// Steps that were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<i64>,

    /// The first step that was not taken from the cache, and what differs from the last build. The log of the Pod says it
    /// of every step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub missed: Option<String>,
}

impl CacheStatus {
    /// Returns what the status says of a report; counts below zero are 0, and a long sentence is cut off.
    pub fn of(report: &CacheReport) -> Self {
        Self {
            hits: Some(report.hits.max(0)),
            misses: Some(report.misses.max(0)),
            missed: report.missed.first().map(sentence),
        }
    }

    /// Returns the counts in words, such as `5 of 7 steps cached`; nothing if there were no steps.
    pub fn summary(&self) -> Option<String> {
        let hits = self.hits.unwrap_or(0);
        let steps = hits.saturating_add(self.misses.unwrap_or(0));
        (steps > 0).then(|| format!("{hits} of {steps} steps cached"))
    }
}

/// Returns a miss in one line, such as ``builder line 7 `COPY . .`: file src/main.c changed``.
fn sentence(miss: &MissReport) -> String {
    let mut place = miss.stage.clone();
    if !place.is_empty() && place.chars().all(|character| character.is_ascii_digit()) {
        place.insert_str(0, "stage ");
    }
    let mut words = vec![place];
    words.extend((miss.line > 0).then(|| format!("line {}", miss.line)));
    words.extend((!miss.instruction.is_empty()).then(|| format!("`{}`", miss.instruction)));
    words.retain(|word| !word.is_empty());
    let told = [words.join(" "), miss.reason.clone()];
    let told: Vec<&str> = told.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    // An instruction may span lines, and a file's name may hold anything.
    let line = told.join(": ").replace(char::is_control, " ");
    line.chars().take(MISSED_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_repository(image: &str, repository: Option<&str>, expected: &str) {
        let mut spec = ImageBuildSpec::default();
        spec.output.image = image.to_owned();
        spec.cache = repository.map(|name| Cache { repository: Some(name.to_owned()), ..Cache::default() });
        assert_eq!(spec.cache_repository(), expected);
    }

    #[test]
    fn the_cache_is_below_the_output_unless_it_is_named() {
        check_repository("registry.example/shop/web:v1", None, "registry.example/shop/web/cache");
        check_repository("registry.local:5000/web", None, "registry.local:5000/web/cache");
        check_repository("registry.example/web:v1", Some("other.example/c"), "other.example/c");
    }

    #[test]
    fn the_cache_of_a_short_name_is_not_in_another_users_account() {
        check_repository("web:v1", None, "docker.io/library/web/cache");
        check_repository("shop/web", None, "docker.io/shop/web/cache");
    }

    #[track_caller]
    fn check_missed(miss: &MissReport, expected: &str) {
        let report = CacheReport { hits: 1, misses: 1, missed: vec![miss.clone(), MissReport::default()] };
        assert_eq!(CacheStatus::of(&report).missed.as_deref(), Some(expected));
    }

    #[test]
    fn the_first_miss_is_one_line() {
        let miss = |stage: &str, line, instruction: &str, reason: &str| MissReport {
            stage: stage.into(),
            line,
            instruction: instruction.into(),
            reason: reason.into(),
        };
        check_missed(
            &miss("builder", 7, "COPY . .", "file src/main.c changed"),
            "builder line 7 `COPY . .`: file src/main.c changed",
        );
        check_missed(&miss("0", 2, "RUN make", "the parent changed"), "stage 0 line 2 `RUN make`: the parent changed");
        check_missed(&miss("a", 2, "RUN <<E\nb\nE", "not in the cache"), "a line 2 `RUN <<E b E`: not in the cache");
        check_missed(&miss("", 0, "", "not in the cache"), "not in the cache");
        check_missed(&miss("a", -1, "", ""), "a");
        let long = miss("a", 1, "RUN x", &"é".repeat(5000));
        let report = CacheReport { hits: 0, misses: 1, missed: vec![long] };
        assert_eq!(CacheStatus::of(&report).missed.map(|missed| missed.chars().count()), Some(MISSED_LENGTH_MAX));
    }

    #[track_caller]
    fn check_summary(hits: i64, misses: i64, expected: Option<&str>) {
        let report = CacheReport { hits, misses, missed: Vec::new() };
        assert_eq!(CacheStatus::of(&report).summary().as_deref(), expected);
    }

    #[test]
    fn the_summary_counts_the_hits_among_all_steps() {
        check_summary(5, 2, Some("5 of 7 steps cached"));
        check_summary(0, 1, Some("0 of 1 steps cached"));
        check_summary(0, 0, None);
        check_summary(-3, -4, None);
        check_summary(i64::MAX, i64::MAX, Some("9223372036854775807 of 9223372036854775807 steps cached"));
        assert_eq!(CacheStatus::default().summary(), None);
    }
}
