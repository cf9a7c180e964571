//! The form of a `--mount`: one line of comma-separated `key=value` comes in, known keys with expanded values come out, to be
//! taken one by one. Which type has which key is not decided here.

use karve_dockerfile::{ast::Word, closest, diagnostic::Problem};

use crate::plan::arguments::Expansion;

/// Keys with their other spellings resolved.
const KEYS: [&str; 14] = [
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "sharing",
    "size",
    "source",
    "target",
    "type",
    "uid",
];

/// Keys that may stand without a value.
const SWITCHES: [&str; 3] = ["readonly", "readwrite", "required"];

/// A key and its value.
struct Field {
    key: &'static str,
    /// `None` for a bare word.
    value: Option<String>,
}

/// The fields of one mount that were not taken yet, in their order.
pub(super) struct Fields(Vec<Field>);

impl Fields {
    /// Reads all fields. Variables are expanded in every value but that of `from`.
    pub(super) fn read(word: &Word, expansion: Expansion<'_>) -> Result<Self, Problem> {
        let texts = split_csv(&word.text).map_err(|message| Problem::new(word.span, message))?;
        texts.iter().map(|text| field(word, text, expansion)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns a key that is not among those allowed.
    pub(super) fn other_than(&self, allowed: &[&str]) -> Option<&'static str> {
        self.0.iter().map(|field| field.key).find(|key| !allowed.contains(key))
    }

    /// Takes a value that is text; the last of a name counts, and an empty one is none.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.take(key).and_then(|field| field.value).filter(|value| !value.is_empty())
    }

    /// Takes a value as it is, also an empty one.
    pub(super) fn value(&mut self, key: &str) -> Option<String> {
        self.take(key).and_then(|field| field.value)
    }

    /// Takes a switch, which is off when it is missing.
    pub(super) fn switch(&mut self, key: &str) -> Result<bool, String> {
        self.take(key).map_or(Ok(false), |field| boolean(&field))
    }

    /// Takes `readonly` and `readwrite`, which say the opposite of each other; the last one counts.
    pub(super) fn read_only(&mut self, default: bool) -> Result<bool, String> {
        let mut read_only = default;
        for field in self.0.extract_if(.., |field| matches!(field.key, "readonly" | "readwrite")) {
            read_only = boolean(&field)? == (field.key == "readonly");
        }
        Ok(read_only)
    }

    /// Takes a number.
    pub(super) fn number(&mut self, key: &str, radix: u32) -> Result<Option<u32>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let plain = !value.starts_with('+');
        match u32::from_str_radix(&value, radix) {
            Ok(number) if plain => Ok(Some(number)),
            _ => Err(format!("invalid value {value} for {key}")),
        }
    }

    /// Takes permission bits.
    pub(super) fn mode(&mut self) -> Result<Option<u32>, String> {
        match self.number("mode", 8)? {
            Some(mode) if mode > 0o7777 => Err(format!("invalid value {mode:o} for mode")),
            mode => Ok(mode),
        }
    }

    /// Takes a size in bytes; 0 is no limit.
    pub(super) fn size(&mut self) -> Result<Option<u64>, String> {
        let Some(text) = self.value("size") else { return Ok(None) };
        let size = bytes(&text).ok_or(format!("invalid value for size: {text}"))?;
        Ok(Some(size).filter(|size| *size > 0))
    }

    fn take(&mut self, key: &str) -> Option<Field> {
        self.0.extract_if(.., |field| field.key == key).last()
    }
}

/// Finds the value of `from` without looking at anything else; what is wrong elsewhere is found when the mount is read.
pub(super) fn from(word: &Word) -> Result<Option<Word>, Problem> {
    let Ok(texts) = split_csv(&word.text) else { return Ok(None) };
    let value = texts.iter().rev().find_map(|text| text.split_once('=').filter(|(key, _)| canonical(key) == "from"));
    value.map(|(_, value)| source(word, value)).transpose()
}

