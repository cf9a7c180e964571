//! As much of an HTTP client as a registry's answers need: one request on one connection, plain http, the body in memory.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// No server of the tests is slower.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A user and a password.
pub type Credentials = (String, String);

/// What a server answered.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the first field of that name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Returns the value of an `Authorization` field for HTTP's basic scheme.
pub fn basic_authorization((user, password): &Credentials) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Sends a request without a body to `host`, an address with a port; panics when there is no well-formed answer.
#[track_caller]
pub fn request(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    try_request(method, host, path, fields)
        .unwrap_or_else(|error| panic!("{method} http://{host}{path} has no answer: {error}"))
}

/// Does the same as [`request`] without a panic: for asking whether a server is up.
pub fn try_request(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer ends with the connection and is never in chunks.
    let fields: String = fields.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{fields}\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| std::io::Error::other("the answer is no HTTP"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(&answer[..end]).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Response { status, headers, body: answer[end + 4..].to_vec() })
}
