//! Renders the chart and the kustomizations: helm's flags or a directory in, objects out.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

/// The namespace of every release here, which is the one that `config/` names.
pub(crate) const NAMESPACE: &str = "karve-system";

/// Returns a path of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a directory of the repository").join(path)
}

/// Returns the path of `helm` or `kubectl`, built by the first call on a machine.
pub(crate) fn tool(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let mut command = Command::new(repository("tests/cluster/build.sh"));
        let output = command.stderr(Stdio::inherit()).output().expect("build.sh can be started");
        assert!(output.status.success(), "build.sh cannot build helm and kubectl: see above");
        String::from_utf8(output.stdout).expect("build.sh prints a path").trim_end().into()
    });
    directory.join(name)
}

/// Runs a program on `input` and returns what came of it.
pub(crate) fn run(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // A program that reads nothing is fine.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    child.wait_with_output().expect("a child can be waited for")
}

/// Returns standard output; panics with standard error when the program failed.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs helm on the chart: the command and what it names, the chart's directory, flags.
pub(crate) fn helm(command: &[&str], flags: &[&str]) -> Output {
    let chart = repository("charts/karve");
    let arguments = command.iter().map(OsStr::new).chain([chart.as_os_str()]).chain(flags.iter().map(OsStr::new));
    run(&tool("helm"), arguments, "")
}

/// Returns the manifest that the chart renders to.
#[track_caller]
pub(crate) fn chart_text(flags: &[&str]) -> String {
    succeeded(&helm(&["template", "--namespace", NAMESPACE, "karve"], flags))
}

/// Returns the objects that the chart renders to.
#[track_caller]
pub(crate) fn chart(flags: &[&str]) -> Vec<Value> {
    parse(&chart_text(flags))
}

/// Returns the objects of a kustomization.
#[track_caller]
pub(crate) fn kustomization(path: &str) -> Vec<Value> {
    parse(&succeeded(&run(&tool("kubectl"), [OsStr::new("kustomize"), repository(path).as_os_str()], "")))
}

/// Returns the only object of a kind; panics when there is none or more than one.
#[track_caller]
pub(crate) fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there is more than one {kind}");
    object
}

/// Returns the operator's container.
#[track_caller]
pub(crate) fn container(objects: &[Value]) -> &Value {
    &only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
}

/// Returns the operator's arguments.
#[track_caller]
pub(crate) fn arguments(objects: &[Value]) -> Vec<&str> {
    let arguments = container(objects)["args"].as_array().expect("the operator has arguments");
    arguments.iter().map(|argument| argument.as_str().expect("an argument is text")).collect()
}

#[track_caller]
fn parse(manifest: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_yaml::from_multiple(manifest).expect("a manifest is YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}
