//! The way down from the target: which stages and images it needs, as far as the ONBUILD triggers of known images tell.

use std::collections::{BTreeMap, BTreeSet};

use karve_dockerfile::{
    ast::{Dockerfile, Instruction, Kind, Word},
    diagnostic::{Problem, Span},
    expand::Budget,
    parse_trigger,
};

use super::{
    arguments::{Expansion, Variables},
    contexts::{Contexts, NamedContext},
    graph::{Bases, ImageName},
    mount, platform,
    sources::{self, Names, Origin, SCRATCH},
};
use crate::image::platform::Platform;

/// The escape character of triggers in an image's configuration: they were taken from their Dockerfile without its directives.
pub(super) const IMAGE_TRIGGER_ESCAPE: char = '\\';

/// What stands before a trigger when it is shown.
const ONBUILD: &str = "ONBUILD ";

/// How far a plan goes.
pub(super) struct Extent<'a> {
    /// Also the stages that the target does not need.
    pub every_stage: bool,
    /// Nothing will be built.
    pub check_only: bool,
    /// Images without a configuration to be had.
    pub unknown: &'a BTreeSet<ImageName>,
}

/// What FROM lines are read with.
pub(super) struct FromLines<'a> {
    pub dockerfile: &'a Dockerfile,
    pub globals: &'a Variables,
    pub budget: &'a Budget,
    /// Of the result.
    pub platform: &'a Platform,
    pub machine: &'a Platform,
}

impl FromLines<'_> {
    pub(super) fn expansion(&self) -> Expansion<'_> {
        Expansion { variables: self.globals, escape: self.dockerfile.escape, budget: self.budget }
    }

    /// Reads the `--platform` of a stage.
    pub(super) fn asked(&self, index: usize) -> Result<Option<Platform>, Problem> {
        let Some(word) = &self.dockerfile.stages[index].platform else { return Ok(None) };
        let text = self.expansion().word(word)?;
        if text.is_empty() {
            return Err(Problem::new(word.span, format!("empty platform value from expression {}", word.text)));
        }
        let invalid = || Problem::new(word.span, format!("invalid platform \"{text}\""));
        platform::parse(&text, self.machine).ok_or_else(invalid).map(Some)
    }

    /// Finds the stages that named contexts replace. A wrong platform is told where the stage is needed.
    pub(super) fn replaced<'c>(&self, contexts: &'c Contexts) -> Vec<Option<&'c NamedContext>> {
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
pub(super) struct Start {
    pub base: StartBase,
    /// Of the stage: its base stage's, `--platform`, or the target's.
    pub platform: Option<Platform>,
    pub triggers: Vec<Instruction>,
    /// Whether the triggers were taken from an image's configuration.
    pub triggers_of_image: bool,
    /// Whether a named context replaces the stage: nothing of it is carried out then.
    pub is_replaced: bool,
}

/// A base, by its number in the Dockerfile rather than in the graph.
pub(super) enum StartBase {
    Scratch,
    Stage(usize),
    Image(ImageName),
}

/// The downward pass.
pub(super) struct Needs<'a> {
    pub dockerfile: &'a Dockerfile,
    pub bases: &'a Bases,
    pub from: &'a FromLines<'a>,
    pub names: &'a Names<'a>,
    /// `Some` for the stages that are needed.
    pub stages: Vec<Option<Start>>,
    /// The images that are needed, and the first line that needs each.
    pub images: BTreeMap<ImageName, usize>,
    pub problems: Vec<Problem>,
}

impl Needs<'_> {
    /// Marks all that the target reaches. Every edge leads to a lower number, so that one pass suffices.
    pub(super) fn follow(&mut self, target: usize, extent: &Extent<'_>) {
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
                        let span = trigger_of.unwrap_or(instruction.span);
                        self.need(sources::image_name(&reference, self.names.platform), span);
                    }
                    Err(problem) => self.problems.push(match trigger_of {
                        Some(span) => in_trigger(instruction, span, problem),
                        None => problem,
                    }),
                }
            }
        }
    }

    fn need(&mut self, image: ImageName, span: Span) {
        let line = self.images.entry(image).or_insert(span.line);
        *line = span.line.min(*line);
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
                    self.need(image.clone(), stage.span);
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
                self.need(image.clone(), stage.span);
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
            let trigger = parse_trigger(text, escape).map_err(|diagnostics| {
                let message = diagnostics.entries.first().map(|entry| entry.message.as_str()).unwrap_or_default();
                Problem::new(span, format!("ONBUILD trigger {text:?} of the base: {message}"))
            })?;
            // So its step is not looked for in the Dockerfile, at the line of the FROM that brought it.
            Ok(Instruction { text: format!("{ONBUILD}{}", trigger.text), ..trigger })
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
pub(super) fn in_trigger(trigger: &Instruction, span: Span, problem: Problem) -> Problem {
    let text = trigger.text.strip_prefix(ONBUILD).unwrap_or(&trigger.text);
    let message = format!("ONBUILD trigger {text:?} of the base: {}", problem.message);
    Problem { span, message, ..problem }
}
