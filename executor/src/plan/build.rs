//! The whole plan. First downwards from the target: which stages and images are needed, as far as the known images' ONBUILD
//! triggers tell. Then upwards: each needed stage is walked on the result of its base.

use std::collections::{BTreeMap, BTreeSet};

use karve_dockerfile::{
    ast::Dockerfile,
    diagnostic::{Diagnostics, Problem, Span},
    expand::Budget,
    lint::{self, Findings, Linter},
};

use super::{
    arguments::{self, Variables},
    graph::{Base, Bases, Graph, ImageName, Need, Options, Planned, Stage},
    lint::Rules,
    needs::{Extent, FromLines, IMAGE_TRIGGER_ESCAPE, Needs, Start, StartBase, in_trigger},
    sources::{self, Names},
    stage::{Scope, State},
};
use crate::image::{config::ImageConfig, platform::Platform};

/// Plans a build, or says which images' configurations it needs to know first.
pub fn build(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Planned, Diagnostics> {
    let linter = linter(dockerfile, options)?;
    let extent = Extent { every_stage: false, check_only: false, unknown: &BTreeSet::new() };
    let planned = plan(dockerfile, options, bases, &extent, &linter);
    match planned.map_err(|problems| dockerfile.diagnostics(problems))? {
        Planned::Graph(graph) => Ok(Planned::Graph(Graph { lint: linter.finish(), ..graph })),
        needs @ Planned::Needs(_) => Ok(needs),
    }
}

/// What can be said about a Dockerfile without building it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What would keep it from being built.
    pub mistakes: Option<Diagnostics>,
    /// What the lint rules found.
    pub lint: Findings,
    /// Base images whose configurations would tell more.
    pub needs: Vec<ImageName>,
}

/// Plans all stages, or those that the target needs, for the sake of what is wrong with them. `unknown` are images that
/// cannot be asked for their configuration: what depends on it is not judged.
pub fn check(
    dockerfile: &Dockerfile,
    options: &Options,
    bases: &Bases,
    unknown: &BTreeSet<ImageName>,
) -> Result<Checked, Diagnostics> {
    let linter = linter(dockerfile, options)?;
    let extent = Extent { every_stage: options.target.is_none(), check_only: true, unknown };
    let (mistakes, needs) = match plan(dockerfile, options, bases, &extent, &linter) {
        Ok(Planned::Graph(_)) => (None, Vec::new()),
        Ok(Planned::Needs(needed)) => (None, needed.into_iter().map(|need| need.image).collect()),
        Err(problems) => (Some(dockerfile.diagnostics(problems)), Vec::new()),
    };
    Ok(Checked { mistakes, lint: linter.finish(), needs })
}

/// Starts to collect warnings.
fn linter(dockerfile: &Dockerfile, options: &Options) -> Result<Linter, Diagnostics> {
    let replacement = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK").map(String::as_str);
    Linter::new(dockerfile, replacement).map_err(|problem| dockerfile.diagnostics(vec![problem]))
}

