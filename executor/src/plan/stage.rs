//! One stage, instruction by instruction: its base's configuration and its instructions come in, steps and the
//! configuration at its end come out.
//!
//! Two environments are kept apart: the variables that words and RUN see (ENV and ARG, whoever wrote last), and the
//! configuration's (ENV only).

use std::{collections::BTreeMap, sync::Arc};

use karve_dockerfile::{
    ast::{self, Argument, Command, Instruction, Kind, Pair, Word},
    closest,
    diagnostic::{Fault, Problem},
    expand::Budget,
};

use super::{
    arguments::{self, Expansion, Variables},
    config,
    graph::{From, Mount, Operation, Options, Run, Step},
    lint::Seen,
    mount, platform, remote,
    sources::{self, Names, Origin},
    transfer,
};
use crate::image::{
    config::{History, ImageConfig},
    platform::Platform,
};

/// Who wrote a history record, as tools know it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// Where scripts of heredocs are put.
const PIPES_DIRECTORY: &str = "/dev/pipes";

/// The build argument that keeps the caches of one project apart from those of another.
const CACHE_NAMESPACE_ARGUMENT: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The variable by which SSH clients find their agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// Longest argument, and longest `NAME=value`, that `execve` takes: `MAX_ARG_STRLEN` less the byte that ends it.
const ARGUMENT_BYTES_MAX: usize = 131_071;

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

/// A stage while it is walked, and at its end.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub config: ImageConfig,
    /// ENV and ARG.
    pub environment: Variables,
    pub platform: Platform,
    pub steps: Vec<Step>,
    /// The ARGs of this stage, for the history.
    arguments: Vec<(String, Option<String>)>,
    /// Where in `arguments` a name is.
    positions: BTreeMap<String, usize>,
    /// Whether this stage has a CMD of its own.
    pub command_set: bool,
    /// What the lint rules remember.
    pub seen: Seen,
}

/// What a RUN starts.
struct Process {
    arguments: Vec<String>,
    /// What the history says.
    shown: Vec<String>,
    /// A script to put in place first: its name and content.
    script: Option<(String, Arc<[u8]>)>,
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
                self.expose(&ports).map_err(problem)?
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
        self.push(step_text(&instruction.text), line, Operation::Metadata, created_by);
        Ok(())
    }

    /// Whether an ARG of this stage or of those below has the name.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.positions.contains_key(name)
    }

    fn push(&mut self, text: String, line: usize, operation: Operation, created_by: String) {
        let history = History {
            created_by: Some(created_by),
            comment: Some(HISTORY_COMMENT.into()),
            empty_layer: operation == Operation::Metadata,
            ..History::default()
        };
        self.steps.push(Step { text, line, operation, history });
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
        self.push(step_text(&instruction.text), line, operation, created_by);
        Ok(())
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
        self.push(step_text(&shown), line, Operation::Copy(copy), created_by);
        Ok(())
    }

    /// Puts SHELL before text.
    fn with_shell(&self, text: String) -> Vec<String> {
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

    fn run(
        &mut self,
        scope: &Scope<'_>,
        instruction: &Instruction,
        run: &ast::Run,
        line: usize,
    ) -> Result<(), Problem> {
        if !scope.check_only && !platform::runs(scope.machine, &self.platform) {
            let message = format!(
                "RUN for {} needs emulation, which is not supported: this machine is {}",
                self.platform, scope.machine
            );
            return Err(Problem::new(instruction.span, message).fault(Fault::Unsupported));
        }
        refuse_privileges(run)?;
        let network_none = network(run)?;
        let working_directory = config::working_directory(&self.config);
        let mounts = self.mounts(scope, &run.mounts, &working_directory)?;
        let Process { arguments, shown, script } = self.process(run);
        let created_by = format!("RUN {} # buildkit", self.with_arguments(&shown));
        let mut environment = self.environment.clone();
        arguments::add_proxies(&mut environment, scope.options);
        if let Some(target) = agents(&mounts).next() {
            environment.entry(AGENT_VARIABLE.to_owned()).or_insert_with(|| target.to_owned());
        }
        let bytes = check_size(&arguments, &environment).map_err(|message| Problem::new(instruction.span, message))?;
        let kept = bytes + created_by.len();
        scope.budget.keep(kept).map_err(|message| Problem::new(instruction.span, message))?;
        let operation = Operation::Run(Run {
            arguments,
            environment,
            working_directory,
            user: self.config.config.user.clone(),
            mounts,
            network_none,
            script,
        });
        let first = run.heredocs.first().and_then(|heredoc| heredoc.body.lines().next());
        let text = match first {
            Some(first) => format!("{} ({}…)", instruction.text, first.trim()),
            None => instruction.text.clone(),
        };
        self.push(step_text(&text), line, operation, created_by);
        Ok(())
    }

    /// Reads the mounts of a RUN.
    fn mounts(&self, scope: &Scope<'_>, words: &[Word], working_directory: &str) -> Result<Vec<Mount>, Problem> {
        let namespace = scope.options.build_args.get(CACHE_NAMESPACE_ARGUMENT);
        let from = |word: &Word| scope.from(word);
        let mut mounts = Vec::with_capacity(words.len());
        for word in words {
            let around = mount::Around {
                expansion: self.expansion(scope),
                working_directory,
                cache_namespace: namespace.map(String::as_str).unwrap_or_default(),
                agents: agents(&mounts).count(),
                from: &from,
            };
            mounts.push(mount::parse(word, &around)?);
        }
        Ok(mounts)
    }

    /// Decides what a RUN starts.
    fn process(&self, run: &ast::Run) -> Process {
        let text = match (&run.command, run.heredocs.as_slice()) {
            (Command::Exec(arguments), _) => {
                return Process { arguments: arguments.clone(), shown: arguments.clone(), script: None };
            }
            (Command::Shell(text), []) => text.clone(),
            (Command::Shell(_), [heredoc]) if run.sole_heredoc => {
                let content = heredoc.content();
                if content.starts_with("#!") {
                    let path = format!("{PIPES_DIRECTORY}/{}", heredoc.name);
                    let shown = self.with_shell(path.clone());
                    let script = Some((heredoc.name.clone(), content.into_bytes().into()));
                    return Process { arguments: vec![path], shown, script };
                }
                content
            }
            (Command::Shell(text), heredocs) => {
                // The shell reads the heredocs itself, so it gets the bodies as they are.
                let mut whole = text.clone();
                for heredoc in heredocs {
                    whole.push('\n');
                    whole.push_str(&heredoc.body);
                    whole.push_str(&heredoc.name);
                }
                whole
            }
        };
        let arguments = self.with_shell(text);
        Process { shown: arguments.clone(), arguments, script: None }
    }

    /// Puts the ARGs of the stage before a command, as the history has it: `|1 A=b /bin/sh -c …`.
    fn with_arguments(&self, command: &[String]) -> String {
        let shown: Vec<String> = self
            .arguments
            .iter()
            .map(|(name, value)| {
                let value = self.environment.get(name).or(value.as_ref());
                format!("{name}={}", value.map(String::as_str).unwrap_or_default())
            })
            .collect();
        let mut words: Vec<&str> = Vec::with_capacity(shown.len() + command.len() + 1);
        let count = format!("|{}", shown.len());
        if !shown.is_empty() {
            words.push(&count);
        }
        words.extend(shown.iter().map(String::as_str));
        words.extend(command.iter().map(String::as_str));
        words.join(" ")
    }
}

