//! File systems as lines of text, for tests. One entry a line; `@7` at the end is an mtime, without it the time is 0:
//!
//! ```text
//! d 0755 0:0 /a            directory          l 0777 0:0 /s -> b       symlink      w /a/gone      whiteout
//! f 0644 0:0 /a/b words    file, inline       h /a/c -> /a/b           hard link    o /a           opaque directory
//! p 0644 0:0 /a/p          fifo               c 0600 0:0 /null 1,3     character device
//! ```

use std::fmt::Write as _;

use super::{
    entry::{Action, Change, Device, FileContent, Kind, Location, Metadata},
    path::TreePath,
    view::View,
};
use crate::image::digest::Digest;

/// Reads lines as changes.
#[track_caller]
pub(crate) fn changes(text: &str) -> Vec<Change> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(change).collect()
}

/// Reads lines as one layer on an empty root.
#[track_caller]
pub(crate) fn view(text: &str) -> View {
    let mut view = View::empty();
    view.apply(&changes(text)).expect("a valid view");
    view
}

/// Writes changes as lines.
pub(crate) fn text(changes: &[Change]) -> String {
    changes.iter().fold(String::new(), |mut text, change| {
        writeln!(text, "{}", line(change)).expect("strings can be written to");
        text
    })
}

/// Writes a view without its root as lines.
pub(crate) fn view_text(view: &View) -> String {
    text(&view.changes()[1..])
}

/// Makes a path.
pub(crate) fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes())
}

/// Makes an inline file.
pub(crate) fn file(content: &str) -> Kind {
    Kind::File(FileContent {
        size: content.len() as u64,
        digest: Some(Digest::of(content.as_bytes())),
        location: Location::Inline(content.as_bytes().into()),
    })
}

#[track_caller]
fn change(line: &str) -> Change {
    let (line, mtime) = line.rsplit_once(" @").map_or((line, 0), |(line, time)| (line, time.parse().expect("a time")));
    let mut words = line.splitn(2, ' ');
    let mut next = || words.next().unwrap_or_default();
    let (letter, rest) = (next(), next());
    let (first, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
    match letter {
        "h" => return Change { path: path(first), action: Action::HardLink(path(target)) },
        "w" => return Change { path: path(first), action: Action::Whiteout },
        "o" => return Change { path: path(first), action: Action::Opaque },
        _ => {}
    }
    let mut words = first.splitn(4, ' ');
    let mut next = || words.next().unwrap_or_default();
    let (mode, owner, name, content) = (next(), next(), next(), next());
    let (uid, gid) = owner.split_once(':').expect("an owner");
    let metadata = Metadata {
        mode: u32::from_str_radix(mode, 8).expect("a mode"),
        uid: uid.parse().expect("a uid"),
        gid: gid.parse().expect("a gid"),
        mtime,
        xattrs: Vec::new(),
    };
    let kind = match letter {
        "d" => Kind::Directory,
        "f" => file(content),
        "l" => Kind::Symlink(target.as_bytes().to_vec()),
        "p" => Kind::Fifo,
        "c" => {
            let (major, minor) = content.split_once(',').expect("a device");
            Kind::CharacterDevice(Device { major: major.parse().expect("major"), minor: minor.parse().expect("minor") })
        }
        other => panic!("`{other}` is no kind of entry"),
    };
    Change { path: path(name), action: Action::Put(metadata, kind) }
}

fn line(change: &Change) -> String {
    let path = &change.path;
    let (metadata, kind) = match &change.action {
        Action::HardLink(target) => return format!("h {path} -> {target}"),
        Action::Whiteout => return format!("w {path}"),
        Action::Opaque => return format!("o {path}"),
        Action::Put(metadata, kind) => (metadata, kind),
    };
    let (letter, tail) = match kind {
        Kind::Directory => ('d', String::new()),
        Kind::File(content) => match &content.location {
            Location::Inline(bytes) if bytes.is_empty() => ('f', String::new()),
            Location::Inline(bytes) => ('f', format!(" {}", bytes.escape_ascii())),
            elsewhere => ('f', format!(" {elsewhere:?}")),
        },
        Kind::Symlink(target) => ('l', format!(" -> {}", target.escape_ascii())),
        Kind::CharacterDevice(device) => ('c', format!(" {},{}", device.major, device.minor)),
        Kind::BlockDevice(device) => ('b', format!(" {},{}", device.major, device.minor)),
        Kind::Fifo => ('p', String::new()),
    };
    let time = if metadata.mtime == 0 { String::new() } else { format!(" @{}", metadata.mtime) };
    format!("{letter} {:04o} {}:{} {path}{tail}{time}", metadata.mode, metadata.uid, metadata.gid)
}
