//! The whole of Karve on a Kubernetes node: installed with Helm from images that it built itself.
//!
//! Needs root and `make images`. All tests share one node and one installation, so they run one after the other:
//! `cargo test --workspace --test cluster -- --test-threads=1 samples`. With `make cluster` the node is there before and
//! stays, which saves its start; the namespace of a test that failed is left on it.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking; clippy knows only those in `#[test]` functions"
)]

mod bad_input;
mod cache;
mod karve;
mod lifecycle;
mod namespace;
mod restarts;
mod samples;
