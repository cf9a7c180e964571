//! From the graph to an image: runs every stage, independent ones side by side, and hands layers to the uploader as
//! soon as they exist.
//!
//! ```text
//! Stage -> for each Step: copy | run | directory -> Layer -> uploader
//!                 |            |
//!                view       rootfs (materialised only for RUN)
//! ```

pub mod agents;
pub mod assemble;
mod caches;
pub mod caching;
mod content;
pub mod contexts;
mod copy;
pub mod definitions;
pub mod error;
mod extract;
mod fetched;
mod indexes;
pub mod layers;
mod mounts;
pub mod remote;
mod remove;
mod reuse;
mod rootfs;
pub mod saved_caches;
mod saves;
pub mod secrets;
mod stage;
pub mod upload;
pub mod work;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{try_join, try_join_all, try_join3};
use tokio::sync::watch;

use self::{
    agents::Agents,
    assemble::Image,
    caching::Caching,
    contexts::Contexts,
    error::{SolveError, StepError},
    layers::{Layers, StageLayer},
    remote::Remotes,
    reuse::Reuse,
    secrets::Secrets,
    stage::StageRun,
    upload::Uploader,
    work::WorkDirectory,
};
pub use self::{extract::Unpacked, mounts::Mounts, rootfs::Roots, stage::StageResult};
use crate::{
    plan::graph::{Base, Graph, ImageName},
    progress::{Progress, explain},
    registry::{BaseImage, Registry},
    sandbox::client::Sandbox,
};

/// How often a build begins again because a layer of the cache cannot be had. Then it goes without the cache.
const TRIES_MAX: usize = 20;

/// Everything that the steps of a build share.
#[derive(Debug)]
pub struct Solver {
    /// What to build.
    pub graph: Graph,
    /// How errors call the Dockerfile.
    pub dockerfile_name: String,
    /// The build context and the named ones.
    pub contexts: Arc<Contexts>,
    /// What ADD takes from elsewhere.
    pub remotes: Arc<Remotes>,
    /// The client for what the cache holds.
    pub registry: Registry,
    /// The cache, if one is used.
    pub caching: Option<Caching>,
    /// Why no RUN can be executed, if that is so.
    pub isolation_missing: Option<String>,
    /// The images that the graph names.
    pub images: BTreeMap<ImageName, BaseImage>,
    /// Layers and their indexes, each fetched once.
    pub layers: Arc<Layers>,
    /// Root file systems, each materialised once.
    pub roots: Roots,
    /// The directories in which layers lie unpacked.
    pub unpacked: Unpacked,
    /// What the mounts of steps share.
    pub mounts: Arc<Mounts>,
    /// How RUN is executed.
    pub sandbox: Sandbox,
    /// RUN secrets.
    pub secrets: Secrets,
    /// SSH agents.
    pub agents: Agents,
    /// Spool files.
    pub work: Arc<WorkDirectory>,
    /// Takes finished layers.
    pub uploader: Uploader,
    /// Where events go.
    pub progress: Arc<Progress>,
    /// Time of the image, of new history records and of what COPY, ADD and WORKDIR create: seconds since 1970.
    pub epoch: i64,
    /// Annotations of the image.
    pub annotations: BTreeMap<String, String>,
    /// The name of the machine that RUN sees; `None` is the usual one.
    pub hostname: Option<String>,
    /// Whether the layers must be here at the end, cached ones too.
    pub keeps_layers: bool,
    /// Compressing threads for each layer.
    pub threads: usize,
    /// Steps that were run, copied or found in the cache.
    pub steps: AtomicI64,
}

/// A finished build.
#[derive(Debug)]
pub struct Solved {
    /// The image's documents. The configuration is in the registry, the manifest is not.
    pub image: Image,
    /// Its layers, lowest first.
    pub layers: Vec<Arc<StageLayer>>,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
    /// Bytes of layers that were sent to the destinations.
    pub bytes_pushed: i64,
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq)]
pub struct StageTime {
    /// The stage's name.
    pub name: String,
    /// From its first step to its last.
    pub duration: Duration,
}

impl Solver {
    /// Builds the target stage, or takes it from the cache, and waits until its layers are in the registry. What can be used
    /// by later builds is on its way to the cache then, also of a build that fails: see [`Solver::keep`].
    ///
    /// A build that trusted an entry whose layers cannot be had begins again without that entry.
    pub async fn run(&self) -> Result<Solved, SolveError> {
        let mut tries = 0;
        loop {
            let reuse = match &self.caching {
                Some(caching) => self.reuse(caching).await,
                None => Reuse::nothing(self.graph.stages.len()),
            };
            let result = self.run_with(&reuse).await;
            if let (Err(error), Some(caching)) = (&result, &self.caching)
                && let Some(layer) = error.unusable_layer()
                && tries <= TRIES_MAX
            {
                tries += 1;
                if tries > TRIES_MAX {
                    caching.cache.stop_reading();
                }
                caching.cache.warn(&format!("{}: the build begins again without it", explain(error)));
                self.uploader.abandon();
                caching.saves.abandon();
                self.layers.forget(layer);
                self.steps.store(0, Ordering::Relaxed);
                caching.cache.begin_again();
                caching.without(layer);
                self.mounts.begin_again();
                continue;
            }
            if let Some(caching) = self.caching.as_ref().filter(|caching| caching.is_changed()) {
                self.keep_record(caching, &reuse);
            }
            if let (Ok(_), Some(caching)) = (&result, &self.caching) {
                self.keep_found(caching, &reuse);
            }
            break result;
        }
    }

