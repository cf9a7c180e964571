//! HEALTHCHECK's numbers: text comes in, nanoseconds and counts come out; what Go's `time.ParseDuration` refuses is
//! refused.

use crate::duration::nanoseconds;
use crate::{ast::Word, diagnostic::Problem};

/// The shortest duration but 0 that HEALTHCHECK takes: a millisecond.
const DURATION_NANOSECONDS_MIN: i64 = 1_000_000;

/// Reads the duration of a flag; absent is 0.
pub(crate) fn duration(flag: Option<Word>) -> Result<i64, Problem> {
    let Some(word) = flag else { return Ok(0) };
    let Some(nanoseconds) = nanoseconds(&word.text) else {
        let problem = Problem::new(word.span, format!("invalid duration `{}`", word.text));
        return Err(problem.hint("a duration is a number with a unit, such as `30s`, `1m30s`, `500ms`"));
    };
    if nanoseconds != 0 && nanoseconds < DURATION_NANOSECONDS_MIN {
        return Err(Problem::new(word.span, format!("Interval \"{}\" cannot be less than 1ms", word.text)));
    }
    Ok(nanoseconds)
}

/// Reads `--retries`; absent is 0.
pub(crate) fn retries(flag: Option<Word>) -> Result<i64, Problem> {
    let Some(word) = flag else { return Ok(0) };
    match word.text.parse::<i32>() {
        Ok(count) if count < 0 => Err(Problem::new(word.span, format!("--retries cannot be negative ({count})"))),
        Ok(count) => Ok(count.into()),
        Err(_) => Err(Problem::new(word.span, format!("--retries is not a number: {}", word.text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Span;

    fn word(text: &str) -> Word {
        Word { text: text.into(), span: Span::default() }
    }

    #[track_caller]
    fn check(text: &str, expected: Result<i64, &str>) {
        let found = duration(Some(word(text))).map_err(|problem| problem.message);
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn c9_durations_have_units() {
        check("30s", Ok(30_000_000_000));
        check("1m30s", Ok(90_000_000_000));
        check("1.5h", Ok(5_400_000_000_000));
        check("500ms", Ok(500_000_000));
        check("0", Ok(0));
        check("0s", Ok(0));
        check("30", Err("invalid duration `30`"));
        check("s", Err("invalid duration `s`"));
        check("1d", Err("invalid duration `1d`"));
        check("99999999h", Err("invalid duration `99999999h`"));
        check("10us", Err("Interval \"10us\" cannot be less than 1ms"));
        check("-1s", Err("Interval \"-1s\" cannot be less than 1ms"));
    }

    #[test]
    fn c9_retries_are_not_negative() {
        assert_eq!(retries(Some(word("3"))), Ok(3));
        assert_eq!(retries(Some(word("-1"))).unwrap_err().message, "--retries cannot be negative (-1)");
        assert_eq!(retries(Some(word("x"))).unwrap_err().message, "--retries is not a number: x");
    }
}
