//! The command line of `karve context`, which the Pod's init container runs: flags and the git Secret's keys go in, a
//! request comes out. Pure: the environment is read by the caller, who hands its values over and forgets them.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use thiserror::Error;

use super::{
    FetchRequest, Source,
    git_source::{GitCredentials, GitReference, GitSource},
};
use crate::secret::Secret;

/// The prefix that the operator puts before the keys of the git Secret (`envFrom.prefix`).
pub const GIT_ENVIRONMENT_PREFIX: &str = "KARVE_GIT_";

/// The flags of `karve context`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(group = ArgGroup::new("source").required(true).args(["git_url", "directory", "files"]))]
#[command(group = ArgGroup::new("reference").args(["git_branch", "git_tag", "git_commit"]))]
pub struct ContextArguments {
    /// The git repository to check out: https:// or http://.
    #[arg(long, value_name = "URL")]
    pub git_url: Option<String>,
    /// The branch to check out; the remote's HEAD without any of the three.
    #[arg(long, value_name = "NAME", requires = "git_url")]
    pub git_branch: Option<String>,
    /// The tag to check out.
    #[arg(long, value_name = "NAME", requires = "git_url")]
    pub git_tag: Option<String>,
    /// The commit to check out, all 40 digits.
    #[arg(long, value_name = "SHA", requires = "git_url")]
    pub git_commit: Option<String>,
    /// A mounted volume to copy.
    #[arg(long, value_name = "PATH")]
    pub directory: Option<PathBuf>,
    /// A mounted ConfigMap to copy.
    #[arg(long, value_name = "PATH", requires = "files_hash")]
    pub files: Option<PathBuf>,
    /// The hash that the ConfigMap's files must have.
    #[arg(long, value_name = "SHA256", requires = "files")]
    pub files_hash: Option<String>,
    /// The directory of the source that is the context.
    #[arg(long, value_name = "PATH")]
    pub sub_path: Option<String>,
    /// Where `tree` and `source.json` are written.
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// What the context may take, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
    /// Where the caller of `fetch` reports: the container's termination message.
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
}

/// The keys of the git Secret, as the environment has them.
#[derive(Clone, Debug, Default)]
pub struct GitEnvironment {
    /// `KARVE_GIT_username`.
    pub username: Option<String>,
    /// `KARVE_GIT_password`.
    pub password: Option<Secret>,
    /// `KARVE_GIT_bearerToken`.
    pub bearer_token: Option<Secret>,
    /// `KARVE_GIT_ca.crt`.
    pub ca_pem: Option<String>,
    /// `KARVE_GIT_identity` or `KARVE_GIT_ssh-privatekey` is set: a key for ssh, which is not supported.
    pub has_ssh_key: bool,
}

impl GitEnvironment {
    /// Collects the keys from pairs of an environment; others are left alone.
    pub fn collect(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            match name.strip_prefix(GIT_ENVIRONMENT_PREFIX) {
                Some("username") => environment.username = Some(value),
                Some("password") => environment.password = Some(Secret::new(value)),
                Some("bearerToken") => environment.bearer_token = Some(Secret::new(value)),
                Some("ca.crt") => environment.ca_pem = Some(value),
                Some("identity" | "ssh-privatekey") => environment.has_ssh_key = true,
                Some(_) | None => {}
            }
        }
        environment
    }
}

/// Flags or a Secret that do not say what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArgumentsError {
    /// No source, or several.
    #[error("give exactly one of `--git-url`, `--directory` and `--files` with `--files-hash`")]
    Source,
    /// More than one revision, or one without a repository.
    #[error("give at most one of `--git-branch`, `--git-tag` and `--git-commit`, and only beside `--git-url`")]
    Reference,
    /// The Secret has keys that do not go together.
    #[error("the git Secret {0}")]
    Secret(&'static str),
}

impl ContextArguments {
    /// Returns the request that the flags and the Secret's keys mean.
    pub fn request(&self, environment: GitEnvironment) -> Result<FetchRequest, ArgumentsError> {
        let reference = self.reference()?;
        if self.git_url.is_none() && reference != GitReference::Default {
            return Err(ArgumentsError::Reference);
        }
        let source = match (&self.git_url, &self.directory, &self.files, &self.files_hash) {
            (Some(url), None, None, None) => Source::Git(GitSource {
                url: url.clone(),
                reference,
                ca_pem: environment.ca_pem.clone(),
                credentials: credentials(environment)?,
                keep_git_directory: false,
                submodules: true,
                checksum: None,
            }),
            (None, Some(directory), None, None) => Source::Directory(directory.clone()),
            (None, None, Some(directory), Some(hash)) => {
                Source::Files { directory: directory.clone(), hash: hash.clone() }
            }
            _ => return Err(ArgumentsError::Source),
        };
        let sub_path = self.sub_path.clone().filter(|path| !path.is_empty());
        Ok(FetchRequest { source, sub_path, output: self.output.clone(), limit_bytes: self.limit_bytes })
    }

