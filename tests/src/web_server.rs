//! A web server over plain http: a function from requests to answers in, the answers over a socket and a record of what was
//! asked for out.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// No client pauses longer within a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Lines of a request's head that are read.
const LINES_MAX: usize = 100;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header fields, with names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Request {
    /// Returns the first field of that name, which is given in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// What it gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields beside `Content-Length`.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A file.
    pub fn file(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, fields: Vec::new(), body: body.into() }
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new() }
    }

    /// Adds a header field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server in threads; it is gone when this value is dropped.
#[derive(Debug)]
pub struct WebServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// Starts a server on a loopback port; requests are answered side by side.
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (requests, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (record, stop, answer) = (Arc::clone(&requests), Arc::clone(&stopped), Arc::new(answer));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
                // A client that hangs up in the middle is its own affair.
                thread::spawn(move || drop(serve(&stream, &record, &*answer)));
            }
        });
        Self { address, requests, stopped, thread: Some(thread) }
    }

    /// Returns address and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address)); // wakes the thread
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Answers the one request of a connection.
fn serve(
    mut stream: &TcpStream,
    record: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request) -> Answer + Send + Sync),
) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut lines = BufReader::new(stream).lines().take(LINES_MAX);
    let first = lines.next().transpose()?.unwrap_or_default();
    let head: Vec<String> =
        lines.take_while(|line| !matches!(line, Ok(line) if line.is_empty())).collect::<Result<_, _>>()?;
    let fields = head.iter().filter_map(|line| line.split_once(':'));
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let request = Request {
        method,
        target,
        fields: fields.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
    };
    record.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let Answer { status, fields, body } = answer(&request);
    let fields: String = fields.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} -\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    if request.method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
}
