//! Any mode is read or refused, and gives permission bits only.

#![no_main]

use karve_dockerfile::{chmod::Chmod, duration};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(chmod) = Chmod::parse(text) {
        for mode in [0, 0o644, 0o755, 0o7777] {
            for directory in [false, true] {
                assert!(chmod.apply(mode, directory) <= 0o7777);
            }
        }
        assert_eq!(chmod.octal().is_some(), text.starts_with(|first: char| first.is_ascii_digit()));
    }
    if let Some(nanoseconds) = duration::nanoseconds(text) {
        assert_eq!(duration::parse(text).is_some(), nanoseconds >= 0 && !text.starts_with(['+', '-']));
    }
});
