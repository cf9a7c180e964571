use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    cache::entry::{EntryLayer, INDEX_MEDIA_TYPE},
    image::manifest::{Descriptor, layer_media_type},
    layer::Compression,
};

/// The key of a step: its stage and its number.
fn key(stage: usize, step: usize) -> Key {
    Digest::of(format!("{stage}/{step}").as_bytes()).to_string().parse().unwrap()
}

/// What a step became in one of several runs.
fn layer(stage: usize, step: usize, run: usize) -> EntryLayer {
    let bytes = format!("{stage}/{step} in run {run}");
    EntryLayer {
        step: key(stage, step),
        created: 0,
        diff_id: Digest::of(bytes.as_bytes()),
        layer: Descriptor::of(layer_media_type(Compression::Gzip), bytes.as_bytes()),
        index: Descriptor::of(INDEX_MEDIA_TYPE, bytes.as_bytes()),
    }
}

/// The result of a whole stage on `scratch` with that many steps, all of one run.
fn whole(stage: usize, steps: usize, run: usize) -> Digest {
    let layers: Vec<EntryLayer> = (0..steps).map(|step| layer(stage, step, run)).collect();
    results(&[], &layers).pop().unwrap()
}

/// The entry that a run leaves for a step; it stands on the given results of other stages.
fn entry(stage: usize, step: usize, run: usize, stages: &[(Key, Digest)]) -> Entry {
    Entry {
        definition: key(stage, step),
        content: None,
        layers: (0..=step).map(|below| layer(stage, below, run)).collect(),
        stages: stages.iter().cloned().collect(),
        created: 0,
    }
}

/// A stage on `scratch` with that many steps, of which nothing was found.
fn stage(number: usize, steps: usize) -> Stage {
    let steps = (0..steps).map(|step| Step { key: Some(key(number, step)), ..Step::default() });
    Stage { steps: steps.collect(), ..Stage::default() }
}

fn chosen(stages: &[Stage]) -> (Vec<Option<usize>>, Vec<bool>) {
    let Choice { entries, needed } = choose(stages, stages.len() - 1);
    (entries, needed)
}

#[test]
fn the_deepest_entry_brings_what_is_below_it() {
    let mut only = stage(0, 3);
    only.steps[0].found = Some(entry(0, 0, 1, &[]));
    only.steps[2].found = Some(entry(0, 2, 2, &[]));
    assert_eq!(chosen(&[only.clone()]).0, [Some(2)]);
    only.steps[2].found = None;
    assert_eq!(chosen(&[only.clone()]).0, [Some(0)]);
    only.steps[0].found = None;
    assert_eq!(chosen(&[only]).0, [None]);
}

/// A builder of two steps, and a stage that copies from it in its first step and does something in its second.
fn builder_and_target() -> [Stage; 2] {
    let mut target = stage(1, 2);
    target.steps[0].reads = vec![0];
    [stage(0, 2), target]
}

#[test]
fn a_stage_that_nobody_reads_any_more_is_not_needed() {
    let mut stages = builder_and_target();
    stages[1].steps[0].found = Some(entry(1, 0, 1, &[(key(0, 1), whole(0, 2, 1))]));
    assert_eq!(chosen(&stages), (vec![None, Some(0)], vec![false, true]));
    stages[1].steps[1].reads = vec![0];
    // The second step has to read the builder, which has to be built, and is not what the first step was made from.
    assert_eq!(chosen(&stages), (vec![None, None], vec![true, true]));
}

#[test]
fn an_entry_fits_what_it_was_made_from_only() {
    for (run, used) in [(1, Some(0)), (2, None)] {
        let mut stages = builder_and_target();
        stages[0].steps[1].found = Some(entry(0, 1, 1, &[]));
        stages[1].steps[0].found = Some(entry(1, 0, run, &[(key(0, 1), whole(0, 2, run))]));
        stages[1].steps[1].reads = vec![0];
        assert_eq!(chosen(&stages), (vec![Some(1), used], vec![true, true]), "run {run}");
    }
}

