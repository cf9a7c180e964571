//! The executor: builds the image that a Dockerfile describes, without a daemon and without privileges.
//!
//! Data flows down this list; nothing below knows what is above:
//!
//! ```text
//! context -> karve_dockerfile -> plan -> solve (execute -> layer) -> image -> registry
//! ```
//!
//! `karve_dockerfile`, `plan`, `image` and the copy rules of `filesystem` are pure; the effects are in `context`, `solve`,
//! `sandbox`, `layer` and `registry`. Library code never prints, never exits and never reads the environment.

pub mod agent;
pub mod build;
pub mod cache;
pub mod check;
pub mod context;
pub mod filesystem;
pub mod flags;
mod hash;
pub mod image;
mod in_root;
pub mod layer;
pub mod options;
pub mod plan;
pub mod progress;
pub mod registry;
pub mod report;
pub mod sandbox;
pub mod secret;
pub mod solve;
