//! Sources of ADD that are elsewhere: the text of a source comes in; a path, a URL or a git repository comes out. The rules
//! that tell them apart, and what may stand in a git URL, are BuildKit's.

use crate::image::checksum::Checksum;

/// The name of a file whose URL has none.
const UNNAMED: &str = "__unnamed__";

/// The name of a file whose URL has an unusable one.
const UNUSABLE: &str = "download";

/// Digits of a commit.
const COMMIT_DIGITS: usize = 40;

/// What ADD fetches from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// One file.
    Url(RemoteFile),
    /// A tree.
    Git(RemoteRepository),
}

/// A file by its URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteFile {
    /// `https://` or `http://`; may have a user and a password.
    pub url: String,
    /// The name that the file gets in a directory.
    pub name: String,
    /// What it must hash to.
    pub checksum: Option<Checksum>,
}

/// A git repository, and what of it is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "four independent parameters of a URL")]
pub struct RemoteRepository {
    /// `https://` or `http://`, without query and fragment; may have a user and a password.
    pub url: String,
    /// A branch, a tag, a full commit or a full name; empty is the server's HEAD.
    pub reference: String,
    /// The directory that is taken, without slashes at its ends; empty is all.
    pub sub_directory: String,
    /// What the commit must begin with; lower case.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_directory: bool,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// Whether the files have the time of the commit, instead of the image's.
    pub commit_time: bool,
    /// Whether the checksum is a commit to fetch by itself, wherever the reference is.
    pub fetch_by_commit: bool,
}

/// What kind of source a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A path or a wildcard.
    Path,
    /// A file of a web server.
    Url,
    /// A git repository over http(s).
    Git,
    /// A git repository over something that is not spoken here.
    ForeignGit,
    /// A URL of a kind that is not spoken here.
    ForeignUrl,
}

/// Tells what kind of source a text is.
pub fn kind(text: &str) -> SourceKind {
    if let Some((scheme, rest)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" if is_git_path(split(rest).0) => SourceKind::Git,
            "http" | "https" => SourceKind::Url,
            "git" | "ssh" => SourceKind::ForeignGit,
            "ftp" | "ftps" | "sftp" => SourceKind::ForeignUrl,
            _ => SourceKind::Path,
        };
    }
    if is_scp(text) { SourceKind::ForeignGit } else { SourceKind::Path }
}

/// Whether host and path are those of a repository: the path ends with `.git`.
fn is_git_path(address: &str) -> bool {
    address.split_once('/').is_some_and(|(_, path)| path.strip_suffix(".git").is_some())
}

/// Whether a text has the form `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, (host, _))) = text.split_once('@').and_then(|(user, rest)| Some((user, rest.split_once(':')?)))
    else {
        return false;
    };
    let plain = |part: &str, also: &[u8]| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    plain(user, b"-_") && plain(host, b"-.")
}

