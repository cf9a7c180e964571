//! `karve context`: what the init container of an executor Pod runs.

use std::{path::Path, process::ExitCode};

use karve::{
    context::{
        self, ContextError,
        arguments::{ContextArguments, GitEnvironment},
    },
    options::Environment,
    progress::explain,
    report,
};
use karve_api::{ContextReport, Outcome, SourceInfo};

use super::{fail, usage};

/// Runs the command: fetches the context, and reports what came of it.
pub(crate) async fn main(arguments: ContextArguments, environment: &Environment) -> ExitCode {
    let report_path = arguments.report.clone();
    let variables = environment.variables.iter().map(|(name, value)| (name.clone(), value.clone()));
    let request = match arguments.request(GitEnvironment::collect(variables)) {
        Ok(request) => request,
        Err(error) => return usage("context", &error.to_string()),
    };
    let result = context::fetch(request).await;
    if let Some(path) = report_path
        && let Err(error) = write_report(&path, &result)
    {
        return fail(&format!("{}: the report cannot be written: {error}", path.display()));
    }
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(&explain(&error)),
    }
}

fn write_report(path: &Path, result: &Result<SourceInfo, ContextError>) -> std::io::Result<()> {
    let report = match result {
        Ok(info) => ContextReport {
            result: Outcome::Succeeded,
            revision: info.revision.clone(),
            commit_time: info.commit_time,
            ..ContextReport::default()
        },
        Err(error) => ContextReport {
            result: Outcome::Failed,
            reason: Some(error.reason()),
            message: Some(explain(error)),
            ..ContextReport::default()
        },
    };
    report::write_termination_message(path, &report.to_termination_message())
}
