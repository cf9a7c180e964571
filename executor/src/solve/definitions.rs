//! The definition keys of all steps, before anything runs: the graph, the files of contexts and what ADD fetches come in.
//!
//! A step whose key cannot be known (a source is missing, a file cannot be fetched) has none, and neither have those that
//! depend on it: it will be run, and will say what is wrong.

use std::collections::HashSet;

use karve_dockerfile::ignore::Patterns;

use super::{Solver, caching::Caching, fetched::RemoteDigests};
use crate::{
    cache::key::{self, CONTEXT_FILES, CopyInputs, Key, MadeOf},
    filesystem::{
        copy::{self, Read},
        path::TreePath,
        view::View,
    },
    image::{config::ImageConfig, digest::Digest},
    plan::graph::{Base, Copy, From, Graph, ImageName, Mount, Operation, Run, Source, Stage},
};

/// What is known of the stages of a graph, in its order.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) stages: Vec<StageDefinition>,
    remotes: RemoteDigests,
}

/// What is known of a stage.
#[derive(Debug, Default)]
pub(super) struct StageDefinition {
    /// For each step of the graph's stage: what it is made of, unless it makes no layer.
    pub(super) steps: Vec<Option<StepDefinition>>,
    /// The definition of its end.
    pub(super) end: Option<Key>,
}

/// What a step is made of.
#[derive(Debug)]
pub(super) struct StepDefinition {
    pub(super) key: Key,
    pub(super) made_of: MadeOf,
    /// The files of the main context that it reads, with digests of what they are.
    pub(super) files: Vec<(TreePath, Digest)>,
}

impl Solver {
    /// Computes the keys of the whole graph.
    pub(super) async fn definitions(&self, caching: &Caching) -> Definitions {
        let mut definitions = Definitions { remotes: self.remote_digests(caching).await, ..Definitions::default() };
        for stage in &self.graph.stages {
            let definition = self.stage_definition(stage, &definitions).await;
            definitions.stages.push(definition);
        }
        definitions
    }

    async fn stage_definition(&self, stage: &Stage, below: &Definitions) -> StageDefinition {
        let (mut parent, mut name) = match &stage.base {
            Base::Scratch => (Some(key::base([].iter())), key::BASE.to_owned()),
            Base::Image(image) => (self.image_key(image), key::BASE.to_owned()),
            Base::Stage(number) => (below.stages[*number].end.clone(), self.stage_name(*number)),
        };
        let platform = platform(&stage.config);
        let mut steps = Vec::with_capacity(stage.steps.len());
        for step in &stage.steps {
            if step.operation == Operation::Metadata {
                steps.push(None);
                continue;
            }
            let definition = match &parent {
                Some(parent) => self.step_definition(&step.operation, &platform, (&name, parent), below).await,
                None => None,
            };
            parent = definition.as_ref().map(|definition| definition.key.clone());
            key::PARENT.clone_into(&mut name);
            steps.push(definition);
        }
        StageDefinition { steps, end: parent }
    }

    async fn step_definition(
        &self,
        operation: &Operation,
        platform: &str,
        (name, parent): (&str, &Key),
        below: &Definitions,
    ) -> Option<StepDefinition> {
        let parent = (name, parent.digest());
        let (made_of, files) = match operation {
            Operation::Metadata => return None,
            Operation::Directory { path, user } => (key::directory(path, user, parent), Vec::new()),
            Operation::Copy(copy) => {
                let (from, files) = self.copy_source(copy, below).await?;
                let mut remotes = Vec::new();
                for source in &copy.sources {
                    if let Source::Remote { remote, .. } = source {
                        remotes.push(below.remotes.get(remote)?.clone());
                    }
                }
                (key::copy(copy, CopyInputs { from, remotes }, parent), files)
            }
            Operation::Run(run) => {
                let (mut mounted, mut files) = (Vec::with_capacity(run.mounts.len()), Vec::new());
                for mount in &run.mounts {
                    mounted.push(match mount.from() {
                        Some(from) => Some(self.mount_source(from, mount, below, &mut files).await?),
                        None => None,
                    });
                }
                (key::run(run, platform, mounted, parent), files)
            }
        };
        Some(StepDefinition { key: made_of.key(), made_of, files })
    }

