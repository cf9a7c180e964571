//! `.dockerignore` and `COPY --exclude` (Dockerfile reference, "dockerignore file"): text goes in, a matcher of paths comes out.
//!
//! The rules are those of Docker's pattern matcher, not of `.gitignore`: a pattern is matched against the whole path, it
//! covers everything below what it matches, and the last line that matches decides. A pattern that cannot be understood
//! is refused with its line; nothing is skipped in silence. Matching takes time linear in the path for every pattern.

use std::fmt::Write as _;

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

/// More lines than this are refused: each one is compiled, and each one is tried on every path.
const PATTERNS_MAX: usize = 10_000;

/// The longest pattern, in bytes: no path is longer.
const PATTERN_BYTES_MAX: usize = 4096;

/// What one compiled pattern may take, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// An ignore pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: illegal exclusion pattern: `{pattern}`: {reason}")]
pub struct IgnoreError {
    /// The line, counted from 1; for a list of patterns its position.
    pub line: usize,
    /// The pattern as it was written, shortened when very long.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A list of ignore patterns; the empty list excludes nothing.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// Written with `!`: it includes again what lines above excluded.
    exception: bool,
    text: String,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    Literal(Vec<u8>),
    Expression(Regex),
}

impl Patterns {
    /// Reads the text of an ignore file: comments, blank lines, `!` and a leading slash are understood (G2).
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.split('\n').enumerate().filter(|(_, line)| !line.starts_with('#'));
        Self::collect(lines.map(|(index, line)| (index + 1, line)))
    }

    /// Takes patterns one by one, as `COPY --exclude` gives them: `#` has no meaning here.
    pub fn from_lines(lines: &[String]) -> Result<Self, IgnoreError> {
        Self::collect(lines.iter().enumerate().map(|(index, line)| (index + 1, line.as_str())))
    }

    fn collect<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Self, IgnoreError> {
        let mut patterns = Vec::new();
        for (line, text) in lines {
            let refuse = |reason| IgnoreError { line, pattern: text.trim().chars().take(200).collect(), reason };
            if let Some(pattern) = Pattern::parse(text).map_err(refuse)? {
                if patterns.len() == PATTERNS_MAX {
                    return Err(refuse("there are more than 10000 patterns"));
                }
                patterns.push(pattern);
            }
        }
        Ok(Self { patterns })
    }

    /// Whether nothing is excluded at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether a line includes again what lines above it exclude.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether one pattern excludes whatever there is.
    pub fn exclude_everything(&self) -> bool {
        let everything = |pattern: &Pattern| ["*", "**", "**/*"].contains(&pattern.text.as_str());
        self.patterns.iter().any(|pattern| !pattern.exception && everything(pattern))
    }

    /// Whether the path is left out. A pattern matches the path itself or a directory above it, and the last pattern that
    /// matches decides (G3). The root, the empty path, is never left out. The path has neither a leading nor a trailing
    /// slash, and no component is empty, `.` or `..`.
    pub fn excludes(&self, path: &[u8]) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            // A pattern that could not change the verdict is not tried.
            if pattern.exception == excluded && pattern.matches_path_or_parent(path) {
                excluded = !pattern.exception;
            }
        }
        excluded
    }

    /// Whether an exception (`!`) may include something below this directory, so that a walk must enter it although it is
    /// excluded (G4). May say yes too often, never no.
    pub fn may_contain_exception(&self, directory: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception && pattern.may_match_below(directory))
    }
}

impl Pattern {
    /// Reads one line; `None` for a blank one.
    fn parse(line: &str) -> Result<Option<Self>, &'static str> {
        let line = line.trim();
        let (exception, text) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
        if text.is_empty() {
            return if exception { Err("nothing follows the `!`") } else { Ok(None) };
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err("it is longer than 4096 bytes");
        }
        let (written, text) = (text, clean(text));
        if exception && written.starts_with('/') && text == "." {
            return Err("nothing follows the `!`");
        }
        let matcher = if text.contains(['*', '?', '[', '\\']) {
            let source = expression(&text)?;
            let compiled = RegexBuilder::new(&source).size_limit(COMPILED_BYTES_MAX).build();
            Matcher::Expression(compiled.map_err(|_| "syntax error in pattern")?)
        } else {
            Matcher::Literal(text.clone().into_bytes())
        };
        Ok(Some(Self { exception, text, matcher }))
    }

    fn matches_path_or_parent(&self, path: &[u8]) -> bool {
        match &self.matcher {
            _ if path.is_empty() => false,
            Matcher::Literal(text) => {
                path.strip_prefix(&text[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
            Matcher::Expression(expression) => expression.is_match(path),
        }
    }

    /// Whether a path below `directory` may match: component by component, any wildcard standing for any name. A pattern
    /// that ends at or above the directory has said what it says about the directory itself.
    fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut parts = self.text.split('/');
        for name in directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match parts.next() {
                // A negated class matches a slash too, so it may span components as `**` does.
                Some(part) if part.contains("**") || part.contains('[') => return true,
                Some(part) if part.contains(['*', '?', '\\']) => {}
                Some(part) if part.as_bytes() == name => {}
                None | Some(_) => return false,
            }
        }
        parts.next().is_some()
    }
}

