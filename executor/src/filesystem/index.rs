//! The index of a layer: everything that the layer's tar stream says, without the files' bytes.
//!
//! Its text is JSON. That files lie in the layer, under their own path, goes without saying there: an index cannot point
//! elsewhere, whoever wrote it.

use serde::{Deserialize, Serialize};

use super::entry::{Action, Change, Kind, Location};
use crate::image::digest::Digest;

/// What one layer does, in the order of its tar stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Text")]
pub struct Index {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The changes. Files carry their content's digest and a location in this layer, or their bytes where rules need them.
    pub changes: Vec<Change>,
}

impl Index {
    /// Makes the index of the layer with this diffID. Files that lie in a layer lie in this one.
    pub fn new(diff_id: Digest, mut changes: Vec<Change>) -> Self {
        for Change { path, action } in &mut changes {
            if let Action::Put(_, Kind::File(content)) = action
                && let Location::Layer(layer, place) = &mut content.location
            {
                (*layer, *place) = (diff_id.clone(), path.clone());
            }
        }
        Self { diff_id, changes }
    }
}

/// An index as it is written down.
#[derive(Deserialize)]
struct Text {
    diff_id: Digest,
    changes: Vec<Change>,
}

impl From<Text> for Index {
    fn from(Text { diff_id, changes }: Text) -> Self {
        Self::new(diff_id, changes)
    }
}

/// Files whose bytes an index carries (up to [`INLINE_BYTES_MAX`]), so that names in `--chown` and `USER` resolve without unpacking.
pub const INLINE_PATHS: [&str; 2] = ["etc/passwd", "etc/group"];

/// The largest file that an index carries whole: 1 MiB.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::{
        entry::{FileContent, Metadata},
        path::TreePath,
    };

    fn file(path: &str, location: Location) -> Change {
        let content = FileContent { size: 1, digest: Some(Digest::of(b"x")), location };
        let action = Action::Put(Metadata::default(), Kind::File(content));
        Change { path: TreePath::clean(path.as_bytes()), action }
    }

    #[test]
    fn the_text_says_nothing_of_where_a_layer_has_its_files() {
        let index = Index::new(
            Digest::of(b"layer"),
            vec![file("a/b", Location::unknown()), file("etc/passwd", Location::Inline(b"root\xff".as_slice().into()))],
        );
        let text = serde_json::to_string(&index).unwrap();
        assert_eq!((text.matches("a/b").count(), text.matches(&index.diff_id.hex()).count()), (1, 1), "{text}");
        let read: Index = serde_json::from_str(&text).unwrap();
        assert_eq!(read, index);
        let Action::Put(_, Kind::File(content)) = &read.changes[0].action else { panic!("{read:?}") };
        assert_eq!(content.location, Location::Layer(index.diff_id, read.changes[0].path.clone()));
    }

    #[test]
    fn a_file_that_is_elsewhere_cannot_be_written_down() {
        let index =
            Index { diff_id: Digest::of(b"layer"), changes: vec![file("a", Location::Spool("/etc/shadow".into()))] };
        assert!(serde_json::to_string(&index).is_err());
    }
}
