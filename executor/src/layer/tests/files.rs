//! Many files on several threads: the same as on one, and an end whatever goes wrong.

use std::{fs, os::fd::AsFd, sync::mpsc, thread, time::Duration};

use super::{
    unpacked::{Stack, is_root, listing, read_back},
    *,
};
use crate::{
    filesystem::view::View,
    layer::unpack::{Warning, unpack_overlay},
};

/// Some thousand small files and a few large ones, under names that begin with a letter.
fn many(letter: char) -> Vec<Change> {
    let bytes = noise(3 * MIB);
    let mut changes = Vec::new();
    for number in 0..20 {
        let name = format!("{letter}{number:02}");
        changes.push(directory(&name));
        let small = |file_number: usize| {
            file(&format!("{name}/{file_number:02}"), &bytes[file_number..][..(number * file_number * 37) % 9000])
        };
        changes.extend((0..90).map(small));
        let size = if number % 8 == 3 { 3 * MIB } else { (64 << 10) + number % 2 };
        changes.push(file(&format!("{name}.large"), &bytes[..size]));
        changes.push(file(&format!("{name}.small"), &bytes[..number]));
    }
    changes
}

/// Unpacks several layers, and fails instead of hanging.
fn unpack(stack: Stack, threads: usize) -> (Stack, Result<Vec<Warning>, LayerError>) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let root = File::open(stack.root()).unwrap();
        let result = unpack_overlay(root.as_fd(), &View::empty(), &stack.view(), &stack.unpack_layers(), threads);
        sender.send((stack, result)).unwrap();
    });
    receiver.recv_timeout(Duration::from_mins(2)).expect("unpacking panics or never ends")
}

/// One layer, which leaves the other threads without, and more than there are threads.
fn stacks() -> [Vec<Vec<Change>>; 2] {
    [vec![many('a')], vec![many('a'), many('b'), vec![file("c", b"c")], many('d')]]
}

#[test]
fn the_number_of_threads_makes_no_difference() {
    if !is_root("unpacking with owners") {
        return;
    }
    for (layers, threads) in stacks().iter().flat_map(|layers| [0, 1, 2, 3, 8].map(|threads| (layers, threads))) {
        let (stack, result) = unpack(Stack::new(layers), threads);
        assert_eq!(result.unwrap(), [], "{threads} threads");
        assert!(listing(&read_back(&stack.root())) == listing(&stack.view()), "{threads} threads");
    }
}

#[test]
fn a_path_that_is_there_already_is_an_error_that_names_it() {
    for layers in stacks() {
        for (name, threads) in
            ["a00.small", "a11.large", "a19.small"].iter().flat_map(|name| [1, 2, 8].map(|n| (name, n)))
        {
            let stack = Stack::new(&layers);
            fs::write(stack.root().join(name), "").unwrap();
            let error = unpack(stack, threads).1.unwrap_err();
            assert_eq!(error.to_string(), format!("cannot create `/{name}`: File exists (os error 17)"), "{threads}");
        }
    }
}

#[test]
fn a_layer_that_is_cut_off_is_an_error() {
    for layers in stacks() {
        for threads in [1, 2, 8] {
            let stack = Stack::new(&layers);
            let blob = &stack.layers[0].layer.blob;
            let bytes = fs::read(blob).unwrap();
            fs::write(blob, &bytes[..bytes.len() / 2]).unwrap();
            match unpack(stack, threads).1.unwrap_err() {
                LayerError::Read(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}"),
                error => panic!("{error}"),
            }
        }
    }
}
