//! The grammar of each instruction: one logical line comes in, the typed instruction comes out; the bodies of heredocs
//! are asked of the lexer, for they follow the line.

use crate::{
    ast::{
        Alias, Argument, Command, Healthcheck, Heredoc, Instruction, Kind, Pair, Run, Stage, Transfer, TransferSource,
        Word,
    },
    diagnostic::{Problem, Span},
    flags::{self, Flags, Table},
    healthcheck,
    heredoc::{self, HeredocWord},
    lex::{Lexer, Logical},
    parse::parse_trigger_line,
    suggest::{closest, did_you_mean},
    words::{self, Json, WORDS_MAX},
};

/// Every instruction.
pub(crate) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What one line of a Dockerfile is.
pub(crate) enum Statement {
    From(Box<Stage>),
    Instruction(Box<Instruction>),
}

/// An instruction's name, flags and operands while it is read.
pub(crate) struct Line<'a> {
    logical: &'a Logical,
    escape: char,
    /// In upper case.
    pub name: String,
    /// The place of the name.
    pub span: Span,
    /// Where the text behind the name begins.
    after_name: usize,
    /// Where the operands begin, behind the flags.
    start: usize,
}

impl<'a> Line<'a> {
    /// Takes the name off.
    pub(crate) fn new(logical: &'a Logical, escape: char) -> Self {
        let text = logical.text.as_str();
        let name_start = text.len() - text.trim_start().len();
        let name_end = text[name_start..].find(words::is_blank).map_or(text.len(), |length| name_start + length);
        let name = text[name_start..name_end].to_ascii_uppercase();
        let span = logical.span(name_start, name_end - name_start);
        Self { logical, escape, name, span, after_name: name_end, start: name_end }
    }

    /// Returns the name as it is written.
    pub(crate) fn keyword(&self) -> &'a str {
        &self.logical.text[self.after_name - self.name.len()..self.after_name]
    }

    /// Returns the operands, without blanks around them.
    fn rest(&self) -> &'a str {
        self.logical.text[self.start..].trim()
    }

    /// Returns where `rest` begins.
    fn rest_start(&self) -> usize {
        let text = &self.logical.text[self.start..];
        self.start + text.len() - text.trim_start().len()
    }

    /// Returns the place of all operands.
    fn rest_span(&self) -> Span {
        self.logical.span(self.rest_start(), self.rest().len())
    }

    fn word(&self, offset: usize, text: &str) -> Word {
        Word { text: text.to_owned(), span: self.logical.span(self.rest_start() + offset, text.len()) }
    }

    /// Reads the flags and moves the operands behind them.
    fn flags(&mut self, table: Table) -> Result<Flags, Vec<Problem>> {
        let (flags, start) = Flags::read(self.logical, self.after_name, self.escape, table)?;
        self.start = start;
        Ok(flags)
    }

    fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.span, message)
    }

    /// Splits the operands at blanks.
    fn blank_separated(&self) -> Result<Vec<Word>, Problem> {
        let words = self.bounded(words::blank_separated(self.rest()))?;
        Ok(words.into_iter().map(|(offset, text)| self.word(offset, text)).collect())
    }

    /// Splits the operands at blanks outside quotes.
    fn quoted(&self) -> Result<Vec<(usize, &'a str)>, Problem> {
        self.bounded(words::quoted(self.rest(), self.escape))
    }

    fn bounded<T>(&self, words: Vec<T>) -> Result<Vec<T>, Problem> {
        if words.len() > WORDS_MAX {
            return Err(self.problem(format!("{} has more than {WORDS_MAX} operands", self.name)));
        }
        Ok(words)
    }

    /// Reads a JSON array of strings; `None` when the operands have another form.
    fn json(&self) -> Result<Option<Vec<String>>, Problem> {
        match words::json(self.rest()) {
            Json::No => Ok(None),
            Json::Strings(strings) => Ok(Some(strings)),
            Json::Mixed => Err(Problem::new(
                self.rest_span(),
                "when using JSON array syntax, arrays must be comprised of strings only",
            )),
        }
    }

    /// Reads a JSON array, or words between blanks.
    fn json_or_words(&self) -> Result<Vec<Word>, Problem> {
        let span = self.rest_span();
        Ok(match self.json()? {
            Some(strings) => strings.into_iter().map(|text| Word { text, span }).collect(),
            None => self.blank_separated()?,
        })
    }

    /// Reads a JSON array, or text for a shell.
    fn command(&self) -> Result<Command, Problem> {
        Ok(self.json()?.map_or_else(|| Command::Shell(self.rest().to_owned()), Command::Exec))
    }

    /// Reads the one operand that an instruction must have.
    fn single(&self) -> Result<Word, Problem> {
        if self.rest().is_empty() {
            return Err(self.problem(format!("{} requires exactly one argument", self.name)));
        }
        Ok(self.word(0, self.rest()))
    }

    fn at_least_one<T>(&self, operands: Vec<T>) -> Result<Vec<T>, Problem> {
        if operands.is_empty() {
            return Err(self.problem(format!("{} requires at least one argument", self.name)));
        }
        Ok(operands)
    }
}

