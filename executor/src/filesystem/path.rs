//! Paths inside an image or a build context.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

/// A normalised path relative to the root of a tree: bytes without a leading or trailing slash and without empty, `.` or
/// `..` components. The root is the empty path. A parent sorts before its children, and these before its next sibling.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct TreePath(#[serde(with = "lossless")] Vec<u8>);

impl TreePath {
    /// The root of the tree.
    pub const ROOT: Self = Self(Vec::new());

    /// Cleans a path as if it stood below the root: `..` at the root stays at the root.
    pub fn clean(text: &[u8]) -> Self {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in text.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        Self(parts.join(&b'/'))
    }

    /// Appends a path, cleaning the result.
    #[must_use]
    pub fn join(&self, tail: &[u8]) -> Self {
        Self::clean(&[&self.0[..], tail].join(&b'/'))
    }

    /// Appends one component that is known to be a plain name.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        if self.is_root() { Self(name.to_vec()) } else { Self([&self.0[..], name].join(&b'/')) }
    }

    /// Returns the bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the directory above, or `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(self.0.iter().rposition(|byte| *byte == b'/').map_or(Self::ROOT, |slash| Self(self.0[..slash].to_vec())))
    }

    /// Returns the last component, or an empty name for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Iterates over the components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// Returns the rest of this path below `base`: the root for `base` itself, `None` outside of it.
    pub fn relative_to(&self, base: &Self) -> Option<Self> {
        if base.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(&base.0[..])?;
        if rest.is_empty() { Some(Self::ROOT) } else { Some(Self(rest.strip_prefix(b"/")?.to_vec())) }
    }

    /// Whether this is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&other.0[..]).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Byte strings in JSON: text where they are UTF-8, else an array of numbers.
pub mod lossless {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form<'a> {
        Text(std::borrow::Cow<'a, str>),
        Bytes(std::borrow::Cow<'a, [u8]>),
    }

    /// Writes the bytes.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Form::Text(text.into()).serialize(serializer),
            Err(_) => Form::Bytes(bytes.into()).serialize(serializer),
        }
    }

    /// Reads what [`serialize`] wrote.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_owned().into_bytes(),
            Form::Bytes(bytes) => bytes.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leaves_the_root() {
        for (text, cleaned) in [("", "/"), ("/", "/"), ("a//b/./c/", "/a/b/c"), ("../../a", "/a"), ("a/../../b", "/b")]
        {
            assert_eq!(TreePath::clean(text.as_bytes()).to_string(), cleaned, "{text}");
        }
    }

    #[test]
    fn parents_sort_before_children_and_children_before_siblings() {
        let mut paths = ["a-b", "a/b", "a", "", "a.b"].map(|text| TreePath::clean(text.as_bytes()));
        paths.sort();
        assert_eq!(paths.map(|path| path.to_string()), ["/", "/a", "/a/b", "/a-b", "/a.b"]);
    }
}
