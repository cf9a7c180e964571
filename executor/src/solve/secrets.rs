//! RUN secrets: read when a step mounts them, never kept on disk.

use std::{collections::BTreeMap, fs::File, io::Read};

use super::error::StepError;
use crate::{options::SecretSource, plan::graph::SecretMount, secret::Secret};

/// The largest secret: Kubernetes stores at most 1 MiB.
const SECRET_BYTES_MAX: u64 = 1 << 20;

/// The secrets that the build was given, by id.
#[derive(Debug, Default)]
pub struct Secrets(BTreeMap<String, SecretSource>);

impl Secrets {
    /// Takes the sources.
    pub const fn new(sources: BTreeMap<String, SecretSource>) -> Self {
        Self(sources)
    }

    /// Reads the value for a mount; `None` when it was not given and is not required.
    pub(super) fn value(&self, mount: &SecretMount) -> Result<Option<Secret<Vec<u8>>>, StepError> {
        match self.0.get(&mount.id) {
            Some(source) => read(&mount.id, source).map(Some),
            None if mount.required => Err(StepError::SecretMissing(mount.id.clone())),
            None => Ok(None),
        }
    }

    /// Reads the value of an id, if it was given.
    pub(super) fn get(&self, id: &str) -> Result<Option<Secret<Vec<u8>>>, StepError> {
        self.0.get(id).map(|source| read(id, source)).transpose()
    }

    /// Returns the values that are text, to hide them in the output. A secret that cannot be read is left to its step.
    pub fn texts(&self) -> Vec<String> {
        let values = self.0.iter().filter_map(|(id, source)| read(id, source).ok());
        values.filter_map(|value| String::from_utf8(value.expose().clone()).ok()).collect()
    }
}

fn read(id: &str, source: &SecretSource) -> Result<Secret<Vec<u8>>, StepError> {
    match source {
        SecretSource::Value(value) => Ok(value.clone()),
        SecretSource::File(path) => {
            let mut value = Vec::new();
            File::open(path)
                .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut value))
                .and_then(|length| {
                    let too_large = length as u64 > SECRET_BYTES_MAX;
                    if too_large { Err(std::io::Error::other("larger than 1 MiB")) } else { Ok(()) }
                })
                .map_err(|source| StepError::SecretUnreadable { id: id.to_owned(), source })?;
            Ok(Secret::new(value))
        }
    }
}
