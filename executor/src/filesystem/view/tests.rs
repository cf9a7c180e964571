//! Layers on layers, checked against tables and against a map from paths to entries that knows nothing of trees.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::filesystem::notation::{self, path};

/// Checks what the layers, which `---` separates, make of an empty root; an error begins with `error:`.
#[track_caller]
fn check(layers: &str, expected: &str) {
    let mut view = View::empty();
    for layer in layers.split("---") {
        if let Err(error) = view.apply(&notation::changes(layer)) {
            assert_eq!(format!("error: {error}"), expected.trim());
            return;
        }
    }
    let expected: String = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(notation::view_text(&view), expected);
    let mut again = View::empty();
    again.apply(&view.changes()).expect("a view's own changes");
    assert_eq!(again.changes(), view.changes());
}

#[test]
fn whiteouts_hit_lower_layers_only_wherever_they_stand() {
    check("f 0644 0:0 /a one --- w /a", "");
    check("f 0644 0:0 /a one --- f 0600 0:0 /a two\nw /a", "f 0600 0:0 /a two");
    check("f 0644 0:0 /a one --- w /a\nf 0600 0:0 /a two", "f 0600 0:0 /a two");
    check("d 0700 0:0 /d\nf 0644 0:0 /d/a --- w /d\nd 0755 0:0 /d", "d 0755 0:0 /d");
    check("f 0644 0:0 /a --- w /b", "f 0644 0:0 /a");
    check("f 0644 0:0 /a --- h /b -> /a --- w /a", "f 0644 0:0 /b");
}

#[test]
fn opaque_directories_forget_what_is_below_them_and_keep_their_own() {
    check(
        "d 0700 0:0 /d\nf 0644 0:0 /d/a\nf 0644 0:0 /d/b --- f 0644 0:0 /d/c\no /d",
        "d 0700 0:0 /d\nf 0644 0:0 /d/c",
    );
    check("f 0644 0:0 /a --- o /\nf 0644 0:0 /b", "f 0644 0:0 /b");
    check("l 0777 0:0 /d -> e --- o /d", "d 0755 0:0 /d");
}

#[test]
fn a_parent_without_an_entry_is_the_lower_directory_or_a_new_one() {
    check("d 0700 5:5 /d @9 --- f 0644 0:0 /d/a", "d 0700 5:5 /d @9\nf 0644 0:0 /d/a");
    check(
        "d 0755 0:0 /usr\nl 0777 0:0 /d -> usr --- f 0644 0:0 /d/a",
        "d 0755 0:0 /d\nf 0644 0:0 /d/a\nd 0755 0:0 /usr",
    );
    check("f 0600 5:5 /d --- f 0644 0:0 /d/e/a", "d 0755 0:0 /d\nd 0755 0:0 /d/e\nf 0644 0:0 /d/e/a");
    check("f 0600 5:5 /d --- w /d/e", "d 0755 0:0 /d");
}

#[test]
fn symlinks_of_the_same_layer_are_followed() {
    check(
        "l 0777 0:0 /lib -> usr/lib\nf 0644 0:0 /lib/a",
        "l 0777 0:0 /lib -> usr/lib\nd 0755 0:0 /usr\nd 0755 0:0 /usr/lib\nf 0644 0:0 /usr/lib/a",
    );
    check(
        "d 0755 0:0 /a\nl 0777 0:0 /a/b -> /../c\nd 0700 0:0 /a/b/d",
        "d 0755 0:0 /a\nl 0777 0:0 /a/b -> /../c\nd 0755 0:0 /c\nd 0700 0:0 /c/d",
    );
    check("l 0777 0:0 /a -> b\nl 0777 0:0 /b -> a\nf 0644 0:0 /a/x", "error: /a/x leads through more than 40 symlinks");
    check(
        "f 0644 0:0 /a\nf 0644 0:0 /a/b",
        "error: /a/b lies below /a, which the same layer makes something other than a directory",
    );
    // What an own file hid is no longer in the way when the file itself is gone.
    check(
        "l 0777 0:0 /a/l -> x\nf 0644 0:0 /a\nd 0755 0:0 /a\nf 0644 0:0 /a/l/y",
        "d 0755 0:0 /a\nd 0755 0:0 /a/l\nf 0644 0:0 /a/l/y",
    );
}

