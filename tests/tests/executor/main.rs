//! The program `karve` as people and Pods run it: a context and flags in, an image in a registry or layout out.
//!
//! Run one test: `cargo test --workspace --test executor -- onbuild`. The tests run as root, or where a user may make user
//! namespaces with all ids.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking; clippy knows only those in `#[test]` functions"
)]

mod agents;
mod arguments;
mod bad_input;
mod build;
mod check;
mod contexts;
mod instructions;
mod kept_mounts;
mod mounts;
mod output;
mod platforms;
mod registries;
mod remote;
mod resources;
mod secrets;
