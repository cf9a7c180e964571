//! A reader comes in, and the digest of its bytes comes out.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::image::digest::Digest;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Reads to the end.
pub(crate) fn hash(reader: impl Read) -> io::Result<Digest> {
    hash_with(reader, &mut vec![0; PIECE_BYTES])
}

/// Reads to the end, with a buffer that serves for many files.
pub(crate) fn hash_with(mut reader: impl Read, buffer: &mut [u8]) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(Digest::from_hasher(hasher)),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