/// Cleans a pattern lexically and drops its leading slash. `..` above the start stays, and then matches nothing.
fn clean(text: &str) -> String {
    let rooted = text.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// Translates a pattern into a regular expression over bytes, which matches up to the end or to a slash: all parents of a
/// path are tried at once.
fn expression(text: &str) -> Result<String, &'static str> {
    if let Some(suffix) = text.strip_prefix("**")
        && !suffix.starts_with(['/', '*'])
        && !suffix.contains(['*', '?', '[', '\\'])
    {
        // Docker's quirk: `**` and literal text is a test of the end of the path, in the middle of a name too.
        return Ok(format!(r"(?s-u)\A.*{}(?:/|\z)", regex::escape(suffix)));
    }
    let mut expression = String::from(r"(?s)\A");
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                let ends = characters.peek().is_none();
                expression.push_str(if ends { "(?-u:.*)" } else { "(?-u:.*/)?" });
            }
            '*' => expression.push_str("(?-u:[^/]*)"),
            '?' => expression.push_str("[^/]"),
            '\\' => push_literal(&mut expression, characters.next().ok_or("it ends with a backslash")?),
            '[' => push_class(&mut expression, &mut characters)?,
            character => push_literal(&mut expression, character),
        }
    }
    expression.push_str(r"(?:/|\z)");
    Ok(expression)
}

/// Translates a class such as `[a-z]`, `[^0-9]` or `[\]]`, whose opening bracket is read.
fn push_class(expression: &mut String, characters: &mut impl Iterator<Item = char>) -> Result<(), &'static str> {
    const UNTERMINATED: &str = "a `[` is not closed";
    let mut character = characters.next().ok_or(UNTERMINATED)?;
    expression.push('[');
    if character == '^' {
        expression.push('^');
        character = characters.next().ok_or(UNTERMINATED)?;
    }
    if character == ']' {
        return Err("a `[` is closed at once");
    }
    while character != ']' {
        let low = class_member(character, characters)?;
        character = characters.next().ok_or(UNTERMINATED)?;
        let mut high = low;
        if character == '-' {
            let end = characters.next().ok_or(UNTERMINATED)?;
            high = class_member(end, characters)?;
            character = characters.next().ok_or(UNTERMINATED)?;
        }
        if low > high {
            return Err("a range runs backwards");
        }
        // Writing to a string cannot fail.
        write!(expression, r"\x{{{:x}}}-\x{{{:x}}}", u32::from(low), u32::from(high)).map_err(|_| UNTERMINATED)?;
    }
    expression.push(']');
    Ok(())
}

/// Returns the character that a class member stands for.
fn class_member(character: char, characters: &mut impl Iterator<Item = char>) -> Result<char, &'static str> {
    match character {
        '\\' => characters.next().ok_or("it ends with a backslash"),
        '-' | ']' => Err("a range has no end"),
        character => Ok(character),
    }
}

