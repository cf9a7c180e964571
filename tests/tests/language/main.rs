//! The language as people use it: every Dockerfile of `tests/corpus` is built by Karve and by BuildKit, side by side, and
//! what came out is compared down to the last bit of a mode. `tests/corpus/README.md` tells how to read and write cases.
//!
//! Run one folder: `cargo test --workspace --test language -- copy`. Run one case: `KARVE_CASE=a-wildcard cargo test …`,
//! with any part of its name. The tests run as root.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking; clippy knows only those in `#[test]` functions"
)]

mod builders;
mod check;
mod corpus;
mod coverage;
mod scene;
mod tree;

/// One test for each folder of the corpus, so that cargo runs as many at once as there are processors.
macro_rules! folders {
    ($($folder:ident),* $(,)?) => {
        $(
            #[test]
            fn $folder() {
                check::folder(stringify!($folder));
            }
        )*

        #[test]
        fn every_folder_is_tested() {
            assert_eq!(corpus::folders(), [$(stringify!($folder)),*]);
        }
    };
}

folders!(
    add, arg, command, copy, env, from, heredoc, ignore, lint, metadata, mount, onbuild, run, syntax, variables,
    workdir
);
