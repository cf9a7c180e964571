//! Checksums that people give: `sha256:…`, `sha384:…`, `sha512:…` come in, and the bytes of a file, piece by piece; whether
//! they fit comes out.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// What a file must hash to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// Says why a text is no checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a checksum such as sha256:e3b0c442… (sha256, sha384 or sha512, and all digits in lower case)")]
pub struct InvalidChecksum(String);

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Checksum {
    type Err = InvalidChecksum;

    fn from_str(text: &str) -> Result<Self, InvalidChecksum> {
        let invalid = || InvalidChecksum(text.chars().take(200).collect());
        let (name, hex) = text.split_once(':').ok_or_else(invalid)?;
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(invalid)?;
        let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != algorithm.digits() || !hex.bytes().all(plain) {
            return Err(invalid());
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Hashes a file as a checksum asks for.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// For `sha256:…`.
    Sha256(Sha256),
    /// For `sha384:…`.
    Sha384(Sha384),
    /// For `sha512:…`.
    Sha512(Sha512),
}

impl Hasher {
    /// Starts a hash of the kind that the checksum is.
    pub fn of_kind(checksum: &Checksum) -> Self {
        match checksum.algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns what all bytes hash to.
    pub fn finish(self) -> Checksum {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::Sha384(hasher) => (Algorithm::Sha384, hasher.finalize().to_vec()),
            Self::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        let mut hex = String::with_capacity(algorithm.digits());
        for byte in bytes {
            for digit in [byte >> 4, byte & 0xf] {
                hex.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        Checksum { algorithm, hex }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k15_three_algorithms_are_known_and_print_as_they_parse() {
        for (name, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            let text = format!("{name}:{}", "0a".repeat(digits / 2));
            let checksum: Checksum = text.parse().unwrap();
            assert_eq!(checksum.to_string(), text);
            let mut hasher = Hasher::of_kind(&checksum);
            hasher.update(b"a");
            hasher.update(b"bc");
            let found = hasher.finish().to_string();
            assert_eq!((found.split_once(':').unwrap().0, found.len()), (name, text.len()));
            assert!(found.contains(match name {
                "sha256" => "ba7816bf8f01cfea",
                "sha384" => "cb00753f45a35e8b",
                _ => "ddaf35a193617aba",
            }));
        }
    }

    #[test]
    fn k15_what_is_no_checksum_is_refused() {
        let zeros = "0".repeat(64);
        for text in ["", "sha256:", "sha256:00", &zeros, &format!("md5:{zeros}"), &format!("sha256:{}A", &zeros[1..])] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
    }
}
