//! A Dockerfile as a tree: what is written, typed, with its place. Variables are still names; quotes and escapes are
//! still in the words, for they decide how a word expands.

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Diagnostics, Problem, Span};

/// A whole Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// The directives at its top.
    pub directives: Directives,
    /// The escape character: `\` or a backtick.
    pub escape: char,
    /// The ARGs before the first FROM.
    pub arguments: Vec<Argument>,
    /// At least one.
    pub stages: Vec<Stage>,
    /// The comments above instructions, in the order of the file.
    pub comments: Vec<Comments>,
    /// The first empty line of every instruction that goes on behind one.
    pub empty_continuations: Vec<Span>,
    /// The text, to show lines of it.
    pub source: Arc<str>,
}

impl Dockerfile {
    /// Returns the comments above the instruction that the line belongs to.
    pub fn comments_above(&self, line: usize) -> &[Word] {
        let index = self.comments.partition_point(|comments| comments.last_line < line);
        self.comments.get(index).filter(|found| found.first_line <= line).map_or(&[], |found| &found.lines)
    }

    /// Returns what the comment above an ARG or a FROM says about a name: `# name description`.
    pub fn description(&self, line: usize, name: &str) -> Option<&str> {
        let describes = |comment: &Word| comment.text.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
        let found = self.comments_above(line).iter().find(|comment| describes(comment))?;
        found.text.get(name.len() + 1..)
    }

    /// Joins a problem with the line that it is in.
    pub fn diagnostic(&self, problem: Problem) -> Diagnostic {
        Diagnostic::new(&self.source, problem)
    }

    /// Joins problems with the lines that they are in.
    pub fn diagnostics(&self, problems: Vec<Problem>) -> Diagnostics {
        Diagnostics::new(&self.source, problems)
    }
}

/// What is written above one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comments {
    /// Where the instruction begins.
    pub first_line: usize,
    /// Where it ends, with its heredocs.
    pub last_line: usize,
    /// The comments, without `#` and the blanks around them. At least one.
    pub lines: Vec<Word>,
}

/// The parser directives, as written after the `=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: accepted, and means nothing here.
    pub syntax: Option<String>,
    /// `# escape=`.
    pub escape: Option<String>,
    /// `# check=`.
    pub check: Option<Word>,
}

/// A FROM and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its place.
    pub span: Span,
    /// FROM as it is written.
    pub keyword: String,
    /// `--platform`.
    pub platform: Option<Word>,
    /// What it starts from.
    pub base: Word,
    /// The name after AS, in lower case.
    pub name: Option<String>,
    /// AS and the name as they are written.
    pub alias: Option<Alias>,
    /// The rest, in order.
    pub instructions: Vec<Instruction>,
}

/// `AS name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// AS.
    pub keyword: Word,
    /// The name.
    pub name: Word,
}

/// A word as written, with quotes, escapes and variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The place of its name.
    pub span: Span,
    /// Its name as it is written.
    pub keyword: String,
    /// The whole of it on one line, its name in upper case, blanks as written.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ADD.
    Add(Transfer),
    /// ARG.
    Arg(Vec<Argument>),
    /// CMD.
    Cmd(Command),
    /// COPY.
    Copy(Transfer),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// ENV.
    Env(Vec<Pair>),
    /// EXPOSE.
    Expose(Vec<Word>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// LABEL.
    Label(Vec<Pair>),
    /// MAINTAINER, verbatim.
    Maintainer(String),
    /// ONBUILD: the trigger's text, bodies of heredocs included; it was parsed once, so that its mistakes are known.
    OnBuild(String),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    StopSignal(Word),
    /// USER.
    User(Word),
    /// VOLUME.
    Volume(Vec<Word>),
    /// WORKDIR.
    Workdir(Word),
}

/// `KEY=value` of ENV and LABEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Left of the first `=`.
    pub key: Word,
    /// Right of it.
    pub value: Word,
    /// Written `KEY value`, without `=`.
    pub legacy: bool,
}

/// `NAME` or `NAME=default` of ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: Word,
    /// The default; empty and absent differ.
    pub default: Option<Word>,
}

/// A command, with or without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Text for SHELL.
    Shell(String),
    /// The JSON form.
    Exec(Vec<String>),
}

/// COPY and ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// At least one.
    pub sources: Vec<TransferSource>,
    /// The last operand.
    pub destination: Word,
    /// `--from`, COPY only.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--exclude`.
    pub exclude: Vec<Word>,
    /// `--parents`, COPY only.
    pub parents: bool,
    /// `--link`.
    pub link: bool,
    /// `--unpack`, ADD only.
    pub unpack: Option<bool>,
    /// `--checksum`, ADD only.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, ADD only: the place of the flag when it is on.
    pub keep_git_directory: Option<Span>,
}

/// One source of a COPY or an ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferSource {
    /// A path, a wildcard, a URL.
    Path(Word),
    /// A file written in the Dockerfile.
    Heredoc(Heredoc),
}

/// A heredoc and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The place of its word.
    pub span: Span,
    /// The name, without quotes.
    pub name: String,
    /// The body as written, tabs included.
    pub body: String,
    /// `<<-`.
    pub strip_tabs: bool,
    /// Whether variables of the body are replaced (COPY and ADD).
    pub expand: bool,
}

impl Heredoc {
    /// Returns the body, without leading tabs if `<<-` says so.
    pub fn content(&self) -> String {
        if self.strip_tabs { super::heredoc::strip_tabs(&self.body) } else { self.body.clone() }
    }
}

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command; in the shell form without the bodies of its heredocs.
    pub command: Command,
    /// The heredocs of a shell form, in order.
    pub heredocs: Vec<Heredoc>,
    /// Whether the command is one heredoc word and nothing else.
    pub sole_heredoc: bool,
    /// `--mount`, in order.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
    /// `--device`.
    pub devices: Vec<Word>,
}

/// HEALTHCHECK, with durations in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    pub test: Vec<String>,
    /// `--interval`; 0 when not given.
    pub interval: i64,
    /// `--timeout`; 0 when not given.
    pub timeout: i64,
    /// `--start-period`; 0 when not given.
    pub start_period: i64,
    /// `--start-interval`; 0 when not given.
    pub start_interval: i64,
    /// `--retries`; 0 when not given.
    pub retries: i64,
}
