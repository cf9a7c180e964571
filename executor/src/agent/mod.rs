//! SSH agents for steps (`RUN --mount=type=ssh`): a key or another agent's socket comes in, a socket for one step comes out.
//!
//! ```text
//! step -- socket of its own --> serve -- keys: signs here
//!                                     `- socket: passes the request on
//! ```
//!
//! A step may list keys and have something signed, and nothing else: neither does it see the other agent's socket, nor can it
//! add, remove or lock keys there. The protocol is draft-ietf-sshm-ssh-agent.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{options::AgentSource, plan::graph::Attributes};
pub use key::{KeyError, PrivateKey};
use wire::{Reader, put_string};

mod key;
#[cfg(test)]
mod tests;
mod wire;

/// The largest key file that is read: 100 KiB.
const KEY_BYTES_MAX: u64 = 100 << 10;

/// The largest message, as in OpenSSH: 256 KiB.
const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Connections of one step at once; more wait.
const CONNECTIONS_MAX: usize = 32;

/// The time between two tries to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Says why an agent cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key cannot be used.
    #[error("{name} {source}")]
    Key {
        /// The file in backticks, or the variable.
        name: String,
        /// Why.
        source: KeyError,
    },
    /// A socket beside something else.
    #[error("`{}` is a socket, which stands alone: give one socket, or key files", .0.display())]
    SocketAmongKeys(PathBuf),
}

/// What answers the requests of steps.
#[derive(Debug)]
pub enum Agent {
    /// Keys of our own.
    Keys(Vec<PrivateKey>),
    /// Another agent.
    Socket(PathBuf),
}

impl Agent {
    /// Reads the keys, or notes the socket.
    pub fn open(source: &AgentSource) -> Result<Self, AgentError> {
        let paths = match source {
            AgentSource::Paths(paths) => paths,
            AgentSource::Key { variable, value } => {
                let key = PrivateKey::parse(value.expose());
                let wrong = |source| AgentError::Key { name: format!("the value of {variable}"), source };
                return key.map(|key| Self::Keys(vec![key])).map_err(wrong);
            }
        };
        let mut keys = Vec::with_capacity(paths.len());
        for path in paths {
            let unreadable = |source| AgentError::Unreadable { path: path.clone(), source };
            if fs::metadata(path).map_err(unreadable)?.file_type().is_socket() {
                if paths.len() > 1 {
                    return Err(AgentError::SocketAmongKeys(path.clone()));
                }
                return Ok(Self::Socket(path.clone()));
            }
            let mut text = Vec::new();
            File::open(path).and_then(|file| file.take(KEY_BYTES_MAX).read_to_end(&mut text)).map_err(unreadable)?;
            let wrong = |source| AgentError::Key { name: format!("`{}`", path.display()), source };
            keys.push(PrivateKey::parse(&text).map_err(wrong)?);
        }
        Ok(Self::Keys(keys))
    }

    /// Answers one message of a step.
    fn answer(keys: &[PrivateKey], message: &[u8]) -> Vec<u8> {
        let answered = match message.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => Some(identities(keys)),
            Some((&SIGN_REQUEST, request)) => signature(keys, request),
            _ => None,
        };
        answered.unwrap_or_else(|| vec![FAILURE])
    }
}

fn identities(keys: &[PrivateKey]) -> Vec<u8> {
    let mut answer = vec![IDENTITIES_ANSWER];
    answer.extend(u32::try_from(keys.len()).unwrap_or(u32::MAX).to_be_bytes());
    for key in keys {
        put_string(&mut answer, &key.public);
        put_string(&mut answer, &key.comment);
    }
    answer
}

fn signature(keys: &[PrivateKey], request: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(request);
    let (public, data, flags) = (reader.string()?, reader.string()?, reader.number()?);
    let key = keys.iter().find(|key| key.public == public)?;
    let mut answer = vec![SIGN_RESPONSE];
    put_string(&mut answer, &key.sign(data, flags)?);
    Some(answer)
}

/// A socket at which an agent answers. Dropped, it is deaf.
#[derive(Debug)]
pub struct AgentSocket {
    /// The directory that holds the socket and nothing else.
    pub directory: PathBuf,
    /// Aborts the server when it is dropped.
    _server: JoinSet<()>,
}

impl AgentSocket {
    /// The name of the socket in its directory.
    pub const NAME: &str = "agent";

    /// Begins to answer at a socket in an empty directory.
    pub fn open(agent: Arc<Agent>, directory: &Path, attributes: Attributes) -> io::Result<Self> {
        // The address of a socket has 108 bytes, and a work directory may have a longer path.
        let handle = File::open(directory)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), Self::NAME))?;
        let path = directory.join(Self::NAME);
        chown(&path, Some(attributes.uid), Some(attributes.gid))?;
        fs::set_permissions(&path, Permissions::from_mode(attributes.mode))?;
        let mut server = JoinSet::new();
        server.spawn(serve(listener, agent));
        Ok(Self { directory: directory.to_owned(), _server: server })
    }
}

/// Answers at a socket for ever.
async fn serve(listener: UnixListener, agent: Arc<Agent>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = Arc::clone(&agent);
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &agent).await {
                        tracing::debug!(%error, "a connection to the SSH agent ended");
                    }
                });
            }
            Err(error) => {
                // For want of descriptors, say; it passes.
                tracing::debug!(%error, "a connection to the SSH agent cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the messages of one connection, one after the other.
async fn converse(mut step: UnixStream, agent: &Agent) -> io::Result<()> {
    let mut other = None;
    while let Some(message) = receive(&mut step).await? {
        let answer = match agent {
            Agent::Keys(keys) => Agent::answer(keys, &message),
            Agent::Socket(path) if matches!(message.first(), Some(&REQUEST_IDENTITIES | &SIGN_REQUEST)) => {
                let other = match &mut other {
                    Some(other) => other,
                    none => none.insert(UnixStream::connect(path).await?),
                };
                send(other, &message).await?;
                receive(other).await?.unwrap_or_else(|| vec![FAILURE])
            }
            Agent::Socket(_) => vec![FAILURE],
        };
        send(&mut step, &answer).await?;
    }
    Ok(())
}

/// Reads one message; `None` at the end.
async fn receive(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("a message to the SSH agent is larger than 256 KiB"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn send(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(4 + message.len());
    put_string(&mut framed, message);
    stream.write_all(&framed).await
}
