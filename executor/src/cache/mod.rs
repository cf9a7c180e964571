//! The build cache: what a step is made of becomes a key, and a key finds what the step made the last time.
//!
//! ```text
//! step + inputs -> key (pure) -> store: a registry, an OCI image layout -> entry (pure) -> choose (pure) -> solve
//! ```

pub mod choose;
pub mod entry;
pub mod key;
pub mod misses;
pub mod mount;
pub mod store;
