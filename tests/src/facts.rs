//! An image as facts that can be compared: a reference in, subjects with attributes out. A subject is a path of the merged
//! file system, a layer, the configuration, or one record of the history. Times are left out.
//!
//! [`differences`](crate::compare::differences) lays two images side by side.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::Hasher as _,
    io::Read as _,
    path::Path,
    rc::Rc,
};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::{
    layout::Layout,
    registry::RegistryClient,
    tar::{self, Entry},
};

/// What is known of an image: attributes by subject.
pub type Facts = BTreeMap<String, Attributes>;

/// Values by the names of attributes.
pub type Attributes = BTreeMap<String, String>;

/// Longer contents are shown by their length and hash.
const SHOWN_BYTES_MAX: usize = 2_000;

/// Files by path; names of one file share their entry.
type Files = BTreeMap<String, Rc<Entry>>;

/// Reads an image by its tag; panics when the registry has none.
pub fn of_registry(registry: &RegistryClient, repository: &str, tag: &str) -> Facts {
    let manifest = registry.manifest(repository, tag).unwrap_or_else(|| panic!("the registry has no {repository}"));
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    of_manifest(&manifest, |digest| registry.blob(repository, digest).expect("a registry has the blobs of a manifest"))
}

/// Reads the image of an OCI layout with the tag; panics when there is none.
pub fn of_layout(layout: &Path, tag: &str) -> Facts {
    let layout = Layout::at(layout);
    of_manifest(&layout.manifest(tag), |digest| layout.blob(digest))
}

fn of_manifest(manifest: &Value, blob: impl Fn(&str) -> Vec<u8>) -> Facts {
    let blob = |descriptor: &Value| blob(descriptor["digest"].as_str().expect("a descriptor has a digest"));
    let config: Value = serde_json::from_slice(&blob(&manifest["config"])).expect("a configuration is JSON");
    let mut facts = Facts::new();
    let mut files = Files::new();
    // The list is null in an image without layers.
    for (index, descriptor) in manifest["layers"].as_array().into_iter().flatten().enumerate() {
        let mut changes = apply(&mut files, tar::entries(&unpacked(&blob(descriptor))));
        changes.insert("media type".into(), descriptor["mediaType"].to_string());
        facts.insert(format!("layer {index}"), changes);
    }
    facts.extend(files_facts(&files));
    facts.extend(config_facts(&config));
    facts
}

/// The first bytes of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Returns the tar of a layer, which is compressed by gzip or not at all.
fn unpacked(blob: &[u8]) -> Vec<u8> {
    if !blob.starts_with(&GZIP) {
        return blob.to_vec();
    }
    let mut tar = Vec::new();
    MultiGzDecoder::new(blob).read_to_end(&mut tar).expect("a layer is compressed by gzip");
    tar
}

/// Puts a layer on top; returns what it changes: `written` for files, and for directories that were not there or were
/// different, `removed` for what is gone. Whether a layer repeats the directories above its files is left open.
fn apply(files: &mut Files, entries: Vec<Entry>) -> Attributes {
    let (whiteouts, entries): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| name(&entry.path).starts_with(".wh."));
    let mut changes = Attributes::new();
    for entry in &whiteouts {
        let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        let parent = if parent.is_empty() { String::new() } else { format!("/{parent}") };
        let hidden: Vec<String> = match name {
            ".wh..wh..opq" => children(files, &parent),
            name => vec![format!("{parent}/{}", &name[4..])],
        };
        for path in hidden {
            let change = if files.contains_key(&path) { "removed" } else { "removed, though it is not there" };
            changes.insert(path.clone(), change.into());
            remove(files, &path);
        }
    }
    for entry in entries.into_iter().filter(|entry| !entry.path.is_empty()) {
        let path = format!("/{}", entry.path);
        let node = if entry.kind == b'1' {
            let target = format!("/{}", entry.target.trim_start_matches("./").trim_matches('/'));
            Rc::clone(files.get(&target).unwrap_or_else(|| panic!("{path} is a hard link to nothing: {target}")))
        } else {
            Rc::new(entry)
        };
        let below = files.get(&path);
        if node.kind != b'5' || below.is_none_or(|below| attributes(below) != attributes(&node)) {
            changes.insert(path.clone(), "written".into());
        }
        if node.kind != b'5' {
            remove(files, &path);
        }
        files.insert(path, node);
    }
    changes
}

