//! `RUN --mount`: what a step mounts comes in, what the sandbox needs for it comes out, held until the step has ended.
//!
//! ```text
//! bind   stage, image: its root file system on disk ┐
//!        context: the part that is asked for        ┴-> lower directories of an overlay that is read-only or thrown away
//! cache  a directory of the work directory (caches.rs)
//! ssh    a socket of the work directory, behind which we answer (solve/agents.rs)
//! secret a value in the request, or a variable
//! ```
//!
//! Nothing of it is part of the stage: the sandbox makes mount points below the upper directory.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use futures::future::try_join_all;
use tokio::{sync::OnceCell, task::spawn_blocking};

use super::{
    Solver,
    caches::{CacheDirectory, CacheHold, CacheKey, CacheMounts, Kept},
    error::{SolveError, StepError},
    layers::{blocking, save},
    remove::remove_all,
    result_of,
    saved_caches::{Restored, SavedCaches},
    stage::{StageResult, StageRun},
};
use crate::{
    agent::AgentSocket,
    filesystem::{entry::Action, path::TreePath},
    layer::Compression,
    plan::graph::{Attributes, BindMount, CacheMount, From, Mount, SecretMount},
    sandbox::{
        error::{Failure, SandboxError},
        request::{self, Archive, OverlayMount, SecretBytes, Unpack, UpperDirectories},
    },
};

/// What a part of somebody's files is called in the directory that it is unpacked into.
const PART: &str = "part";

/// What the mounts of a build share.
#[derive(Debug, Default)]
pub struct Mounts {
    caches: Arc<CacheMounts>,
    /// What caches are kept with beyond the build, if they are.
    saved: OnceLock<SavedCaches>,
    /// What was put on disk to be mounted, by whose files and which part of them.
    lowers: Mutex<BTreeMap<(From, TreePath), Lowers>>,
}

impl Mounts {
    /// Keeps caches beyond the build, if there is something to keep them with. To be said once, before anything runs.
    pub fn keep(&self, saved: Option<SavedCaches>) {
        if let Some(saved) = saved
            && self.saved.set(saved).is_err()
        {
            tracing::debug!("what caches are kept with was said already");
        }
    }

    /// Forgets what an attempt has made that is given up: stages become something else, and some caches were torn from steps.
    pub(super) fn begin_again(&self) {
        self.lowers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.caches.begin_again();
    }

    /// Saves the caches that steps have left. What goes wrong is said, and fails nothing.
    pub async fn save(&self) {
        if let Some(saved) = self.saved.get() {
            saved.save(&self.caches).await;
        }
    }
}

/// The lower directories of an overlay, once they are made.
type Lowers = Arc<OnceCell<Vec<PathBuf>>>;

/// What a step mounts, while it runs.
#[derive(Debug, Default)]
pub(super) struct StepMounts {
    /// Sorted, so that a mount below another comes after it.
    pub(super) requests: Vec<request::Mount>,
    caches: BTreeMap<CacheKey, CacheHold>,
    agents: Vec<AgentSocket>,
    /// What is removed when the step has ended.
    discarded: Vec<PathBuf>,
}