/// Reads the URL of a file.
pub fn file(text: &str, checksum: Option<Checksum>) -> Result<RemoteFile, String> {
    let (address, _, _) = split(text);
    let path = host_and_path(address)?.1;
    let name = decode(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
    let name = match name.rsplit('/').next().unwrap_or_default().trim() {
        "" if path.trim_end_matches('/').is_empty() => UNNAMED,
        "" | "." | ".." => UNUSABLE,
        name if name.chars().any(char::is_control) => UNUSABLE,
        name => name,
    };
    Ok(RemoteFile { url: text.to_owned(), name: name.to_owned(), checksum })
}

/// Reads the URL of a git repository: `…/x.git#ref:directory`, or with a query.
pub fn repository(text: &str) -> Result<RemoteRepository, String> {
    let (address, query, fragment) = split(text);
    host_and_path(address)?;
    let fragment = decode(fragment);
    let (reference, directory) = fragment.split_once(':').unwrap_or((&fragment, ""));
    let mut repository = RemoteRepository {
        url: with_lower_scheme(address),
        reference: reference.to_owned(),
        sub_directory: clean(directory),
        checksum: None,
        keep_git_directory: false,
        submodules: true,
        commit_time: false,
        fetch_by_commit: false,
    };
    repository.read_query(query)?;
    if repository.fetch_by_commit && !repository.checksum.as_deref().is_some_and(is_commit) && !is_commit(reference) {
        return Err("fetch-by-commit needs a checksum with all 40 digits of a commit".into());
    }
    Ok(repository)
}

impl RemoteRepository {
    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let (mut seen, mut tag, mut branch) = (Vec::new(), None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(&value.replace('+', " ")));
            if seen.contains(&name) {
                return Err(format!("query \"{name}\" has multiple values"));
            }
            let is_switch = matches!(name.as_str(), "keep-git-dir" | "submodules" | "fetch-by-commit");
            if value.is_empty() && !is_switch {
                return Err(format!("query \"{name}\" has no value"));
            }
            match name.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "tag" => tag = Some(with_prefix("refs/tags/", value)),
                "branch" => branch = Some(with_prefix("refs/heads/", value)),
                "subdir" => agree("subdir", &mut self.sub_directory, clean(&value))?,
                "checksum" | "commit" => self.set_checksum(&value)?,
                "keep-git-dir" => self.keep_git_directory = switch(&name, &value)?,
                "submodules" => self.submodules = switch(&name, &value)?,
                "fetch-by-commit" => self.fetch_by_commit = switch(&name, &value)?,
                "mtime" if value == "checkout" => self.commit_time = false,
                "mtime" if value == "commit" => self.commit_time = true,
                "mtime" => {
                    return Err(format!("invalid mtime value: \"{value}\" (must be \"checkout\" or \"commit\")"));
                }
                _ => return Err(format!("unexpected query \"{name}\"")),
            }
            seen.push(name);
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".into());
        }
        match tag.or(branch) {
            Some(named) => agree("ref", &mut self.reference, named),
            None => Ok(()),
        }
    }

    /// Demands a commit, by all its digits or the first ones. Two demands must be the same.
    pub fn set_checksum(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() || text.len() > COMMIT_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("invalid checksum \"{text}\" for a Git source, expected the digits of a commit"));
        }
        let wanted = text.to_ascii_lowercase();
        match &self.checksum {
            Some(known) if *known != wanted => Err(format!("checksum mismatch \"{wanted}\" != \"{known}\"")),
            _ => {
                self.checksum = Some(wanted);
                Ok(())
            }
        }
    }
}

/// Whether a text is a commit with all its digits.
pub fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Sets a value that may have been given before.
fn agree(name: &str, known: &mut String, value: String) -> Result<(), String> {
    if !known.is_empty() && *known != value {
        return Err(format!("{name} conflicts: \"{known}\" vs \"{value}\""));
    }
    *known = value;
    Ok(())
}

fn with_prefix(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

fn switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("invalid {name} value: \"{other}\"")),
    }
}

/// Drops `user:password@` from the URLs in a text.
pub fn without_userinfo(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|character: char| character == '/' || character.is_whitespace()).unwrap_or(after.len());
        rest = after[..end].rfind('@').map_or(after, |at| &after[at + 1..]);
    }
    shown + rest
}

/// Splits a URL into what is before the query, the query and the fragment.
fn split(text: &str) -> (&str, &str, &str) {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    (address, query, fragment)
}

/// Writes the scheme in lower case: who fetches compares it so.
fn with_lower_scheme(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    format!("{}://{rest}", scheme.to_ascii_lowercase())
}

fn host_and_path(address: &str) -> Result<(&str, &str), String> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.ends_with('@') || address.contains(|character: char| character.is_control()) {
        return Err("the URL has no host".into());
    }
    Ok((host, path))
}

