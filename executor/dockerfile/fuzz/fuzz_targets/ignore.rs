//! Any ignore file is read or refused, and a directory's verdict holds below it unless an exception may be there.

#![no_main]

use karve_dockerfile::ignore::Patterns;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let Ok(patterns) = Patterns::parse(&text) else { return };
    assert!(!patterns.excludes(b""));
    for path in ["a", "a/b", "a/b/c", "b.md", "x/y.o", "é/ü"] {
        let excluded = patterns.excludes(path.as_bytes());
        let parent = path.rsplit_once('/').map(|(parent, _)| parent);
        if let Some(parent) = parent
            && patterns.excludes(parent.as_bytes())
            && !patterns.may_contain_exception(parent.as_bytes())
        {
            assert!(excluded, "{path} is included below {parent}, where no walk goes: {text:?}");
        }
        assert!(!excluded || !patterns.is_empty());
    }
});
