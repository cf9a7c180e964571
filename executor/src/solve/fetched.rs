//! What ADD fetches, by digest, before anything runs: a checksum that the Dockerfile demands, the commit of a repository, or
//! what the cache remembers of a URL and its server confirms. Only where none of that is so the file itself is fetched.

use std::collections::{BTreeMap, HashMap};

use futures::future::join_all;

use super::{Solver, caching::Caching, remote::FetchedSource};
use crate::{
    cache::store::{Artifact, Part},
    image::digest::{Digest, FieldHasher},
    plan::remote::{Remote, RemoteFile},
};

/// The kind of artifact that remembers what a URL had.
const URL_TYPE: &str = "application/vnd.karve.cache.url.v1";

/// Its annotations.
const ETAG: &str = "dev.karve.url.etag";
const DIGEST: &str = "dev.karve.url.digest";

/// The digests of remote sources; those that cannot be known are missing.
pub(super) type RemoteDigests = HashMap<Remote, Digest>;

impl Solver {
    /// Names everything that the graph fetches, all at once.
    pub(super) async fn remote_digests(&self, caching: &Caching) -> RemoteDigests {
        let steps = self.graph.stages.iter().flat_map(|stage| &stage.steps);
        let remotes = steps.flat_map(|step| step.operation.remotes());
        let digests = remotes.map(|remote| async {
            let digest = match remote {
                Remote::Url(file) => self.url_digest(caching, remote, file).await,
                Remote::Git(_) => self.repository_digest(remote).await,
            };
            Some((remote.clone(), digest?))
        });
        join_all(digests).await.into_iter().flatten().collect()
    }

    async fn url_digest(&self, caching: &Caching, remote: &Remote, file: &RemoteFile) -> Option<Digest> {
        let content = match &file.checksum {
            Some(checksum) => checksum.to_string(),
            None => self.content_of_url(caching, remote, file).await?.to_string(),
        };
        let mut hasher = FieldHasher::default();
        hasher.list([b"file", file.name.as_bytes(), content.as_bytes()].into_iter());
        Some(hasher.finish())
    }

    async fn content_of_url(&self, caching: &Caching, remote: &Remote, file: &RemoteFile) -> Option<Digest> {
        let tag = format!("url-{}", Digest::of(file.url.as_bytes()).hex());
        if let Some(found) = caching.cache.find(&tag, URL_TYPE).await
            && let Some(etag) = found.manifest.annotations.get(ETAG)
            && let Some(Ok(digest)) = found.manifest.annotations.get(DIGEST).map(|text| text.parse())
        {
            match self.remotes.is_current(file, etag).await {
                Ok(true) => {
                    self.remotes.expect(remote, &digest);
                    if caching.cache.lacks(&found.source) {
                        caching.saves.artifact(tag, of_url(etag.clone(), &digest));
                    }
                    return Some(digest);
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "whoever needs the file says so"),
            }
        }
        let (digest, etag) = self.remotes.file_digest(remote).await?;
        if let Some(etag) = etag {
            caching.saves.artifact(tag, of_url(etag, &digest));
        }
        Some(digest)
    }

    async fn repository_digest(&self, remote: &Remote) -> Option<Digest> {
        let Remote::Git(repository) = remote else { return None };
        let FetchedSource::Tree(tree) = self.remotes.get(remote).await.ok()? else { return None };
        let mut hasher = FieldHasher::default();
        hasher.list([b"git", repository.sub_directory.as_bytes(), tree.commit.as_bytes()].into_iter());
        let flags = [repository.keep_git_directory, repository.submodules, repository.commit_time];
        for flag in flags {
            hasher.number(flag.into());
        }
        // What `.git` says of where it came from.
        let origin = if repository.keep_git_directory { repository.url.as_str() } else { "" };
        hasher.field(origin.as_bytes());
        Some(hasher.finish())
    }
}

/// What is remembered of a URL.
fn of_url(etag: String, digest: &Digest) -> Artifact {
    let annotations = BTreeMap::from([(ETAG.to_owned(), etag), (DIGEST.to_owned(), digest.to_string())]);
    Artifact { artifact_type: URL_TYPE, parts: vec![Part::empty()], annotations }
}
