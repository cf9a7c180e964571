//! The ways in which the operands of an instruction are split: at blanks, at blanks outside quotes, or as JSON. Text
//! comes in, pieces with their offsets come out; quotes and escapes are kept for the expansion that follows.

use serde_json::Value;

/// How many operands an instruction may have.
pub(crate) const WORDS_MAX: usize = 10_000;

/// Whether a character separates an instruction's name and its operands: no other blank of Unicode does.
pub(crate) const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\u{b}' | '\u{c}')
}

/// Splits at blanks and nothing else. One word more than may be is the last.
pub(crate) fn blank_separated(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut offset = 0;
    for piece in text.split(is_blank) {
        if !piece.is_empty() && words.len() <= WORDS_MAX {
            words.push((offset, piece));
        }
        // All blanks are one byte long.
        offset += piece.len() + 1;
    }
    words
}

/// Splits at blanks outside quotes; an escaped blank does not split. An open quote reaches to the end. One word more than
/// may be is the last.
pub(crate) fn quoted(text: &str, escape: char) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote = None;
    let mut escaped = false;
    for (offset, character) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        if words.len() > WORDS_MAX {
            return words;
        }
        let blank = character.is_whitespace() && quote.is_none();
        if blank {
            words.extend(start.take().map(|start| (start, &text[start..offset])));
            continue;
        }
        start.get_or_insert(offset);
        match quote {
            Some(open) if open == character => quote = None,
            Some('\'') => {}
            None if character == '\'' || character == '"' => quote = Some(character),
            _ => escaped = character == escape,
        }
    }
    words.extend(start.map(|start| (start, &text[start..])));
    words
}

/// What text that may be a JSON array is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// Not a JSON array: it has the other form of the instruction.
    No,
    /// An array of strings.
    Strings(Vec<String>),
    /// An array with something else in it.
    Mixed,
}

/// Tries the JSON form.
pub(crate) fn json(text: &str) -> Json {
    let text = text.trim();
    if !text.starts_with('[') {
        return Json::No;
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else { return Json::No };
    let mut strings = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::String(string) => strings.push(string),
            _ => return Json::Mixed,
        }
    }
    Json::Strings(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_separate_words_with_their_offsets() {
        assert_eq!(blank_separated(" a  \"b c\""), [(1, "a"), (4, "\"b"), (7, "c\"")]);
        assert_eq!(blank_separated("é\u{a0}b\tc"), [(0, "é\u{a0}b"), (6, "c")]);
    }

    #[test]
    fn p10_quotes_and_escapes_keep_words_together_but_braces_do_not() {
        assert_eq!(quoted(r#"a="x y" b='z\' c=d\ e"#, '\\'), [(0, r#"a="x y""#), (8, r"b='z\'"), (15, r"c=d\ e")]);
        assert_eq!(quoted("a=${X:?must set}", '\\'), [(0, "a=${X:?must"), (12, "set}")]);
        assert_eq!(quoted(r#"a="\" b" c"#, '\\'), [(0, r#"a="\" b""#), (9, "c")]);
        assert_eq!(quoted(r"a=\ b", '`'), [(0, r"a=\"), (4, "b")]);
    }

    #[test]
    fn p9_json_is_tried_and_given_up() {
        assert_eq!(json(r#" ["a", "b"] "#), Json::Strings(vec!["a".into(), "b".into()]));
        assert_eq!(json("[]"), Json::Strings(vec![]));
        assert_eq!(json(r#"["a", 'b']"#), Json::No);
        assert_eq!(json(r#"["a""#), Json::No);
        assert_eq!(json(r#"["a"] x"#), Json::No);
        assert_eq!(json(r#"["a", 1]"#), Json::Mixed);
        assert_eq!(json(&"[".repeat(100_000)), Json::No);
    }
}
