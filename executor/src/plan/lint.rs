//! The lint rules that need the plan: which variables there are, what the base is, what is excluded. Stages and
//! instructions come in as they are walked, warnings go to the linter.
//!
//! Words are expanded here a second time, on a budget of their own: a rule can neither change nor fail a build.

use std::{cell::RefCell, collections::BTreeSet};

use karve_dockerfile::{
    ast::{Argument, Command, Dockerfile, Instruction, Kind, Transfer, TransferSource, Word},
    diagnostic::Span,
    expand::{Budget, Expander},
    lint::{self, Linter, Rule},
};

use super::{
    arguments::{self, Variables},
    graph::Options,
    port,
    sources::{LAYOUT_PREFIX, SCRATCH},
    stage::State,
};
use crate::image::{config::ImageConfig, platform::Platform, reference::Reference};

/// What trying one ignore pattern counts against the budget.
const PATTERN_COST: usize = 32;

/// The escape character of bodies of heredocs.
const BODY_ESCAPE: char = '\\';

/// What the rules remember of a stage's instructions.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
    /// Whether this stage or one below has a WORKDIR.
    workdir: bool,
    /// Whether the image at the bottom could not be asked for its configuration.
    pub unknown_base: bool,
}

impl Seen {
    /// Returns what a stage on top of this one remembers.
    pub(super) fn inherited(&self) -> Self {
        Self { workdir: self.workdir, unknown_base: self.unknown_base, ..Self::default() }
    }
}

/// A word with its variables replaced, and their names.
struct Looked {
    text: Result<String, String>,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// Looks at the words of one Dockerfile.
pub(super) struct Rules<'a> {
    pub dockerfile: &'a Dockerfile,
    pub options: &'a Options,
    pub linter: &'a Linter,
    pub budget: Budget,
}

