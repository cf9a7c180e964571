//! One stage: starts from its base and walks its steps; every step that touches the file system adds one layer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use jiff::Timestamp;
use karve_api::MissReport;

use super::{
    Slots, Solver,
    caching::{Caching, Made},
    error::{SolveError, StepError},
    layers::{Origin, StageLayer},
    result_of,
    reuse::{Reuse, stack_of, stages_read},
    rootfs::Rootfs,
    saves::Finished,
};
use crate::{
    cache::{entry, key::Key},
    filesystem::{copy, entry::Change, users, view::View},
    image::{config::History, digest::Digest, manifest::layer_compression},
    plan::graph::{Base, ImageName, Operation, Run, Stage, Step},
    progress::StepName,
    registry::BaseImage,
};

/// The end of a stage: what other stages and the image take from it.
#[derive(Clone, Debug, Default)]
pub struct StageResult {
    /// Lowest first.
    pub layers: Vec<Arc<StageLayer>>,
    /// How many of them are the base image's: what other stages may have too.
    pub(super) base_layers: usize,
    /// The steps that made the others.
    pub(super) steps: Vec<MadeStep>,
    /// The results of other stages' steps that went into the layers; `None` when two results of one step did.
    pub(super) stands_on: Option<BTreeMap<Key, Digest>>,
    /// When the oldest of all that was made, in seconds since 1970.
    pub(super) created: i64,
    /// The merged file system, as far as somebody asked for it: how many layers it holds, and the view.
    view: (usize, View),
    /// The root file system on disk, when a RUN made one.
    pub(super) rootfs: Option<Rootfs>,
}

impl StageResult {
    /// Starts from an image, or from nothing.
    pub(super) fn of_image(layers: Vec<Arc<StageLayer>>) -> Self {
        let (stands_on, created) = (Some(BTreeMap::new()), i64::MAX);
        Self { base_layers: layers.len(), layers, stands_on, created, ..Self::default() }
    }

    /// Adds the layer of a step.
    pub(super) fn push(&mut self, key: Option<Key>, made: Made) {
        self.created = self.created.min(made.created);
        self.steps.push(MadeStep { key, created: made.created });
        self.layers.push(made.layer);
    }

    /// Remembers that files of another stage went into this one: the results of all its steps, and what they stand on.
    fn stand_on(&mut self, other: &Self) {
        self.created = self.created.min(other.created);
        let (base, own) = other.layers.split_at(other.base_layers);
        let own: Vec<&Digest> = own.iter().map(|layer| &layer.diff_id).collect();
        let results = entry::stacks(base.iter().map(|layer| &layer.diff_id), &own);
        let steps: Option<Vec<_>> =
            other.steps.iter().zip(results).map(|(step, result)| Some((step.key.clone()?, result))).collect();
        let (Some(known), Some(steps), Some(others)) = (&mut self.stands_on, steps, &other.stands_on) else {
            self.stands_on = None;
            return;
        };
        let others = others.iter().map(|(step, result)| (step.clone(), result.clone()));
        for (step, result) in others.chain(steps) {
            if known.insert(step, result.clone()).is_some_and(|known| known != result) {
                self.stands_on = None;
                return;
            }
        }
    }

    /// Brings the view up to date with the layers and returns it; cheap when nothing was added.
    pub(super) async fn view(&mut self, solver: &Solver) -> Result<&View, SolveError> {
        let missing = &self.layers[self.view.0..];
        let indexes = futures::future::try_join_all(missing.iter().map(|layer| solver.layers.index(layer))).await?;
        for index in indexes {
            let layer = &self.layers[self.view.0];
            let applied = self.view.1.apply(&index.changes);
            applied.map_err(|error| if layer.is_of_cache() { layer.blame(error) } else { SolveError::Base(error) })?;
            self.view.0 += 1;
        }
        Ok(&self.view.1)
    }
}

/// A step that has its layer.
#[derive(Clone, Debug)]
pub(super) struct MadeStep {
    /// Its definition, if that is known.
    pub(super) key: Option<Key>,
    /// When the layer was made, in seconds since 1970.
    pub(super) created: i64,
}

/// A stage that is being built.
pub(super) struct StageRun<'a> {
    pub(super) solver: &'a Solver,
    number: usize,
    pub(super) stage: &'a Stage,
    pub(super) slots: &'a Slots,
    reuse: &'a Reuse,
    /// Whether the layers become part of the image.
    uploaded: bool,
    /// Whether a step had to be made, and none has been found by its content since.
    pub(super) has_made: bool,
    pub(super) state: StageResult,
}

/// What a step has to do.
pub(super) enum Work<'a> {
    /// Write a layer with these changes.
    Write(Vec<Change>),
    /// Run a command.
    Run(&'a Run),
}

