//! From a parsed Dockerfile to a graph of stages and steps: only what the target reaches, every word expanded, every
//! `--from` resolved, ONBUILD triggers in place. Pure.
//!
//! ```text
//! Dockerfile + Options + Bases -> build (who needs whom) -> stage (walk one stage) -> Graph, or Needs(images)
//! ```
//!
//! An image's configuration decides what a stage inherits, so the planner asks for those that it lacks and is called
//! again; it never fetches.

pub mod build;
pub mod contexts;
pub mod graph;
pub mod platform;
pub mod remote;

mod arguments;
mod config;
mod golang;
mod lint;
mod mount;
mod needs;
mod port;
mod run;
mod signal;
mod sources;
mod stage;
mod transfer;

#[cfg(test)]
mod growth;

pub use build::{Checked, build, check};
