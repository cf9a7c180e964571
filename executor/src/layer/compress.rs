//! Compression as a stream: a tar stream goes in, its diffID, the compressed bytes and their digest come out.
//!
//! ```text
//! write -> sha256 (diffID) -> blocks of 1 MiB -> N threads -> in order -> sha256 (digest) -> destination
//! ```
//!
//! Every block becomes a gzip member of its own, so the bytes do not depend on the number of threads (RFC 1952, 2.2:
//! members may follow each other). Memory is bounded by the number of threads. Nothing here knows what a tar is.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, BufReader, Read, Write},
    panic::resume_unwind,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use libdeflater::CompressionLvl;
use lzma_rust2::XzReader;
use sha2::{Digest as _, Sha256};

use super::Compression;
use crate::image::digest::Digest;

/// Bytes of the tar stream in one gzip member. Changing it changes every digest.
const BLOCK_BYTES: usize = 1 << 20;

/// As small as zlib's level 5 at 1.8 times its speed. Changing it changes every digest.
const GZIP_LEVEL: i32 = 4;

/// Pieces of a block that are tried at the fastest level, spread over it, and their size. If none of them shrinks, the block
/// is stored: what is compressed already (packages, pictures, archives) would take seconds for nothing. Changing it changes
/// digests.
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 16 << 10;

/// A sample that loses less than a fiftieth of its size does not shrink.
const SHRINKS_PER_MILLE: usize = 980;

/// zstd's own default. Changing it changes every digest.
const ZSTD_LEVEL: i32 = 3;

/// More threads than this do not help: reading and hashing are the bottleneck by then.
const THREADS_MAX: usize = 64;

/// Blocks in flight beside those being compressed, one for each thread: they wait for a thread, or for their turn to be
/// written.
const BLOCKS_WAITING: usize = 2;

/// Bytes moved at once, and the size of the read-ahead's pieces.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Pieces that the inflating thread may be ahead of its reader: 2 MiB, for each layer that is read.
const PIECES_AHEAD: usize = 8;

/// Hashes and counts what passes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Compresses what is written to it. Call [`Compressor::finish`]: a dropped compressor leaves a truncated stream.
pub struct Compressor<W: Write> {
    stream: Stream<W>,
    hasher: Sha256,
    bytes: u64,
}

/// What a finished [`Compressor`] knows.
#[derive(Debug)]
pub struct Compressed<W> {
    /// Digest of the bytes that went in.
    pub diff_id: Digest,
    /// Bytes that went in.
    pub size_uncompressed: u64,
    /// Digest of the bytes that came out.
    pub digest: Digest,
    /// Bytes that came out.
    pub size: u64,
    /// Where they went.
    pub destination: W,
}

enum Stream<W: Write> {
    Plain(Hashing<W>),
    Gzip(Gzip<W>),
    Zstd(zstd::stream::write::Encoder<'static, Hashing<W>>),
}

impl<W: Write> Compressor<W> {
    /// Starts `threads` threads (1 to 64; other numbers are brought into this range) that compress for `destination`.
    ///
    /// # Errors
    /// Fails where no thread can be started.
    pub fn new(destination: W, compression: Compression, threads: usize) -> io::Result<Self> {
        let destination = Hashing::new(destination);
        let threads = threads.clamp(1, THREADS_MAX);
        let stream = match compression {
            Compression::None => Stream::Plain(destination),
            Compression::Gzip => Stream::Gzip(Gzip::new(destination, threads)?),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(destination, ZSTD_LEVEL)?;
                // Never zero workers: that is another code path with other bytes.
                encoder.multithread(u32::try_from(threads).map_err(io::Error::other)?)?;
                encoder.include_checksum(true)?;
                Stream::Zstd(encoder)
            }
        };
        Ok(Self { stream, hasher: Sha256::new(), bytes: 0 })
    }

