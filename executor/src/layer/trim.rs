//! What a directory holds, and a bound -> what of it stays: the files that were not used for longest go first. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::filesystem::{
    entry::{Action, Change, Kind},
    path::TreePath,
};

/// When a file was used last: seconds since 1970 and nanoseconds.
pub type Used = (i64, u32);

/// What was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Omitted {
    /// Files, each counted once whatever its names.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Files that stay or go together.
#[derive(Default)]
struct Unit {
    used: Used,
    content: Omitted,
}

/// Adds up the bytes of files, each counted once whatever its names.
pub fn content_bytes(changes: &[Change]) -> u64 {
    changes.iter().map(size).sum()
}

/// Leaves files out, those first that were not used for longest, until the others have at most `bytes_max` bytes. `changes`
/// are sorted, each path once; `used` tells when a file was used.
///
/// A directory that nobody may write to, such as a module that Go has unpacked, is what a tool made once and relies on: it
/// stays or goes as a whole, and was used when one of its files was. Other directories go with the last that was in them;
/// those that were empty stay.
pub fn trim(changes: Vec<Change>, bytes_max: u64, used: impl Fn(&TreePath) -> Used) -> (Vec<Change>, Omitted) {
    let places = units(&changes);
    let mut units: BTreeMap<&TreePath, Unit> = BTreeMap::new();
    for (change, place) in changes.iter().zip(&places) {
        if let Action::Put(_, Kind::File(content)) = &change.action {
            let unit = units.entry(place).or_default();
            unit.used = unit.used.max(used(&change.path));
            unit.content.files += 1;
            unit.content.bytes += content.size;
        }
    }
    let mut oldest: Vec<_> = units.into_iter().filter(|(_, unit)| unit.content.bytes > 0).collect();
    oldest.sort_by(|(one, first), (other, second)| (first.used, one).cmp(&(second.used, other)));
    let (mut bytes, mut omitted, mut gone) = (content_bytes(&changes), Omitted::default(), BTreeSet::new());
    for (place, Unit { content, .. }) in oldest {
        if bytes <= bytes_max {
            break;
        }
        bytes -= content.bytes;
        omitted.files += content.files;
        omitted.bytes += content.bytes;
        gone.insert(place.clone());
    }
    let kept = kept(&changes, &places, &gone);
    let changes = changes.into_iter().zip(kept).filter_map(|(change, is_kept)| is_kept.then_some(change));
    (changes.collect(), omitted)
}

/// Says for each entry with what it stays or goes: the topmost directory around it that nobody may write to, or itself.
fn units(changes: &[Change]) -> Vec<TreePath> {
    let mut sealed: Option<&TreePath> = None;
    let mut places = Vec::with_capacity(changes.len());
    for Change { path, action } in changes {
        if sealed.is_none_or(|top| !path.starts_with(top)) {
            let is_sealed = matches!(action, Action::Put(metadata, Kind::Directory) if metadata.mode & 0o222 == 0);
            sealed = Some(path).filter(|path| is_sealed && !path.is_root());
        }
        places.push(sealed.unwrap_or(path).clone());
    }
    places
}

/// Decides about every entry, the last first: a directory comes before what is in it.
fn kept(changes: &[Change], places: &[TreePath], gone: &BTreeSet<TreePath>) -> Vec<bool> {
    let first_names: HashSet<&TreePath> =
        changes.iter().zip(places).filter(|(_, place)| gone.contains(place)).map(|(change, _)| &change.path).collect();
    let (mut parents_before, mut parents_after) = (HashSet::new(), HashSet::new());
    let mut kept = vec![false; changes.len()];
    for (number, Change { path, action }) in changes.iter().enumerate().rev() {
        let is_gone = match action {
            Action::HardLink(first) => first_names.contains(first) || first_names.contains(path),
            _ => first_names.contains(path),
        };
        kept[number] = !is_gone && (!parents_before.contains(path) || parents_after.contains(path));
        if let Some(parent) = path.parent() {
            if kept[number] {
                parents_after.insert(parent.clone());
            }
            parents_before.insert(parent);
        }
    }
    // The directory itself, if it has an entry.
    if let Some((first, Change { path, .. })) = kept.first_mut().zip(changes.first())
        && path.is_root()
    {
        *first = true;
    }
    kept
}

