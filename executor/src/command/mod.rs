//! The commands: each turns its flags into a call of the library and the result into output and an exit code.

mod build;
mod check;
mod context;
mod run;

use std::{
    future::pending,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use karve::{
    flags::{self, Command, LogFormat},
    options::Environment,
    progress::{Format, Masks, Progress},
    secret::Secret,
};
use tokio::signal::unix::{SignalKind, signal};

/// A build or its input failed; the message says how.
const EXIT_FAILURE: u8 = 1;
/// The command line was wrong.
const EXIT_USAGE: u8 = 2;

/// Added to the number of the signal that ended the program.
const EXIT_SIGNAL: u8 = 128;

/// How long threads that do blocking work may take to notice the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Variables of the environment that hold docker `config.json` documents: `KARVE_REGISTRY_AUTH_0` and so on.
const REGISTRY_AUTH_PREFIX: &str = "KARVE_REGISTRY_AUTH_";
/// The variable with the document that wins for the destinations.
const PUSH_AUTH: &str = "KARVE_PUSH_AUTH";

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args()) {
        Ok(flags) => flags,
        Err(error) => {
            let usage = error.use_stderr();
            return if error.print().is_ok() && !usage { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return fail("a TLS provider is installed already");
    }
    if let Err(error) = karve::sandbox::protect() {
        return fail(&format!("this process cannot be hidden from RUN steps: {error}"));
    }
    let environment = environment();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        match flags.command {
            Command::Build(build) => build::main(*build, &environment, flags.log_format).await,
            Command::Check(flags) => tokio::select! {
                code = check::main(flags, &environment) => code,
                signal = terminated() => ended_by(signal),
            },
            Command::Run(run) => run::main(run, environment, flags.log_format).await,
            Command::Context(arguments) => tokio::select! {
                code = context::main(arguments, &environment) => code,
                signal = terminated() => ended_by(signal),
            },
        }
    });
    // A thread that still reads or writes for what has ended early is not waited for.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    code
}

/// Waits for SIGTERM or SIGINT and returns its number. (The first process of a container gets neither without asking.)
async fn terminated() -> u8 {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return pending().await;
    };
    let kind = tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    };
    u8::try_from(kind.as_raw_value()).unwrap_or_default()
}

/// The exit code of a program that a signal has ended, as shells have it.
fn ended_by(signal: u8) -> ExitCode {
    fail(&format!("ended by signal {signal}"));
    ExitCode::from(EXIT_SIGNAL.saturating_add(signal))
}

/// Reads the environment, once. A process that is not dumpable shows it to nobody, and helpers start with an empty one.
#[expect(clippy::disallowed_methods, reason = "the program reads its environment here and nowhere else")]
fn environment() -> Environment {
    let mut environment = Environment { now: now(), ..Environment::default() };
    let mut registry_auth = Vec::new();
    for (name, value) in std::env::vars() {
        if let Some(number) = name.strip_prefix(REGISTRY_AUTH_PREFIX) {
            registry_auth.push((number.parse::<u32>().unwrap_or(u32::MAX), Secret::new(value)));
        } else if name == PUSH_AUTH {
            environment.push_auth = Some(Secret::new(value));
        } else {
            environment.variables.insert(name, value);
        }
    }
    registry_auth.sort_by_key(|(number, _)| *number);
    environment.registry_auth = registry_auth.into_iter().map(|(_, document)| document).collect();
    if environment.registry_auth.is_empty() {
        environment.registry_auth.extend(docker_config(&environment));
    }
    environment
}

#[expect(clippy::disallowed_methods, reason = "the program is where the clock is read")]
fn now() -> i64 {
    Timestamp::now().as_second()
}

/// The docker `config.json` of the user: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
fn docker_config(environment: &Environment) -> Option<Secret> {
    let variable = |name: &str| environment.variables.get(name).filter(|value| !value.is_empty());
    let directory = variable("DOCKER_CONFIG").cloned().or_else(|| Some(format!("{}/.docker", variable("HOME")?)))?;
    std::fs::read_to_string(format!("{directory}/config.json")).ok().map(Secret::new)
}

/// Progress on standard error, for people or for machines.
fn progress(format: LogFormat, masks: Masks, environment: &Environment) -> Progress {
    let colour = io::stderr().is_terminal() && !environment.variables.contains_key("NO_COLOR");
    let format = match format {
        LogFormat::Text => Format::Text { colour },
        LogFormat::Json => Format::Json,
    };
    Progress::new(format, masks, Box::new(io::stderr()))
}

/// Prints an error as people read it.
fn fail(message: &str) -> ExitCode {
    drop(writeln!(io::stderr(), "error: {message}"));
    ExitCode::from(EXIT_FAILURE)
}

/// Prints a mistake in the command line of a command.
fn usage(command: &str, message: &str) -> ExitCode {
    drop(writeln!(io::stderr(), "error: {message}\nhint: karve {command} --help"));
    ExitCode::from(EXIT_USAGE)
}
