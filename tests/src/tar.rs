//! A tar, unpacked in memory: its bytes in, its entries out. It shares no code with what wrote them.
//!
//! It reads what builders write: POSIX headers with extended attributes of the pax format, and GNU's long names.

use std::collections::BTreeMap;

const BLOCK: usize = 512;

/// One entry.
#[derive(Debug, Default)]
pub struct Entry {
    /// Without `/` at either end.
    pub path: String,
    /// As the header has it: `0` is a file, `1` a hard link, and so on.
    pub kind: u8,
    /// Permissions and the three bits above them.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// Where a link leads.
    pub target: String,
    /// Extended attributes by name; bytes that are no text are escaped.
    pub xattrs: BTreeMap<String, String>,
    /// Major and minor number of a device.
    pub device: (u64, u64),
    /// The content of a file.
    pub content: Vec<u8>,
}

/// Reads all entries; panics at what is no tar.
pub fn entries(mut tar: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut extended = BTreeMap::new();
    while let Some((header, rest)) = tar.split_at_checked(BLOCK).filter(|(header, _)| header[0] != 0) {
        let size = extended
            .get("size")
            .map_or_else(|| number(&header[124..136]), |size: &String| size.parse().expect("a size is a number"));
        let size = usize::try_from(size).expect("a file of a test fits in memory");
        let content = &rest[..size];
        tar = &rest[size.next_multiple_of(BLOCK)..];
        match header[156] {
            b'x' => extended.extend(records(content)),
            b'g' => {}
            b'L' => drop(extended.insert("path".into(), text(content))),
            b'K' => drop(extended.insert("linkpath".into(), text(content))),
            kind => entries.push(entry(header, kind, content, std::mem::take(&mut extended))),
        }
    }
    entries
}

fn entry(header: &[u8], kind: u8, content: &[u8], mut extended: BTreeMap<String, String>) -> Entry {
    let prefix = text(&header[345..500]);
    let name = text(&header[..100]);
    let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    let path = extended.remove("path").unwrap_or(name);
    let id = |key: &str, field: &[u8]| {
        extended.get(key).map_or_else(|| number(field), |id| id.parse().expect("an id is a number"))
    };
    let (uid, gid) = (id("uid", &header[108..116]), id("gid", &header[116..124]));
    let target = extended.remove("linkpath").unwrap_or_else(|| text(&header[157..257]));
    let xattrs =
        extended.into_iter().filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?.to_owned(), value)));
    Entry {
        path: path.trim_start_matches("./").trim_matches('/').to_owned(),
        kind: if kind == 0 { b'0' } else { kind },
        mode: u32::try_from(number(&header[100..108])).expect("a mode is small") & 0o7777,
        uid,
        gid,
        target,
        xattrs: xattrs.collect(),
        device: if b"34".contains(&kind) { (number(&header[329..337]), number(&header[337..345])) } else { (0, 0) },
        content: content.to_vec(),
    }
}

/// Reads the records `LENGTH KEY=VALUE` of a pax header.
fn records(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut records = Vec::new();
    while let Some(blank) = bytes.iter().position(|&byte| byte == b' ') {
        let length: usize = text(&bytes[..blank]).parse().expect("a record begins with its length");
        let record = &bytes[blank + 1..length - 1];
        let record = str::from_utf8(record).map_or_else(|_| record.escape_ascii().to_string(), str::to_owned);
        let (key, value) = record.split_once('=').expect("a record is a pair");
        records.push((key.to_owned(), value.to_owned()));
        bytes = &bytes[length..];
    }
    records
}

/// Reads a number: octal digits, or GNU's binary form.
fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        return field[1..].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() { 0 } else { u64::from_str_radix(digits, 8).expect("a number in a header is octal") }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
