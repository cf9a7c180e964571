//! The harness itself: each server starts, answers an independent client, and is gone when it is dropped.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking; clippy knows only those in `#[test]` functions"
)]

mod api_server;
mod buildkit;
mod cluster;
mod git_server;
mod images;
mod process;
mod registry;
