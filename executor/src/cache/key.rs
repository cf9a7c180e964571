//! What a step is made of, and the key that this makes. Pure.
//!
//! ```text
//! definition key: the operation, the definition keys of its inputs, the digests of context files that it reads
//! content key:    the same with the content of its inputs; of COPY, ADD and WORKDIR, what their layer holds
//! ```
//!
//! The parts keep names, so that a miss can be explained. Labels, history, limits, times and secret values are in no key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    image::digest::{Digest, FieldHasher, InvalidDigest},
    plan::graph::{Attributes, BindMount, CacheMount, Copy, Mount, Run, SecretMount, Source, SshMount},
};

/// Part of every key. Raised whenever a change of Karve changes what a step makes.
const FORMAT: &str = "karve cache 1";

/// The part of a key that stands for the steps before.
pub const PARENT: &str = "the step before it";

/// The part of a key that stands for the image that a stage starts from.
pub const BASE: &str = "the base image";

/// The part of a key that stands for what is copied from the build context.
pub const CONTEXT_FILES: &str = "files of the context";

/// The part of a content key that stands for the whole file system that a RUN sees.
pub const ALL_FILES: &str = "all files";

/// The part of a content key that stands for the files that a mount shows.
pub const MOUNTED: &str = "the mounted files";

/// Names what a step makes, by what it is made of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Digest);

/// Everything that a step is made of: names with the digests of what they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf(Vec<(String, Digest)>);

impl Key {
    /// The tag of the entry: `step-` and 64 hexadecimal digits.
    pub fn tag(&self) -> String {
        format!("step-{}", self.0.hex())
    }

    /// The digest behind the key, for the keys of other steps.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Key {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl MadeOf {
    /// Lists the parts, those that are the step's own first.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &Digest)> {
        self.0.iter().map(|(name, digest)| (name.as_str(), digest))
    }

    /// Makes the key. Two steps have one key only if all their parts are the same. What stands between backticks in a name
    /// is for people: a stage may be renamed.
    pub fn key(&self) -> Key {
        let mut hasher = FieldHasher::default();
        hasher.field(FORMAT.as_bytes());
        for (name, digest) in &self.0 {
            let kind = name.split_once('`').map_or(name.as_str(), |(kind, _)| kind);
            hasher.field(kind.as_bytes());
            hasher.field(digest.as_bytes());
        }
        Key(hasher.finish())
    }

    fn digest(&mut self, name: impl Into<String>, digest: Digest) {
        self.0.push((name.into(), digest));
    }

    fn text(&mut self, name: impl Into<String>, text: &str) {
        self.digest(name, Digest::of(text.as_bytes()));
    }

    fn fields(&mut self, name: impl Into<String>, hash: impl FnOnce(&mut FieldHasher)) {
        let mut hasher = FieldHasher::default();
        hash(&mut hasher);
        self.digest(name, hasher.finish());
    }
}

/// The start of a stage: the diffIDs of its base image, none for `scratch`.
pub fn base<'a>(diff_ids: impl Iterator<Item = &'a Digest>) -> Key {
    let mut made_of = MadeOf::default();
    diff_ids.for_each(|diff_id| made_of.digest(BASE, diff_id.clone()));
    made_of.key()
}

/// WORKDIR, by definition.
pub fn directory(path: &str, user: &str, parent: (&str, &Digest)) -> MadeOf {
    let mut made_of = MadeOf::default();
    made_of.text("the directory", path);
    made_of.text("USER", user);
    made_of.digest(parent.0, parent.1.clone());
    made_of
}

/// COPY, ADD and WORKDIR, by content: what the layer holds.
pub fn layer(changes: Digest) -> MadeOf {
    let mut made_of = MadeOf::default();
    made_of.digest("the layer", changes);
    made_of
}

/// What a COPY or an ADD takes its files from.
#[derive(Clone, Debug)]
pub struct CopyInputs {
    /// What the part is called, and what it is: the files that are read of a context, or a stage, or an image. `None`
    /// where there is no source of this kind.
    pub from: Option<(String, Digest)>,
    /// The digests of what comes from elsewhere, in the order of the sources.
    pub remotes: Vec<Digest>,
}