fn size(change: &Change) -> u64 {
    match &change.action {
        Action::Put(_, Kind::File(content)) => content.size,
        Action::Put(..) | Action::HardLink(_) | Action::Whiteout | Action::Opaque => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filesystem::entry::{FileContent, Location, Metadata};

    /// Reads a line such as `d a/b`, `r a/b` (read-only), `l a/b first/name`, `s a/b` or `12 a/b 5`: 12 bytes, used at 5.
    fn change(line: &str) -> (Change, i64) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (kind, path) = (word(), TreePath::clean(word().as_bytes()));
        let put = |mode, kind| Action::Put(Metadata { mode, ..Metadata::default() }, kind);
        let (action, used) = match kind {
            "d" => (put(0o755, Kind::Directory), 0),
            "r" => (put(0o555, Kind::Directory), 0),
            "s" => (put(0o777, Kind::Symlink(b"x".to_vec())), 0),
            "l" => (Action::HardLink(TreePath::clean(word().as_bytes())), 0),
            size => {
                let content =
                    FileContent { size: size.parse().unwrap(), digest: None, location: Location::Inline([].into()) };
                (put(0o644, Kind::File(content)), word().parse().unwrap())
            }
        };
        (Change { path, action }, used)
    }

    fn trimmed(lines: &[&str], bytes_max: u64) -> (Vec<Change>, Omitted) {
        let all: Vec<_> = lines.iter().map(|line| change(line)).collect();
        let used = |path: &TreePath| {
            let found = all.iter().find(|(change, _)| change.path == *path);
            found.map(|(_, used)| (*used, 0)).unwrap()
        };
        trim(all.iter().map(|(change, _)| change.clone()).collect(), bytes_max, used)
    }

    #[track_caller]
    fn check(lines: &[&str], bytes_max: u64, gone: &[&str]) {
        let (changes, omitted) = trimmed(lines, bytes_max);
        let kept: HashSet<_> = changes.iter().map(|change| &change.path).collect();
        let missing = lines.iter().filter(|line| !kept.contains(&change(line).0.path));
        assert_eq!(missing.copied().collect::<Vec<_>>(), gone);
        let sizes = gone.iter().map(|line| size(&change(line).0)).filter(|size| *size > 0);
        assert_eq!(omitted.bytes, sizes.clone().sum::<u64>());
        assert_eq!(omitted.files, sizes.count() as u64);
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_must() {
        let files = ["5 a 30", "5 b 10", "5 c 20"];
        check(&files, 15, &[]);
        check(&files, 14, &["5 b 10"]);
        check(&files, 10, &["5 b 10"]);
        check(&files, 5, &["5 b 10", "5 c 20"]);
        check(&files, 0, &files);
        check(&["0 empty 1", "5 a 2"], 0, &["5 a 2"]);
        check(&["5 b 10", "5 c 10"], 5, &["5 b 10"]);
    }

    #[test]
    fn directories_go_with_the_last_that_was_in_them() {
        let tree = ["d .", "d a", "d a/b", "5 a/b/c 1", "d e", "d f", "5 f/g 2", "s f/h"];
        check(&tree, 5, &["d a", "d a/b", "5 a/b/c 1"]);
        check(&tree, 0, &["d a", "d a/b", "5 a/b/c 1", "5 f/g 2"]);
        check(&["d .", "5 a 1"], 0, &["5 a 1"]);
    }

    #[test]
    fn names_of_one_file_go_together_and_it_counts_once() {
        let tree = ["d a", "5 a/one 1", "l a/two a/one", "d b", "l b/three a/one", "5 c 2"];
        check(&tree, 10, &[]);
        check(&tree, 9, &["d a", "5 a/one 1", "l a/two a/one", "d b", "l b/three a/one"]);
    }

    #[test]
    fn what_is_read_only_stays_or_goes_as_a_whole() {
        let tree = ["5 a 3", "r m", "5 m/a 1", "d m/d", "s m/d/s", "5 m/new 9", "d n", "5 n/a 1"];
        check(&tree, 15, &["d n", "5 n/a 1"]);
        check(&tree, 10, &["5 a 3", "d n", "5 n/a 1"]);
        check(&tree, 9, &["5 a 3", "r m", "5 m/a 1", "d m/d", "s m/d/s", "5 m/new 9", "d n", "5 n/a 1"]);
        // But not the cache itself.
        check(&["r .", "5 a 3", "5 b 1"], 5, &["5 b 1"]);
    }

    proptest! {
        #[test]
        fn what_stays_fits_and_was_used_after_what_goes(
            files in proptest::collection::btree_map("[a-c](/[a-c]){0,2}/f", (1_u64..9, 0_i64..9), 1..20),
            bytes_max in 0_u64..60,
        ) {
            let lines: Vec<_> = files.iter().map(|(path, (size, used))| format!("{size} {path} {used}")).collect();
            let mut lines: Vec<_> = lines.iter().map(String::as_str).collect();
            lines.sort_by_key(|line| change(line).0.path);
            let (changes, omitted) = trimmed(&lines, bytes_max);
            let kept: HashSet<_> = changes.iter().map(|change| &change.path).collect();
            let (stay, go): (Vec<_>, Vec<_>) = lines.iter().map(|line| change(line)).partition(|(change, _)| kept.contains(&change.path));
            let total: u64 = stay.iter().map(|(change, _)| size(change)).sum();
            prop_assert!(total <= bytes_max);
            prop_assert_eq!(omitted.bytes, go.iter().map(|(change, _)| size(change)).sum::<u64>());
            let newest = go.iter().max_by_key(|(change, used)| (*used, change.path.clone()));
            if let Some((last, used)) = newest {
                // Without the last that went it would have been too much.
                prop_assert!(total + size(last) > bytes_max);
                prop_assert!(stay.iter().all(|(_, other)| other >= used));
            }
        }
    }
}
