//! A build that has ended: its directory in; what it printed, reported and made, and what came from the cache, out.

use std::{fs, path::PathBuf, process::ExitStatus};

use karve_tests::inspect::Image;
use serde_json::Value;

use crate::scene::TAG;

/// A build that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What scripts read.
    pub(crate) stdout: String,
    /// What people read.
    pub(crate) stderr: String,
    /// What `--report` left.
    pub(crate) report: Value,
    /// In the order of their first lines.
    steps: Vec<Step>,
    place: PathBuf,
}

/// A step, as people see it.
#[derive(Debug)]
struct Step {
    /// Such as `main 1/3`.
    name: String,
    /// Its instruction, the first line of it.
    text: String,
    /// What stands between the brackets of `cached (by content)`.
    hit: Option<String>,
}

impl Ended {
    /// Reads what a build left in its directory.
    #[track_caller]
    pub(crate) fn read(status: ExitStatus, place: PathBuf) -> Self {
        let text = |name: &str| fs::read_to_string(place.join(name)).expect("output is text");
        let stderr = text("stderr");
        let report = fs::read(place.join("report")).unwrap_or_default();
        let left = fs::read_dir(place.join("work")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "the work directory is not empty:\n{stderr}");
        Self {
            status,
            stdout: text("stdout"),
            steps: steps(&stderr),
            report: serde_json::from_slice(&report).unwrap_or_default(),
            stderr,
            place,
        }
    }

    /// Checks that the build succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "karve ended with {}:\n{}", self.status, self.stderr);
        self
    }

    /// Returns the layout that the build wrote.
    pub(crate) fn layout(&self) -> PathBuf {
        self.place.join("layout")
    }

    /// Returns the image in the layout that the build wrote.
    #[track_caller]
    pub(crate) fn image(&self) -> Image {
        Image::of_layout(&self.layout(), TAG)
    }

    /// Returns the digest that the build printed for scripts.
    #[track_caller]
    pub(crate) fn digest(&self) -> String {
        let (_, digest) = self.stdout.trim_end().rsplit_once('@').expect("karve prints images by digest");
        digest.to_owned()
    }

    /// Returns the instructions of the steps that came from the cache, sorted: stages print side by side.
    pub(crate) fn hits(&self) -> Vec<String> {
        self.texts(|step| step.hit.is_some())
    }

    /// Returns the instructions of the steps that did not come from the cache, sorted.
    pub(crate) fn misses(&self) -> Vec<String> {
        self.texts(|step| step.hit.is_none())
    }

    fn texts(&self, wanted: impl Fn(&&Step) -> bool) -> Vec<String> {
        let mut texts: Vec<String> = self.steps.iter().filter(wanted).map(|step| step.text.clone()).collect();
        texts.sort();
        texts
    }

    /// Tells how the step hit whose instruction begins so: `by definition`, `by content`, `below a later step`. It is
    /// empty for a step that missed.
    #[track_caller]
    pub(crate) fn hit(&self, instruction: &str) -> &str {
        let step = self.steps.iter().find(|step| step.text.starts_with(instruction));
        let step = step.unwrap_or_else(|| panic!("there is no step `{instruction}`:\n{}", self.stderr));
        step.hit.as_deref().unwrap_or_default()
    }

    /// Returns why the step missed whose instruction begins so, as the report says and the output repeats.
    #[track_caller]
    pub(crate) fn why(&self, instruction: &str) -> String {
        let missed = self.report["cache"]["missed"].as_array().into_iter().flatten();
        let mut missed =
            missed.filter(|miss| miss["instruction"].as_str().is_some_and(|text| text.starts_with(instruction)));
        let miss = missed.next().unwrap_or_else(|| panic!("no miss of `{instruction}`: {}", self.report["cache"]));
        let reason = miss["reason"].as_str().expect("a miss has a reason").to_owned();
        assert!(self.stderr.contains(&format!("miss: {reason}")), "`{reason}` is not in the output:\n{}", self.stderr);
        reason
    }

    /// Checks that the build's warnings hold these words.
    #[track_caller]
    pub(crate) fn warns(&self, words: &[&str]) {
        let warnings: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("warning:")).collect();
        let missing: Vec<&&str> =
            words.iter().filter(|word| !warnings.iter().any(|line| line.contains(**word))).collect();
        assert!(!warnings.is_empty() && missing.is_empty(), "no warning with {missing:?}:\n{}", self.stderr);
    }

    /// Checks that the build had nothing to say against its cache.
    #[track_caller]
    pub(crate) fn warns_of_no_cache(&self) {
        assert_eq!(self.cache_warnings(), 0, "{}", self.stderr);
    }

    /// Checks that the build had one thing to say against its cache, with these words.
    #[track_caller]
    pub(crate) fn warns_once(&self, words: &[&str]) {
        self.warns(words);
        assert_eq!(self.cache_warnings(), 1, "{}", self.stderr);
    }

    fn cache_warnings(&self) -> usize {
        self.stderr.lines().filter(|line| line.starts_with("warning:") && line.contains("cache")).count()
    }
}

/// Reads lines such as `[main 1/3] RUN true` and `[main 1/3] done cached (by content) 0.0s`.
fn steps(stderr: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in stderr.lines() {
        let Some((name, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else { continue };
        let is_step = name.rsplit_once(' ').is_some_and(|(_, number)| number.contains('/'));
        if !is_step || rest.starts_with("| ") {
            continue;
        }
        let at = steps.iter().position(|step| step.name == name).unwrap_or_else(|| {
            steps.push(Step { name: name.to_owned(), text: rest.to_owned(), hit: None });
            steps.len() - 1
        });
        if let Some((_, how)) = rest.split_once("cached (") {
            steps[at].hit = how.split_once(')').map(|(how, _)| how.to_owned());
        } else if rest.starts_with("miss: ") {
            // It had hit before the build began again without an entry.
            steps[at].hit = None;
        }
    }
    steps
}
