//! A reader comes in, and the digest of its bytes comes out; a copy too, if it is wanted.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::image::digest::Digest;

/// Bytes that are read at once.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// Reads to the end.
pub(crate) fn hash(reader: impl Read) -> io::Result<Digest> {
    hash_with(reader, &mut vec![0; PIECE_BYTES])
}

/// Reads to the end, with a buffer that serves for many files.
pub(crate) fn hash_with(reader: impl Read, buffer: &mut [u8]) -> io::Result<Digest> {
    copy(reader, io::sink(), buffer)
}

/// Reads to the end, and writes what it reads.
pub(crate) fn copy(mut reader: impl Read, mut writer: impl Write, buffer: &mut [u8]) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(Digest::from_hasher(hasher)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                writer.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