#[test]
fn two_entries_never_stand_on_two_results_of_a_stage() {
    for (run, used) in [(1, Some(0)), (2, None)] {
        let mut stages = vec![stage(0, 1), stage(1, 1), stage(2, 1), stage(3, 2)];
        for (number, run) in [(1, 1), (2, run)] {
            stages[number].steps[0].reads = vec![0];
            stages[number].steps[0].found = Some(entry(number, 0, run, &[(key(0, 0), whole(0, 1, run))]));
        }
        stages[3].steps[0].reads = vec![1];
        stages[3].steps[1].reads = vec![2];
        let (entries, needed) = chosen(&stages);
        // Of two results the later one is given up; then the first has to be rebuilt, and nothing fits any more.
        let first = if run == 1 { Some(0) } else { None };
        assert_eq!((entries, needed), (vec![None, first, used, None], vec![run != 1, true, true, true]), "run {run}");
    }
}

#[test]
fn a_stage_below_counts_as_what_it_was() {
    let mut above = stage(1, 1);
    above.base = Some(0);
    above.steps[0].found =
        Some(Entry { layers: vec![layer(0, 0, 1), layer(1, 0, 1)], ..entry(1, 0, 1, &[(key(0, 0), whole(0, 1, 1))]) });
    let mut target = stage(2, 1);
    target.steps[0].reads = vec![1];
    assert_eq!(chosen(&[stage(0, 1), above.clone(), target.clone()]).1, [false, true, true]);
    // The target reads the stage below as well: that takes its step from the entry of the stage above.
    target.steps[0].reads = vec![0, 1];
    assert_eq!(chosen(&[stage(0, 1), above, target]), (vec![None, Some(0), None], vec![true; 3]));
}

#[test]
fn what_must_run_ends_what_is_used_of_it_and_of_its_readers() {
    let mut stages = builder_and_target();
    stages[0].steps[0].found = Some(entry(0, 0, 1, &[]));
    stages[0].steps[1].found = Some(entry(0, 1, 1, &[]));
    stages[1].steps[1].found = Some(entry(1, 1, 1, &[(key(0, 1), whole(0, 2, 1))]));
    assert_eq!(chosen(&stages).0, [Some(1), Some(1)]);
    stages[0].steps[1].must_run = true;
    assert_eq!(chosen(&stages), (vec![Some(0), None], vec![true, true]));
}

/// Two builders whose first step is the same, and a stage that copies from both.
fn builders_with_a_common_step() -> [Stage; 3] {
    let mut other = stage(1, 2);
    other.steps[0].key = Some(key(0, 0));
    let mut target = stage(2, 2);
    (target.steps[0].reads, target.steps[1].reads) = (vec![0], vec![1]);
    [stage(0, 2), other, target]
}

#[test]
fn a_step_that_two_stages_have_in_common_has_one_result() {
    for (run, used) in [(1, Some(0)), (2, None)] {
        let mut stages = builders_with_a_common_step();
        let copied = [(key(0, 0), whole(0, 1, 1)), (key(0, 1), whole(0, 2, 1))];
        stages[2].steps[0].found = Some(entry(2, 0, 1, &copied));
        // The common step as the second builder has it, of the same run and of another.
        stages[1].steps[1].found =
            Some(Entry { layers: vec![layer(0, 0, run), layer(1, 1, run)], ..entry(1, 1, run, &[]) });
        assert_eq!(chosen(&stages).0, [None, Some(1), used], "run {run}");
    }
}

#[test]
fn a_step_that_is_made_now_is_nothing_that_an_entry_stands_on() {
    let mut stages = builders_with_a_common_step();
    let copied = [(key(0, 0), whole(0, 1, 1)), (key(0, 1), whole(0, 2, 1))];
    stages[2].steps[0].found = Some(entry(2, 0, 1, &copied));
    // The second builder was lost: it makes the common step anew.
    assert_eq!(chosen(&stages), (vec![None; 3], vec![true; 3]));
}

