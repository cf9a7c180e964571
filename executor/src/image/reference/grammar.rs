//! The text of a reference -> its four parts, or what is wrong with it.
//!
//! The grammar and Docker Hub's short names are those of github.com/distribution/reference. Karve knows sha256 only, and takes
//! no word in capitals for a host, nor 64 digits for anything but a name. By hand, because the regular expression of the
//! library for it takes longer to compile than a build takes that finds everything in the cache.

use super::super::digest::Digest;

/// The longest text that can be valid: a host name, a repository, a tag and a digest at their own maxima.
const TEXT_BYTES_MAX: usize = 1024;
/// The longest name of a repository within its registry.
const NAME_BYTES_MAX: usize = 255;
/// The longest tag.
const TAG_BYTES_MAX: usize = 128;

const DOCKER_HUB: &str = "docker.io";
/// What Docker Hub is called in old configurations.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
/// Where Docker Hub keeps the images whose names have one component.
const DOCKER_HUB_LIBRARY: &str = "library";

/// What a reference says; there need be neither tag nor digest.
pub(super) struct Parts {
    pub(super) registry: String,
    pub(super) name: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<Digest>,
}

/// Takes a reference apart.
pub(super) fn parse(text: &str) -> Result<Parts, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("it is longer than {TEXT_BYTES_MAX} bytes"));
    }
    if text.contains("://") {
        return Err("it names a registry, not a URL".into());
    }
    let (text, digest) = match text.split_once('@') {
        None => (text, None),
        Some((text, digest)) => (text, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
    };
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match text[last..].split_once(':') {
        None => (text, None),
        Some((component, tag)) => (&text[..last + component.len()], Some(tag)),
    };
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(format!("`{tag}` is no tag: at most {TAG_BYTES_MAX} of a-z, A-Z, 0-9, _, . and -"));
    }
    let (registry, name) = split(path);
    if !is_host(registry) {
        return Err(format!("`{registry}` is no registry's host"));
    }
    let official = registry == DOCKER_HUB && !name.contains('/');
    let name = if official { format!("{DOCKER_HUB_LIBRARY}/{name}") } else { name.to_owned() };
    check_name(&name)?;
    Ok(Parts { registry: registry.to_owned(), name, tag: tag.map(str::to_owned), digest })
}

/// Splits the registry from the name: a first component is one if it has a dot or a port, or is localhost.
fn split(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some((DOCKER_HUB_INDEX, name)) => (DOCKER_HUB, name),
        Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => (host, name),
        _ => (DOCKER_HUB, path),
    }
}

fn is_tag(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.len() <= TAG_BYTES_MAX && !text.is_empty() && !text.starts_with(['.', '-']) && text.bytes().all(inner)
}

/// A name or an address, with or without a port; an address of version 6 stands in brackets.
fn is_host(text: &str) -> bool {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let is_address = address.contains(':') && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
        return is_address && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("its name is longer than {NAME_BYTES_MAX} bytes"));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a repository is named in lower case".into());
    }
    match name.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some("") => Err("a part of its name is empty".into()),
        Some(component) => Err(format!("`{component}` is no part of a name: a-z and 0-9, with ., _, __ or - between")),
    }
}

/// Runs of letters and digits, with one separator between two: a dot, one or two underscores, or hyphens.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = text.split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit());
    let is_separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    text.bytes().next().is_some_and(is_alphanumeric)
        && text.bytes().last().is_some_and(is_alphanumeric)
        && separators.into_iter().all(is_separator)
}
