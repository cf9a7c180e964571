//! The program `karve-operator`: reads the command line and runs.

use std::process::ExitCode;

use clap::Parser;
use karve_operator::{args::Args, run::run};

#[expect(clippy::print_stderr, reason = "the last word of the program")]
fn main() -> ExitCode {
    // Before any TLS: with two providers compiled in, rustls would refuse to choose.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("karve-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
