//! Steps that make layers, and the roots that these layers make again.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use karve::{
    filesystem::{
        entry::{Action, Kind},
        index::Index,
        view::View,
    },
    layer::Compression,
    sandbox::{
        client::Sandbox,
        request::{Archive, Exit, Mount, Output, SecretBytes, Step, Unpack, UnpackDirectory},
    },
    secret::Secret,
};

use crate::fixture::{Fixture, PROGRAM};

impl Fixture {
    fn archive(&self, number: usize) -> Archive {
        Archive {
            blob: self.path(&format!("{number}.tar.gz")),
            compression: Compression::Gzip,
            index: self.path(&format!("{number}.index")),
        }
    }

    fn index(&self, number: usize) -> Index {
        Index::unpack(&fs::read(self.archive(number).index).unwrap()).unwrap()
    }

    /// A step whose layer becomes the given number, on top of all smaller numbers.
    fn layer_step(&self, number: usize, lowers: &[PathBuf], script: &str) -> Step {
        let Archive { blob, compression, index } = self.archive(number);
        let mut below = View::empty();
        for number in 1..number {
            below.apply(&self.index(number).changes).unwrap();
        }
        let below_part = self.path(&format!("below-{number}.json"));
        let mut step = self.step(script);
        step.lowers = lowers.to_vec();
        step.upper = self.path(&format!("upper-{number}"));
        step.working_directory = "/".into();
        step.layer = Some(Output { blob, index, below, below_part, compression, threads: 2, size_max: 1 << 30 });
        step
    }

    /// The changes of a layer as text: `path what mode uid:gid`.
    fn layer(&self, number: usize) -> Vec<String> {
        let index = self.index(number);
        let describe = |action: &Action| match action {
            Action::Put(metadata, kind) => {
                let kind = match kind {
                    Kind::Directory => "directory",
                    Kind::File(_) => "file",
                    Kind::Symlink(_) => "symlink",
                    other => panic!("{other:?}"),
                };
                format!("{kind} {:o} {}:{}", metadata.mode, metadata.uid, metadata.gid)
            }
            Action::HardLink(target) => format!("link to {target}"),
            Action::Whiteout => "whiteout".into(),
            Action::Opaque => "opaque".into(),
        };
        index.changes.iter().map(|change| format!("{} {}", change.path, describe(&change.action))).collect()
    }
}

