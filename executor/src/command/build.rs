//! `karve build`: a Dockerfile to a pushed image.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use karve::{
    build::{self, Built, error::BuildError},
    flags::{BuildFlags, LogFormat},
    image::platform::Platform,
    options::{Environment, Options},
    progress::{Masks, Progress, explain},
    registry::credentials::Credentials,
    report,
    solve::secrets::Secrets,
};
use karve_api::SourceInfo;

use super::{EXIT_FAILURE, ended_by, fail, progress, terminated, usage};

/// Runs the command.
pub(crate) async fn main(flags: BuildFlags, environment: &Environment, format: LogFormat) -> ExitCode {
    let options = match Options::from_flags(flags, environment, &Platform::host().to_string()) {
        Ok(options) => options,
        Err(error) => return usage("build", &error.to_string()),
    };
    let progress = Arc::new(progress(format, masks(&options, environment), environment));
    options.notes.iter().for_each(|note| progress.note(note));
    let result = build::build(&options, environment, &progress, terminated()).await;
    if let Err(BuildError::Interrupted(signal)) = result {
        // No report: whoever ended the Pod knows why, and a report would pass for a result of the build.
        return ended_by(signal);
    }
    let source = options.source_info.as_deref().and_then(|path| build::source_info(path).ok());
    let code = finish(&options, &result, &progress);
    // Last of all: the report is the last line of the log, and nothing can fail behind a termination message of success.
    match write_report(&options, &result, source.as_ref(), &progress) {
        Ok(()) => code,
        Err(error) => fail(&format!("the report cannot be written: {error}")),
    }
}

/// What must not be printed: credentials and RUN secrets.
pub(super) fn masks(options: &Options, environment: &Environment) -> Masks {
    let mut values = Secrets::new(options.secrets.clone()).texts();
    let documents = environment.registry_auth.iter().chain(&environment.push_auth);
    for document in documents {
        // A document that cannot be read fails the build; here it has nothing to hide.
        let credentials = Credentials::parse(document.expose().as_bytes(), "").unwrap_or_default();
        values.extend(credentials.secrets().map(|secret| secret.expose().clone()));
    }
    Masks::new(values.iter().map(String::as_str))
}

fn write_report(
    options: &Options,
    result: &Result<Built, BuildError>,
    source: Option<&SourceInfo>,
    progress: &Progress,
) -> io::Result<()> {
    let Some(path) = &options.files.report else { return Ok(()) };
    let report = report::report(result, &options.destinations, source, options.files.nonce.as_deref(), progress);
    progress.raw(&serde_json::to_string(&report).map_err(io::Error::other)?);
    report::write_termination_message(path, &report.to_termination_message())
}

/// Prints the digest, or the error.
fn finish(options: &Options, result: &Result<Built, BuildError>, progress: &Progress) -> ExitCode {
    let built = match result {
        Ok(built) => built,
        Err(error) => return fail(&progress.mask(&explain(error))),
    };
    let Some(digest) = &built.digest else { return ExitCode::from(EXIT_FAILURE) };
    if let Err(error) = report::write_result_files(&options.files, &options.destinations, digest) {
        return fail(&format!("the image is complete, but a result file cannot be written: {error}"));
    }
    progress.note(&summary(built, progress));
    let mut lines: Vec<String> =
        options.destinations.iter().map(|destination| format!("{}@{digest}", destination.repository())).collect();
    lines.dedup();
    if lines.is_empty() {
        lines.push(digest.to_string());
    }
    match writeln!(io::stdout(), "{}", lines.join("\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("standard output: {error}")),
    }
}

fn summary(built: &Built, progress: &Progress) -> String {
    if built.adopted {
        return "an earlier attempt had pushed this image: nothing was built".to_owned();
    }
    let isolation = built.isolation.as_deref().map(|mode| format!(", isolation {mode}")).unwrap_or_default();
    let cached = built.cache.as_ref().map(|cache| format!(", {} of them cached", cache.hits)).unwrap_or_default();
    let stages = built.stages.iter().map(|stage| format!(", {} {:.1}s", stage.name, stage.duration.as_secs_f64()));
    format!(
        "built in {:.1}s: {} steps{cached}, {} bytes of layers sent{isolation}{}",
        progress.elapsed().as_secs_f64(),
        built.steps,
        built.bytes_pushed,
        stages.collect::<String>()
    )
}
