//! Any word expands or is refused, within bounds, and in all forms alike.

#![no_main]

use karve_dockerfile::expand::{Budget, EXPANDED_BYTES_MAX, Expander};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The first line is the value of all variables whose names are short.
    let (value, word) = text.split_once('\n').unwrap_or(("a.b/c d", text));
    let lookup = |name: &str| (name.len() == 1).then_some(value);
    for escape in ['\\', '`'] {
        // Each has a budget of its own, lest one fails for what another has spent.
        let budgets = [(); 4].map(|()| Budget::default());
        let [first, second, third, fourth] =
            budgets.each_ref().map(|budget| Expander { escape, lookup: &lookup, budget });
        let (whole, words) = (first.word(word), second.words(word));
        assert_eq!(whole.is_ok(), words.is_ok(), "{word:?}");
        for text in [whole, third.body(word)].into_iter().flatten() {
            assert!(text.len() <= EXPANDED_BYTES_MAX);
        }
        if !word.contains(['$', '\'', '"', escape]) {
            assert_eq!(fourth.word(word).as_deref(), Ok(word));
        }
    }
});
