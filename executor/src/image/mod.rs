//! Images as documents: digests, configuration, manifest, platform, reference. Pure: JSON in, JSON out.

pub mod checksum;
pub mod config;
pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;
