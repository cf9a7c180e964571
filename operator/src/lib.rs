//! The operator: observe -> decide -> act, for every `ImageBuild`.
//!
//! ```text
//! ImageBuild, its Pods, ConfigMaps -> observe -> Observed -> decide (pure) -> Decision -> act -> status, then Pod
//!                                                              |
//!                                                              +-> pod (pure): ImageBuild -> Pod
//! ```
//!
//! It dials the API server and nothing else, and may read no Secret. It may be killed between any two writes.

pub mod act;
pub mod admin;
pub mod args;
pub mod controller;
pub mod decide;
pub mod lease;
pub mod metrics;
pub mod observe;
pub mod pod;
pub mod run;