impl StageRun<'_> {
    /// Gathers what is mounted for a step; secrets that it wants as variables go into its environment.
    pub(super) async fn mounts(
        &self,
        mounts: &[Mount],
        environment: &mut BTreeMap<String, String>,
    ) -> Result<StepMounts, StepError> {
        let mut step = StepMounts::default();
        for mount in mounts {
            match mount {
                Mount::Bind(bind) => self.bind(bind, &mut step).await?,
                Mount::Secret(secret) => self.solver.secret(secret, environment, &mut step)?,
                Mount::Tmpfs { target, size, read_only } => {
                    let (target, read_only) = (target.clone(), *read_only);
                    step.requests.push(request::Mount::Tmpfs { target, size: *size, read_only });
                }
                Mount::Ssh(agent) => {
                    let Some(socket) = self.solver.agents.socket(agent, &self.solver.work)? else { continue };
                    let (target, root) = (agent.target.clone(), socket.directory.clone());
                    let source = format!("/{}", AgentSocket::NAME);
                    step.requests.push(request::Mount::Own { target, root, source, read_only: false });
                    step.agents.push(socket);
                }
                Mount::Cache(_) => {}
            }
        }
        // Caches last, for others may wait for them, and in the order of their keys (see `acquire`).
        let caches = mounts.iter().filter_map(|mount| match mount {
            Mount::Cache(cache) => Some((CacheKey::of(cache), cache)),
            _ => None,
        });
        let mut caches: Vec<_> = caches.collect();
        caches.sort_by(|(one, _), (other, _)| one.cmp(other));
        // While a cache is held no stage may be waited for: it may wait for the cache.
        for (_, mount) in &caches {
            if let Some(From::Stage(number)) = mount.from {
                result_of(self.slots, number).await?;
            }
        }
        for (key, mount) in caches {
            self.cache(key, mount, &mut step).await?;
        }
        step.requests.sort_by_cached_key(|mount| TreePath::clean(mount.target().as_bytes()));
        Ok(step)
    }

    async fn bind(&self, bind: &BindMount, step: &mut StepMounts) -> Result<(), StepError> {
        let work = &self.solver.work;
        let (lowers, source) = match &bind.from {
            Some(from) => self.lowers(from, &bind.source, &bind.target).await?,
            None => (vec![work.directory("empty").map_err(StepError::Work)?], bind.source.clone()),
        };
        let upper = if bind.read_only {
            None
        } else {
            let directory = |kind| work.directory(kind).map_err(StepError::Work);
            let upper = UpperDirectories { upper: directory("mount-upper")?, work: directory("mount-work")? };
            step.discarded.extend([upper.upper.clone(), upper.work.clone()]);
            Some(upper)
        };
        let target = bind.target.clone();
        step.requests.push(request::Mount::Overlay(OverlayMount { target, lowers, source, upper }));
        Ok(())
    }

    /// Takes a cache. Mounts of one step that mean the same cache share it, however they are shared with other steps.
    async fn cache(&self, key: CacheKey, mount: &CacheMount, step: &mut StepMounts) -> Result<(), StepError> {
        let root = if let Some(hold) = step.caches.get(&key) {
            hold.path.clone()
        } else {
            let caches = &self.solver.mounts.caches;
            let make = async |is_first| self.new_cache(mount, &key, is_first).await;
            let hold = caches.acquire(&key, mount.sharing, make).await?;
            let path = hold.path.clone();
            step.caches.insert(key, hold);
            path
        };
        let source = if mount.from.is_some() { format!("/{PART}") } else { mount.source.clone() };
        let (target, read_only) = (mount.target.clone(), mount.read_only);
        step.requests.push(request::Mount::Own { target, root, source, read_only });
        Ok(())
    }

    /// Makes what a cache is when no step of this build has used it: what was kept of it, else what it begins with.
    async fn new_cache(&self, mount: &CacheMount, key: &CacheKey, is_first: bool) -> Result<CacheDirectory, StepError> {
        let saved = self.solver.mounts.saved.get().filter(|_| is_first);
        let tag = match saved {
            Some(saved) => self.tag(mount, key, &saved.platform).await?,
            None => None,
        };
        let kept = |tag, before| Kept { tag, name: mount.target.clone(), before };
        if let (Some(saved), Some(tag)) = (saved, &tag)
            && let Some(Restored { path, index }) = saved.restore(tag, &mount.target).await
        {
            return Ok(CacheDirectory { path, kept: Some(kept(tag.clone(), index)) });
        }
        let (root, top, index) = if let Some(from) = &mount.from {
            let (root, index) = Box::pin(self.unpacked_part(from, &mount.source, &mount.target)).await?;
            (root.clone(), root.join(PART), Some(index))
        } else {
            let directory = self.solver.work.directory("cache").map_err(StepError::Work)?;
            set_attributes(&directory, Attributes { mode: 0o755, uid: 0, gid: 0 }).map_err(StepError::Work)?;
            (directory.clone(), directory, None)
        };
        if let Some(attributes) = key.attributes {
            set_attributes(&top, attributes).map_err(StepError::Work)?;
        }
        Ok(CacheDirectory { path: root, kept: tag.map(|tag| kept(tag, index)) })
    }

    /// The tag of what is kept of a cache. One that begins with somebody's files is told by their content; `None` where that
    /// is not known.
    async fn tag(&self, mount: &CacheMount, key: &CacheKey, platform: &str) -> Result<Option<String>, StepError> {
        let Some(from) = &mount.from else { return Ok(Some(key.identity(platform, None).tag())) };
        let view = self.view_of(from).await?;
        let resolved = view.resolve(mount.source.as_bytes(), &TreePath::ROOT);
        let resolved = resolved.map_err(|_| missing(&mount.source, &mount.target))?;
        Ok(view.digest(&resolved.path).map(|seed| key.identity(platform, Some(&seed)).tag()))
    }

    /// The lower directories of an overlay, and where a source is found in it. They are made once for all mounts of it.
    async fn lowers(&self, from: &From, source: &str, target: &str) -> Result<(Vec<PathBuf>, String), StepError> {
        let (part, place) = if from.is_context() { (source, format!("/{PART}")) } else { ("", source.to_owned()) };
        let key = (from.clone(), TreePath::clean(part.as_bytes()));
        let cell = {
            let mut known = self.solver.mounts.lowers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(key).or_default())
        };
        let lowers = cell.get_or_try_init(|| async {
            match from {
                From::Stage(number) => {
                    let mut stage = StageResult::clone(&*result_of(self.slots, *number).await?);
                    self.solver.materialise(&mut stage).await
                }
                From::Image(name) => self.solver.materialise(&mut self.solver.image(name)?).await,
                From::Context | From::Named(_) => Ok(vec![Box::pin(self.unpacked_part(from, source, target)).await?.0]),
            }
        });
        Ok((lowers.await?.clone(), place))
    }

    /// Unpacks a file or directory of somebody's into a new directory, under the name [`PART`]. The files of a context get
    /// the owner and the time that COPY would give them. Returns the directory, and a file with the index of what is in it.
    async fn unpacked_part(&self, from: &From, source: &str, target: &str) -> Result<(PathBuf, PathBuf), StepError> {
        let solver = self.solver;
        let view = self.view_of(from).await?;
        let resolved = view.resolve(source.as_bytes(), &TreePath::ROOT).map_err(|_| missing(source, target))?;
        if resolved.node.is_none() {
            return Err(missing(source, target));
        }
        let mut changes = view.changes_at(&resolved.path, &TreePath::clean(PART.as_bytes()));
        if from.is_context() {
            for change in &mut changes {
                if let Action::Put(metadata, _) = &mut change.action {
                    (metadata.uid, metadata.gid, metadata.mtime) = (0, 0, solver.epoch);
                }
            }
        }
        let written = solver.spool(changes, Compression::None).await?;
        let archive = Archive {
            blob: written.layer.blob,
            compression: written.layer.compression,
            index: solver.work.unused("index"),
        };
        let index = archive.index.clone();
        blocking(move || save(&written.index, &index)).await?;
        let root = solver.work.directory("mount").map_err(StepError::Work)?;
        let request = Unpack::into_root(root.clone(), vec![archive.clone()], solver.threads);
        solver.warn(&solver.sandbox.unpack(request, async { Ok::<_, SandboxError>(()) }).await??);
        let Archive { blob, index, .. } = archive;
        blocking(move || std::fs::remove_file(&blob).map_err(|source| SolveError::file(&blob, source))).await?;
        Ok((root, index))
    }
}

