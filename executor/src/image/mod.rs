//! Images as documents: digests, configuration, manifest, platform. Pure: JSON in, JSON out.

pub mod config;
pub mod digest;
pub mod manifest;
