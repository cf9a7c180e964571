//! The word that was probably meant: a misspelt word and the known ones come in, the nearest of them comes out if it is
//! near enough.

/// Longer words are not compared: nobody misspells them by two letters.
const WORD_BYTES_MAX: usize = 64;

/// How many letters may differ.
const DISTANCE_MAX: usize = 3;

/// Returns the candidate that is nearest to `word` without regard to case, when at most a third of it differs.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= DISTANCE_MAX.min(candidate.chars().count().max(3) / 3 + 1))
        .filter(|(distance, candidate)| *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Writes ` (did you mean X?)`, or nothing.
pub(crate) fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|suggestion| format!(" (did you mean {suggestion}?)")).unwrap_or_default()
}

/// The number of letters to insert, delete, replace or swap with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row; right.len() + 1];
        for column in 1..=right.len() {
            let changed = usize::from(left[row - 1] != right[column - 1]);
            let mut cost = (last[column - 1] + changed).min(last[column] + 1).min(current[column - 1] + 1);
            let swapped =
                row > 1 && column > 1 && left[row - 1] == right[column - 2] && left[row - 2] == right[column - 1];
            if swapped {
                cost = cost.min(before_last[column - 2] + 1);
            }
            current[column] = cost;
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: Option<&str>) {
        assert_eq!(closest(word, ["RUN", "COPY", "chown", "chmod", "ENTRYPOINT", "builder"]), expected, "{word}");
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        check("RUNN", Some("RUN"));
        check("chwon", Some("chown"));
        check("entrypiont", Some("ENTRYPOINT"));
        check("copi", Some("COPY"));
        check("bulider", Some("builder"));
        check("xyz", None);
        check("", None);
        check(&"r".repeat(10_000), None);
    }
}
