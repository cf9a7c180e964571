//! From text to logical lines: directives are read, comments dropped, continued lines joined, heredoc bodies taken out.
//!
//! Every logical line remembers where its pieces come from, so that any byte of it has a line and a column. What a line
//! means is not known here.

use std::collections::VecDeque;

use crate::{
    ast::{Directives, Word},
    diagnostic::{Problem, Span},
    heredoc::{HEREDOC_BYTES_MAX, HeredocWord},
};

/// Longest line, as BuildKit's scanner has it.
pub(crate) const LINE_BYTES_MAX: usize = 65_535;

/// How many comments above an instruction are kept: the nearest.
const COMMENTS_MAX: usize = 100;

/// One line of the file.
#[derive(Clone, Copy, Debug)]
struct Physical<'a> {
    /// Without its end.
    text: &'a str,
    /// With its end.
    whole: &'a str,
    number: usize,
}

/// One instruction's text: its lines without continuation marks and comments.
#[derive(Debug, Default)]
pub(crate) struct Logical {
    pub text: String,
    /// The comments above it.
    pub comments: Vec<Word>,
    /// The first empty line behind which it goes on.
    pub empty_continuation: Option<Span>,
    pieces: Vec<Piece>,
}

/// Where a part of a logical line comes from.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts in the logical text.
    start: usize,
    line: usize,
    /// Where it starts in the physical line.
    offset: usize,
}

impl Logical {
    fn push(&mut self, text: &str, line: usize, offset: usize) {
        self.pieces.push(Piece { start: self.text.len(), line, offset });
        self.text.push_str(text);
    }

    /// Returns the place of `length` bytes from `start` on, up to the end of their line.
    pub(crate) fn span(&self, start: usize, length: usize) -> Span {
        let index = self.pieces.partition_point(|piece| piece.start <= start);
        let Some(piece) = index.checked_sub(1).and_then(|index| self.pieces.get(index)) else {
            return Span::default();
        };
        let end = self.pieces.get(index).map_or(self.text.len(), |next| next.start);
        let length = length.min(end.saturating_sub(start));
        Span { line: piece.line, offset: piece.offset + (start - piece.start), length }
    }
}

/// Reads a Dockerfile from top to bottom.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    source: &'a str,
    position: usize,
    line: usize,
    /// Comments since the last instruction, with their places.
    comments: VecDeque<(&'a str, Span)>,
    /// The escape character, from the directive.
    pub escape: char,
}

impl<'a> Lexer<'a> {
    pub(crate) const fn new(source: &'a str, escape: char) -> Self {
        Self { source, position: 0, line: 0, comments: VecDeque::new(), escape }
    }

    /// Returns the number of the last line that was read.
    pub(crate) const fn line(&self) -> usize {
        self.line
    }

    /// Returns the next physical line.
    fn physical(&mut self) -> Option<Result<Physical<'a>, Problem>> {
        let source: &'a str = self.source;
        let rest = &source[self.position..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let whole = &rest[..length];
        self.position += length;
        self.line += 1;
        let text = whole.trim_end_matches(['\n', '\r']);
        if text.len() > LINE_BYTES_MAX {
            let span = Span { line: self.line, offset: 0, length: 1 };
            let message = format!("line is longer than the maximum of {LINE_BYTES_MAX} bytes");
            return Some(Err(Problem::new(span, message)));
        }
        Some(Ok(Physical { text, whole, number: self.line }))
    }

    /// Reads the parser directives at the top of the file. Behind a `#!` line the escape directive is a comment.
    pub(crate) fn directives(&mut self) -> Result<Directives, Problem> {
        let mut directives = Directives::default();
        let interpreted = self.source.starts_with("#!");
        if interpreted && let Some(physical) = self.physical() {
            physical?;
        }
        loop {
            let (position, line) = (self.position, self.line);
            let Some(physical) = self.physical() else { break };
            if !self.directive(physical?, interpreted, &mut directives)? {
                (self.position, self.line) = (position, line);
                break;
            }
        }
        Ok(directives)
    }

    /// Takes one line into `directives`; false when it is no directive.
    fn directive(
        &mut self,
        physical: Physical<'_>,
        interpreted: bool,
        directives: &mut Directives,
    ) -> Result<bool, Problem> {
        let Some((key, value)) = physical.text.trim_start().strip_prefix('#').and_then(split_directive) else {
            return Ok(false);
        };
        let key = key.to_ascii_lowercase();
        let span = Span { line: physical.number, offset: 0, length: physical.text.len() };
        let repeated = match key.as_str() {
            "syntax" => directives.syntax.replace(value.to_owned()).is_some(),
            "check" => {
                let offset = physical.text.trim_end().len().saturating_sub(value.len());
                let span = Span { line: physical.number, offset, length: value.len() };
                directives.check.replace(Word { text: value.to_owned(), span }).is_some()
            }
            "escape" if interpreted => false,
            "escape" => {
                self.escape = escape_character(value).map_err(|problem| Problem { span, ..problem })?;
                directives.escape.replace(value.to_owned()).is_some()
            }
            _ => return Ok(false),
        };
        if repeated {
            return Err(Problem::new(span, format!("only one {key} parser directive can be used")));
        }
        Ok(true)
    }

