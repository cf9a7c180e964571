//! The Dockerfile language: text comes in, a tree of typed instructions with their places comes out, or every mistake
//! that can be found at once, each with line, column and the line itself.
//!
//! ```text
//! bytes -> lex (logical lines, heredocs) -> parse (flags, words, JSON) -> ast      expand: a word + variables -> text
//! ```
//!
//! Nothing here knows what a build is: variables keep their names, images are not looked up. Pure.

pub mod ast;
pub mod diagnostic;
pub mod expand;

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
