//! The program as its callers see it: exit codes, what is left behind, and the table of its flags.
//!
//! What runs steps needs root, user namespaces with overlayfs, and `/bin/busybox`; where one is missing a test says so and
//! passes.
#![expect(clippy::print_stderr, reason = "a test that is skipped must say why")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test")]

mod fixture;
mod flags;
mod generated;
mod limits;
mod lint;
mod signals;
