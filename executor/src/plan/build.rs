//! The whole plan. First downwards from the target: which stages and images are needed, as far as the known images' ONBUILD
//! triggers tell. Then upwards: each needed stage is walked on the result of its base.

use std::collections::{BTreeMap, BTreeSet};

use karve_dockerfile::{
    ast::{Dockerfile, Instruction, Kind, Word},
    diagnostic::{Diagnostics, Problem, Span},
    expand::Budget,
    lint::{self, Findings, Linter},
    parse_trigger,
};

use super::{
    arguments::{self, Expansion, Variables},
    contexts::{Contexts, NamedContext},
    graph::{Base, Bases, Graph, ImageName, Options, Planned, Stage},
    lint::Rules,
    mount, platform,
    sources::{self, Names, Origin, SCRATCH},
    stage::{Scope, State},
};
use crate::image::{config::ImageConfig, platform::Platform};

/// The escape character of triggers in an image's configuration: they were taken from their Dockerfile without its directives.
const IMAGE_TRIGGER_ESCAPE: char = '\\';

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
        Ok(Planned::Needs(images)) => (None, images),
        Err(problems) => (Some(dockerfile.diagnostics(problems)), Vec::new()),
    };
    Ok(Checked { mistakes, lint: linter.finish(), needs })
}

/// Starts to collect warnings.
fn linter(dockerfile: &Dockerfile, options: &Options) -> Result<Linter, Diagnostics> {
    let replacement = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK").map(String::as_str);
    Linter::new(dockerfile, replacement).map_err(|problem| dockerfile.diagnostics(vec![problem]))
}

/// How far a plan goes.
struct Extent<'a> {
    /// Also the stages that the target does not need.
    every_stage: bool,
    /// Nothing will be built.
    check_only: bool,
    /// Images without a configuration to be had.
    unknown: &'a BTreeSet<ImageName>,
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
        images: BTreeSet::new(),
        problems: Vec::new(),
    };
    needs.follow(target, extent);
    let Needs { stages, images, problems, .. } = needs;
    let known = |image: &ImageName| bases.contains_key(image) || extent.unknown.contains(image);
    let missing: Vec<ImageName> = images.into_iter().filter(|image| !known(image)).collect();
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

/// What FROM lines are read with.
struct FromLines<'a> {
    dockerfile: &'a Dockerfile,
    globals: &'a Variables,
    budget: &'a Budget,
    /// Of the result.
    platform: &'a Platform,
    machine: &'a Platform,
}

impl FromLines<'_> {
    fn expansion(&self) -> Expansion<'_> {
        Expansion { variables: self.globals, escape: self.dockerfile.escape, budget: self.budget }
    }

    /// Reads the `--platform` of a stage.
    fn asked(&self, index: usize) -> Result<Option<Platform>, Problem> {
        let Some(word) = &self.dockerfile.stages[index].platform else { return Ok(None) };
        let text = self.expansion().word(word)?;
        if text.is_empty() {
            return Err(Problem::new(word.span, format!("empty platform value from expression {}", word.text)));
        }
        let invalid = || Problem::new(word.span, format!("invalid platform \"{text}\""));
        platform::parse(&text, self.machine).ok_or_else(invalid).map(Some)
    }

    /// Finds the stages that named contexts replace. A wrong platform is told where the stage is needed.
    fn replaced<'c>(&self, contexts: &'c Contexts) -> Vec<Option<&'c NamedContext>> {
        let stages = self.dockerfile.stages.iter().enumerate();
        if contexts.is_empty() {
            return stages.map(|_| None).collect();
        }
        let replaced = stages.map(|(index, stage)| {
            let asked = self.asked(index).ok().flatten();
            contexts.find(stage.name.as_deref()?, asked.as_ref().unwrap_or(self.platform))
        });
        replaced.collect()
    }
}

/// What a needed stage starts from, and what its base adds to it.
struct Start {
    base: StartBase,
    /// Of the stage: its base stage's, `--platform`, or the target's.
    platform: Option<Platform>,
    triggers: Vec<Instruction>,
    /// Whether the triggers were taken from an image's configuration.
    triggers_of_image: bool,
    /// Whether a named context replaces the stage: nothing of it is carried out then.
    is_replaced: bool,
}

/// A base, by its number in the Dockerfile rather than in the graph.
enum StartBase {
    Scratch,
    Stage(usize),
    Image(ImageName),
}

/// The downward pass.
struct Needs<'a> {
    dockerfile: &'a Dockerfile,
    bases: &'a Bases,
    from: &'a FromLines<'a>,
    names: &'a Names<'a>,
    /// `Some` for the stages that are needed.
    stages: Vec<Option<Start>>,
    images: BTreeSet<ImageName>,
    problems: Vec<Problem>,
}

