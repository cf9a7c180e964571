//! Placeholder: written on branch filesystem.