/// Lists where the sockets of SSH agents are mounted.
fn agents(mounts: &[Mount]) -> impl Iterator<Item = &str> {
    mounts.iter().filter_map(|mount| match mount {
        Mount::Ssh(agent) => Some(agent.target.as_str()),
        _ => None,
    })
}

/// Reads `--network`: true for none.
fn network(run: &ast::Run) -> Result<bool, Problem> {
    let Some(word) = &run.network else { return Ok(false) };
    match word.text.as_str() {
        "default" => Ok(false),
        "none" => Ok(true),
        "host" => {
            let problem = Problem::new(word.span, "RUN --network=host is not allowed").fault(Fault::Unsupported);
            Err(problem.hint("a step must not reach what the build itself can reach; use the default or none"))
        }
        other => {
            let suggestion = closest(other, ["default", "none"]);
            let suggestion = suggestion.map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
            Err(Problem::new(word.span, format!("invalid network mode \"{other}\"{suggestion}")))
        }
    }
}

/// Refuses what would take a step out of its sandbox.
fn refuse_privileges(run: &ast::Run) -> Result<(), Problem> {
    if let Some(word) = run.security.as_ref().filter(|word| word.text != "sandbox") {
        let message = if word.text == "insecure" {
            "RUN --security=insecure is not allowed: steps run without privileges".to_owned()
        } else {
            format!("security {:?} is not valid", word.text)
        };
        return Err(Problem::new(word.span, message).fault(Fault::Unsupported));
    }
    match run.devices.first() {
        Some(word) => {
            Err(Problem::new(word.span, "RUN --device is not supported by this version").fault(Fault::Unsupported))
        }
        None => Ok(()),
    }
}

/// Refuses what the kernel would refuse when the step runs. Returns the size of the environment.
fn check_size(arguments: &[String], environment: &Variables) -> Result<usize, String> {
    let too_long = |what: String, length: usize| {
        Err(format!("{what} has {length} bytes, more than the {ARGUMENT_BYTES_MAX} that Linux takes"))
    };
    if let Some(argument) = arguments.iter().find(|argument| argument.len() > ARGUMENT_BYTES_MAX) {
        return too_long("an argument of this command".into(), argument.len());
    }
    let mut total = 0;
    for (name, value) in environment {
        let length = name.len() + 1 + value.len();
        if length > ARGUMENT_BYTES_MAX {
            return too_long(format!("the variable {name} with its name"), length);
        }
        total += length;
    }
    Ok(total)
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