#[test]
fn the_last_entry_of_a_path_wins_and_only_directories_merge() {
    check("d 0755 0:0 /d\nf 0644 0:0 /d/a --- d 0700 1:2 /d", "d 0700 1:2 /d\nf 0644 0:0 /d/a");
    check("d 0755 0:0 /d\nf 0644 0:0 /d/a --- f 0600 0:0 /d", "f 0600 0:0 /d");
    check("d 0755 0:0 /d\nf 0644 0:0 /d/a --- f 0600 0:0 /d\nd 0755 0:0 /d", "d 0755 0:0 /d");
    check("d 0711 1:1 /", "");
}

#[test]
fn hard_links_share_their_file() {
    check("f 0644 0:0 /a x\nh /b -> /a --- h /0 -> /b", "f 0644 0:0 /0 x\nh /a -> /0\nh /b -> /0");
    check("f 0644 0:0 /a x\nh /b -> /a --- f 0644 0:0 /a y", "f 0644 0:0 /a y\nf 0644 0:0 /b x");
    check("f 0644 0:0 /a x\nh /a -> /a", "f 0644 0:0 /a x");
    check("h /b -> /a", "error: hard link /b names /a, which is neither in this layer nor below it");
    check("d 0755 0:0 /a\nh /b -> /a", "error: hard link /b names /a, which is a directory");
}

#[test]
fn a_part_of_a_view_moves_elsewhere_with_its_hard_links() {
    let view = notation::view(
        "f 0644 0:0 /a one\nd 0700 1:1 /d\nd 0755 0:0 /d/e\nh /d/e/b -> /a\nh /d/e/c -> /a\nl 0777 0:0 /d/l -> /a",
    );
    let at = |start: &str| notation::text(&view.changes_at(&path(start), &path("/part")));
    assert_eq!(
        at("/d"),
        "d 0700 1:1 /part\nd 0755 0:0 /part/e\nf 0644 0:0 /part/e/b one\nh /part/e/c -> /part/e/b\n\
         l 0777 0:0 /part/l -> /a\n"
    );
    assert_eq!(at("/d/e/c"), "f 0644 0:0 /part one\n");
    assert_eq!(at("/none"), "");
    assert!(at("/").starts_with("d 0755 0:0 /part\nf 0644 0:0 /part/a one\n"));
}

#[test]
fn the_root_stays_and_paths_have_a_limit() {
    check("f 0644 0:0 /", "error: a layer may neither remove the root directory nor replace it by something else");
    check("w /", "error: a layer may neither remove the root directory nor replace it by something else");
    let long = "a/".repeat(2049);
    check(
        &format!("f 0644 0:0 /{long}"),
        &format!("error: a path of 4097 bytes exceeds the limit of 4096: {}…", "a/".repeat(32)),
    );
}

/// Checks where a path leads from `/base`, with and without its last component followed.
#[track_caller]
fn check_resolve(text: &str, followed: &str, not_followed: &str) {
    let view = notation::view(
        "d 0755 0:0 /base\nd 0755 0:0 /base/d\nf 0644 0:0 /base/f\nl 0777 0:0 /base/up -> ../../../usr
         l 0777 0:0 /base/abs -> /usr/bin\nl 0777 0:0 /base/dangling -> /nowhere/x\nl 0777 0:0 /loop -> loop
         d 0755 0:0 /usr\nd 0755 0:0 /usr/bin\nf 0755 0:0 /usr/bin/sh\nl 0777 0:0 /sh -> base/abs/sh",
    );
    let show = |resolved: Result<Resolved<'_>, ResolveError>| match resolved {
        Ok(resolved) => match resolved.node {
            Some(node) => format!("{} {}", resolved.path, if node.is_directory() { "directory" } else { "file" }),
            None => format!("{} missing", resolved.path),
        },
        Err(error) => error.to_string(),
    };
    let base = path("/base");
    assert_eq!(show(view.resolve(text.as_bytes(), &base)), followed, "{text}");
    assert_eq!(show(view.resolve_entry(text.as_bytes(), &base)), not_followed, "{text}");
}

