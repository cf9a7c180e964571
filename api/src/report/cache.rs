//! What a [`BuildReport`](super::BuildReport) says of the cache: how many steps it spared, and for each step that it did
//! not spare the part of the step that differs from what the cache holds. In: what the executor noted, of any length;
//! out: the same with each text within its own limit, so that the first misses fit into a termination message.

use serde::{Deserialize, Serialize};

use super::clip_end;

/// Room, in bytes of JSON, for each text of one miss: five misses of full length take well below half of a message.
const STAGE_BYTES_MAX: usize = 64;
const INSTRUCTION_BYTES_MAX: usize = 128;
const REASON_BYTES_MAX: usize = 256;

/// Counts the steps that the cache spared, and tells why the others missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheReport {
    /// Steps whose result was taken from the cache, those that a later step's hit made needless included.
    pub hits: i64,
    /// Steps that were run or copied.
    pub misses: i64,
    /// The first misses, in the order of the plan: fewer than `misses` if there was no room for more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<MissReport>,
}

/// Tells why one step was not taken from the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MissReport {
    /// Name of the step's stage, or its number.
    pub stage: String,
    /// Line of the Dockerfile that the step starts at, from 1.
    pub line: i64,
    /// The instruction as the Dockerfile has it, its arguments not expanded.
    pub instruction: String,
    /// The part of the step that differs from the last build's, such as `file src/main.c changed`. Never holds the
    /// value of a build argument or of a secret.
    pub reason: String,
}

impl CacheReport {
    /// Returns the counts without the list of misses.
    pub(super) fn counts(&self) -> Self {
        Self { missed: Vec::new(), ..*self }
    }
}

impl MissReport {
    /// Returns the miss with each text shortened to its own limit.
    pub(super) fn clipped(&self) -> Self {
        Self {
            stage: clip_end(&self.stage, STAGE_BYTES_MAX),
            line: self.line,
            instruction: clip_end(&self.instruction, INSTRUCTION_BYTES_MAX),
            reason: clip_end(&self.reason, REASON_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BuildReport, StageReport, TERMINATION_MESSAGE_BYTES_MAX};

    fn miss(line: i64, reason: &str) -> MissReport {
        MissReport { stage: "builder".into(), line, instruction: "COPY . .".into(), reason: reason.into() }
    }

    fn sent(report: &BuildReport) -> BuildReport {
        let message = report.to_termination_message();
        assert!(message.len() <= TERMINATION_MESSAGE_BYTES_MAX, "{} bytes", message.len());
        serde_json::from_str(&message).unwrap()
    }

    #[test]
    fn hits_and_misses_are_written_in_camel_case() {
        let cache = CacheReport { hits: 3, misses: 1, missed: vec![miss(7, "file src/main.c changed")] };
        let report = BuildReport { cache: Some(cache), ..BuildReport::default() };
        assert_eq!(
            report.to_termination_message(),
            r#"{"result":"Failed","cache":{"hits":3,"misses":1,"missed":[{"stage":"builder","line":7,"instruction":"COPY . .","reason":"file src/main.c changed"}]}}"#
        );
    }

    #[test]
    fn a_report_without_a_cache_says_nothing_of_it() {
        assert_eq!(BuildReport::default().to_termination_message(), r#"{"result":"Failed"}"#);
    }

    #[test]
    fn the_last_misses_are_left_out_first_and_the_counts_never() {
        let missed: Vec<MissReport> = (1..=200).map(|line| miss(line, "the parent changed")).collect();
        let cache = CacheReport { hits: 4, misses: 200, missed: missed.clone() };
        let read = sent(&BuildReport { cache: Some(cache), ..BuildReport::default() });
        let kept = read.cache.unwrap();
        assert!(read.truncated);
        assert_eq!((kept.hits, kept.misses), (4, 200));
        assert!(kept.missed.len() > 10, "{} misses", kept.missed.len());
        assert_eq!(kept.missed, missed[..kept.missed.len()]);
    }

    #[test]
    fn stages_come_before_misses() {
        let stages: Vec<StageReport> =
            (0..90).map(|number| StageReport { name: format!("stage-{number}"), duration_seconds: 1.0 }).collect();
        let missed: Vec<MissReport> = (1..=40).map(|line| miss(line, "the parent changed")).collect();
        let cache = CacheReport { hits: 0, misses: 40, missed };
        let read = sent(&BuildReport { cache: Some(cache), stages: stages.clone(), ..BuildReport::default() });
        assert_eq!(read.stages, stages);
        assert_eq!(read.cache.map(|cache| cache.misses), Some(40));
    }

    #[test]
    fn long_texts_of_a_miss_are_shortened_and_leave_room_for_others() {
        let long = MissReport {
            stage: "s".repeat(5000),
            line: 7,
            instruction: "RUN \"\n".repeat(2000),
            reason: "r".repeat(5000),
        };
        let cache = CacheReport { hits: 0, misses: 5, missed: vec![long; 5] };
        let read = sent(&BuildReport { cache: Some(cache), ..BuildReport::default() });
        let kept = read.cache.unwrap();
        assert!(read.truncated);
        assert_eq!(kept.missed.len(), 5);
        assert!(kept.missed.iter().all(|miss| miss.line == 7 && miss.reason.ends_with("r…")));
    }

    #[test]
    fn a_cache_report_of_another_version_is_read() {
        let read: BuildReport =
            serde_json::from_str(r#"{"cache":{"hits":2,"novel":[],"missed":[{"line":4}]}}"#).unwrap();
        let expected =
            CacheReport { hits: 2, misses: 0, missed: vec![MissReport { line: 4, ..MissReport::default() }] };
        assert_eq!(read.cache, Some(expected));
    }
}
