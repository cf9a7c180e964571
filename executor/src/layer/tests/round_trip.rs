//! What is written is what is read, by us and by GNU tar, and its bytes never vary.

use std::{collections::BTreeMap, fs, process::Command};

use proptest::prelude::*;

use super::*;
use crate::{
    filesystem::{
        entry::Device,
        index::{INLINE_PATHS, Index},
    },
    image::digest::Digest,
    layer::{
        compress::ArchiveKind,
        error::Problem,
        read::{archive_kind, files, index},
    },
};

/// One of everything.
fn everything() -> Vec<Change> {
    let long = format!("long/{}/{}", "d".repeat(200), "n".repeat(200));
    let mut owned = metadata(0o4755);
    (owned.uid, owned.gid, owned.mtime) = (4_000_000_000, 3_000_000, -86_401);
    owned.xattrs = vec![xattr("security.capability", &[1, 0, 0, 2, 0, 4, 0, 0]), xattr("user.text", b"a\nb=c\0")];
    let mut changes = vec![
        directory("/"),
        directory("bin"),
        Change { path: path("bin/sudo"), action: Action::Put(owned, content(b"\x7fELF")) },
        act("bin/sudoedit", Action::HardLink(path("bin/sudo"))),
        put("dev/console", 0o600, Kind::CharacterDevice(Device { major: 5, minor: 1 })),
        put("dev/disk", 0o660, Kind::BlockDevice(Device { major: 259, minor: 1_048_575 })),
        put("dev/pipe", 0o600, Kind::Fifo),
        file("etc/group", b"root:x:0:\n"),
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        directory("empty"),
        act("empty", Action::Opaque),
        act("gone", Action::Whiteout),
        directory("home"),
        file(&long, b"long"),
        symlink("to/long", &format!("/{long}")),
        file("zero", b""),
        Change { path: TreePath::clean(b"odd/\xff\xfe \n\"'"), action: Action::Put(metadata(0o644), content(b"odd")) },
    ];
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    changes
}

/// What an index of these changes says, but for where the bytes are.
fn described(changes: &[Change], diff_id: &Digest) -> Index {
    let mut changes = changes.to_vec();
    for change in &mut changes {
        if let Action::Put(_, Kind::File(content)) = &mut change.action
            && let Location::Inline(bytes) = &content.location
        {
            content.digest = Some(Digest::of(bytes));
            if !INLINE_PATHS.iter().any(|kept| path(kept) == change.path) {
                content.location = Location::Layer(diff_id.clone(), change.path.clone());
            }
        }
    }
    Index { diff_id: diff_id.clone(), changes }
}

#[track_caller]
fn check(changes: &[Change], compression: Compression) {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("blob");
    let written = write_to(&blob, changes, compression);
    let expected = described(changes, &written.layer.diff_id);
    assert_eq!(written.index, expected);
    assert_eq!(index(open(&blob), compression).unwrap(), expected);
    let bytes = fs::read(&blob).unwrap();
    assert_eq!((written.layer.digest, written.layer.size), (Digest::of(&bytes), bytes.len() as u64));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn everything_is_read_back_as_it_was_written() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        check(&everything(), compression);
        check(&[], compression);
    }
}

#[test]
fn symlinks_are_read_without_a_mode() {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("blob");
    write_to(&blob, &[put("link", 0o644, Kind::Symlink(b"target".into()))], Compression::None);
    assert_eq!(index(open(&blob), Compression::None).unwrap().changes, [symlink("link", "target")]);
}

#[test]
fn an_index_survives_packing() {
    let index = described(&everything(), &Digest::of(b""));
    assert_eq!(Index::unpack(&index.pack().unwrap()).unwrap(), index);
}

