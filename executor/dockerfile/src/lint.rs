//! The lint rules: what builds, but probably not as it was meant. The names, and what each rule looks at, are those of
//! BuildKit's Dockerfile frontend, so that `# check=` lines mean here what they mean there.
//!
//! ```text
//! tree -> syntax (rules that need no plan) -> Linter (which rules count where) -> Findings
//!                        the planner's rules ---^
//! ```
//!
//! Warnings never change an image. Which rules are wanted is said by the `check` directive and by comments of its form.

mod checks;
mod syntax;

use std::{
    cell::{Cell, RefCell},
    fmt,
};

pub use checks::{Checks, RuleSet};
pub use syntax::{file, instruction};

use crate::{
    ast::Dockerfile,
    diagnostic::{Diagnostic, Lines, Problem, Span},
    lex::split_directive,
    suggest::{closest, did_you_mean},
};

/// How many warnings are kept; the rest is counted.
pub const WARNINGS_MAX: usize = 1_000;

/// How many words all suggestions of a file are compared with.
const COMPARISONS_MAX: usize = 100_000;

/// Declares the rules with their descriptions, in the order of BuildKit's documentation.
macro_rules! rules {
    ($($name:ident $experimental:literal $description:literal,)*) => {
        /// A lint rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $description] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name, as `# check=` has it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it asks for, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => $description,)* }
            }

            /// Whether it counts only where `experimental=` names it.
            pub const fn is_experimental(self) -> bool {
                match self { $(Self::$name => $experimental,)* }
            }
        }
    };
}

rules! {
    StageNameCasing false "Stage names should be lowercase",
    FromAsCasing false "The `as` keyword should match the case of the `from` keyword",
    NoEmptyContinuation false "An instruction should not go on behind an empty line",
    ConsistentInstructionCasing false "All instructions of a Dockerfile should have the same casing, upper or lower",
    DuplicateStageName false "Stage names should be unique",
    ReservedStageName false "`context` and `scratch` should not be names of stages",
    JSONArgsRecommended false "CMD and ENTRYPOINT should be JSON arrays, lest a shell keeps signals from the program",
    MaintainerDeprecated false "A label should name the author, not MAINTAINER",
    UndefinedArgInFrom false "FROM should use ARGs that are declared before the first FROM",
    WorkdirRelativePath false "The first WORKDIR should be absolute, for that of the base image may change",
    UndefinedVar false "Variables should be defined before they are used",
    MultipleInstructionsDisallowed false "CMD, ENTRYPOINT and HEALTHCHECK should occur once in a stage, for only the last counts",
    LegacyKeyValueFormat false "ENV and LABEL should be written with `=`",
    InvalidBaseImagePlatform false "The base image should have the platform that the build asks for",
    RedundantTargetPlatform false "FROM needs no `--platform=$TARGETPLATFORM`: that is the default",
    SecretsUsedInArgOrEnv false "ARG and ENV should not hold secrets, for they end in the image",
    InvalidDefaultArgInFrom false "The defaults of ARGs should make FROM name a valid image",
    FromPlatformFlagConstDisallowed false "The `--platform` of FROM should not be a constant",
    CopyIgnoredFile false "COPY and ADD should not name what `.dockerignore` excludes",
    InvalidDefinitionDescription true "The comment above an ARG or a named stage should be `# <name> <description>`",
    ExposeProtoCasing false "The protocol of EXPOSE should be lowercase",
    ExposeInvalidFormat false "EXPOSE should name a port of the container: no address and no port of the host",
}

impl Rule {
    /// Finds a rule by its name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a rule found, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule; `None` when the `check` comment itself is at fault.
    pub rule: Option<Rule>,
    /// The place and the sentence.
    pub problem: Problem,
}

/// A warning with all that is needed to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownWarning {
    /// The rule; `None` when the `check` comment itself is at fault.
    pub rule: Option<Rule>,
    /// The place, the sentence and the line.
    pub diagnostic: Diagnostic,
}

impl ShownWarning {
    /// Shows it with its rule, the name of the file in front.
    pub fn render(&self, file_name: &str) -> String {
        let label = self.rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
        self.diagnostic.render(file_name, &label)
    }
}

/// Everything that the rules found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// At most [`WARNINGS_MAX`], in the order of the file.
    pub warnings: Vec<Warning>,
    /// How many more there are.
    pub omitted: usize,
    /// The rules that found something, when `error=true` makes that a failure.
    pub violated: RuleSet,
}

impl Findings {
    /// Joins the warnings with their lines of the Dockerfile.
    pub fn show(&self, dockerfile: &Dockerfile) -> Vec<ShownWarning> {
        let mut lines = Lines::new(&dockerfile.source);
        let join =
            |warning: &Warning| ShownWarning { rule: warning.rule, diagnostic: lines.join(warning.problem.clone()) };
        self.warnings.iter().map(join).collect()
    }
}

