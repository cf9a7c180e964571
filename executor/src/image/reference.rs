//! What a user types to name an image -> registry, repository, tag and digest.
//!
//! The grammar is in `grammar`.

mod grammar;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use self::grammar::Parts;
use super::digest::Digest;

/// The tag that a reference without tag and digest means.
const DEFAULT_TAG: &str = "latest";

/// Says why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct InvalidReference {
    /// What was given, cut to a readable length.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidReference {
    fn new(text: &str, reason: impl fmt::Display) -> Self {
        Self { text: text.chars().take(200).collect(), reason: reason.to_string() }
    }
}

/// Names a repository in a registry. `Display` writes `registry/name`, with Docker Hub spelled out as `docker.io`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository {
    registry: String,
    name: String,
}

impl Repository {
    /// Returns the registry as references name it: `host` or `host:port`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the name within the registry, such as `library/debian`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the repository one path component below this one, as `cache` below a destination.
    ///
    /// # Errors
    /// [`InvalidReference`] if the result is no repository name.
    pub fn child(&self, component: &str) -> Result<Self, InvalidReference> {
        format!("{self}/{component}").parse()
    }

    /// Whether this is `other` or lies below it in the same registry.
    pub fn is_within(&self, other: &Self) -> bool {
        self.registry == other.registry
            && self.name.strip_prefix(&other.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.name)
    }
}

impl FromStr for Repository {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        match parse(text)? {
            Parts { registry, name, tag: None, digest: None } => Ok(Self { registry, name }),
            _ => Err(InvalidReference::new(text, "a repository has no tag and no digest")),
        }
    }
}

impl TryFrom<String> for Repository {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        repository.to_string()
    }
}

/// Names an image by tag, by digest, or by both; the digest decides then. There is always one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Names an image of a repository by its digest.
    pub const fn by_digest(repository: Repository, digest: Digest) -> Self {
        Self { repository, tag: None, digest: Some(digest) }
    }

    /// Names an image of a repository by tag.
    ///
    /// # Errors
    /// [`InvalidReference`] if the tag is not one.
    pub fn by_tag(repository: &Repository, tag: &str) -> Result<Self, InvalidReference> {
        format!("{repository}:{tag}").parse()
    }

    /// Returns the repository.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the tag, if one was given or neither tag nor digest was.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one was given.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns what the registry's API calls the reference of a manifest: the digest, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.as_deref().unwrap_or(DEFAULT_TAG).to_owned(),
        }
    }

    /// Returns `repository@digest`: what a workload should name.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self::by_digest(self.repository.clone(), digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let Parts { registry, name, tag, digest } = parse(text)?;
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { repository: Repository { registry, name }, tag, digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn parse(text: &str) -> Result<Parts, InvalidReference> {
    grammar::parse(text).map_err(|reason| InvalidReference::new(text, reason))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, normal: Option<&str>) {
        let parsed = text.parse::<Reference>();
        assert_eq!(parsed.as_ref().ok().map(ToString::to_string).as_deref(), normal, "{parsed:?}");
    }

    #[test]
    fn short_names_mean_docker_hub_and_latest() {
        check("debian", Some("docker.io/library/debian:latest"));
        check("debian:bookworm", Some("docker.io/library/debian:bookworm"));
        check("org/app", Some("docker.io/org/app:latest"));
        check("index.docker.io/org/app:1", Some("docker.io/org/app:1"));
        check("docker.io/debian", Some("docker.io/library/debian:latest"));
    }

    #[test]
    fn hosts_have_a_dot_a_port_or_are_localhost() {
        check("localhost/app", Some("localhost/app:latest"));
        check("registry:5000/app", Some("registry:5000/app:latest"));
        check("127.0.0.1:5000/a/b/c:v1", Some("127.0.0.1:5000/a/b/c:v1"));
        check("registry.example/app", Some("registry.example/app:latest"));
        check("[::1]:5000/app", Some("[::1]:5000/app:latest"));
        check("[fe80::1]/app:t", Some("[fe80::1]/app:t"));
        check("Registry-1.Example/app", Some("Registry-1.Example/app:latest"));
        check("registry.example", Some("docker.io/library/registry.example:latest"));
        check("registry:5000", Some("docker.io/library/registry:5000"));
    }

    #[test]
    fn names_have_separators_between_letters_and_digits() {
        for text in ["r.example/a.b/c_d/e__f/g-h/i---j/0", "r.example/a1.b2-c3"] {
            check(text, Some(&format!("{text}:latest")));
        }
        for name in ["a..b", "a___b", "a._b", "-a", "a-", ".a", "a.", "_a", "a_", "a//b", "/a", "a b", "ä", "a-.b"] {
            check(&format!("r.example/{name}"), None);
        }
        check(&format!("r.example/{}", "a".repeat(255)), Some(&format!("r.example/{}:latest", "a".repeat(255))));
        check(&format!("r.example/{}", "a".repeat(256)), None);
        check(&"a".repeat(247), Some(&format!("docker.io/library/{}:latest", "a".repeat(247))));
        check(&"a".repeat(248), None);
    }

    #[test]
    fn tags_are_words_of_at_most_128_bytes() {
        for tag in ["_", "V1.2-rc_3", &"t".repeat(128)] {
            check(&format!("a:{tag}"), Some(&format!("docker.io/library/a:{tag}")));
        }
        for tag in ["", ".t", "-t", "t+1", "ü", &"t".repeat(129)] {
            check(&format!("a:{tag}"), None);
        }
    }

    #[test]
    fn digests_are_kept_beside_tags() {
        check(&format!("r.example/a@sha256:{HEX}"), Some(&format!("r.example/a@sha256:{HEX}")));
        check(&format!("r.example/a:t@sha256:{HEX}"), Some(&format!("r.example/a:t@sha256:{HEX}")));
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for text in
            ["", "UPPER", "a b", "https://r.example/a", "r.example/", "a:", "a@sha256:00", "a:t:t", "../a", "A/b"]
        {
            check(text, None);
        }
        for text in
            ["-r.example/a", "r-.example/a", "r..example/a", "r.example:/a", "r.example:p/a", "[::1/a", "[]:1/a"]
        {
            check(text, None);
        }
        check(&format!("a@sha512:{HEX}{HEX}"), None);
        check(&format!("a@sha256:{HEX}@sha256:{HEX}"), None);
        check(&"a".repeat(2000), None);
    }

    #[test]
    fn repositories_refuse_tags_and_know_what_lies_below() {
        let repository: Repository = "r.example:5000/team/app".parse().unwrap();
        assert_eq!(repository.child("cache").unwrap().to_string(), "r.example:5000/team/app/cache");
        assert!(repository.child("cache").unwrap().is_within(&repository));
        assert!(!"r.example:5000/team/app2".parse::<Repository>().unwrap().is_within(&repository));
        assert!(repository.child("../x").is_err());
        for text in ["r.example/a:t", &format!("r.example/a@sha256:{HEX}")] {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_printing_parses_to_the_same(text in "[a-z0-9A-Z:/@._-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
