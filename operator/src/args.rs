//! What was typed. `karve-operator` alone runs; `karve-operator crd` prints the resource definition.

use std::{net::SocketAddr, time::Duration};

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::{
    decide::{CACHE_TTL_BOUNDS, parse_duration},
    pod::{CachePolicy, Settings},
};

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
    /// Whether builds use the cache unless they say otherwise. Where it is follows from each build's own output.
    #[arg(long, action = ArgAction::Set, default_value_t = true, env = "KARVE_CACHE_ENABLED")]
    pub cache_enabled: bool,
    /// How old a result may be that builds take from the cache unless they say otherwise, as a Go duration.
    #[arg(long, default_value = "336h", value_parser = cache_ttl, env = "KARVE_CACHE_TTL")]
    pub cache_ttl: Duration,
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

fn cache_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).filter(|ttl| CACHE_TTL_BOUNDS.contains(ttl));
    ttl.ok_or_else(|| "must be a duration from 1m to 87600h, such as 336h".to_owned())
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
            cache: CachePolicy { enabled: self.cache_enabled, ttl: self.cache_ttl },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &[&str], expected: Result<CachePolicy, &str>) {
        let parsed = Args::try_parse_from(["karve-operator"].iter().chain(arguments));
        match (parsed, expected) {
            (Ok(args), Ok(expected)) => assert_eq!(args.run.settings().cache, expected),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "`{words}` is not in: {error}"),
            (parsed, expected) => panic!("{arguments:?}: {parsed:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn the_policy_of_the_cache_is_on_or_off_and_an_age() {
        let policy = |enabled, hours| Ok(CachePolicy { enabled, ttl: Duration::from_hours(hours) });
        check(&[], policy(true, 336));
        check(&["--cache-enabled=false"], policy(false, 336));
        check(&["--cache-enabled=true", "--cache-ttl=48h"], policy(true, 48));
        check(&["--cache-ttl=30s"], Err("from 1m to 87600h"));
        check(&["--cache-ttl=two weeks"], Err("from 1m to 87600h"));
        check(&["--cache-enabled=maybe"], Err("--cache-enabled"));
    }

    #[test]
    fn there_is_no_repository_of_the_operators() {
        for flag in ["--cache-repo=registry.example/cache", "--cache-repository=registry.example/cache"] {
            check(&[flag], Err("unexpected argument"));
        }
    }
}
