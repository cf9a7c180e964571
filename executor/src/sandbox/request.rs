//! What the executor and its helper say to each other: one request, one reply, as length-prefixed JSON on a socket.
//!
//! Requests carry secrets, so that nothing here derives `Debug` for them: the socket is their only way in.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::Failure;
use crate::{
    filesystem::{
        path::{TreePath, lossless},
        view::View,
    },
    layer::{Compression, Layer, trim::Omitted},
    secret::Secret,
};

/// The largest message: scripts and secrets travel in requests. 64 MiB.
pub(super) const MESSAGE_BYTES_MAX: u32 = 64 << 20;

/// What a helper is started for.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// Tries what a step needs, in a directory of its own below this one.
    Probe {
        /// A directory on the file system that will hold layers.
        directory: PathBuf,
    },
    /// Unpacks layers into directories.
    Unpack(Unpack),
    /// Makes an archive of what is in a directory.
    Pack(Pack),
    /// Runs one process and, if it succeeds, makes a layer of what it changed.
    Step(Box<Step>),
}

/// Layers to be unpacked as the lower directories of an overlay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unpack {
    /// Files with the indexes of the layers in the directories below, lowest first.
    pub below: Vec<PathBuf>,
    /// The directories, lowest first. All are filled at the same time.
    pub directories: Vec<UnpackDirectory>,
    /// Threads that read layers and write files, for each directory. Each layer that is being read has one more, which inflates.
    pub threads: usize,
}

/// One directory and what goes into it: what its layers change of what is below.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnpackDirectory {
    /// An existing, empty directory.
    pub directory: PathBuf,
    /// Lowest first.
    pub layers: Vec<Archive>,
}

impl Unpack {
    /// Unpacks layers over each other into one directory with nothing below.
    pub fn into_root(directory: PathBuf, layers: Vec<Archive>, threads: usize) -> Self {
        Self { below: Vec::new(), directories: vec![UnpackDirectory { directory, layers }], threads }
    }
}

/// A directory to be packed while nothing writes to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pack {
    /// The directory.
    pub directory: PathBuf,
    /// A file with the index of the archive that holds what was in the directory before; `None` is nothing.
    pub before: Option<PathBuf>,
    /// The bytes of files that the archive has, at most.
    pub content_max: u64,
    /// Where the archive and its index go, neither of which exists.
    pub archive: Archive,
    /// Compressing threads.
    pub threads: usize,
}

/// A directory that was packed.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackResult {
    /// The archive.
    pub layer: Layer,
    /// Bytes of its files.
    pub content: u64,
    /// What did not fit.
    pub omitted: Omitted,
}

/// A compressed layer in a file, and its index in another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The file.
    pub blob: PathBuf,
    /// How it is compressed.
    pub compression: Compression,
    /// A file with its index ([`Index::pack`](crate::filesystem::index::Index::pack)).
    pub index: PathBuf,
}

/// One RUN, with every name resolved. All paths of the first four fields are absolute paths of the executor's own tree.
#[derive(Serialize, Deserialize)]
pub struct Step {
    /// The lower directories, topmost first; none is `FROM scratch`. At most [`LOWERS_MAX`], and nothing may be mounted
    /// below them: overlayfs refuses a directory that would show what an outer namespace has covered.
    pub lowers: Vec<PathBuf>,
    /// An empty directory that receives what the step changes.
    pub upper: PathBuf,
    /// An empty directory on the file system of `upper`, for overlayfs.
    pub work: PathBuf,
    /// An empty directory: where the helper mounts, in a namespace of its own. It stays empty for everybody else.
    pub mount_point: PathBuf,
    /// The command and its arguments, as the process gets them; at least the command.
    pub arguments: Vec<String>,
    /// The whole environment: nothing is added to it.
    pub environment: BTreeMap<String, String>,
    /// Absolute path inside the root; what is missing of it is created with mode 0755 for the user.
    pub working_directory: String,
    /// Who runs it.
    pub user: User,
    /// In the order in which they are mounted.
    pub mounts: Vec<Mount>,
    /// Whether the process has nothing but a loopback interface of its own.
    pub network_none: bool,
    /// A script that appears at `/dev/pipes/NAME` with mode 0755.
    pub script: Option<Script>,
    /// The host name; also in `/etc/hosts`.
    pub hostname: String,
    /// What to make of the changes; `None` makes no layer.
    pub layer: Option<Output>,
}

