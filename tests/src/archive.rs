//! Archives and layers for tests: a list of entries in, a tar out, byte by byte as it is written here, hostile ones included.
//!
//! An entry is a line: `PATH MODE UID:GID [NAME=0xHEX] [= CONTENT]` (a directory when the path ends with `/`; `NAME` is an
//! extended attribute), `PATH -> TARGET` for a symbolic link, `PATH => TARGET` for a hard link.

const BLOCK: usize = 512;

/// Writes the archive; `place` is where the list stands, for messages. Panics at a line that is no entry.
pub fn tar(list: &str, place: &str) -> Vec<u8> {
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
    xattr: Option<(&'a str, Vec<u8>)>,
    content: String,
}

/// Reads a line of the list.
fn read(line: &str) -> Option<Entry<'_>> {
    let (path, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    let linked =
        |kind, target| Entry { path, kind, mode: 0o777, owner: (0, 0), target, xattr: None, content: String::new() };
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
    let mut words = owner.split_whitespace();
    let (user, group) = words.next()?.split_once(':')?;
    let xattr = words.next().map(|xattr| xattr.split_once("=0x").expect("an attribute is NAME=0xHEX"));
    let xattr = xattr.map(|(name, digits)| (name, binary(digits)));
    let owner = (user.parse().ok()?, group.parse().ok()?);
    let kind = if path.ends_with('/') { b'5' } else { b'0' };
    Some(Entry { path, kind, mode: u32::from_str_radix(mode, 8).ok()?, owner, target: "", xattr, content })
}

/// Reads two hexadecimal digits for each byte; panics at others.
pub fn binary(digits: &str) -> Vec<u8> {
    let bytes = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("digits are ASCII"));
    bytes.map(|pair| u8::from_str_radix(pair, 16).expect("two digits are a byte")).collect()
}

impl Entry<'_> {
    /// Appends the entry: a header of the pax format for an extended attribute, its own header, the content.
    fn write(&self, bytes: &mut Vec<u8>) {
        if let Some((name, value)) = &self.xattr {
            let record = [format!(" SCHILY.xattr.{name}=").as_bytes(), value, b"\n"].concat();
            // The length counts its own digits, of which two do for all that tests need.
            let record = [(record.len() + 2).to_string().as_bytes(), &record].concat();
            assert!((10..100).contains(&record.len()), "the attribute {name} is too long");
            self.header(b'x', record.len(), bytes);
            append(bytes, &record);
        }
        self.header(self.kind, self.content.len(), bytes);
        append(bytes, self.content.as_bytes());
    }

    /// Appends a header of the format of POSIX.1-1988.
    fn header(&self, kind: u8, size: usize, bytes: &mut Vec<u8>) {
        let mut header = [0; BLOCK];
        let mut put = |offset: usize, text: &str| header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
        put(0, self.path);
        put(100, &format!("{:07o}", self.mode));
        put(108, &format!("{:07o}", self.owner.0));
        put(116, &format!("{:07o}", self.owner.1));
        put(124, &format!("{size:011o}"));
        put(136, "00000000001");
        put(148, "        ");
        put(157, self.target);
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(header);
    }
}

/// Appends what follows a header, in whole blocks.
fn append(bytes: &mut Vec<u8>, content: &[u8]) {
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}
