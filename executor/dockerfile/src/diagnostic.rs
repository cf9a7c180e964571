//! What is wrong with a Dockerfile, and where: a place and a sentence come in, text for people comes out.
//!
//! The place is found in bytes while parsing and turned into a column of characters only when a message is made, so that
//! a file of ten megabytes costs no more than its length.

use std::fmt;

use unicode_width::UnicodeWidthChar;

/// How many mistakes one answer names; the rest is counted.
pub const DIAGNOSTICS_MAX: usize = 20;

/// How many characters of a message are shown: words of the file are in it.
const MESSAGE_CHARACTERS_MAX: usize = 1_000;

/// How many characters of a source line are shown around the place.
const SOURCE_CHARACTERS_MAX: usize = 160;

/// A place in a Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// From 1; 0 is nowhere in the file.
    pub line: usize,
    /// Bytes before it in its line.
    pub offset: usize,
    /// Bytes that it covers, at most to the end of the line.
    pub length: usize,
}

/// What kind of thing is wrong: what a report of the build calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// The Dockerfile says something that nobody could build.
    #[default]
    Mistake,
    /// A stage that is asked for is not there.
    StageNotFound,
    /// The Dockerfile is right, but this version does not build it.
    Unsupported,
}

/// A mistake and its place, before the source line is joined to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub span: Span,
    /// What, lower-case, one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What kind it is of.
    pub fault: Fault,
}

impl Problem {
    /// Makes a problem without a hint.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None, fault: Fault::default() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says that it is not a plain mistake.
    #[must_use]
    pub const fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

/// One mistake, with all that is needed to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// From 1; 0 when the mistake is in no line.
    pub line: usize,
    /// In characters, from 1; 0 when the mistake is in no line.
    pub column: usize,
    /// The column behind the place, in characters.
    pub end_column: usize,
    /// Cells of a terminal that `source` takes before the place.
    pub indent: usize,
    /// Cells to underline, at least 1.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line, or what surrounds the place in a long one; empty when the mistake is in no line.
    pub source: String,
    /// What kind it is of.
    pub fault: Fault,
}

impl Diagnostic {
    /// Joins a problem with its line of `text`.
    pub fn new(text: &str, problem: Problem) -> Self {
        let mut lines = Lines::new(text);
        lines.join(problem)
    }

    /// Joins a problem with the line that it is in, if there is one.
    fn on(line: Option<&str>, problem: Problem) -> Self {
        let Problem { span, message, hint, fault } = problem;
        let (message, hint) = (shortened(&message), hint.as_deref().map(shortened));
        let Some(source) = line else {
            let (source, place) = (String::new(), 0);
            return Self {
                line: 0,
                column: place,
                end_column: place,
                indent: 0,
                width: 1,
                message,
                hint,
                source,
                fault,
            };
        };
        let start = floor_boundary(source, span.offset);
        let end = floor_boundary(source, span.offset.saturating_add(span.length)).max(start);
        let before = source.get(..start).unwrap_or_default().chars().count();
        let length = source.get(start..end).unwrap_or_default().chars().count().max(1);
        let (source, shown_before) = window(source, before);
        let cells = |skip: usize, take: usize| -> usize {
            source.chars().skip(skip).take(take).filter_map(UnicodeWidthChar::width).sum()
        };
        let (indent, width) = (cells(0, shown_before), cells(shown_before, length).max(1));
        let column = before + 1;
        Self { line: span.line, column, end_column: column + length, indent, width, message, hint, source, fault }
    }

    /// Shows it as `Dockerfile:3:5: message`, the line with a mark below, and the hint. `label` goes before the message.
    pub fn render(&self, file_name: &str, label: &str) -> String {
        let Self { line, column, message, source, .. } = self;
        let hint = self.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        if *line == 0 {
            return format!("{file_name}: {label}{message}{hint}");
        }
        let margin = " ".repeat(line.to_string().len());
        let (blanks, marks) = (" ".repeat(self.indent), "^".repeat(self.width));
        let head = format!("{file_name}:{line}:{column}: {label}{message}");
        format!("{head}\n {line} | {source}\n {margin} | {blanks}{marks}{hint}")
    }
}

/// Every mistake that was found, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// At least one, at most [`DIAGNOSTICS_MAX`].
    pub entries: Vec<Diagnostic>,
    /// How many more there are.
    pub omitted: usize,
}

impl Diagnostics {
    /// Joins problems with their lines of `text`.
    pub fn new(text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.span.line, problem.span.offset));
        let omitted = problems.len().saturating_sub(DIAGNOSTICS_MAX);
        problems.truncate(DIAGNOSTICS_MAX);
        let mut lines = Lines::new(text);
        Self { entries: problems.into_iter().map(|problem| lines.join(problem)).collect(), omitted }
    }

    /// Tells the kind of all of them; a plain mistake outweighs the other kinds, for it must be repaired anyway.
    pub fn fault(&self) -> Fault {
        let mut faults = self.entries.iter().map(|entry| entry.fault);
        let first = faults.next().unwrap_or_default();
        if faults.all(|fault| fault == first) { first } else { Fault::Mistake }
    }

    /// Shows all of them, with the name of the file in front of each.
    pub fn render(&self, file_name: &str) -> String {
        let mut out = String::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            out.push_str(&entry.render(file_name, ""));
        }
        if self.omitted > 0 {
            out.push_str("\nand ");
            out.push_str(&self.omitted.to_string());
            out.push_str(" more");
        }
        out
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render("Dockerfile"))
    }
}

