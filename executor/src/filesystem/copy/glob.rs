//! Wildcards for one path component, with the syntax of Go's `filepath.Match`: `*`, `?`, `[a-z]`, `[^a-z]` and `\` before any
//! character. Matching takes at most pattern × name steps, whatever the pattern.

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`
    Run,
    /// `?`
    One,
    /// A character that stands for itself.
    Literal(u32),
    /// `[…]` with its inclusive ranges.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
}

/// What is added to a byte that is not UTF-8, so that it is a character of its own beyond Unicode.
const RAW_BYTE: u32 = 0x11_0000;

impl Pattern {
    /// Whether a component is more than a name: `*`, `?` or `[` without a backslash before it.
    pub(super) fn is_wildcard(component: &[u8]) -> bool {
        let mut bytes = component.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' | b'?' | b'[' => return true,
                b'\\' => drop(bytes.next()),
                _ => {}
            }
        }
        false
    }

    /// Reads a pattern; `None` where it is malformed.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let characters = characters(text);
        let mut rest = characters.iter().copied().peekable();
        let mut tokens = Vec::new();
        while let Some(character) = rest.next() {
            tokens.push(match char::from_u32(character) {
                Some('*') => Token::Run,
                Some('?') => Token::One,
                Some('\\') => Token::Literal(rest.next()?),
                Some('[') => parse_class(&mut rest)?,
                _ => Token::Literal(character),
            });
        }
        Some(Self(tokens))
    }

    /// Whether the pattern matches the whole name.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let name = characters(name);
        let (mut token, mut at) = (0, 0);
        // Where to go on when a comparison fails: behind the last `*`, with one character more eaten by it.
        let mut retry = None;
        while token < self.0.len() || at < name.len() {
            match (self.0.get(token), name.get(at)) {
                (Some(Token::Run), _) => {
                    retry = Some((token, at + 1));
                    token += 1;
                    continue;
                }
                (Some(single), Some(character)) if single.accepts(*character) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((run, next)) if next <= name.len() => (token, at) = (run, next),
                _ => return false,
            }
        }
        true
    }
}

impl Token {
    fn accepts(&self, character: u32) -> bool {
        match self {
            Self::Run => false,
            Self::One => true,
            Self::Literal(literal) => *literal == character,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&&character)) != *negated
            }
        }
    }
}

/// Reads what follows a `[`.
fn parse_class(rest: &mut std::iter::Peekable<impl Iterator<Item = u32>>) -> Option<Token> {
    let is = |wanted: char| move |next: &u32| *next == u32::from(wanted);
    let negated = rest.next_if(is('^')).is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if(is(']')).is_none() {
        let low = parse_bound(rest)?;
        let high = if rest.next_if(is('-')).is_some() { parse_bound(rest)? } else { low };
        ranges.push((low, high));
    }
    Some(Token::Class { negated, ranges })
}

fn parse_bound(rest: &mut impl Iterator<Item = u32>) -> Option<u32> {
    let next = rest.next()?;
    match char::from_u32(next) {
        Some('\\') => rest.next(),
        Some('-' | ']') => None,
        _ => Some(next),
    }
}

fn characters(text: &[u8]) -> Vec<u32> {
    let mut characters = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        characters.extend(chunk.valid().chars().map(u32::from));
        characters.extend(chunk.invalid().iter().map(|byte| RAW_BYTE + u32::from(*byte)));
    }
    characters
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks whether a pattern matches a name; `None` is a malformed pattern.
    #[track_caller]
    fn check(pattern: &str, name: &str, expected: Option<bool>) {
        let matched = Pattern::parse(pattern.as_bytes()).map(|pattern| pattern.matches(name.as_bytes()));
        assert_eq!(matched, expected, "{pattern} {name}");
    }

    #[test]
    fn runs_and_single_characters_match() {
        check("abc", "abc", Some(true));
        check("*", "abc", Some(true));
        check("*", "", Some(true));
        check("*c", "abc", Some(true));
        check("a*", "a", Some(true));
        check("a*b?c*x", "abxbbxdbxebxczzx", Some(true));
        check("a*b?c*x", "abxbbxdbxebxczzy", Some(false));
        check("a?b", "a☺b", Some(true));
        check("a???b", "a☺b", Some(false));
        check("*x", "xxx", Some(true));
        check(".*", "a", Some(false));
        check("**", "abc", Some(true));
    }

    #[test]
    fn classes_match_ranges_and_their_negation() {
        check("ab[c]", "abc", Some(true));
        check("ab[b-d]", "abc", Some(true));
        check("ab[e-g]", "abc", Some(false));
        check("ab[^c]", "abc", Some(false));
        check("ab[^e-g]", "abc", Some(true));
        check("a[^a]b", "a☺b", Some(true));
        check("[a-ζ]*", "α", Some(true));
        check("[\\]a]", "]", Some(true));
        check("[\\-x]", "-", Some(true));
        check("[x\\-]", "z", Some(false));
        check("[[]i", "[i", Some(true));
    }

    #[test]
    fn escapes_take_the_meaning_away_and_malformed_patterns_are_known() {
        check("a\\*b", "a*b", Some(true));
        check("a\\*b", "ab", Some(false));
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "a[", "[^", "[^bc", "[a-b-c]", "\\", "[\\"] {
            check(pattern, "a", None);
        }
        assert!(Pattern::is_wildcard(b"a\\\\*") && !Pattern::is_wildcard(b"a\\*"));
    }

    proptest! {
        #[test]
        fn a_name_with_every_character_escaped_matches_itself_alone(
            name in prop::collection::vec(any::<u8>(), 0..8), other in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let escaped: Vec<u8> = String::from_utf8_lossy(&name).chars().flat_map(|character| {
                ['\\', character]
            }).collect::<String>().into_bytes();
            let lossy = String::from_utf8_lossy(&name).into_owned().into_bytes();
            let pattern = Pattern::parse(&escaped).expect("a literal");
            prop_assert!(pattern.matches(&lossy));
            prop_assert_eq!(pattern.matches(&other), lossy == other);
        }

        #[test]
        fn any_pattern_ends(pattern in "[ab*?\\[\\]^\\\\-]{0,12}", name in "[ab]{0,30}") {
            if let Some(pattern) = Pattern::parse(pattern.as_bytes()) {
                pattern.matches(name.as_bytes());
            }
        }
    }
}