/// Reads one line, and what belongs to it.
pub(crate) fn statement(logical: &Logical, lexer: &mut Lexer<'_>) -> Result<Statement, Vec<Problem>> {
    let mut line = Line::new(logical, lexer.escape);
    if line.name == "FROM" {
        return from(&mut line).map(|stage| Statement::From(Box::new(stage)));
    }
    let kind = kind(&mut line, lexer)?;
    let text = format!("{}{}", line.name, logical.text[line.after_name..].trim_end());
    let keyword = line.keyword().to_owned();
    Ok(Statement::Instruction(Box::new(Instruction { span: line.span, keyword, text, kind })))
}

/// Reads what the instruction says.
fn kind(line: &mut Line<'_>, lexer: &mut Lexer<'_>) -> Result<Kind, Vec<Problem>> {
    let kind = match line.name.as_str() {
        "ADD" => return transfer(line, lexer, flags::ADD).map(Kind::Add),
        "COPY" => return transfer(line, lexer, flags::COPY).map(Kind::Copy),
        "HEALTHCHECK" => return health(line).map(Kind::Healthcheck),
        "RUN" => return run(line, lexer).map(Kind::Run),
        name if !NAMES.contains(&name) => return Err(vec![unknown(line)]),
        _ => {
            line.flags(flags::NONE)?;
            plain(line, lexer)
        }
    };
    kind.map_err(|problem| vec![problem])
}

/// Reads an instruction that has no flags.
fn plain(line: &Line<'_>, lexer: &mut Lexer<'_>) -> Result<Kind, Problem> {
    Ok(match line.name.as_str() {
        "ARG" => Kind::Arg(arguments(line)?),
        "CMD" => Kind::Cmd(line.command()?),
        "ENTRYPOINT" => Kind::Entrypoint(line.command()?),
        "ENV" => Kind::Env(pairs(line)?),
        "LABEL" => Kind::Label(pairs(line)?),
        "EXPOSE" => Kind::Expose(line.at_least_one(line.blank_separated()?)?),
        "MAINTAINER" => Kind::Maintainer(line.single()?.text),
        "ONBUILD" => Kind::OnBuild(trigger(line, lexer)?),
        "SHELL" => match line.json()? {
            Some(shell) => Kind::Shell(line.at_least_one(shell)?),
            None if line.rest().is_empty() => return Err(line.problem("SHELL requires at least one argument")),
            None => return Err(line.problem("SHELL requires the arguments to be in JSON form")),
        },
        "STOPSIGNAL" => Kind::StopSignal(line.single()?),
        "USER" => Kind::User(line.single()?),
        "VOLUME" => Kind::Volume(volumes(line)?),
        "WORKDIR" => Kind::Workdir(line.single()?),
        _ => return Err(unknown(line)),
    })
}

