//! What a git context is, and how fetching one can fail. Plain data: `git` does the work.

use thiserror::Error;

use super::budget::VolumeFull;
use crate::secret::Secret;

/// What to check out.
#[derive(Clone, Debug)]
pub struct GitSource {
    /// `https://` or `http://`; a user and password in it serve as basic credentials where none are given.
    pub url: String,
    /// Which revision.
    pub reference: GitReference,
    /// How to sign in, where the repository is not public.
    pub credentials: Option<GitCredentials>,
    /// Certificates to trust beside the system's, in PEM.
    pub ca_pem: Option<String>,
    /// Whether `.git` stays in the tree.
    pub keep_git_directory: bool,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// What the commit must begin with, in lower case.
    pub checksum: Option<String>,
}

/// A revision of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitReference {
    /// A branch, without `refs/heads/`.
    Branch(String),
    /// A tag, without `refs/tags/`; annotated or not.
    Tag(String),
    /// A commit by all its 40 digits.
    Commit(String),
    /// A reference by its full name, such as `refs/pull/1/head`.
    Full(String),
    /// The branch that the server's HEAD names.
    Default,
}

/// How to sign in to a git server.
#[derive(Clone, Debug)]
pub enum GitCredentials {
    /// User name and password (or access token).
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token.
    Bearer(Secret),
    /// The whole value of an Authorization header.
    Header(Secret),
}

/// What was checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// `main@sha1:<commit>`, `v1@sha1:<commit>`, or `sha1:<commit>` when a commit was asked for.
    pub revision: String,
    /// The commit's 40 digits.
    pub commit: String,
    /// When it was committed, in seconds since 1970.
    pub commit_time: i64,
}

/// Why a repository could not be checked out. URLs are without user and password.
#[derive(Debug, Error)]
pub enum GitError {
    /// 401 or 403.
    #[error("`{url}` refused {}: check the Secret that the git source names", if *.signed_in { "the credentials" } else { "a request without credentials" })]
    Unauthorized {
        /// The repository.
        url: String,
        /// Whether credentials were given.
        signed_in: bool,
    },
    /// The server has no such repository.
    #[error("there is no git repository at `{url}`")]
    RepositoryNotFound {
        /// Where it was looked for.
        url: String,
    },
    /// The repository has no such branch, tag or commit, or no commit at all.
    #[error("`{url}` has no {reference}")]
    ReferenceNotFound {
        /// The repository.
        url: String,
        /// Such as "branch `main`".
        reference: String,
    },
    /// The reference leads to another commit than was demanded.
    #[error("`{url}` has the commit {actual} there, not {expected}")]
    Checksum {
        /// The repository.
        url: String,
        /// The first digits that were demanded.
        expected: String,
        /// The commit.
        actual: String,
    },
    /// The server did not answer, or not to the end; another try may help.
    #[error("cannot fetch from `{url}`: {detail}")]
    Unavailable {
        /// The repository.
        url: String,
        /// The cause in words.
        detail: String,
    },
    /// The server's certificate was not made by an authority that is trusted here, or for this name.
    #[error("the certificate of `{url}` is not trusted ({detail}): put its authority as `ca.crt` into the git Secret")]
    Untrusted {
        /// The repository.
        url: String,
        /// The cause in words.
        detail: String,
    },
    /// The source says something that cannot be meant.
    #[error("`{value}` {problem}")]
    Invalid {
        /// The value.
        value: String,
        /// What is wrong with it, and what is right.
        problem: &'static str,
    },
    /// The repository needs something that is not supported.
    #[error("`{path}` in `{url}` {problem}")]
    Unsupported {
        /// The repository.
        url: String,
        /// The path in the repository.
        path: String,
        /// What is not supported.
        problem: &'static str,
    },
    /// A submodule failed.
    #[error("submodule `{path}`: {source}")]
    Submodule {
        /// Its path.
        path: String,
        /// Why.
        source: Box<Self>,
    },
    /// The repository or its tree is larger than the volume.
    #[error(transparent)]
    VolumeFull(#[from] VolumeFull),
    /// The tree could not be written.
    #[error("cannot check out `{url}`: {detail}")]
    Checkout {
        /// The repository.
        url: String,
        /// The cause in words.
        detail: String,
    },
}

impl GitError {
    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Submodule { source, .. } => source.is_retryable(),
            _ => false,
        }
    }
}

impl GitReference {
    /// The revision in git's full form.
    pub(super) fn full_name(&self) -> String {
        match self {
            Self::Branch(name) => format!("refs/heads/{name}"),
            Self::Tag(name) => format!("refs/tags/{name}"),
            Self::Commit(commit) => commit.to_ascii_lowercase(),
            Self::Full(name) => name.clone(),
            Self::Default => "HEAD".to_owned(),
        }
    }

    /// The revision in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Branch(name) => format!("branch `{name}`"),
            Self::Tag(name) => format!("tag `{name}`"),
            Self::Commit(commit) => format!("commit `{commit}`"),
            Self::Full(name) => format!("reference `{name}`"),
            Self::Default => "default branch with a commit".to_owned(),
        }
    }
}

/// Drops `user:password@` from something that may be a URL.
pub(super) fn without_userinfo(text: &str) -> String {
    match text.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((_, rest)))) => format!("{scheme}://{rest}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_never_shown() {
        for (url, shown) in [
            ("https://ada:p@ss@host/shop", "https://host/shop"),
            ("https://host/shop", "https://host/shop"),
            ("ssh://git@host:22/shop", "ssh://host:22/shop"),
            ("git@host:shop", "git@host:shop"),
        ] {
            assert_eq!(without_userinfo(url), shown);
        }
    }
}
