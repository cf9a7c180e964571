//! RUN: the instruction and the state of its stage come in, a process with its environment and mounts comes out. What
//! would take a step out of its sandbox, and what the kernel would refuse, is refused here.

use std::sync::Arc;

use karve_dockerfile::{
    ast::{self, Command, Instruction, Word},
    closest,
    diagnostic::{Fault, Problem},
};

use super::{
    arguments::{self, Variables},
    config,
    graph::{Mount, Operation, Run},
    mount, platform,
    stage::{At, Scope, State},
};

/// Where scripts of heredocs are put.
const PIPES_DIRECTORY: &str = "/dev/pipes";

/// The build argument that keeps the caches of one project apart from those of another.
const CACHE_NAMESPACE_ARGUMENT: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The variable by which SSH clients find their agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// Longest argument, and longest `NAME=value`, that `execve` takes: `MAX_ARG_STRLEN` less the byte that ends it.
const ARGUMENT_BYTES_MAX: usize = 131_071;

/// What a RUN starts.
struct Process {
    arguments: Vec<String>,
    /// What the history says.
    shown: Vec<String>,
    /// A script to put in place first: its name and content.
    script: Option<(String, Arc<[u8]>)>,
}

impl State {
    /// RUN: decides what is started, with what around it.
    pub(super) fn run(
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
        let proxies = arguments::proxies(&environment, scope.options);
        if let Some(target) = agents(&mounts).next() {
            environment.entry(AGENT_VARIABLE.to_owned()).or_insert_with(|| target.to_owned());
        }
        let bytes = check_size(&arguments, &environment, &proxies)
            .map_err(|message| Problem::new(instruction.span, message))?;
        scope.budget.keep(bytes).map_err(|message| Problem::new(instruction.span, message))?;
        let operation = Operation::Run(Run {
            arguments,
            environment,
            proxies,
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
        self.push(scope, At::new(instruction, line, &text), operation, created_by)
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
fn check_size(arguments: &[String], environment: &Variables, proxies: &Variables) -> Result<usize, String> {
    let too_long = |what: String, length: usize| {
        Err(format!("{what} has {length} bytes, more than the {ARGUMENT_BYTES_MAX} that Linux takes"))
    };
    if let Some(argument) = arguments.iter().find(|argument| argument.len() > ARGUMENT_BYTES_MAX) {
        return too_long("an argument of this command".into(), argument.len());
    }
    let mut total = 0;
    for (name, value) in environment.iter().chain(proxies) {
        let length = name.len() + 1 + value.len();
        if length > ARGUMENT_BYTES_MAX {
            return too_long(format!("the variable {name} with its name"), length);
        }
        total += length;
    }
    Ok(total)
}
