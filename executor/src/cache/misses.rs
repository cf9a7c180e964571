//! Why a step was not found: what the last build's steps were made of, and what this one's is, become a sentence. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::key::{BASE, CONTEXT_FILES, MadeOf, PARENT};
use crate::{
    filesystem::path::TreePath,
    image::digest::{Digest, FieldHasher},
};

/// The kind of artifact that a [`Record`] is.
pub const RECORD_TYPE: &str = "application/vnd.karve.cache.build.v1";

/// The media type of its only blob: JSON, compressed with zstd.
pub const RECORD_MEDIA_TYPE: &str = "application/vnd.karve.cache.build.v1+zstd";

/// The largest record that is read, compressed.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Files of one step that are remembered one by one. Beyond, a miss says only that files changed.
const FILES_MAX: usize = 50_000;

/// What is shown of a text of a record.
const TEXT_CHARACTERS_MAX: usize = 200;

/// How many hexadecimal digits of a file's digest are remembered: enough to tell whether it changed.
const FILE_DIGEST_DIGITS: usize = 12;

/// What the steps of a build were made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// All steps that make a layer.
    pub steps: Vec<RecordedStep>,
}

/// What one step was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedStep {
    /// The stage.
    pub stage: String,
    /// Which of the stage's steps that make a layer it is, from 1.
    pub number: usize,
    /// The instruction on one line.
    pub instruction: String,
    /// The parts of its definition key.
    pub made_of: MadeOf,
    /// The files of the context that it read, with the beginning of their digests.
    pub files: BTreeMap<String, String>,
}

/// Names the record of builds of one target of one Dockerfile for one platform: the tag `build-` and 64 digits.
pub fn tag(dockerfile: &str, target: &str, platform: &str) -> String {
    let mut hasher = FieldHasher::default();
    hasher.list([dockerfile, target, platform].iter().map(|field| field.as_bytes()));
    format!("build-{}", hasher.finish().hex())
}

impl RecordedStep {
    /// Remembers a step.
    pub fn new(stage: &str, number: usize, instruction: &str, made_of: &MadeOf, files: &[(TreePath, Digest)]) -> Self {
        let short = |digest: &Digest| digest.hex().chars().take(FILE_DIGEST_DIGITS).collect();
        let files = files.iter().take(if files.len() > FILES_MAX { 0 } else { FILES_MAX });
        Self {
            stage: stage.to_owned(),
            number,
            instruction: instruction.to_owned(),
            made_of: made_of.clone(),
            files: files
                .map(|(path, digest)| (path.to_string().trim_start_matches('/').to_owned(), short(digest)))
                .collect(),
        }
    }

    /// Says in what the step differs from the same step of the last build.
    pub fn difference(&self, last: Option<&Record>) -> String {
        let Some(last) = last else { return "the cache knows no earlier build".into() };
        let same = |step: &&Self| step.stage == self.stage && step.number == self.number;
        let Some(old) = last.steps.iter().find(same) else { return "the last build had no such step".into() };
        if old.instruction != self.instruction {
            return format!("the instruction changed, it was `{}`", clipped(&old.instruction));
        }
        let Some((name, how)) = self.changed_part(old) else {
            return "nothing changed, but its entry is not in the cache".into();
        };
        match name {
            PARENT => "a step before it changed".into(),
            BASE => "the base image changed".into(),
            CONTEXT_FILES => self.changed_files(old),
            name => format!("{} {how}", clipped(name)),
        }
    }

    /// Finds the first part that is not as it was, and what became of it; parts that are gone count last.
    fn changed_part<'a>(&'a self, old: &'a Self) -> Option<(&'a str, &'static str)> {
        let (before, now) = (old.parts(), self.parts());
        let changed = self.made_of.parts().map(|(name, _)| name).find(|name| before.get(name) != now.get(name));
        if let Some(name) = changed {
            return Some((name, if before.contains_key(name) { "changed" } else { "is new" }));
        }
        Some((before.into_keys().find(|name| !now.contains_key(name))?, "is gone"))
    }

    /// The parts by name. A name may come several times, as the layers of a base image do.
    fn parts(&self) -> BTreeMap<&str, Vec<&Digest>> {
        let mut parts: BTreeMap<&str, Vec<&Digest>> = BTreeMap::new();
        for (name, digest) in self.made_of.parts() {
            parts.entry(name).or_default().push(digest);
        }
        parts
    }

    fn changed_files(&self, old: &Self) -> String {
        let changed = self.files.iter().filter_map(|(path, digest)| match old.files.get(path) {
            None => Some(format!("{path} is new")),
            Some(before) if before != digest => Some(format!("{path} changed")),
            Some(_) => None,
        });
        let gone = old.files.keys().filter(|path| !self.files.contains_key(*path));
        let all: Vec<String> = changed.chain(gone.map(|path| format!("{path} is gone"))).collect();
        match all.as_slice() {
            [] => "files of the context changed".into(),
            [only] => clipped(only),
            [first, rest @ ..] => format!("{}, and {} more", clipped(first), rest.len()),
        }
    }
}

/// A text of a record, which anybody may have written who can write to the cache.
fn clipped(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(TEXT_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests;
