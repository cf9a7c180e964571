//! Archives that lie.

use super::*;
use crate::layer::{error::Problem, tar::TarReader};

#[track_caller]
fn check(script: &str, expected: &str) {
    let found = match index_of(&python_tar(script)) {
        Ok(index) => index
            .changes
            .iter()
            .map(|change| match &change.action {
                Action::Put(_, Kind::File(content)) => format!("{} {}", change.path, content.size),
                Action::Put(_, kind) => format!("{} {kind:?}", change.path),
                action => format!("{} {action:?}", change.path),
            })
            .collect::<Vec<_>>()
            .join("; "),
        Err(error) => error.to_string(),
    };
    assert_eq!(found, expected, "{script}");
}

#[test]
fn paths_are_cleaned_below_the_root() {
    check("add('../../etc/shadow',data=b'x')", "/etc/shadow 1");
    check("add('/etc/shadow',data=b'x')", "/etc/shadow 1");
    check("add('a/b/../../../../c/./d//e')", "/c/d/e 0");
    check("add('a',b'1',linkname='../../etc/shadow')", "/a HardLink(/etc/shadow)");
    check("add('./',b'5')", "/ Directory");
    check("add('..')", "`/` is the root and not a directory");
    check("add('/',b'2',linkname='/tmp')", "`/` is the root and not a directory");
}

#[test]
fn deletions_are_names_and_nothing_else() {
    check("add('a/.wh.b')", "/a/b Whiteout");
    check("add('a/.wh..wh..opq')", "/a Opaque");
    check("add('.wh..wh..opq')", "/ Opaque");
    let refused = "uses a name beginning with `.wh.`, which layers keep for deletions";
    for name in ["a/.wh.", "a/.wh..", "a/.wh...", "a/.wh..wh.b", "a/.wh.b/c"] {
        check(&format!("add('{name}')"), &format!("`/{name}` {refused}"));
    }
    check("add('.wh..wh.aufs');add('.wh..wh.plnk/1.2',data=b'x'*700);add('a')", "/a 0");
}

#[test]
fn what_has_no_place_in_a_layer_is_an_error_that_names_it() {
    check("add('a',b'1',linkname='./a')", "`/a` is a hard link to `/a`, which is itself or nothing");
    check("add('a',b'1')", "`/a` is a hard link to `/`, which is itself or nothing");
    check("add('v',b'V')", "`/v` has the unknown entry type 0x56");
    check("add('a',uid=1<<32)", "`/a` has uid 4294967296, which is out of range");
    check(
        "add('n'*256)",
        &format!("`/{}` has a path, name or link target of 256 bytes; the limit is 255", "n".repeat(256)),
    );
    check(
        "add('s',pax_headers={'GNU.sparse.major':'1','GNU.sparse.minor':'0','GNU.sparse.realsize':'9','GNU.sparse.name':'real'},data=b'0\\n'+b'\\0'*510)",
        "`/real` is a sparse file: unpack and pack it without --sparse",
    );
    check(
        "add('s',pax_headers={'GNU.sparse.map':'0,0','GNU.sparse.size':'9'})",
        "`/s` is a sparse file: unpack and pack it without --sparse",
    );
    check("add('a',pax_headers={'size':'x'})", "the archive is malformed after `/a`: invalid PAX size value: \"x\"");
    check(
        "add('a',pax_headers={'comment':'x'*(1<<20)})",
        "the archive is malformed after `/`: metadata exceeds limit: 1048593 bytes > 1048576 bytes",
    );
}

#[test]
fn links_and_directories_have_no_content_whatever_their_size_says() {
    check(
        "add('d',b'5',declared=512);add('l',b'2',linkname='x',declared=1024);add('f')",
        "/d Directory; /l Symlink([120]); /f 0",
    );
}

