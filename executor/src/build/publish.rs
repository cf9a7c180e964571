//! Where a finished image goes: a solved graph comes in; a layout has the image, and the registries, when it returns.

use std::{path::Path, sync::Arc};

use super::error::BuildError;
use crate::{
    image::{manifest::OCI_MANIFEST, reference::Reference},
    options::Options,
    registry::{Registry, layout::Layout},
    solve::{Solved, Solver, assemble::Image, error::SolveError, layers::StageLayer},
};

/// Brings an image where the options say.
pub(super) async fn publish(
    options: &Options,
    registry: &Registry,
    solver: &Solver,
    finished: Result<Solved, SolveError>,
) -> Result<Solved, BuildError> {
    let finished = finished?;
    if let Some(path) = &options.oci_layout {
        write_layout(path, options, solver, &finished.layers, &finished.image).await?;
    }
    if options.push {
        push(options, registry, &finished.image).await?;
    }
    Ok(finished)
}

/// Writes the image, base layers included, into an OCI image layout under every destination's tag.
async fn write_layout(
    path: &Path,
    options: &Options,
    solver: &Solver,
    stage_layers: &[Arc<StageLayer>],
    image: &Image,
) -> Result<(), BuildError> {
    let layout = Layout::create(path)?;
    for (layer, descriptor) in stage_layers.iter().zip(&image.layers) {
        layout.push_blob(descriptor, solver.layers.blob(layer).await?).await?;
    }
    layout.push_bytes(&image.config)?;
    let tags = options.destinations.iter().filter_map(Reference::tag);
    layout.push_manifest(tags, &image.manifest, OCI_MANIFEST).await?;
    Ok(())
}

/// Pushes the manifest under every destination, in the order given: the tag by which a later attempt recognises this build
/// comes last. Layers and configuration are there.
async fn push(options: &Options, registry: &Registry, image: &Image) -> Result<(), BuildError> {
    for destination in &options.destinations {
        registry.push_manifest(destination, &image.manifest, OCI_MANIFEST).await?;
    }
    Ok(())
}