    /// Compresses the rest and returns the digests.
    ///
    /// # Errors
    /// Fails where the destination does.
    pub fn finish(self) -> io::Result<Compressed<W>> {
        let mut destination = match self.stream {
            Stream::Plain(destination) => destination,
            Stream::Gzip(gzip) => gzip.finish()?,
            Stream::Zstd(encoder) => encoder.finish()?,
        };
        destination.flush()?;
        Ok(Compressed {
            diff_id: Digest::from_hasher(self.hasher),
            size_uncompressed: self.bytes,
            digest: Digest::from_hasher(destination.hasher),
            size: destination.bytes,
            destination: destination.inner,
        })
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.stream {
            Stream::Plain(destination) => destination.write(bytes)?,
            Stream::Gzip(gzip) => gzip.write(bytes)?,
            Stream::Zstd(encoder) => encoder.write(bytes)?,
        };
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    /// Does nothing: where blocks end must not depend on who flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> fmt::Debug for Compressor<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Compressor").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A block on its way to a thread, with the channel on which its member comes back.
struct Job {
    block: Vec<u8>,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// Cuts blocks, hands them to the threads and writes the members in the order of the blocks. The threads end when it is
/// dropped, because their channel closes.
struct Gzip<W> {
    destination: Hashing<W>,
    block: Vec<u8>,
    jobs: SyncSender<Job>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    pending_max: usize,
    empty: bool,
}

impl<W: Write> Gzip<W> {
    fn new(destination: Hashing<W>, threads: usize) -> io::Result<Self> {
        let pending_max = threads + BLOCKS_WAITING;
        let (jobs, queue) = sync_channel::<Job>(pending_max);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("gzip-{number}")).spawn(move || compress_blocks(&queue))?;
        }
        let block = Vec::with_capacity(BLOCK_BYTES);
        Ok(Self { destination, block, jobs, pending: VecDeque::new(), pending_max, empty: true })
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.pending.len() == self.pending_max {
            self.write_oldest()?;
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        let (reply, member) = sync_channel(1);
        self.jobs.send(Job { block, reply }).map_err(|_| io::Error::other("the compressing threads are gone"))?;
        self.pending.push_back(member);
        self.empty = false;
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some(member) = self.pending.pop_front() else { return Ok(()) };
        let member = member.recv().map_err(|_| io::Error::other("a compressing thread is gone"))??;
        self.destination.write_all(&member)
    }

    fn finish(mut self) -> io::Result<Hashing<W>> {
        if !self.block.is_empty() || self.empty {
            self.submit()?;
        }
        while !self.pending.is_empty() {
            self.write_oldest()?;
        }
        Ok(self.destination)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == BLOCK_BYTES {
            self.submit()?;
        }
        Ok(count)
    }
}

/// One thread's life: takes blocks until the channel closes.
fn compress_blocks(queue: &Mutex<Receiver<Job>>) {
    let mut compressors = Compressors::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, reply }) = job else { return };
        if reply.send(compressors.member(&block)).is_err() {
            return; // The writer failed and is gone.
        }
    }
}

/// What one thread compresses with.
struct Compressors {
    usual: libdeflater::Compressor,
    fastest: libdeflater::Compressor,
    storing: libdeflater::Compressor,
    /// Room for the longest member of a block.
    output: Vec<u8>,
}

impl Compressors {
    fn new() -> Self {
        let at = |level| libdeflater::Compressor::new(CompressionLvl::new(level).unwrap_or_default());
        Self { usual: at(GZIP_LEVEL), fastest: at(1), storing: at(0), output: Vec::new() }
    }

    /// Makes a gzip member of a block. The choice depends on the block alone.
    fn member(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let shrinks = self.shrinks(block)?;
        let compressor = if shrinks { &mut self.usual } else { &mut self.storing };
        let bound = compressor.gzip_compress_bound(block.len());
        if self.output.len() < bound {
            self.output.resize(bound, 0);
        }
        let size = compressor.gzip_compress(block, &mut self.output).map_err(io::Error::other)?;
        // Members wait for each other: they take no more room than they have bytes.
        Ok(self.output[..size].to_vec())
    }

