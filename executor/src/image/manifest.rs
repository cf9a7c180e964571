//! Placeholder: written on branch registry.