/// Checks what is behind `from=`.
fn source(word: &Word, value: &str) -> Result<Word, Problem> {
    if value.contains('$') {
        let problem = Problem::new(word.span, "'from' doesn't support variable expansion");
        return Err(problem.hint("define an alias stage instead"));
    }
    Ok(Word { text: value.to_owned(), span: word.span })
}

/// Resolves the other spellings of a key.
fn canonical(key: &str) -> String {
    let lower = key.to_lowercase();
    match lower.as_str() {
        "src" => "source".into(),
        "dst" | "destination" => "target".into(),
        "ro" => "readonly".into(),
        "rw" => "readwrite".into(),
        _ => lower,
    }
}

/// Reads `key=value`, or a word that stands alone.
fn field(word: &Word, text: &str, expansion: Expansion<'_>) -> Result<Field, Problem> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    let canonical = canonical(key);
    let Some(key) = KEYS.into_iter().find(|known| *known == canonical) else {
        let key = key.to_lowercase();
        let suggestion = closest(&key, KEYS).map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
        return Err(Problem::new(word.span, format!("unexpected key '{key}' in '{text}'{suggestion}")));
    };
    let Some(value) = value else {
        if SWITCHES.contains(&key) {
            return Ok(Field { key, value: None });
        }
        return Err(Problem::new(word.span, format!("invalid field '{text}' must be a key=value pair")));
    };
    let value = if key == "from" {
        source(word, value)?.text
    } else {
        expansion.word(&Word { text: value.to_owned(), span: word.span })?
    };
    Ok(Field { key, value: Some(value) })
}

/// Reads a switch as Go does.
fn boolean(field: &Field) -> Result<bool, String> {
    match field.value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(format!("invalid value for {}: {other}", field.key)),
    }
}

/// Reads a size such as `64m`, `1.5 GiB` or a plain number; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|character: char| !matches!(character, '0'..='9' | '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at_checked(digits)?;
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let unit = 1_u64 << shift;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let tenths = fraction.get(..fraction.len().min(FRACTION_DIGITS_MAX))?;
    if tenths.is_empty() {
        return Some(whole);
    }
    let scale = 10_u128.pow(u32::try_from(tenths.len()).ok()?);
    let part = u128::from(tenths.parse::<u64>().ok()?) * u128::from(unit) / scale;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Digits behind the point of a size that count: more mean less than a byte of a gibibyte.
const FRACTION_DIGITS_MAX: usize = 9;

/// Splits one line of comma-separated values, whose fields may stand in double quotes.
fn split_csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut characters = text.chars().peekable();
    let (mut quoted, mut at_start) = (false, true);
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' if quoted => quoted = false,
            '"' if at_start => quoted = true,
            '"' => return Err(format!("bare \" in {text}")),
            ',' if !quoted => {
                fields.push(std::mem::take(&mut field));
                at_start = true;
                continue;
            }
            plain => field.push(plain),
        }
        at_start = false;
    }
    if quoted {
        return Err(format!("unterminated \" in {text}"));
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_sizes_have_units_of_1024() {
        for (text, expected) in [
            ("64", Some(64)),
            ("64b", Some(64)),
            ("1k", Some(1024)),
            ("64m", Some(64 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("1.5g", Some(3 << 29)),
            ("0.5kb", Some(512)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("m", None),
            (".5m", None),
            ("1.5.5m", None),
            ("-1", None),
            ("1x", None),
            ("99999999999999999999", None),
            ("99999999999p", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn r2_from_is_found_whatever_else_is_wrong() {
        let from = |text: &str| {
            let word = Word { text: text.into(), span: karve_dockerfile::diagnostic::Span::default() };
            super::from(&word).map(|word| word.map(|word| word.text)).map_err(|problem| problem.message)
        };
        assert_eq!(from("type=$T,FROM=a,from=b,nonsense"), Ok(Some("b".into())));
        assert_eq!(from("type=cache,target=/from"), Ok(None));
        assert_eq!(from("from=\"x,from=y"), Ok(None));
        assert_eq!(from("from=$X"), Err("'from' doesn't support variable expansion".into()));
    }
}
