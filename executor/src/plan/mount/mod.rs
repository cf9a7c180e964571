//! `RUN --mount`: a flag's value and the variables come in, a mount comes out. Keys that a type does not have and values that
//! make no sense are refused.

use karve_dockerfile::{ast::Word, closest, diagnostic::Problem};

use super::{
    arguments::Expansion,
    config::join,
    graph::{Attributes, BindMount, CacheMount, From, Mount, SecretMount, Sharing, SshMount},
    sources::SCRATCH,
};
use crate::filesystem::path::TreePath;
use fields::Fields;

mod fields;
#[cfg(test)]
mod tests;

/// Where secrets are without a target.
const SECRETS_DIRECTORY: &str = "/run/secrets";

/// Where the sockets of SSH agents are without a target; the number of the mount follows.
const AGENT_SOCKET_PREFIX: &str = "/run/buildkit/ssh_agent.";

/// The agent that is meant when none is named.
const AGENT_ID: &str = "default";

/// Permission bits of a secret without a mode.
const SECRET_MODE: u32 = 0o400;

/// Permission bits of an agent's socket without a mode.
const AGENT_MODE: u32 = 0o600;

/// Permission bits of a new cache directory without a mode.
const CACHE_MODE: u32 = 0o755;

/// All types.
const TYPES: [&str; 5] = ["bind", "cache", "secret", "ssh", "tmpfs"];

/// What is around a mount.
pub(super) struct Around<'a> {
    pub expansion: Expansion<'a>,
    /// What a relative target is below.
    pub working_directory: &'a str,
    /// What goes before the ids of caches; may be empty.
    pub cache_namespace: &'a str,
    /// The SSH mounts of this step so far.
    pub agents: usize,
    /// Resolves `from`.
    pub from: &'a dyn Fn(&Word) -> Result<From, Problem>,
}

/// Reads one mount.
pub(super) fn parse(word: &Word, around: &Around<'_>) -> Result<Mount, Problem> {
    let problem = |message: String| Problem::new(word.span, message);
    let mut fields = Fields::read(word, around.expansion)?;
    let kind = fields.value("type").map_or_else(|| "bind".into(), |kind| kind.to_lowercase());
    let allowed: &[&str] = match kind.as_str() {
        "bind" => &["from", "readonly", "readwrite", "source", "target"],
        "cache" => &["from", "gid", "id", "mode", "readonly", "readwrite", "sharing", "source", "target", "uid"],
        "secret" => &["env", "gid", "id", "mode", "readonly", "readwrite", "required", "source", "target", "uid"],
        "ssh" => &["gid", "id", "mode", "readonly", "readwrite", "required", "target", "uid"],
        "tmpfs" => &["readonly", "readwrite", "size", "target"],
        other => {
            let suggestion = closest(other, TYPES).map(|known| format!(" (did you mean {known}?)"));
            return Err(problem(format!("unsupported mount type \"{other}\"{}", suggestion.unwrap_or_default())));
        }
    };
    if let Some(key) = fields.other_than(allowed) {
        return Err(problem(format!("unexpected key '{key}' for mount type '{kind}'")));
    }
    let from = match fields.text("from").map(|text| Word { text, span: word.span }) {
        Some(name) if is_scratch(&name) => Files::Nothing,
        Some(name) => Files::From((around.from)(&name)?),
        None => Files::Default,
    };
    match kind.as_str() {
        "bind" => bind(&mut fields, from, around).map(Mount::Bind),
        "cache" => cache(&mut fields, from, around).map(Mount::Cache),
        "secret" => secret(&mut fields, around).map(Mount::Secret),
        "ssh" => ssh(&mut fields, around).map(Mount::Ssh),
        _ => tmpfs(&mut fields, around),
    }
    .map_err(problem)
}

/// Finds the stage or image that a mount names, whatever its type. Variables are not known yet.
pub(super) fn from(word: &Word) -> Result<Option<Word>, Problem> {
    Ok(fields::from(word)?.filter(|name| !name.text.is_empty() && !is_scratch(name)))
}

fn is_scratch(name: &Word) -> bool {
    name.text == SCRATCH
}

/// What `from` says.
enum Files {
    /// It is missing.
    Default,
    /// It names `scratch`.
    Nothing,
    /// It names something.
    From(From),
}

fn bind(fields: &mut Fields, from: Files, around: &Around<'_>) -> Result<BindMount, String> {
    Ok(BindMount {
        target: directory_target(fields, around)?,
        from: match from {
            Files::Default => Some(From::Context),
            Files::Nothing => None,
            Files::From(from) => Some(from),
        },
        source: source(fields),
        read_only: fields.read_only(true)?,
    })
}

