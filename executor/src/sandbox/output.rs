//! The output of a step: two pipes go in, lines come out, bounded in length and in sum.

use std::io;

use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A longer line is handed on in pieces: 64 KiB.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// After this much, a step's output is read and thrown away: 16 MiB.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// The last line of an output that was cut.
pub const NOTICE: &[u8] = b"[output cut: more than 16 MiB]";

/// Reads both pipes to their ends.
pub(super) async fn pump(
    mut stdout: Receiver,
    mut stderr: Receiver,
    on_line: impl FnMut(Stream, &[u8]),
) -> io::Result<()> {
    let mut lines = Lines { left: OUTPUT_BYTES_MAX, on_line };
    let (mut out, mut err) = (Partial::new(Stream::Stdout), Partial::new(Stream::Stderr));
    let (mut out_bytes, mut err_bytes) = (vec![0; LINE_BYTES_MAX], vec![0; LINE_BYTES_MAX]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            length = stdout.read(&mut out_bytes), if out_open => {
                out_open = out.push(&out_bytes[..length?], &mut lines);
            }
            length = stderr.read(&mut err_bytes), if err_open => {
                err_open = err.push(&err_bytes[..length?], &mut lines);
            }
        }
    }
    Ok(())
}

/// Counts the output and cuts it.
struct Lines<F> {
    left: usize,
    on_line: F,
}

impl<F: FnMut(Stream, &[u8])> Lines<F> {
    fn emit(&mut self, stream: Stream, line: &[u8]) {
        if self.left == 0 {
            return;
        }
        match self.left.checked_sub(line.len() + 1) {
            Some(left) if left > 0 => {
                self.left = left;
                (self.on_line)(stream, line);
            }
            _ => {
                self.left = 0;
                (self.on_line)(stream, NOTICE);
            }
        }
    }
}

/// What a stream has written since its last line ended.
struct Partial {
    stream: Stream,
    bytes: Vec<u8>,
}

impl Partial {
    const fn new(stream: Stream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    /// Takes what was read; nothing is the end. Returns whether the stream goes on.
    fn push<F: FnMut(Stream, &[u8])>(&mut self, read: &[u8], lines: &mut Lines<F>) -> bool {
        if read.is_empty() {
            if !self.bytes.is_empty() {
                lines.emit(self.stream, &std::mem::take(&mut self.bytes));
            }
            return false;
        }
        for piece in read.split_inclusive(|byte| *byte == b'\n') {
            self.bytes.extend_from_slice(piece);
            if self.bytes.last() == Some(&b'\n') {
                lines.emit(self.stream, &self.bytes[..self.bytes.len() - 1]);
                self.bytes.clear();
            } else if self.bytes.len() >= LINE_BYTES_MAX {
                lines.emit(self.stream, &self.bytes);
                self.bytes.clear();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reads: &[&[u8]], limit: usize, expected: &[&[u8]]) {
        let mut seen = Vec::new();
        let mut lines = Lines { left: limit, on_line: |_, line: &[u8]| seen.push(line.to_vec()) };
        let mut partial = Partial::new(Stream::Stdout);
        for read in reads {
            assert!(partial.push(read, &mut lines));
        }
        assert!(!partial.push(b"", &mut lines));
        assert_eq!(seen, expected);
    }

    #[test]
    fn lines_come_whole_however_they_are_read() {
        check(&[b"a\nb", b"c\n", b"\nd"], 100, &[b"a", b"bc", b"", b"d"]);
        check(&[], 100, &[]);
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let long = vec![b'x'; LINE_BYTES_MAX];
        check(&[&long, b"y\n"], usize::MAX, &[&long, b"y"]);
    }

    #[test]
    fn more_than_the_limit_is_cut_with_one_notice() {
        check(&[b"aaaa\n", b"bbbb\n", b"cccc\n", b"d\n"], 12, &[b"aaaa", b"bbbb", NOTICE]);
    }
}
