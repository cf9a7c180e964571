//! Any two views: what unpacks as a lower directory of an overlay reads back as the changes from one view to the other, and
//! any stack of layers unpacks to its merged view.

use std::{collections::BTreeMap, fs::File, os::fd::AsFd};

use proptest::prelude::*;

use super::{
    unpacked::{Stack, is_root, listing, part, read_back},
    *,
};
use crate::{
    filesystem::view::View,
    layer::{
        changes::changes,
        unpack::{prepare_upper, unpack_overlay},
    },
};

/// Few names, so that layers meet.
fn any_layer() -> impl Strategy<Value = Vec<Change>> {
    let at = prop::collection::vec("[abc]", 1..4).prop_map(|names| path(&names.join("/")));
    let mode = prop::sample::select(vec![0o755, 0o600, 0o2750]);
    let action = prop_oneof![
        4 => mode.clone().prop_map(|mode| Action::Put(metadata(mode), Kind::Directory)),
        4 => (mode.clone(), 0..4_u8).prop_map(|(mode, byte)| Action::Put(metadata(mode), content(&[byte]))),
        2 => "[abc]".prop_map(|target| Action::Put(metadata(0o777), Kind::Symlink(target.into()))),
        1 => mode.prop_map(|mode| Action::Put(metadata(mode), Kind::Fifo)),
        3 => Just(Action::Whiteout),
        1 => Just(Action::Opaque),
    ];
    prop::collection::btree_map(at, action, 0..12).prop_map(|entries: BTreeMap<TreePath, Action>| {
        // Nothing lies below what the same layer makes no directory, nor through its symlinks.
        let files: Vec<_> = entries.iter().filter(|(_, action)| !is_open(action)).map(|(at, _)| at.clone()).collect();
        let is_below = |at: &TreePath| files.iter().any(|file| at != file && at.starts_with(file));
        entries.into_iter().filter(|(at, _)| !is_below(at)).map(|(path, action)| Change { path, action }).collect()
    })
}

/// Whether an entry can have others below it.
const fn is_open(action: &Action) -> bool {
    matches!(action, Action::Put(_, Kind::Directory) | Action::Opaque)
}

/// A view as text, without the times of directories: making anything in them changes these.
fn timeless(view: &View) -> String {
    let mut changes = view.changes();
    for change in &mut changes {
        if let Action::Put(metadata, Kind::Directory) = &mut change.action {
            metadata.mtime = 0;
        }
    }
    let mut view = View::empty();
    view.apply(&changes).unwrap();
    listing(&view)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stack_unpacks_to_its_view(layers in prop::collection::vec(any_layer(), 1..4)) {
        prop_assume!(is_root("unpacking with owners"));
        let stack = Stack::new(&layers);
        prop_assert_eq!(stack.unpack().unwrap(), []);
        prop_assert_eq!(listing(&read_back(&stack.root())), listing(&stack.view()));
    }

    #[test]
    fn a_difference_reads_back_as_changes(layers in prop::collection::vec(any_layer(), 2..4)) {
        prop_assume!(is_root("unpacking with owners"));
        let stack = Stack::new(&layers);
        let mut below = View::empty();
        below.apply(&stack.layers[0].index.changes).unwrap();
        let above = stack.view();
        let directory = File::open(stack.root()).unwrap();
        prepare_upper(directory.as_fd(), &below).unwrap();
        unpack_overlay(directory.as_fd(), &below, &above, &stack.unpack_layers(), 2).unwrap();
        let mut again = below.clone();
        let mut found = changes(directory.as_fd(), &below, &[]).unwrap();
        prop_assert_eq!(&changes(directory.as_fd(), &part(directory.as_fd(), &below), &[]).unwrap(), &found);
        for change in &mut found {
            if let Action::Put(_, Kind::File(content)) = &mut change.action {
                content.digest = above.get(&change.path).and_then(|node| node.content()?.digest.clone());
            }
        }
        again.apply(&found).unwrap();
        prop_assert_eq!(timeless(&again), timeless(&above));
    }
}
