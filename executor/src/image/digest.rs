//! Content digests: `sha256:` and 64 lower-case hexadecimal digits (OCI image-spec, descriptor.md, "Digests").

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Identifies content by its SHA-256 hash; parsing refuses every other algorithm and form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Hashes a sequence of fields, each behind its length: no two sequences look alike, whatever is in them.
#[derive(Clone, Debug, Default)]
pub struct FieldHasher(Sha256);

impl FieldHasher {
    /// Adds a field.
    pub fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds a number, as a field of eight bytes.
    pub fn number(&mut self, number: u64) {
        self.field(&number.to_le_bytes());
    }

    /// Adds how many fields follow, and the fields.
    pub fn list<'a>(&mut self, fields: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.number(fields.len() as u64);
        fields.for_each(|field| self.field(field));
    }

    /// Returns the hash.
    pub fn finish(self) -> Digest {
        Digest::from_hasher(self.0)
    }
}

/// Says what is wrong with a digest's text.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest of the form sha256:<64 lower-case hexadecimal digits>")]
pub struct InvalidDigest(String);

impl Digest {
    /// Hashes bytes that are already in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a finished SHA-256 hash.
    pub const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Takes the result of a running hash.
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Returns the 64 hexadecimal digits without the algorithm.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
            text
        })
    }

    /// Returns the raw hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(text.chars().take(100).collect());
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or_else(invalid)?;
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            });
            *byte = high.ok_or_else(invalid)? << 4 | low.ok_or_else(invalid)?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, valid: bool) {
        match text.parse::<Digest>() {
            Ok(digest) => assert!(valid && digest.to_string() == text, "{text}"),
            Err(error) => assert!(!valid, "{error}"),
        }
    }

    #[test]
    fn fields_that_are_joined_otherwise_hash_otherwise() {
        let hash = |fields: &[&str]| {
            let mut hasher = FieldHasher::default();
            hasher.list(fields.iter().map(|field| field.as_bytes()));
            hasher.finish()
        };
        let all = [hash(&["ab", "c"]), hash(&["a", "bc"]), hash(&["abc"]), hash(&["abc", ""]), hash(&[])];
        for (position, one) in all.iter().enumerate() {
            assert!(!all[position + 1..].contains(one), "{position}");
        }
    }

    #[test]
    fn only_canonical_sha256_digests_parse() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        check(&format!("sha256:{hex}"), true);
        check(&format!("sha256:{}", hex.to_uppercase()), false);
        check(&format!("sha512:{hex}"), false);
        check(&format!("sha256:{hex}0"), false);
        check(hex, false);
        check("sha256:", false);
        assert_eq!(Digest::of(b"").hex(), hex);
    }
}
