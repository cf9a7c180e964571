//! The encoding that SSH uses everywhere (RFC 4251, section 5): numbers in big-endian, strings behind their length.

/// What is left of some bytes while they are read. Every method returns `None` where they end too early.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads that many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a number of 32 bits.
    pub(super) fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// Reads a number of any size that is not negative, as its bytes without leading zeros.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        self.string().map(without_zeros)
    }
}

/// Takes leading zeros off a number.
pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Appends a string.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    // Nothing here comes near 4 GiB: messages and keys are bounded where they are read.
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text);
}

/// Appends a number that is not negative.
pub(super) fn put_integer(out: &mut Vec<u8>, number: &[u8]) {
    let mut number = without_zeros(number).to_vec();
    if number.first().is_some_and(|byte| *byte >= 0x80) {
        number.insert(0, 0);
    }
    put_string(out, &number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        put_string(&mut bytes, b"text");
        put_integer(&mut bytes, &[0, 0, 0x80, 1]);
        assert_eq!(bytes, [0, 0, 0, 4, b't', b'e', b'x', b't', 0, 0, 0, 3, 0, 0x80, 1]);
        let mut reader = Reader(&bytes);
        assert_eq!((reader.string(), reader.integer()), (Some(&b"text"[..]), Some(&[0x80, 1][..])));
        assert_eq!((reader.number(), Reader(&[0, 0, 0, 2, 1]).string()), (None, None));
    }
}
