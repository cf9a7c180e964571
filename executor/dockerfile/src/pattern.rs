//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: a pattern and a value come in, the changed value comes out. Only `*`
//! and `?` are special. Matching is by finite automaton, so that no pattern is slow.

use regex::{NoExpand, Regex, RegexBuilder};

/// The compiled size of a pattern.
const COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// What makes `*` and `?` ordinary, whatever the Dockerfile's escape character is.
const ESCAPE: char = '\\';

/// Which end of a value is cut, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    /// The end (`%`) rather than the beginning (`#`).
    pub suffix: bool,
    /// As much as matches (`##`, `%%`) rather than as little.
    pub longest: bool,
}

/// Cuts what matches the pattern off one end.
pub(crate) fn trim(value: &str, pattern: &str, how: Trim) -> Result<String, String> {
    let Trim { suffix, longest } = how;
    let translated = translate(pattern, longest || suffix)?;
    if !suffix {
        let cut = compile(&format!("^{translated}"))?.find(value).map_or(0, |found| found.end());
        return Ok(value[cut..].to_owned());
    }
    // The leftmost match that ends at the end is the longest; behind the longest possible head stands the shortest.
    let keep = if longest {
        compile(&format!(r"{translated}\z"))?.find(value).map(|found| found.start())
    } else {
        let regex = compile(&format!(r"\A((?s:.*)){translated}\z"))?;
        regex.captures(value).and_then(|captures| captures.get(1)).map(|head| head.end())
    };
    Ok(value[..keep.unwrap_or(value.len())].to_owned())
}

/// Replaces the first match, or all.
pub(crate) fn replace(value: &str, pattern: &str, with: &str, all: bool) -> Result<String, String> {
    let regex = compile(&translate(pattern, true)?)?;
    let replaced = if all { regex.replace_all(value, NoExpand(with)) } else { regex.replace(value, NoExpand(with)) };
    Ok(replaced.into_owned())
}

fn compile(expression: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(expression);
    builder.size_limit(COMPILED_BYTES_MAX).build().map_err(|_| "the pattern is too large".to_owned())
}

/// Turns a pattern into a regular expression.
fn translate(pattern: &str, greedy: bool) -> Result<String, String> {
    let mut expression = String::with_capacity(pattern.len() + 4);
    let mut characters = pattern.chars();
    let mut buffer = [0; 4];
    while let Some(character) = characters.next() {
        let literal = match character {
            '*' => {
                expression.push_str(if greedy { ".*" } else { ".*?" });
                continue;
            }
            '?' => {
                expression.push('.');
                continue;
            }
            ESCAPE => match characters.next() {
                // Slash and brace are escaped because they would end the pattern.
                Some(escaped) if "*?/}".contains(escaped) || escaped == ESCAPE => escaped,
                Some(other) => return Err(format!("invalid escape '{ESCAPE}{other}'")),
                None => return Err(format!("invalid escape '{ESCAPE}' at the end")),
            },
            plain => plain,
        };
        expression.push_str(&regex::escape(literal.encode_utf8(&mut buffer)));
    }
    Ok(expression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_trim(pattern: &str, suffix: bool, longest: bool, expected: Result<&str, &str>) {
        let found = trim("foo.tar.gz", pattern, Trim { suffix, longest });
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{pattern}");
    }

    #[test]
    fn v1_patterns_cut_the_shortest_or_the_longest_match() {
        check_trim(".*", true, false, Ok("foo.tar"));
        check_trim(".*", true, true, Ok("foo"));
        check_trim("*.", false, false, Ok("tar.gz"));
        check_trim("*.", false, true, Ok("gz"));
        check_trim("nope", true, false, Ok("foo.tar.gz"));
        check_trim("*", true, true, Ok(""));
        check_trim("*", true, false, Ok("foo.tar.gz"));
    }

    #[test]
    fn v2_only_star_and_question_mark_are_special() {
        check_trim("fo[o]", false, false, Ok("foo.tar.gz"));
        check_trim("fo?", false, false, Ok(".tar.gz"));
        check_trim("f+", false, false, Ok("foo.tar.gz"));
        check_trim(r"\f", false, false, Err(r"invalid escape '\f'"));
        check_trim("f\\", false, false, Err(r"invalid escape '\' at the end"));
        let cut = |value, pattern| trim(value, pattern, Trim { suffix: false, longest: true }).unwrap();
        assert_eq!(cut("a*b", r"a\*"), "b");
        assert_eq!(cut("a}/b", r"a\}\/"), "b");
        assert_eq!(cut(r"a\b", r"a\\"), "b");
    }

    #[test]
    fn v1_replacement_is_of_the_first_match_or_of_all() {
        let change = |pattern, with, all| replace("foo.tar.gz", pattern, with, all).unwrap();
        assert_eq!(change("o", "0", false), "f0o.tar.gz");
        assert_eq!(change("o", "0", true), "f00.tar.gz");
        assert_eq!(change(".*", "", false), "foo");
        assert_eq!(change("o", "$1", false), "f$1o.tar.gz");
    }
}