/// Removes a path and all below it.
fn remove(files: &mut Files, path: &str) {
    files.remove(path);
    let below = format!("{path}/");
    files.retain(|path, _| !path.starts_with(&below));
}

fn children(files: &Files, parent: &str) -> Vec<String> {
    let below = format!("{parent}/");
    files.keys().filter(|path| path.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'))).cloned().collect()
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn files_facts(files: &Files) -> Facts {
    let mut names: BTreeMap<*const Entry, BTreeSet<&str>> = BTreeMap::new();
    for (path, entry) in files {
        names.entry(Rc::as_ptr(entry)).or_default().insert(path);
    }
    let facts = files.iter().map(|(path, entry)| {
        let mut attributes = attributes(entry);
        let same = &names[&Rc::as_ptr(entry)];
        if same.len() > 1 {
            attributes.insert("links".into(), same.iter().copied().collect::<Vec<_>>().join(" "));
        }
        (path.clone(), attributes)
    });
    facts.collect()
}

fn attributes(entry: &Entry) -> Attributes {
    let kind = match entry.kind {
        b'0' | b'7' => "file",
        b'2' => "link",
        b'3' => "character device",
        b'4' => "block device",
        b'5' => "directory",
        b'6' => "fifo",
        _ => "unknown",
    };
    let mut attributes = Attributes::from([
        ("type".to_owned(), kind.to_owned()),
        ("owner".to_owned(), format!("{}:{}", entry.uid, entry.gid)),
    ]);
    let mut put = |name: &str, value: String| attributes.insert(name.to_owned(), value);
    match entry.kind {
        b'2' => drop(put("target", entry.target.clone())),
        b'3' | b'4' => drop(put("device", format!("{}:{}", entry.device.0, entry.device.1))),
        b'0' | b'7' => drop(put("content", shown(&entry.content))),
        _ => {}
    }
    if entry.kind != b'2' {
        // A symbolic link has no mode that anybody could see.
        put("mode", format!("{:o}", entry.mode));
    }
    attributes.extend(entry.xattrs.iter().map(|(name, value)| (name.clone(), format!("{value:?}"))));
    attributes
}

fn shown(content: &[u8]) -> String {
    if content.len() <= SHOWN_BYTES_MAX {
        let text = str::from_utf8(content).map_or_else(|_| content.escape_ascii().to_string(), str::to_owned);
        return format!("{text:?}");
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(content);
    format!("{} bytes, {:016x}", content.len(), hasher.finish())
}

/// Takes the configuration apart. An absent value and one that is null are the same.
fn config_facts(config: &Value) -> Facts {
    let texts = |value: &Value, left_out: &[&str]| -> Attributes {
        let fields = value.as_object().into_iter().flatten();
        let fields = fields.filter(|(name, value)| !value.is_null() && !left_out.contains(&name.as_str()));
        fields.map(|(name, value)| (name.clone(), value.to_string())).collect()
    };
    // What was built is in the other facts; BuildKit's own notes about a cache are none of the image's.
    let mut facts = Facts::from([
        ("image".to_owned(), texts(config, &["config", "history", "rootfs", "created"])),
        ("config".to_owned(), texts(&config["config"], &["ArgsEscaped"])),
    ]);
    for (index, record) in config["history"].as_array().into_iter().flatten().enumerate() {
        facts.insert(format!("history {index}"), texts(record, &["created"]));
    }
    facts
}
