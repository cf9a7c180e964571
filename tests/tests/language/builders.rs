//! The two builders: a case on disk in, its outcome out, the image in the registry if there is one.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
};

use karve_tests::{inspect::Image, programs};

use crate::{
    corpus::Case,
    scene::{Place, Scene},
    tree::{CONTEXT, fill},
};

/// How a build ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub succeeded: bool,
    /// Standard error, where both print what happens.
    pub output: String,
    pub stdout: String,
}

/// Builds a case with Karve.
pub(crate) fn karve(scene: &Scene, case: &Case, place: &Place, repository: &str) -> Outcome {
    let mut command = Command::new(programs::karve());
    command.arg("build").arg(format!("--context={}", place.path(CONTEXT).display()));
    for (key, flag) in [
        ("dockerfile", "dockerfile"),
        ("arg", "build-arg"),
        ("label", "label"),
        ("target", "target"),
        ("platform", "platform"),
        ("build-context", "build-context"),
    ] {
        command.args(case.values(key).map(|value| format!("--{flag}={}", fill(value, &place.names))));
    }
    command.args(secrets(case, place));
    let agent = agent(case, place);
    command.args(agent.iter().map(|(id, _)| format!("--ssh={id}={}", place.path("agent").display())));
    command.arg(format!("--work-dir={}", place.path("work").display())).arg("--timeout=1m");
    let host = scene.registry.host();
    command.arg(format!("--insecure-registry={host}")).arg(format!("--destination={host}/{repository}:1"));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    run(command)
}

/// Builds a case with BuildKit.
pub(crate) fn buildkit(scene: &Scene, case: &Case, place: &Place, repository: &str) -> Outcome {
    let mut command = buildkit_command(scene, case, place);
    command.args(secrets(case, place));
    let agent = agent(case, place);
    command.args(agent.iter().map(|(id, _)| format!("--ssh={id}={}", place.path("agent").display())));
    command.arg(format!("--output=type=image,push=true,name={}/{repository}:1", scene.registry.host()));
    run(command)
}

/// Asks BuildKit for the warnings of its lint rules. (A build may lose warnings when another one runs beside it.)
pub(crate) fn buildkit_lint(scene: &Scene, case: &Case, place: &Place) -> Outcome {
    let mut command = buildkit_command(scene, case, place);
    command.arg("--opt=requestid=frontend.lint");
    run(command)
}

fn buildkit_command(scene: &Scene, case: &Case, place: &Place) -> Command {
    let mut command = scene.buildkit.build();
    let context = place.path(CONTEXT);
    for name in ["context", "dockerfile"] {
        command.arg(format!("--local={name}={}", context.display()));
    }
    for (key, option) in [
        ("dockerfile", "filename="),
        ("arg", "build-arg:"),
        ("label", "label:"),
        ("target", "target="),
        ("platform", "platform="),
    ] {
        command.args(case.values(key).map(|value| format!("--opt={option}{}", fill(value, &place.names))));
    }
    for value in case.values("build-context") {
        let value = fill(value, &place.names);
        let (name, source) = value.split_once('=').expect("build-context: NAME=SOURCE");
        if let Some(layout) = source.strip_prefix("oci-layout://") {
            let (directory, tag) = layout.rsplit_once(':').expect("oci-layout://DIRECTORY:TAG");
            // BuildKit wants a digest; its clients look it up.
            let digest = Image::of_layout(Path::new(directory), tag).digest;
            command.arg(format!("--oci-layout=stored={directory}"));
            command.arg(format!("--opt=context:{name}=oci-layout://stored@{digest}"));
        } else if source.contains("://") {
            command.arg(format!("--opt=context:{name}={source}"));
        } else {
            command.arg(format!("--local={name}={source}")).arg(format!("--opt=context:{name}=local:{name}"));
        }
    }
    command
}

/// Copies an image; skopeo names both.
pub(crate) fn copy_image(from: &str, to: &str) {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", from, &format!("docker://{to}")]);
    let outcome = run(command);
    assert!(outcome.succeeded, "{}", outcome.output);
}

/// Writes the secrets of a case to files, and returns the flags that both builders take.
fn secrets(case: &Case, place: &Place) -> Vec<String> {
    let secrets = case.values("secret").enumerate().map(|(index, secret)| {
        let secret = fill(secret, &place.names);
        let (id, value) = secret.split_once('=').expect("secret: ID=VALUE");
        let path = place.path(&format!("secret-{index}"));
        fs::write(&path, value).expect("the directory is ours");
        format!("--secret=id={id},src={}", path.display())
    });
    secrets.collect()
}

/// Makes a socket where an agent would listen: nobody speaks to it, but it is there.
fn agent(case: &Case, place: &Place) -> Option<(String, UnixListener)> {
    let id = case.value("ssh")?;
    let path = place.path("agent");
    drop(fs::remove_file(&path));
    Some((id.to_owned(), UnixListener::bind(path).expect("the directory is ours")))
}

fn run(mut command: Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Outcome { succeeded: output.status.success(), output: stderr, stdout }
}
