//! A Dockerfile without its build: checked options come in, everything that is wrong with it comes out.
//!
//! Configurations of base images are asked for, since variables and triggers come from them. Where one cannot be had, a
//! note says so, and what depends on it is not judged. Nothing is fetched besides, and nothing runs.

mod report;
mod sarif;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use karve_dockerfile::{self as dockerfile, diagnostic::Diagnostics, ignore::Patterns, lint::Findings};

pub use self::report::{Named, Report};
use crate::{
    build::{self, error::BuildError},
    context::directory::Directory,
    options::{Environment, Options},
    plan::{
        self,
        graph::{self, Bases, ImageName},
    },
    progress::explain,
    registry::Registry,
};

/// Where the Dockerfile is.
#[derive(Clone, Debug)]
pub enum Source {
    /// Where the options say.
    Context,
    /// Here; it came by standard input.
    Text(Vec<u8>),
}

/// Checks a Dockerfile. Fails only when it cannot be read: that it is wrong is a result.
pub async fn check(
    options: &Options,
    environment: &Environment,
    source: Source,
    offline: bool,
) -> Result<Report, BuildError> {
    let directory = Directory::open(&options.context.to_string_lossy())?;
    let (file, text, ignored) = match source {
        Source::Text(text) => ("-".to_owned(), text, directory.ignore()?),
        Source::Context => {
            let name = options.dockerfile.as_ref().map(|path| path.to_string_lossy());
            let found = directory.dockerfile(name.as_deref(), Some(Path::new(".")))?;
            (shown_path(&options.context, &found.path), found.text.into_bytes(), found.ignore)
        }
    };
    let dockerfile = match dockerfile::parse(text) {
        Ok(dockerfile) => dockerfile,
        Err(mistakes) => return Ok(Report::new(file, Some(mistakes), &Findings::default(), None)),
    };
    let registry = if offline { None } else { Some(build::registry(options, environment)?) };
    let (checked, notes) = plan_all(&dockerfile, options, ignored, registry.as_ref()).await;
    let (mistakes, lint) = match checked {
        Ok(checked) => (checked.mistakes, checked.lint),
        Err(mistakes) => (Some(mistakes), Findings::default()),
    };
    Ok(Report { notes, ..Report::new(file, mistakes, &lint, Some(&dockerfile)) })
}

/// The path of the Dockerfile from where the program runs: what editors and code hosts can follow.
fn shown_path(context: &Path, name: &str) -> String {
    let inside = context.join(name);
    let path = if inside.is_file() { inside } else { Path::new(name).to_path_buf() };
    let path = path.strip_prefix(".").unwrap_or(&path);
    path.to_string_lossy().into_owned()
}

/// Plans until no more images can be asked for. Returns also what could not be learnt.
async fn plan_all(
    dockerfile: &dockerfile::ast::Dockerfile,
    options: &Options,
    ignored: Patterns,
    registry: Option<&Registry>,
) -> (Result<plan::Checked, Diagnostics>, Vec<String>) {
    let options = graph::Options { ignored, ..options.plan.clone() };
    let mut bases: Bases = BTreeMap::new();
    let mut unknown: BTreeSet<ImageName> = BTreeSet::new();
    let mut notes = Vec::new();
    loop {
        let checked = match plan::check(dockerfile, &options, &bases, &unknown) {
            Ok(checked) if !checked.needs.is_empty() => checked,
            done => return (done, notes),
        };
        for name in checked.needs {
            let why = match registry {
                None => "no registry is asked (--offline)".to_owned(),
                Some(registry) => match build::resolve(&name, registry).await {
                    Ok(image) => {
                        bases.insert(name, image.config);
                        continue;
                    }
                    Err(error) => explain(&error),
                },
            };
            let reference = &name.reference;
            notes.push(format!("`{reference}` is not known, and what depends on it is not checked: {why}"));
            unknown.insert(name);
        }
    }
}
