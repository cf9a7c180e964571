//! A git server over plain http: repositories made from files in, clones and fetches out, with or without a password.
//!
//! It speaks the smart protocol, versions 0 to 2, by handing each request to `git http-backend`, git's own CGI program.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read as _, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;

use crate::http::{self, Credentials};

/// The largest request: what a client asks for, never what it gets.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// No client pauses longer within a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A git server in a thread; it is gone when this value is dropped.
#[derive(Debug)]
pub struct GitServer {
    address: SocketAddr,
    directory: TempDir,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GitServer {
    /// Starts a server on loopback, for everybody.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), None)
    }

    /// Starts a server on an address of this machine; with credentials, it asks everybody for them.
    ///
    /// The host's address on the network of a node is `cluster::HOST_ADDRESS`.
    pub fn start_on(address: IpAddr, credentials: Option<&Credentials>) -> Self {
        let directory = TempDir::with_prefix("karve-git-").expect("there is room for repositories");
        let listener =
            TcpListener::bind((address, 0)).unwrap_or_else(|error| panic!("no server on {address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let stopped = Arc::new(AtomicBool::new(false));
        let service = Arc::new(Service {
            root: directory.path().to_owned(),
            authorization: credentials.map(http::basic_authorization),
        });
        let stop = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let service = Arc::clone(&service);
                // A client that hangs up in the middle is its own affair.
                thread::spawn(move || drop(service.answer(&stream)));
            }
        });
        Self { address, directory, stopped, thread: Some(thread) }
    }

    /// Returns the URL of the repository `name`, whether it exists or not.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}.git", self.address)
    }

    /// Makes an empty repository, whose branch is `main`.
    pub fn create(&self, name: &str) -> Repository {
        let directory = self.directory.path().join(format!("{name}.git"));
        let repository = Repository { directory, url: self.url(name) };
        fs::create_dir_all(&repository.directory).expect("the directory is ours");
        repository.git(&["init", "--quiet", "--bare", "--initial-branch=main"]);
        // As the public forges have it: a commit may be fetched by its id alone.
        repository.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        repository.git(&["config", "uploadpack.allowFilter", "true"]);
        repository
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address)); // wakes the thread
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A repository on a [`GitServer`]. The same calls make the same commit ids.
#[derive(Debug)]
pub struct Repository {
    directory: PathBuf,
    url: String,
}

impl Repository {
    /// Returns the URL to clone from.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Commits to the current branch a tree of exactly these files, by path and content; returns the commit's id.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        let tree = TempDir::with_prefix("karve-tree-").expect("there is room for a tree");
        for (path, content) in files {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the directory is ours");
            fs::write(path, content).expect("the directory is ours");
        }
        self.commit_tree(tree.path())
    }

    /// Commits to the current branch what is in a directory, with its modes and symbolic links; returns the commit's id.
    pub fn commit_tree(&self, tree: &Path) -> String {
        let work_tree = format!("--work-tree={}", tree.display());
        self.git(&[&work_tree, "add", "--all", "--force"]);
        self.git(&[&work_tree, "commit", "--quiet", "--allow-empty", "--message", "Change files"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Makes `name`, which may be new, the branch of the next commits.
    pub fn branch(&self, name: &str) {
        let reference = format!("refs/heads/{name}");
        // What is committed so far is the start of a new branch.
        let head = self.git(&["rev-parse", "HEAD"]);
        if self.git(&["for-each-ref", &reference]).is_empty() {
            self.git(&["update-ref", &reference, &head]);
        }
        self.git(&["symbolic-ref", "HEAD", &reference]);
    }

    /// Puts an annotated tag on the last commit of the current branch, moving it if it is elsewhere.
    pub fn tag(&self, name: &str) {
        self.git(&["tag", "--force", "--annotate", "--message", name, name]);
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = git();
        command.arg("--git-dir").arg(&self.directory).args(arguments).current_dir(&self.directory);
        let output = command.output().expect("git is installed: tests/cluster/setup.sh does it");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?} failed: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// Returns a git that knows nothing of this machine's configuration, and whose commits are all of one person and time.
fn git() -> Command {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Karve").env(format!("GIT_{role}_EMAIL"), "karve@localhost");
        command.env(format!("GIT_{role}_DATE"), "2026-01-01T00:00:00Z");
    }
    command
}

/// What a connection's thread needs.
struct Service {
    root: PathBuf,
    authorization: Option<String>,
}

/// A request, its body taken out of the chunks that it may have come in.
struct Request {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Service {
    /// Answers the one request of a connection.
    fn answer(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let request = Request::read(stream)?;
        if self.authorization.as_deref().is_some_and(|value| request.field("authorization") != Some(value)) {
            let challenge = "WWW-Authenticate: Basic realm=\"karve\"\r\nContent-Length: 0";
            return write!(stream, "HTTP/1.1 401 Unauthorized\r\n{challenge}\r\nConnection: close\r\n\r\n");
        }
        self.run_git(&request, stream)
    }

    /// Runs git's CGI program for a request, and turns its output into a response that ends with the connection.
    fn run_git(&self, request: &Request, mut stream: &TcpStream) -> io::Result<()> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut command = git();
        command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.env("GIT_PROJECT_ROOT", &self.root).env("GIT_HTTP_EXPORT_ALL", "1").env("PATH_INFO", path);
        command.env("QUERY_STRING", query).env("REQUEST_METHOD", &request.method);
        command.env("CONTENT_LENGTH", request.body.len().to_string());
        for (variable, field) in [
            ("CONTENT_TYPE", "content-type"),
            ("HTTP_CONTENT_ENCODING", "content-encoding"),
            ("GIT_PROTOCOL", "git-protocol"),
        ] {
            command.env(variable, request.field(field).unwrap_or_default());
        }
        let mut child = command.spawn()?;
        // git reads its whole input before it writes.
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&request.body)?;
        }
        let mut output = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut head = read_head(&mut output)?;
        let status = head.iter().position(|line| line.starts_with("Status: ")).map(|index| head.remove(index));
        let status = status.as_deref().and_then(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
        let head: String = head.into_iter().flat_map(|line| [line, "\r\n".to_owned()]).collect();
        write!(stream, "HTTP/1.1 {status}\r\n{head}Connection: close\r\n\r\n")?;
        io::copy(&mut output, &mut stream)?;
        child.wait().map(drop)
    }
}

impl Request {
    fn read(mut stream: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut head = read_head(&mut reader)?.into_iter();
        let first = head.next().unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let fields = head
            .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())))
            .collect();
        let mut request = Self { method, target, fields, body: Vec::new() };
        if request.field("expect").is_some() {
            write!(stream, "HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.field("transfer-encoding").is_some() {
            request.body = read_chunks(&mut reader)?;
        } else if let Some(length) = request.field("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            read_bytes(&mut reader, length, &mut request.body)?;
        }
        Ok(request)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Reads lines up to the empty one, which is left out.
fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    reader
        .take(REQUEST_BYTES_MAX as u64)
        .lines()
        .take_while(|line| !matches!(line, Ok(line) if line.is_empty()))
        .collect()
}

fn read_bytes(reader: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    let start = body.len();
    if length > REQUEST_BYTES_MAX - start {
        return Err(io::Error::other("the request is too long"));
    }
    body.resize(start + length, 0);
    reader.read_exact(&mut body[start..])
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length =
            usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16).map_err(io::Error::other)?;
        read_bytes(reader, length, &mut body)?;
        reader.read_line(&mut line)?; // the end of a chunk, or of the body
        if length == 0 {
            return Ok(body);
        }
    }
}
