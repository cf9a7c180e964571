//! One stage, instruction by instruction: its base's configuration and its instructions come in, steps and the
//! configuration at its end come out.
//!
//! Two environments are kept apart: the variables that words and RUN see (ENV and ARG, whoever wrote last), and the
//! configuration's (ENV only).

use std::collections::BTreeMap;

use karve_dockerfile::{
    ast::{self, Argument, Command, Instruction, Kind, Pair, Word},
    diagnostic::{Problem, Span},
    expand::Budget,
};

use super::{
    arguments::{self, Expansion, Variables},
    config,
    graph::{From, Operation, Options, Step},
    lint::Seen,
    remote,
    sources::{self, Names, Origin},
    transfer,
};
use crate::image::{
    config::{History, ImageConfig},
    platform::Platform,
};

/// Who wrote a history record, as tools know it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// How many ARGs a stage may have, and how many variables ENV.
const VARIABLES_MAX: usize = 10_000;

/// How much of an instruction is shown in progress and errors.
const STEP_TEXT_CHARACTERS_MAX: usize = 500;

/// What is around a stage and does not change while it is walked.
pub(super) struct Scope<'a> {
    pub options: &'a Options,
    pub globals: &'a Variables,
    pub machine: &'a Platform,
    pub names: &'a Names<'a>,
    /// Where the stages of the Dockerfile are in the graph.
    pub positions: &'a [Option<usize>],
    /// The number of this stage in the Dockerfile.
    pub current: usize,
    /// The escape character of the instructions that follow: a trigger of an image has its own.
    pub escape: char,
    /// What all stages may cost together.
    pub budget: &'a Budget,
    /// Nothing is built: what only this machine lacks is no mistake.
    pub check_only: bool,
    /// Some stages are missing because of mistakes that are told already.
    pub partial: bool,
}

impl Scope<'_> {
    /// Resolves `--from`.
    pub(super) fn from(&self, word: &Word) -> Result<From, Problem> {
        match self.names.from(self.current, word)? {
            Origin::Scratch => Err(Problem::new(word.span, "`scratch` has no files")),
            Origin::Files(number) => Ok(From::Named(number)),
            Origin::Image(reference) => Ok(From::Image(sources::image_name(&reference, self.names.platform))),
            Origin::Stage(index) => match self.positions.get(index).copied().flatten() {
                Some(position) => Ok(From::Stage(position)),
                None if self.partial => Ok(From::Context),
                None => Err(Problem::new(word.span, format!("stage {index} is not part of the plan"))),
            },
        }
    }
}

/// Where a step comes from, and how it is shown.
#[derive(Clone, Debug)]
pub(super) struct At {
    /// For a problem.
    span: Span,
    /// For the step.
    line: usize,
    /// For the step, on one line.
    text: String,
}

impl At {
    /// Cuts `text` to what is shown of an instruction.
    pub(super) fn new(instruction: &Instruction, line: usize, text: &str) -> Self {
        Self { span: instruction.span, line, text: step_text(text) }
    }
}

/// A stage while it is walked, and at its end.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub config: ImageConfig,
    /// ENV and ARG.
    pub environment: Variables,
    pub platform: Platform,
    pub steps: Vec<Step>,
    /// The ARGs of this stage, for the history.
    pub arguments: Vec<(String, Option<String>)>,
    /// Where in `arguments` a name is.
    positions: BTreeMap<String, usize>,
    /// Whether this stage has a CMD of its own.
    pub command_set: bool,
    /// What the lint rules remember.
    pub seen: Seen,
}

