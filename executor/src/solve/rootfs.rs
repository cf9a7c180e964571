//! RUN: the only step that needs a file system. The stage's layers are materialised once, as the lower directory of an
//! overlay; what a step changed is the upper directory, which then serves as a lower one for the next step.

use std::{
    collections::HashMap,
    mem,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::future::try_join_all;
use tokio::sync::OnceCell;

use super::{
    Solver,
    copy::LAYER_BYTES_MAX,
    error::{SolveError, StepError},
    layers::{Known, StageLayer},
    stage::{StageResult, StageRun},
};
use crate::{
    filesystem::users,
    image::digest::Digest,
    layer::Compression,
    plan::graph::Run,
    progress::{StepName, Tail},
    sandbox::{
        error::{Failure, SandboxError},
        memory,
        request::{self, Archive, Exit, Output, Script, Unpack, UnpackDirectory},
    },
};

/// A stage's file system on disk.
#[derive(Clone, Debug)]
pub(super) struct Rootfs {
    /// Directories for overlayfs, topmost first.
    lowers: Vec<PathBuf>,
    /// How many of the stage's layers they hold.
    layers: usize,
}

/// The materialised file systems by the layers that they hold: stages on one base share one.
#[derive(Debug, Default)]
pub struct Roots(Mutex<HashMap<Vec<Digest>, Arc<OnceCell<PathBuf>>>>);

/// The name of a step's machine, as BuildKit has it.
const HOSTNAME: &str = "buildkitsandbox";

impl StageRun<'_> {
    /// Runs a command and returns the layer with what it changed.
    pub(super) async fn run(&mut self, run: &Run, name: &StepName) -> Result<Arc<StageLayer>, StepError> {
        watching_memory(Box::pin(self.execute(run, name))).await
    }

    async fn execute(&mut self, run: &Run, name: &StepName) -> Result<Arc<StageLayer>, StepError> {
        let solver = self.solver;
        if let Some(reason) = &solver.isolation_missing {
            return Err(StepError::Isolation(reason.clone()));
        }
        let user = users::resolve_user(self.state.view(solver).await?, &run.user)?;
        let mut environment = run.environment.clone();
        environment.extend(run.proxies.clone());
        environment.entry("HOME".to_owned()).or_insert_with(|| user.home.clone());
        let lowers = solver.materialise(&mut self.state).await?;
        let below = self.state.view(solver).await?.clone();
        let upper = solver.work.directory("upper").map_err(StepError::Work)?;
        let index = solver.work.unused("index");
        // Last, for other steps may wait for the caches.
        let mut mounts = self.mounts(&run.mounts, &mut environment).await?;
        let step = request::Step {
            lowers,
            upper: upper.clone(),
            work: solver.work.directory("overlay").map_err(StepError::Work)?,
            mount_point: solver.work.directory("root").map_err(StepError::Work)?,
            arguments: run.arguments.clone(),
            environment,
            working_directory: run.working_directory.clone(),
            user: request::User { uid: user.uid, gid: user.gid, groups: user.groups },
            mounts: mem::take(&mut mounts.requests),
            network_none: run.network_none,
            script: run.script.as_ref().map(|(name, content)| Script { name: name.clone(), content: content.to_vec() }),
            hostname: solver.hostname.clone().unwrap_or_else(|| HOSTNAME.to_owned()),
            layer: Some(Output {
                blob: solver.work.unused("layer"),
                index: index.clone(),
                below,
                below_part: solver.work.unused("below"),
                compression: Compression::Gzip,
                threads: solver.threads,
                size_max: LAYER_BYTES_MAX,
            }),
        };
        let mut tail = Tail::default();
        let result = solver
            .sandbox
            .step(step, |_, line| {
                let line = String::from_utf8_lossy(line);
                tail.push(&solver.progress.mask(&line));
                solver.progress.output(name, &line);
            })
            .await;
        // After a failure that the helper itself tells of nothing runs any more; a helper that is gone tells nothing.
        mounts.release(matches!(result, Ok(_) | Err(SandboxError::Failed(_)))).await;
        let result = result?;
        let layer = match (result.exit, result.layer) {
            (Exit::Code(0), Some(layer)) => layer,
            (exit, _) => {
                return Err(StepError::RunFailed { command: run.arguments.join(" "), exit, tail: tail.lines() });
            }
        };
        let layer = solver.layers.written(layer, Known::File(index));
        solver.unpacked.add([&layer], &upper);
        if let Some(rootfs) = &mut self.state.rootfs {
            rootfs.lowers.insert(0, upper);
            rootfs.layers += 1;
        }
        Ok(layer)
    }
}

