//! STOPSIGNAL's operand: whether a name or number is a signal of Linux.

/// The names of signals, without `SIG`.
const NAMES: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// The highest signal number of Linux.
const NUMBER_MAX: u32 = 64;

/// Whether `signal` is one, by name with or without `SIG`, or by number.
pub(super) fn is_signal(signal: &str) -> bool {
    if let Ok(number) = signal.parse::<u32>() {
        return (1..=NUMBER_MAX).contains(&number);
    }
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let within = |offset: &str, most: u32| {
        offset.bytes().all(|byte| byte.is_ascii_digit())
            && offset.parse::<u32>().is_ok_and(|offset| (1..=most).contains(&offset))
    };
    NAMES.contains(&name)
        || name == "RTMIN"
        || name == "RTMAX"
        || name.strip_prefix("RTMIN+").is_some_and(|offset| within(offset, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|offset| within(offset, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c7_signals_have_names_and_numbers() {
        for signal in ["SIGTERM", "term", "9", "64", "RTMIN+3", "SIGRTMAX-14", "RTMIN"] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN+", "RTMIN+16", "RTMAX-15", "RTMAX-+1"] {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