    /// What a COPY takes its files from: the name of the part and what it is.
    async fn copy_source(
        &self,
        copy: &Copy,
        below: &Definitions,
    ) -> Option<(Option<(String, Digest)>, Vec<(TreePath, Digest)>)> {
        if !copy.sources.iter().any(|source| matches!(source, Source::Path(_))) {
            return Some((None, Vec::new()));
        }
        if !copy.from.is_context() {
            return Some((Some(self.other_source(&copy.from, below)?), Vec::new()));
        }
        let view = self.context_view(&copy.from).await?;
        let reads = reads_of(view, copy)?;
        let digests: Vec<Digest> = reads.iter().map(Read::digest).collect::<Option<_>>()?;
        let digest = copy::digest_of_reads(&reads, &digests);
        let main = reads.into_iter().zip(digests).filter(|_| copy.from == From::Context);
        let files = main.map(|(read, digest)| (read.path, digest)).collect();
        Some((Some((self.context_name(&copy.from), digest)), files))
    }

    /// What a mount shows: the name of the part and what it is.
    async fn mount_source(
        &self,
        from: &From,
        mount: &Mount,
        below: &Definitions,
        files: &mut Vec<(TreePath, Digest)>,
    ) -> Option<(String, Digest)> {
        if !from.is_context() {
            return self.other_source(from, below);
        }
        let view = self.context_view(from).await?;
        let path = view.resolve(mount.source()?.as_bytes(), &TreePath::ROOT).ok()?.path;
        if *from == From::Context {
            let content = |path: TreePath| Some((path.clone(), view.get(&path)?.content()?.digest.clone()?));
            files.extend(view.walk(&path).filter_map(|(path, _)| content(path)));
        }
        Some((self.context_name(from), view.digest(&path)?))
    }

    /// A stage or an image that files come from; `None` for a context, too.
    fn other_source(&self, from: &From, below: &Definitions) -> Option<(String, Digest)> {
        match from {
            From::Context | From::Named(_) => None,
            From::Stage(number) => {
                Some((self.stage_name(*number), below.stages[*number].end.as_ref()?.digest().clone()))
            }
            From::Image(image) => {
                Some((format!("the image `{}`", image.reference), self.image_key(image)?.digest().clone()))
            }
        }
    }

    async fn context_view(&self, from: &From) -> Option<&View> {
        match from {
            From::Context => Some(self.contexts.main()),
            // What is wrong with it the step says that reads it.
            From::Named(number) => self.contexts.named(*number, &self.remotes).await.ok(),
            From::Stage(_) | From::Image(_) => None,
        }
    }

    fn context_name(&self, from: &From) -> String {
        match from {
            From::Named(number) => format!("files of the context `{}`", self.contexts.name(*number)),
            _ => CONTEXT_FILES.to_owned(),
        }
    }

    fn stage_name(&self, number: usize) -> String {
        format!("the stage `{}`", self.graph.stages[number].name)
    }

    fn image_key(&self, name: &ImageName) -> Option<Key> {
        Some(key::base(self.images.get(name)?.config.rootfs.diff_ids.iter()))
    }
}

/// Lists what a COPY reads of a context; `None` where it cannot.
fn reads_of<'view>(view: &'view View, copy: &Copy) -> Option<Vec<Read<'view>>> {
    let exclude = Patterns::from_lines(&copy.exclude).ok()?;
    let excluded = |path: &TreePath| exclude.excludes(path.as_bytes());
    copy::reads(view, &copy.sources, &excluded, copy.parents).ok()
}

/// The platform that the processes of a stage see.
pub(super) fn platform(config: &ImageConfig) -> String {
    let variant = config.variant.as_deref().unwrap_or_default();
    format!("{}/{}/{variant}", config.os, config.architecture)
}

/// Lists the files of the main context whose content the keys of a graph need.
pub fn context_files(graph: &Graph, view: &View) -> HashSet<TreePath> {
    let mut files = HashSet::new();
    let steps = graph.stages.iter().flat_map(|stage| &stage.steps);
    for operation in steps.map(|step| &step.operation) {
        match operation {
            Operation::Copy(copy) if copy.from == From::Context => {
                files.extend(reads_of(view, copy).into_iter().flatten().map(|read| read.path));
            }
            Operation::Run(Run { mounts, .. }) => {
                for mount in mounts.iter().filter(|mount| mount.from() == Some(&From::Context)) {
                    let source = mount.source().unwrap_or_default();
                    if let Ok(resolved) = view.resolve(source.as_bytes(), &TreePath::ROOT) {
                        files.extend(view.walk(&resolved.path).map(|(path, _)| path));
                    }
                }
            }
            Operation::Metadata | Operation::Directory { .. } | Operation::Copy(_) => {}
        }
    }
    files
}