impl Rules<'_> {
    /// Expands a word and notes which variables it asks for.
    fn look(&self, text: &str, escape: char, body: bool, variables: &Variables) -> Looked {
        let names = RefCell::new((BTreeSet::new(), BTreeSet::new()));
        let lookup = |name: &str| {
            let value = variables.get(name).map(String::as_str);
            let (matched, unmatched) = &mut *names.borrow_mut();
            let seen = if value.is_some() { matched } else { unmatched };
            if !seen.contains(name) {
                seen.insert(name.to_owned());
            }
            value
        };
        let expander = Expander { escape, lookup: &lookup, budget: &self.budget };
        let text = if body { expander.body(text) } else { expander.word(text) };
        let (matched, unmatched) = names.into_inner();
        Looked { text, matched, unmatched }
    }

    /// Applies the rules of FROM to all of them, also to those that the target does not need.
    pub(super) fn froms(&self, globals: &Variables, defaults: Option<&Variables>) {
        let known = || {
            let declared = self.dockerfile.arguments.iter().map(|argument| argument.name.text.as_str());
            globals.keys().map(String::as_str).chain(declared)
        };
        let declared: BTreeSet<&str> = known().collect();
        let undeclared = |looked: &Looked, word: &Word| {
            for name in looked.unmatched.iter().filter(|name| !declared.contains(name.as_str())) {
                self.linter.report(Rule::UndefinedArgInFrom, word.span, || {
                    let suggestion = self.linter.suggestion(name, known(), "");
                    format!("FROM argument '{name}' is not declared{suggestion}")
                });
            }
        };
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            let look = |word: &Word, variables| self.look(&word.text, self.dockerfile.escape, false, variables);
            undeclared(&look(&stage.base, globals), &stage.base);
            if let Some(text) = defaults.and_then(|defaults| look(&stage.base, defaults).text.ok())
                && !self.names_image(index, &text)
            {
                self.linter.report(Rule::InvalidDefaultArgInFrom, stage.base.span, || {
                    let base = &stage.base.text;
                    format!("Default value for ARG {base} results in empty or invalid base image name")
                });
            }
            if let Some(word) = &stage.platform {
                let looked = look(word, globals);
                undeclared(&looked, word);
                self.platform_flag(stage.name.as_deref().unwrap_or_default(), word, &looked, globals);
            }
        }
    }

    fn names_image(&self, index: usize, name: &str) -> bool {
        let earlier = self.dockerfile.stages.iter().take(index);
        name == SCRATCH
            || name.starts_with(LAYOUT_PREFIX)
            || name.parse::<Reference>().is_ok()
            || earlier.filter_map(|stage| stage.name.as_deref()).any(|stage| stage.eq_ignore_ascii_case(name))
    }

    fn platform_flag(&self, stage: &str, word: &Word, looked: &Looked, globals: &Variables) {
        let Ok(text) = &looked.text else { return };
        let only_target = looked.matched.len() == 1 && looked.matched.contains("TARGETPLATFORM");
        if only_target && looked.unmatched.is_empty() && globals.get("TARGETPLATFORM") == Some(text) {
            self.linter.report(Rule::RedundantTargetPlatform, word.span, || {
                format!(
                    "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                    word.text
                )
            });
        }
        if !looked.matched.is_empty() || !looked.unmatched.is_empty() {
            return;
        }
        // A stage that is named after the platform is meant for it.
        let Ok(platform) = text.parse::<Platform>() else { return };
        if !stage.contains(&platform.os) && !stage.contains(&platform.architecture) {
            self.linter.report(Rule::FromPlatformFlagConstDisallowed, word.span, || {
                format!("FROM --platform flag should not use constant value \"{text}\"")
            });
        }
    }

    /// Compares the platform of a base image with the one that was asked for.
    pub(super) fn base_platform(&self, name: &str, span: Span, expected: &Platform, config: &ImageConfig) {
        let (os, architecture) = (&config.os, &config.architecture);
        if os.is_empty() || architecture.is_empty() {
            return;
        }
        let variant = config.variant.as_deref().map(|variant| format!("/{variant}")).unwrap_or_default();
        let Ok(actual) = format!("{os}/{architecture}{variant}").parse::<Platform>() else { return };
        if (&actual.os, &actual.architecture) != (&expected.os, &expected.architecture) {
            self.linter.report(Rule::InvalidBaseImagePlatform, span, || {
                format!(
                    "Base image {name} was pulled with platform \"{actual}\", expected \"{expected}\" for current build"
                )
            });
        }
    }

    /// Applies the rules of an instruction to the state before it. `trigger_of` is the FROM that brought it, if one did.
    pub(super) fn instruction(
        &self,
        state: &mut State,
        instruction: &Instruction,
        escape: char,
        trigger_of: Option<Span>,
    ) {
        if trigger_of.is_none() {
            lint::instruction(instruction, self.linter);
        }
        let words = Words { rules: self, state, escape, trigger_of };
        words.undefined(instruction);
        words.ports(instruction);
        words.ignored(instruction);
        let place = |span: Span| trigger_of.unwrap_or(span);
        let shown = &instruction.keyword;
        let seen = &mut state.seen;
        match &instruction.kind {
            Kind::Cmd(command) => {
                self.once(&mut seen.cmd, place(instruction.span), shown);
                self.json_form(state, command, place(instruction.span), shown);
            }
            Kind::Entrypoint(command) => {
                self.once(&mut seen.entrypoint, place(instruction.span), shown);
                self.json_form(state, command, place(instruction.span), shown);
            }
            Kind::Healthcheck(_) => self.once(&mut seen.healthcheck, place(instruction.span), shown),
            Kind::Workdir(word) => {
                let first = !std::mem::replace(&mut seen.workdir, true);
                let path = self.look(&word.text, escape, false, &state.environment).text;
                if let Some(path) = path.ok().filter(|path| first && !path.starts_with('/')) {
                    self.linter.report(Rule::WorkdirRelativePath, place(word.span), || {
                        format!("Relative workdir \"{path}\" can have unexpected results if the base image changes")
                    });
                }
            }
            _ => {}
        }
    }

    /// The earlier of two is told: it has no effect. A comment above either silences the rule.
    fn once(&self, last: &mut Option<Span>, span: Span, keyword: &str) {
        let rule = Rule::MultipleInstructionsDisallowed;
        if let Some(earlier) = last.replace(span).filter(|_| self.linter.wants(rule, span.line)) {
            self.linter.report(rule, earlier, || {
                format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
                )
            });
        }
    }

    /// A SHELL of one's own is a reason for the other form.
    fn json_form(&self, state: &State, command: &Command, span: Span, keyword: &str) {
        let own_shell = state.config.config.shell.as_ref().is_some_and(|shell| !shell.is_empty());
        if matches!(command, Command::Shell(_)) && !own_shell && !state.seen.unknown_base {
            self.linter.report(Rule::JSONArgsRecommended, span, || {
                format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals")
            });
        }
    }
}

/// Looks at the words of one instruction.
struct Words<'a> {
    rules: &'a Rules<'a>,
    state: &'a State,
    escape: char,
    trigger_of: Option<Span>,
}

