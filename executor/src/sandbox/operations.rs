//! The layer work that must be done under the ids of the sandbox: from outside its user namespace, owners and
//! `security.capability` may read wrong.

use std::{
    fs::{self, File},
    io::{self, Write},
    mem,
    os::fd::AsFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use super::{
    error::{Failure, cannot},
    overlay::open_directory,
    request::{Archive, Output, Pack, PackResult, Question, Unpack, UnpackDirectory},
};
use crate::{
    filesystem::{
        entry::Change,
        index::{self, Index},
        view::View,
    },
    layer::{
        Layer,
        changes::{changes, directories, open},
        pack::{PackOptions, Packed, pack},
        unpack::{self, Contents, UnpackLayer},
        write::{WriteOptions, write},
    },
    progress::explain,
};

/// Asks the executor, and waits until it has answered.
pub(super) type Ask<'a> = dyn FnMut(Question) -> io::Result<()> + 'a;

/// Unpacks layers as lower directories of an overlay, all directories at the same time; returns warnings. The archives need not
/// be there before `ask` has been told so.
pub(super) fn unpack(request: &Unpack, ask: &mut Ask<'_>) -> Result<Vec<String>, Failure> {
    let mut below = View::empty();
    for path in &request.below {
        // One at a time: a view shares nothing with the indexes that it was made of.
        apply(&mut below, &read_index(path)?.changes)?;
    }
    let archives: Vec<&Archive> = request.directories.iter().flat_map(|target| &target.layers).collect();
    let mut indexes = read_archive_indexes(&archives, request.threads)?.into_iter();
    let mut targets = Vec::with_capacity(request.directories.len());
    for UnpackDirectory { directory, layers } in &request.directories {
        let mut above = below.clone();
        let layers = put_together(&mut above, layers, &mut indexes)?;
        targets.push((directory, mem::replace(&mut below, above.clone()), above, layers));
    }
    ask(Question::Archives).map_err(cannot("ask for the archives"))?;
    let fill = |(directory, below, above, layers): &(&PathBuf, View, View, Vec<UnpackLayer<'_>>)| {
        let directory = open_directory(directory)?;
        unpack::unpack_overlay(directory.as_fd(), below, above, layers, request.threads)
            .map_err(cannot("unpack the layers"))
    };
    let warnings = at_once(&targets, fill).into_iter().collect::<Result<Vec<_>, _>>();
    // The helper ends with its answer: freeing these piece by piece first only keeps the executor waiting.
    mem::forget((below, targets));
    Ok(warnings?.iter().flatten().map(ToString::to_string).collect())
}

/// Makes the layer of what an upper directory changes of the layers below, and writes its index beside it. `ask` has the
/// executor write what was below some directories into [`Output::below_part`].
pub(super) fn write_layer(upper: &Path, output: &Output, ask: &mut Ask<'_>) -> Result<Layer, Failure> {
    let upper = open_directory(upper)?;
    let touched = directories(upper.as_fd()).map_err(cannot("list what the step changed"))?;
    ask(Question::Below(touched)).map_err(cannot("ask what was below the step's changes"))?;
    let mut below = View::empty();
    apply(&mut below, &read_changes(&output.below_part)?)?;
    // No stubs to ignore: they are in a lower directory of their own (stubs.rs).
    let changes = changes(upper.as_fd(), &below, &[]).map_err(cannot("read the changes of the step"))?;
    let options = WriteOptions { compression: output.compression, threads: output.threads, size_max: output.size_max };
    let written = write(changes, &mut |location| open(upper.as_fd(), location), &output.blob, &options)
        .map_err(cannot("write the layer of the step"))?;
    write_index(&output.index, &written.index)
        .map_err(cannot(format!("write the index {}", output.index.display())))?;
    Ok(written.layer)
}

/// Makes an archive of what is in a directory, and writes its index beside it; `None` if nothing has changed.
pub(super) fn pack_directory(request: &Pack) -> Result<Option<PackResult>, Failure> {
    let Pack { archive: Archive { blob, compression, index }, content_max, threads, .. } = request;
    let directory = open_directory(&request.directory)?;
    let before = request.before.as_deref().map(read_index).transpose()?;
    let before = before.map(|index| index.changes).unwrap_or_default();
    let options =
        PackOptions { before: &before, content_max: *content_max, compression: *compression, threads: *threads };
    let packed = pack(directory.as_fd(), blob, &options).map_err(cannot("pack the directory"))?;
    let Some(Packed { layer, index: written, content, omitted }) = packed else { return Ok(None) };
    write_index(index, &written).map_err(cannot(format!("write the index {}", index.display())))?;
    Ok(Some(PackResult { layer, content, omitted }))
}

fn write_index(path: &Path, index: &Index) -> io::Result<()> {
    File::create_new(path)?.write_all(&index.pack()?)
}

/// Reads the indexes of layers, several at once: until that is done, nothing can be unpacked.
fn read_archive_indexes(layers: &[&Archive], threads: usize) -> Result<Vec<Index>, Failure> {
    let read =
        |layers: &&[&Archive]| layers.iter().map(|layer| read_index(&layer.index)).collect::<Result<Vec<_>, _>>();
    let parts: Vec<_> = layers.chunks(layers.len().div_ceil(threads.max(1)).max(1)).collect();
    let indexes = at_once(&parts, read).into_iter().collect::<Result<Vec<Vec<Index>>, _>>()?;
    Ok(indexes.into_iter().flatten().collect())
}

/// Does something with each of a few items, each on a thread of its own.
fn at_once<I: Sync, O: Send>(items: &[I], work: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// Reads an index that the executor or another helper has written.
fn read_index(path: &Path) -> Result<Index, Failure> {
    let packed = fs::read(path).map_err(cannot(format!("read {}", path.display())))?;
    Index::unpack(&packed).map_err(|error| cannot(format!("use {}", path.display()))(explain(&error)))
}

/// Reads what the executor has written of a view; its size was bounded then.
fn read_changes(path: &Path) -> Result<Vec<Change>, Failure> {
    let bytes = fs::read(path).map_err(cannot(format!("read {}", path.display())))?;
    index::read_changes(&bytes).map_err(|error| cannot(format!("use {}", path.display()))(explain(&error)))
}

/// Lays layers over a view. Of each index only what unpacking needs is left.
fn put_together<'a>(
    view: &mut View,
    layers: &'a [Archive],
    indexes: &mut impl Iterator<Item = Index>,
) -> Result<Vec<UnpackLayer<'a>>, Failure> {
    let mut put = |(Archive { blob, compression, .. }, index): (&'a Archive, Index)| {
        apply(view, &index.changes)?;
        Ok(UnpackLayer { blob, compression: *compression, contents: Contents::of(&index) })
    };
    layers.iter().zip(indexes).map(&mut put).collect()
}

fn apply(view: &mut View, changes: &[Change]) -> Result<(), Failure> {
    view.apply(changes).map_err(cannot("put the layers of the stage together"))
}