impl State {
    /// Begins a stage on a base's configuration. ARGs of a base stage come in `inherited`.
    pub(super) fn new(mut config: ImageConfig, platform: Platform, inherited: Variables) -> Self {
        config::default_path(&mut config);
        let mut environment = inherited;
        for entry in &config.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.insert(name.to_owned(), value.to_owned());
        }
        Self {
            config,
            environment,
            platform,
            steps: Vec::new(),
            arguments: Vec::new(),
            positions: BTreeMap::new(),
            command_set: false,
            seen: Seen::default(),
        }
    }

    /// Begins a stage on an earlier stage, whose ARGs stay: in the environment and in the history.
    pub(super) fn upon(below: &Self, config: ImageConfig) -> Self {
        let (arguments, positions) = (below.arguments.clone(), below.positions.clone());
        Self {
            arguments,
            positions,
            seen: below.seen.inherited(),
            ..Self::new(config, below.platform.clone(), below.environment.clone())
        }
    }

    /// Returns about how much a stage on top of this one copies.
    pub(super) fn size_bytes(&self) -> usize {
        let pairs = self.environment.iter().chain(&self.config.config.labels);
        let history = self.config.history.iter().filter_map(|record| record.created_by.as_deref());
        pairs.map(|(name, value)| 2 * (name.len() + value.len())).sum::<usize>() + history.map(str::len).sum::<usize>()
    }

    /// Applies one instruction. `line` is where the step says that it comes from.
    pub(super) fn apply(&mut self, scope: &Scope<'_>, instruction: &Instruction, line: usize) -> Result<(), Problem> {
        let problem = |message: String| Problem::new(instruction.span, message);
        let created_by = match &instruction.kind {
            Kind::Run(run) => return self.run(scope, instruction, run, line),
            Kind::Copy(copy) => return self.copy(scope, instruction, copy, line),
            Kind::Add(add) => return self.copy(scope, instruction, add, line),
            Kind::Workdir(path) => return self.workdir(scope, instruction, path, line),
            Kind::OnBuild(trigger) => {
                // No step and no history here: the instruction gets both where it runs.
                self.config.config.on_build.push(trigger.clone());
                return Ok(());
            }
            Kind::Arg(arguments) => self.arg(scope, arguments)?,
            Kind::Env(pairs) => {
                let pairs = self.pairs(scope, pairs)?;
                if self.config.config.env.len() + pairs.len() > VARIABLES_MAX {
                    return Err(problem(format!("more than {VARIABLES_MAX} variables")));
                }
                self.env(pairs)
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(scope, pairs)?;
                self.label(pairs)
            }
            Kind::Expose(words) => {
                // In the order of what is written, as BuildKit sorts it, not of what it means.
                let mut words: Vec<&Word> = words.iter().collect();
                words.sort_by(|left, right| left.text.cmp(&right.text));
                let mut ports = Vec::new();
                for word in words {
                    ports.extend(self.expansion(scope).words(word)?);
                }
                self.expose(&ports, scope.budget).map_err(problem)?
            }
            Kind::Volume(words) => {
                let paths = words.iter().map(|word| self.expand(scope, word)).collect::<Result<_, _>>()?;
                self.volume(paths).map_err(problem)?
            }
            Kind::User(word) => {
                let user = self.expand(scope, word)?;
                self.user(user)
            }
            Kind::StopSignal(word) => {
                let name = self.expand(scope, word)?;
                self.stop_signal(name).map_err(problem)?
            }
            Kind::Cmd(command) => {
                let arguments = self.arguments_of(command);
                self.cmd(arguments)
            }
            Kind::Entrypoint(command) => {
                let arguments = self.arguments_of(command);
                self.entrypoint(arguments)
            }
            Kind::Shell(shell) => self.shell(shell),
            Kind::Healthcheck(check) => self.healthcheck(check),
            Kind::Maintainer(name) => self.maintainer(name),
        };
        self.push(scope, At::new(instruction, line, &instruction.text), Operation::Metadata, created_by)
    }

    /// Whether an ARG of this stage or of those below has the name.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.positions.contains_key(name)
    }

    /// Adds a step. What it and its record hold counts against the budget: a few words may stand for much.
    pub(super) fn push(
        &mut self,
        scope: &Scope<'_>,
        at: At,
        operation: Operation,
        created_by: String,
    ) -> Result<(), Problem> {
        let At { span, line, text } = at;
        let path_bytes = if let Operation::Directory { path, .. } = &operation { 2 * path.len() } else { 0 };
        let kept = scope.budget.keep(text.len() + created_by.len() + path_bytes);
        kept.map_err(|message| Problem::new(span, message))?;
        let history = History {
            created_by: Some(created_by),
            comment: Some(HISTORY_COMMENT.into()),
            empty_layer: operation == Operation::Metadata,
            ..History::default()
        };
        self.steps.push(Step { text, line, operation, history });
        Ok(())
    }

    /// What words are expanded with at this point.
    pub(super) fn expansion<'a>(&'a self, scope: &Scope<'a>) -> Expansion<'a> {
        Expansion { variables: &self.environment, escape: scope.escape, budget: scope.budget }
    }

    fn expand(&self, scope: &Scope<'_>, word: &Word) -> Result<String, Problem> {
        self.expansion(scope).word(word)
    }

    /// Expands pairs, all of them with the variables from before the instruction.
    fn pairs(&self, scope: &Scope<'_>, pairs: &[Pair]) -> Result<Vec<(String, String)>, Problem> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let name = self.expand(scope, &pair.key)?;
            if name.is_empty() {
                return Err(Problem::new(pair.key.span, "names can not be blank"));
            }
            expanded.push((name, self.expand(scope, &pair.value)?));
        }
        Ok(expanded)
    }

    /// ARG: one after the other, each seeing those before it.
    fn arg(&mut self, scope: &Scope<'_>, declared: &[Argument]) -> Result<String, Problem> {
        let mut text = "ARG".to_owned();
        for argument in declared {
            let (name, value) = arguments::declare(argument, scope.options, self.expansion(scope))?;
            let value = value.or_else(|| scope.globals.get(&name).cloned());
            text.push(' ');
            text.push_str(&name);
            if let Some(value) = &value {
                // Its copies here, in the environment and in the list of ARGs.
                let kept = scope.budget.keep(3 * value.len());
                kept.map_err(|message| Problem::new(argument.name.span, message))?;
                text.push('=');
                text.push_str(value);
                if arguments::in_environment(&name) {
                    self.environment.insert(name.clone(), value.clone());
                }
            }
            let position = self.positions.get(&name).copied();
            if let Some((_, known)) = position.and_then(|position| self.arguments.get_mut(position)) {
                *known = value;
            } else if self.arguments.len() == VARIABLES_MAX {
                return Err(Problem::new(argument.name.span, format!("more than {VARIABLES_MAX} ARGs in one stage")));
            } else {
                self.positions.insert(name.clone(), self.arguments.len());
                self.arguments.push((name, value));
            }
        }
        Ok(text)
    }

    fn workdir(
        &mut self,
        scope: &Scope<'_>,
        instruction: &Instruction,
        word: &Word,
        line: usize,
    ) -> Result<(), Problem> {
        let path = config::join(&config::working_directory(&self.config), &self.expand(scope, word)?);
        self.config.config.working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        let operation = if path == "/" {
            Operation::Metadata
        } else {
            Operation::Directory { path, user: self.config.config.user.clone() }
        };
        self.push(scope, At::new(instruction, line, &instruction.text), operation, created_by)
    }

    fn copy(
        &mut self,
        scope: &Scope<'_>,
        instruction: &Instruction,
        transfer: &ast::Transfer,
        line: usize,
    ) -> Result<(), Problem> {
        let add = matches!(instruction.kind, Kind::Add(_));
        let (copy, created_by) = transfer::plan(self, scope, transfer, add)?;
        let shown = remote::without_userinfo(&instruction.text);
        self.push(scope, At::new(instruction, line, &shown), Operation::Copy(copy), created_by)
    }

    /// Puts SHELL before text.
    pub(super) fn with_shell(&self, text: String) -> Vec<String> {
        let mut arguments = config::shell(&self.config);
        arguments.push(text);
        arguments
    }

    fn arguments_of(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(arguments) => arguments.clone(),
            Command::Shell(text) => self.with_shell(text.clone()),
        }
    }
}

/// Makes an instruction one line of bounded length.
fn step_text(text: &str) -> String {
    let mut line = String::new();
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > 4 * STEP_TEXT_CHARACTERS_MAX {
            break;
        }
    }
    if line.chars().count() > STEP_TEXT_CHARACTERS_MAX {
        line = line.chars().take(STEP_TEXT_CHARACTERS_MAX).collect();
        line.push('…');
    }
    line
}