impl Solver {
    fn secret(
        &self,
        secret: &SecretMount,
        environment: &mut BTreeMap<String, String>,
        step: &mut StepMounts,
    ) -> Result<(), StepError> {
        let Some(value) = self.secrets.value(secret)? else {
            // As in BuildKit: a variable that was asked for is there.
            environment.extend(secret.env.clone().map(|variable| (variable, String::new())));
            return Ok(());
        };
        if let Some(variable) = &secret.env {
            let text = String::from_utf8(value.expose().clone());
            let text = text.ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| StepError::SecretNotText(secret.id.clone()))?;
            environment.insert(variable.clone(), text);
        }
        if let Some(target) = secret.target.clone() {
            let (value, mode) = (SecretBytes::new(&value), secret.mode);
            step.requests.push(request::Mount::Secret { target, value, mode, uid: secret.uid, gid: secret.gid });
        }
        Ok(())
    }
}

impl StepMounts {
    /// Gives everything back: caches to those who wait, and what was written to mounts that are thrown away to the disk.
    /// Of a step that has not certainly ended, caches may be torn.
    pub(super) async fn release(self, has_ended: bool) {
        self.caches.into_values().filter(|_| has_ended).for_each(CacheHold::release);
        drop(self.agents);
        let removals = self.discarded.into_iter().map(|path| spawn_blocking(move || remove_all(&path)));
        // What cannot be removed now is removed with the work directory.
        if let Ok(results) = try_join_all(removals).await {
            for error in results.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, "what a mount received cannot be removed yet");
            }
        }
    }
}

fn missing(source: &str, target: &str) -> StepError {
    SandboxError::from(Failure::MountSource { path: source.to_owned(), target: target.to_owned() }).into()
}

fn set_attributes(path: &Path, attributes: Attributes) -> std::io::Result<()> {
    chown(path, Some(attributes.uid), Some(attributes.gid))?;
    std::fs::set_permissions(path, Permissions::from_mode(attributes.mode))
}