fn plan(
    dockerfile: &Dockerfile,
    options: &Options,
    bases: &Bases,
    extent: &Extent<'_>,
    linter: &Linter,
) -> Result<Planned, Vec<Problem>> {
    lint::file(dockerfile, linter);
    let (platform, machine) = platforms(options)?;
    let budget = Budget::default();
    let globals = arguments::globals(dockerfile, options, &platform, &machine, &budget)?;
    let target = sources::target(dockerfile, options.target.as_deref()).map_err(|problem| vec![problem])?;
    let rules = Rules { dockerfile, options, linter, budget: Budget::default() };
    let without_arguments = Options { build_args: BTreeMap::new(), ..options.clone() };
    let defaults = arguments::globals(dockerfile, &without_arguments, &platform, &machine, &rules.budget);
    rules.froms(&globals, defaults.ok().as_ref());
    let from = FromLines { dockerfile, globals: &globals, budget: &budget, platform: &platform, machine: &machine };
    let names = Names {
        stages: &dockerfile.stages,
        contexts: &options.contexts,
        platform: &platform,
        replaced: from.replaced(&options.contexts),
    };
    let mut needs = Needs {
        dockerfile,
        bases,
        from: &from,
        names: &names,
        stages: dockerfile.stages.iter().map(|_| None).collect(),
        images: BTreeMap::new(),
        problems: Vec::new(),
    };
    needs.follow(target, extent);
    let Needs { stages, images, problems, .. } = needs;
    let known = |image: &ImageName| bases.contains_key(image) || extent.unknown.contains(image);
    let missing = images.into_iter().filter(|(image, _)| !known(image));
    let missing: Vec<Need> = missing.map(|(image, line)| Need { image, line }).collect();
    if !missing.is_empty() && problems.is_empty() {
        return Ok(Planned::Needs(missing));
    }
    // With mistakes in FROM lines the other stages are walked all the same, for the sake of theirs.
    let partial = !problems.is_empty();
    let walk = Walk { dockerfile, options, bases, names: &names, from: &from, extent, partial, rules };
    walk.graph(stages, target, problems).map(Planned::Graph)
}

/// Reads the platform of the result and the machine's; an unknown machine's is the result's.
fn platforms(options: &Options) -> Result<(Platform, Platform), Vec<Problem>> {
    let read = |text: &str| {
        text.parse::<Platform>().map_err(|_| {
            let problem = Problem::new(Span::default(), format!("invalid platform \"{text}\""));
            vec![problem.hint("a platform is os/architecture or os/architecture/variant, such as linux/amd64")]
        })
    };
    let target = read(&options.platform)?;
    let machine = if options.build_platform.is_empty() { target.clone() } else { read(&options.build_platform)? };
    Ok((target, machine))
}

/// The upward pass.
struct Walk<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a Options,
    bases: &'a Bases,
    names: &'a Names<'a>,
    from: &'a FromLines<'a>,
    extent: &'a Extent<'a>,
    /// Some stages cannot be walked, for reasons that are told already.
    partial: bool,
    rules: Rules<'a>,
}

