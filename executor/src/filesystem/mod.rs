//! File systems as data: layer indexes go in, a merged view comes out, and the view answers where a COPY lands.
//!
//! ```text
//! Index (one layer) -> View::apply -> View (the image's file system) -> copy::plan -> Vec<Change> (the next layer)
//! ```
//!
//! Nothing in this folder touches a disk.

pub mod copy;
pub mod entry;
pub mod index;
pub mod path;
pub mod users;
pub mod view;

#[cfg(test)]
pub(crate) mod notation;
