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
    layers::StageLayer,
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
        request::{self, Archive, Exit, Output, Script, Unpack, UnpackOverlay},
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
    /// Runs a command and returns the layer with what it changed. If it fails, the kernel is asked whether it killed
    /// something of this container for want of memory meanwhile.
    pub(super) async fn run(&mut self, run: &Run, name: &StepName) -> Result<Arc<StageLayer>, StepError> {
        let before = memory::kills();
        match self.execute(run, name).await {
            Err(error) if error.is_of_process() && memory::kills() > before => {
                Err(StepError::OutOfMemory(Box::new(error)))
            }
            result => result,
        }
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
        let layer = solver.written(layer, index).await?;
        if let Some(rootfs) = &mut self.state.rootfs {
            rootfs.lowers.insert(0, upper);
            rootfs.layers += 1;
        }
        Ok(layer)
    }
}

impl Solver {
    /// Makes a stage's layers a list of overlay directories, topmost first. The base image is unpacked into one directory,
    /// once for all stages on it; what COPY and WORKDIR made since the last call goes into one more.
    pub(super) async fn materialise(&self, stage: &mut StageResult) -> Result<Vec<PathBuf>, StepError> {
        let layers = &stage.layers;
        let mut rootfs = if let Some(rootfs) = stage.rootfs.take() {
            rootfs
        } else {
            let base = &layers[..stage.base_layers];
            Rootfs { lowers: vec![self.root_of(base).await?], layers: base.len() }
        };
        let (below, added) = layers.split_at(rootfs.layers);
        if !added.is_empty() {
            let directory = self.work.directory("lower").map_err(StepError::Work)?;
            let request = UnpackOverlay {
                directory: directory.clone(),
                below: try_join_all(below.iter().map(|layer| self.index_file(layer))).await?,
                layers: try_join_all(added.iter().map(|layer| self.packed(layer))).await?,
                threads: self.threads,
            };
            let unpacked = self.sandbox.unpack_overlay(request).await;
            self.warn(&unpacked.map_err(|error| blame(added, error))?);
            rootfs = Rootfs { lowers: [vec![directory], rootfs.lowers].concat(), layers: layers.len() };
        }
        let lowers = rootfs.lowers.clone();
        stage.rootfs = Some(rootfs);
        Ok(lowers)
    }

    /// Unpacks a stack of layers into one directory, once for all stages that start with it.
    async fn root_of(&self, layers: &[Arc<StageLayer>]) -> Result<PathBuf, StepError> {
        let key: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let cell = Arc::clone(self.roots.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let root = cell.get_or_try_init(|| async {
            let directory = self.work.directory("base").map_err(StepError::Work)?;
            let packed = try_join_all(layers.iter().map(|layer| self.packed(layer))).await?;
            let request = Unpack { root: directory.clone(), layers: packed, threads: self.threads };
            let started = Instant::now();
            let unpacked = self.sandbox.unpack(request).await;
            self.warn(&unpacked.map_err(|error| blame(layers, error))?);
            let seconds = started.elapsed().as_secs_f64();
            self.progress.note(&format!("unpacked {} layers in {seconds:.2} s", layers.len()));
            Ok::<_, StepError>(directory)
        });
        root.await.cloned()
    }

    /// What the sandbox needs to unpack a layer.
    async fn packed(&self, layer: &Arc<StageLayer>) -> Result<Archive, SolveError> {
        let blob = self.layers.blob(layer).await?.clone();
        Ok(Archive { blob, compression: layer.compression, index: self.index_file(layer).await? })
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

/// Blames the cache for layers that cannot be unpacked, if some are of it: an index may be of another layer.
fn blame(layers: &[Arc<StageLayer>], error: SandboxError) -> StepError {
    if matches!(error, SandboxError::Failed(Failure::NoSpace { .. })) {
        return error.into();
    }
    match layers.iter().find(|layer| layer.is_of_cache()) {
        Some(layer) => layer.blame(error).into(),
        None => error.into(),
    }
}
