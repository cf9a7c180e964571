//! What the containers of a build Pod hand back: the executor's [`BuildReport`], the context container's
//! [`ContextReport`], and the file that passes the source's revision from one to the other.
//!
//! The kubelet keeps the last 4096 bytes of a termination message and cuts a Pod's messages evenly above 12 KiB, so a
//! message that is too long arrives as the tail of a JSON text. Both reports therefore fit by construction: what does
//! not fit is left out, least important first, and `truncated` says so. Reading accepts any field as absent.

mod cache;

use serde::{Deserialize, Serialize};

use crate::Reason;

pub use cache::{CacheReport, MissReport};

/// The most bytes of a termination message that the kubelet keeps.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;
/// The most bytes that the container `context` writes, so that the Pod's messages together are never cut.
pub const CONTEXT_MESSAGE_BYTES_MAX: usize = 1024;

/// Room, in bytes of JSON, that the fields which must arrive may take each: together well below the whole.
const DIGEST_BYTES_MAX: usize = 160;
const MESSAGE_BYTES_MAX: usize = 1400;
const ISOLATION_BYTES_MAX: usize = 32;
const NONCE_BYTES_MAX: usize = 128;
const IMAGE_BYTES_MAX: usize = 640;
const STAGE_BYTES_MAX: usize = 256;
/// Room for one revision; a commit hash takes 40, `branch@sha1:commit` more.
const REVISION_BYTES_MAX: usize = 320;

/// Says whether a container did what it was started for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It did.
    Succeeded,
    /// It did not; the reason and the message say why.
    #[default]
    Failed,
}

/// Says what became of a build: the executor's last word, as its termination message and as its last log line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildReport {
    /// Whether the image is in the registry, confirmed by digest.
    pub result: Outcome,
    /// Digest of the pushed manifest, `sha256:<hex>`; only of a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why the build failed, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why the build failed, in a sentence that names place and next step. Never holds a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How RUN steps were isolated: `userns`, `podns`, `own-root` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// The value of `--nonce`: proves that the report is this attempt's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The repository that was pushed to, `registry/repository` without tag and digest; compared by
    /// [`canonical_repository`](crate::canonical_repository).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The stage in which the build failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What was done, in numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// Where the context came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceReport>,
    /// The base images, by the digest that they had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<BaseReport>,
    /// How long each stage took.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageReport>,
    /// What the cache spared; absent if none was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheReport>,
    /// The last lines of output of a build that failed, with secrets masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
    /// Whether something was left out or shortened to fit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Counts what a build did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Steps that were run or copied, metadata aside.
    pub steps: i64,
    /// Layers of the image.
    pub layers: i64,
    /// Bytes of layers uploaded to registries.
    pub bytes_pushed: i64,
    /// Bytes of layers downloaded from registries.
    pub bytes_pulled: i64,
    /// Whole seconds from start to end.
    pub duration_seconds: i64,
}

/// Says where the context of a build came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceReport {
    /// The revision, such as `main@sha1:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Seconds since 1970 of the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_time: Option<i64>,
}

/// Names a base image and the digest that it had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BaseReport {
    /// The image as the Dockerfile names it, arguments expanded.
    pub reference: String,
    /// The digest that it resolved to.
    pub digest: String,
}

/// Says how long a stage took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StageReport {
    /// Name of the stage, or its number.
    pub name: String,
    /// Seconds that it took.
    pub duration_seconds: f64,
}

impl BuildReport {
    /// Returns the report as JSON of at most [`TERMINATION_MESSAGE_BYTES_MAX`] bytes.
    ///
    /// Result, digest, reason, message, isolation, nonce and image always arrive, each shortened to its own limit; then,
    /// in this order and while there is room: stage, counters, source, the counts of the cache, bases, stages, the first
    /// misses, and the end of the log.
    pub fn to_termination_message(&self) -> String {
        let mut fitted = self.essentials();
        if let Some(stage) = &self.stage {
            fitted.add(|report| report.stage = Some(clip_end(stage, STAGE_BYTES_MAX)));
        }
        if self.counters.is_some() {
            fitted.add(|report| report.counters = self.counters);
        }
        if let Some(source) = &self.source {
            let revision = source.revision.as_ref().map(|revision| clip_end(revision, REVISION_BYTES_MAX));
            let commit_time = source.commit_time;
            fitted.add(|report| report.source = Some(SourceReport { revision, commit_time }));
        }
        if let Some(cache) = &self.cache {
            fitted.add(|report| report.cache = Some(cache.counts()));
        }
        for base in &self.bases {
            if !fitted.add(|report| report.bases.push(base.clone())) {
                break;
            }
        }
        for stage in &self.stages {
            if !fitted.add(|report| report.stages.push(stage.clone())) {
                break;
            }
        }
        for miss in self.cache.iter().flat_map(|cache| &cache.missed) {
            if !fitted.add(|report| report.cache.get_or_insert_default().missed.push(miss.clipped())) {
                break;
            }
        }
        if let Some(log_tail) = &self.log_tail {
            fitted.add_log_tail(log_tail);
        }
        let mut report = fitted.report;
        report.truncated = self.truncated || fitted.left_out || differs(self, &report);
        json(&report)
    }

