//! Real servers for black-box tests: a registry, a git server, an API server, a whole Kubernetes node.
//!
//! Each is a value: made by `start` or `up`, it answers when it is returned, and it is gone when it is dropped, or when the
//! test program ends in whatever way. All listen on loopback or on the node's own network. What cannot be started panics
//! with the program, its log and the next step: a test has no use for a `Result` here.
//!
//! In reading order: [`registry`], [`git_server`], [`web_server`], [`buildkit`], [`api_server`] and [`cluster`] are the servers; [`images`] and
//! [`programs`], [`archive`] and [`layout`] are what they work on; [`inspect`], [`facts`], [`tar`] and [`compare`] look into what was built; [`process`], [`http`] and [`mod@eventually`] are what they are made of.

#![expect(clippy::expect_used, reason = "a test harness fails by panicking, with a message for the person at the test")]

pub mod api_server;
pub mod archive;
pub mod buildkit;
pub mod cluster;
pub mod compare;
pub mod eventually;
pub mod facts;
pub mod git_server;
pub mod http;
pub mod images;
pub mod inspect;
pub mod layout;
pub mod process;
pub mod programs;
pub mod registry;
mod scripts;
pub mod tar;
pub mod web_server;

pub use eventually::{eventually, eventually_async};
