//! What was typed. `karve-operator` alone runs; `karve-operator crd` prints the resource definition.

use std::net::SocketAddr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::pod::Settings;

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "karve-operator", version, about = "Builds container images for ImageBuild resources")]
pub struct Args {
    /// What to do; absent: run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Prints the `CustomResourceDefinition` as YAML.
    Crd,
    /// Runs the operator.
    Run(Box<RunArgs>),
}

/// How to run.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// Image of the executor, for both containers of every build Pod.
    #[arg(long, env = "KARVE_EXECUTOR_IMAGE", default_value = "karve:latest")]
    pub executor_image: String,
    /// Pull policy of the executor's image: `Always`, `IfNotPresent` or `Never`.
    #[arg(long, env = "KARVE_EXECUTOR_PULL_POLICY")]
    pub executor_pull_policy: Option<String>,
    /// Names of Secrets, in each build's namespace, for pulling the executor's image.
    #[arg(long, value_delimiter = ',', env = "KARVE_EXECUTOR_IMAGE_PULL_SECRETS")]
    pub executor_image_pull_secrets: Vec<String>,
    /// Registry, as `host[:port]`, that builds speak to in plain HTTP unless they say otherwise. May be repeated.
    #[arg(long, value_delimiter = ',', env = "KARVE_PLAIN_HTTP_REGISTRY")]
    pub plain_http_registry: Vec<String>,
    /// Size, in GiB, of each of the two scratch volumes of a build Pod.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=100_000), env = "KARVE_VOLUME_SIZE_GIB")]
    pub volume_size_gib: i64,
    /// Namespace to watch; may be repeated. Absent: all of them.
    #[arg(long, value_delimiter = ',', env = "KARVE_WATCH_NAMESPACE")]
    pub watch_namespace: Vec<String>,
    /// Namespace of the leader election's Lease. Absent: the namespace that the operator runs in.
    #[arg(long, env = "KARVE_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the leader election's Lease.
    #[arg(long, default_value = "karve-operator", env = "KARVE_LEASE_NAME")]
    pub lease_name: String,
    /// Name of this replica.
    #[arg(long, default_value = "karve-operator", env = "HOSTNAME")]
    pub identity: String,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8080", env = "KARVE_ADMIN_ADDRESS")]
    pub admin_address: SocketAddr,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "KARVE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged, as a filter such as `info` or `karve_operator=debug`.
    #[arg(long, default_value = "info", env = "KARVE_LOG")]
    pub log: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object for each line.
    Json,
}

impl RunArgs {
    /// Returns what every build gets.
    pub fn settings(&self) -> Settings {
        Settings {
            executor_image: self.executor_image.clone(),
            executor_pull_policy: self.executor_pull_policy.clone(),
            executor_image_pull_secrets: self.executor_image_pull_secrets.clone(),
            plain_http_registries: self.plain_http_registry.clone(),
            volume_size_gibibytes: self.volume_size_gib,
        }
    }
}
