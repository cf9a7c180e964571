//! Paths inside an image or a build context.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A normalised path relative to the root of a tree: bytes without a leading or trailing slash and without empty, `.` or
/// `..` components. The root is the empty path. A parent sorts before its children, and these before its next sibling.
///
/// Clones share their bytes: a million files have each of their paths once, wherever it is kept. The root has none.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Option<Arc<[u8]>>);

impl TreePath {
    /// The root of the tree.
    pub const ROOT: Self = Self(None);

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
        Self::new(&parts.join(&b'/'))
    }

    /// Whether this is as [`TreePath::clean`] leaves it. Only a path that was read from somewhere may not be.
    pub fn is_normal(&self) -> bool {
        self.is_root() || self.as_bytes().split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
    }

    /// Takes bytes as they are. From elsewhere they may not be normal.
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self((!bytes.is_empty()).then(|| bytes.into()))
    }

    /// Appends a path, cleaning the result.
    #[must_use]
    pub fn join(&self, tail: &[u8]) -> Self {
        Self::clean(&[self.as_bytes(), tail].join(&b'/'))
    }

    /// Appends one component that is known to be a plain name.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        if self.is_root() { Self::new(name) } else { Self::new(&[self.as_bytes(), name].join(&b'/')) }
    }

    /// Returns the bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether this is the root.
    pub const fn is_root(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the directory above, or `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.parent_bytes().map(Self::new)
    }

    fn parent_bytes(&self) -> Option<&[u8]> {
        let bytes = self.0.as_deref()?;
        Some(bytes.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &bytes[..slash]))
    }

    /// Whether this and `other` have the same parent.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.parent_bytes() == other.parent_bytes()
    }

    /// Returns the last component, or an empty name for the root.
    pub fn name(&self) -> &[u8] {
        self.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Iterates over the components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// Returns the rest of this path below `base`: the root for `base` itself, `None` outside of it.
    pub fn relative_to(&self, base: &Self) -> Option<Self> {
        if base.is_root() {
            return Some(self.clone());
        }
        let rest = self.as_bytes().strip_prefix(base.as_bytes())?;
        if rest.is_empty() { Some(Self::ROOT) } else { Some(Self::new(rest.strip_prefix(b"/")?)) }
    }

    /// Whether this is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self
                .as_bytes()
                .strip_prefix(other.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other) = (self.as_bytes(), other.as_bytes());
        let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        // A slash comes before every byte of a name, and the end of a path before a slash.
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        one.get(same).map(rank).cmp(&other.get(same).map(rank))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}", self.as_bytes().escape_ascii())
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        lossless::serialize(self.as_bytes(), serializer)
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: Arc<[u8]> = lossless::deserialize(deserializer)?;
        Ok(Self((!bytes.is_empty()).then_some(bytes)))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Byte strings in JSON: text where they are UTF-8, else an array of numbers.
pub mod lossless {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserializer, Serialize, Serializer,
        de::{Error, SeqAccess, Visitor},
    };

    /// Writes the bytes.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => bytes.serialize(serializer),
        }
    }

    /// Reads what [`serialize`] wrote.
    pub fn deserialize<'de, D: Deserializer<'de>, T: for<'a> From<&'a [u8]>>(deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(Bytes(PhantomData))
    }

    struct Bytes<T>(PhantomData<T>);

    impl<'de, T: for<'a> From<&'a [u8]>> Visitor<'de> for Bytes<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("text or an array of bytes")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            Ok(text.as_bytes().into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<T, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = numbers.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes[..].into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn paths_sort_by_their_components(
            one in "[a!\\x00-]{0,3}(/[a!\\x00-]{1,3}){0,3}",
            other in "[a!\\x00-]{0,3}(/[a!\\x00-]{1,3}){0,3}",
        ) {
            let (one, other) = (TreePath::clean(one.as_bytes()), TreePath::clean(other.as_bytes()));
            prop_assert_eq!(one.cmp(&other), one.components().cmp(other.components()));
        }

        #[test]
        fn a_path_is_normal_if_cleaning_leaves_it(text in "[a./]{0,6}") {
            let path = TreePath::new(text.as_bytes());
            prop_assert_eq!(path.is_normal(), TreePath::clean(text.as_bytes()) == path);
        }

        #[test]
        fn paths_with_the_same_parent_are_beside_each_other(one in "[ab]?(/[ab]){0,2}", other in "[ab]?(/[ab]){0,2}") {
            let (one, other) = (TreePath::clean(one.as_bytes()), TreePath::clean(other.as_bytes()));
            prop_assert_eq!(one.is_beside(&other), one.parent() == other.parent());
        }
    }
}