#[test]
fn long_names_global_headers_and_times_are_understood() {
    let long = format!("{}/{}", "d".repeat(150), "n".repeat(150));
    check(&format!("t.format=tarfile.GNU_FORMAT;add('{long}')"), &format!("/{long} 0"));
    check("t.pax_headers={'comment':'4b825dc'};add('a')", "/a 0");
    check("add('old/',b'\\0')", "/old Directory");
    let mtime = |script: &str| match &index_of(&python_tar(script)).unwrap().changes[0].action {
        Action::Put(metadata, _) => metadata.mtime,
        action => panic!("{action:?}"),
    };
    assert_eq!(mtime("add('a',mtime=1.75)"), 1);
    assert_eq!(mtime("add('a',mtime=-1.25)"), -2);
    assert_eq!(mtime("t.format=tarfile.GNU_FORMAT;add('a',mtime=-5)"), -5);
}

#[test]
fn an_archive_that_ends_early_is_cut_off_and_a_missing_end_marker_is_not() {
    let tar = python_tar("add('a',data=b'x'*1000);add('b',data=b'y'*1000)");
    let index = index_of(&tar[..3072]).unwrap();
    assert_eq!(index.changes.len(), 2);
    assert_eq!(
        index_of(&[&tar[..3072], &[0; 512]].concat()).unwrap().changes,
        index_of(&tar)
            .unwrap()
            .changes
            .iter()
            .cloned()
            .map(|mut change| {
                if let Action::Put(_, Kind::File(content)) = &mut change.action {
                    content.location = Location::Layer(
                        crate::image::digest::Digest::of(&[&tar[..3072], &[0; 512]].concat()),
                        change.path.clone(),
                    );
                }
                change
            })
            .collect::<Vec<_>>()
    );
    for length in [100, 600, 1100, 2000, 3000] {
        let error = index_of(&tar[..length]).unwrap_err();
        assert!(matches!(error, LayerError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn bytes_after_the_archive_belong_to_the_diff_id() {
    let mut tar = python_tar("add('a')");
    tar.extend_from_slice(b"hidden");
    assert_eq!(index_of(&tar).unwrap().diff_id, crate::image::digest::Digest::of(&tar));
}

#[test]
fn what_an_index_holds_in_memory_is_bounded() {
    let check = |script: &str, allowed: u64| {
        let tar = python_tar(script);
        let mut reader = TarReader::new(&tar[..]);
        reader.kept_bytes_left = allowed;
        assert_eq!(read_all(&mut reader).ok().map(|()| reader.kept_bytes_left), Some(0), "{script}");
        let mut reader = TarReader::new(&tar[..]);
        reader.kept_bytes_left = allowed - 1;
        let error = read_all(&mut reader).unwrap_err();
        assert!(matches!(error, LayerError::Limit { .. }), "{script}: {error}");
    };
    check("add('abc');add('abc')", 6);
    check("add('a',b'2',linkname='target')", 7);
    check("add('b');add('a',b'1',linkname='b')", 3);
    check("add('a',pax_headers={'SCHILY.xattr.user.x':'value'})", 1 + 6 + 5);
}

fn read_all(reader: &mut TarReader<&[u8]>) -> Result<(), LayerError> {
    while reader.next()?.is_some() {}
    Ok(())
}

#[test]
fn a_file_larger_than_a_layer_may_be_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let kind = Kind::File(FileContent { size: 1 << 50, digest: None, location: Location::Spool("/dev/zero".into()) });
    let options = WriteOptions { compression: Compression::Gzip, threads: 1, size_max: 1 << 40 };
    let mut open = |_: &Location| -> io::Result<Box<dyn Read>> { panic!("nothing is to be read") };
    let error = write([put("holes", 0o644, kind)], &mut open, &folder.path().join("blob"), &options).unwrap_err();
    assert!(matches!(error, LayerError::Limit { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn damaged_compression_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("blob");
    for compression in [Compression::Gzip, Compression::Zstd] {
        write_to(&blob, &[file("a", &noise(MIB))], compression);
        let mut bytes = std::fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        let cut = super::super::read::index(&bytes[..middle], compression);
        assert!(matches!(cut, Err(LayerError::Read(_))), "{cut:?}");
        bytes[middle] ^= 0x55;
        let damaged = super::super::read::index(&bytes[..], compression);
        assert!(damaged.is_err(), "{damaged:?}");
    }
}

#[test]
fn errors_escape_control_characters() {
    let error = Problem::NulByte.of(&TreePath::clean(b"a\x1b[31m"));
    assert_eq!(error.to_string(), "`/a\\x1b[31m` has a NUL byte in its path or link target");
}