    fn reference(&self) -> Result<GitReference, ArgumentsError> {
        match (&self.git_branch, &self.git_tag, &self.git_commit) {
            (None, None, None) => Ok(GitReference::Default),
            (Some(name), None, None) => Ok(GitReference::Branch(name.clone())),
            (None, Some(name), None) => Ok(GitReference::Tag(name.clone())),
            (None, None, Some(commit)) => Ok(GitReference::Commit(commit.clone())),
            _ => Err(ArgumentsError::Reference),
        }
    }
}

fn credentials(environment: GitEnvironment) -> Result<Option<GitCredentials>, ArgumentsError> {
    match (environment.username, environment.password, environment.bearer_token) {
        (Some(username), Some(password), None) => Ok(Some(GitCredentials::Basic { username, password })),
        (None, None, Some(token)) => Ok(Some(GitCredentials::Bearer(token))),
        (None, None, None) if environment.has_ssh_key => Err(ArgumentsError::Secret(
            "holds an ssh key, and ssh is not supported: use https with username and password",
        )),
        (None, None, None) => Ok(None),
        (_, _, Some(_)) => Err(ArgumentsError::Secret("has `bearerToken` beside `username` or `password`: keep one")),
        (_, _, None) => Err(ArgumentsError::Secret("needs both `username` and `password`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn parse(line: &str) -> Result<ContextArguments, clap::Error> {
        let command = ContextArguments::augment_args(Command::new("context").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_whitespace())?;
        ContextArguments::from_arg_matches(&matches)
    }

    fn environment(pairs: &[(&str, &str)]) -> GitEnvironment {
        GitEnvironment::collect(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn git_flags_mean_a_repository_and_a_revision() {
        for (flags, expected) in [
            ("", GitReference::Default),
            ("--git-branch main", GitReference::Branch("main".to_owned())),
            ("--git-tag v1", GitReference::Tag("v1".to_owned())),
            ("--git-commit abc", GitReference::Commit("abc".to_owned())),
        ] {
            let arguments = parse(&format!("--git-url https://h/r --output /o {flags}")).unwrap();
            let request = arguments.request(GitEnvironment::default()).unwrap();
            let Source::Git(source) = request.source else { panic!("{flags}") };
            assert_eq!((source.url.as_str(), source.reference), ("https://h/r", expected));
        }
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused() {
        for line in [
            "--output /o",
            "--git-url u --directory d --output /o",
            "--git-url u --git-tag a --git-branch b --output /o",
            "--files f --output /o",
            "--directory d --git-branch b --output /o",
            "--directory d",
        ] {
            let refused = parse(line).map_or(true, |arguments| arguments.request(GitEnvironment::default()).is_err());
            assert!(refused, "{line}");
        }
    }

    #[test]
    fn the_secret_decides_how_to_sign_in() {
        let arguments = parse("--git-url https://h/r --output /o --sub-path web --limit-bytes 7").unwrap();
        let basic = environment(&[("KARVE_GIT_username", "u"), ("KARVE_GIT_password", "p"), ("PATH", "x")]);
        let request = arguments.request(basic).unwrap();
        assert_eq!((request.sub_path.as_deref(), request.limit_bytes), (Some("web"), Some(7)));
        let Source::Git(source) = request.source else { panic!() };
        assert!(matches!(source.credentials, Some(GitCredentials::Basic { username, .. }) if username == "u"));
        let bearer = arguments.request(environment(&[("KARVE_GIT_bearerToken", "t")])).unwrap();
        let Source::Git(source) = bearer.source else { panic!() };
        assert!(matches!(source.credentials, Some(GitCredentials::Bearer(token)) if token.expose() == "t"));
        for (pairs, expected) in [
            (&[("KARVE_GIT_username", "u")][..], "the git Secret needs both `username` and `password`"),
            (
                &[("KARVE_GIT_bearerToken", "t"), ("KARVE_GIT_username", "u")],
                "the git Secret has `bearerToken` beside `username` or `password`: keep one",
            ),
            (
                &[("KARVE_GIT_identity", "k")],
                "the git Secret holds an ssh key, and ssh is not supported: use https with username and password",
            ),
        ] {
            assert_eq!(arguments.request(environment(pairs)).unwrap_err().to_string(), expected);
        }
    }
}
