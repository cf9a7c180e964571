//! The `ImageBuild` resource: the spec that users write, the status that only the operator writes, and the schema and
//! rules that the API server enforces. One file per part of the YAML.

#![expect(unreachable_pub, reason = "KubeSchema repeats each struct, with its visibility, within a function")]

mod cache;
mod context;
mod definition;
mod output;
mod pod_template;
mod spec;
mod status;

pub use cache::{Cache, CacheStatus};
pub use context::{ConfigMapContext, ContextSource, GitContext, GitRef, InlineContext, VolumeClaimContext};
pub use definition::custom_resource_definition;
pub use output::{Output, Registry};
pub use pod_template::{PodTemplate, PodTemplateMetadata, PodTemplateSpec, ResourceQuantity, Resources};
pub use spec::{
    BuildArg, BuildArgSource, ConfigMapKeyReference, Dockerfile, History, ImageBuild, ImageBuildSpec, LocalReference,
    RunPolicy, RunSecret, SecretKeyReference,
};
pub use status::{BaseImage, BuildResult, ImageBuildStatus, LastBuild, SourceStatus, StageStatus};