impl Needs<'_> {
    /// Marks all that the target reaches. Every edge leads to a lower number, so that one pass suffices.
    fn follow(&mut self, target: usize, extent: &Extent<'_>) {
        let mut needed = vec![extent.every_stage; self.dockerfile.stages.len()];
        needed[target] = true;
        for index in (0..needed.len()).rev() {
            if !needed[index] {
                continue;
            }
            match self.start(index) {
                Ok(start) => {
                    if let StartBase::Stage(base) = start.base {
                        needed[base] = true;
                    }
                    self.follow_sources(index, &start, &mut needed, extent);
                    self.stages[index] = Some(start);
                }
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    /// Marks what the COPYs and mounts of a stage and of its triggers read.
    fn follow_sources(&mut self, index: usize, start: &Start, needed: &mut [bool], extent: &Extent<'_>) {
        if start.is_replaced {
            return;
        }
        let stage = &self.dockerfile.stages[index];
        let own = stage.instructions.iter().map(|instruction| (instruction, None));
        let triggers = start.triggers.iter().map(|trigger| (trigger, Some(stage.span)));
        for (instruction, trigger_of) in triggers.chain(own) {
            for word in sources_of(instruction) {
                match word.and_then(|word| self.names.from(index, &word)) {
                    Ok(Origin::Scratch | Origin::Files(_)) => {}
                    Ok(Origin::Stage(from)) => needed[from] = true,
                    // Only who builds needs what is in it.
                    Ok(Origin::Image(_)) if extent.check_only => {}
                    Ok(Origin::Image(reference)) => {
                        self.images.insert(sources::image_name(&reference, self.names.platform));
                    }
                    Err(problem) => self.problems.push(match trigger_of {
                        Some(span) => in_trigger(instruction, span, problem),
                        None => problem,
                    }),
                }
            }
        }
    }

    /// Resolves a FROM.
    fn start(&mut self, index: usize) -> Result<Start, Problem> {
        let stage = &self.dockerfile.stages[index];
        let asked = self.from.asked(index)?;
        let platform = asked.clone().unwrap_or_else(|| self.from.platform.clone());
        let plain = Start {
            base: StartBase::Scratch,
            // A stage without a base is for the platform of the result, whatever it asks for, as in BuildKit.
            platform: Some(self.from.platform.clone()),
            triggers: Vec::new(),
            triggers_of_image: true,
            is_replaced: false,
        };
        if let Some(context) = self.names.replaced[index] {
            let replaced = Start { is_replaced: true, ..plain };
            return match context {
                NamedContext::Files(_) => {
                    Err(sources::no_base(stage.name.as_deref().unwrap_or_default(), stage.base.span))
                }
                NamedContext::Image(reference) if reference == SCRATCH => Ok(replaced),
                NamedContext::Image(reference) => {
                    let image = sources::image_name(reference, &platform);
                    self.images.insert(image.clone());
                    Ok(Start { base: StartBase::Image(image), platform: Some(platform), ..replaced })
                }
            };
        }
        let name = self.from.expansion().word(&stage.base)?;
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.base.text);
            let hint = "give the ARG a default before the first FROM, or a value with --build-arg";
            return Err(Problem::new(stage.base.span, message).hint(hint));
        }
        match self.names.base(index, &name, &platform, stage.base.span)? {
            Origin::Scratch => Ok(plain),
            Origin::Files(_) => Err(sources::no_base(&name, stage.base.span)),
            Origin::Stage(base) => {
                let (triggers, triggers_of_image) = self.stage_triggers(base, stage.span)?;
                Ok(Start { base: StartBase::Stage(base), platform: asked, triggers, triggers_of_image, ..plain })
            }
            Origin::Image(reference) => {
                let image = sources::image_name(&reference, &platform);
                let triggers = self.image_triggers(&image, stage.span)?;
                self.images.insert(image.clone());
                Ok(Start { base: StartBase::Image(image), platform: Some(platform), triggers, ..plain })
            }
        }
    }

    /// The triggers that an earlier stage leaves, and whether they are an image's: its own, for those of its base are gone;
    /// or those of the image that replaces it.
    fn stage_triggers(&self, base: usize, span: Span) -> Result<(Vec<Instruction>, bool), Problem> {
        if let Some(NamedContext::Image(reference)) = self.names.replaced[base] {
            let platform = self.from.asked(base)?.unwrap_or_else(|| self.from.platform.clone());
            let image = sources::image_name(reference, &platform);
            return Ok((self.image_triggers(&image, span)?, true));
        }
        let instructions = self.dockerfile.stages[base].instructions.iter();
        let texts = instructions.filter_map(|instruction| match &instruction.kind {
            Kind::OnBuild(text) => Some(text.as_str()),
            _ => None,
        });
        Ok((triggers(texts, self.dockerfile.escape, span)?, false))
    }

    /// The triggers of an image; none while it is not known.
    fn image_triggers(&self, image: &ImageName, span: Span) -> Result<Vec<Instruction>, Problem> {
        let Some(config) = self.bases.get(image) else { return Ok(Vec::new()) };
        triggers(config.config.on_build.iter().map(String::as_str), IMAGE_TRIGGER_ESCAPE, span)
    }
}

fn triggers<'a>(texts: impl Iterator<Item = &'a str>, escape: char, span: Span) -> Result<Vec<Instruction>, Problem> {
    texts
        .map(|text| {
            parse_trigger(text, escape).map_err(|diagnostics| {
                let message = diagnostics.entries.first().map(|entry| entry.message.as_str()).unwrap_or_default();
                Problem::new(span, format!("ONBUILD trigger {text:?} of the base: {message}"))
            })
        })
        .collect()
}

/// Lists the words of an instruction that name a stage or an image whose files it reads.
fn sources_of(instruction: &Instruction) -> Vec<Result<Word, Problem>> {
    match &instruction.kind {
        Kind::Copy(transfer) | Kind::Add(transfer) => transfer.from.iter().cloned().map(Ok).collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|word| mount::from(word).transpose()).collect(),
        _ => Vec::new(),
    }
}

/// Puts a problem of a trigger where the FROM is that brought it.
fn in_trigger(trigger: &Instruction, span: Span, problem: Problem) -> Problem {
    let message = format!("ONBUILD trigger {:?} of the base: {}", trigger.text, problem.message);
    Problem { span, message, ..problem }
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
        let line = if start.triggers_of_image { 0 } else { stage.span.line };
        for trigger in &start.triggers {
            self.rules.instruction(&mut begun, trigger, scope.escape, Some(stage.span));
            if let Err(problem) = begun.apply(&scope, trigger, line) {
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
