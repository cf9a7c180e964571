//! The flags of an instruction: its text and the table of what it knows come in, values with their places come out.
//! Unknown, repeated and malformed flags are refused.

use crate::{
    ast::Word,
    diagnostic::{DIAGNOSTICS_MAX, Problem, Span},
    lex::Logical,
    suggest::{closest, did_you_mean},
    words::WORDS_MAX,
};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// `--name=value`, once.
    Text,
    /// `--name=value`, any number of times.
    Texts,
    /// `--name`, `--name=true`, `--name=false`.
    Switch,
}

/// The flags that an instruction knows.
pub(crate) type Table = &'static [(&'static str, Takes)];

/// The flags of ADD.
pub(crate) const ADD: Table = &[
    ("checksum", Takes::Text),
    ("chmod", Takes::Text),
    ("chown", Takes::Text),
    ("exclude", Takes::Texts),
    ("keep-git-dir", Takes::Switch),
    ("link", Takes::Switch),
    ("unpack", Takes::Switch),
];
/// The flags of COPY.
pub(crate) const COPY: Table = &[
    ("chmod", Takes::Text),
    ("chown", Takes::Text),
    ("exclude", Takes::Texts),
    ("from", Takes::Text),
    ("link", Takes::Switch),
    ("parents", Takes::Switch),
];
/// The flags of FROM.
pub(crate) const FROM: Table = &[("platform", Takes::Text)];
/// The flags of HEALTHCHECK.
pub(crate) const HEALTHCHECK: Table = &[
    ("interval", Takes::Text),
    ("retries", Takes::Text),
    ("start-interval", Takes::Text),
    ("start-period", Takes::Text),
    ("timeout", Takes::Text),
];
/// The flags of RUN.
pub(crate) const RUN: Table =
    &[("device", Takes::Texts), ("mount", Takes::Texts), ("network", Takes::Text), ("security", Takes::Text)];
/// The flags of all other instructions.
pub(crate) const NONE: Table = &[];

/// The flags that an instruction has.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Reads the flags at `start` of a logical line. Returns them and where the operands begin.
    pub(crate) fn read(
        logical: &Logical,
        start: usize,
        escape: char,
        table: Table,
    ) -> Result<(Self, usize), Vec<Problem>> {
        let mut flags = Self::default();
        let mut problems = Vec::new();
        let mut position = start;
        loop {
            let rest = &logical.text[position..];
            position += rest.len() - rest.trim_start().len();
            if !logical.text[position..].starts_with("--") {
                break;
            }
            let (length, word) = read_word(&logical.text[position..], escape);
            let span = logical.span(position, length);
            position += length;
            if word == "--" {
                break;
            }
            if let Err(problem) = flags.take(&word, span, table) {
                problems.push(problem);
            }
            if flags.given.len() > WORDS_MAX {
                problems.push(Problem::new(span, format!("more than {WORDS_MAX} flags")));
            }
            if problems.len() > DIAGNOSTICS_MAX || flags.given.len() > WORDS_MAX {
                break;
            }
        }
        if problems.is_empty() { Ok((flags, position)) } else { Err(problems) }
    }

    /// Takes one flag.
    fn take(&mut self, word: &str, span: Span, table: Table) -> Result<(), Problem> {
        let body = &word[2..];
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let Some(&(name, takes)) = table.iter().find(|(known, _)| *known == name) else {
            let suggestion = did_you_mean(closest(name, table.iter().map(|(known, _)| *known)));
            return Err(Problem::new(span, format!("unknown flag: --{name}{suggestion}")));
        };
        if takes != Takes::Texts && self.given.iter().any(|(given, _)| *given == name) {
            return Err(Problem::new(span, format!("duplicate flag specified: --{name}")));
        }
        let missing = || Problem::new(span, format!("missing a value on flag: --{name}"));
        let text = match (takes, value) {
            (Takes::Switch, None) => "true".to_owned(),
            (Takes::Switch, Some(value)) => {
                if value.is_empty() {
                    return Err(missing());
                }
                let lower = value.to_ascii_lowercase();
                if lower != "true" && lower != "false" {
                    let message = format!("expecting boolean value for flag --{name}, not: {value}");
                    return Err(Problem::new(span, message));
                }
                lower
            }
            (Takes::Text | Takes::Texts, None) => return Err(missing()),
            (Takes::Text | Takes::Texts, Some(value)) => value.to_owned(),
        };
        self.given.push((name, Word { text, span }));
        Ok(())
    }

    /// Takes the value of a flag that is given at most once. An empty one is none: `--chown=$OWNER` may be left out so.
    pub(crate) fn text(&mut self, name: &str) -> Option<Word> {
        let index = self.given.iter().position(|(given, _)| *given == name)?;
        Some(self.given.swap_remove(index).1).filter(|word| !word.text.is_empty())
    }

    /// Takes the values of a flag that may be given often.
    pub(crate) fn texts(&mut self, name: &str) -> Vec<Word> {
        self.given.extract_if(.., |(given, _)| *given == name).map(|(_, word)| word).collect()
    }

    /// Takes a switch; `None` when it is not given.
    pub(crate) fn switch(&mut self, name: &str) -> Option<bool> {
        self.text(name).map(|word| word.text == "true")
    }
}