    /// Waits until what was made is in the cache.
    pub async fn keep(&self) {
        if let Some(caching) = &self.caching {
            caching.saves.finish().await;
        }
    }

    async fn run_with(&self, reuse: &Reuse) -> Result<Solved, SolveError> {
        let (target, stages) = self.stages(reuse).await?;
        let config = &self.graph.stages[self.graph.target].config;
        let history = self.history(self.graph.target)?;
        let image = assemble::image(config, &target.layers, &history, &self.annotations, self.epoch)
            .map_err(|_| SolveError::Internal("the documents of an image cannot be written"))?;
        let is_new = self.caching.as_ref().is_none_or(Caching::is_changed);
        let (bytes_pushed, ()) =
            try_join(self.uploader.finish(), self.uploader.document(&image.config, is_new)).await?;
        if self.keeps_layers {
            try_join_all(target.layers.iter().map(|layer| self.layers.blob(layer))).await?;
        }
        Ok(Solved { image, layers: target.layers.clone(), stages, bytes_pushed })
    }

    /// Runs the stages that are needed, side by side.
    ///
    /// The first error ends the build: the other stages are dropped, and with them their processes.
    async fn stages(&self, reuse: &Reuse) -> Result<(Arc<StageResult>, Vec<StageTime>), SolveError> {
        let slots: Vec<_> = self.graph.stages.iter().map(|_| watch::channel(None).0).collect();
        let uploaded = self.uploaded_stages();
        // Before any stage starts: a step that an entry stands on is not made again in another stage.
        let needed = (0..slots.len()).filter(|number| reuse.needed[*number]);
        let reused = needed.map(|number| Ok((number, self.reused(reuse, number)?)));
        let stages = reused.collect::<Result<Vec<_>, SolveError>>()?.into_iter().map(|(number, reused)| {
            let (slots, uploaded) = (&slots, uploaded[number]);
            async move {
                let mut run = StageRun::start(self, number, slots, reuse, reused, uploaded).await?;
                let started = Instant::now();
                run.steps().await?;
                slots[number].send_replace(Some(Arc::new(run.finish())));
                let name = self.graph.stages[number].name.clone();
                Ok::<_, SolveError>(StageTime { name, duration: started.elapsed() })
            }
        });
        // Explained from the start: the first step that is made waits for it.
        let explained = async {
            self.differences(reuse).await;
            Ok(())
        };
        let (times, _, ()) = try_join3(try_join_all(stages), self.fetch_remotes(reuse), explained).await?;
        let target =
            slots[self.graph.target].borrow().clone().ok_or(SolveError::Internal("the target stage has no result"))?;
        Ok((target, times))
    }

    /// Fetches what steps will take from elsewhere, all at once. The steps find it ready, or wait for it.
    async fn fetch_remotes(&self, reuse: &Reuse) -> Result<Vec<()>, SolveError> {
        let needed = self.graph.stages.iter().enumerate().filter(|(number, _)| reuse.needed[*number]);
        let steps = needed
            .flat_map(|(number, stage)| stage.steps[reuse.first_step(number)..].iter().map(move |step| (stage, step)));
        let fetches = steps.flat_map(|(stage, step)| step.operation.remotes().map(move |remote| (stage, step, remote)));
        try_join_all(fetches.map(|(stage, step, remote)| async {
            match self.remotes.get(remote).await {
                Ok(_) => Ok(()),
                Err(error) => Err(StepError::Remote(error).at(&self.dockerfile_name, &stage.name, step)),
            }
        }))
        .await
    }

    /// Which stages' layers become part of the image: the target and the stages below it.
    fn uploaded_stages(&self) -> Vec<bool> {
        let mut uploaded = vec![false; self.graph.stages.len()];
        let mut next = Some(self.graph.target);
        while let Some(number) = next {
            uploaded[number] = true;
            next = match self.graph.stages[number].base {
                Base::Stage(below) => Some(below),
                Base::Scratch | Base::Image(_) => None,
            };
        }
        uploaded
    }

    fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// One slot for each stage's result; filled once.
type Slots = [watch::Sender<Option<Arc<StageResult>>>];

/// Waits until a stage has its result.
async fn result_of(slots: &Slots, number: usize) -> Result<Arc<StageResult>, SolveError> {
    let mut receiver = slots[number].subscribe();
    let result = receiver.wait_for(Option::is_some).await;
    let result = result.map_err(|_| SolveError::Internal("a stage ended without a result"))?;
    result.clone().ok_or(SolveError::Internal("a stage ended without a result"))
}
