//! What of earlier builds this one uses: keys go to the cache, all at once; the choice between what is found comes out, with
//! an explanation for every step that has to be made.

use std::{collections::BTreeMap, error::Error, io::Read, sync::Arc};

use futures::{StreamExt, stream};
use tokio::sync::OnceCell;

use super::{
    Solver,
    caching::{Caching, Lookup, Made},
    definitions::{Definitions, StepDefinition, platform},
    error::SolveError,
    layers::StageLayer,
    saves::FoundStage,
    stage::{MadeStep, StageResult},
};
use crate::{
    cache::{
        choose::{self, Choice},
        entry::Entry,
        misses::{self, RECORD_BYTES_MAX, RECORD_MEDIA_TYPE, RECORD_TYPE, Record, RecordedStep},
        store::{Artifact, Part},
    },
    plan::graph::{Base, From, Operation},
    progress::explain,
    registry::ImageSource,
};

/// Lookups under way at one time.
const LOOKUPS_MAX: usize = 32;

/// What is used, and what is known of the rest.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    pub(super) definitions: Definitions,
    /// For each stage and each of its steps, what was found.
    lookups: Vec<Vec<Lookup>>,
    /// For each stage, the step whose entry is used, as a position in the graph.
    used: Vec<Option<usize>>,
    /// Which stages somebody needs.
    pub(super) needed: Vec<bool>,
    /// For each stage and each of its steps that may have to be made, in what it differs from the last build's, once somebody
    /// has asked. What that was made of, which may be the names of all files of a context, is not kept.
    differences: OnceCell<Vec<Vec<Option<String>>>>,
}

impl Reuse {
    /// A build without a cache.
    pub(super) fn nothing(stages: usize) -> Self {
        Self { needed: vec![true; stages], used: vec![None; stages], ..Self::default() }
    }

    /// The position of the first step of a stage that is not taken from the cache together with all before it.
    pub(super) fn first_step(&self, stage: usize) -> usize {
        self.used[stage].map_or(0, |position| position + 1)
    }

    /// The key and the parts of a step.
    pub(super) fn definition(&self, stage: usize, position: usize) -> Option<&StepDefinition> {
        self.definitions.stages.get(stage)?.steps.get(position)?.as_ref()
    }
}

impl Solver {
    /// Looks everything up, and chooses.
    pub(super) async fn reuse(&self, caching: &Caching) -> Reuse {
        let definitions = self.definitions(caching).await;
        let lookups = self.lookups(caching, &definitions).await;
        let (stages, positions) = self.choosable(caching, &definitions, &lookups);
        let Choice { entries, needed } = choose::choose(&stages, self.graph.target);
        let used: Vec<Option<usize>> =
            entries.iter().zip(&positions).map(|(entry, positions)| entry.map(|step| positions[step])).collect();
        Reuse { definitions, lookups, used, needed, differences: OnceCell::new() }
    }

    /// Whether all steps of the stages that are needed were found.
    fn is_whole(&self, reuse: &Reuse) -> bool {
        self.graph.stages.iter().enumerate().filter(|(number, _)| reuse.needed[*number]).all(|(number, stage)| {
            let last = stage.steps.iter().rposition(|step| step.operation != Operation::Metadata);
            last.is_none_or(|last| reuse.first_step(number) > last)
        })
    }

