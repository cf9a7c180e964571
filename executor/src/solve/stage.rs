//! One stage: starts from its base and walks its steps; every step that touches the file system adds one layer.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;

use super::{
    Slots, Solver,
    error::{SolveError, StepError},
    layers::StageLayer,
    result_of,
    rootfs::Rootfs,
};
use crate::{
    filesystem::{copy, users, view::View},
    image::{config::History, manifest::layer_compression},
    plan::graph::{Base, ImageName, Operation, Stage, Step},
    progress::StepName,
};

/// The end of a stage: what other stages and the image take from it.
#[derive(Clone, Debug, Default)]
pub struct StageResult {
    /// Lowest first.
    pub layers: Vec<Arc<StageLayer>>,
    /// How many of them are the base image's: what other stages may have too.
    pub(super) base_layers: usize,
    /// The history of the base and of every step.
    pub history: Vec<History>,
    /// The merged file system, as far as somebody asked for it: how many layers it holds, and the view.
    view: (usize, View),
    /// The root file system on disk, when a RUN made one.
    pub(super) rootfs: Option<Rootfs>,
}

/// A stage that is being built.
pub(super) struct StageRun<'a> {
    pub(super) solver: &'a Solver,
    stage: &'a Stage,
    pub(super) slots: &'a Slots,
    /// Whether the layers become part of the image.
    uploaded: bool,
    pub(super) state: StageResult,
}

impl StageResult {
    /// Starts from an image, or from nothing.
    pub(super) fn of_image(layers: Vec<Arc<StageLayer>>, history: Vec<History>) -> Self {
        Self { base_layers: layers.len(), layers, history, ..Self::default() }
    }

    /// Brings the view up to date with the layers and returns it; cheap when nothing was added.
    pub(super) async fn view(&mut self, solver: &Solver) -> Result<&View, SolveError> {
        let missing = &self.layers[self.view.0..];
        let indexes = futures::future::try_join_all(missing.iter().map(|layer| solver.layers.index(layer))).await?;
        for index in indexes {
            self.view.1.apply(&index.changes).map_err(SolveError::Base)?;
            self.view.0 += 1;
        }
        Ok(&self.view.1)
    }
}

impl<'a> StageRun<'a> {
    /// Waits for the stage below, or takes the base image.
    pub(super) async fn start(
        solver: &'a Solver,
        stage: &'a Stage,
        slots: &'a Slots,
        uploaded: bool,
    ) -> Result<Self, SolveError> {
        let base = match &stage.base {
            Base::Scratch => StageResult::default(),
            Base::Stage(number) => StageResult::clone(&*result_of(slots, *number).await?),
            Base::Image(name) => solver.image(name)?,
        };
        if uploaded && !matches!(stage.base, Base::Stage(_)) {
            for layer in &base.layers {
                solver.uploader.add(layer);
            }
        }
        Ok(Self { solver, stage, slots, uploaded, state: base })
    }

    /// Runs every step in order.
    pub(super) async fn steps(&mut self) -> Result<(), SolveError> {
        let count = self.stage.steps.iter().filter(|step| step.operation != Operation::Metadata).count();
        let mut number = 0;
        for step in &self.stage.steps {
            if step.operation != Operation::Metadata {
                number += 1;
                let name = StepName { stage: self.stage.name.clone(), number, count };
                self.solver.progress.step_started(&name, &step.text);
                let started = Instant::now();
                let result = self
                    .step(step, &name)
                    .await
                    .map_err(|error| error.at(&self.solver.dockerfile_name, &self.stage.name, step))?;
                self.solver.progress.step_finished(&name, &result, started.elapsed());
                self.solver.count_step();
            }
            self.record(step);
        }
        Ok(())
    }

    /// Hands the result over to the stages that wait for it.
    pub(super) fn finish(self) -> StageResult {
        self.state
    }

    /// Runs one step and says in a few words what it made.
    async fn step(&mut self, step: &Step, name: &StepName) -> Result<String, StepError> {
        let layer = match &step.operation {
            Operation::Metadata => return Ok(String::new()),
            Operation::Directory { path, user } => self.directory(path, user).await?,
            Operation::Copy(operation) => self.copy(operation).await?,
            Operation::Run(run) => self.run(run, name).await?,
        };
        let text = format!("{} ({} bytes)", layer.descriptor.digest, layer.descriptor.size);
        if self.uploaded {
            self.solver.uploader.add(&layer);
        }
        self.state.layers.push(layer);
        Ok(text)
    }

    /// WORKDIR: a layer with the directories that are missing, which may be none.
    async fn directory(&mut self, path: &str, user: &str) -> Result<Arc<StageLayer>, StepError> {
        let epoch = self.solver.epoch;
        let view = self.state.view(self.solver).await?;
        let owner =
            if user.is_empty() { (0, 0) } else { users::resolve_user(view, user).map(|user| (user.uid, user.gid))? };
        let changes = copy::directory(view, path, owner, epoch)?;
        self.solver.write(changes).await
    }

    /// Adds the step's history record; `empty_layer` was decided by the plan.
    fn record(&mut self, step: &Step) {
        let created = Timestamp::from_second(self.solver.epoch).ok().map(|time| time.to_string());
        self.state.history.push(History { created, ..step.history.clone() });
    }
}

impl Solver {
    /// The layers and the history of an image that the graph names.
    pub(super) fn image(&self, name: &ImageName) -> Result<StageResult, SolveError> {
        let image = self.images.get(name).ok_or(SolveError::Internal("an image of the graph was not resolved"))?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for (descriptor, diff_id) in image.layers.iter().zip(&image.config.rootfs.diff_ids) {
            let unknown = || SolveError::LayerMediaType {
                image: name.reference.clone(),
                media_type: descriptor.media_type.clone(),
            };
            let compression = layer_compression(&descriptor.media_type).ok_or_else(unknown)?;
            layers.push(self.layers.base(diff_id, descriptor.clone(), compression, image.source.clone()));
        }
        Ok(StageResult::of_image(layers, image.config.history_of_layers()))
    }
}
