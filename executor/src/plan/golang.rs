//! How Go prints values: the history of an image holds `CMD ["a" "b"]` and `Interval:5m0s`, and tools read it.

/// Prints strings as Go's `%q` does for a slice: `["a" "b"]`.
pub(super) fn quote_all(strings: &[String]) -> String {
    let quoted: Vec<String> = strings.iter().map(|string| quote(string)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Prints strings as Go's `%v` does for a slice: `[a b]`.
pub(super) fn list(strings: &[String]) -> String {
    format!("[{}]", strings.join(" "))
}

/// Prints one string as Go's `%q` does.
fn quote(text: &str) -> String {
    let inner: String = text
        .chars()
        .map(|character| match character {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            '\u{7}' => "\\a".into(),
            '\u{8}' => "\\b".into(),
            '\u{b}' => "\\v".into(),
            '\u{c}' => "\\f".into(),
            control if control.is_ascii_control() => format!("\\x{:02x}", u32::from(control)),
            control if control.is_control() => format!("\\u{:04x}", u32::from(control)),
            plain => plain.to_string(),
        })
        .collect();
    format!("\"{inner}\"")
}

/// Prints nanoseconds as Go's `time.Duration` does: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub(super) fn duration(nanoseconds: i64) -> String {
    const MICROSECOND: u64 = 1_000;
    const MILLISECOND: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    if total == 0 {
        return "0s".into();
    }
    if total < SECOND {
        let (unit, name) = match total {
            0..MICROSECOND => (1, "ns"),
            MICROSECOND..MILLISECOND => (MICROSECOND, "µs"),
            _ => (MILLISECOND, "ms"),
        };
        return format!("{sign}{}{name}", decimal(total, unit));
    }
    let (minutes, rest) = (total / (60 * SECOND), total % (60 * SECOND));
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let seconds = decimal(rest, SECOND);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// Prints `value / unit`, without zeros at the end.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, mut fraction) = (value / unit, value % unit);
    let mut digits = String::new();
    let mut place = unit / 10;
    while fraction > 0 && place > 0 {
        digits.push(char::from_digit(u32::try_from(fraction / place).unwrap_or_default(), 10).unwrap_or('0'));
        fraction %= place;
        place /= 10;
    }
    if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c12_values_are_printed_as_go_does() {
        assert_eq!(quote_all(&["a".into(), "b\"\\\n\u{1}é".into()]), r#"["a" "b\"\\\n\x01é"]"#);
        assert_eq!(list(&["/v".into(), "/x".into()]), "[/v /x]");
        for (nanoseconds, expected) in [
            (0, "0s"),
            (300_000_000_000, "5m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (100_000_000, "100ms"),
            (1_050_000, "1.05ms"),
            (1_000, "1µs"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }
}