#[test]
fn paths_resolve_inside_the_root() {
    check_resolve("d", "/base/d directory", "/base/d directory");
    check_resolve("", "/base directory", "/base directory");
    check_resolve("../../..", "/ directory", "/ directory");
    check_resolve("up", "/usr directory", "/base/up file");
    check_resolve("abs/sh", "/usr/bin/sh file", "/usr/bin/sh file");
    check_resolve("/sh", "/usr/bin/sh file", "/sh file");
    check_resolve("abs/../x/y", "/usr/x/y missing", "/usr/x/y missing");
    check_resolve("dangling", "/nowhere/x missing", "/base/dangling file");
    check_resolve("dangling/y/../z", "/nowhere/x/z missing", "/nowhere/x/z missing");
    check_resolve("/loop", "/loop leads through more than 40 symlinks", "/loop file");
    check_resolve(
        "f/x",
        "/base/f/x leads through /base/f, which is not a directory",
        "/base/f/x leads through /base/f, which is not a directory",
    );
}

#[test]
fn a_clone_keeps_what_it_was() {
    let before = notation::view("d 0755 0:0 /a\nf 0644 0:0 /a/b x");
    let text = notation::view_text(&before);
    let mut after = before.clone();
    after.apply(&notation::changes("w /a/b\nf 0644 0:0 /c")).expect("a layer");
    assert_eq!(notation::view_text(&before), text);
    assert_eq!(notation::view_text(&after), "d 0755 0:0 /a\nf 0644 0:0 /c\n");
    assert_eq!(before.read_inline(&path("/a/b")), Some(&b"x"[..]));
    assert_eq!(before.walk(&path("/nothing")).count(), 0);
}

/// The model: every path with its entry and the number of its file.
#[derive(Clone, Default)]
struct Model {
    entries: BTreeMap<TreePath, (Metadata, Kind, usize)>,
    files: usize,
}

impl Model {
    /// Applies a layer strictly in order; `own` tells what the layer itself has made. `false` where a layer is refused.
    fn apply(&mut self, layer: &[Change]) -> bool {
        let mut own: BTreeSet<TreePath> = BTreeSet::new();
        layer.iter().all(|change| self.apply_one(change, &mut own))
    }

    /// Applies what it can of a layer and returns that.
    fn accept(&mut self, layer: &[Change]) -> Vec<Change> {
        let mut own = BTreeSet::new();
        let mut accepted = layer.to_vec();
        accepted.retain(|change| {
            let before = self.clone();
            let fits = self.apply_one(change, &mut own);
            if !fits {
                *self = before;
            }
            fits
        });
        accepted
    }

    fn apply_one(&mut self, change: &Change, own: &mut BTreeSet<TreePath>) -> bool {
        let path = &change.path;
        let ancestors = std::iter::successors(path.parent(), TreePath::parent).filter(|parent| !parent.is_root());
        for parent in ancestors.collect::<Vec<_>>().into_iter().rev() {
            match self.entries.get(&parent) {
                Some((_, Kind::Directory, _)) => {}
                Some(_) if own.contains(&parent) => return false,
                _ => self.put(&parent, Metadata::directory(0), Kind::Directory, 0),
            }
            own.insert(parent);
        }
        match &change.action {
            Action::Put(metadata, kind) => {
                self.files += 1;
                self.put(path, metadata.clone(), kind.clone(), self.files);
                own.insert(path.clone());
            }
            Action::HardLink(target) => match self.entries.get(target).cloned() {
                None | Some((_, Kind::Directory, _)) => return false,
                Some((metadata, kind, file)) => {
                    self.put(path, metadata, kind, file);
                    own.insert(path.clone());
                }
            },
            Action::Whiteout => self.entries.retain(|other, _| !other.starts_with(path) || own.contains(other)),
            Action::Opaque => {
                if !matches!(self.entries.get(path), Some((_, Kind::Directory, _))) {
                    self.put(path, Metadata::directory(0), Kind::Directory, 0);
                }
                own.insert(path.clone());
                self.entries.retain(|other, _| other == path || !other.starts_with(path) || own.contains(other));
            }
        }
        true
    }

