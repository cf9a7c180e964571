//! The hash over a set of files that the operator puts into a build key and the `context` container compares with
//! what was really mounted. In: (path, content) pairs in any order; out: `sha256:<hex>`. Modes and times are left out,
//! because a ConfigMap has none.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The first bytes of every hash; raised when the encoding changes.
const FORMAT: &[u8] = b"karve-files-v1\0";

/// Returns the SHA-256 over the given files, sorted by path, each path and content framed by its length.
///
/// The frame (eight bytes, big endian) keeps `("ab", "c")` and `("a", "bc")` apart. Paths are relative and use `/`; a
/// path that occurs twice is hashed twice, in the order given. The result is `sha256:` and 64 lower-case hex digits.
pub fn files_hash<P, B>(files: impl IntoIterator<Item = (P, B)>) -> String
where
    P: AsRef<str>,
    B: AsRef<[u8]>,
{
    let mut files: Vec<(P, B)> = files.into_iter().collect();
    files.sort_by(|left, right| left.0.as_ref().cmp(right.0.as_ref()));
    let mut hasher = Sha256::new();
    hasher.update(FORMAT);
    for (path, content) in &files {
        frame(&mut hasher, path.as_ref().as_bytes());
        frame(&mut hasher, content.as_ref());
    }
    hasher.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn frame(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::files_hash;

    #[test]
    fn order_does_not_matter() {
        assert_eq!(files_hash([("a", "1"), ("b/c", "2")]), files_hash([("b/c", "2"), ("a", "1")]));
    }

    #[test]
    fn frames_keep_neighbours_apart() {
        assert_ne!(files_hash([("ab", "c")]), files_hash([("a", "bc")]));
        assert_ne!(files_hash([("a", ""), ("b", "")]), files_hash([("a", "")]));
    }

    #[test]
    fn the_encoding_is_fixed() {
        assert_eq!(
            files_hash([("Dockerfile", "FROM scratch\n")]),
            "sha256:71f65ce0621739697d706cb3067259f552d8ab276a941bd2d4234d934311f7db"
        );
    }
}
