//! From bytes to the tree: the whole file comes in, the tree or all mistakes come out. Instructions are gathered into
//! stages here; what a single one says is read in `instruction`.

use std::borrow::Cow;

use crate::{
    ast::{Comments, Directives, Dockerfile, Instruction, Kind, Stage, Word},
    diagnostic::{DIAGNOSTICS_MAX, Diagnostics, Problem, Span},
    instruction::{Line, Statement, statement},
    lex::Lexer,
};

/// The largest Dockerfile.
pub const DOCKERFILE_BYTES_MAX: usize = 10_000_000;

/// The most stages that a Dockerfile may have.
pub const STAGES_MAX: usize = 1_000;

/// The most instructions that a Dockerfile may have.
pub const INSTRUCTIONS_MAX: usize = 10_000;

/// Parses a Dockerfile. Names as many mistakes at once as can be told apart.
pub fn parse(text: impl AsRef<[u8]>) -> Result<Dockerfile, Diagnostics> {
    let bytes = text.as_ref();
    if bytes.len() > DOCKERFILE_BYTES_MAX {
        let message =
            format!("the Dockerfile has {} bytes, more than the maximum of {DOCKERFILE_BYTES_MAX}", bytes.len());
        return Err(Diagnostics::new("", vec![Problem::new(Span::default(), message)]));
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let source = decode(bytes)?;
    refuse_json(&source)?;
    let mut parser = Parser::default();
    let dockerfile = parser.file(&source);
    if parser.problems.is_empty() { Ok(dockerfile) } else { Err(Diagnostics::new(&source, parser.problems)) }
}

/// Parses the trigger of an ONBUILD, as an image's configuration or a Dockerfile carries it.
pub fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Diagnostics> {
    parse_trigger_line(text, escape).map_err(|problem| Diagnostics::new(text, vec![problem]))
}

/// Parses a trigger; the place of a problem is one in `text`.
pub(crate) fn parse_trigger_line(text: &str, escape: char) -> Result<Instruction, Problem> {
    let mut lexer = Lexer::new(text, escape);
    let Some(logical) = lexer.logical() else { return Err(Problem::new(Span::default(), "the trigger is empty")) };
    let logical = logical?;
    let first = |problems: Vec<Problem>| problems.into_iter().next().unwrap_or_default();
    let statement = statement(&logical, &mut lexer).map_err(first)?;
    let instruction = match statement {
        Statement::Instruction(instruction) => *instruction,
        Statement::From(stage) => return Err(Problem::new(stage.span, "FROM isn't allowed as an ONBUILD trigger")),
    };
    if matches!(instruction.kind, Kind::OnBuild(_) | Kind::Maintainer(_)) {
        return Err(Problem::new(instruction.span, "ONBUILD and MAINTAINER aren't allowed as an ONBUILD trigger"));
    }
    match lexer.logical() {
        None => Ok(instruction),
        Some(_) => Err(Problem::new(instruction.span, "a trigger must be one instruction")),
    }
}

/// Reads UTF-8; bytes that are none are allowed in comments only.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Diagnostics> {
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, Cow::Borrowed(_)) {
        return Ok(text);
    }
    let mut problems = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if problems.len() < DIAGNOSTICS_MAX
            && !line.trim_ascii_start().starts_with(b"#")
            && let Err(error) = std::str::from_utf8(line)
        {
            let span = Span { line: index + 1, offset: error.valid_up_to(), length: 1 };
            problems.push(Problem::new(span, "the line is not UTF-8"));
        }
    }
    if problems.is_empty() { Ok(text) } else { Err(Diagnostics::new(&text, problems)) }
}

/// Refuses a document that asks for another frontend by the key `syntax`.
fn refuse_json(source: &str) -> Result<(), Diagnostics> {
    if !source.trim_start().starts_with('{') {
        return Ok(());
    }
    let Ok(serde_json::Value::Object(document)) = serde_json::from_str(source) else { return Ok(()) };
    let Some(frontend) = document.get("syntax").and_then(serde_json::Value::as_str) else { return Ok(()) };
    let head = &source[..source.len() - source.trim_start().len()];
    let offset = head.len() - head.rfind('\n').map_or(0, |end| end + 1);
    let span = Span { line: head.matches('\n').count() + 1, offset, length: 1 };
    let problem = Problem::new(span, format!("the file is JSON for the frontend `{frontend}`, not a Dockerfile"));
    Err(Diagnostics::new(source, vec![problem.hint("frontends are not run: write a Dockerfile")]))
}