    fn put(&mut self, path: &TreePath, metadata: Metadata, kind: Kind, file: usize) {
        if kind != Kind::Directory || !matches!(self.entries.get(path), Some((_, Kind::Directory, _))) {
            self.entries.retain(|other, _| !other.starts_with(path));
        }
        self.entries.insert(path.clone(), (metadata, kind, file));
    }

    fn changes(&self) -> Vec<Change> {
        let mut names: BTreeMap<usize, TreePath> = BTreeMap::new();
        let describe = |(path, (metadata, kind, file)): (&TreePath, &(Metadata, Kind, usize))| {
            let first = names.entry(*file).or_insert_with(|| path.clone()).clone();
            let action = if *kind == Kind::Directory || first == *path {
                Action::Put(metadata.clone(), kind.clone())
            } else {
                Action::HardLink(first)
            };
            Change { path: path.clone(), action }
        };
        self.entries.iter().map(describe).collect()
    }
}

fn any_path() -> impl Strategy<Value = TreePath> {
    prop::collection::vec("[abc]", 1..4).prop_map(|names| path(&names.join("/")))
}

/// A layer with its removals first, those of a directory before those below it: what a removal hits is then below the layer
/// for the model too.
fn any_layer() -> impl Strategy<Value = Vec<Change>> {
    let put = (any_path(), 0u32..0o10000, prop_oneof![3 => Just(None), 2 => "[xyz]".prop_map(Some)]).prop_map(
        |(path, mode, content)| {
            let kind = content.map_or(Kind::Directory, |content| notation::file(&content));
            Change { path, action: Action::Put(Metadata { mode, ..Metadata::default() }, kind) }
        },
    );
    let link = (any_path(), any_path()).prop_map(|(path, target)| Change { path, action: Action::HardLink(target) });
    let removal = (any_path(), any::<bool>())
        .prop_map(|(path, opaque)| Change { path, action: if opaque { Action::Opaque } else { Action::Whiteout } });
    let additions = prop::collection::vec(prop_oneof![4 => put, 1 => link], 0..12);
    (prop::collection::vec(removal, 0..4), additions).prop_map(|(mut removals, additions)| {
        removals.sort_by_key(|change| (change.path.clone(), change.action == Action::Opaque));
        [removals, additions].concat()
    })
}

/// Makes the tree on disk and returns where the kernel says that a path leads when the directory is its root.
fn kernel_resolve(entries: &[(TreePath, Option<String>)], text: &str) -> Result<TreePath, rustix::io::Errno> {
    use rustix::fs::OFlags;

    let directory = tempfile::tempdir().expect("a temporary directory");
    for (path, target) in entries {
        let path = directory.path().join(std::str::from_utf8(path.as_bytes()).expect("text"));
        match target.as_deref() {
            None => std::fs::create_dir_all(path).expect("a directory"),
            Some("") => std::fs::write(path, "").expect("a file"),
            Some(target) => std::os::unix::fs::symlink(target, path).expect("a symlink"),
        }
    }
    let root = std::fs::File::open(directory.path()).expect("the directory");
    let open = |path: &str| crate::in_root::open_in_root(&root, path, OFlags::PATH | OFlags::CLOEXEC);
    let place = |descriptor: std::os::fd::OwnedFd| {
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor));
        TreePath::clean(std::fs::read_link(link).expect("procfs").as_os_str().as_encoded_bytes())
    };
    let (root, found) = (place(open(".")?), place(open(text)?));
    Ok(found.relative_to(&root).expect("nothing leaves the root"))
}

