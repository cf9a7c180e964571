//! `--build-context NAME=VALUE`: the flags come in; what the plan replaces, and where the files are, comes out.

use super::{ContextSource, OptionsError, invalid};
use crate::{
    image::reference::Reference,
    plan::{
        contexts::{Contexts, NamedContext},
        remote::{self, Remote, SourceKind},
    },
};

/// What a value may be.
const KINDS: &str = "docker-image://, oci-layout://, https://, http:// or a directory";

/// Reads the flags.
pub(super) fn read(specs: &[String]) -> Result<(Contexts, Vec<(String, ContextSource)>), OptionsError> {
    let (mut named, mut files) = (Contexts::default(), Vec::new());
    for spec in specs {
        let wrong = |problem: String| invalid("build-context", &remote::without_userinfo(spec), problem);
        let (name, value) = spec.split_once('=').unwrap_or((spec, ""));
        if name.is_empty() || value.is_empty() {
            return Err(wrong("is not of the form NAME=VALUE".into()));
        }
        let context = if let Some(image) = image(value).map_err(wrong)? {
            NamedContext::Image(image)
        } else {
            files.push((name.to_owned(), source(value).map_err(wrong)?));
            NamedContext::Files(files.len())
        };
        named.insert(name, context).map_err(wrong)?;
    }
    Ok((named, files))
}

/// Returns the image that a value names, if it does; fails with the end of a sentence about the value.
fn image(value: &str) -> Result<Option<String>, String> {
    match value.split_once("://") {
        Some(("docker-image", image)) => match image.parse::<Reference>() {
            Ok(_) => Ok(Some(image.to_owned())),
            Err(error) => Err(format!("names no image: {error}")),
        },
        Some(("oci-layout", "")) => Err("lacks the path of the layout".into()),
        Some(("oci-layout", layout)) => Ok(Some(format!("oci-layout:{layout}"))),
        _ => Ok(None),
    }
}

/// Returns where the files are that a value names.
fn source(value: &str) -> Result<ContextSource, String> {
    match remote::kind(value) {
        SourceKind::Git => {
            let repository = remote::repository(value)?;
            if repository.commit_time {
                return Err("asks for the times of commits, which named contexts do not have: leave `mtime` out".into());
            }
            Ok(ContextSource::Remote(Remote::Git(repository)))
        }
        SourceKind::Url => Ok(ContextSource::Remote(Remote::Url(remote::file(value, None)?))),
        SourceKind::ForeignGit => Err("is a git repository that is not at https:// or http://".into()),
        SourceKind::ForeignUrl => Err(format!("is none of {KINDS}")),
        SourceKind::Path => match value.split_once("://") {
            None => Ok(ContextSource::Directory(value.into())),
            Some(("dir", path)) => Ok(ContextSource::Directory(path.into())),
            Some(_) => Err(format!("is none of {KINDS}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(specs: &[&str]) -> Result<(Contexts, Vec<(String, ContextSource)>), String> {
        let specs: Vec<String> = specs.iter().map(|spec| (*spec).to_owned()).collect();
        super::read(&specs).map_err(|error| error.to_string())
    }

    #[test]
    fn f7_named_contexts_are_images_or_files() {
        let git = "https://x.example/y.git#v1:docs";
        let (contexts, files) = read(&[
            "a=docker-image://debian",
            "b=x",
            "c=oci-layout:///l:tag",
            "d=dir:///y",
            &format!("e={git}"),
            "f=https://x.example/file?a=b",
        ])
        .unwrap();
        let mut named = Contexts::default();
        for (name, context) in [
            ("a", NamedContext::Image("debian".into())),
            ("b", NamedContext::Files(1)),
            ("c", NamedContext::Image("oci-layout:/l:tag".into())),
            ("d", NamedContext::Files(2)),
            ("e", NamedContext::Files(3)),
            ("f", NamedContext::Files(4)),
        ] {
            named.insert(name, context).unwrap();
        }
        assert_eq!(contexts, named);
        let repository = Remote::Git(remote::repository(git).unwrap());
        let file = Remote::Url(remote::file("https://x.example/file?a=b", None).unwrap());
        let expected = [
            ("b", ContextSource::Directory("x".into())),
            ("d", ContextSource::Directory("/y".into())),
            ("e", ContextSource::Remote(repository)),
            ("f", ContextSource::Remote(file)),
        ];
        assert_eq!(files, expected.map(|(name, source)| (name.to_owned(), source)));
    }

    #[test]
    fn f7_mistakes_are_named() {
        let refused = |spec: &str, problem: &str| {
            assert_eq!(read(&[spec]), Err(format!("--build-context: `{spec}` {problem}")));
        };
        refused("a", "is not of the form NAME=VALUE");
        refused("=a", "is not of the form NAME=VALUE");
        refused("scratch=/x", "has the name `scratch`, which cannot be replaced");
        refused("a=s3://b", &format!("is none of {KINDS}"));
        refused("a=git@host:x.git", "is a git repository that is not at https:// or http://");
        refused("a=https://x/y.git?depth=1", "unexpected query \"depth\"");
        refused(
            "a=https://x/y.git?mtime=commit",
            "asks for the times of commits, which named contexts do not have: leave `mtime` out",
        );
        let secret = read(&["a=https://ada:hunter2@x/y.git?depth=1"]).unwrap_err();
        assert!(secret.contains("https://x/y.git") && !secret.contains("hunter2"), "{secret}");
        refused("a=oci-layout://", "lacks the path of the layout");
        assert!(read(&["a=docker-image://UPPER"]).unwrap_err().contains("names no image"));
    }
}