/// Reads the paths of VOLUME.
fn volumes(line: &Line<'_>) -> Result<Vec<Word>, Problem> {
    let mut words = line.at_least_one(line.json_or_words()?)?;
    for word in &mut words {
        word.text = word.text.trim().to_owned();
        if word.text.is_empty() {
            return Err(Problem::new(word.span, "VOLUME specified can not be an empty string"));
        }
    }
    Ok(words)
}

fn unknown(line: &Line<'_>) -> Problem {
    let suggestion = closest(&line.name, NAMES);
    let problem = line.problem(format!("unknown instruction: {}{}", line.name, did_you_mean(suggestion)));
    if suggestion.is_some() {
        return problem;
    }
    if line.name.starts_with("//") {
        return problem.hint("a comment begins with `#`");
    }
    problem.hint(
        "if this line belongs to the instruction above it, that one's last line must end with the escape character",
    )
}

fn from(line: &mut Line<'_>) -> Result<Stage, Vec<Problem>> {
    let mut flags = line.flags(flags::FROM)?;
    let words = line.blank_separated().map_err(|problem| vec![problem])?;
    let (base, alias) = match words.as_slice() {
        [base] => (base.clone(), None),
        [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
            (base.clone(), Some(Alias { keyword: keyword.clone(), name: name.clone() }))
        }
        _ => {
            let problem = line.problem("FROM requires either one argument, or three: FROM <source> [AS <name>]");
            return Err(vec![problem]);
        }
    };
    let name = alias.as_ref().map(|alias| stage_name(&alias.name)).transpose().map_err(|problem| vec![problem])?;
    Ok(Stage {
        span: line.span,
        keyword: line.keyword().to_owned(),
        platform: flags.text("platform"),
        base,
        name,
        alias,
        instructions: Vec::new(),
    })
}

/// Checks a name after AS.
fn stage_name(word: &Word) -> Result<String, Problem> {
    let name = word.text.to_lowercase();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(plain) {
        return Ok(name);
    }
    let message =
        format!("invalid name for build stage: \"{}\", name can't start with a number or contain symbols", word.text);
    Err(Problem::new(word.span, message))
}

/// Reads the pairs of ENV and LABEL.
fn pairs(line: &Line<'_>) -> Result<Vec<Pair>, Problem> {
    let rest = line.rest();
    let words = line.quoted()?;
    let Some(&(_, first)) = words.first() else {
        return Err(line.problem(format!("{} requires at least one argument", line.name)));
    };
    let pair = |offset: usize, key: &str, value_offset: usize, value: &str| {
        let legacy = !first.contains('=');
        let pair = Pair { key: line.word(offset, key), value: line.word(value_offset, value), legacy };
        if pair.key.text.is_empty() {
            return Err(Problem::new(pair.value.span, format!("{} names can not be blank", line.name)));
        }
        Ok(pair)
    };
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(char::is_whitespace) else {
            return Err(line.problem(format!("{} must have two arguments", line.name)));
        };
        let value = value.trim_start();
        return Ok(vec![pair(0, key, rest.len() - value.len(), value)?]);
    }
    let mut pairs = Vec::with_capacity(words.len());
    for (offset, word) in words {
        let Some((key, value)) = word.split_once('=') else {
            let message = format!("can't find = in \"{word}\"; it must be of the form: name=value");
            let problem = Problem::new(line.word(offset, word).span, message);
            return Err(problem.hint("a value with blanks needs quotes around it, also inside `${…}`"));
        };
        pairs.push(pair(offset, key, offset + key.len() + 1, value)?);
    }
    Ok(pairs)
}

