//! Each value: what it changes, and that one which does not exist is refused.

use std::fs;

use karve_tests::programs;
use serde_json::Value;

use crate::render::{arguments, chart, chart_text, container, helm, only, repository, run, succeeded};

#[test]
fn lint_finds_nothing() {
    succeeded(&helm(&["lint", "--strict"], &[]));
}

#[track_caller]
fn check_refused(value: &str, expected: &str) {
    let output = helm(&["template", "karve"], &["--set", value]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "`{value}` is accepted");
    assert!(message.contains(expected), "`{value}`: no `{expected}` in: {message}");
}

#[test]
fn a_typo_is_refused() {
    check_refused("replicas=2", "'replicas' not allowed");
    check_refused("image.registri=registry.example", "'registri' not allowed");
    check_refused("executor.image.sha=1", "'sha' not allowed");
    check_refused("registries.plainHttp={registry.local}", "'plainHttp' not allowed");
    check_refused("crds.enabled=true", "'enabled' not allowed");
    check_refused("resources.request.cpu=1", "'request' not allowed");
    check_refused("cache.enable=false", "'enable' not allowed");
}

#[test]
fn a_value_that_cannot_be_right_is_refused() {
    check_refused("image.digest=sha256:12", "/image/digest");
    check_refused("executor.image.pullPolicy=Sometimes", "/executor/image/pullPolicy");
    check_refused("registries.plainHTTP={http://registry.local}", "/registries/plainHTTP/0");
    check_refused("watchNamespaces={Shop}", "/watchNamespaces/0");
    check_refused("replicaCount=-1", "/replicaCount");
    check_refused("executor.volumeSizeGiB=0", "/executor/volumeSizeGiB");
    check_refused("log.format=xml", "/log/format");
    check_refused("cache.enabled=sometimes", "/cache/enabled");
    check_refused("cache.ttl=14d", "/cache/ttl");
    check_refused("cache.ttl=-1h", "/cache/ttl");
    check_refused("cache.ttl=", "/cache/ttl");
}

/// Whoever may write to a repository of the cache decides what the images hold that are made from it: one for all builds
/// would let each namespace poison the others' (docs/security.md).
#[test]
fn no_value_makes_builds_share_a_repository_of_the_cache() {
    for name in ["repository", "repo", "registry", "from"] {
        check_refused(&format!("cache.{name}=registry.example/cache"), &format!("'{name}' not allowed"));
    }
    let objects = chart(&[]);
    let of_cache: Vec<&str> =
        arguments(&objects).into_iter().filter(|argument| argument.starts_with("--cache")).collect();
    assert_eq!(of_cache, ["--cache-enabled=true", "--cache-ttl=336h"]);
    let help = succeeded(&run(&programs::operator(), ["run", "--help"], ""));
    let flags: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--cache")).collect();
    assert_eq!(flags, ["--cache-enabled", "--cache-ttl"]);
}

#[track_caller]
fn check_images(values: &str, operator: &str, executor: &str) {
    let objects = chart(&["--set", values]);
    assert_eq!(container(&objects)["image"], operator);
    assert_eq!(arguments(&objects)[1], format!("--executor-image={executor}"));
}

#[test]
fn images_are_named_by_tag_or_by_digest_which_wins() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    check_images(
        "image.registry=registry.example:5000",
        "registry.example:5000/karve/operator:0.1.0",
        "registry.example:5000/karve/executor:0.1.0",
    );
    check_images(
        "image.registry=one.example,image.tag=a,executor.image.registry=two.example,executor.image.tag=b",
        "one.example/karve/operator:a",
        "two.example/karve/executor:b",
    );
    check_images(
        &format!("image.registry=one.example,image.digest={digest},executor.image.digest={digest}"),
        &format!("one.example/karve/operator@{digest}"),
        &format!("one.example/karve/executor@{digest}"),
    );
}

#[track_caller]
fn check_arguments(values: &str, expected: &[&str]) {
    let objects = chart(&["--set", values]);
    let by_default = chart(&[]);
    let more: Vec<&str> =
        arguments(&objects).into_iter().filter(|argument| !arguments(&by_default).contains(argument)).collect();
    assert_eq!(more, expected);
}

