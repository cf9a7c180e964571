//! The layer work that must be done under the ids of the sandbox: from outside its user namespace, owners and
//! `security.capability` may read wrong.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    error::{Failure, cannot},
    overlay::open_directory,
    request::{Archive, Output, Unpack, UnpackOverlay},
};
use crate::{
    filesystem::{index::Index, view::View},
    layer::{
        Layer,
        changes::{changes, open},
        unpack::{self, UnpackLayer},
        write::{WriteOptions, write},
    },
};

/// Unpacks layers over each other; returns warnings.
pub(super) fn unpack(request: &Unpack) -> Result<Vec<String>, Failure> {
    let root = open_directory(&request.root)?;
    let indexes = read_archive_indexes(&request.layers)?;
    unpack::unpack(root.as_fd(), &with_indexes(&request.layers, &indexes), request.threads)
        .map(|warnings| warnings.iter().map(ToString::to_string).collect())
        .map_err(cannot("unpack the image"))
}

/// Unpacks layers as a lower directory of an overlay; returns warnings.
pub(super) fn unpack_overlay(request: &UnpackOverlay) -> Result<Vec<String>, Failure> {
    let directory = open_directory(&request.directory)?;
    let below = view_of(&read_indexes(request.below.iter())?)?;
    let indexes = read_archive_indexes(&request.layers)?;
    let mut above = below.clone();
    apply(&mut above, &indexes)?;
    let layers = with_indexes(&request.layers, &indexes);
    unpack::unpack_overlay(directory.as_fd(), &below, &above, &layers, request.threads)
        .map(|warnings| warnings.iter().map(ToString::to_string).collect())
        .map_err(cannot("unpack the layers above the image"))
}

/// Makes the layer of what an upper directory changes of the layers below, and writes its index beside it.
pub(super) fn write_layer(upper: &Path, output: &Output) -> Result<Layer, Failure> {
    let upper = open_directory(upper)?;
    let below = view_of(&read_indexes(output.lower_indexes.iter())?)?;
    // No stubs to ignore: they are in a lower directory of their own (stubs.rs).
    let changes = changes(upper.as_fd(), &below, &[]).map_err(cannot("read the changes of the step"))?;
    let options = WriteOptions { compression: output.compression, threads: output.threads, size_max: output.size_max };
    let written = write(changes, &mut |location| open(upper.as_fd(), location), &output.blob, &options)
        .map_err(cannot("write the layer of the step"))?;
    write_index(&output.index, &written.index)
        .map_err(cannot(format!("write the index {}", output.index.display())))?;
    Ok(written.layer)
}

fn write_index(path: &Path, index: &Index) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create_new(path)?);
    serde_json::to_writer(&mut writer, index)?;
    writer.flush()
}

fn read_archive_indexes(layers: &[Archive]) -> Result<Vec<Index>, Failure> {
    read_indexes(layers.iter().map(|layer| &layer.index))
}

/// Reads indexes that the executor has written; their size was bounded then.
fn read_indexes<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<Index>, Failure> {
    let read = |path: &PathBuf| {
        File::open(path)
            .and_then(|file| Ok(serde_json::from_reader(BufReader::new(file))?))
            .map_err(cannot(format!("read the index {}", path.display())))
    };
    paths.map(read).collect()
}

fn with_indexes<'a>(layers: &'a [Archive], indexes: &'a [Index]) -> Vec<UnpackLayer<'a>> {
    let with_index =
        |(layer, index): (&'a Archive, _)| UnpackLayer { blob: &layer.blob, compression: layer.compression, index };
    layers.iter().zip(indexes).map(with_index).collect()
}

fn view_of(indexes: &[Index]) -> Result<View, Failure> {
    let mut view = View::empty();
    apply(&mut view, indexes)?;
    Ok(view)
}

fn apply(view: &mut View, indexes: &[Index]) -> Result<(), Failure> {
    indexes
        .iter()
        .try_for_each(|index| view.apply(&index.changes).map(drop))
        .map_err(cannot("put the layers of the stage together"))
}