/// Reads one word with its quotes and escapes processed. Returns how many bytes it takes.
fn read_word(text: &str, escape: char) -> (usize, String) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((offset, character)) = characters.next() {
        match quote {
            Some(open) if open == character => quote = None,
            None if character.is_whitespace() => return (offset, word),
            None if character == '\'' || character == '"' => quote = Some(character),
            _ if character == escape => word.extend(characters.next().map(|(_, next)| next)),
            _ => word.push(character),
        }
    }
    (text.len(), word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lex::Lexer;

    /// Shows what was read, and the operands.
    #[track_caller]
    fn check(text: &str, table: Table, expected: &str) {
        let logical = Lexer::new(text, '\\').logical().unwrap().unwrap();
        let shown = match Flags::read(&logical, 0, '\\', table) {
            Ok((flags, end)) => {
                let flags: Vec<String> =
                    flags.given.iter().map(|(name, word)| format!("{name}={}", word.text)).collect();
                format!("{} |{}", flags.join(" "), &logical.text[end..])
            }
            Err(problems) => problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; "),
        };
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn p8_flags_lead_and_end_at_the_first_other_word() {
        check("--from=a --link b --chown=c", COPY, "from=a link=true |b --chown=c");
        check("--from=a -- --chown=c", COPY, "from=a | --chown=c");
        check("--link=FALSE a", COPY, "link=false |a");
        check("--exclude=a --exclude=b x", COPY, "exclude=a exclude=b |x");
    }

    #[test]
    fn p8_quotes_and_escapes_of_flags_are_removed() {
        check(r#"--from="a b" --chown=c\ d x"#, COPY, "from=a b chown=c d |x");
        check(r"--from='a\'b' x", COPY, "from=a'b |x");
    }

    #[test]
    fn p8_wrong_flags_are_named() {
        check("--FROM=a x", COPY, "unknown flag: --FROM (did you mean from?)");
        check("--chwon=a x", COPY, "unknown flag: --chwon (did you mean chown?)");
        check("--zzz x", NONE, "unknown flag: --zzz");
        check("--from=a --from=b x", COPY, "duplicate flag specified: --from");
        check("--link=maybe x", COPY, "expecting boolean value for flag --link, not: maybe");
        check("--chown x", COPY, "missing a value on flag: --chown");
        check("--link= --nope x", COPY, "missing a value on flag: --link; unknown flag: --nope");
    }

    #[test]
    fn p8_an_empty_value_is_no_value() {
        check("--chown= --from=x a", COPY, "chown= from=x |a");
        let logical = Lexer::new("--chown= a", '\\').logical().unwrap().unwrap();
        assert_eq!(Flags::read(&logical, 0, '\\', COPY).unwrap().0.text("chown"), None);
    }

    #[test]
    fn p8_more_wrong_flags_than_are_shown_end_the_reading() {
        let logical = Lexer::new(&"--x ".repeat(10_000), '\\').logical().unwrap().unwrap();
        assert_eq!(Flags::read(&logical, 0, '\\', COPY).unwrap_err().len(), DIAGNOSTICS_MAX + 1);
    }
}