    /// Returns the next instruction's text. After an error nothing sensible follows.
    pub(crate) fn logical(&mut self) -> Option<Result<Logical, Problem>> {
        loop {
            let physical = match self.physical()? {
                Ok(physical) => physical,
                Err(problem) => return Some(Err(problem)),
            };
            let text = physical.text.trim_start();
            let offset = physical.text.len() - text.len();
            if let Some(comment) = text.strip_prefix('#') {
                self.comment(comment, physical.number, offset + 1);
                continue;
            }
            if text.is_empty() {
                continue;
            }
            let mut logical = Logical::default();
            let (piece, continued) = split_continuation(text, self.escape);
            logical.push(piece, physical.number, offset);
            if continued && let Err(problem) = self.continue_line(&mut logical) {
                return Some(Err(problem));
            }
            if !logical.text.trim().is_empty() {
                let comments = self.comments.drain(..);
                logical.comments = comments.map(|(text, span)| Word { text: text.to_owned(), span }).collect();
                return Some(Ok(logical));
            }
        }
    }

    /// Keeps a comment for the instruction that follows. An empty one separates those above it from the instruction.
    fn comment(&mut self, comment: &'a str, line: usize, offset: usize) {
        let text = comment.trim();
        if text.is_empty() {
            return self.comments.clear();
        }
        if self.comments.len() == COMMENTS_MAX {
            self.comments.pop_front();
        }
        let offset = offset + comment.len() - comment.trim_start().len();
        self.comments.push_back((text, Span { line, offset, length: text.len() }));
    }

    /// Appends lines until one is not continued; comments and empty lines between disappear.
    fn continue_line(&mut self, logical: &mut Logical) -> Result<(), Problem> {
        while let Some(physical) = self.physical() {
            let physical = physical?;
            let trimmed = physical.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                logical.empty_continuation.get_or_insert(Span { line: physical.number, offset: 0, length: 1 });
                continue;
            }
            let (piece, continued) = split_continuation(physical.text, self.escape);
            logical.push(piece, physical.number, 0);
            if !continued {
                break;
            }
        }
        Ok(())
    }

    /// Takes the body that a heredoc word announces, up to and without its terminator; leading tabs stay.
    pub(crate) fn heredoc(&mut self, word: &HeredocWord, span: Span) -> Result<String, Problem> {
        let start = self.position;
        while let Some(physical) = self.physical() {
            let Physical { text, whole, .. } = physical?;
            let candidate = if word.strip_tabs { text.trim_start_matches('\t') } else { text };
            if candidate == word.name {
                return Ok(self.source[start..self.position - whole.len()].to_owned());
            }
            if self.position - start > HEREDOC_BYTES_MAX {
                return Err(Problem::new(span, format!("heredoc is longer than {HEREDOC_BYTES_MAX} bytes")));
            }
        }
        let message = format!("unterminated heredoc: no line is `{}`", word.name);
        Err(Problem::new(span, message).hint("the terminator stands alone on its line, without blanks around it"))
    }
}

/// Reads the value of the escape directive; the problem has no place yet.
fn escape_character(value: &str) -> Result<char, Problem> {
    match value {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        _ => {
            let problem = Problem::new(Span::default(), format!("invalid escape token `{value}`"));
            Err(problem.hint("the escape directive is `\\` or a backtick"))
        }
    }
}

/// Splits ` key = value`, as it stands behind the `#`.
pub(crate) fn split_directive(comment: &str) -> Option<(&str, &str)> {
    let (key, value) = comment.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let named = key.starts_with(|first: char| first.is_ascii_alphabetic());
    (named && key.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !value.is_empty()).then_some((key, value))
}