#[test]
fn values_become_arguments() {
    check_arguments(
        "executor.imagePullSecrets={one,two}",
        &["--executor-image-pull-secrets=one", "--executor-image-pull-secrets=two"],
    );
    check_arguments("executor.image.pullPolicy=Always", &["--executor-pull-policy=Always"]);
    check_arguments("executor.volumeSizeGiB=100000", &["--volume-size-gib=100000"]);
    check_arguments("cache.enabled=false", &["--cache-enabled=false"]);
    check_arguments("cache.ttl=1h30m", &["--cache-ttl=1h30m"]);
    check_arguments("watchNamespaces={shop,web}", &["--watch-namespace=shop", "--watch-namespace=web"]);
    check_arguments(
        "registries.plainHTTP={one.local,two.local:5000}",
        &["--plain-http-registry=one.local", "--plain-http-registry=two.local:5000"],
    );
    check_arguments(
        r"log.format=text,log.filter=karve_operator=debug\,warn",
        &["--log-format=text", "--log=karve_operator=debug,warn"],
    );
    check_arguments("extraArgs={--one=1}", &["--one=1"]);
}

#[test]
fn a_disruption_budget_comes_with_the_second_replica() {
    let budgets = |values: &str| {
        let objects = chart(&["--set", values]);
        objects.iter().filter(|object| object["kind"] == "PodDisruptionBudget").count()
    };
    assert_eq!([budgets("replicaCount=1"), budgets("replicaCount=2")], [0, 1]);
}

#[test]
fn the_definition_is_installed_and_kept_unless_values_say_otherwise() {
    let objects = chart(&[]);
    let definition = only(&objects, "CustomResourceDefinition");
    assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");

    let objects = chart(&["--set=crds.keep=false"]);
    assert_eq!(only(&objects, "CustomResourceDefinition")["metadata"].get("annotations"), None);
    assert!(!chart_text(&["--set=crds.install=false"]).contains("CustomResourceDefinition"));
}

#[test]
fn names_follow_the_release_and_always_fit() {
    let long = "a".repeat(53);
    for (release, expected) in
        [("karve", "karve-operator"), ("karve-two", "karve-two-operator"), ("ci", "ci-karve-operator")]
    {
        let text = succeeded(&helm(&["template", release], &["--show-only=templates/deployment.yaml"]));
        assert!(text.contains(&format!("\n  name: {expected}\n")), "{text}");
    }
    let text = succeeded(&helm(&["template", &long], &["--show-only=templates/service.yaml"]));
    let name = text.lines().find_map(|line| line.strip_prefix("  name: ")).expect("a Service has a name");
    assert!(name.len() <= 63, "{name}");
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme() {
    let read = |path: &str| fs::read_to_string(repository("charts/karve").join(path)).expect("the chart has this file");
    let values: Value = serde_yaml::from_str(&read("values.yaml")).expect("values are YAML");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("a schema is JSON");
    let documented: Vec<String> = read("README.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();

    let mut described = Vec::new();
    leaves_of_schema(&schema, "", &mut described);
    described.retain(|path| path != "global");
    assert_eq!(
        described.iter().filter(|path| lookup(&values, path).is_none()).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(described), sorted(documented));
    for key in values.as_object().expect("values are a map").keys() {
        assert!(schema["properties"].get(key).is_some(), "`{key}` is not in the schema");
    }
}

/// Collects the paths of the values that the schema closes: what Kubernetes defines itself is one value.
fn leaves_of_schema(schema: &Value, path: &str, leaves: &mut Vec<String>) {
    let ours = schema.get("properties").and_then(Value::as_object).filter(|_| path != "resources");
    let Some(properties) = ours else {
        leaves.push(path.to_owned());
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "`{path}` would let a typo pass");
    for (name, inner) in properties {
        let inner_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        leaves_of_schema(inner, &inner_path, leaves);
    }
}

fn lookup<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    values.pointer(&format!("/{}", path.replace('.', "/")))
}
