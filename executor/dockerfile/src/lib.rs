//! The Dockerfile language: text comes in, a tree of typed instructions with their places comes out, or every mistake
//! that can be found at once, each with line, column and the line itself.
//!
//! ```text
//! bytes -> lex (logical lines, heredocs) -> parse (flags, words, JSON) -> ast      expand: a word + variables -> text
//! ```
//!
//! Beside it lie the small notations that belong to the language: ignore patterns, modes of `--chmod`, durations.
//! Nothing here knows what a build is: variables keep their names, images are not looked up. Pure, and a crate of its own
//! so that its dependencies show it.

pub mod ast;
pub mod chmod;
pub mod diagnostic;
pub mod duration;
pub mod expand;
pub mod ignore;
pub mod lint;

mod flags;
mod healthcheck;
mod heredoc;
mod instruction;
mod lex;
mod parse;
mod pattern;
mod suggest;
mod words;

pub use parse::{DOCKERFILE_BYTES_MAX, INSTRUCTIONS_MAX, STAGES_MAX, parse, parse_trigger};
pub use suggest::closest;