    /// Returns the report without what may be left out, each text shortened to its own limit.
    fn essentials(&self) -> Fitted {
        let clip = |text: &Option<String>, bytes_max| text.as_ref().map(|text| clip_end(text, bytes_max));
        let report = Self {
            result: self.result,
            digest: clip(&self.digest, DIGEST_BYTES_MAX),
            reason: self.reason,
            message: clip(&self.message, MESSAGE_BYTES_MAX),
            isolation: clip(&self.isolation, ISOLATION_BYTES_MAX),
            nonce: clip(&self.nonce, NONCE_BYTES_MAX),
            image: clip(&self.image, IMAGE_BYTES_MAX),
            // Counted from the start, so that setting it at the end never makes the message too long.
            truncated: true,
            ..Self::default()
        };
        Fitted { report, left_out: false }
    }
}

/// Says whether a text of the whole report was shortened.
fn differs(whole: &BuildReport, fitted: &BuildReport) -> bool {
    BuildReport { truncated: whole.truncated, ..fitted.clone() } != *whole
}

/// A report that never grows beyond the limit.
struct Fitted {
    report: BuildReport,
    left_out: bool,
}

impl Fitted {
    /// Makes a change unless the report would then be too long; says whether it was made.
    fn add(&mut self, change: impl FnOnce(&mut BuildReport)) -> bool {
        let mut candidate = self.report.clone();
        change(&mut candidate);
        let fits = json(&candidate).len() <= TERMINATION_MESSAGE_BYTES_MAX;
        if fits {
            self.report = candidate;
        } else {
            self.left_out = true;
        }
        fits
    }

    /// Adds as much of the end of the log as there is room for.
    fn add_log_tail(&mut self, log_tail: &str) {
        let frame = ",\"logTail\":\"\"".len();
        let room = TERMINATION_MESSAGE_BYTES_MAX.saturating_sub(json(&self.report).len() + frame);
        let tail = clip_start(log_tail, room);
        if tail.is_empty() {
            self.left_out |= !log_tail.is_empty();
        } else {
            self.add(|report| report.log_tail = Some(tail.to_owned()));
        }
    }
}

/// Says what became of fetching the context: the termination message of the container `context`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContextReport {
    /// Whether the tree is there.
    pub result: Outcome,
    /// Why it is not, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why it is not, in a sentence that names the next step. Never holds a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The revision that was fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Seconds since 1970 of the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_time: Option<i64>,
}

impl ContextReport {
    /// Returns the report as JSON of at most [`CONTEXT_MESSAGE_BYTES_MAX`] bytes; long texts are shortened.
    pub fn to_termination_message(&self) -> String {
        let message_bytes_max = CONTEXT_MESSAGE_BYTES_MAX - REVISION_BYTES_MAX - 200;
        json(&Self {
            message: self.message.as_ref().map(|message| clip_end(message, message_bytes_max)),
            revision: self.revision.as_ref().map(|revision| clip_end(revision, REVISION_BYTES_MAX)),
            ..self.clone()
        })
    }
}

/// Passes what is known of the source from the container `context` to `build`: the file `source.json` beside the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceInfo {
    /// The revision, such as `main@sha1:…`; only of a git context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Seconds since 1970 of the commit: the time that the image's new parts get. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_time: Option<i64>,
}

/// Returns the JSON text of a report. Reports hold nothing that JSON cannot say, so an error is an empty object.
fn json(report: &impl Serialize) -> String {
    serde_json::to_string(report).unwrap_or_else(|_| "{}".to_owned())
}

/// Returns how many bytes a character takes within a JSON string, as `serde_json` escapes it.
fn json_bytes(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        control if control < '\u{20}' => 6,
        other => other.len_utf8(),
    }
}