fn push_literal(expression: &mut String, character: char) {
    let mut buffer = [0; 4];
    expression.push_str(&regex::escape(character.encode_utf8(&mut buffer)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(ignore: &str, excluded: &[&str], included: &[&str]) {
        let patterns = Patterns::parse(ignore).unwrap();
        for (paths, expected) in [(excluded, true), (included, false)] {
            for path in paths {
                assert_eq!(patterns.excludes(path.as_bytes()), expected, "{ignore:?} on {path}");
            }
        }
    }

    #[track_caller]
    fn check_error(ignore: &str, expected: &str) {
        assert_eq!(Patterns::parse(ignore).unwrap_err().to_string(), expected);
    }

    #[test]
    fn g2_lines_are_trimmed_and_comments_begin_in_the_first_column() {
        check("\u{feff}a\n", &["a"], &["b"]);
        check("# a\n\n  b  \r\n", &["b"], &["a", "# a"]);
        check(" #x", &["#x"], &[]);
        check("*\n!  keep", &["x"], &["keep", "keep/below"]);
        check("/a\n./b\nc//d\ne/../f\ng/", &["a", "b", "c/d", "f", "g/x"], &["e", "c"]);
        check("../a\n.\n/", &[], &["a", "b"]);
        check("/../a", &["a"], &[]);
    }

    #[test]
    fn g2_an_exception_without_a_pattern_is_refused_with_its_line() {
        check_error("a\n!\n", "line 2: illegal exclusion pattern: `!`: nothing follows the `!`");
        check_error("!/", "line 1: illegal exclusion pattern: `!/`: nothing follows the `!`");
        check_error("[", "line 1: illegal exclusion pattern: `[`: a `[` is not closed");
        check_error("a\\", "line 1: illegal exclusion pattern: `a\\`: it ends with a backslash");
        check_error("x[z-a]", "line 1: illegal exclusion pattern: `x[z-a]`: a range runs backwards");
        check_error("x[]", "line 1: illegal exclusion pattern: `x[]`: a `[` is closed at once");
    }

    #[test]
    fn g3_a_pattern_matches_the_whole_path_and_all_below() {
        check("a", &["a", "a/b", "a/b/c"], &["ab", "x/a", ""]);
        check("a/b", &["a/b", "a/b/c"], &["a", "a/c", "x/a/b"]);
        check("*.md", &["x.md", "x.md/y"], &["d/x.md", "xmd"]);
        check("*/b", &["a/b", "a/b/c"], &["b", "a/x/b"]);
    }

    #[test]
    fn g3_wildcards() {
        check("*", &["a", ".a", "a/b"], &[""]);
        check("a?c", &["abc", "aéc"], &["ac", "a/c", "abbc"]);
        check("[a-c]x", &["ax", "cx"], &["dx", "x"]);
        check("[^a-c]x", &["dx"], &["ax"]);
        check(r"[\]\-]x", &["]x", "-x"], &["ax"]);
        check(r"\*x\?", &["*x?"], &["axb"]);
        check("a.b+c(d)|e{f}$^", &["a.b+c(d)|e{f}$^"], &["aXb+c(d)|e{f}$^"]);
        check("a]b", &["a]b"], &[]);
    }

    #[test]
    fn g3_double_stars_stand_for_any_number_of_directories() {
        check("**", &["a", "a/b"], &[]);
        check("**/x", &["x", "a/x", "a/b/x", "a/x/y"], &["ax", "a/bx"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "ab"]);
        check("a/**/x", &["a/x", "a/b/x", "a/b/c/x"], &["x", "ax", "a/bx"]);
        check("**/*.o", &["x.o", "d/x.o"], &["x.c"]);
        check("**.o", &["x.o", "d/x.o"], &["x.oo"]);
        check("**/**/x", &["x", "a/x"], &["ax"]);
        check("x**", &["x", "xy", "xy/z"], &["ax"]);
    }

    #[test]
    fn g3_the_last_line_that_matches_decides() {
        check("*\n!a", &["b"], &["a", "a/b"]);
        check("!a\n*", &["a", "b"], &[]);
        check("a\n!a/b\na/b/c", &["a/x", "a/b/c"], &["a/b", "a/b/d"]);
        check("*.md\n!README*.md\nREADME-secret.md", &["x.md", "README-secret.md"], &["README.md", "README-a.md"]);
    }

    #[test]
    fn g4_a_walk_enters_an_excluded_directory_only_where_an_exception_may_match() {
        for (ignore, directory, expected) in [
            ("*\n!d/e/f", "d", true),
            ("*\n!d/e/f", "d/e", true),
            ("*\n!d/e/f", "d/e/f", false),
            ("*\n!d/e/f", "d/x", false),
            ("*\n!d/e/f", "x", false),
            ("*\n!*/f", "x", true),
            ("*\n!*/f", "x/y", false),
            ("*\n!**/f", "x/y/z", true),
            ("*\n!d/**", "d/e/f", true),
            ("d", "d", false),
        ] {
            let patterns = Patterns::parse(ignore).unwrap();
            assert_eq!(patterns.may_contain_exception(directory.as_bytes()), expected, "{ignore:?} on {directory}");
        }
    }

    #[test]
    fn exclude_flags_have_no_comments() {
        let patterns = Patterns::from_lines(&["#a".to_owned(), "!b".to_owned()]).unwrap();
        assert!(patterns.excludes(b"#a"));
        assert!(!patterns.is_empty());
    }

    #[test]
    fn names_that_are_not_text_are_matched() {
        check_bytes("d/*", b"d/\xff", true);
        check_bytes("**/x", b"\xff/x", true);
        check_bytes("d/**", b"d/\xff\n", true);
    }

    #[track_caller]
    fn check_bytes(ignore: &str, path: &[u8], expected: bool) {
        assert_eq!(Patterns::parse(ignore).unwrap().excludes(path), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[ab*?!/.\\[\\]\\\\^#\n-]{0,40}", path in "[ab/.-]{0,20}") {
            if let Ok(patterns) = Patterns::parse(&text) {
                let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | "." | "..")).collect();
                // What an exception includes below an excluded directory is always reached by a walk.
                if let Some((_, above)) = names.split_last() {
                    let (path, parent) = (names.join("/"), above.join("/"));
                    if patterns.excludes(parent.as_bytes()) && !patterns.excludes(path.as_bytes()) {
                        prop_assert!(patterns.may_contain_exception(parent.as_bytes()), "{text:?} {path}");
                    }
                }
            }
        }

        #[test]
        fn many_wildcards_take_linear_time(count in 1_usize..200) {
            let patterns = Patterns::parse(&"**/*a".repeat(count)).unwrap();
            prop_assert!(!patterns.excludes(&[b'a'; 4096][..]) || count < 4096);
        }
    }
}