proptest! {
    #[test]
    fn paths_lead_where_the_kernel_says(
        links in prop::collection::vec("(/|)([abcd.]|\\.\\.)(/([abcd]|\\.\\.)){0,2}", 4),
        text in "(/|)([abcd]|\\.\\.)(/([abcd]|\\.\\.)){0,4}",
    ) {
        let names = ["a", "a/b", "a/c", "b", "a/b/d", "c", "a/b/a", "d"].map(path);
        let targets = [None, None, Some(&links[0]), Some(&links[1]), Some(&String::new()), None, Some(&links[2]), Some(&links[3])];
        let entries: Vec<(TreePath, Option<String>)> = names.into_iter().zip(targets.map(Option::<&String>::cloned)).collect();
        let mut view = View::empty();
        for (path, target) in &entries {
            let kind = match target.as_deref() {
                None => Kind::Directory,
                Some("") => notation::file(""),
                Some(target) => Kind::Symlink(target.as_bytes().to_vec()),
            };
            let change = Change { path: path.clone(), action: Action::Put(Metadata::default(), kind) };
            view.apply(&[change]).expect("an entry");
        }
        let ours = view.resolve(text.as_bytes(), &TreePath::ROOT);
        match kernel_resolve(&entries, &text) {
            Ok(found) => {
                let ours = ours.expect("the kernel found it");
                prop_assert_eq!(ours.path, found);
                prop_assert!(ours.node.is_some());
            }
            Err(rustix::io::Errno::LOOP) => {
                let looped = matches!(ours, Err(ResolveError::TooManyLinks { .. }));
                prop_assert!(looped, "{:?}", ours);
            }
            Err(rustix::io::Errno::NOTDIR) => {
                let refused = matches!(ours, Err(ResolveError::NotADirectory { .. }));
                prop_assert!(refused, "{:?}", ours);
            }
            // What is missing is ours to create, unless the rest of the path leads back.
            Err(error) => prop_assert_eq!(error, rustix::io::Errno::NOENT),
        }
    }

    #[test]
    fn layers_do_to_a_view_what_they_do_to_a_map_of_paths(layers in prop::collection::vec(any_layer(), 1..5)) {
        let (mut view, mut model) = (View::empty(), Model::default());
        for layer in &layers {
            prop_assert_eq!(view.clone().apply(layer).is_ok(), model.clone().apply(layer));
            let accepted = model.accept(layer);
            prop_assert_eq!(view.apply(&accepted), Ok(()));
            let changes = view.changes();
            prop_assert_eq!(notation::text(&changes[1..]), notation::text(&model.changes()));
        }
    }

    #[test]
    fn whiteouts_mean_the_same_anywhere_in_a_layer(
        lower in any_layer(), layer in any_layer(), places in prop::collection::vec(0usize..100, 4),
    ) {
        let mut model = Model::default();
        let lower = model.accept(&lower);
        let layer = model.accept(&layer);
        let mut below = View::empty();
        prop_assert_eq!(below.apply(&lower), Ok(()));
        let mut first = below.clone();
        prop_assert_eq!(first.apply(&layer), Ok(()));
        let (removals, mut mixed): (Vec<Change>, Vec<Change>) =
            layer.into_iter().partition(|change| matches!(change.action, Action::Whiteout));
        for (removal, place) in removals.into_iter().zip(places) {
            // A whiteout below a file of its own layer is refused behind that file.
            let limit = mixed.iter().position(|change| removal.path.starts_with(&change.path) && removal.path != change.path);
            mixed.insert(place % (limit.unwrap_or(mixed.len()) + 1), removal);
        }
        let mut second = below;
        prop_assert_eq!(second.apply(&mixed), Ok(()));
        prop_assert_eq!(notation::view_text(&first), notation::view_text(&second));
    }

    #[test]
    fn resolving_never_leaves_the_tree(targets in prop::collection::vec("[ab./]{1,6}", 3), text in "[abc./]{0,10}") {
        let mut view = View::empty();
        let links = ["a", "b", "c/a"].iter().zip(&targets).map(|(name, target)| Change {
            path: path(name),
            action: Action::Put(Metadata::default(), Kind::Symlink(target.as_bytes().to_vec())),
        });
        view.apply(&links.collect::<Vec<_>>()).expect("links");
        if let Ok(resolved) = view.resolve(text.as_bytes(), &TreePath::ROOT) {
            prop_assert_eq!(&TreePath::clean(resolved.path.as_bytes()), &resolved.path);
            prop_assert!(resolved.node.is_none_or(|node| node.symlink_target().is_none()));
        }
    }
}
