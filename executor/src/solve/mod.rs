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
pub mod contexts;
mod copy;
pub mod error;
pub mod layers;
mod mounts;
pub mod remote;
mod remove;
mod rootfs;
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

use futures::future::{try_join, try_join_all};
use tokio::sync::watch;

use self::{
    agents::Agents,
    contexts::Contexts,
    error::{SolveError, StepError},
    layers::Layers,
    remote::Remotes,
    secrets::Secrets,
    stage::StageRun,
    upload::Uploader,
    work::WorkDirectory,
};
pub use self::{mounts::Mounts, rootfs::Roots, stage::StageResult};
use crate::{
    plan::graph::{Base, Graph, ImageName, Operation, Source},
    progress::Progress,
    registry::BaseImage,
    sandbox::client::Sandbox,
};

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
    /// The images that the graph names.
    pub images: BTreeMap<ImageName, BaseImage>,
    /// Layers and their indexes, each fetched once.
    pub layers: Arc<Layers>,
    /// Root file systems, each materialised once.
    pub roots: Roots,
    /// What the mounts of steps share.
    pub mounts: Mounts,
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
    /// The name of the machine that RUN sees; `None` is the usual one.
    pub hostname: Option<String>,
    /// Compressing threads for each layer.
    pub threads: usize,
    /// Steps that were run or copied.
    pub steps: AtomicI64,
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
    /// Runs the graph and returns the target stage's layers and history, with the time of every stage.
    ///
    /// The first error ends the build: the other stages are dropped, and with them their processes.
    pub async fn run(&self) -> Result<(Arc<StageResult>, Vec<StageTime>), SolveError> {
        let slots: Vec<_> = self.graph.stages.iter().map(|_| watch::channel(None).0).collect();
        let uploaded = self.uploaded_stages();
        let stages = self.graph.stages.iter().enumerate().map(|(number, stage)| {
            let (slots, uploaded) = (&slots, uploaded[number]);
            async move {
                let mut run = StageRun::start(self, stage, slots, uploaded).await?;
                let started = Instant::now();
                run.steps().await?;
                slots[number].send_replace(Some(Arc::new(run.finish())));
                Ok::<_, SolveError>(StageTime { name: stage.name.clone(), duration: started.elapsed() })
            }
        });
        let (times, _) = try_join(try_join_all(stages), self.fetch_remotes()).await?;
        let target =
            slots[self.graph.target].borrow().clone().ok_or(SolveError::Internal("the target stage has no result"))?;
        Ok((target, times))
    }

    /// Fetches what steps will take from elsewhere, all at once. The steps find it ready, or wait for it.
    async fn fetch_remotes(&self) -> Result<Vec<()>, SolveError> {
        let steps = self.graph.stages.iter().flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)));
        let fetches = steps.flat_map(|(stage, step)| {
            let sources = match &step.operation {
                Operation::Copy(copy) => copy.sources.as_slice(),
                Operation::Metadata | Operation::Directory { .. } | Operation::Run(_) => &[],
            };
            sources.iter().filter_map(move |source| match source {
                Source::Remote { remote, .. } => Some((stage, step, remote)),
                Source::Path(_) | Source::Inline { .. } => None,
            })
        });
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