#[test]
fn bytes_do_not_depend_on_threads_nor_on_how_files_are_read() {
    struct Slow(Cursor<Vec<u8>>);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(4093);
            self.0.read(&mut buffer[..length])
        }
    }
    let bytes = noise(5 * MIB + 12_345);
    let mut change = file("big", b"");
    if let Action::Put(_, Kind::File(content)) = &mut change.action {
        (content.size, content.location) = (bytes.len() as u64, Location::Context(0, path("big")));
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let folder = tempfile::tempdir().unwrap();
        let blobs = [(1, false), (4, true)].map(|(threads, slow)| {
            let blob = folder.path().join(format!("blob-{threads}"));
            let bytes = bytes.clone();
            let mut open = move |_: &Location| -> io::Result<Box<dyn Read>> {
                let bytes = Cursor::new(bytes.clone());
                Ok(if slow { Box::new(Slow(bytes)) } else { Box::new(bytes) })
            };
            write([change.clone()], &mut open, &blob, &options(compression, threads)).unwrap();
            fs::read(blob).unwrap()
        });
        assert!(blobs[0] == blobs[1], "{compression:?}");
    }
}

#[test]
fn digests_are_stable() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_to(&folder.path().join("blob"), &everything(), Compression::Gzip);
    // Changing this changes the digest of every layer: users see another image from the same sources.
    insta::assert_snapshot!(format!("{}\n{}", written.layer.diff_id, written.layer.digest), @r#"
    sha256:90b2d0bf68928f17c5642a024c39a0d246123ab8bfaa4b99d674ac935a4ab3ec
    sha256:a23d781c22a6eec6cc8f68ef6c2b86e6244af1dd57b9646e57b5fedef4afadf2
    "#);
}

#[test]
fn what_does_not_shrink_is_stored_block_by_block() {
    let folder = tempfile::tempdir().unwrap();
    let size = |bytes: &[u8]| {
        let blob = folder.path().join("blob");
        let written = write_to(&blob, &[file("f", bytes)], Compression::Gzip);
        assert_eq!(index(open(&blob), Compression::Gzip).unwrap(), written.index);
        usize::try_from(written.layer.size).unwrap()
    };
    let text = noise(8 << 20);
    let compressed = zstd::encode_all(&text[..], 1).unwrap();
    assert!(size(&text) < text.len() * 6 / 10);
    let stored = size(&compressed);
    assert!((compressed.len()..compressed.len() * 101 / 100).contains(&stored), "{stored} of {}", compressed.len());
    // A block counts by itself: the text behind the noise still shrinks.
    let both = size(&[&compressed[..1 << 20], &text[..4 << 20]].concat());
    assert!(both < (1 << 20) + (4 << 20) * 7 / 10, "{both}");
}

