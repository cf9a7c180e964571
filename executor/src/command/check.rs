//! `karve check`: what is wrong with a Dockerfile, on standard output.

use std::{
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

use karve::{
    check::{self, Source},
    flags::{BuildFlags, CheckFlags, Switch},
    image::platform::Platform,
    options::{Environment, Options},
    progress::explain,
};
use karve_dockerfile::DOCKERFILE_BYTES_MAX;

use super::{EXIT_FAILURE, fail, usage};

/// Runs the command.
pub(crate) async fn main(flags: CheckFlags, environment: &Environment) -> ExitCode {
    let (format, offline) = (flags.format, flags.offline);
    let source = match source(&flags) {
        Ok(source) => source,
        Err(error) => return fail(&format!("standard input: {error}")),
    };
    let options = match Options::from_flags(build_flags(flags), environment, &Platform::host().to_string()) {
        Ok(options) => options,
        Err(error) => return usage("check", &error.to_string()),
    };
    let report = match check::check(&options, environment, source, offline).await {
        Ok(report) => report,
        Err(error) => return fail(&explain(&error)),
    };
    match writeln!(io::stdout(), "{}", report.render(format)) {
        Ok(()) if report.failed() => ExitCode::from(EXIT_FAILURE),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("standard output: {error}")),
    }
}

/// Reads standard input if it is the Dockerfile.
fn source(flags: &CheckFlags) -> io::Result<Source> {
    if flags.dockerfile.as_deref() != Some(Path::new("-")) {
        return Ok(Source::Context);
    }
    let mut text = Vec::new();
    io::stdin().take(DOCKERFILE_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(Source::Text(text))
}

/// What the same build would be given.
fn build_flags(flags: CheckFlags) -> BuildFlags {
    BuildFlags {
        context: flags.context,
        dockerfile: flags.dockerfile,
        build_arg: flags.build_arg,
        target: flags.target,
        insecure_registry: flags.insecure_registry,
        skip_tls_verify_registry: flags.skip_tls_verify_registry,
        registry_certificate: flags.registry_certificate,
        no_push: Switch(true),
        isolation: "auto".into(),
        ..BuildFlags::default()
    }
}