/// How a step came to its layer.
enum How {
    /// It was made, by whoever holds its result.
    Made,
    /// It was made here just now. The content key, if it has one.
    Fresh(Option<Key>),
    /// It was found by its content key.
    Content(Key),
}

impl<'a> StageRun<'a> {
    /// Takes what is reused; else waits for the stage below, or takes the base image.
    pub(super) async fn start(
        solver: &'a Solver,
        number: usize,
        slots: &'a Slots,
        reuse: &'a Reuse,
        reused: Option<StageResult>,
        uploaded: bool,
    ) -> Result<Self, SolveError> {
        let state = match (reused, &solver.graph.stages[number].base) {
            (Some(reused), _) => reused,
            (None, Base::Scratch) => StageResult::of_image(Vec::new()),
            (None, Base::Stage(below)) => {
                let result = result_of(slots, *below).await?;
                let mut state = StageResult::clone(&*result);
                state.stand_on(&result);
                state
            }
            (None, Base::Image(name)) => solver.image(name)?,
        };
        if uploaded {
            state.layers.iter().for_each(|layer| solver.uploader.add(layer));
        }
        Ok(Self { solver, number, stage: &solver.graph.stages[number], slots, reuse, uploaded, has_made: false, state })
    }

    /// Runs every step in order, behind those that are taken from the cache.
    pub(super) async fn steps(&mut self) -> Result<(), SolveError> {
        let count = self.stage.steps.iter().filter(|step| step.operation != Operation::Metadata).count();
        let first = self.reuse.first_step(self.number);
        let mut number = 0;
        for (position, step) in self.stage.steps.iter().enumerate() {
            if step.operation == Operation::Metadata {
                continue;
            }
            number += 1;
            let name = StepName { stage: self.stage.name.clone(), number, count };
            self.solver.progress.step_started(&name, &step.text);
            let started = Instant::now();
            let result = if position < first {
                self.taken(position + 1 == first)
            } else {
                let result = self.step(position, step, &name).await;
                result.map_err(|error| error.at(&self.solver.dockerfile_name, &self.stage.name, step))?
            };
            self.solver.progress.step_finished(&name, &result, started.elapsed());
            self.solver.count_step();
        }
        Ok(())
    }

    /// Hands the result over to the stages that wait for it.
    pub(super) fn finish(self) -> StageResult {
        self.state
    }

    /// Counts a step whose layer came with an entry, and says so.
    fn taken(&self, is_entry: bool) -> String {
        self.solver.caching.iter().for_each(Caching::hit);
        if is_entry { "cached (by definition)".into() } else { "cached (below a later step)".into() }
    }

    /// Makes one step, or finds what it makes, and says in a few words what that is.
    async fn step(&mut self, position: usize, step: &'a Step, name: &StepName) -> Result<String, StepError> {
        let read = stages_read(&step.operation);
        if !read.is_empty() {
            // While others are being built: what is below this step may have to be fetched.
            self.state.view(self.solver).await?;
        }
        for stage in read {
            let result = result_of(self.slots, stage).await?;
            self.state.stand_on(&result);
        }
        let definition = self.reuse.definition(self.number, position);
        let mut how = How::Made;
        let made = match (&self.solver.caching, definition) {
            (Some(caching), Some(definition)) => {
                let result = caching.result(&definition.key);
                let made = result.get_or_try_init(|| async {
                    let made;
                    (made, how) = self.find_or_make(caching, position, step, name).await?;
                    Ok::<_, StepError>(made)
                });
                made.await?.clone()
            }
            (caching, _) => {
                if let Some(caching) = caching {
                    self.missed(caching, position, step, name).await;
                }
                how = How::Fresh(None);
                let work = self.work(&step.operation).await?;
                Made { layer: self.make(work, name).await?, created: i64::MIN }
            }
        };
        let text = self.outcome(&how, &made.layer);
        if self.uploaded {
            self.solver.uploader.add(&made.layer);
        }
        self.state.push(definition.map(|definition| definition.key.clone()), made);
        self.save(step, how);
        Ok(text)
    }

    /// Looks for a step by the content of what it sees, and makes it if that is not known.
    async fn find_or_make(
        &mut self,
        caching: &Caching,
        position: usize,
        step: &'a Step,
        name: &StepName,
    ) -> Result<(Made, How), StepError> {
        caching.is_not_all_known();
        let work = self.work(&step.operation).await?;
        let (content, found) = if self.is_hardly_found(&work) {
            self.look_up_and_prepare(caching, step, &work).await?
        } else {
            self.look_up(caching, step, &work).await?
        };
        if let (Some(key), Some(made)) = (&content, found) {
            caching.hit();
            // The stage is as an earlier build has seen it.
            self.has_made = false;
            return Ok((made, How::Content(key.clone())));
        }
        self.missed(caching, position, step, name).await;
        self.has_made = true;
        let layer = self.make(work, name).await?;
        Ok((Made { layer, created: caching.now }, How::Fresh(content)))
    }