    /// In what the steps that may have to be made differ from the last build's. Nobody asks when there is none.
    pub(super) async fn differences<'a>(&self, reuse: &'a Reuse) -> &'a [Vec<Option<String>>] {
        let reads = |caching: &&Caching| caching.options.reads_steps && !self.is_whole(reuse);
        let Some(caching) = self.caching.as_ref().filter(reads) else { return &[] };
        let compare = || async { self.compare(reuse, self.last_record(caching).await.as_ref()) };
        reuse.differences.get_or_init(compare).await
    }

    async fn lookups(&self, caching: &Caching, definitions: &Definitions) -> Vec<Vec<Lookup>> {
        let stages = self.graph.stages.iter();
        let mut lookups: Vec<Vec<Lookup>> = stages.map(|stage| vec![Lookup::Nothing; stage.steps.len()]).collect();
        if !caching.options.reads_steps {
            return lookups;
        }
        let mut keys = Vec::new();
        for (number, stage) in self.graph.stages.iter().enumerate() {
            for (position, step) in stage.steps.iter().enumerate().filter(|(_, step)| caching.caches(&step.operation)) {
                debug_assert!(step.operation != Operation::Metadata, "what makes no layer is not cached");
                if let Some(definition) = &definitions.stages[number].steps[position] {
                    keys.push((number, position, &definition.key));
                }
            }
        }
        let found =
            keys.into_iter().map(|(number, position, key)| async move { (number, position, caching.find(key).await) });
        let mut found = stream::iter(found).buffer_unordered(LOOKUPS_MAX);
        while let Some((number, position, lookup)) = found.next().await {
            lookups[number][position] = lookup;
        }
        lookups
    }

    /// The graph as far as the choice is concerned, and where its steps are in the graph.
    fn choosable(
        &self,
        caching: &Caching,
        definitions: &Definitions,
        lookups: &[Vec<Lookup>],
    ) -> (Vec<choose::Stage>, Vec<Vec<usize>>) {
        let mut stages = Vec::with_capacity(self.graph.stages.len());
        let mut positions = Vec::with_capacity(self.graph.stages.len());
        for (number, stage) in self.graph.stages.iter().enumerate() {
            let (mut steps, mut places) = (Vec::new(), Vec::new());
            for (position, step) in stage.steps.iter().enumerate() {
                if step.operation == Operation::Metadata {
                    continue;
                }
                let found = match &lookups[number][position] {
                    Lookup::Entry(entry, _) => Some((**entry).clone()),
                    Lookup::Nothing | Lookup::Expired => None,
                };
                let must_run = matches!(step.operation, Operation::Run(_)) && !caching.options.run_layers;
                let key = definitions.stages[number].steps[position].as_ref().map(|definition| definition.key.clone());
                steps.push(choose::Step { key, found, reads: stages_read(&step.operation), must_run });
                places.push(position);
            }
            let (base, base_layers) = match &stage.base {
                Base::Scratch => (None, Vec::new()),
                Base::Stage(below) => (Some(*below), Vec::new()),
                Base::Image(name) => {
                    let image = self.images.get(name);
                    (None, image.map_or(Vec::new(), |image| image.config.rootfs.diff_ids.clone()))
                }
            };
            stages.push(choose::Stage { base, steps, base_layers });
            positions.push(places);
        }
        (stages, positions)
    }

    /// Starts a stage from the entry that is used for it, if one is. What its layers are, every stage knows from then on.
    pub(super) fn reused(&self, reuse: &Reuse, number: usize) -> Result<Option<StageResult>, SolveError> {
        let (Some(caching), Some(position)) = (&self.caching, reuse.used[number]) else { return Ok(None) };
        let Lookup::Entry(entry, source) = &reuse.lookups[number][position] else { return Ok(None) };
        let mut bottom = number;
        while let Base::Stage(below) = self.graph.stages[bottom].base {
            bottom = below;
        }
        let mut state = match &self.graph.stages[bottom].base {
            Base::Image(name) => self.image(name)?,
            Base::Scratch | Base::Stage(_) => StageResult::of_image(Vec::new()),
        };
        for layer in &entry.layers {
            let made = Caching::layer(&self.layers, layer, source);
            let made = made.ok_or(SolveError::Internal("an entry has a layer of an unknown type"))?;
            let made = Made { layer: made, created: layer.created };
            caching.is_made(&layer.step, made.clone());
            state.push(Some(layer.step.clone()), made);
        }
        state.stands_on = Some(entry.stages.clone());
        state.created = entry.created;
        Ok(Some(state))
    }

    /// Lists what was used and found elsewhere than where the build saves, to be copied: a later build may ask there alone.
    /// Of what was found of a stage, that is what the image was made of.
    pub(super) fn keep_found(&self, caching: &Caching, reuse: &Reuse) {
        let uploaded = self.uploaded_stages();
        for (number, lookups) in reuse.lookups.iter().enumerate().filter(|(number, _)| reuse.needed[*number]) {
            let found = lookups[..reuse.first_step(number)].iter().filter_map(|lookup| match lookup {
                Lookup::Entry(entry, source) => Some((&**entry, source)),
                Lookup::Nothing | Lookup::Expired => None,
            });
            let found: Vec<_> = found.collect();
            let Some((used, _)) = found.last().filter(|(_, source)| caching.cache.lacks(source)) else { continue };
            let is_copied = |(entry, source): &&(&Entry, &ImageSource)| {
                used.layers.starts_with(&entry.layers) && caching.cache.lacks(source)
            };
            let entries = found.iter().filter(is_copied);
            let entries = entries.map(|(entry, source)| ((*entry).clone(), (*source).clone())).collect();
            caching.saves.found(FoundStage { entries, in_image: uploaded[number] });
        }
    }

    /// Says why a step was not found.
    pub(super) async fn why(&self, reuse: &Reuse, number: usize, position: usize) -> String {
        let lookup = reuse.lookups.get(number).and_then(|lookups| lookups.get(position));
        let options = self.caching.as_ref().map(|caching| &caching.options);
        let caches = self
            .caching
            .as_ref()
            .is_some_and(|caching| caching.caches(&self.graph.stages[number].steps[position].operation));
        match (lookup, reuse.definition(number, position)) {
            _ if options.is_some_and(|options| !options.reads_steps) => "nothing is looked up (--no-cache)".into(),
            _ if !caches => "steps of this kind are not cached".into(),
            (_, None) => "what it is made of is not known".into(),
            (Some(Lookup::Expired), _) => "its entry is older than --cache-ttl".into(),
            (Some(Lookup::Entry(..)), _) if options.is_some_and(|options| !options.run_layers) => {
                "it stands on a RUN, and those are not cached (--cache-run-layers=false)".into()
            }
            (Some(Lookup::Entry(..)), _) => "its entry was made from another result of a step".into(),
            (_, Some(definition)) => {
                let known = self.differences(reuse).await.get(number).and_then(|steps| steps.get(position)?.clone());
                known.unwrap_or_else(|| self.recorded(number, position, definition).difference(None))
            }
        }
    }

    /// Compares what may have to be made with the last build.
    fn compare(&self, reuse: &Reuse, record: Option<&Record>) -> Vec<Vec<Option<String>>> {
        let difference = |number: usize, position: usize| {
            let may_be_made = reuse.needed[number] && position >= reuse.first_step(number);
            let definition = reuse.definition(number, position).filter(|_| may_be_made)?;
            Some(self.recorded(number, position, definition).difference(record))
        };
        let positions = self.graph.stages.iter().map(|stage| 0..stage.steps.len()).enumerate();
        positions.map(|(number, steps)| steps.map(|position| difference(number, position)).collect()).collect()
    }

    fn recorded(&self, number: usize, position: usize, definition: &StepDefinition) -> RecordedStep {
        let stage = &self.graph.stages[number];
        let steps = stage.steps[..=position].iter().filter(|step| step.operation != Operation::Metadata).count();
        let text = &stage.steps[position].text;
        RecordedStep::new(&stage.name, steps, text, &definition.made_of, &definition.files)
    }

    fn record_tag(&self) -> String {
        let target = &self.graph.stages[self.graph.target];
        misses::tag(&self.dockerfile_name, &target.name, &platform(&target.config))
    }

    async fn last_record(&self, caching: &Caching) -> Option<Record> {
        let found = caching.cache.find(&self.record_tag(), RECORD_TYPE).await?;
        let read = async {
            let descriptor = found.manifest.layers.first().ok_or("it is empty")?;
            let packed = found.source.blob_bytes(&self.registry, descriptor, RECORD_BYTES_MAX).await?;
            let mut json = Vec::new();
            let limit = 16 * RECORD_BYTES_MAX;
            zstd::stream::read::Decoder::new(&packed[..])?.take(limit).read_to_end(&mut json)?;
            Ok::<Record, Box<dyn Error + Send + Sync>>(serde_json::from_slice(&json)?)
        };
        match read.await {
            Ok(record) => Some(record),
            Err(error) => {
                caching.cache.warn(&format!("the record of the last build is not used: {}", explain(&*error)));
                None
            }
        }
    }

    /// Remembers what this build is made of, for the next one's explanations.
    pub(super) fn keep_record(&self, caching: &Caching, reuse: &Reuse) {
        let mut record = Record::default();
        for (number, stage) in reuse.definitions.stages.iter().enumerate() {
            let known = stage.steps.iter().enumerate().filter_map(|(position, step)| Some((position, step.as_ref()?)));
            record.steps.extend(known.map(|(position, step)| self.recorded(number, position, step)));
        }
        let packed = serde_json::to_vec(&record).map_err(std::io::Error::other);
        match packed.and_then(|json| zstd::encode_all(&json[..], 1)) {
            Ok(packed) => {
                let parts = vec![Part::bytes(RECORD_MEDIA_TYPE, packed)];
                let artifact = Artifact { artifact_type: RECORD_TYPE, parts, annotations: BTreeMap::new() };
                caching.saves.artifact(self.record_tag(), artifact);
            }
            Err(error) => caching.cache.warn(&format!("what the build was made of is not kept: {error}")),
        }
    }
}

/// The stages whose files an operation reads.
pub(super) fn stages_read(operation: &Operation) -> Vec<usize> {
    let stage = |from: &From| match from {
        From::Stage(number) => Some(*number),
        From::Context | From::Named(_) | From::Image(_) => None,
    };
    operation.sources().into_iter().filter_map(stage).collect()
}

/// The layers of a stage with the steps that made them, lowest first, if all of these are known.
pub(super) fn stack_of(state: &StageResult) -> Option<Vec<(MadeStep, Arc<StageLayer>)>> {
    let own = &state.layers[state.base_layers..];
    let known = state.steps.iter().all(|step| step.key.is_some());
    known.then(|| state.steps.iter().cloned().zip(own.iter().cloned()).collect())
}
