//! Layers from end to end: what is written is read back, what is read is unpacked, and hostile archives get nowhere.

mod attributes;
mod difference;
mod files;
mod hostile;
mod overlay;
mod pack;
mod round_trip;
mod unpacked;

use std::{
    fs::File,
    io::{self, Cursor, Read},
    path::Path,
};

use super::{
    Compression,
    error::LayerError,
    write::{WriteOptions, Written, write},
};
use crate::filesystem::{
    entry::{Action, Change, FileContent, Kind, Location, Metadata, Xattr},
    path::TreePath,
};

const MIB: usize = 1 << 20;

fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes())
}

fn metadata(mode: u32) -> Metadata {
    Metadata { mode, mtime: 1_700_000_000, ..Metadata::default() }
}

fn put(text: &str, mode: u32, kind: Kind) -> Change {
    Change { path: path(text), action: Action::Put(metadata(mode), kind) }
}

fn directory(text: &str) -> Change {
    put(text, 0o755, Kind::Directory)
}

fn content(bytes: &[u8]) -> Kind {
    Kind::File(FileContent { size: bytes.len() as u64, digest: None, location: Location::Inline(bytes.into()) })
}

fn file(text: &str, bytes: &[u8]) -> Change {
    put(text, 0o644, content(bytes))
}

fn symlink(text: &str, target: &str) -> Change {
    put(text, 0o777, Kind::Symlink(target.into()))
}

fn act(text: &str, action: Action) -> Change {
    Change { path: path(text), action }
}

fn options(compression: Compression, threads: usize) -> WriteOptions {
    WriteOptions { compression, threads, size_max: 1 << 30 }
}

/// Bytes that compress neither well nor badly, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b"0123456789abcdef\n"[usize::try_from(state % 17).unwrap()]
        })
        .collect()
}

fn no_file(location: &Location) -> io::Result<Box<dyn Read>> {
    panic!("asked for {location:?}")
}

#[track_caller]
fn write_to(blob: &Path, changes: &[Change], compression: Compression) -> Written {
    write(changes.iter().cloned(), &mut no_file, blob, &options(compression, 2)).unwrap()
}

fn open(blob: &Path) -> File {
    File::open(blob).unwrap()
}

/// Writes an archive with Python's tarfile as the script says, where `add(name, type, **fields)` appends an entry.
fn python_tar(script: &str) -> Vec<u8> {
    let prelude = "import tarfile,io,sys\n\
        t=tarfile.open(fileobj=sys.stdout.buffer,mode='w|',format=tarfile.PAX_FORMAT)\n\
        def add(name,type=b'0',data=b'',**f):\n\
        \x20 i=tarfile.TarInfo(name);i.type=type;i.size=len(data)\n\
        \x20 for k,v in f.items(): k!='declared' and setattr(i,k,v)\n\
        \x20 i.size=f.get('declared',i.size)\n\
        \x20 b=i.tobuf(t.format)\n\
        \x20 t.fileobj.write(b+data+bytes(-len(data)%512))\n";
    let output = std::process::Command::new("python3")
        .args(["-c", &format!("{prelude}{script}\nt.close()\n")])
        .output()
        .expect("the tests of hostile archives need python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn index_of(tar: &[u8]) -> Result<crate::filesystem::index::Index, LayerError> {
    super::read::index(Cursor::new(tar), Compression::None)
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.into() }
}
