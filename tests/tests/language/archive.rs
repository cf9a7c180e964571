//! Archives for ADD: a list of entries in, a tar out, byte by byte as it is written here, hostile ones included.
//!
//! An entry is a line: `PATH MODE UID:GID [= CONTENT]` (a directory when the path ends with `/`), `PATH -> TARGET` for a
//! symbolic link, `PATH => TARGET` for a hard link.

const BLOCK: usize = 512;

/// Writes the archive.
pub(crate) fn tar(list: &str, place: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut written: Vec<Entry<'_>> = Vec::new();
    for line in list.lines().filter(|line| !line.is_empty()) {
        let mut next = read(line).unwrap_or_else(|| panic!("{place}: `{line}` is no entry of an archive"));
        if let Some(linked) = written.iter().find(|other| next.kind == b'1' && other.path == next.target) {
            // As all writers do: one file has one mode and one owner.
            (next.mode, next.owner) = (linked.mode, linked.owner);
        }
        next.write(&mut bytes);
        written.push(next);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

struct Entry<'a> {
    path: &'a str,
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    target: &'a str,
    content: String,
}

/// Reads a line of the list.
fn read(line: &str) -> Option<Entry<'_>> {
    let (path, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    let linked = |kind, target| Entry { path, kind, mode: 0o777, owner: (0, 0), target, content: String::new() };
    if let Some(target) = rest.strip_prefix("-> ") {
        return Some(linked(b'2', target));
    }
    if let Some(target) = rest.strip_prefix("=> ") {
        return Some(linked(b'1', target));
    }
    let (metadata, content) = match rest.split_once(" = ") {
        Some((metadata, content)) => (metadata, format!("{content}\n")),
        None => (rest, String::new()),
    };
    let (mode, owner) = metadata.split_once(' ')?;
    let (user, group) = owner.trim().split_once(':')?;
    let owner = (user.parse().ok()?, group.parse().ok()?);
    let kind = if path.ends_with('/') { b'5' } else { b'0' };
    Some(Entry { path, kind, mode: u32::from_str_radix(mode, 8).ok()?, owner, target: "", content })
}

impl Entry<'_> {
    /// Appends a header of the format of POSIX.1-1988 and the content.
    fn write(&self, bytes: &mut Vec<u8>) {
        let mut header = [0; BLOCK];
        let mut put = |offset: usize, text: &str| header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
        put(0, self.path);
        put(100, &format!("{:07o}", self.mode));
        put(108, &format!("{:07o}", self.owner.0));
        put(116, &format!("{:07o}", self.owner.1));
        put(124, &format!("{:011o}", self.content.len()));
        put(136, "00000000001");
        put(148, "        ");
        put(157, self.target);
        put(257, "ustar\x0000");
        header[156] = self.kind;
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(header);
        bytes.extend(self.content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
}
