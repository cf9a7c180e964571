//! The corpus's files: text in, cases out. What cannot be read panics with file and line.
//!
//! The form is described in `tests/corpus/README.md`, for those who write cases.

use std::{fs, path::PathBuf};

/// What a case may say before its files.
const KEYS: [&str; 22] = [
    "criteria",
    "because",
    // How it is built.
    "arg",
    "label",
    "target",
    "platform",
    "dockerfile",
    "secret",
    "ssh",
    "build-context",
    // What its context holds beside the files below.
    "directory",
    "link",
    "hardlink",
    "fifo",
    "owner",
    "xattr",
    // What comes out.
    "fails",
    "buildkit",
    "differs",
    "expect",
    "warns",
    "buildkit-warns",
];

/// One Dockerfile with all that belongs to it.
#[derive(Debug, Default)]
pub(crate) struct Case {
    /// Unique in the corpus; part of the names of images.
    pub name: String,
    /// File and line.
    pub place: String,
    headers: Vec<(String, String)>,
    /// Files, in their order.
    pub sections: Vec<Section>,
}

/// A file of a case.
#[derive(Debug)]
pub(crate) struct Section {
    /// Below the context; `@NAME/…` is in another directory.
    pub path: String,
    pub mode: Option<u32>,
    /// What is to be done with the text: `crlf`, `gzip`, …
    pub forms: Vec<String>,
    pub text: String,
}

impl Case {
    /// Returns the values of a header, in their order.
    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        debug_assert!(KEYS.contains(&key), "`{key}` is no header");
        self.headers.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a header that stands at most once.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        let mut values = self.values(key);
        let value = values.next();
        assert!(values.next().is_none(), "{}: more than one `{key}`", self.place);
        value
    }

    /// Panics at what makes no sense, so that a misspelt case cannot pass.
    fn validate(&self) {
        let place = &self.place;
        assert!(self.values("criteria").next().is_some(), "{place}: no `criteria`");
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(self.name.bytes().all(plain), "{place}: a name is of a-z, 0-9 and -");
        assert!(self.name.len() <= 100, "{place}: the name is too long for a repository");
        let deviates = ["differs", "buildkit", "buildkit-warns"].iter().any(|key| self.values(key).next().is_some());
        assert_eq!(
            deviates,
            self.value("because").is_some(),
            "{place}: `because` tells why Karve deviates, and only that"
        );
        assert!(!self.sections.is_empty(), "{place}: no files");
    }
}

/// Returns the names of the folders, sorted.
pub(crate) fn folders() -> Vec<String> {
    let entries = fs::read_dir(directory()).expect("the corpus is beside the tests").map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Reads all cases of a folder.
pub(crate) fn folder(name: &str) -> Vec<Case> {
    let entries = fs::read_dir(directory().join(name)).expect("the corpus has the folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let cases: Vec<Case> = paths
        .iter()
        .flat_map(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            parse(&format!("corpus/{name}/{file}"), &fs::read_to_string(path).expect("a file of the corpus is text"))
        })
        .collect();
    for (index, case) in cases.iter().enumerate() {
        case.validate();
        assert!(cases[..index].iter().all(|other| other.name != case.name), "{}: the name is taken", case.place);
    }
    cases
}

/// Reads the images that cases build on.
pub(crate) fn bases() -> Vec<Case> {
    let text = fs::read_to_string(directory().join("bases.txt")).expect("the corpus has base images");
    parse("corpus/bases.txt", &text)
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Reads the cases of a file.
fn parse(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let place = format!("{file}:{}", index + 1);
        let bare = line.trim_end_matches('\n');
        if let Some(name) = bare.strip_prefix("=== ") {
            cases.push(Case { name: name.to_owned(), place, ..Case::default() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue }; // words about the file
        if let Some(head) = bare.strip_prefix("--- ") {
            case.sections.push(section(head, &place));
        } else if let Some(section) = case.sections.last_mut() {
            section.text.push_str(line);
        } else if !bare.is_empty() && !bare.starts_with("# ") {
            let (key, value) =
                bare.split_once(':').unwrap_or_else(|| panic!("{place}: neither `key: value` nor a file"));
            assert!(KEYS.contains(&key), "{place}: there is no `{key}`");
            case.headers.push((key.to_owned(), value.trim().to_owned()));
        }
    }
    for section in cases.iter_mut().flat_map(|case| &mut case.sections) {
        // One empty line is what keeps it apart from the next header.
        if section.text.ends_with("\n\n") {
            section.text.pop();
        } else if section.text == "\n" {
            section.text.clear();
        }
    }
    cases
}

/// Reads `PATH [MODE] [(FORM…)]`.
fn section(head: &str, place: &str) -> Section {
    let (words, forms) = head.split_once(" (").unwrap_or((head, ")"));
    let forms = forms.strip_suffix(')').unwrap_or_else(|| panic!("{place}: no `)`"));
    let mode = |word: &str| u32::from_str_radix(word, 8).ok();
    let (path, mode) = match words.rsplit_once(' ').map(|(path, last)| (path, mode(last))) {
        Some((path, Some(mode))) => (path, Some(mode)),
        _ => (words, None), // a path may have blanks
    };
    let forms = forms.split_whitespace().map(str::to_owned).collect();
    Section { path: path.to_owned(), mode, forms, text: String::new() }
}