/// Collects warnings and drops those that are not wanted.
#[derive(Debug)]
pub struct Linter {
    checks: Checks,
    /// First and last line of an instruction, and what the comment above it asks for.
    overrides: Vec<(usize, usize, Checks)>,
    warnings: RefCell<Vec<Warning>>,
    omitted: Cell<usize>,
    found: Cell<RuleSet>,
    comparisons_left: Cell<usize>,
}

impl Linter {
    /// Reads what is wanted: `replacement` (`BUILDKIT_DOCKERFILE_CHECK`), else the `check` directive; and the comments of
    /// its form above instructions, which concern that instruction alone.
    pub fn new(dockerfile: &Dockerfile, replacement: Option<&str>) -> Result<Self, Problem> {
        let mut linter = Self {
            checks: Checks::default(),
            overrides: Vec::new(),
            warnings: RefCell::default(),
            omitted: Cell::default(),
            found: Cell::default(),
            comparisons_left: Cell::new(COMPARISONS_MAX),
        };
        linter.checks = match (replacement, &dockerfile.directives.check) {
            (Some(text), _) => {
                let wrong =
                    |message: String| Problem::new(Span::default(), format!("BUILDKIT_DOCKERFILE_CHECK: {message}"));
                let (checks, unknown) = Checks::parse(text).map_err(wrong)?;
                linter.warn_of_unknown(&unknown, Span::default());
                checks
            }
            (None, Some(word)) => {
                let wrong = |message: String| Problem::new(word.span, message);
                let (checks, unknown) = Checks::parse(until_blank(&word.text)).map_err(wrong)?;
                linter.warn_of_unknown(&unknown, word.span);
                checks
            }
            (None, None) => Checks::default(),
        };
        linter.read_comments(dockerfile);
        Ok(linter)
    }

    fn read_comments(&mut self, dockerfile: &Dockerfile) {
        for comments in &dockerfile.comments {
            let check = comments.lines.iter().find_map(|comment| {
                let (key, value) = split_directive(&comment.text)?;
                key.eq_ignore_ascii_case("check").then_some((comment.span, until_blank(value)))
            });
            let Some((span, text)) = check else { continue };
            match Checks::parse(text) {
                Ok((checks, unknown)) => {
                    self.warn_of_unknown(&unknown, span);
                    self.overrides.push((comments.first_line, comments.last_line, checks));
                }
                Err(message) => self.push(None, Problem::new(span, format!("this comment has no effect: {message}"))),
            }
        }
    }

    /// A misspelt rule is not skipped: its reader should know.
    fn warn_of_unknown(&self, names: &[String], span: Span) {
        for name in names {
            let suggestion = did_you_mean(closest(name, Rule::ALL.iter().map(|rule| rule.name())));
            self.push(None, Problem::new(span, format!("no lint rule is called \"{name}\"{suggestion}")));
        }
    }

    /// Whether a rule counts for the instruction that the line belongs to.
    pub fn wants(&self, rule: Rule, line: usize) -> bool {
        let index = self.overrides.partition_point(|(_, last_line, _)| *last_line < line);
        let own = self.overrides.get(index).filter(|(first_line, ..)| *first_line <= line);
        own.map_or(self.checks, |(.., own)| self.checks.merged(*own)).wants(rule)
    }

    /// Takes a warning if its rule counts where it is.
    pub fn report(&self, rule: Rule, span: Span, message: impl FnOnce() -> String) {
        if self.wants(rule, span.line) {
            self.take(rule, span, message);
        }
    }

    /// Whether more warnings would only be counted.
    pub fn is_full(&self) -> bool {
        self.warnings.borrow().len() >= WARNINGS_MAX
    }

    /// Takes a warning of a rule that counts.
    pub fn take(&self, rule: Rule, span: Span, message: impl FnOnce() -> String) {
        self.found.set(self.found.get().with(rule));
        if self.is_full() {
            self.omitted.set(self.omitted.get() + 1);
        } else {
            self.push(Some(rule), Problem::new(span, message()));
        }
    }

    /// Writes ` (did you mean X?)`, or nothing; also when the file has had suggestions enough.
    pub fn suggestion<'a>(&self, word: &str, known: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
        let left = self.comparisons_left.get();
        let mut used = 0;
        let nearest = closest(word, known.into_iter().take(left).inspect(|_| used += 1));
        self.comparisons_left.set(left - used);
        nearest.map(|nearest| format!(" (did you mean {prefix}{nearest}?)")).unwrap_or_default()
    }

    fn push(&self, rule: Option<Rule>, problem: Problem) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < 2 * WARNINGS_MAX {
            warnings.push(Warning { rule, problem });
        }
    }

    /// Returns what was found, in the order of the file and each thing once.
    pub fn finish(self) -> Findings {
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by(|left, right| {
            let key = |warning: &Warning| (warning.problem.span.line, warning.problem.span.offset, warning.rule);
            key(left).cmp(&key(right)).then_with(|| left.problem.message.cmp(&right.problem.message))
        });
        warnings.dedup();
        let violated = if self.checks.error { self.found.get() } else { RuleSet::default() };
        Findings { warnings, omitted: self.omitted.get(), violated }
    }
}

/// The text up to the first blank: what follows one is a remark.
fn until_blank(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
