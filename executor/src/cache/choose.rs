//! Which entries a build uses: what was found for each step comes in; for each stage the deepest entry that fits, and the
//! stages that must be built, come out. Pure.
//!
//! **A cached build is one build**: it never uses two results of one step. An entry stands on the layers that it was made
//! from, all of its own stage and, by name, the results of the steps of other stages. So a miss does not end what is found behind it, and
//! two entries that stand on different results of one step are never used together: the one whose stage comes first in the
//! graph stays.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    entry::{Entry, EntryLayer, stacks},
    key::Key,
};
use crate::image::digest::Digest;

/// A stage as far as this choice is concerned.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// The stage below it.
    pub base: Option<usize>,
    /// The steps that make layers.
    pub steps: Vec<Step>,
    /// The names of the base image's layers.
    pub base_layers: Vec<Digest>,
}

/// One step that makes a layer.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Its definition key, if that is known.
    pub key: Option<Key>,
    /// What was found for it.
    pub found: Option<Entry>,
    /// The stages whose end it reads.
    pub reads: Vec<usize>,
    /// Whether it must run whatever was found, and with it all that depends on it.
    pub must_run: bool,
}

/// What is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// For each stage, the step whose entry is used, with all layers below it.
    pub entries: Vec<Option<usize>>,
    /// For each stage, whether somebody needs its result.
    pub needed: Vec<bool>,
}

/// Chooses entries for the stages that `target` needs. Every stage comes after those that it uses.
pub fn choose(stages: &[Stage], target: usize) -> Choice {
    let mut limits = limits(stages);
    loop {
        let entries: Vec<Option<usize>> =
            stages.iter().zip(&limits).map(|(stage, limit)| deepest(stage, *limit)).collect();
        let needed = needed(stages, &entries, target);
        match conflict(stages, &entries, &needed) {
            // Its entry is given up; it only ever gets shallower, so this ends.
            Some(stage) => limits[stage] = entries[stage].unwrap_or_default(),
            None => return Choice { entries, needed },
        }
    }
}

/// The number of first steps of each stage whose entries may be used: those before the first that must run.
fn limits(stages: &[Stage]) -> Vec<usize> {
    let mut limits: Vec<usize> = Vec::with_capacity(stages.len());
    let mut runs: Vec<bool> = Vec::with_capacity(stages.len());
    for stage in stages {
        let must_run = |step: &Step| step.must_run || step.reads.iter().any(|read| runs[*read]);
        let first =
            if stage.base.is_some_and(|base| runs[base]) { Some(0) } else { stage.steps.iter().position(must_run) };
        runs.push(first.is_some());
        limits.push(first.unwrap_or(stage.steps.len()));
    }
    limits
}

fn deepest(stage: &Stage, limit: usize) -> Option<usize> {
    stage.steps[..limit].iter().rposition(|step| step.found.is_some())
}

/// Which stages are built, or taken whole: the target, and whatever the steps behind the entries read.
fn needed(stages: &[Stage], entries: &[Option<usize>], target: usize) -> Vec<bool> {
    let mut needed = vec![false; stages.len()];
    let mut pending = vec![target];
    while let Some(number) = pending.pop() {
        if std::mem::replace(&mut needed[number], true) {
            continue;
        }
        let stage = &stages[number];
        let first = entries[number].map_or(0, |entry| entry + 1);
        pending.extend(stage.steps[first..].iter().flat_map(|step| &step.reads));
        pending.extend(stage.base.filter(|_| first == 0));
    }
    needed
}

/// Finds a stage whose entry stands on another result of a step than what is used.
fn conflict(stages: &[Stage], entries: &[Option<usize>], needed: &[bool]) -> Option<usize> {
    let used = |number: usize| needed[number].then(|| stages[number].steps[entries[number]?].found.as_ref()).flatten();
    // The results that entries bring. Every stage with such a step takes it from them.
    let mut brought: BTreeMap<&Key, Digest> = BTreeMap::new();
    for number in 0..stages.len() {
        let Some(entry) = used(number) else { continue };
        for (layer, result) in entry.layers.iter().zip(results(base_layers(stages, number), &entry.layers)) {
            if brought.insert(&layer.step, result.clone()).is_some_and(|known| known != result) {
                return Some(number);
            }
        }
    }
    let steps = stages.iter().zip(needed).filter(|(_, needed)| **needed).flat_map(|(stage, _)| &stage.steps);
    let made: BTreeSet<&Key> =
        steps.filter_map(|step| step.key.as_ref()).filter(|key| !brought.contains_key(key)).collect();
    let mut claims: BTreeMap<&Key, &Digest> = brought.iter().map(|(key, result)| (*key, result)).collect();
    for number in 0..stages.len() {
        let Some(entry) = used(number) else { continue };
        let fits = |(step, result): (&Key, &Digest)| {
            !made.contains(step) && claims.get(step).is_none_or(|claimed| *claimed == result)
        };
        if !entry.stages.iter().all(fits) {
            return Some(number);
        }
        claims.extend(&entry.stages);
    }
    None
}

/// The layers of the image at the bottom of a stage.
fn base_layers(stages: &[Stage], mut number: usize) -> &[Digest] {
    while let Some(base) = stages[number].base {
        number = base;
    }
    &stages[number].base_layers
}

/// Names the result of each step of an entry: everything from the bottom up to its layer.
fn results(base_layers: &[Digest], layers: &[EntryLayer]) -> Vec<Digest> {
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    stacks(base_layers.iter(), &diff_ids)
}

#[cfg(test)]
mod tests;
