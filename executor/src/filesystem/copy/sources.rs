//! Which paths of the source a COPY means: literal ones, wildcards, and the parts behind a `--parents` pivot.

use super::{CopyError, glob::Pattern};
use crate::filesystem::{
    path::TreePath,
    view::{Directory, Node, View},
};

/// What a source stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// A path; whether it exists is not checked.
    Literal(TreePath),
    /// The matches of a wildcard, sorted, none below another.
    Matches(Vec<TreePath>),
}

impl Selection {
    /// Takes the paths, in the order in which they are copied.
    pub(super) fn into_paths(self) -> Vec<TreePath> {
        match self {
            Self::Literal(path) => vec![path],
            Self::Matches(paths) => paths,
        }
    }
}

/// Finds what a source of a plain COPY stands for. Symlinks before the first wildcard are followed, and none behind it.
pub(super) fn select(source: &View, text: &str) -> Result<Selection, CopyError> {
    let path = TreePath::clean(text.as_bytes());
    let names: Vec<&[u8]> = path.components().collect();
    let Some(first) = names.iter().position(|name| Pattern::is_wildcard(name)) else {
        return Ok(Selection::Literal(literal(source, path)));
    };
    let (fixed, wild) = names.split_at(first);
    let Ok(start) = source.resolve(&fixed.join(&b'/'), &TreePath::ROOT) else {
        return Ok(Selection::Matches(Vec::new()));
    };
    Ok(Selection::Matches(expand(source, start.path, &parse(text, wild)?)))
}

/// Splits a source of `COPY --parents` at its pivot `/./` and finds what the part behind it stands for, relative to the pivot.
/// There `**` is any number of directories. A literal that is missing is an error.
pub(super) fn select_below_pivot(source: &View, text: &str) -> Result<(TreePath, Selection), CopyError> {
    let (pivot, rest) = text.split_once("/./").unwrap_or(("", text));
    let missing = || CopyError::Missing { path: TreePath::clean(text.as_bytes()) };
    let pivot = source.resolve(TreePath::clean(pivot.as_bytes()).as_bytes(), &TreePath::ROOT);
    let pivot = pivot.map_err(CopyError::Unresolved)?;
    if !pivot.node.is_some_and(Node::is_directory) {
        return Err(missing());
    }
    let path = TreePath::clean(rest.as_bytes());
    let names: Vec<&[u8]> = path.components().collect();
    if !names.iter().any(|name| Pattern::is_wildcard(name)) {
        source.get(&pivot.path.join(path.as_bytes())).ok_or_else(missing)?;
        return Ok((pivot.path, Selection::Literal(path)));
    }
    let patterns: Vec<Component> = parse(text, &names)?
        .into_iter()
        .zip(&names)
        .map(|(component, name)| if *name == b"**" { Component::AnyDirectories } else { component })
        .collect();
    let matches = expand(source, pivot.path.clone(), &patterns);
    let relative = matches.iter().filter_map(|path| path.relative_to(&pivot.path)).collect();
    Ok((pivot.path, Selection::Matches(relative)))
}

/// A path without wildcards. Backslashes are part of the name if there is such a name, and escapes if not.
fn literal(source: &View, path: TreePath) -> TreePath {
    let exists = source.resolve(path.as_bytes(), &TreePath::ROOT).is_ok_and(|resolved| resolved.node.is_some());
    if exists || !path.as_bytes().contains(&b'\\') {
        return path;
    }
    let mut unescaped = Vec::with_capacity(path.as_bytes().len());
    let mut bytes = path.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        unescaped.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    TreePath::clean(&unescaped)
}

/// One component of a wildcard.
enum Component {
    /// A pattern for one name.
    Name(Pattern),
    /// `**`
    AnyDirectories,
}

fn parse(text: &str, names: &[&[u8]]) -> Result<Vec<Component>, CopyError> {
    let bad = || CopyError::BadPattern { pattern: text.to_owned() };
    names.iter().map(|name| Pattern::parse(name).map(Component::Name).ok_or_else(bad)).collect()
}

/// Finds the entries that match, one component after the other.
fn expand(source: &View, start: TreePath, components: &[Component]) -> Vec<TreePath> {
    let mut found = vec![start];
    for (position, component) in components.iter().enumerate() {
        let is_last = position + 1 == components.len();
        let mut next = Vec::new();
        for path in &found {
            match component {
                Component::Name(pattern) => {
                    let directory = source.get(path).and_then(Node::as_directory);
                    let children = directory.into_iter().flat_map(Directory::children);
                    next.extend(children.filter(|(name, _)| pattern.matches(name)).map(|(name, _)| path.child(name)));
                }
                Component::AnyDirectories => next.extend(
                    source
                        .walk(path)
                        .filter(|(below, node)| if is_last { below != path } else { node.is_directory() })
                        .map(|(below, _)| below),
                ),
            }
        }
        next.sort();
        next.dedup();
        found = next;
    }
    // A directory that matches brings everything below it.
    let mut outermost: Vec<TreePath> = Vec::new();
    for path in found {
        if !outermost.last().is_some_and(|last| path.starts_with(last)) {
            outermost.push(path);
        }
    }
    outermost
}
