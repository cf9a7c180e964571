//! Two images side by side: facts in, differences out, each a line that a person can act on and a case can expect.

use std::collections::BTreeSet;

use crate::facts::{Attributes, Facts};

/// Returns what is different, as `SUBJECT ATTRIBUTE: FIRST != SECOND`, in the order of subjects. Each image has a name.
pub fn differences((first_name, first): (&str, &Facts), (second_name, second): (&str, &Facts)) -> Vec<String> {
    let subjects: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let mut lines = Vec::new();
    for subject in subjects {
        match (first.get(subject), second.get(subject)) {
            (Some(ours), Some(theirs)) => lines.extend(attributes(subject, ours, theirs)),
            (Some(ours), None) => lines.push(format!("{subject}: only {first_name} has it: {}", shown(ours))),
            (None, Some(theirs)) => lines.push(format!("{subject}: only {second_name} has it: {}", shown(theirs))),
            (None, None) => {}
        }
    }
    lines
}

fn attributes(subject: &str, first: &Attributes, second: &Attributes) -> Vec<String> {
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let value = |attributes: &Attributes, name: &str| attributes.get(name).map_or("nothing", String::as_str).to_owned();
    let pairs = names.into_iter().map(|name| (name, value(first, name), value(second, name)));
    let different = pairs.filter(|(_, ours, theirs)| ours != theirs);
    different.map(|(name, ours, theirs)| format!("{subject} {name}: {ours} != {theirs}")).collect()
}

/// Shows one image's subject in a line: `type=file mode=644 …`.
fn shown(attributes: &Attributes) -> String {
    attributes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Compares lines with patterns, of which each must match a line and each line one; a `*` at a pattern's end is any rest.
pub fn unmatched(lines: &[String], patterns: &[String]) -> Vec<String> {
    let matches = |pattern: &str, line: &str| match pattern.strip_suffix('*') {
        Some(start) => line.starts_with(start),
        None => line == pattern,
    };
    let unexpected = lines.iter().filter(|line| !patterns.iter().any(|pattern| matches(pattern, line)));
    let missing = patterns.iter().filter(|pattern| !lines.iter().any(|line| matches(pattern, line)));
    unexpected.cloned().chain(missing.map(|pattern| format!("no longer so: {pattern}"))).collect()
}
