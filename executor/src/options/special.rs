//! Build arguments that steer BuildKit rather than a Dockerfile: values come in; what they mean here comes out, with a note on
//! those that mean nothing and an error for those that ask for another image than Karve makes. Pure.

use std::collections::BTreeMap;

use super::{OptionsError, invalid};

/// The flag by which they are given.
const FLAG: &str = "build-arg";

/// What Linux takes for the name of a machine, in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;

/// Arguments that change nothing here, each with the reason.
const POINTLESS: [(&str, &str); 2] = [
    ("BUILDKIT_INLINE_CACHE", "nothing is cached yet"),
    ("BUILDKIT_SYNTAX", "the language is built in, the extensions of labs included"),
];

/// What the arguments mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Special {
    /// The name of the machine that RUN sees.
    pub hostname: Option<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// Reads the arguments. `is_fetched` is whether the context was fetched, and is thus without a `.git`.
pub(super) fn read(build_args: &BTreeMap<String, String>, is_fetched: bool) -> Result<Special, OptionsError> {
    let value = |name: &str| build_args.get(name).filter(|value| !value.is_empty());
    let wrong = |name: &str, value: &str, problem: &str| invalid(FLAG, &format!("{name}={value}"), problem);
    let mut special = Special::default();
    for (name, reason) in POINTLESS {
        if value(name).is_some_and(|value| !is_off(value)) {
            special.notes.push(format!("--{FLAG} {name} does nothing: {reason}"));
        }
    }
    let name = "BUILDKIT_SANDBOX_HOSTNAME";
    if let Some(hostname) = value(name) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if hostname.len() > HOSTNAME_BYTES_MAX || !hostname.bytes().all(plain) {
            return Err(wrong(name, hostname, "is no name for a machine"));
        }
        special.hostname = Some(hostname.clone());
    }
    let name = "BUILDKIT_MULTI_PLATFORM";
    if let Some(value) = value(name).filter(|value| !is_off(value)) {
        return Err(wrong(name, value, "asks for an index of images: this version makes one image"));
    }
    let name = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
    match value(name).filter(|value| !is_off(value)) {
        Some(value) if is_fetched => Err(wrong(
            name,
            value,
            "asks for the context's `.git`, which is not kept when a context is fetched from git",
        )),
        Some(_) => {
            special.notes.push(format!("--{FLAG} {name} does nothing: a directory is taken as it is, `.git` included"));
            Ok(special)
        }
        None => Ok(special),
    }
}

/// Whether a value switches something off, as Go reads it.
fn is_off(value: &str) -> bool {
    matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, is_fetched: bool, expected: Result<Option<&str>, &str>) {
        let read = read(&[(name.to_owned(), value.to_owned())].into(), is_fetched);
        let read = read.map(|special| special.notes.into_iter().next()).map_err(|error| error.to_string());
        assert_eq!(read.as_ref().map(Option::as_deref).map_err(String::as_str), expected, "{name}={value}");
    }

    #[test]
    fn a7_arguments_for_buildkit_work_or_are_noted_or_refused() {
        check(
            "BUILDKIT_INLINE_CACHE",
            "1",
            false,
            Ok(Some("--build-arg BUILDKIT_INLINE_CACHE does nothing: nothing is cached yet")),
        );
        check("BUILDKIT_INLINE_CACHE", "0", false, Ok(None));
        let note =
            "--build-arg BUILDKIT_SYNTAX does nothing: the language is built in, the extensions of labs included";
        check("BUILDKIT_SYNTAX", "docker/dockerfile:1-labs", false, Ok(Some(note)));
        let refused =
            "--build-arg: `BUILDKIT_MULTI_PLATFORM=true` asks for an index of images: this version makes one image";
        check("BUILDKIT_MULTI_PLATFORM", "true", false, Err(refused));
        check("BUILDKIT_MULTI_PLATFORM", "false", false, Ok(None));
        let refused = "--build-arg: `BUILDKIT_CONTEXT_KEEP_GIT_DIR=1` asks for the context's `.git`, which is not kept when \
                       a context is fetched from git";
        check("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1", true, Err(refused));
        let note =
            "--build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR does nothing: a directory is taken as it is, `.git` included";
        check("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1", false, Ok(Some(note)));
        let refused = "--build-arg: `BUILDKIT_SANDBOX_HOSTNAME=a b` is no name for a machine";
        check("BUILDKIT_SANDBOX_HOSTNAME", "a b", false, Err(refused));
        let special = read(&[("BUILDKIT_SANDBOX_HOSTNAME".to_owned(), "box.local".to_owned())].into(), false).unwrap();
        assert_eq!(special, Special { hostname: Some("box.local".into()), notes: Vec::new() });
    }
}