fn cache(fields: &mut Fields, from: Files, around: &Around<'_>) -> Result<CacheMount, String> {
    let written = fields.value("target").unwrap_or_default();
    let target = directory(&written, around)?;
    let sharing = match fields.text("sharing").map(|sharing| sharing.to_lowercase()).as_deref() {
        None | Some("shared") => Sharing::Shared,
        Some("private") => Sharing::Private,
        Some("locked") => Sharing::Locked,
        Some(other) => {
            let suggestion = closest(other, ["locked", "private", "shared"]);
            let suggestion = suggestion.map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
            return Err(format!("unsupported sharing value \"{other}\"{suggestion}"));
        }
    };
    let id = fields.text("id").unwrap_or_else(|| clean(&written));
    let (mode, uid, gid) = (fields.mode()?, fields.number("uid", 10)?, fields.number("gid", 10)?);
    let attributes =
        Attributes { mode: mode.unwrap_or(CACHE_MODE), uid: uid.unwrap_or_default(), gid: gid.unwrap_or_default() };
    Ok(CacheMount {
        target,
        id: format!("{}/{id}", around.cache_namespace),
        sharing,
        from: match from {
            Files::Default | Files::Nothing => None,
            Files::From(from) => Some(from),
        },
        source: source(fields),
        attributes: (mode, uid, gid).ne(&(None, None, None)).then_some(attributes),
        read_only: fields.read_only(false)?,
    })
}

fn secret(fields: &mut Fields, around: &Around<'_>) -> Result<SecretMount, String> {
    let target = target(fields, around)?;
    let (id, source) = (fields.text("id"), fields.text("source"));
    if id.is_some() && source.is_some() {
        return Err("both source and id can't be set".into());
    }
    let env = fields.text("env");
    let base_name = || target.as_deref().and_then(|target| target.rsplit('/').find(|part| !part.is_empty()));
    let id = id.or(source).or_else(|| base_name().map(str::to_owned));
    let Some(id) = id else { return Err("one of id, source, target is required for a secret mount".into()) };
    let default_target = || format!("{SECRETS_DIRECTORY}/{}", id.rsplit('/').next().unwrap_or(&id));
    let target = if env.is_some() { target } else { target.or_else(|| Some(default_target())) };
    // A secret is read-only whatever is said, as in BuildKit.
    fields.read_only(true)?;
    Ok(SecretMount {
        target,
        env,
        required: fields.switch("required")?,
        mode: fields.mode()?.unwrap_or(SECRET_MODE),
        uid: fields.number("uid", 10)?.unwrap_or_default(),
        gid: fields.number("gid", 10)?.unwrap_or_default(),
        id,
    })
}

fn ssh(fields: &mut Fields, around: &Around<'_>) -> Result<SshMount, String> {
    // One writes to a socket that is read-only all the same.
    fields.read_only(true)?;
    Ok(SshMount {
        id: fields.text("id").unwrap_or_else(|| AGENT_ID.to_owned()),
        target: target(fields, around)?.unwrap_or_else(|| format!("{AGENT_SOCKET_PREFIX}{}", around.agents)),
        required: fields.switch("required")?,
        mode: fields.mode()?.unwrap_or(AGENT_MODE),
        uid: fields.number("uid", 10)?.unwrap_or_default(),
        gid: fields.number("gid", 10)?.unwrap_or_default(),
    })
}

fn tmpfs(fields: &mut Fields, around: &Around<'_>) -> Result<Mount, String> {
    Ok(Mount::Tmpfs {
        target: directory_target(fields, around)?,
        size: fields.size()?,
        read_only: fields.read_only(false)?,
    })
}

/// Takes the source as an absolute path below the root of `from`.
fn source(fields: &mut Fields) -> String {
    clean(&format!("/{}", fields.value("source").unwrap_or_default()))
}

/// Takes the target as an absolute path; `None` without one.
fn target(fields: &mut Fields, around: &Around<'_>) -> Result<Option<String>, String> {
    fields.text("target").map(|target| directory(&target, around)).transpose()
}

/// Takes the target of a mount that needs one: without it, that is the working directory, as in BuildKit.
fn directory_target(fields: &mut Fields, around: &Around<'_>) -> Result<String, String> {
    directory(&fields.value("target").unwrap_or_default(), around)
}

fn directory(target: &str, around: &Around<'_>) -> Result<String, String> {
    let absolute = join(around.working_directory, target);
    if TreePath::clean(absolute.as_bytes()).is_root() {
        return Err(format!("invalid mount target \"{}\"", if target.is_empty() { "/" } else { target }));
    }
    Ok(absolute)
}

/// Returns a path in its normal form, absolute or relative as it was.
fn clean(path: &str) -> String {
    let absolute = join("/", path.trim_start_matches('/'));
    if path.starts_with('/') {
        return absolute;
    }
    let relative = absolute.trim_start_matches('/');
    if relative.is_empty() { ".".to_owned() } else { relative.to_owned() }
}
