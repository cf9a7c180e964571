//! The program `karve-operator` against a real API server without a kubelet: the tests play the kubelet by writing the
//! status of Pods, so that everything between two writes of the operator can be looked at.
//!
//! Run one test: `cargo test --workspace --test operator -- foreign_pod`. Root is not needed.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking; clippy knows only those in `#[test]` functions"
)]

mod cache;
mod definition;
mod inputs;
mod leader;
mod lifecycle;
mod restarts;
mod scene;
mod unreadable;
