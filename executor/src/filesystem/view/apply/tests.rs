//! Layers as they are applied, checked against the same rules without a shortcut: the same view or the same error.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::filesystem::{entry::Metadata, notation};

/// Applies a layer change by change, each from the root.
fn apply_simply(view: &mut View, layer: &[Change]) -> Result<(), ViewError> {
    layer.iter().try_for_each(|change| view.remove_lower(change))?;
    let mut own = BTreeSet::new();
    for Change { path: name, action } in layer {
        let path = locate_simply(view, name, &own)?;
        view.make_directory(&path.parent().unwrap_or_default());
        let node = match action {
            Action::Put(metadata, Kind::Directory) => {
                own.remove(&path);
                view.make_directory(&path).metadata = metadata.clone();
                continue;
            }
            Action::Put(metadata, kind) => Node::new(metadata.clone(), kind.clone()),
            Action::HardLink(target) => {
                let (path, target_path) = (name.clone(), locate_simply(view, target, &own)?);
                match view.get(&target_path).cloned() {
                    Some(node @ Node::File(_)) => node,
                    Some(_) => return Err(ViewError::DirectoryTarget { path, target: target.clone() }),
                    None => return Err(ViewError::MissingTarget { path, target: target.clone() }),
                }
            }
            Action::Opaque => {
                let marker = locate_simply(view, &name.child(OPAQUE_MARKER), &own)?;
                view.make_directory(&marker.parent().unwrap_or_default());
                continue;
            }
            Action::Whiteout => continue,
        };
        if path.is_root() {
            return Err(ViewError::Root);
        }
        view.insert(&path, node);
        own.insert(path);
    }
    Ok(())
}

/// Follows the layer's own symlinks above the last name.
fn locate_simply(view: &View, path: &TreePath, own: &BTreeSet<TreePath>) -> Result<TreePath, ViewError> {
    check_length(path)?;
    let mut here = TreePath::ROOT;
    let mut rest: Vec<&[u8]> = path.components().collect();
    rest.reverse();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let next = here.join(name);
        let own_file = view.get(&next).filter(|node| !rest.is_empty() && own.contains(&next) && !node.is_directory());
        let Some(node) = own_file else {
            here = next;
            continue;
        };
        let Some(target) = node.symlink_target() else {
            return Err(ViewError::BelowFile { path: path.clone(), parent: next });
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(ViewError::TooManyLinks { path: path.clone() });
        }
        here = if target.starts_with(b"/") { TreePath::ROOT } else { here };
        rest.extend(target.split(|byte| *byte == b'/').rev());
    }
    check_length(&here)?;
    Ok(here)
}

fn any_path(depth: std::ops::Range<usize>) -> impl Strategy<Value = TreePath> {
    prop::collection::vec("[abc]", depth).prop_map(|names| notation::path(&names.join("/")))
}

/// A directory that is often the same, seldom the root and seldom deep.
fn any_directory() -> impl Strategy<Value = TreePath> {
    prop_oneof![6 => any_path(1..3), 1 => Just(TreePath::ROOT), 1 => any_path(5..40)]
}

/// A name that seldom makes the path just as long as it may be, or longer.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![40 => "[abc]", 1 => (4088usize..4098).prop_map(|bytes| "x".repeat(bytes)), 1 => Just(String::new())]
}

fn any_action() -> impl Strategy<Value = Action> {
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        3 => "[xyz]".prop_map(|content| notation::file(&content)),
        2 => "(/|\\.\\./)?[abc.](/[abc]){0,2}".prop_map(|target| Kind::Symlink(target.into_bytes())),
    ];
    let put =
        (0u32..0o10000, kind).prop_map(|(mode, kind)| Action::Put(Metadata { mode, ..Metadata::default() }, kind));
    prop_oneof![
        12 => put,
        1 => any_path(1..4).prop_map(Action::HardLink),
        1 => Just(Action::Whiteout),
        1 => Just(Action::Opaque),
    ]
}

/// Some groups of neighbours, sorted or not.
fn any_layer() -> impl Strategy<Value = Vec<Change>> {
    let group =
        (any_directory(), prop::collection::vec((any_name(), any_action()), 1..5)).prop_map(|(directory, group)| {
            let change = |(name, action): (String, Action)| Change { path: directory.join(name.as_bytes()), action };
            group.into_iter().map(change).collect::<Vec<_>>()
        });
    (prop::collection::vec(group, 0..5), any::<bool>()).prop_map(|(groups, is_sorted)| {
        let mut changes = groups.concat();
        if is_sorted {
            changes.sort_by(|one, next| one.path.cmp(&next.path));
        }
        changes
    })
}

proptest! {
    #[test]
    fn shortcuts_change_neither_the_view_nor_the_error(layers in prop::collection::vec(any_layer(), 1..6)) {
        let mut below = View::empty();
        for layer in &layers {
            // Views that share directories with others, and have a digest that must not outlive a change.
            let before = below.changes();
            prop_assert!(below.digest(&TreePath::ROOT).is_some());
            let (mut view, mut expected) = (below.clone(), below.clone());
            let outcome = view.apply(layer);
            prop_assert_eq!(&outcome, &apply_simply(&mut expected, layer));
            prop_assert_eq!(below.changes(), before);
            if outcome.is_err() {
                continue;
            }
            prop_assert_eq!(view.changes(), expected.changes());
            let mut again = View::empty();
            prop_assert_eq!(apply_simply(&mut again, &expected.changes()), Ok(()));
            prop_assert_eq!(view.digest(&TreePath::ROOT), again.digest(&TreePath::ROOT));
            below = view;
        }
    }
}