#[test]
fn gnu_tar_lists_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("blob.tar.gz");
    write_to(&blob, &everything(), Compression::Gzip);
    assert!(Command::new("gzip").arg("-t").arg(&blob).status().unwrap().success());
    let listed = Command::new("tar").args(["--numeric-owner", "--utc", "-tvzf"]).arg(&blob).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stderr), "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let long = ["d", "n"].map(|letter| letter.repeat(200)).join("/");
    insta::assert_snapshot!(listed.replace(&long, "[LONG]"), @r#"
    drwxr-xr-x 0/0               0 2023-11-14 22:13 ./
    drwxr-xr-x 0/0               0 2023-11-14 22:13 bin/
    -rwsr-xr-x 4000000000/3000000 4 1969-12-30 23:59 bin/sudo
    hrwsr-xr-x 4000000000/3000000 0 1969-12-30 23:59 bin/sudoedit link to bin/sudo
    crw------- 0/0              5,1 2023-11-14 22:13 dev/console
    brw-rw---- 0/0      259,1048575 2023-11-14 22:13 dev/disk
    prw------- 0/0                0 2023-11-14 22:13 dev/pipe
    drwxr-xr-x 0/0                0 2023-11-14 22:13 empty/
    ---------- 0/0                0 1970-01-01 00:00 empty/.wh..wh..opq
    -rw-r--r-- 0/0               10 2023-11-14 22:13 etc/group
    -rw-r--r-- 0/0               30 2023-11-14 22:13 etc/passwd
    ---------- 0/0                0 1970-01-01 00:00 .wh.gone
    drwxr-xr-x 0/0                0 2023-11-14 22:13 home/
    -rw-r--r-- 0/0                4 2023-11-14 22:13 long/[LONG]
    -rw-r--r-- 0/0                3 2023-11-14 22:13 odd/\377\376 \n"'
    lrwxrwxrwx 0/0                0 2023-11-14 22:13 to/long -> /long/[LONG]
    -rw-r--r-- 0/0                0 2023-11-14 22:13 zero
    "#);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("blob");
    for (bytes, digest, problem) in [
        (&b"shor"[..], None, Problem::SizeChanged { expected: 5, found: 4 }),
        (&b"longer"[..], None, Problem::SizeChanged { expected: 5, found: 6 }),
        (
            &b"other"[..],
            Some(Digest::of(b"first")),
            Problem::ContentChanged { expected: Digest::of(b"first"), found: Digest::of(b"other") },
        ),
    ] {
        let mut change = file("changing", bytes);
        if let Action::Put(_, Kind::File(content)) = &mut change.action {
            (content.size, content.digest) = (5, digest);
        }
        check_refused(&blob, vec![change], "changing", &problem);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[track_caller]
fn check_refused(blob: &Path, changes: Vec<Change>, at: &str, expected: &Problem) {
    match write(changes, &mut no_file, blob, &options(Compression::Gzip, 1)) {
        Err(LayerError::Entry { path: found, problem }) => assert_eq!((found, &problem), (path(at), expected)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_layer_cannot_hold_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("blob");
    let mut strange = file("a", b"");
    if let Action::Put(metadata, _) = &mut strange.action {
        metadata.xattrs = vec![xattr("user.a=b", b"")];
    }
    for (changes, at, problem) in [
        (vec![file("a/.wh.b", b"")], "a/.wh.b", Problem::ReservedName),
        (vec![file("b", b""), file("a", b"")], "a", Problem::Unsorted(path("b"))),
        (vec![file("b", b""), act("b", Action::Whiteout)], "b", Problem::Unsorted(path("b"))),
        (vec![act("a", Action::HardLink(path("a")))], "a", Problem::LinkToMissing(path("a"))),
        (vec![act("a", Action::HardLink(path("b"))), file("b", b"")], "a", Problem::LinkToMissing(path("b"))),
        (vec![directory("a"), act("b", Action::HardLink(path("a")))], "b", Problem::LinkToMissing(path("a"))),
        (vec![file(&"n".repeat(256), b"")], &"n".repeat(256), Problem::TooLong { length: 256, limit: 255 }),
        (vec![strange], "a", Problem::AttributeName("user.a=b".into())),
    ] {
        check_refused(&blob, changes, at, &problem);
    }
    let error = write(
        [file("a", &[0; 4096])],
        &mut no_file,
        &blob,
        &WriteOptions { size_max: 4096, ..options(Compression::None, 1) },
    );
    assert!(matches!(error, Err(LayerError::Limit { limit: 4096, .. })), "{error:?}");
}

#[test]
fn chosen_files_are_copied_out() {
    let folder = tempfile::tempdir().unwrap();
    let [blob, spool] = ["blob", "spool"].map(|name| folder.path().join(name));
    let big = noise(3 * MIB);
    let written = write_to(&blob, &[file("a", b"A"), file("b", &big), file("c", b"C")], Compression::Gzip);
    let diff_id = files(open(&blob), Compression::Gzip, &mut |at| (*at == path("b")).then(|| spool.clone())).unwrap();
    assert_eq!(diff_id, written.layer.diff_id);
    assert!(fs::read(spool).unwrap() == big);
}

#[test]
fn archives_are_known_by_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, input: &Path| {
        let output = Command::new(program).arg("-c").arg(input).output().unwrap();
        assert!(output.status.success(), "{program}");
        output.stdout
    };
    let [tar, text] = ["tar", "text"].map(|name| folder.path().join(name));
    write_to(&tar, &[file("a", &noise(MIB))], Compression::None);
    fs::write(&text, noise(4096)).unwrap();
    assert_eq!(archive_kind(open(&tar)).unwrap(), Some(ArchiveKind::Tar));
    for (program, kind) in [("gzip", ArchiveKind::Gzip), ("bzip2", ArchiveKind::Bzip2), ("xz", ArchiveKind::Xz)] {
        let archive = run(program, &tar);
        assert_eq!(archive_kind(&archive[..]).unwrap(), Some(kind));
        assert_eq!(index(&archive[..], kind).unwrap(), index(open(&tar), Compression::None).unwrap(), "{kind:?}");
        assert_eq!(archive_kind(&run(program, &text)[..]).unwrap(), None, "{kind:?}");
        assert_eq!(archive_kind(&archive[..8]).unwrap(), None, "{kind:?}");
    }
    let zstd = folder.path().join("zstd");
    write_to(&zstd, &[file("a", b"A")], Compression::Zstd);
    assert_eq!(archive_kind(open(&zstd)).unwrap(), Some(ArchiveKind::Zstd));
    for bytes in [&b""[..], b"short", &[0; 4096], &noise(4096)] {
        assert_eq!(archive_kind(bytes).unwrap(), None);
    }
}

prop_compose! {
    fn any_metadata()(
        mode in 0..0o10_000_u32, uid in any::<u32>(), gid in any::<u32>(), mtime in (-1_i64 << 40)..(1_i64 << 40),
        xattrs in prop::collection::btree_map("user\\.[a-zé.]{1,100}", prop::collection::vec(any::<u8>(), 0..600), 0..3),
    ) -> Metadata {
        let xattrs = xattrs.into_iter().map(|(name, value)| xattr(&name, &value)).collect();
        Metadata { mode, uid: uid.saturating_sub(1), gid: gid.saturating_sub(1), mtime, xattrs }
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let bytes = prop::collection::vec(any::<u8>(), 0..3000);
    let target = prop::collection::vec(1..=255_u8, 1..300);
    let device = (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Device { major, minor });
    let kind = prop_oneof![
        Just(Kind::Directory),
        bytes.prop_map(|bytes| content(&bytes)),
        target.prop_map(Kind::Symlink),
        device.clone().prop_map(Kind::CharacterDevice),
        device.prop_map(Kind::BlockDevice),
        Just(Kind::Fifo),
    ];
    prop_oneof![
        9 => (any_metadata(), kind).prop_map(|(metadata, kind)| match kind {
            Kind::Symlink(_) => Action::Put(Metadata { mode: 0o777, ..metadata }, kind),
            kind => Action::Put(metadata, kind),
        }),
        1 => Just(Action::Whiteout),
        1 => Just(Action::HardLink(path("!"))),
    ]
}

/// Any name that a file may have: not `.`, not `..`, no slash, no NUL, and not reserved.
fn any_path() -> impl Strategy<Value = TreePath> {
    let name = prop::collection::vec(1..=255_u8, 1..120);
    prop::collection::vec(name, 1..5)
        .prop_map(|names| TreePath::clean(&names.join(&b'/')))
        .prop_filter("reserved", |at| *at > path("!") && !at.components().any(|name| name.starts_with(b".wh.")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn read_is_the_inverse_of_write(entries in prop::collection::btree_map(any_path(), any_action(), 0..20)) {
        let entries: BTreeMap<TreePath, Action> = entries;
        let mut changes: Vec<_> = entries.into_iter().map(|(path, action)| Change { path, action }).collect();
        changes.insert(0, file("!", b"linked"));
        check(&changes, Compression::None);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        drop(index_of(&bytes));
    }

    #[test]
    fn a_damaged_archive_is_read_without_panic(at in 0..8192_usize, byte in any::<u8>(), length in 0..16_384_usize) {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        write_to(&blob, &everything(), Compression::None);
        let mut bytes = fs::read(&blob).unwrap();
        let last = bytes.len() - 1;
        bytes[at.min(last)] = byte;
        bytes.truncate(length);
        drop(index_of(&bytes));
    }
}
