//! The cache as it is seen from outside: a project, built again and again in empty work directories, of which only the
//! cache stays. What comes from it must be what a build without it makes.
//!
//! Run one test: `cargo test --workspace --test cache -- poisoned`. The tests run as root, or where a user may make user
//! namespaces with all ids.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking; clippy knows only those in `#[test]` functions"
)]

mod again;
mod bases;
mod bytes;
mod changes;
mod elsewhere;
mod ended;
mod evict;
mod expiry;
mod faults;
mod generate;
mod hits;
mod one_run;
mod places;
mod project;
mod races;
mod random;
mod read_only;
mod reasons;
mod scene;
mod secrets;
mod surroundings;