impl Words<'_> {
    fn place(&self, span: Span) -> Span {
        self.trigger_of.unwrap_or(span)
    }

    /// Tells the variables of an instruction that nobody has defined.
    fn undefined(&self, instruction: &Instruction) {
        if self.state.seen.unknown_base || self.rules.linter.is_full() {
            return;
        }
        match &instruction.kind {
            Kind::Env(pairs) | Kind::Label(pairs) => {
                self.undefined_in(pairs.iter().flat_map(|pair| [&pair.key, &pair.value]));
            }
            Kind::Workdir(word) | Kind::User(word) | Kind::StopSignal(word) => self.undefined_in([word]),
            Kind::Volume(words) => self.undefined_in(words),
            Kind::Run(run) => self.undefined_in(&run.mounts),
            Kind::Copy(transfer) | Kind::Add(transfer) => self.undefined_in_transfer(transfer),
            Kind::Arg(arguments) => self.undefined_in_defaults(arguments),
            _ => {}
        }
    }

    fn undefined_in<'w>(&self, words: impl IntoIterator<Item = &'w Word>) {
        for word in words {
            self.tell(&word.text, word.span, false, &self.state.environment, &BTreeSet::new());
        }
    }

    fn undefined_in_transfer(&self, transfer: &Transfer) {
        let flags = [&transfer.chown, &transfer.chmod, &transfer.checksum];
        self.undefined_in(flags.into_iter().flatten().chain([&transfer.destination]));
        for source in &transfer.sources {
            match source {
                TransferSource::Path(word) => self.undefined_in([word]),
                TransferSource::Heredoc(heredoc) if heredoc.expand => {
                    self.tell(&heredoc.body, heredoc.span, true, &self.state.environment, &BTreeSet::new());
                }
                TransferSource::Heredoc(_) => {}
            }
        }
    }

    /// A default sees the ARGs before it in the same instruction; one that `--build-arg` replaces is not looked at.
    fn undefined_in_defaults(&self, arguments: &[Argument]) {
        let mut earlier = BTreeSet::new();
        for argument in arguments {
            let name = argument.name.text.as_str();
            if let Some(default) = &argument.default
                && !self.rules.options.build_args.contains_key(name)
            {
                self.tell(&default.text, default.span, false, &self.state.environment, &earlier);
            }
            earlier.insert(name);
        }
    }

    fn tell(&self, text: &str, span: Span, body: bool, variables: &Variables, declared: &BTreeSet<&str>) {
        if !text.contains('$') {
            return;
        }
        let escape = if body { BODY_ESCAPE } else { self.escape };
        let looked = self.rules.look(text, escape, body, variables);
        let known =
            |name: &str| declared.contains(name) || self.state.declares(name) || !arguments::in_environment(name);
        for name in looked.unmatched.iter().filter(|name| !known(name)) {
            let linter = self.rules.linter;
            linter.report(Rule::UndefinedVar, self.place(narrowed(text, span, name, body)), || {
                let names = variables.keys().map(String::as_str);
                format!("Usage of undefined variable '${name}'{}", linter.suggestion(name, names, "$"))
            });
        }
    }

    /// Tells what EXPOSE names besides ports of the container.
    fn ports(&self, instruction: &Instruction) {
        let Kind::Expose(words) = &instruction.kind else { return };
        for word in words {
            let budget = &self.rules.budget;
            let lookup = |name: &str| self.state.environment.get(name).map(String::as_str);
            let Ok(texts) = (Expander { escape: self.escape, lookup: &lookup, budget }).words(&word.text) else {
                return;
            };
            for text in texts {
                let parts = port::split(&text);
                if parts.protocol != parts.protocol.to_lowercase() {
                    self.rules.linter.report(Rule::ExposeProtoCasing, self.place(word.span), || {
                        format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase")
                    });
                }
                if !parts.address.is_empty() || !parts.host.is_empty() {
                    self.rules.linter.report(Rule::ExposeInvalidFormat, self.place(word.span), || {
                        format!(
                            "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
                        )
                    });
                }
            }
        }
    }

    /// Tells sources that `.dockerignore` excludes. With exceptions in it nothing certain can be said.
    fn ignored(&self, instruction: &Instruction) {
        let (transfer, verb) = match &instruction.kind {
            Kind::Copy(transfer) if transfer.from.is_none() => (transfer, "Copy"),
            Kind::Add(transfer) => (transfer, "Add"),
            _ => return,
        };
        let patterns = &self.rules.options.ignored;
        let wanted = self.rules.linter.wants(Rule::CopyIgnoredFile, self.place(instruction.span).line);
        if !wanted || self.rules.linter.is_full() || patterns.is_empty() || patterns.has_exceptions() {
            return;
        }
        for source in &transfer.sources {
            let TransferSource::Path(word) = source else { continue };
            let path = self.rules.look(&word.text, self.escape, false, &self.state.environment).text;
            let Some(path) = path.ok().filter(|path| !is_remote(path)) else { continue };
            let path = cleaned(&path);
            // Every pattern is tried on every source.
            if self.rules.budget.keep(patterns.len() * PATTERN_COST).is_err() {
                return;
            }
            let excluded =
                if path.is_empty() { patterns.exclude_everything() } else { patterns.excludes(path.as_bytes()) };
            if excluded {
                self.rules.linter.report(Rule::CopyIgnoredFile, self.place(word.span), || {
                    let shown = if path.is_empty() { "." } else { &path };
                    format!("Attempting to {verb} file \"{shown}\" that is excluded by .dockerignore")
                });
            }
        }
    }
}

/// Whether a source is fetched from elsewhere.
fn is_remote(source: &str) -> bool {
    source.contains("://") || source.starts_with("git@")
}

/// Returns a source's path below the root of the context; the root is empty.
fn cleaned(source: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Finds the variable within its word. Where the word is continued on another line, the word is place enough.
fn narrowed(text: &str, span: Span, name: &str, body: bool) -> Span {
    if body || span.length != text.len() {
        return span;
    }
    for (start, length) in [(format!("${name}"), name.len() + 1), (format!("${{{name}"), name.len() + 2)] {
        let ends = |after: usize| !text[after..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
        let found = text.match_indices(&start).find(|(offset, _)| ends(offset + length));
        if let Some((offset, _)) = found {
            return Span { offset: span.offset + offset, length, ..span };
        }
    }
    span
}

#[cfg(test)]
mod tests;