/// The results of all steps of some stages of three in one run.
fn all_steps(stages: impl IntoIterator<Item = usize>, run: usize) -> Vec<(Key, Digest)> {
    let steps = stages.into_iter().flat_map(|stage| (0..3).map(move |step| (stage, step)));
    steps.map(|(stage, step)| (key(stage, step), whole(stage, step + 1, run))).collect()
}

/// Stages of three steps on `scratch`. Every step of a stage behind the first may read an earlier stage; of every step an entry
/// of one of three whole runs may have been found.
fn graphs() -> impl Strategy<Value = Vec<Stage>> {
    let step = (prop::option::of(0..3_usize), prop::option::of(any::<prop::sample::Index>()));
    prop::collection::vec(prop::collection::vec(step, 3), 1..5).prop_map(|graph| {
        let reads: Vec<Vec<Vec<usize>>> = graph
            .iter()
            .enumerate()
            .map(|(number, steps)| {
                let read = |read: Option<prop::sample::Index>| {
                    read.filter(|_| number > 0).map(|read| read.index(number)).into_iter().collect()
                };
                steps.iter().map(|(_, from)| read(*from)).collect()
            })
            .collect();
        let below = |number: usize, step: usize| {
            let mut all = BTreeSet::new();
            let mut pending: Vec<usize> = reads[number][..=step].iter().flatten().copied().collect();
            while let Some(next) = pending.pop() {
                if all.insert(next) {
                    pending.extend(reads[next].iter().flatten());
                }
            }
            all
        };
        let found =
            |number: usize, step: usize, run: usize| entry(number, step, run, &all_steps(below(number, step), run));
        let stages = graph.iter().enumerate().map(|(number, steps)| {
            let steps = steps.iter().enumerate().map(|(position, (run, _))| Step {
                key: Some(key(number, position)),
                found: run.map(|run| found(number, position, run)),
                reads: reads[number][position].clone(),
                must_run: false,
            });
            Stage { steps: steps.collect(), ..stage(number, 3) }
        });
        stages.collect()
    })
}

proptest! {
    #[test]
    fn no_build_ever_uses_two_results_of_one_step(stages in graphs()) {
        let (entries, needed) = chosen(&stages);
        let mut known: BTreeMap<Key, Digest> = BTreeMap::new();
        let mut use_result = |key: &Key, result: &Digest| {
            let first = known.entry(key.clone()).or_insert_with(|| result.clone());
            prop_assert_eq!(&*first, result);
            Ok(())
        };
        for (number, stage) in stages.iter().enumerate().filter(|(number, _)| needed[*number]) {
            let entry = entries[number].and_then(|step| stage.steps[step].found.as_ref());
            let brought = entry.map_or(Vec::new(), |entry| results(&[], &entry.layers));
            for step in 0..3 {
                // A step that is made now has a result that nobody has seen.
                let made = || Digest::of(format!("{number}/{step} is made now").as_bytes());
                use_result(&key(number, step), &brought.get(step).cloned().unwrap_or_else(made))?;
            }
            for (step, result) in entry.into_iter().flat_map(|entry| &entry.stages) {
                use_result(step, result)?;
            }
        }
    }

    #[test]
    fn whatever_one_run_left_is_used_to_the_end(graph in graphs(), run in 0..3_usize) {
        let mut stages = graph;
        for (number, stage) in stages.clone().iter().enumerate() {
            let ends = all_steps(0..number, run);
            for step in 0..stage.steps.len() {
                stages[number].steps[step].found = Some(entry(number, step, run, &ends));
            }
        }
        let (entries, needed) = chosen(&stages);
        prop_assert_eq!(entries.last(), Some(&Some(2)));
        prop_assert_eq!(needed.iter().filter(|needed| **needed).count(), 1);
    }
}
