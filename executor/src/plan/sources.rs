//! Which stage, image or named context a name means: the words behind FROM, `--from` and `--target` come in, a stage's number,
//! an image or the number of a context comes out. Names of stages are compared without regard to case.

use karve_dockerfile::{
    ast::{Dockerfile, Stage, Word},
    closest,
    diagnostic::{Fault, Problem, Span},
};

use super::{
    contexts::{Contexts, NamedContext},
    graph::ImageName,
};
use crate::image::{
    platform::Platform,
    reference::{InvalidReference, Reference},
};

/// The name of the image that has nothing in it.
pub(super) const SCRATCH: &str = "scratch";

/// What holds an image on disk rather than in a registry.
pub(super) const LAYOUT_PREFIX: &str = "oci-layout:";

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing: `scratch`.
    Scratch,
    /// A stage, by its number in the Dockerfile.
    Stage(usize),
    /// An image's reference.
    Image(String),
    /// The files of a named context, by its number.
    Files(usize),
}

/// What names may mean.
#[derive(Clone, Debug)]
pub(super) struct Names<'a> {
    pub stages: &'a [Stage],
    pub contexts: &'a Contexts,
    /// The platform of the result: what images behind `--from` are taken for, as in BuildKit, whatever the stage's own is.
    pub platform: &'a Platform,
    /// For every stage the named context that replaces it, if one does.
    pub replaced: Vec<Option<&'a NamedContext>>,
}

/// Finds the stage that the build is for.
pub(super) fn target(dockerfile: &Dockerfile, name: Option<&str>) -> Result<usize, Problem> {
    let last = dockerfile.stages.len().saturating_sub(1);
    let Some(name) = name else { return Ok(last) };
    if let Some(index) = find(&dockerfile.stages, name) {
        return Ok(index);
    }
    if let Some(index) = name.parse::<usize>().ok().filter(|index| *index <= last) {
        return Ok(index);
    }
    let names = dockerfile.stages.iter().filter_map(|stage| stage.name.as_deref());
    let suggestion = closest(name, names).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
    let message = format!("target stage \"{name}\" could not be found{suggestion}");
    Err(Problem::new(Span::default(), message).fault(Fault::StageNotFound))
}

impl Names<'_> {
    /// Finds what FROM names, for the stage of this number: an earlier stage, a named context or an image.
    pub(super) fn base(&self, current: usize, name: &str, platform: &Platform, span: Span) -> Result<Origin, Problem> {
        let found = match find(self.stages.get(..current).unwrap_or_default(), name) {
            Some(index) => self.stage(index),
            None if name == SCRATCH => Origin::Scratch,
            None => self.elsewhere(name, platform, span)?,
        };
        match found {
            Origin::Files(_) => Err(no_base(name, span)),
            found => Ok(found),
        }
    }

    /// Finds what `--from` names, for the stage of this number.
    pub(super) fn from(&self, current: usize, word: &Word) -> Result<Origin, Problem> {
        let name = word.text.as_str();
        if name.contains('$') {
            let problem = Problem::new(word.span, "variable expansion is not supported for --from");
            return Err(problem.hint("define a new stage with FROM using an ARG from global scope, and name it here"));
        }
        let stages = self.stages;
        let found = if name.bytes().all(|byte| byte.is_ascii_digit()) {
            let index = name.parse::<usize>().ok().filter(|index| *index < stages.len());
            Some(index.ok_or_else(|| {
                Problem::new(word.span, format!("invalid stage index {name}")).fault(Fault::StageNotFound)
            })?)
        } else {
            let (before, rest) = stages.split_at_checked(current).unwrap_or((stages, &[]));
            let later = || find(rest, name).map(|index| current + index);
            find(before, name).or_else(later)
        };
        let found = match found {
            None if name.eq_ignore_ascii_case(SCRATCH) => Origin::Scratch,
            None => self.elsewhere(name, self.platform, word.span)?,
            Some(index) if index < current => self.stage(index),
            Some(index) if index == current => {
                let message = format!("circular dependency detected on stage: {}", display_name(stages, current));
                return Err(Problem::new(word.span, message));
            }
            Some(_) => {
                let current = display_name(stages, current);
                let message = format!(
                    "cannot copy from stage \"{name}\", it needs to be defined before current stage \"{current}\""
                );
                return Err(Problem::new(word.span, message));
            }
        };
        match found {
            Origin::Scratch => Err(Problem::new(word.span, "nothing can be copied from `scratch`: it has no files")),
            found => Ok(found),
        }
    }

    /// A stage, or the files that replace it. One that an image replaces stays a stage, for it has its own platform.
    fn stage(&self, index: usize) -> Origin {
        match self.replaced.get(index).copied().flatten() {
            Some(NamedContext::Files(number)) => Origin::Files(*number),
            Some(NamedContext::Image(_)) | None => Origin::Stage(index),
        }
    }

    /// A named context, or an image.
    fn elsewhere(&self, name: &str, platform: &Platform, span: Span) -> Result<Origin, Problem> {
        match self.contexts.find(name, platform) {
            Some(NamedContext::Files(number)) => Ok(Origin::Files(*number)),
            Some(NamedContext::Image(reference)) if reference == SCRATCH => Ok(Origin::Scratch),
            Some(NamedContext::Image(reference)) => image(reference, span),
            None => image(name, span),
        }
    }
}

/// Says that files are no base. BuildKit makes one layer of them; the same can be said in the Dockerfile.
pub(super) fn no_base(name: &str, span: Span) -> Problem {
    let message = format!("the named context `{name}` holds files: a stage starts from an image or from another stage");
    let hint = format!("write FROM scratch and COPY --from={name} / /");
    Problem::new(span, message).hint(hint).fault(Fault::Unsupported)
}

/// Returns a stage's name, or `stage-N`.
fn display_name(stages: &[Stage], index: usize) -> String {
    stages.get(index).and_then(|stage| stage.name.clone()).unwrap_or_else(|| format!("stage-{index}"))
}

/// Finds the last stage of a name.
fn find(stages: &[Stage], name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_ref() == Some(&name))
}

/// Checks the form of an image's reference.
fn image(name: &str, span: Span) -> Result<Origin, Problem> {
    let reference = match name.strip_prefix(LAYOUT_PREFIX) {
        Some("") => return Err(Problem::new(span, format!("`{LAYOUT_PREFIX}` lacks the path of the layout"))),
        Some(_) => return Ok(Origin::Image(name.to_owned())),
        None => name,
    };
    match reference.parse::<Reference>() {
        Ok(_) => Ok(Origin::Image(name.to_owned())),
        Err(InvalidReference { reason, .. }) => {
            let problem = Problem::new(span, format!("invalid image reference \"{name}\": {reason}"));
            if name.chars().any(char::is_uppercase) {
                return Err(problem.hint("no earlier stage has this name"));
            }
            Err(problem)
        }
    }
}

/// Makes the name of an image for a platform.
pub(super) fn image_name(reference: &str, platform: &Platform) -> ImageName {
    ImageName { reference: reference.to_owned(), platform: platform.to_string() }
}