#[test]
fn a_step_builds_on_the_layers_of_the_steps_before() {
    let Some(fixture) = Fixture::new() else { return };
    let sandbox = Sandbox::with_program(PROGRAM.into());
    let runtime = Fixture::runtime();

    // The first layer is an image from scratch: what lies in the upper directory counts as changed.
    let first = fixture.layer_step(
        1,
        &[],
        "mkdir /data /data/sub; echo one > /data/one; ln /data/one /data/two; chown 7:8 /data/one",
    );
    fs::create_dir_all(first.upper.join("bin")).unwrap();
    fs::copy("/bin/busybox", first.upper.join("bin/busybox")).unwrap();
    for applet in ["sh", "mkdir", "ln", "chown", "rm", "cat", "ls", "chmod", "touch"] {
        symlink("busybox", first.upper.join("bin").join(applet)).unwrap();
    }
    let (result, output) = Fixture::run_with(first, |_, _| ());
    let layer = result.unwrap().layer.unwrap();
    assert_eq!(output, "");
    assert_eq!(layer.size, fs::metadata(fixture.archive(1).blob).unwrap().len());
    let changes = fixture.layer(1);
    let data: Vec<&String> = changes.iter().filter(|change| !change.starts_with("/bin")).collect();
    assert_eq!(
        data,
        [
            "/data directory 755 0:0",
            "/data/one file 644 7:8",
            "/data/sub directory 755 0:0",
            "/data/two link to /data/one"
        ]
    );

    // The second deletes, re-creates, and mounts a secret where nothing was.
    let root = fixture.path("root");
    fs::create_dir(&root).unwrap();
    let unpack = |request| runtime.block_on(sandbox.unpack(request, async { Ok::<_, ()>(()) })).unwrap().unwrap();
    let unpacked = unpack(Unpack::into_root(root.clone(), vec![fixture.archive(1)], 2));
    assert_eq!(unpacked, Vec::<String>::new());
    let mut second = fixture.layer_step(
        2,
        std::slice::from_ref(&root),
        "rm /data/two; rm -r /data/sub; mkdir /data/sub; chmod 700 /data/sub; touch /data/sub/new; cat /run/secrets/key",
    );
    let value = SecretBytes::new(&Secret::new(b"hunter2".to_vec()));
    second.mounts = vec![Mount::Secret { target: "/run/secrets/key".into(), value, mode: 0o400, uid: 0, gid: 0 }];
    let (result, output) = Fixture::run_with(second, |_, _| ());
    assert_eq!((result.unwrap().exit, output.as_str()), (Exit::Code(0), "hunter2\n"));
    assert_eq!(
        fixture.layer(2),
        ["/data directory 755 0:0", "/data/sub directory 700 0:0", "/data/sub/new file 644 0:0", "/data/two whiteout"]
    );

    // The third sees both, and changes nothing: unpacked one after the other, or at the same time.
    let target = |name: &str, number| {
        let directory = fixture.path(name);
        fs::create_dir(&directory).unwrap();
        UnpackDirectory { directory, layers: vec![fixture.archive(number)] }
    };
    let after = Unpack { below: vec![fixture.archive(1).index], directories: vec![target("after", 2)], threads: 2 };
    let both = vec![target("lower", 1), target("upper", 2)];
    let both = Unpack { below: Vec::new(), directories: both, threads: 2 };
    for (number, request, lowers) in
        [(3, after, [fixture.path("after"), root.clone()]), (4, both, [fixture.path("upper"), fixture.path("lower")])]
    {
        assert_eq!(unpack(request), Vec::<String>::new());
        let third = fixture.layer_step(number, &lowers, "ls /data /data/sub; cat /data/one; ls /");
        let (result, output) = Fixture::run_with(third, |_, _| ());
        assert!(result.unwrap().layer.is_some());
        assert_eq!(output, "/data:\none\nsub\n\n/data/sub:\nnew\none\nbin\ndata\ndev\netc\nproc\nsys\n");
        assert_eq!(fixture.layer(number), Vec::<String>::new());
    }
}

#[test]
fn a_step_that_fails_makes_no_layer() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.layer_step(1, &[], "");
    step.lowers = vec![fixture.path("image")];
    step.arguments = ["/bin/sh", "-c", "touch /x; exit 3"].map(String::from).to_vec();
    let result = Fixture::run_with(step, |_, _| ()).0.unwrap();
    assert_eq!((result.exit, result.layer.is_some()), (Exit::Code(3), false));
    assert!(!fixture.archive(1).blob.exists());
}

#[test]
fn archives_may_come_while_their_indexes_are_read() {
    let Some(fixture) = Fixture::new() else { return };
    let step = fixture.layer_step(1, &[fixture.path("image")], "echo one >/one");
    assert!(Fixture::run_with(step, |_, _| ()).0.unwrap().layer.is_some());
    let (blob, elsewhere) = (fixture.archive(1).blob, fixture.path("elsewhere"));
    fs::rename(&blob, &elsewhere).unwrap();
    let sandbox = Sandbox::with_program(PROGRAM.into());
    let request = |name: &str| {
        let root = fixture.path(name);
        fs::create_dir(&root).unwrap();
        Unpack::into_root(root, vec![fixture.archive(1)], 2)
    };
    let runtime = Fixture::runtime();

    let error = runtime.block_on(sandbox.unpack(request("never"), async { Err("the registry is gone") }));
    assert_eq!(error.unwrap_err(), "the registry is gone");

    let comes = async { fs::rename(&elsewhere, &blob) };
    assert_eq!(runtime.block_on(sandbox.unpack(request("late"), comes)).unwrap().unwrap(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(fixture.path("late/one")).unwrap(), "one\n");

    // Nobody waits for archives without an index.
    fs::write(fixture.archive(1).index, "damaged").unwrap();
    let never = std::future::pending::<Result<(), ()>>();
    let failure = runtime.block_on(sandbox.unpack(request("damaged"), never)).unwrap().unwrap_err();
    assert!(failure.to_string().contains("it cannot be decompressed: "), "{failure}");
}
