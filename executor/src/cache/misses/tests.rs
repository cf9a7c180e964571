use super::*;
use crate::cache::key::{self, MadeOf};

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A WORKDIR is the smallest step: its path, its user, and what is before it.
fn made_of(path: &str, user: &str, parent: &str) -> MadeOf {
    key::directory(path, user, (PARENT, &digest(parent)))
}

fn step(made_of: &MadeOf, files: &[(&str, &str)]) -> RecordedStep {
    let path = |path: &str| TreePath::clean(path.as_bytes());
    let files: Vec<_> = files.iter().map(|(name, content)| (path(name), digest(content))).collect();
    RecordedStep::new("build", 1, "WORKDIR /a", made_of, &files)
}

#[track_caller]
fn check(old: RecordedStep, new: &RecordedStep, expected: &str) {
    let last = Record { steps: vec![old] };
    // What is kept is what is compared.
    let last: Record = serde_json::from_str(&serde_json::to_string(&last).unwrap()).unwrap();
    assert_eq!(new.difference(Some(&last)), expected);
}

#[test]
fn the_first_part_that_differs_is_named() {
    let new = step(&made_of("/a", "", "before"), &[]);
    check(step(&made_of("/a", "", "before"), &[]), &new, "nothing changed, but its entry is not in the cache");
    check(step(&made_of("/b", "me", "else"), &[]), &new, "the directory changed");
    check(step(&made_of("/a", "me", "else"), &[]), &new, "USER changed");
    check(step(&made_of("/a", "", "else"), &[]), &new, "a step before it changed");
    let copied = step(&key::layer(digest("changes")), &[]);
    check(copied, &step(&MadeOf::default(), &[]), "the layer is gone");
}

#[test]
fn another_instruction_is_shown() {
    let made_of = made_of("/a", "", "before");
    let old = RecordedStep::new("build", 1, "WORKDIR /old", &made_of, &[]);
    check(old, &step(&made_of, &[]), "the instruction changed, it was `WORKDIR /old`");
    let elsewhere = RecordedStep::new("test", 1, "WORKDIR /a", &made_of, &[]);
    check(elsewhere, &step(&made_of, &[]), "the last build had no such step");
    assert_eq!(step(&made_of, &[]).difference(None), "the cache knows no earlier build");
}

#[test]
fn files_are_named() {
    let copied = |files: &[(&str, &str)]| {
        let text = serde_json::to_string(files).unwrap();
        // As a COPY has it: the digest of all files is one part.
        let mut parts = serde_json::to_value(made_of("/a", "", "before")).unwrap();
        let part = serde_json::json!([CONTEXT_FILES, digest(&text)]);
        parts.as_array_mut().unwrap().insert(0, part);
        step(&serde_json::from_value(parts).unwrap(), files)
    };
    let new = copied(&[("src/a", "1"), ("src/b", "2")]);
    check(copied(&[("src/a", "1"), ("src/b", "old")]), &new, "src/b changed");
    check(copied(&[("src/a", "1")]), &new, "src/b is new");
    check(copied(&[("src/a", "1"), ("src/b", "2"), ("src/c", "3")]), &new, "src/c is gone");
    check(copied(&[("src/b", "old"), ("src/c", "3")]), &new, "src/a is new, and 2 more");
}

#[test]
fn records_of_other_builds_have_other_tags() {
    let tags =
        [tag("Dockerfile", "a", "linux/amd64"), tag("Dockerfile", "b", "linux/amd64"), tag("Dockerfilea", "", "")];
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0].starts_with("build-"));
}