impl Solver {
    /// Makes a stage's layers a list of overlay directories, topmost first. The base image is unpacked into one directory,
    /// once for all stages on it; what is above it, or was made since the last call, goes into one more.
    pub(super) async fn materialise(&self, stage: &mut StageResult) -> Result<Vec<PathBuf>, StepError> {
        let Rootfs { mut lowers, layers } = match stage.rootfs.take() {
            Some(rootfs) => rootfs,
            None => self.begin(stage).await?,
        };
        let (below, added) = stage.layers.split_at(layers);
        if !added.is_empty() {
            let below = try_join_all(below.iter().map(|layer| self.index_file(layer))).await?;
            let target = self.target("lower", added).await?;
            lowers.insert(0, target.directory.clone());
            self.unpack(below, vec![target], added).await?;
        }
        stage.rootfs = Some(Rootfs { lowers: lowers.clone(), layers: stage.layers.len() });
        Ok(lowers)
    }

    /// Unpacks a stage's base image, or takes the directory in which another stage has done that. Who does it unpacks what
    /// lies above in its own stage at the same time.
    async fn begin(&self, stage: &StageResult) -> Result<Rootfs, StepError> {
        let (base, added) = stage.layers.split_at(stage.base_layers);
        let key: Vec<Digest> = base.iter().map(|layer| layer.diff_id.clone()).collect();
        let cell = Arc::clone(self.roots.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let mut rootfs = Rootfs { lowers: Vec::new(), layers: base.len() };
        let root = cell.get_or_try_init(|| async {
            let parts = [("base", base), ("lower", added)];
            let parts = parts.into_iter().filter(|(kind, layers)| *kind == "base" || !layers.is_empty());
            let targets = try_join_all(parts.map(|(kind, layers)| self.target(kind, layers))).await?;
            let mut directories = targets.iter().map(|target| target.directory.clone());
            let root = directories.next().ok_or(SolveError::Internal("a base image has no directory"))?;
            let above: Vec<PathBuf> = directories.collect();
            let started = Instant::now();
            self.unpack(Vec::new(), targets, &stage.layers).await?;
            let seconds = started.elapsed().as_secs_f64();
            self.progress.note(&format!("unpacked {} layers in {seconds:.2} s", stage.layers.len()));
            rootfs = Rootfs { lowers: above, layers: stage.layers.len() };
            Ok::<_, StepError>(root)
        });
        let root = root.await?.clone();
        rootfs.lowers.push(root);
        Ok(rootfs)
    }

    /// A new directory, and what the sandbox needs to unpack layers into it.
    async fn target(&self, kind: &str, layers: &[Arc<StageLayer>]) -> Result<UnpackDirectory, StepError> {
        let directory = self.work.directory(kind).map_err(StepError::Work)?;
        let layers = try_join_all(layers.iter().map(|layer| self.packed(layer))).await?;
        Ok(UnpackDirectory { directory, layers })
    }

    /// Has layers unpacked, which are all fetched at once. `layers` are those of the directories, lowest first.
    async fn unpack(
        &self,
        below: Vec<PathBuf>,
        directories: Vec<UnpackDirectory>,
        layers: &[Arc<StageLayer>],
    ) -> Result<(), StepError> {
        let counts = directories.iter().map(|target| (target.directory.clone(), target.layers.len()));
        let places: Vec<(PathBuf, usize)> = counts.collect();
        let fetched = async {
            try_join_all(layers.iter().map(|layer| self.layers.blob(layer))).await?;
            Ok::<_, SolveError>(())
        };
        let request = Unpack { below, directories, threads: self.threads };
        let unpacked = self.sandbox.unpack(request, fetched).await?;
        self.warn(&unpacked.map_err(|error| blame(layers, error))?);
        let mut layers = layers.iter();
        for (directory, count) in places {
            self.unpacked.add(layers.by_ref().take(count), &directory);
        }
        Ok(())
    }

    /// What the sandbox needs to unpack a layer.
    async fn packed(&self, layer: &Arc<StageLayer>) -> Result<Archive, SolveError> {
        let (blob, index) = (self.layers.blob_path(layer), self.index_file(layer).await?);
        Ok(Archive { blob, compression: layer.compression, index })
    }

    async fn index_file(&self, layer: &Arc<StageLayer>) -> Result<PathBuf, SolveError> {
        self.layers.index_file(layer).await.cloned()
    }

    pub(super) fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.progress.warning(warning);
        }
    }
}

/// Does something with processes. If it fails, the kernel is asked whether it killed something of this container for want of
/// memory meanwhile.
pub(super) async fn watching_memory<T>(work: impl Future<Output = Result<T, StepError>>) -> Result<T, StepError> {
    let before = memory::kills();
    match work.await {
        Err(error) if error.is_of_process() && memory::kills() > before => Err(StepError::OutOfMemory(Box::new(error))),
        result => result,
    }
}

/// Blames the cache for layers that cannot be unpacked, if some are of it: an index may be of another layer.
fn blame(layers: &[Arc<StageLayer>], error: SandboxError) -> StepError {
    match &error {
        SandboxError::Failed(Failure::NoSpace { .. }) => return error.into(),
        SandboxError::Failed(_) => {}
        _ => return error.into(),
    }
    // The topmost first: base images have the same indexes for everybody, who would have met what is wrong.
    match layers.iter().rev().find(|layer| layer.is_of_cache()) {
        Some(layer) => layer.blame(error).into(),
        None => error.into(),
    }
}
