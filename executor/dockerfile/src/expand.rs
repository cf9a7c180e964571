//! Variable substitution: a word as written and the variables come in, its text comes out, or the words into which it
//! falls. The forms are those of BuildKit's Dockerfile frontend, in POSIX shell's spirit; quotes and escapes go away here.
//!
//! Growth is bounded: `ENV A=$A$A` doubles with every line.

use std::cell::Cell;

use crate::pattern::{self, Trim};

/// The longest text that a substitution may make.
pub const EXPANDED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The escape character of bodies of heredocs.
const BODY_ESCAPE: char = '\\';

/// How deep `${a:-${b:-…}}` may go.
const DEPTH_MAX: usize = 64;

/// How many bytes all substitutions of a build may touch.
const WORK_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How many bytes of all substitutions of a build may be kept.
const KEPT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What using a pattern costs at least, in bytes touched: it must be compiled.
const PATTERN_WORK_BYTES_MIN: usize = 64 * 1024;

/// What a byte of a pattern costs besides, and a byte of the value that it is used on.
const PATTERN_WORK_FACTORS: (usize, usize) = (64, 8);

/// What all substitutions of one build may cost together.
#[derive(Debug, Default)]
pub struct Budget {
    touched_bytes: Cell<usize>,
    kept_bytes: Cell<usize>,
}

impl Budget {
    /// Counts bytes that are looked at or copied. Fails when they are too many.
    fn touch(&self, bytes: usize) -> Result<(), String> {
        spend(&self.touched_bytes, bytes, WORK_BYTES_MAX)
    }

    /// Counts bytes that stay in memory. Fails when they are too many.
    pub fn keep(&self, bytes: usize) -> Result<(), String> {
        spend(&self.kept_bytes, bytes, KEPT_BYTES_MAX)
    }
}

fn spend(spent: &Cell<usize>, bytes: usize, most: usize) -> Result<(), String> {
    spent.set(spent.get().saturating_add(bytes));
    if spent.get() > most {
        return Err(format!("the variables of this Dockerfile take more than {most} bytes to expand"));
    }
    Ok(())
}

/// Substitutes variables.
pub struct Expander<'a, 'value> {
    /// The escape character of the Dockerfile.
    pub escape: char,
    /// The value of a variable; `None` when it is not set.
    pub lookup: &'a dyn Fn(&str) -> Option<&'value str>,
    /// What may still be spent.
    pub budget: &'a Budget,
}

impl std::fmt::Debug for Expander<'_, '_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Expander").field("escape", &self.escape).finish_non_exhaustive()
    }
}

impl<'a> Expander<'a, '_> {
    /// Expands a word into one text; blanks of values stay.
    pub fn word(&self, word: &str) -> Result<String, String> {
        self.run(word, true).map(|expanded| expanded.text)
    }

    /// Expands a word into words: unquoted blanks, those of values too, separate.
    pub fn words(&self, word: &str) -> Result<Vec<String>, String> {
        self.run(word, true).map(|expanded| expanded.words)
    }

    /// Expands the body of a heredoc, in which quotes are ordinary characters and the escape character is always `\`.
    pub fn body(&self, body: &str) -> Result<String, String> {
        Self { escape: BODY_ESCAPE, ..*self }.run(body, false).map(|expanded| expanded.text)
    }

    fn run(&self, word: &str, quotes: bool) -> Result<Expanded<'a>, String> {
        let mut scanner = Scanner {
            escape: self.escape,
            lookup: self.lookup,
            text: word,
            position: 0,
            quotes,
            depth: 0,
            budget: self.budget,
        };
        let expanded = scanner.until(None, Keep::Nothing);
        expanded
            .and_then(|expanded| self.budget.keep(expanded.text.len()).map(|()| expanded))
            .map_err(|message| format!("failed to process {}: {message}", shown(word)))
    }
}

/// Quotes a word for a message, without its tail if it is long.
fn shown(word: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    if word.chars().count() <= CHARACTERS_MAX {
        return format!("{word:?}");
    }
    let head: String = word.chars().take(CHARACTERS_MAX).collect();
    format!("{head:?}…")
}

/// Text under construction, whole and as words.
struct Expanded<'a> {
    text: String,
    words: Vec<String>,
    word: String,
    budget: &'a Budget,
}