    /// Counts a step that has to be made, and says why.
    async fn missed(&self, caching: &Caching, position: usize, step: &Step, name: &StepName) {
        let reason = self.solver.why(self.reuse, self.number, position).await;
        self.solver.progress.step_missed(name, &reason);
        let (stage, instruction) = (self.stage.name.clone(), step.text.clone());
        let line = step.line.try_into().unwrap_or(i64::MAX);
        caching.missed(MissReport { stage, line, instruction, reason });
    }

    fn outcome(&self, how: &How, layer: &StageLayer) -> String {
        match (how, &self.solver.caching) {
            (How::Content(_), _) => "cached (by content)".into(),
            (How::Made, Some(caching)) if matches!(layer.origin, Origin::Cached(..)) => {
                caching.hit();
                "cached (by definition)".into()
            }
            (How::Made, Some(caching)) => {
                caching.hit();
                "made by another stage".into()
            }
            (How::Fresh(_) | How::Made, _) => format!("{} ({} bytes)", layer.descriptor.digest, layer.descriptor.size),
        }
    }

    /// Keeps what was made, or found under another key, for the next build.
    fn save(&self, step: &Step, how: How) {
        let content = match how {
            How::Made => return,
            How::Fresh(content) => content,
            How::Content(key) => Some(key),
        };
        let Some(caching) = self.solver.caching.as_ref().filter(|caching| caching.caches(&step.operation)) else {
            return;
        };
        let (Some(stack), Some(stages)) = (stack_of(&self.state), self.state.stands_on.clone()) else { return };
        let Some((step, _)) = stack.last() else { return };
        let Some(definition) = step.key.clone() else { return };
        let (created, in_image) = (self.state.created, self.uploaded);
        caching.saves.add(Finished { definition, content, stack, stages, created, in_image });
    }

    /// Decides what a step has to do; of COPY, ADD and WORKDIR all but the writing is done then.
    async fn work(&mut self, operation: &'a Operation) -> Result<Work<'a>, StepError> {
        Ok(match operation {
            Operation::Metadata => return Err(SolveError::Internal("a step without a layer is made").into()),
            Operation::Directory { path, user } => Work::Write(self.directory(path, user).await?),
            Operation::Copy(operation) => Work::Write(self.copy(operation).await?),
            Operation::Run(run) => Work::Run(run),
        })
    }

    async fn make(&mut self, work: Work<'_>, name: &StepName) -> Result<Arc<StageLayer>, StepError> {
        match work {
            Work::Write(changes) => self.solver.write(changes).await,
            Work::Run(run) => self.run(run, name).await,
        }
    }

    /// WORKDIR: the directories that are missing, which may be none.
    async fn directory(&mut self, path: &str, user: &str) -> Result<Vec<Change>, StepError> {
        let epoch = self.solver.epoch;
        let view = self.state.view(self.solver).await?;
        let owner =
            if user.is_empty() { (0, 0) } else { users::resolve_user(view, user).map(|user| (user.uid, user.gid))? };
        Ok(copy::directory(view, path, owner, epoch)?)
    }
}

impl Solver {
    /// The layers of an image that the graph names.
    pub(super) fn image(&self, name: &ImageName) -> Result<StageResult, SolveError> {
        let image = self.base_image(name)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for (descriptor, diff_id) in image.layers.iter().zip(&image.config.rootfs.diff_ids) {
            let unknown = || SolveError::LayerMediaType {
                image: name.reference.clone(),
                media_type: descriptor.media_type.clone(),
            };
            let compression = layer_compression(&descriptor.media_type).ok_or_else(unknown)?;
            layers.push(self.layers.base(diff_id, descriptor.clone(), compression, image.source.clone()));
        }
        Ok(StageResult::of_image(layers))
    }

    fn base_image(&self, name: &ImageName) -> Result<&BaseImage, SolveError> {
        self.images.get(name).ok_or(SolveError::Internal("an image of the graph was not resolved"))
    }

    /// The history of a stage: that of its base, and one record for each step. It needs no step to have run.
    pub(super) fn history(&self, number: usize) -> Result<Vec<History>, SolveError> {
        let stage = &self.graph.stages[number];
        let mut history = match &stage.base {
            Base::Scratch => Vec::new(),
            Base::Image(name) => self.base_image(name)?.config.history_of_layers(),
            Base::Stage(below) => self.history(*below)?,
        };
        let created = Timestamp::from_second(self.epoch).ok().map(|time| time.to_string());
        history.extend(stage.steps.iter().map(|step| History { created: created.clone(), ..step.history.clone() }));
        Ok(history)
    }
}
