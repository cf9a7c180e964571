//! The closed list of reasons: what conditions, events, `status.lastBuild.reason` and reports may say in one CamelCase
//! word, and what each of them means for the next try. Reading never fails: a word from another version is `Internal`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Says what a reason means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonClass {
    /// Nothing failed: the build is waiting, running, suspended or done.
    Progress,
    /// The user's to repair: nothing is tried again until an input or the spec changes.
    User,
    /// A registry or git server refused the credentials, or a Secret is missing. A repaired Secret cannot be seen, so
    /// it is reported as the user's and still tried again, minutes apart.
    Credentials,
    /// The cluster's, the network's or Karve's own: tried again with backoff, without end.
    Infrastructure,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $class:ident,)+) => {
        /// Says in one word how a build stands or why it failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Returns the CamelCase word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Returns what the reason means for the next try.
            pub fn class(self) -> ReasonClass {
                match self {
                    $(Self::$name => ReasonClass::$class,)+
                }
            }
        }
    };
}

reasons! {
    /// The image was built and the registry confirmed it by digest.
    Succeeded => Progress,
    /// The Pod is about to be created, or waits to be scheduled or for its image.
    Pending => Progress,
    /// The build is running.
    Building => Progress,
    /// A new build waits until the running one has ended.
    Queued => Progress,
    /// An infrastructure failure is being tried again; the message says when.
    Retrying => Progress,
    /// `spec.suspend` is set.
    Suspended => Progress,
    /// The annotation `karve.dev/cancel` ended the build.
    Cancelled => User,

    /// The resource cannot be read or says something that the schema cannot refuse; the message names the field.
    InvalidSpec => User,
    /// The Dockerfile does not parse; the message has file, line and column.
    DockerfileInvalid => User,
    /// The target, or a stage named by `--from`, is not in the Dockerfile.
    StageNotFound => User,
    /// A COPY or ADD source, or the Dockerfile itself, is not there.
    FileNotFound => User,
    /// A RUN step exited with a code other than zero; the message has the code, the log its last lines.
    RunFailed => User,
    /// The Dockerfile uses something that Karve does not support; it is never ignored.
    Unsupported => User,
    /// A base image or one named by `--from` does not exist in its registry.
    BaseImageNotFound => User,
    /// The registry refused the image for good: not for its credentials, and not for a moment.
    PushRefused => User,
    /// The git repository, the branch, tag or commit, or the sub-path does not exist.
    ContextNotFound => User,
    /// The context cannot be used: a path that leaves it, a file of a kind that a context cannot hold, too large.
    ContextInvalid => User,
    /// A ConfigMap, or a key of it, that the spec names does not exist; the build starts when it appears.
    ConfigMapNotFound => User,
    /// A volume claim that the spec names does not exist; the build starts when it appears.
    VolumeNotFound => User,
    /// The build needed more disk than its volumes may hold.
    VolumeFull => User,
    /// The build took longer than `spec.timeout`.
    Timeout => User,
    /// The build needed more memory than its limit.
    OutOfMemory => User,
    /// A RUN step cannot be executed with what the Pod is allowed; the message names the missing permission.
    IsolationUnavailable => User,
    /// The API server refused the Pod (Pod Security, quota, an admission webhook); tried again.
    PodRefused => Infrastructure,
    /// A Pod of the build's name exists that does not belong to the `ImageBuild`.
    PodNameTaken => Infrastructure,

    /// A registry or the git server refused the credentials (401 or 403).
    Unauthorized => Credentials,
    /// A Secret, or a key of it, that the spec names does not exist; the build starts when it appears.
    SecretNotFound => Credentials,

    /// A registry did not answer, answered 5xx or 429, or broke the connection more often than retries allow.
    RegistryUnavailable => Infrastructure,
    /// The context's server did not answer, answered 5xx or 429, or broke the connection.
    ContextFetchFailed => Infrastructure,
    /// The mounted ConfigMap was not the one that the build was started for.
    ContextChanged => Infrastructure,
    /// The Pod was evicted, preempted or drained with its node.
    Disrupted => Infrastructure,
    /// The node of the Pod was lost.
    NodeLost => Infrastructure,
    /// Somebody deleted the Pod while it ran.
    PodDeleted => Infrastructure,
    /// The executor's image cannot be pulled.
    ExecutorImageUnavailable => Infrastructure,
    /// The Pod did not start in time, or the node refused it.
    PodNotStarted => Infrastructure,
    /// The container ended without a report that could be believed.
    ReportInvalid => Infrastructure,
    /// A defect of Karve, or an answer from another version of it that this one does not know.
    Internal => Infrastructure,
}

impl Reason {
    /// Returns the reason that the word means, or `None` if this version knows no such word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(Self::parse(&word).unwrap_or(Self::Internal))
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_word_reads_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }

    #[test]
    fn an_unknown_word_is_internal() {
        let reason: Reason = serde_json::from_str("\"FromTheFuture\"").unwrap();
        assert_eq!(reason, Reason::Internal);
    }
}