fn arguments(line: &Line<'_>) -> Result<Vec<Argument>, Problem> {
    let mut arguments = Vec::new();
    for (offset, word) in line.quoted()? {
        let argument = match word.split_once('=') {
            None => Argument { name: line.word(offset, word), default: None },
            Some((name, value)) => {
                Argument { name: line.word(offset, name), default: Some(line.word(offset + name.len() + 1, value)) }
            }
        };
        if argument.name.text.is_empty() {
            return Err(Problem::new(line.word(offset, word).span, "ARG names can not be blank"));
        }
        arguments.push(argument);
    }
    line.at_least_one(arguments)
}

/// Reads COPY and ADD.
fn transfer(line: &mut Line<'_>, lexer: &mut Lexer<'_>, table: Table) -> Result<Transfer, Vec<Problem>> {
    let flags = line.flags(table);
    // The bodies are taken even when a flag is wrong, lest they be read as instructions.
    let operands = match &flags {
        Ok(_) => operands(line, lexer).map_err(|problem| vec![problem]),
        Err(_) => skip_heredocs(line, lexer).map(|()| Vec::new()).map_err(|problem| vec![problem]),
    };
    let mut flags = flags?;
    let mut operands = operands?;
    let name = &line.name;
    let destination = match operands.pop() {
        Some(TransferSource::Path(word)) => word,
        Some(TransferSource::Heredoc(heredoc)) => {
            let message = format!("{name} cannot accept a heredoc as a destination");
            return Err(vec![Problem::new(heredoc.span, message)]);
        }
        None => return Err(vec![line.problem(format!("{name} requires at least two arguments"))]),
    };
    if operands.is_empty() {
        let message = format!(
            "{name} requires at least two arguments, but only one was provided; the destination could not be determined"
        );
        return Err(vec![line.problem(message)]);
    }
    let keep = flags.text("keep-git-dir").filter(|word| word.text == "true");
    Ok(Transfer {
        sources: operands,
        destination,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        exclude: flags.texts("exclude"),
        parents: flags.switch("parents").unwrap_or_default(),
        link: flags.switch("link").unwrap_or_default(),
        unpack: flags.switch("unpack"),
        checksum: flags.text("checksum"),
        keep_git_directory: keep.map(|word| word.span),
    })
}

/// Reads sources and destination, with the bodies of heredocs.
fn operands(line: &Line<'_>, lexer: &mut Lexer<'_>) -> Result<Vec<TransferSource>, Problem> {
    if let Some(strings) = line.json()? {
        let span = line.rest_span();
        return Ok(strings.into_iter().map(|text| TransferSource::Path(Word { text, span })).collect());
    }
    let mut operands = Vec::new();
    for word in line.blank_separated()? {
        operands.push(match heredoc::parse_word(&word.text) {
            Some(parsed) => TransferSource::Heredoc(body(lexer, parsed, word.span)?),
            None => TransferSource::Path(word),
        });
    }
    Ok(operands)
}

/// Reads past the bodies of heredocs of a line that is wrong anyway.
fn skip_heredocs(line: &Line<'_>, lexer: &mut Lexer<'_>) -> Result<(), Problem> {
    for word in line.blank_separated()? {
        if let Some(parsed) = heredoc::parse_word(&word.text) {
            body(lexer, parsed, word.span)?;
        }
    }
    Ok(())
}

fn body(lexer: &mut Lexer<'_>, word: HeredocWord, span: Span) -> Result<Heredoc, Problem> {
    let body = lexer.heredoc(&word, span)?;
    Ok(Heredoc { span, name: word.name, body, strip_tabs: word.strip_tabs, expand: word.expand })
}

fn run(line: &mut Line<'_>, lexer: &mut Lexer<'_>) -> Result<Run, Vec<Problem>> {
    let flags = line.flags(flags::RUN);
    let command = line.command().map_err(|problem| vec![problem])?;
    let mut heredocs = Vec::new();
    let mut sole_heredoc = false;
    if let Command::Shell(text) = &command {
        for (offset, word, parsed) in heredoc::find_words(text) {
            sole_heredoc = word.len() == text.len();
            let span = line.word(offset, word).span;
            heredocs.push(body(lexer, parsed, span).map_err(|problem| vec![problem])?);
        }
    }
    let mut flags = flags?;
    // Nothing for a shell is a command too, which succeeds; nothing to execute is not.
    if command == Command::Exec(Vec::new()) {
        return Err(vec![line.problem("RUN requires a command")]);
    }
    Ok(Run {
        command,
        heredocs,
        sole_heredoc,
        mounts: flags.texts("mount"),
        network: flags.text("network"),
        security: flags.text("security"),
        devices: flags.texts("device"),
    })
}