impl Walk<'_> {
    fn graph(
        &self,
        starts: Vec<Option<Start>>,
        target: usize,
        mut problems: Vec<Problem>,
    ) -> Result<Graph, Vec<Problem>> {
        let mut positions: Vec<Option<usize>> = vec![None; starts.len()];
        let mut walked: Vec<(Base, State)> = Vec::new();
        let mut names = Vec::new();
        for (index, start) in starts.into_iter().enumerate() {
            let Some(start) = start else { continue };
            let (base, begun) = match self.begin(index, &start, &positions, &walked) {
                Ok(begun) => begun,
                Err(_) if self.partial => continue,
                Err(problem) => {
                    problems.push(problem);
                    return Err(problems);
                }
            };
            let walked_stage = self.stage(index, &start, begun, &positions, &mut problems);
            positions[index] = Some(walked.len());
            names.push(self.dockerfile.stages[index].name.clone().unwrap_or_else(|| index.to_string()));
            walked.push((base, walked_stage));
        }
        if !problems.is_empty() {
            return Err(once_each(problems));
        }
        let mut stages: Vec<Stage> = names
            .into_iter()
            .zip(walked)
            .map(|(name, (base, end))| Stage { name, base, steps: end.steps, config: end.config })
            .collect();
        let target = positions[target].unwrap_or_default();
        if let Some(stage) = stages.get_mut(target) {
            let labels = self.options.labels.iter().map(|(name, value)| (name.clone(), value.clone()));
            stage.config.config.labels.extend(labels);
            if self.options.platform_asked {
                let Platform { os, architecture, variant, .. } = self.from.platform.clone();
                let same = (&os, &architecture) == (&stage.config.os, &stage.config.architecture);
                // A base may know more than was asked for.
                stage.config.variant = variant.or(stage.config.variant.take().filter(|_| same));
                (stage.config.os, stage.config.architecture) = (os, architecture);
            }
        }
        Ok(Graph { stages, target, lint: Findings::default() })
    }

    /// Makes the state in which a stage begins.
    fn begin(
        &self,
        index: usize,
        start: &Start,
        positions: &[Option<usize>],
        walked: &[(Base, State)],
    ) -> Result<(Base, State), Problem> {
        let from = &self.dockerfile.stages[index];
        let unknown = || Problem::new(from.span, "the base of this stage is not part of the plan");
        match &start.base {
            StartBase::Scratch => {
                let platform = start.platform.clone().ok_or_else(unknown)?;
                Ok((Base::Scratch, State::new(scratch(&platform), platform, Variables::new())))
            }
            StartBase::Image(image) => {
                let platform = start.platform.clone().ok_or_else(unknown)?;
                let Some(mut config) = self.bases.get(image).cloned() else {
                    if !self.extent.unknown.contains(image) {
                        return Err(unknown());
                    }
                    let mut state = State::new(scratch(&platform), platform, Variables::new());
                    state.seen.unknown_base = true;
                    return Ok((Base::Image(image.clone()), state));
                };
                self.rules.base_platform(&image.reference, from.base.span, &platform, &config);
                config.config.on_build.clear();
                Ok((Base::Image(image.clone()), State::new(config, platform, Variables::new())))
            }
            StartBase::Stage(base) => {
                let position = positions.get(*base).copied().flatten().ok_or_else(unknown)?;
                let (_, end) = walked.get(position).ok_or_else(unknown)?;
                if let (Some(asked), Some(word)) = (&start.platform, &from.platform)
                    && *asked != end.platform
                {
                    let message = format!("--platform={asked} differs from the base stage's platform {}", end.platform);
                    return Err(Problem::new(word.span, message));
                }
                self.from.budget.keep(end.size_bytes()).map_err(|message| Problem::new(from.span, message))?;
                let mut config = end.config.clone();
                config.config.on_build.clear();
                Ok((Base::Stage(position), State::upon(end, config)))
            }
        }
    }

    /// Walks a stage: the triggers of its base, then its own instructions. Mistakes do not end the walk.
    fn stage(
        &self,
        index: usize,
        start: &Start,
        mut begun: State,
        positions: &[Option<usize>],
        problems: &mut Vec<Problem>,
    ) -> State {
        if start.is_replaced {
            return begun;
        }
        let stage = &self.dockerfile.stages[index];
        let mut scope = Scope {
            options: self.options,
            globals: self.from.globals,
            machine: self.from.machine,
            names: self.names,
            positions,
            current: index,
            budget: self.from.budget,
            escape: if start.triggers_of_image { IMAGE_TRIGGER_ESCAPE } else { self.dockerfile.escape },
            check_only: self.extent.check_only,
            partial: self.partial,
        };
        for trigger in &start.triggers {
            self.rules.instruction(&mut begun, trigger, scope.escape, Some(stage.span));
            if let Err(problem) = begun.apply(&scope, trigger, stage.span.line) {
                problems.push(in_trigger(trigger, stage.span, problem));
            }
        }
        scope.escape = self.dockerfile.escape;
        for instruction in &stage.instructions {
            self.rules.instruction(&mut begun, instruction, scope.escape, None);
            if let Err(problem) = begun.apply(&scope, instruction, instruction.span.line) {
                problems.push(problem);
            }
        }
        begun
    }
}

/// Drops repetitions: what a FROM brings may be told when it is found and again when it is walked.
fn once_each(problems: Vec<Problem>) -> Vec<Problem> {
    let mut once: Vec<Problem> = Vec::new();
    for problem in problems {
        if !once.contains(&problem) {
            once.push(problem);
        }
    }
    once
}

/// The configuration of nothing.
fn scratch(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".into();
    config
}

#[cfg(test)]
mod tests;
