//! What the container `build` is told of the cache: the spec and the operator's policy in, flags out. The spec wins, field
//! by field; where the cache is never comes from the operator.

use karve_api::ImageBuild;

use super::{Attempt, Settings, build::go_duration};

/// Returns the flags.
pub(super) fn args(object: &ImageBuild, attempt: &Attempt, settings: &Settings) -> Vec<String> {
    let given = object.spec.cache.clone().unwrap_or_default();
    if given.disabled.unwrap_or(!settings.cache.enabled) {
        return vec!["--cache=false".to_owned()];
    }
    let ttl = attempt.cache_ttl.unwrap_or(settings.cache.ttl);
    vec![
        "--cache=true".to_owned(),
        format!("--cache-repo={}", object.spec.cache_repository()),
        format!("--cache-ttl={}", go_duration(ttl.as_secs())),
        format!("--cache-mounts={}", given.mounts.unwrap_or(true)),
    ]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use karve_api::ImageBuild;
    use serde_json::{Value, json};

    use super::*;
    use crate::{decide::resolve, pod::CachePolicy};

    #[track_caller]
    fn check(cache: &Value, policy: &CachePolicy, expected: &str) {
        let object: ImageBuild = serde_json::from_value(json!({
            "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "context": {"inline": {"files": {"Dockerfile": "FROM scratch"}}},
                "output": {"image": "r.example/shop/web:v1"}, "cache": cache
            },
        }))
        .unwrap();
        let inputs = resolve(&object, &BTreeMap::new()).unwrap();
        let attempt = Attempt {
            number: 1,
            attempt: 1,
            files_hash: None,
            build_args: BTreeMap::new(),
            timeout: inputs.timeout,
            cache_ttl: inputs.cache_ttl,
        };
        let settings = Settings { cache: policy.clone(), ..Settings::default() };
        assert_eq!(args(&object, &attempt, &settings).join(" "), expected);
    }

    #[test]
    fn the_cache_is_used_below_the_output_unless_something_else_is_said() {
        let on = CachePolicy::default();
        let default = "--cache=true --cache-repo=r.example/shop/web/cache --cache-ttl=336h0m0s --cache-mounts=true";
        check(&Value::Null, &on, default);
        check(&json!({}), &on, default);
        check(&json!({"disabled": false}), &on, default);
        check(
            &json!({"disabled": true, "repository": "r.example/c", "ttl": "1h", "mounts": true}),
            &on,
            "--cache=false",
        );
        check(
            &json!({"repository": "r.example/c", "ttl": "1h30m", "mounts": false}),
            &on,
            "--cache=true --cache-repo=r.example/c --cache-ttl=1h30m0s --cache-mounts=false",
        );
    }

    #[test]
    fn the_policy_of_the_operator_gives_way_to_each_field_of_the_build() {
        let off = CachePolicy { enabled: false, ttl: Duration::from_hours(2) };
        let on = CachePolicy { enabled: true, ..off.clone() };
        let short = "--cache=true --cache-repo=r.example/shop/web/cache --cache-ttl=2h0m0s --cache-mounts=true";
        let own = "--cache=true --cache-repo=r.example/shop/web/cache --cache-ttl=48h0m0s --cache-mounts=true";
        check(&Value::Null, &off, "--cache=false");
        check(&json!({"ttl": "48h"}), &off, "--cache=false");
        check(&json!({"disabled": false}), &off, short);
        check(&json!({"disabled": false, "ttl": "48h"}), &off, own);
        check(&Value::Null, &on, short);
        check(&json!({"ttl": "48h"}), &on, own);
        check(&json!({"disabled": true}), &on, "--cache=false");
    }
}
