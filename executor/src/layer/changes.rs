//! Placeholder: written on branch layer.