    /// Whether compressing is worth the time, judged by a few samples of a block that is large enough to have them.
    fn shrinks(&mut self, block: &[u8]) -> io::Result<bool> {
        if block.len() < 2 * SAMPLES * SAMPLE_BYTES {
            return Ok(true);
        }
        let mut output = vec![0; self.fastest.deflate_compress_bound(SAMPLE_BYTES)];
        for sample in block.chunks(block.len() / SAMPLES).filter_map(|part| part.get(..SAMPLE_BYTES)) {
            let size = self.fastest.deflate_compress(sample, &mut output).map_err(io::Error::other)?;
            if size * 1000 < SAMPLE_BYTES * SHRINKS_PER_MILLE {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What `xz -9` needs to decompress (65 MiB) fits; a hostile header could ask for 4 GiB.
const XZ_MEMORY_KIB_MAX: u32 = 80 << 10;

/// The compressions in which an archive may come. Layers know three of them ([`Compression`]), `ADD` all five.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArchiveKind {
    /// Not compressed.
    Tar,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The .xz container of LZMA2.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl From<Compression> for ArchiveKind {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Tar,
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Returns a reader of the decompressed bytes, in constant memory. Members and frames that follow each other are one stream.
///
/// # Errors
/// Fails for kinds that this program does not read; the reader fails where the bytes are damaged or end early.
pub fn decompress<'a>(
    reader: impl Read + Send + 'a,
    kind: impl Into<ArchiveKind>,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let reader = BufReader::with_capacity(PIECE_BYTES, reader);
    match kind.into() {
        ArchiveKind::Tar => Ok(Box::new(reader)),
        ArchiveKind::Gzip => Ok(Box::new(MultiGzDecoder::new(reader))),
        ArchiveKind::Zstd => Ok(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?)),
        ArchiveKind::Bzip2 => Ok(Box::new(MultiBzDecoder::new(reader))),
        ArchiveKind::Xz => Ok(Box::new(XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB_MAX))),
    }
}

/// Decompresses and hashes in a thread of its own, at most 2 MiB ahead of `consume`, and returns what `consume` does beside the
/// digest of all that was decompressed. Inflating is half of the work of reading a layer.
///
/// # Errors
/// Fails where no thread can be started.
pub(super) fn read_ahead<T>(
    reader: impl Read + Send,
    kind: impl Into<ArchiveKind>,
    consume: impl FnOnce(&mut dyn Read) -> T,
) -> io::Result<(T, Digest)> {
    let mut stream = decompress(reader, kind)?;
    thread::scope(|scope| {
        let (pieces, receiver) = sync_channel::<io::Result<Vec<u8>>>(PIECES_AHEAD);
        let inflating = thread::Builder::new().name("inflate".into()).spawn_scoped(scope, move || {
            let mut hasher = Sha256::new();
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                let result = stream.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
                let last = !matches!(result, Ok(count) if count > 0);
                hasher.update(&piece);
                // The receiver is gone when the consumer has seen enough.
                if pieces.send(result.map(|_| piece)).is_err() || last {
                    return Digest::from_hasher(hasher);
                }
            }
        })?;
        let mut pieces = Pieces { receiver, piece: Vec::new(), position: 0 };
        let consumed = consume(&mut pieces);
        // The thread's channel closes before it is waited for.
        drop(pieces);
        Ok((consumed, inflating.join().unwrap_or_else(|panic| resume_unwind(panic))))
    })
}

/// The consumer's side of [`read_ahead`].
struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    position: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.piece.len() {
            match self.receiver.recv() {
                Ok(Ok(piece)) if piece.is_empty() => return Ok(0),
                Ok(piece) => (self.piece, self.position) = (piece?, 0),
                Err(_) => return Ok(0), // Read again after the end.
            }
        }
        let count = buffer.len().min(self.piece.len() - self.position);
        buffer[..count].copy_from_slice(&self.piece[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}