impl fmt::Debug for Step {
    /// Without the environment, which may hold secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Step")
            .field("arguments", &self.arguments)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The largest number of lower directories: overlayfs takes 500, and one more holds the mount points that an image lacks.
pub const LOWERS_MAX: usize = 499;

/// Ids of a process, resolved by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// `RUN --mount`. Targets are absolute paths inside the root.
#[derive(Debug, Serialize, Deserialize)]
pub enum Mount {
    /// Files of an overlay of the executor's directories, nodev.
    Overlay(OverlayMount),
    /// A file or directory of the executor's own tree as it is, nodev.
    Own {
        /// Where it appears.
        target: String,
        /// A directory of the executor's.
        root: PathBuf,
        /// The file or directory that appears, as a path inside that directory; links are followed there.
        source: String,
        /// Whether the step can only read it.
        read_only: bool,
    },
    /// A file on a tmpfs, mounted read-only, nosuid, nodev, noexec.
    Secret {
        /// Where it appears.
        target: String,
        /// The content.
        value: SecretBytes,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// An empty tmpfs of mode 1777, nosuid.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// Bytes; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
        /// Whether the step can only read it.
        read_only: bool,
    },
}

/// A part of an overlay.
#[derive(Debug, Serialize, Deserialize)]
pub struct OverlayMount {
    /// Where it appears.
    pub target: String,
    /// The lower directories, topmost first; at least one, and at most [`LOWERS_MAX`].
    pub lowers: Vec<PathBuf>,
    /// The file or directory that appears, as a path inside the overlay; links are followed there.
    pub source: String,
    /// What makes it writable.
    pub upper: Option<UpperDirectories>,
}

/// Two empty directories on one file system.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpperDirectories {
    /// Receives what the step writes.
    pub upper: PathBuf,
    /// For overlayfs.
    pub work: PathBuf,
}

impl Mount {
    /// Returns where the mount appears.
    pub fn target(&self) -> &str {
        match self {
            Self::Overlay(OverlayMount { target, .. })
            | Self::Own { target, .. }
            | Self::Secret { target, .. }
            | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// The content of a secret on its way into a step.
#[derive(Serialize, Deserialize)]
pub struct SecretBytes(#[serde(with = "lossless")] Vec<u8>);

impl SecretBytes {
    /// Takes the value over.
    pub fn new(secret: &Secret<Vec<u8>>) -> Self {
        Self(secret.expose().clone())
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// A heredoc that is run as a program of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Script {
    /// A plain name.
    pub name: String,
    /// The bytes, `#!` first.
    #[serde(with = "lossless")]
    pub content: Vec<u8>,
}

/// Where the layer of a step goes and what it is compared with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Output {
    /// The file that receives the compressed layer.
    pub blob: PathBuf,
    /// The file that receives the layer's index.
    pub index: PathBuf,
    /// The file system below. It stays with the executor: the helper asks for the part in which something changed, which is
    /// little beside an image.
    #[serde(skip)]
    pub below: View,
    /// The file in which the executor answers; a new one.
    pub below_part: PathBuf,
    /// How the layer is compressed.
    pub compression: Compression,
    /// Compressing threads.
    pub threads: usize,
    /// The largest layer, in bytes of its tar stream.
    pub size_max: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code: {code}"),
            Self::Signal(signal) => write!(formatter, "killed by signal {signal}"),
        }
    }
}

/// What became of a step.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepResult {
    /// How the process ended.
    pub exit: Exit,
    /// The layer, if the process ended with 0 and a layer was wanted. A layer without changes is a layer too.
    pub layer: Option<Layer>,
}

/// What the helper says, in this order: `Unshared`, `Asked` once if it unpacks or makes a layer, then one of the others.
#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    /// The user namespace exists and waits for its maps; the request may be sent when they are written.
    Unshared,
    /// A step can be run here.
    Probed,
    /// The helper goes on when it has received [`Answered`].
    Asked(Question),
    /// Layers were unpacked, with these warnings.
    Unpacked(Vec<String>),
    /// A directory was packed, or is as it was.
    Packed(Option<PackResult>),
    /// A step was run.
    Stepped(StepResult),
    /// The operation failed.
    Failed(Failure),
}

/// What a helper asks.
#[derive(Serialize, Deserialize)]
pub(super) enum Question {
    /// What was below these directories? The step has ended, and may have changed something in them. The answer is in
    /// [`Output::below_part`].
    Below(Vec<TreePath>),
    /// Are the archives there? Their indexes are read.
    Archives,
}

/// The executor has answered [`Reply::Asked`].
#[derive(Serialize, Deserialize)]
pub(super) struct Answered;

/// Writes one message.
pub(super) fn send(mut writer: impl Write, message: &impl Serialize) -> io::Result<()> {
    writer.write_all(&encode(message)?)
}

/// Reads one message; the end of the stream is `UnexpectedEof`.
pub(super) fn receive<T: DeserializeOwned>(mut reader: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let mut bytes = vec![0; body_length(length)?];
    reader.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Turns a message into its bytes: the length as four bytes, little-endian, and the JSON text.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a message to the sandbox is larger than 64 MiB"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Reads the length in front of a message and refuses what is larger than any message.
pub(super) fn body_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("a message of the sandbox is larger than 64 MiB"));
    }
    usize::try_from(length).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let mut wire = Vec::new();
        send(&mut wire, &Exit::Signal(9)).unwrap();
        assert_eq!(receive::<Exit>(&wire[..]).unwrap(), Exit::Signal(9));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        assert!(receive::<Exit>(&u32::MAX.to_le_bytes()[..]).is_err());
    }

    #[test]
    fn a_secret_prints_nothing() {
        let value = SecretBytes::new(&Secret::new(b"hunter2".to_vec()));
        assert_eq!(format!("{value:?}"), "<redacted>");
    }
}
