//! From a parsed Dockerfile to a graph of stages and steps: only what the target reaches, every word expanded, every
//! `--from` resolved, ONBUILD triggers in place. Pure.

pub mod graph;
