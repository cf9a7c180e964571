//! The rules that come of the values: no Secret and no wildcard anywhere, and Roles where namespaces are named.

use serde_json::Value;

use crate::render::{chart, kustomization};

#[test]
fn no_rule_names_secrets_or_everything() {
    check_rules(&kustomization("config/default"));
    for flags in ["rbac.create=true", "watchNamespaces={shop,web}", "replicaCount=2"] {
        check_rules(&chart(&[&format!("--set={flags}")]));
    }
}

#[track_caller]
fn check_rules(objects: &[Value]) {
    let rules: Vec<&Value> = objects.iter().filter_map(|object| object["rules"].as_array()).flatten().collect();
    assert!(!rules.is_empty(), "there are no rules");
    for rule in rules {
        for list in ["apiGroups", "resources", "verbs"] {
            let words = rule[list].as_array().expect("a rule has groups, resources and verbs");
            for word in words.iter().filter_map(Value::as_str) {
                assert!(!word.contains('*') && !word.starts_with("secrets"), "`{word}` in {rule}");
            }
        }
    }
}

#[test]
fn watched_namespaces_have_the_rules_of_the_cluster_and_the_cluster_has_none() {
    let everywhere = chart(&[]);
    let rules = &named(&everywhere, "ClusterRole", "karve-operator")[0]["rules"];

    let objects = chart(&["--set=watchNamespaces={shop,web}"]);
    assert_eq!(named(&objects, "ClusterRole", "karve-operator"), Vec::<&Value>::new());
    assert_eq!(named(&objects, "ClusterRoleBinding", "karve-operator"), Vec::<&Value>::new());
    for kind in ["Role", "RoleBinding"] {
        let found = named(&objects, kind, "karve-operator");
        let namespaces: Vec<&Value> = found.iter().map(|object| &object["metadata"]["namespace"]).collect();
        assert_eq!(namespaces, ["shop", "web"]);
    }
    for role in named(&objects, "Role", "karve-operator") {
        assert_eq!(&role["rules"], rules);
    }
    for binding in named(&objects, "RoleBinding", "karve-operator") {
        assert_eq!(binding["subjects"][0]["namespace"], "karve-system");
    }
}

#[test]
fn roles_can_be_left_out() {
    let objects = chart(&["--set=rbac.create=false"]);
    let left: Vec<&Value> =
        objects.iter().map(|object| &object["kind"]).filter(|kind| kind.as_str().unwrap().contains("Role")).collect();
    assert_eq!(left, Vec::<&Value>::new());
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name).collect()
}