/// What is known while the file is read.
#[derive(Default)]
struct Parser {
    problems: Vec<Problem>,
    instructions: usize,
}

impl Parser {
    /// Reads the file; the result counts only when no problem was found.
    fn file(&mut self, source: &str) -> Dockerfile {
        let mut lexer = Lexer::new(source, '\\');
        let mut dockerfile = Dockerfile {
            directives: Directives::default(),
            escape: '\\',
            arguments: Vec::new(),
            stages: Vec::new(),
            comments: Vec::new(),
            empty_continuations: Vec::new(),
            source: source.into(),
        };
        match lexer.directives() {
            Ok(directives) => dockerfile.directives = directives,
            Err(problem) => {
                self.problems.push(problem);
                return dockerfile;
            }
        }
        dockerfile.escape = lexer.escape;
        while self.problems.len() <= DIAGNOSTICS_MAX
            && let Some(logical) = lexer.logical()
        {
            let mut logical = match logical {
                Ok(logical) => logical,
                Err(problem) => {
                    self.problems.push(problem);
                    return dockerfile;
                }
            };
            let lines = std::mem::take(&mut logical.comments);
            let first_line = logical.span(0, 0).line;
            dockerfile.empty_continuations.extend(logical.empty_continuation);
            match statement(&logical, &mut lexer) {
                Ok(statement) => {
                    if let Err(problem) = self.add(&mut dockerfile, statement) {
                        self.problems.push(problem);
                        return dockerfile;
                    }
                }
                Err(problems) => {
                    // A wrong FROM must not make what follows it look misplaced.
                    let line = Line::new(&logical, lexer.escape);
                    open_stage(&mut dockerfile, &line);
                    self.problems.extend(problems);
                }
            }
            if !lines.is_empty() {
                dockerfile.comments.push(Comments { first_line, last_line: lexer.line(), lines });
            }
        }
        if dockerfile.stages.is_empty() && self.problems.is_empty() {
            let nothing = dockerfile.arguments.is_empty();
            let message = if nothing { "file with no instructions" } else { "no FROM: there is no stage to build" };
            self.problems.push(Problem::new(Span::default(), message));
        }
        dockerfile
    }

    /// Adds what was read. An error ends the reading.
    fn add(&mut self, dockerfile: &mut Dockerfile, statement: Statement) -> Result<(), Problem> {
        self.instructions += 1;
        match statement {
            Statement::From(stage) => {
                if dockerfile.stages.len() == STAGES_MAX {
                    return Err(Problem::new(stage.span, format!("more than {STAGES_MAX} stages")));
                }
                dockerfile.stages.push(*stage);
            }
            Statement::Instruction(instruction) => {
                let instruction = *instruction;
                if self.instructions > INSTRUCTIONS_MAX {
                    return Err(Problem::new(instruction.span, format!("more than {INSTRUCTIONS_MAX} instructions")));
                }
                match (dockerfile.stages.last_mut(), instruction.kind) {
                    (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..instruction }),
                    (None, Kind::Arg(arguments)) => dockerfile.arguments.extend(arguments),
                    (None, _) => {
                        let message = "no build stage in current context: only ARG may come before the first FROM";
                        self.problems.push(Problem::new(instruction.span, message));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Opens an empty stage for a FROM that could not be read.
fn open_stage(dockerfile: &mut Dockerfile, line: &Line<'_>) {
    if line.name == "FROM" && dockerfile.stages.len() < STAGES_MAX {
        dockerfile.stages.push(Stage {
            span: line.span,
            keyword: line.keyword().to_owned(),
            platform: None,
            base: Word::default(),
            name: None,
            alias: None,
            instructions: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests;