impl<'a> Expanded<'a> {
    const fn new(budget: &'a Budget) -> Self {
        Self { text: String::new(), words: Vec::new(), word: String::new(), budget }
    }

    /// Adds text whose blanks separate words.
    fn push_splitting(&mut self, text: &str) -> Result<(), String> {
        self.check(text)?;
        self.text.push_str(text);
        for character in text.chars() {
            if !character.is_whitespace() {
                self.word.push(character);
            } else if !self.word.is_empty() {
                self.words.push(std::mem::take(&mut self.word));
            }
        }
        Ok(())
    }

    /// Adds text whose blanks belong to the word.
    fn push_whole(&mut self, text: &str) -> Result<(), String> {
        self.check(text)?;
        self.text.push_str(text);
        self.word.push_str(text);
        Ok(())
    }

    fn finish(mut self) -> Self {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
        self
    }

    /// Refuses what would be too much, before any work is done for it.
    fn check(&self, added: &str) -> Result<(), String> {
        self.budget.touch(added.len())?;
        bounded(self.text.len() + added.len())
    }
}

fn bounded(length: usize) -> Result<(), String> {
    if length > EXPANDED_BYTES_MAX {
        return Err(format!("the text becomes longer than {EXPANDED_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Which escapes a part of a word keeps, for they are read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// None.
    Nothing,
    /// Those of a replacement, as BuildKit does.
    Escapes,
    /// Those of a pattern; inside quotes they are escaped once more, for there they are ordinary characters.
    Pattern,
}

/// What follows the name in `${name…}`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Modifier {
    Default,
    Alternative,
    Required,
    Trim { suffix: bool },
}

struct Scanner<'text, 'a, 'value> {
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<&'value str>,
    text: &'text str,
    position: usize,
    quotes: bool,
    depth: usize,
    budget: &'a Budget,
}

impl<'text, 'a, 'value> Scanner<'text, 'a, 'value> {
    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += character.len_utf8();
        Some(character)
    }

    /// Expands up to and past `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, keep: Keep) -> Result<Expanded<'a>, String> {
        let mut expanded = Expanded::new(self.budget);
        let mut buffer = [0; 4];
        while let Some(character) = self.peek() {
            if Some(character) == stop {
                self.next();
                return Ok(expanded.finish());
            }
            match character {
                '$' => expanded.push_splitting(&self.dollar()?)?,
                '\'' if self.quotes => expanded.push_whole(&self.single_quoted(keep)?)?,
                '"' if self.quotes => expanded.push_whole(&self.double_quoted(keep)?)?,
                _ if character == self.escape => {
                    self.next();
                    if keep != Keep::Nothing {
                        expanded.push_whole(character.encode_utf8(&mut buffer))?;
                    }
                    if let Some(escaped) = self.next() {
                        expanded.push_whole(escaped.encode_utf8(&mut buffer))?;
                    }
                }
                _ => {
                    self.next();
                    expanded.push_splitting(character.encode_utf8(&mut buffer))?;
                }
            }
        }
        match stop {
            None => Ok(expanded.finish()),
            Some('/') => Err("syntax error: missing '/' in ${}".into()),
            Some(stop) => Err(format!("syntax error: missing '{stop}'")),
        }
    }

    /// Everything between single quotes is itself.
    fn single_quoted(&mut self, keep: Keep) -> Result<String, String> {
        self.next();
        let rest = &self.text[self.position..];
        let Some(end) = rest.find('\'') else {
            return Err("unexpected end of statement while looking for matching single-quote".into());
        };
        self.position += end + 1;
        let text = &rest[..end];
        if keep == Keep::Pattern {
            let mut buffer = [0; 8];
            let escape: &str = self.escape.encode_utf8(&mut buffer);
            return Ok(text.replace(escape, &escape.repeat(2)));
        }
        Ok(text.to_owned())
    }

    /// Between double quotes the escape works before `"`, `$` and itself only.
    fn double_quoted(&mut self, keep: Keep) -> Result<String, String> {
        self.next();
        let escape = self.escape;
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err("unexpected end of statement while looking for matching double-quote".into()),
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.budget.touch(value.len())?;
                    text.push_str(&value);
                    bounded(text.len())?;
                }
                Some(character) => {
                    self.next();
                    if character == escape {
                        let escaped = self.peek().filter(|next| *next == '"' || *next == '$' || *next == escape);
                        if keep != Keep::Nothing {
                            text.push(escape);
                        }
                        if escaped.is_some() {
                            self.next();
                        }
                        text.push(escaped.unwrap_or(escape));
                    } else {
                        text.push(character);
                    }
                }
            }
        }
    }

    /// Expands from a `$` on.
    fn dollar(&mut self) -> Result<String, String> {
        // What has spent everything does not even copy a value.
        self.budget.touch(0)?;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".into() } else { self.value(name).unwrap_or_default().to_owned() });
        }
        self.next();
        if self.depth == DEPTH_MAX {
            return Err(format!("substitutions are nested deeper than {DEPTH_MAX}"));
        }
        self.depth += 1;
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// Expands behind `${`.
    fn braces(&mut self) -> Result<String, String> {
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let (mut modifier, mut colon) = (self.next(), false);
        if modifier == Some(':') {
            colon = true;
            modifier = self.next();
        }
        let known = match modifier {
            None => return Err("syntax error: missing '}'".into()),
            Some('}') if !colon => return Ok(self.value(name).unwrap_or_default().to_owned()),
            Some('/') if !colon => return self.replaced(name),
            Some('-') => Modifier::Default,
            Some('+') => Modifier::Alternative,
            Some('?') => Modifier::Required,
            Some('#') if !colon => Modifier::Trim { suffix: false },
            Some('%') if !colon => Modifier::Trim { suffix: true },
            Some(other) => {
                let colon = if colon { ":" } else { "" };
                return Err(format!("unsupported modifier ({colon}{other}) in substitution"));
            }
        };
        self.modified(name, known, colon)
    }

    /// Expands `${name-word}` and its kin. With a colon an empty value counts as none.
    fn modified(&mut self, name: &str, modifier: Modifier, colon: bool) -> Result<String, String> {
        let keep = if matches!(modifier, Modifier::Trim { .. }) { Keep::Pattern } else { Keep::Nothing };
        let word = self.until(Some('}'), keep)?.text;
        let value = self.value(name);
        let present = value.filter(|value| !colon || !value.is_empty());
        match modifier {
            Modifier::Default => Ok(present.map_or(word, str::to_owned)),
            Modifier::Alternative => Ok(present.map(|_| word).unwrap_or_default()),
            Modifier::Required => present.map(str::to_owned).ok_or_else(|| {
                let state = if value.is_some() { "empty" } else { "unset" };
                let message = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                format!("{name}: {message}")
            }),
            Modifier::Trim { suffix } => {
                let mark = if suffix { '%' } else { '#' };
                let (pattern, longest) = word.strip_prefix(mark).map_or((&*word, false), |pattern| (pattern, true));
                let value = value.unwrap_or_default();
                self.work(value, pattern)?;
                pattern::trim(value, pattern, Trim { suffix, longest })
                    .map_err(|message| format!("invalid pattern ({pattern}) in substitution: {message}"))
            }
        }
    }

    /// Expands `${name/pattern/replacement}`, behind the first slash.
    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.until(Some('/'), Keep::Pattern)?.text;
        let with = self.until(Some('}'), Keep::Escapes)?.text;
        let value = self.value(name).unwrap_or_default();
        // Every character of the value and both its ends may match.
        if value.len().saturating_add(1).saturating_mul(with.len().saturating_add(1)) > 8 * EXPANDED_BYTES_MAX {
            return Err(format!("the text may become longer than {EXPANDED_BYTES_MAX} bytes"));
        }
        self.work(value, &pattern)?;
        pattern::replace(value, &pattern, &with, all)
            .map_err(|message| format!("invalid pattern ({pattern}) in substitution: {message}"))
    }

    /// Takes a name: letters, digits and `_`, or digits alone, or one of the shell's special parameters.
    fn name(&mut self) -> &'text str {
        let text = self.text;
        let rest = &text[self.position..];
        let length = match rest.chars().next() {
            None => 0,
            Some(digit) if digit.is_numeric() => {
                rest.find(|character: char| !character.is_numeric()).unwrap_or(rest.len())
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            Some(_) => {
                rest.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(rest.len())
            }
        };
        self.position += length;
        &rest[..length]
    }

    fn value(&self, name: &str) -> Option<&'value str> {
        (self.lookup)(name)
    }

    /// Counts the use of a pattern.
    fn work(&self, value: &str, pattern: &str) -> Result<(), String> {
        let (of_pattern, of_value) = PATTERN_WORK_FACTORS;
        self.budget.touch(value.len() * of_value + pattern.len() * of_pattern + PATTERN_WORK_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(name: &str) -> Option<&'static str> {
        Some(match name {
            "A" => "foo.tar.gz",
            "EMPTY" => "",
            "TWO" => "a b",
            "STAR" => "*",
            "BACK" => r"\b",
            "x" => "1",
            "X" => "2",
            _ => return None,
        })
    }

    fn word(word: &str) -> Result<String, String> {
        Expander { escape: '\\', lookup: &variable, budget: &Budget::default() }.word(word)
    }

    fn words(word: &str) -> Result<Vec<String>, String> {
        Expander { escape: '\\', lookup: &variable, budget: &Budget::default() }.words(word)
    }

    fn body(body: &str) -> Result<String, String> {
        Expander { escape: '\\', lookup: &variable, budget: &Budget::default() }.body(body)
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(word(text), Err(format!("failed to process {text:?}: {expected}")));
    }

    #[test]
    fn v1_every_form() {
        for (word, expected) in [
            ("$A", "foo.tar.gz"),
            ("${A}", "foo.tar.gz"),
            ("x$A/y", "xfoo.tar.gz/y"),
            ("$A.x", "foo.tar.gz.x"),
            ("$none|${none}", "|"),
            ("${A:-w}", "foo.tar.gz"),
            ("${A-w}", "foo.tar.gz"),
            ("${EMPTY:-w}", "w"),
            ("${EMPTY-w}", ""),
            ("${none:-w}", "w"),
            ("${none-w}", "w"),
            ("${A:+w}", "w"),
            ("${EMPTY:+w}", ""),
            ("${EMPTY+w}", "w"),
            ("${none+w}", ""),
            ("${A:?msg}", "foo.tar.gz"),
            ("${EMPTY?msg}", ""),
            ("${none:-${EMPTY:-$A}}", "foo.tar.gz"),
            ("${none:-\"a b\"}", "a b"),
            ("${A%.*}", "foo.tar"),
            ("${A%%.*}", "foo"),
            ("${A#*.}", "tar.gz"),
            ("${A##*.}", "gz"),
            ("${A/o/0}", "f0o.tar.gz"),
            ("${A//o/0}", "f00.tar.gz"),
            ("${A/.*/}", "foo"),
            ("${A/o/$X}", "f2o.tar.gz"),
            ("${A%${none:-.gz}}", "foo.tar"),
            ("${TWO/ /}", "ab"),
            ("${none#x}", ""),
        ] {
            check(word, expected);
        }
    }

    #[test]
    fn v2_escapes_in_patterns() {
        check(r"${STAR#\*}", "");
        check(r"${A#\*}", "foo.tar.gz");
        check(r"${A/\//x}", "foo.tar.gz");
        check_error(r"${A#\o}", r"invalid pattern (\o) in substitution: invalid escape '\o'");
        // Inside quotes an escape of a pattern is an ordinary character, and the star after it is special.
        check(r#"${BACK##"\*"}"#, "");
        check(r"${BACK#'\'}", "b");
        check(r#"${BACK#"\\"}"#, "b");
        check(r#"${STAR##"*"}"#, "");
        check(r"${A/o/a\/b}", r"fa\/bo.tar.gz");
        check_error("${A:#p}", "unsupported modifier (:#) in substitution");
        check_error("${A:%p}", "unsupported modifier (:%) in substitution");
    }

    #[test]
    fn v3_errors() {
        for word in ["${}", "${:x}", "${{"] {
            check_error(word, "syntax error: bad substitution");
        }
        for word in ["${", "${A", "${A:-x", "${A:", "${A/o/x", "${A:-${X}"] {
            check_error(word, "syntax error: missing '}'");
        }
        check_error("${A/o", "syntax error: missing '/' in ${}");
        check_error("'a", "unexpected end of statement while looking for matching single-quote");
        check_error("\"a", "unexpected end of statement while looking for matching double-quote");
        check_error("${none:?must be set}", "none: must be set");
        check_error("${none?}", "none: is not allowed to be unset");
        check_error("${none:?}", "none: is not allowed to be unset");
        check_error("${EMPTY:?}", "EMPTY: is not allowed to be empty");
        check_error("${A.b}", "unsupported modifier (.) in substitution");
    }

    #[test]
    fn v4_special_parameters_are_empty_and_quotes_protect() {
        for (word, expected) in [
            ("$1x", "x"),
            ("$123x", "x"),
            ("$@$*$#$?$-$!$$$0", ""),
            ("$.", "$."),
            ("$", "$"),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            (r"'a\b'", r"a\b"),
            (r#""a\b""#, r"a\b"),
            (r#""\"\$\\""#, r#""$\"#),
            ("\"$A\"", "foo.tar.gz"),
            (r"a\b\\", r"ab\"),
            (r#"a"b"'c'"#, "abc"),
            ("a\\", "a"),
        ] {
            check(word, expected);
        }
    }

    #[test]
    fn v5_unquoted_values_split_and_quoted_ones_do_not() {
        let words = |text| words(text).unwrap();
        assert_eq!(words("$TWO"), ["a", "b"]);
        assert_eq!(words("\"$TWO\""), ["a b"]);
        assert_eq!(words("x$TWO"), ["xa", "b"]);
        assert_eq!(words(r"c\ d e"), ["c d", "e"]);
        assert_eq!(words("$EMPTY"), Vec::<String>::new());
    }

    #[test]
    fn v7_names_are_case_sensitive() {
        check("$x$X", "12");
    }

    #[test]
    fn h3_quotes_of_a_body_are_kept() {
        let body = body("$x \"q\" 'r' \\$x \\\\ \\y\\\nz").unwrap();
        assert_eq!(body, "1 \"q\" 'r' $x \\ y\nz");
    }

    #[test]
    fn the_escape_character_may_be_a_backtick() {
        let budget = Budget::default();
        let expander = Expander { escape: '`', lookup: &variable, budget: &budget };
        assert_eq!(expander.word("c:\\a`$x`` $x").unwrap(), "c:\\a$x` 1");
        // Bodies of heredocs and patterns know the backslash only.
        assert_eq!(expander.body("\\$x `$x").unwrap(), "$x `1");
        assert_eq!(expander.word("${STAR#\\*}").unwrap(), "");
    }

    #[test]
    fn growth_and_depth_are_bounded() {
        let value = "x".repeat(EXPANDED_BYTES_MAX / 2);
        let long = |_: &str| Some(value.as_str());
        let error =
            |text: &str| Expander { escape: '\\', lookup: &long, budget: &Budget::default() }.word(text).unwrap_err();
        assert!(error("$a$a$a").ends_with("longer than 4194304 bytes"));
        assert!(error("\"$a$a$a\"").ends_with("longer than 4194304 bytes"));
        assert!(error("${a//x/0123456789012345}").ends_with("longer than 4194304 bytes"));
        assert!(error(&"${a%%*}".repeat(1_000)).ends_with("bytes to expand"));
        assert!(error("${a%$a}").ends_with("the pattern is too large"));
        assert!(word(&"${a:-".repeat(100_000)).unwrap_err().ends_with("deeper than 64"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let value = "x".repeat(EXPANDED_BYTES_MAX);
        let long = |_: &str| Some(value.as_str());
        let budget = Budget::default();
        let expander = Expander { escape: '\\', lookup: &long, budget: &budget };
        let kept = (0..100).take_while(|_| expander.word("$a").is_ok()).count();
        assert_eq!(kept, KEPT_BYTES_MAX / EXPANDED_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn expansion_never_panics(word in r#"([$\{\}:/#%?+'"\\*a-cA é\n-]|\$\{){0,40}"#) {
            let budget = Budget::default();
            let expander = Expander { escape: '\\', lookup: &variable, budget: &budget };
            let expanded = (expander.word(&word), expander.words(&word), expander.body(&word));
            prop_assert_eq!(expanded.0.is_ok(), expanded.1.is_ok());
        }

        #[test]
        fn a_word_without_special_characters_is_itself(word in "[a-z0-9 ./=:@-]{0,40}") {
            let budget = Budget::default();
            let expander = Expander { escape: '\\', lookup: &variable, budget: &budget };
            prop_assert_eq!(expander.word(&word), Ok(word));
        }
    }
}