/// COPY and ADD, by definition. ARG values that the operands do not use are not among the parts.
pub fn copy(copy: &Copy, inputs: CopyInputs, parent: (&str, &Digest)) -> MadeOf {
    let mut made_of = MadeOf::default();
    let Copy { from: _, sources, destination, working_directory, chown, chmod, exclude, .. } = copy;
    let Copy { parents, link, unpack, unpack_remote, .. } = copy;
    made_of.fields("the sources", |hasher| {
        hasher.number(sources.len() as u64);
        for source in sources {
            match source {
                Source::Path(path) => [b"path", path.as_bytes()].map(|field| hasher.field(field)),
                Source::Inline { name, .. } => [b"here", name.as_bytes()].map(|field| hasher.field(field)),
                // What is there counts, not where.
                Source::Remote { .. } => [&b"remote"[..], b""].map(|field| hasher.field(field)),
            };
        }
    });
    made_of.text("the destination", destination);
    if !destination.starts_with('/') {
        made_of.text("WORKDIR", working_directory);
    }
    made_of.fields("the flags", |hasher| {
        for value in [chown, chmod] {
            hasher.list(value.as_slice().iter().map(String::as_bytes));
        }
        hasher.list(exclude.iter().map(String::as_bytes));
        for flag in [parents, link, unpack, unpack_remote] {
            hasher.number((*flag).into());
        }
    });
    for source in sources {
        if let Source::Inline { name, content } = source {
            made_of.digest(format!("the heredoc {name}"), Digest::of(content));
        }
    }
    for remote in inputs.remotes {
        made_of.digest("what ADD fetches", remote);
    }
    if let Some((name, digest)) = inputs.from {
        made_of.digest(name, digest);
    }
    made_of.digest(parent.0, parent.1.clone());
    made_of
}

/// RUN, by definition or by content: `mounted` has, for each mount that shows somebody's files, whose they are called and
/// what they are; `parent` is the definition of the steps before, or the digest of all files.
pub fn run(run: &Run, platform: &str, mounted: Vec<Option<(String, Digest)>>, parent: (&str, &Digest)) -> MadeOf {
    let mut made_of = MadeOf::default();
    let Run { arguments, environment, proxies: _, working_directory, user, mounts, network_none, script } = run;
    made_of.fields("the command", |hasher| hasher.list(arguments.iter().map(String::as_bytes)));
    if let Some((name, content)) = script {
        made_of.fields("the script", |hasher| {
            hasher.field(name.as_bytes());
            hasher.field(content);
        });
    }
    for (name, value) in environment {
        made_of.fields(format!("the variable {name}"), |hasher| {
            hasher.field(name.as_bytes());
            hasher.field(value.as_bytes());
        });
    }
    made_of.text("WORKDIR", working_directory);
    made_of.text("USER", user);
    made_of.text("the network", if *network_none { "none" } else { "default" });
    made_of.text("the platform", platform);
    for (mount, files) in mounts.iter().zip(mounted) {
        made_of.fields(format!("the mount {}", target(mount)), |hasher| self::mount(mount, hasher));
        if let Some((name, digest)) = files {
            made_of.digest(name, digest);
        }
    }
    made_of.digest(parent.0, parent.1.clone());
    made_of
}

fn target(mount: &Mount) -> &str {
    match mount {
        Mount::Bind(BindMount { target, .. })
        | Mount::Cache(CacheMount { target, .. })
        | Mount::Tmpfs { target, .. }
        | Mount::Ssh(SshMount { target, .. }) => target,
        Mount::Secret(SecretMount { id, .. }) => id,
    }
}

/// How something is mounted: never the value of a secret, nor what a cache holds.
fn mount(mount: &Mount, hasher: &mut FieldHasher) {
    let mut fields = |kind: &str, texts: &[Option<&str>], numbers: &[u64]| {
        hasher.field(kind.as_bytes());
        for text in texts {
            hasher.list(text.as_slice().iter().map(|text| text.as_bytes()));
        }
        for number in numbers {
            hasher.number(*number);
        }
    };
    match mount {
        Mount::Bind(BindMount { target, from: _, source, read_only }) => {
            fields("bind", &[Some(target), Some(source)], &[(*read_only).into()]);
        }
        Mount::Cache(CacheMount { target, id, sharing: _, from: _, source, attributes, read_only }) => {
            let Attributes { mode, uid, gid } = attributes.unwrap_or(Attributes { mode: 0, uid: 0, gid: 0 });
            let numbers = [attributes.is_some().into(), mode.into(), uid.into(), gid.into(), (*read_only).into()];
            fields("cache", &[Some(target), Some(id), Some(source)], &numbers);
        }
        Mount::Secret(SecretMount { id, target, env, required: _, mode, uid, gid }) => {
            let texts = [Some(id.as_str()), target.as_deref(), env.as_deref()];
            fields("secret", &texts, &[(*mode).into(), (*uid).into(), (*gid).into()]);
        }
        Mount::Ssh(SshMount { id, target, required: _, mode, uid, gid }) => {
            fields("ssh", &[Some(id), Some(target)], &[(*mode).into(), (*uid).into(), (*gid).into()]);
        }
        Mount::Tmpfs { target, size, read_only } => {
            fields("tmpfs", &[Some(target)], &[size.is_some().into(), size.unwrap_or_default(), (*read_only).into()]);
        }
    }
}

#[cfg(test)]
mod tests;
