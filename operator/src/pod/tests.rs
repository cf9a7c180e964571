//! Whole Pods, as they are created. A snapshot that changes is a change of the contract with the executor.

use std::{collections::BTreeMap, time::Duration};

use karve_api::ImageBuild;
use serde_json::{Value, json};

use super::{Attempt, CachePolicy, Settings, config_map, pod};

#[track_caller]
fn check(name: &str, spec: &Value, attempt: i64) {
    let object: ImageBuild = serde_json::from_value(json!({
        "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "0a1b2c3d-0000-4000-8000-000000000000", "generation": 1,
            "labels": {"app.kubernetes.io/instance": "argo-app"},
            "annotations": {"argocd.argoproj.io/tracking-id": "argo-app:karve.dev/ImageBuild:shop/web"}
        },
        "spec": spec,
    }))
    .unwrap();
    let attempt = Attempt {
        number: 3,
        attempt,
        files_hash: Some("sha256:00".to_owned()),
        build_args: BTreeMap::from([("VERSION".to_owned(), "1.2".to_owned())]),
        timeout: Duration::from_hours(1),
        cache_ttl: Some(Duration::from_hours(48)),
    };
    let settings = Settings {
        executor_image: "registry.example/karve:v1".to_owned(),
        executor_pull_policy: Some("IfNotPresent".to_owned()),
        executor_image_pull_secrets: vec!["karve-pull".to_owned()],
        plain_http_registries: vec!["registry.local:5000".to_owned()],
        volume_size_gibibytes: 20,
        cache: CachePolicy::default(),
    };
    let objects = (config_map(&object, 3), pod(&object, &attempt, &settings));
    let yaml = [serde_yaml::to_string(&objects.0).unwrap(), serde_yaml::to_string(&objects.1).unwrap()].join("---\n");
    insta::assert_snapshot!(name, yaml);
}

#[test]
fn git_with_everything() {
    let spec = json!({
        "context": {
            "git": {"url": "https://git.example/shop.git", "ref": {"branch": "main"}, "secretRef": {"name": "git-auth"}},
            "subPath": "web"
        },
        "dockerfile": {"path": "build/Dockerfile"},
        "target": "runtime",
        "buildArgs": [{"name": "VERSION", "value": "1.2"}],
        "secrets": [{"id": "npmrc", "secretKeyRef": {"name": "npm", "key": ".npmrc"}}],
        "registrySecretRefs": [{"name": "registry-auth"}, {"name": "mirror-auth"}],
        "registries": [
            {"host": "registry.example", "caConfigMapRef": {"name": "ca", "key": "bundle.pem"}},
            {"host": "other.example", "insecureSkipVerify": true}
        ],
        "cache": {"repository": "registry.example/shop/cache", "ttl": "48h", "mounts": false},
        "output": {
            "image": "registry.example/shop/web:v1", "tags": ["latest"], "pushSecretRef": {"name": "push-auth"},
            "labels": {"team": "shop"}, "annotations": {"org.opencontainers.image.url": "https://shop.example"}
        },
        "resources": {"limits": {"memory": "2Gi", "cpu": 2}},
        "podTemplate": {
            "metadata": {"labels": {"team": "shop"}, "annotations": {"sidecar.istio.io/inject": "false"}},
            "spec": {
                "nodeSelector": {"kubernetes.io/arch": "amd64"}, "serviceAccountName": "builder",
                "tolerations": [{"key": "builds", "operator": "Exists"}], "imagePullSecrets": [{"name": "mine"}]
            }
        }
    });
    check("git_with_everything", &spec, 2);
}

#[test]
fn inline_files_and_dockerfile() {
    let spec = json!({
        "context": {"inline": {"files": {"app.py": "print('x')\n", "src/lib.py": ""}}},
        "dockerfile": {"inline": "FROM python\nCOPY . /app\n"},
        "output": {"image": "registry.local:5000/shop/web", "buildTag": false},
        "registries": [{"host": "registry.local:5000", "plainHTTP": true}],
        "cache": {"disabled": true}
    });
    check("inline_files_and_dockerfile", &spec, 1);
}

#[test]
fn no_value_of_a_spec_takes_in_the_environment_of_a_container() {
    let hostile = "$(KARVE_PUSH_AUTH) $(KARVE_GIT_password) $$ $";
    let object: ImageBuild = serde_json::from_value(json!({
        "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "context": {"git": {"url": "https://git.example/web.git", "ref": {"branch": hostile}}, "subPath": hostile},
            "target": hostile,
            "output": {"image": "registry.example/web", "labels": {"label": hostile}}
        },
    }))
    .unwrap();
    let attempt = Attempt {
        number: 1,
        attempt: 1,
        files_hash: None,
        build_args: BTreeMap::from([("ARGUMENT".to_owned(), hostile.to_owned())]),
        timeout: Duration::from_hours(1),
        cache_ttl: None,
    };
    let spec = pod(&object, &attempt, &Settings::default()).spec.unwrap();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let args: Vec<&String> = containers.filter_map(|container| container.args.as_ref()).flatten().collect();
    let escaped = hostile.replace('$', "$$");
    for flag in ["--git-branch=", "--sub-path=", "--target=", "--label=label=", "--build-arg=ARGUMENT="] {
        assert!(args.contains(&&format!("{flag}{escaped}")), "{flag} in {args:?}");
    }
}

#[test]
fn config_map_context() {
    let spec =
        json!({"context": {"configMap": {"name": "web"}}, "output": {"image": "registry.local:5000/shop/web:v1"}});
    check("config_map_context", &spec, 1);
}

#[test]
fn volume_context() {
    let spec = json!({
        "context": {"persistentVolumeClaim": {"claimName": "sources"}},
        "output": {"image": "registry.local:5000/shop/web:v1"}
    });
    check("volume_context", &spec, 1);
}
