//! The program `karve`: takes flags and environment, calls the library, prints, and ends with an exit code.

mod command;

use std::process::ExitCode;

use karve::sandbox::{
    helper::{HELPER_ARGUMENT, helper_main},
    share_heap,
};

fn main() -> ExitCode {
    share_heap();
    // Before any thread exists: a process that unshares a user namespace must have only one.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == HELPER_ARGUMENT) {
        return helper_main();
    }
    command::main()
}
