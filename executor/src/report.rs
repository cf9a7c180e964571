//! What is left of a build when its process ends: the report for the operator, and the small files that pipelines read.

use std::{fs, io, path::Path};

use karve_api::{BaseReport, BuildReport, Counters, Outcome, SourceInfo, SourceReport, StageReport};

use crate::{
    build::{Built, error::BuildError},
    image::{digest::Digest, reference::Reference},
    options::ResultFiles,
    progress::{Progress, explain},
};

/// Turns the end of a build into its report; texts pass through the masks.
pub fn report(
    result: &Result<Built, BuildError>,
    destinations: &[Reference],
    source: Option<&SourceInfo>,
    nonce: Option<&str>,
    progress: &Progress,
) -> BuildReport {
    let report = BuildReport {
        nonce: nonce.map(str::to_owned),
        image: destinations.first().map(|destination| destination.repository().to_string()),
        source: source
            .map(|source| SourceReport { revision: source.revision.clone(), commit_time: source.commit_time }),
        ..BuildReport::default()
    };
    match result {
        Ok(built) => BuildReport {
            result: Outcome::Succeeded,
            digest: built.digest.as_ref().map(ToString::to_string),
            isolation: built.isolation.clone(),
            cache: built.cache.clone(),
            counters: Some(Counters {
                steps: built.steps,
                layers: built.layers,
                bytes_pushed: built.bytes_pushed,
                bytes_pulled: built.bytes_pulled,
                duration_seconds: progress.elapsed().as_secs().try_into().unwrap_or(i64::MAX),
            }),
            bases: built
                .bases
                .iter()
                .map(|(reference, digest)| BaseReport { reference: reference.clone(), digest: digest.to_string() })
                .collect(),
            stages: built
                .stages
                .iter()
                .map(|stage| StageReport { name: stage.name.clone(), duration_seconds: stage.duration.as_secs_f64() })
                .collect(),
            ..report
        },
        Err(error) => BuildReport {
            result: Outcome::Failed,
            reason: Some(error.reason()),
            message: Some(progress.mask(&explain(error))),
            stage: error.stage().map(str::to_owned),
            log_tail: Some(error.tail().join("\n")).filter(|tail| !tail.is_empty()),
            ..report
        },
    }
}

/// Writes the files that hold the digest. Each is complete or absent.
pub fn write_result_files(files: &ResultFiles, destinations: &[Reference], digest: &Digest) -> io::Result<()> {
    let lines = |line: &dyn Fn(&Reference) -> String| -> String {
        destinations.iter().map(|reference| line(reference) + "\n").collect()
    };
    if let Some(path) = &files.digest {
        write_whole(path, &digest.to_string())?;
    }
    if let Some(path) = &files.name_with_digest {
        write_whole(path, &lines(&|reference| format!("{}@{digest}", reference.repository())))?;
    }
    if let Some(path) = &files.name_tag_with_digest {
        write_whole(path, &lines(&|reference| format!("{reference}@{digest}")))?;
    }
    Ok(())
}

/// Writes a file beside its place and moves it there.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

/// Writes the report where the kubelet reads it: over what is there, since the file is mounted and cannot be replaced.
pub fn write_termination_message(path: &Path, message: &str) -> io::Result<()> {
    fs::write(path, message)
}