impl std::error::Error for Diagnostics {}

/// The lines of a text, from top to bottom: as many problems as there are cost one walk.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    rest: std::str::Split<'a, char>,
    current: Option<&'a str>,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text.split('\n'), current: None, number: 0 }
    }

    /// Joins a problem with its line, which must not be above that of the problem before it.
    pub(crate) fn join(&mut self, problem: Problem) -> Diagnostic {
        if problem.span.line == 0 {
            return Diagnostic::on(None, problem);
        }
        while self.number < problem.span.line {
            self.current = self.rest.next();
            self.number += 1;
        }
        let line = self.current.unwrap_or_default().trim_end_matches('\r');
        Diagnostic::on(Some(line), problem)
    }
}

/// Returns the largest character boundary that is not behind `offset`.
fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Cuts a message, and makes its control characters harmless to a terminal.
fn shortened(message: &str) -> String {
    let mut text: String = message.chars().take(MESSAGE_CHARACTERS_MAX).map(harmless).collect();
    if message.chars().nth(MESSAGE_CHARACTERS_MAX).is_some() {
        text.push('…');
    }
    text
}

const fn harmless(character: char) -> char {
    if character.is_ascii_control() || matches!(character, '\u{80}'..='\u{9f}') { ' ' } else { character }
}

/// Cuts a long line to what surrounds the place, and makes its control characters harmless to a terminal. Returns the
/// text and how many of its characters stand before the place.
fn window(source: &str, before: usize) -> (String, usize) {
    let count = source.chars().count();
    if count <= SOURCE_CHARACTERS_MAX {
        return (source.chars().map(harmless).collect(), before);
    }
    let start = before.saturating_sub(SOURCE_CHARACTERS_MAX / 2).min(count - SOURCE_CHARACTERS_MAX);
    let mut text: String = source.chars().skip(start).take(SOURCE_CHARACTERS_MAX).map(harmless).collect();
    let mut shown_before = before - start;
    if start > 0 {
        text.insert(0, '…');
        shown_before += 1;
    }
    if start + SOURCE_CHARACTERS_MAX < count {
        text.push('…');
    }
    (text, shown_before)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn a_message_names_file_line_and_column_and_marks_the_word() {
        let text = "FROM a\n  RÜN\té x\n";
        let problem = Problem::new(Span { line: 2, offset: 7, length: 2 }, "bad word").hint("write another");
        assert_snapshot!(Diagnostics::new(text, vec![problem]).render("build/Dockerfile"), @r"
        build/Dockerfile:2:7: bad word
         2 |   RÜN é x
           |       ^
        hint: write another
        ");
    }

    #[test]
    fn the_mark_is_under_the_word_behind_tabs_and_wide_characters() {
        for (text, offset) in
            [("\tRUN x bad", 7), ("# 日本 bad", 9), ("e\u{301}e\u{301} bad", 7), ("\u{7}\u{7} bad", 3)]
        {
            let problem = Problem::new(Span { line: 1, offset, length: 3 }, "");
            let diagnostic = Diagnostic::new(text, problem);
            let before: String = diagnostic.source.chars().take(diagnostic.column - 1).collect();
            assert_eq!(diagnostic.indent, unicode_width::UnicodeWidthStr::width(before.as_str()), "{text:?}");
            assert_eq!((diagnostic.width, diagnostic.end_column - diagnostic.column), (3, 3), "{text:?}");
        }
        let wide = Diagnostic::new("RUN 日本", Problem::new(Span { line: 1, offset: 4, length: 6 }, ""));
        assert_eq!((wide.indent, wide.width, wide.column, wide.end_column), (4, 4, 5, 7));
    }

    #[test]
    fn a_mistake_in_no_line_has_no_numbers() {
        let problem = Problem::new(Span::default(), "file with no instructions");
        assert_eq!(Diagnostics::new("", vec![problem]).to_string(), "Dockerfile: file with no instructions");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}yy{}", "x".repeat(30_000), "x".repeat(30_000));
        let problem = Problem::new(Span { line: 1, offset: 30_000, length: 2 }, "long");
        let diagnostics = Diagnostics::new(&text, vec![problem]);
        let entry = &diagnostics.entries[0];
        assert_eq!(entry.column, 30_001);
        assert!(entry.source.chars().count() <= SOURCE_CHARACTERS_MAX + 2);
        let rendered = diagnostics.render("f");
        let lines: Vec<&str> = rendered.lines().collect();
        let under = |mark: char, line: &str| line.chars().position(|character| character == mark);
        assert_eq!(under('y', lines[1]), under('^', lines[2]));
    }

    #[test]
    fn a_message_is_short_and_harmless() {
        let problem = Problem::new(Span::default(), format!("bad \u{1b}[31m{}", "x".repeat(60_000)));
        let entry = Diagnostic::new("", problem);
        assert!(entry.message.starts_with("bad  [31mxxx"));
        assert_eq!(entry.message.chars().count(), MESSAGE_CHARACTERS_MAX + 1);
    }

    #[test]
    fn only_the_first_mistakes_are_shown() {
        let problems = (1..=30).map(|line| Problem::new(Span { line, offset: 0, length: 1 }, "bad")).collect();
        let diagnostics = Diagnostics::new(&"x\n".repeat(30), problems);
        assert_eq!(diagnostics.entries.len(), DIAGNOSTICS_MAX);
        assert!(diagnostics.render("f").ends_with("and 10 more"));
    }
}
