//! The files of a case on disk: a case in, its context and further directories out.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use karve_tests::archive;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use crate::corpus::{Case, Section};

/// What stands for `{{NAME}}` in files and headers.
pub(crate) type Names = BTreeMap<String, String>;

/// The name of the context among the directories of a case.
pub(crate) const CONTEXT: &str = "context";

/// Programs that compress standard input to standard output, by the word in the corpus.
const COMPRESSORS: [(&str, &[&str]); 4] =
    [("gzip", &["gzip", "--no-name"]), ("bzip2", &["bzip2"]), ("xz", &["xz"]), ("zstd", &["zstd", "--quiet"])];

/// Writes the files of a case into directories below `root`: its context, and others by their names.
pub(crate) fn write_files(case: &Case, root: &Path, names: &Names) {
    make_parents(&root.join(CONTEXT).join("Dockerfile"));
    for section in &case.sections {
        let path = place(root, &section.path);
        make_parents(&path);
        fs::write(&path, content(section, names, &case.place)).expect("the directory is ours");
        set_mode(&path, section.mode.unwrap_or(0o644));
    }
}

/// Writes what is no plain file, and what plain files have beside their content.
pub(crate) fn write_others(case: &Case, root: &Path) {
    for value in case.values("directory") {
        let (path, mode) = value.split_once(' ').unwrap_or((value, "755"));
        let path = place(root, path);
        make_parents(&path);
        fs::create_dir_all(&path).expect("the directory is ours");
        set_mode(&path, u32::from_str_radix(mode, 8).expect("a mode is octal"));
    }
    for value in case.values("link") {
        let (path, target) = value.split_once(" -> ").expect("link: PATH -> TARGET");
        let path = place(root, path);
        make_parents(&path);
        symlink(target, path).expect("the directory is ours");
    }
    for value in case.values("hardlink") {
        let (path, target) = value.split_once(" => ").expect("hardlink: PATH => TARGET");
        let path = place(root, path);
        make_parents(&path);
        fs::hard_link(place(root, target), path).expect("the target is there");
    }
    for value in case.values("fifo") {
        mknodat(CWD, place(root, value), FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("root may do all");
    }
    for value in case.values("owner") {
        let (path, owner) = value.split_once(' ').expect("owner: PATH UID:GID");
        let (user, group) = owner.split_once(':').expect("owner: PATH UID:GID");
        let [user, group] = [user, group].map(|id| Some(id.parse().expect("an owner is a number")));
        chown(place(root, path), user, group).expect("root may do all");
    }
    for value in case.values("xattr") {
        let (path, pair) = value.split_once(' ').expect("xattr: PATH NAME=VALUE");
        let (name, value) = pair.split_once('=').expect("xattr: PATH NAME=VALUE");
        let value = value.strip_prefix("0x").map_or_else(|| value.as_bytes().to_vec(), archive::binary);
        setxattr(place(root, path), name, &value, XattrFlags::empty()).expect("the file system has xattrs");
    }
}

/// Returns the names of the directories that a case has beside its context.
pub(crate) fn directories(case: &Case) -> Vec<&str> {
    let mut names: Vec<&str> =
        case.sections.iter().filter_map(|section| Some(section.path.strip_prefix('@')?.split_once('/')?.0)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Puts what names stand for in their place. `{{x*10}}` is ten times `x`; anything unknown stays as it is.
pub(crate) fn fill(text: &str, names: &Names) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let known = after.split_once("}}").and_then(|(name, after)| Some((value(name, names)?, after)));
        if let Some((value, after)) = known {
            filled.push_str(&value);
            rest = after;
        } else {
            filled.push_str("{{");
            rest = after;
        }
    }
    filled + rest
}

fn value(name: &str, names: &Names) -> Option<String> {
    let repeated = || {
        let (text, count) = name.split_once('*')?;
        Some(text.repeat(count.parse().ok()?))
    };
    names.get(name).cloned().or_else(repeated)
}

/// Returns what a file of the corpus holds.
fn content(section: &Section, names: &Names, place: &str) -> Vec<u8> {
    let mut bytes = fill(&section.text, names).into_bytes();
    for form in &section.forms {
        bytes = match form.as_str() {
            "crlf" => String::from_utf8(bytes).expect("it is text").replace('\n', "\r\n").into_bytes(),
            "bom" => ["\u{feff}".as_bytes(), &bytes].concat(),
            "unterminated" => bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec(),
            "damaged" => bytes[..bytes.len() * 2 / 3].to_vec(),
            "tar" => archive::tar(std::str::from_utf8(&bytes).expect("it is text"), place),
            compressor => compress(compressor, &bytes, place),
        };
    }
    bytes
}

fn compress(name: &str, bytes: &[u8], place: &str) -> Vec<u8> {
    let known = COMPRESSORS.iter().find(|(known, _)| *known == name);
    let (_, words) = known.unwrap_or_else(|| panic!("{place}: there is no form `{name}`"));
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
    // A few kilobytes, which its buffers take before it writes.
    child.stdin.take().expect("it is piped").write_all(bytes).expect("the compressor reads");
    child.wait_with_output().expect("a child can be waited for").stdout
}

fn place(root: &Path, path: &str) -> PathBuf {
    match path.strip_prefix('@') {
        Some(path) => root.join(path),
        None => root.join(CONTEXT).join(path),
    }
}

/// Makes the directories above a path with a mode that does not depend on whoever runs the tests.
fn make_parents(path: &Path) {
    let parent = path.parent().expect("a file has a directory");
    let missing: Vec<&Path> = parent.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    for directory in missing.into_iter().rev() {
        fs::create_dir(directory).expect("the directory is ours");
        set_mode(directory, 0o755);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the file is ours");
}