/// Makes a directory relative to the root of the repository, which `..` does not leave.
fn clean(directory: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Replaces `%2F` and its like; what is not UTF-8 then stays as it is.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let pair = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let pair = pair.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k15_sources_are_told_apart() {
        for (text, expected) in [
            ("https://x/y", SourceKind::Url),
            ("http://x/y.git/z", SourceKind::Url),
            ("HTTP://x", SourceKind::Url),
            ("https://x/y?file=a.git", SourceKind::Url),
            ("https://x.git", SourceKind::Url),
            ("https://x/y.git", SourceKind::Git),
            ("http://x/y.git?ref=a#b", SourceKind::Git),
            ("ssh://git@x/y", SourceKind::ForeignGit),
            ("git://x/y", SourceKind::ForeignGit),
            ("git@x:y.git#main", SourceKind::ForeignGit),
            ("me@x.example:y", SourceKind::ForeignGit),
            ("ftp://x/y", SourceKind::ForeignUrl),
            ("github.com/x/y.git", SourceKind::Path),
            ("a@b/c:d", SourceKind::Path),
            ("y.git", SourceKind::Path),
            ("a://b", SourceKind::Path),
            ("./https://x", SourceKind::Path),
            ("", SourceKind::Path),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn k15_a_file_has_the_last_name_of_its_url() {
        for (text, expected) in [
            ("https://x/a/b.tar.gz?c=d/e#f/g", "b.tar.gz"),
            ("https://x/a/b/", "b"),
            ("https://x/a%20b", "a b"),
            ("https://x/a%2Fb", "b"),
            ("https://x/a%zz", "a%zz"),
            ("https://x/", UNNAMED),
            ("https://x", UNNAMED),
            ("https://x?a", UNNAMED),
            ("https://x/%2e%2e", UNUSABLE),
            ("https://x/a%0ab", UNUSABLE),
        ] {
            assert_eq!(file(text, None).map(|file| file.name).as_deref(), Ok(expected), "{text}");
        }
        assert!(file("https:///a", None).is_err());
    }

    #[test]
    fn k15_users_and_passwords_are_not_shown() {
        for (text, expected) in [
            ("ADD https://ada:p@ss@x/y ssh://git@z /a@b", "ADD https://x/y ssh://z /a@b"),
            ("ADD https://${USER}:${TOKEN}@x/y?a=b@c /", "ADD https://x/y?a=b@c /"),
            ("ADD git@x:y https://x a@b", "ADD git@x:y https://x a@b"),
            ("://", "://"),
        ] {
            assert_eq!(without_userinfo(text), expected);
        }
    }

    #[track_caller]
    fn check(text: &str, change: impl FnOnce(&mut RemoteRepository)) {
        let mut expected = repository("https://x/y.git").unwrap();
        change(&mut expected);
        assert_eq!(repository(text), Ok(expected), "{text}");
    }

    #[test]
    fn k15_fragments_and_queries_of_repositories() {
        check("https://x/y.git#v1", |expected| expected.reference = "v1".into());
        check("https://x/y.git#a/b:/c/../d/", |expected| {
            (expected.reference, expected.sub_directory) = ("a/b".into(), "d".into());
        });
        check("https://x/y.git#:docs", |expected| expected.sub_directory = "docs".into());
        check("https://x/y.git?tag=v1&subdir=d", |expected| {
            (expected.reference, expected.sub_directory) = ("refs/tags/v1".into(), "d".into());
        });
        check("https://x/y.git?branch=refs/heads/a", |expected| expected.reference = "refs/heads/a".into());
        check("https://x/y.git?ref=a#a", |expected| expected.reference = "a".into());
        check("https://x/y.git?keep-git-dir&submodules=false&mtime=commit", |expected| {
            (expected.keep_git_directory, expected.submodules, expected.commit_time) = (true, false, true);
        });
        check("https://x/y.git?commit=ABC123", |expected| expected.checksum = Some("abc123".into()));
    }

    #[test]
    fn k15_what_a_query_cannot_mean_is_told() {
        for (query, expected) in [
            ("ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("ref", "query \"ref\" has no value"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("tag=a#a", "ref conflicts: \"a\" vs \"refs/tags/a\""),
            ("depth=1", "unexpected query \"depth\""),
            ("submodules=maybe", "invalid submodules value: \"maybe\""),
            ("mtime=now", "invalid mtime value: \"now\" (must be \"checkout\" or \"commit\")"),
            ("checksum=xyz", "invalid checksum \"xyz\" for a Git source, expected the digits of a commit"),
            ("fetch-by-commit", "fetch-by-commit needs a checksum with all 40 digits of a commit"),
        ] {
            assert_eq!(repository(&format!("https://x/y.git?{query}")), Err(expected.to_owned()), "{query}");
        }
        let mut known = repository("https://x/y.git?checksum=abc").unwrap();
        assert_eq!(known.set_checksum("abd"), Err("checksum mismatch \"abd\" != \"abc\"".into()));
    }
}
