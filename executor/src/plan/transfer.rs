//! COPY and ADD: the instruction and the state of its stage come in, what to copy comes out, every word expanded. Sources
//! that are not local files, and operands that are ambiguous, are refused.

use karve_dockerfile::{
    ast::{Heredoc, Transfer, TransferSource, Word},
    chmod::Chmod,
    diagnostic::{Fault, Problem},
};

use super::{
    arguments::Expansion,
    graph::{Copy, From, Source},
    stage::{Scope, State},
};

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
    refuse_remote_flags(transfer)?;
    let mut sources = Vec::with_capacity(transfer.sources.len());
    for source in &transfer.sources {
        sources.push(match source {
            TransferSource::Path(word) => {
                let path = expanded(word)?;
                refuse_remote(word, &path, add)?;
                Source::Path(path)
            }
            TransferSource::Heredoc(heredoc) => inline(expansion, heredoc)?,
        });
    }
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
        from: transfer.from.as_ref().map_or(Ok(From::Context), |word| scope.from(word, &state.platform))?,
        sources,
        destination,
        working_directory: super::config::working_directory(&state.config),
        chown,
        chmod,
        exclude: transfer.exclude.iter().map(|word| word.text.clone()).collect(),
        parents: transfer.parents,
        link: transfer.link,
        unpack: add && transfer.unpack.unwrap_or(true),
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
            Source::Path(path) => push(path),
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

/// Refuses flags that only make sense for sources from elsewhere.
fn refuse_remote_flags(transfer: &Transfer) -> Result<(), Problem> {
    let remote = "needs a URL or a Git repository as source, which this version does not support";
    if let Some(word) = &transfer.checksum {
        return Err(Problem::new(word.span, format!("ADD --checksum {remote}")));
    }
    match transfer.keep_git_directory {
        Some(span) => Err(Problem::new(span, format!("ADD --keep-git-dir {remote}"))),
        None => Ok(()),
    }
}

/// Refuses sources from elsewhere.
fn refuse_remote(word: &Word, path: &str, add: bool) -> Result<(), Problem> {
    let lower = path.to_ascii_lowercase();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| lower.starts_with(prefix));
    let url = starts(&["http://", "https://", "ftp://"]);
    let repository = lower.split(['#', '?']).next().is_some_and(|address| address.rsplit('.').next() == Some("git"));
    let git = starts(&["git://", "ssh://", "git@"]) || (url && repository);
    let (message, fault) = match (git, url, add) {
        (false, false, _) => return Ok(()),
        (true, _, false) => ("source can't be a git ref for COPY", Fault::Mistake),
        (false, true, false) => ("source can't be a URL for COPY", Fault::Mistake),
        (true, _, true) => ("ADD of a Git repository is not supported by this version", Fault::Unsupported),
        (false, true, true) => ("ADD of a URL is not supported by this version", Fault::Unsupported),
    };
    Err(Problem::new(word.span, message).fault(fault))
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
