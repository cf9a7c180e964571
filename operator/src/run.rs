//! Puts the parts together: logs, the admin server, the Lease, one controller for each namespace, and an orderly end.

use std::{
    hash::{BuildHasher, RandomState},
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use futures::future::join_all;
use kube::{
    Client, Config,
    runtime::events::{Recorder, Reporter},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Admin},
    args::{Args, Command, LogFormat, RunArgs},
    controller::{self, Context},
    lease::Lease,
    metrics::Metrics,
};

/// How long passes that run may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);
/// The pause before the API server is asked again at start.
const START_RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Does what the command line says.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Crd) => print_crd(),
        Some(Command::Run(run)) => start(*run),
        None => start(args.run),
    }
}

fn crd_yaml() -> anyhow::Result<String> {
    serde_yaml::to_string(&karve_api::custom_resource_definition()).context("definition as YAML")
}

fn print_crd() -> anyhow::Result<()> {
    let yaml = crd_yaml()?;
    let mut output = std::io::stdout().lock();
    output.write_all(yaml.as_bytes()).and_then(|()| output.flush()).context("standard output")
}

fn start(args: RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).context("--log")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: RunArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    listen_for_signals(shutdown.clone()).context("signals")?;
    let config = Config::infer().await.context("no kubeconfig and not in a cluster")?;
    let client = Client::try_from(config.clone()).context("API server client")?;
    let metrics = Arc::new(Metrics::new());
    let ready = Arc::new(AtomicBool::new(false));
    let admin = Admin { metrics: Arc::clone(&metrics), ready: Arc::clone(&ready) };
    // It outlives the controllers, so that the last metrics can still be read.
    let admin_end = CancellationToken::new();
    let admin_server = tokio::spawn(admin::serve(args.admin_address, admin, admin_end.clone()));
    let result = tokio::select! {
        result = lead(&args, &config, client, metrics, &ready, &shutdown) => result,
        () = admin_failed(admin_server) => Err(anyhow::anyhow!("the admin server ended; is {} free?", args.admin_address)),
    };
    admin_end.cancel();
    result
}

/// Becomes the leader, works until told to end, and gives the Lease back.
async fn lead(
    args: &RunArgs,
    config: &Config,
    client: Client,
    metrics: Arc<Metrics>,
    ready: &AtomicBool,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = reach(&client) => ready.store(true, Ordering::Relaxed),
        () = shutdown.cancelled() => return Ok(()),
    }
    // A client that retries by itself would defeat the Lease's deadlines.
    let mut lease_config = config.clone();
    lease_config.default_retry = false;
    let lease_client = Client::try_from(lease_config).context("lease client")?;
    let namespace = args.lease_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let mut lease = Lease::new(lease_client, &namespace, &args.lease_name, &identity(&args.identity));
    tokio::select! {
        () = lease.acquire() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    metrics.leader.set(1);
    let reporter = Reporter { controller: "karve-operator".to_owned(), instance: Some(args.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let ctx = Arc::new(Context::new(client, args.settings(), recorder, metrics));
    let work_end = shutdown.child_token();
    let namespaces: Vec<Option<String>> = if args.watch_namespace.is_empty() {
        vec![None]
    } else {
        args.watch_namespace.iter().cloned().map(Some).collect()
    };
    let controllers =
        namespaces.into_iter().map(|namespace| controller::run(namespace, Arc::clone(&ctx), work_end.clone()));
    let mut work = tokio::spawn(join_all(controllers));
    tokio::select! {
        () = lease.hold() => {
            // Another replica may work already: no write of ours may follow.
            work.abort();
            anyhow::bail!("the lease was lost");
        }
        ended = &mut work => {
            ended.context("controllers")?;
            anyhow::ensure!(shutdown.is_cancelled(), "the controllers ended");
        }
        () = shutdown.cancelled() => {
            if tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut work).await.is_err() {
                tracing::warn!("passes did not end in time");
                work.abort();
            }
        }
    }
    lease.release().await.context("lease not released")
}

/// Waits until the API server answers.
async fn reach(client: &Client) {
    while let Err(error) = client.apiserver_version().await {
        tracing::warn!(%error, "the API server does not answer");
        tokio::time::sleep(START_RETRY_PERIOD).await;
    }
}

async fn admin_failed(server: tokio::task::JoinHandle<std::io::Result<()>>) {
    match server.await {
        Ok(Ok(())) => tracing::info!("admin server ended"),
        Ok(Err(error)) => tracing::error!(%error, "admin server"),
        Err(error) => tracing::error!(%error, "admin server"),
    }
}

/// Returns a name that no other process has: a restarted one must not take itself for the holder.
fn identity(name: &str) -> String {
    format!("{name}_{:016x}", RandomState::new().hash_one(std::process::id()))
}

fn listen_for_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        shutdown.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::crd_yaml;

    #[test]
    fn the_definition_in_config_is_current() {
        let checked_in = include_str!("../../config/crd/imagebuilds.karve.dev.yaml");
        assert!(crd_yaml().unwrap() == checked_in, "write the output of `karve-operator crd` to config/crd");
    }
}