fn health(line: &mut Line<'_>) -> Result<Healthcheck, Vec<Problem>> {
    let mut flags = line.flags(flags::HEALTHCHECK)?;
    let test = health_test(line).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let mut number = |result: Result<i64, Problem>| {
        result.unwrap_or_else(|problem| {
            problems.push(problem);
            0
        })
    };
    let healthcheck = Healthcheck {
        test,
        interval: number(healthcheck::duration(flags.text("interval"))),
        timeout: number(healthcheck::duration(flags.text("timeout"))),
        start_period: number(healthcheck::duration(flags.text("start-period"))),
        start_interval: number(healthcheck::duration(flags.text("start-interval"))),
        retries: number(healthcheck::retries(flags.text("retries"))),
    };
    if problems.is_empty() { Ok(healthcheck) } else { Err(problems) }
}

/// Reads what HEALTHCHECK runs.
fn health_test(line: &mut Line<'_>) -> Result<Vec<String>, Problem> {
    let words = line.blank_separated()?;
    let Some(kind) = words.first() else {
        return Err(line.problem("HEALTHCHECK requires at least one argument"));
    };
    match kind.text.to_ascii_uppercase().as_str() {
        "NONE" => match words.get(1) {
            None => Ok(vec!["NONE".into()]),
            Some(word) => Err(Problem::new(word.span, "HEALTHCHECK NONE takes no arguments")),
        },
        "CMD" => {
            line.start = line.rest_start() + kind.text.len();
            match line.command()? {
                Command::Shell(text) if !text.is_empty() => Ok(vec!["CMD-SHELL".into(), text]),
                Command::Exec(arguments) if !arguments.is_empty() => {
                    Ok(std::iter::once("CMD".to_owned()).chain(arguments).collect())
                }
                Command::Shell(_) | Command::Exec(_) => {
                    Err(Problem::new(kind.span, "Missing command after HEALTHCHECK CMD"))
                }
            }
        }
        other => Err(Problem::new(kind.span, format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"))),
    }
}

/// Reads the trigger of ONBUILD, with the bodies of its heredocs appended, and parses it for its mistakes.
fn trigger(line: &Line<'_>, lexer: &mut Lexer<'_>) -> Result<String, Problem> {
    if line.rest().is_empty() {
        return Err(line.problem("ONBUILD requires at least one argument"));
    }
    let start = line.rest_start();
    let mut text = line.logical.text[start..].to_owned();
    let trigger = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let span = line.word(0, &trigger).span;
    match trigger.as_str() {
        "ONBUILD" => return Err(Problem::new(span, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "FROM" | "MAINTAINER" => {
            return Err(Problem::new(span, format!("{trigger} isn't allowed as an ONBUILD trigger")));
        }
        "RUN" | "COPY" | "ADD" => {
            for (offset, word, parsed) in heredoc::find_words(line.rest()) {
                let place = line.word(offset, word).span;
                let name = parsed.name.clone();
                let heredoc = body(lexer, parsed, place)?;
                text.push('\n');
                text.push_str(&heredoc.body);
                text.push_str(&name);
            }
        }
        _ => {}
    }
    parse_trigger_line(&text, line.escape).map_err(|problem| {
        // The first line of the trigger is this one's rest; what is wrong in a body is told at the trigger's name.
        let Span { line: number, offset, length } = problem.span;
        let span = if number == 1 { line.logical.span(start + offset, length) } else { span };
        Problem { span, ..problem }
    })?;
    Ok(text)
}