/// Returns the longest start of a text that fits, with an ellipsis if something was cut off.
fn clip_end(text: &str, bytes_max: usize) -> String {
    if text.chars().map(json_bytes).sum::<usize>() <= bytes_max {
        return text.to_owned();
    }
    let mut room = bytes_max.saturating_sub('…'.len_utf8());
    let fits = |character: &char| {
        let bytes = json_bytes(*character);
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let mut clipped: String = text.chars().take_while(fits).collect();
    clipped.push('…');
    clipped
}

/// Returns the longest end of a text that fits; of a text that was cut, it starts at a line if there is one.
fn clip_start(text: &str, bytes_max: usize) -> &str {
    let mut room = bytes_max;
    let mut start = text.len();
    for (index, character) in text.char_indices().rev() {
        let bytes = json_bytes(character);
        if bytes > room {
            break;
        }
        room -= bytes;
        start = index;
    }
    let tail = &text[start..];
    match tail.find('\n') {
        Some(end_of_line) if start > 0 && end_of_line + 1 < tail.len() => &tail[end_of_line + 1..],
        _ => tail,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn report() -> impl Strategy<Value = BuildReport> {
        let text = || prop_oneof![".{0,40}", vec(any::<char>(), 0..6000).prop_map(|chars| chars.into_iter().collect())];
        let base = (text(), text()).prop_map(|(reference, digest)| BaseReport { reference, digest });
        let stage = (text(), 0.0..1e6).prop_map(|(name, duration_seconds)| StageReport { name, duration_seconds });
        let miss = (text(), any::<i64>()).prop_map(|(text, line)| MissReport {
            stage: text.clone(),
            line,
            instruction: text.clone(),
            reason: text,
        });
        let cache =
            (any::<i64>(), vec(miss, 0..20)).prop_map(|(hits, missed)| CacheReport { hits, misses: i64::MIN, missed });
        let texts = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
        let lists = (vec(base, 0..20), vec(stage, 0..20), option::of(cache));
        (texts, option::of("[0-9a-f]{64}"), 0..Reason::ALL.len(), lists, any::<bool>()).prop_map(
            |((message, isolation, image, log_tail), hex, reason, (bases, stages, cache), succeeded)| BuildReport {
                result: if succeeded { Outcome::Succeeded } else { Outcome::Failed },
                digest: hex.map(|hex| format!("sha256:{hex}")),
                reason: Some(Reason::ALL[reason]),
                message,
                isolation: isolation.clone(),
                nonce: isolation,
                image: image.clone(),
                stage: image,
                counters: Some(Counters { steps: i64::MAX, bytes_pushed: i64::MAX, ..Counters::default() }),
                source: Some(SourceReport { revision: log_tail.clone(), commit_time: Some(i64::MIN) }),
                bases,
                stages,
                cache,
                log_tail,
                truncated: false,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_report_fits_and_keeps_what_decides(report in report()) {
            let message = report.to_termination_message();
            prop_assert!(message.len() <= TERMINATION_MESSAGE_BYTES_MAX, "{} bytes", message.len());
            let read: BuildReport = serde_json::from_str(&message).unwrap();
            prop_assert_eq!(read.result, report.result);
            prop_assert_eq!(&read.digest, &report.digest);
            prop_assert_eq!(read.reason, report.reason);
            prop_assert_eq!(read.truncated, BuildReport { truncated: false, ..read.clone() } != report);
        }

        #[test]
        fn any_context_report_fits(message in ".{0,3000}", revision in "\\PC{0,3000}", time in any::<i64>()) {
            let report = ContextReport {
                result: Outcome::Failed,
                reason: Some(Reason::ExecutorImageUnavailable),
                message: Some(message),
                revision: Some(revision),
                commit_time: Some(time),
            };
            let text = report.to_termination_message();
            prop_assert!(text.len() <= CONTEXT_MESSAGE_BYTES_MAX, "{} bytes", text.len());
            prop_assert!(serde_json::from_str::<ContextReport>(&text).is_ok());
        }
    }

    #[test]
    fn fields_keep_the_order_in_which_they_matter() {
        let report = BuildReport {
            result: Outcome::Succeeded,
            digest: Some("sha256:00".into()),
            nonce: Some("n".into()),
            image: Some("registry.example/web".into()),
            ..BuildReport::default()
        };
        assert_eq!(
            report.to_termination_message(),
            r#"{"result":"Succeeded","digest":"sha256:00","nonce":"n","image":"registry.example/web"}"#
        );
    }

    #[test]
    fn a_log_that_is_too_long_keeps_its_last_lines() {
        let log: String = (0..1000).flat_map(|line| ["line ".to_owned(), line.to_string(), "\n".to_owned()]).collect();
        let report = BuildReport { log_tail: Some(log), ..BuildReport::default() };
        let read: BuildReport = serde_json::from_str(&report.to_termination_message()).unwrap();
        let tail = read.log_tail.unwrap();
        assert!(read.truncated);
        assert!(tail.starts_with("line ") && tail.ends_with("line 999\n"), "{tail}");
    }

    #[test]
    fn a_report_of_another_version_is_read() {
        let read: BuildReport = serde_json::from_str(r#"{"result":"Failed","reason":"Novel","extra":1}"#).unwrap();
        assert_eq!(read.reason, Some(Reason::Internal));
    }
}