/// Takes the escape character from the end of a continued line.
fn split_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(head) if !head.ends_with(escape) => (head, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text, '\\');
        lexer.directives().unwrap();
        std::iter::from_fn(|| lexer.logical()).map(|line| line.unwrap().text).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(lines(text), expected, "{text:?}");
    }

    #[test]
    fn p1_a_line_ends_with_line_feed_or_both() {
        check("FROM a\r\nRUN b\r\n", &["FROM a", "RUN b"]);
        check("FROM a", &["FROM a"]);
    }

    #[test]
    fn p1_a_long_line_is_refused() {
        let text = format!("RUN {}", "x".repeat(70_000));
        let problem = Lexer::new(&text, '\\').logical().unwrap().unwrap_err();
        assert_eq!(problem.message, "line is longer than the maximum of 65535 bytes");
    }

    #[test]
    fn p2_leading_blanks_stay_on_continuation_lines_only() {
        check("  RUN a \\\n   b", &["RUN a    b"]);
    }

    #[test]
    fn p3_comments_disappear_also_inside_an_instruction() {
        check("# x\n  # y\nRUN a \\\n # c\n  b # d\n", &["RUN a   b # d"]);
    }

    #[test]
    fn p4_the_escape_character_continues_a_line_unless_escaped() {
        check("RUN a\\\nb", &["RUN ab"]);
        check("RUN a\\ \t\nb", &["RUN ab"]);
        check("RUN a\\\\\nRUN b", &["RUN a\\\\", "RUN b"]);
        check("\\\nRUN b", &["RUN b"]);
        check("RUN a\\", &["RUN a"]);
    }

    #[test]
    fn p5_empty_lines_inside_a_continuation_are_skipped() {
        check("RUN a \\\n\n\n  b\n\nRUN c", &["RUN a   b", "RUN c"]);
    }

    #[test]
    fn d1_the_escape_directive_changes_the_escape_character() {
        check("# escape=`\nRUN a `\nb c:\\\nRUN d", &["RUN a b c:\\", "RUN d"]);
        check("# Escape = ` \nRUN a`\nb", &["RUN ab"]);
        check("# hello\n# escape=`\nRUN a\\\nb", &["RUN ab"]);
        check("# unknown=x\n# escape=`\nRUN a\\\nb", &["RUN ab"]);
        check("\n# escape=`\nRUN a\\\nb", &["RUN ab"]);
    }

    #[test]
    fn d1_directives_are_read_and_refused() {
        let read = |text| Lexer::new(text, '\\').directives();
        let directives = read("# syntax=docker/dockerfile:1\n# check=skip=all\nFROM a").unwrap();
        assert_eq!(directives.syntax.as_deref(), Some("docker/dockerfile:1"));
        let check = directives.check.unwrap();
        assert_eq!((check.text.as_str(), check.span), ("skip=all", Span { line: 2, offset: 8, length: 8 }));
        assert_eq!(read("# escape=x\n").unwrap_err().message, "invalid escape token `x`");
        let problem = read("# syntax=a\n# syntax=b\n").unwrap_err();
        assert_eq!((problem.message.as_str(), problem.span.line), ("only one syntax parser directive can be used", 2));
    }

    #[test]
    fn d2_a_first_line_for_an_interpreter_hides_the_escape_directive_only() {
        let mut lexer = Lexer::new("#!/usr/bin/env x\n# syntax=a\n# escape=`\n# check=skip=all\nRUN a\\\nb", '\\');
        let directives = lexer.directives().unwrap();
        assert_eq!((directives.syntax.as_deref(), directives.escape, lexer.escape), (Some("a"), None, '\\'));
        assert_eq!(directives.check.unwrap().text, "skip=all");
        assert_eq!(lexer.logical().unwrap().unwrap().text, "RUN ab");
    }

    #[test]
    fn d1_blanks_before_a_directive_do_not_matter() {
        check("  # escape=`\nRUN a `\nb", &["RUN a b"]);
    }

    #[test]
    fn d4_comments_belong_to_the_instruction_below_up_to_an_empty_comment() {
        let comments = |text| {
            let mut lexer = Lexer::new(text, '\\');
            lexer.directives().unwrap();
            let logical = std::iter::from_fn(|| lexer.logical()).last().unwrap().unwrap();
            logical.comments.into_iter().map(|comment| comment.text).collect::<Vec<_>>()
        };
        assert_eq!(comments("# syntax=a\n# one\n\n  # two \nRUN a"), ["one", "two"]);
        assert_eq!(comments("# one\n#\n# two\nRUN a"), ["two"]);
        assert_eq!(comments("# one\nRUN a \\\n # inside\n b\nRUN c"), Vec::<String>::new());
        assert_eq!(comments(&format!("{}RUN a", "# x\n".repeat(200))).len(), COMMENTS_MAX);
    }

    #[test]
    fn p5_the_first_empty_line_of_an_instruction_is_remembered() {
        let logical = Lexer::new("RUN a \\\n # c\n \t\n\n b", '\\').logical().unwrap().unwrap();
        assert_eq!(logical.empty_continuation, Some(Span { line: 3, offset: 0, length: 1 }));
    }

    #[test]
    fn a_byte_of_a_logical_line_has_its_place() {
        let logical = Lexer::new("\n  RUN a \\\n  # c\n  bc", '\\').logical().unwrap().unwrap();
        assert_eq!(logical.text, "RUN a   bc");
        assert_eq!(logical.span(4, 1), Span { line: 2, offset: 6, length: 1 });
        assert_eq!(logical.span(8, 2), Span { line: 4, offset: 2, length: 2 });
        // A place ends with its line.
        assert_eq!(logical.span(4, 6), Span { line: 2, offset: 6, length: 2 });
    }
}
