//! COPY and ADD: the instruction and the state of its stage come in, what to copy comes out, every word expanded. Sources
//! that this program does not reach, and operands that are ambiguous, are refused.

use karve_dockerfile::{
    ast::{Heredoc, Transfer, TransferSource, Word},
    chmod::Chmod,
    diagnostic::{Fault, Problem},
};

use super::{
    arguments::Expansion,
    graph::{Copy, From, Source},
    remote::{self, Remote, SourceKind},
    stage::{Scope, State},
};
use crate::image::checksum::InvalidChecksum;

/// Makes the copy and the text for the history. `add` is for ADD.
pub(super) fn plan(
    state: &State,
    scope: &Scope<'_>,
    transfer: &Transfer,
    add: bool,
) -> Result<(Copy, String), Problem> {
    let name = if add { "ADD" } else { "COPY" };
    let expansion = state.expansion(scope);
    let expanded = |word: &Word| expansion.word(word);
    let checksum = transfer.checksum.as_ref().map(expanded).transpose()?.filter(|text| !text.is_empty());
    let mut sources = Vec::with_capacity(transfer.sources.len());
    for source in &transfer.sources {
        sources.push(match source {
            TransferSource::Path(word) => {
                let text = expanded(word)?;
                let flags = Flags { transfer, checksum: checksum.as_deref() };
                source_of(word, text, flags, add)?
            }
            TransferSource::Heredoc(heredoc) => inline(expansion, heredoc)?,
        });
    }
    check_checksum(transfer, checksum.as_deref(), &sources)?;
    // Heredocs come last, as in BuildKit: where both have a name, the heredoc wins.
    sources.sort_by_key(|source| matches!(source, Source::Inline { .. }));
    let destination = expanded(&transfer.destination)?;
    if sources.len() > 1 && !is_directory(&destination) {
        let message = format!(
            "with more than one source, the destination of {name} must be a directory and end with /: \"{destination}\""
        );
        let hint = format!("write \"{destination}/\"");
        return Err(Problem::new(transfer.destination.span, message).hint(hint));
    }
    let chown = transfer.chown.as_ref().map(expanded).transpose()?.filter(|owner| !owner.is_empty());
    let chmod = match &transfer.chmod {
        Some(word) => Some(expanded(word)?).filter(|mode| !mode.is_empty()),
        None => None,
    };
    if let (Some(mode), Some(word)) = (&chmod, &transfer.chmod) {
        Chmod::parse(mode).map_err(|error| Problem::new(word.span, error.to_string()))?;
    }
    let copy = Copy {
        from: transfer.from.as_ref().map_or(Ok(From::Context), |word| scope.from(word))?,
        sources,
        destination,
        working_directory: super::config::working_directory(&state.config),
        chown,
        chmod,
        exclude: transfer.exclude.iter().map(|word| word.text.clone()).collect(),
        parents: transfer.parents,
        link: transfer.link,
        unpack: add && transfer.unpack.unwrap_or(true),
        unpack_remote: add && transfer.unpack == Some(true),
    };
    let text = history(name, &copy);
    Ok((copy, text))
}

/// The text for the history, as BuildKit writes it.
fn history(name: &str, copy: &Copy) -> String {
    let mut text = name.to_owned();
    let mut push = |word: &str| {
        text.push(' ');
        text.push_str(word);
    };
    if copy.parents {
        push("--parents");
    }
    if let Some(owner) = &copy.chown {
        push(&format!("--chown={owner}"));
    }
    if let Some(mode) = &copy.chmod {
        push(&format!("--chmod={mode}"));
    }
    for source in &copy.sources {
        match source {
            Source::Path(text) | Source::Remote { text, .. } => push(text),
            Source::Inline { name, .. } => push(&format!("<<{name}")),
        }
    }
    push(&copy.destination);
    push("# buildkit");
    text
}

/// Makes a file of a heredoc.
fn inline(expansion: Expansion<'_>, heredoc: &Heredoc) -> Result<Source, Problem> {
    let content = heredoc.content();
    let content = if heredoc.expand { expansion.body(&content, heredoc.span)? } else { content };
    Ok(Source::Inline { name: heredoc.name.clone(), content: content.into_bytes().into() })
}

/// Whether a destination says that it is a directory.
fn is_directory(destination: &str) -> bool {
    let last = destination.rsplit('/').next().unwrap_or_default();
    matches!(last, "" | "." | "..")
}

/// The flags of ADD that sources from elsewhere heed.
#[derive(Clone, Copy)]
struct Flags<'a> {
    transfer: &'a Transfer,
    checksum: Option<&'a str>,
}

/// Finds out what a source is.
fn source_of(word: &Word, text: String, flags: Flags<'_>, add: bool) -> Result<Source, Problem> {
    let wrong = |message: String| Problem::new(word.span, message);
    let kind = remote::kind(&text);
    if !add {
        return match kind {
            SourceKind::Path => Ok(Source::Path(text)),
            SourceKind::Url | SourceKind::ForeignUrl => Err(wrong("source can't be a URL for COPY".into())),
            SourceKind::Git | SourceKind::ForeignGit => Err(wrong("source can't be a git ref for COPY".into())),
        };
    }
    let remote = match kind {
        SourceKind::Path => return Ok(Source::Path(text)),
        SourceKind::ForeignUrl => {
            let problem = wrong("ADD of a URL that is neither https:// nor http:// is not supported".into());
            return Err(problem.fault(Fault::Unsupported));
        }
        SourceKind::ForeignGit => {
            let problem = wrong("ADD of a Git repository over ssh:// or git:// is not supported".into());
            let hint = "name it by https://, with a token as --secret id=GIT_AUTH_TOKEN,src=FILE if it is not public";
            return Err(problem.hint(hint).fault(Fault::Unsupported));
        }
        SourceKind::Url => {
            let checksum = flags.checksum.map(str::parse).transpose();
            let checksum = checksum.map_err(|error: InvalidChecksum| flags.wrong_checksum(word, error.to_string()))?;
            Remote::Url(remote::file(&text, checksum).map_err(wrong)?)
        }
        SourceKind::Git => {
            let mut repository = remote::repository(&text).map_err(wrong)?;
            if let Some(checksum) = flags.checksum {
                repository.set_checksum(checksum).map_err(|message| flags.wrong_checksum(word, message))?;
            }
            repository.keep_git_directory |= flags.transfer.keep_git_directory.is_some();
            Remote::Git(repository)
        }
    };
    Ok(Source::Remote { text, remote })
}

impl Flags<'_> {
    /// Puts a problem of `--checksum` where the flag is.
    fn wrong_checksum(&self, source: &Word, message: String) -> Problem {
        Problem::new(self.transfer.checksum.as_ref().map_or(source.span, |word| word.span), message)
    }
}

/// Refuses a checksum that is for several sources, or for local ones.
fn check_checksum(transfer: &Transfer, checksum: Option<&str>, sources: &[Source]) -> Result<(), Problem> {
    let (Some(word), Some(_)) = (&transfer.checksum, checksum) else { return Ok(()) };
    match sources {
        [Source::Remote { .. }] => Ok(()),
        [_] => Err(Problem::new(word.span, "checksum requires HTTP(S) or Git sources")),
        _ => Err(Problem::new(word.span, "checksum can't be specified for multiple sources")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k3_a_directory_ends_with_a_slash_or_is_a_dot() {
        for destination in ["/a/", ".", "./", "..", "a/.", ""] {
            assert!(is_directory(destination), "{destination}");
        }
        for destination in ["/a", "a/b", "a."] {
            assert!(!is_directory(destination), "{destination}");
        }
    }
}
