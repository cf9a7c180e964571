//! Heredoc words: `<<EOF`, `3<<-"EOF"`. A word or a whole RUN line comes in, what it announces comes out.

/// The longest body of one heredoc.
pub(crate) const HEREDOC_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a heredoc word says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeredocWord {
    /// The line that ends the body.
    pub name: String,
    /// `<<-`: leading tabs do not count.
    pub strip_tabs: bool,
    /// Whether variables in the body are replaced: no part of the name is quoted.
    pub expand: bool,
}

/// Reads one word; `None` when it is no heredoc. Blanks may stand before the name, as for a shell.
pub(crate) fn parse_word(word: &str) -> Option<HeredocWord> {
    let rest = word.trim_start_matches(|digit: char| digit.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, strip_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
    let name = rest.trim_start();
    // `$((1 << 2))` is arithmetic: no shell takes a name with a parenthesis.
    if name.contains('<') || (name.len() < rest.len() && name.contains(['(', ')'])) {
        return None;
    }
    let (name, expand) = unquote(name)?;
    (!name.is_empty()).then_some(HeredocWord { name, strip_tabs, expand })
}

/// Finds the heredoc words of a shell command, with their offsets, in order. A command whose quotes do not match has none.
pub(crate) fn find_words(command: &str) -> Vec<(usize, &str, HeredocWord)> {
    if !command.contains("<<") {
        return Vec::new();
    }
    let Some(words) = shell_words(command) else { return Vec::new() };
    words.into_iter().filter_map(|(offset, word)| Some((offset, word, parse_word(word)?))).collect()
}

/// Removes the tabs that `<<-` removes.
pub(crate) fn strip_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// Removes quotes and escapes, and tells whether there was no quote; `None` when one is open or the word is not one.
fn unquote(word: &str) -> Option<(String, bool)> {
    let mut name = String::new();
    let mut bare = true;
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' | '"' => {
                bare = false;
                loop {
                    match characters.next()? {
                        close if close == character => break,
                        inner => name.push(inner),
                    }
                }
            }
            '\\' => name.extend(characters.next()),
            blank if blank.is_whitespace() => return None,
            plain => name.push(plain),
        }
    }
    Some((name, bare))
}

/// Remembers whether `<<`, with or without blanks behind it, is what was seen last.
#[derive(Default)]
struct Arrows {
    count: usize,
    blank: bool,
}

impl Arrows {
    /// Takes the next character; tells what is before it.
    fn see(&mut self, character: char) -> bool {
        let behind = self.count >= 2;
        match character {
            ' ' | '\t' | '\r' => self.blank = true,
            '<' if !self.blank => self.count += 1,
            other => *self = Self { count: usize::from(other == '<'), blank: false },
        }
        behind
    }
}

/// Splits at blanks outside quotes, keeping every character; `None` when a quote is open.
fn shell_words(text: &str) -> Option<Vec<(usize, &str)>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut escaped = false;
    let mut arrows = Arrows::default();
    for (offset, character) in text.char_indices() {
        let behind_arrows = arrows.see(character);
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => {
                escaped = true;
                start.get_or_insert(offset);
            }
            (None, '\'' | '"') => {
                quote = Some(character);
                start.get_or_insert(offset);
            }
            // The blanks behind `<<` belong to its word.
            (None, ' ' | '\t' | '\r') if behind_arrows => {}
            (None, blank) if blank.is_whitespace() => {
                words.extend(start.take().map(|start: usize| (start, &text[start..offset])));
            }
            (None, _) => {
                start.get_or_insert(offset);
            }
            (Some(_), _) => {}
        }
    }
    words.extend(start.map(|start| (start, &text[start..])));
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: Option<(&str, bool, bool)>) {
        let found = parse_word(word);
        let found = found.as_ref().map(|word| (word.name.as_str(), word.strip_tabs, word.expand));
        assert_eq!(found, expected, "{word:?}");
    }

    #[test]
    fn h1_a_heredoc_word_has_digits_a_dash_and_a_name() {
        check("<<EOF", Some(("EOF", false, true)));
        check("3<<-EOF", Some(("EOF", true, true)));
        check("<<\"EOF\"", Some(("EOF", false, false)));
        check("<<'EOF'", Some(("EOF", false, false)));
        check("<<E\"O\"F", Some(("EOF", false, false)));
        check("<<robots.txt", Some(("robots.txt", false, true)));
        check("<< EOF", Some(("EOF", false, true)));
        // An escape quotes for a shell, but not here.
        check("<<\\EOF", Some(("EOF", false, true)));
        for word in ["<< 2))", "<<a b", "<<", "<<-", "<<<EOF", "x<<EOF", "< <EOF", "EOF", "<<'EOF", "<<\"\""] {
            check(word, None);
        }
    }

    #[test]
    fn h5_heredocs_are_found_anywhere_in_a_command_but_not_in_quotes() {
        let names = |text| find_words(text).into_iter().map(|(_, _, word)| word.name).collect::<Vec<_>>();
        assert_eq!(names("cat <<A > /x && 3<<B cat"), ["A", "B"]);
        assert_eq!(names("echo '<<A' \"x <<B\" \\<<C"), Vec::<String>::new());
        assert_eq!(names("echo it's <<A"), Vec::<String>::new());
        assert_eq!(names("cat << \t A <<B; cat <<- C"), ["A", "B;"]);
        assert_eq!(names("echo $((1 << 2)) $((x<<2))"), Vec::<String>::new());
    }

    #[test]
    fn h2_only_leading_tabs_are_stripped() {
        assert_eq!(strip_tabs("\t\ta\n \tb\n\n\tc"), "a\n \tb\n\nc");
    }
}
