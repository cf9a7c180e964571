//! Go's duration strings (`time.ParseDuration`): what Kubernetes users and Dockerfiles write.

use std::time::Duration;

/// Units with their nanoseconds.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Parses `1h30m`, `1.5s`, `300ms`. Refuses signs, what does not fit into 63 bits of nanoseconds, and anything else.
pub fn parse(text: &str) -> Option<Duration> {
    if text.starts_with(['+', '-']) {
        return None;
    }
    nanoseconds(text)?.try_into().ok().map(Duration::from_nanos)
}

/// Parses a duration that may have a sign, in nanoseconds.
#[expect(clippy::cast_possible_truncation, reason = "the sum is checked against the range first")]
pub fn nanoseconds(text: &str) -> Option<i64> {
    let (mut rest, sign) = match text.strip_prefix('-') {
        Some(rest) => (rest, -1.0),
        None => (text.strip_prefix('+').unwrap_or(text), 1.0),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let is_digit = |character: char| character.is_ascii_digit() || character == '.';
        let (number, after) = rest.split_at(rest.find(|character| !is_digit(character))?);
        let (unit, after) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
        let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * nanoseconds;
        rest = after;
    }
    // 2^63 is exact in floating point; everything below it fits.
    (total < 9_223_372_036_854_775_808.0).then_some((sign * total) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, milliseconds: Option<u128>) {
        assert_eq!(parse(text).map(|duration| duration.as_millis()), milliseconds, "{text}");
    }

    #[test]
    fn go_durations_are_read() {
        check("1h", Some(3_600_000));
        check("1h0m0s", Some(3_600_000));
        check("1.5s", Some(1500));
        check("300ms", Some(300));
        check("3000µs", Some(3));
        check("0", Some(0));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "1", "h", "-1s", "+1s", "-0", "1d", "1s ", "..s", "9e99h", "99999999h", "1.2.3s"] {
            check(text, None);
        }
        assert_eq!(nanoseconds("-1.5s"), Some(-1_500_000_000));
    }
}
