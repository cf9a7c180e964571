//! The cache in a cluster: each Pod starts empty, and steps whose inputs are the same are not run again.

use karve_api::{BuildResult, ImageBuild, LastBuild};
use serde_json::{Value, json};

use crate::{
    karve::cluster,
    namespace::{Namespace, condition, create_registry_secret},
};

const DOCKERFILE: &str = "\
FROM BASE
RUN echo tools > /tools
WORKDIR /app
COPY file .
RUN cat file > built
";

/// Waits until the build of this number has ended, and returns the object as it is then.
async fn ended(namespace: &Namespace, name: &str, number: i64) -> (ImageBuild, LastBuild) {
    let what = format!("build {number} has ended");
    let (build, last) = namespace
        .until(name, &what, |build| {
            let last = build.status.clone()?.last_build.filter(|last| last.number == Some(number))?;
            last.result.is_some().then(|| (build.clone(), last))
        })
        .await;
    assert_eq!(last.result, Some(BuildResult::Succeeded), "{:?}", last.message);
    (build, last)
}

async fn request(namespace: &Namespace, name: &str, token: &str) {
    namespace.edit(name, json!({"metadata": {"annotations": {"karve.dev/requestedAt": token}}})).await;
}

fn counts(last: &LastBuild) -> Option<(i64, i64)> {
    let cache = last.cache.as_ref()?;
    Some((cache.hits?, cache.misses?))
}

#[tokio::test]
async fn a_changed_file_runs_the_steps_that_see_it_and_the_status_says_which() {
    let namespace = Namespace::new("cache").await;
    let repository = format!("{}/cache", namespace.repository("web"));
    namespace.build("web", DOCKERFILE);
    let (_, first) = ended(&namespace, "web", 1).await;
    assert_eq!(counts(&first), Some((0, 4)));
    assert_ne!(cluster().registry().tags(&repository), Vec::<String>::new());

    let files = json!({"spec": {"context": {"inline": {"files": {"file": "changed\n"}}}}});
    namespace.edit("web", files).await;
    let (build, changed) = ended(&namespace, "web", 2).await;
    assert_eq!(counts(&changed), Some((2, 2)));
    let missed = changed.cache.unwrap().missed.expect("it says why");
    assert!(missed.contains("line 4 `COPY file .`: ") && missed.ends_with("file changed"), "{missed}");
    let message = condition(&build, "Ready").unwrap()["message"].to_string();
    assert!(message.contains("; 2 of 4 steps cached"), "{message}");
    let image = namespace.until_built("web").await;
    assert_eq!((image.text("app/built"), image.text("tools")), ("changed\n".to_owned(), "tools\n".to_owned()));

    request(&namespace, "web", "again").await;
    let (_, again) = ended(&namespace, "web", 3).await;
    assert_eq!(counts(&again), Some((4, 0)));
    assert_eq!(namespace.until_built("web").await.digest, image.digest);
}

#[tokio::test]
async fn a_build_without_a_cache_runs_every_step_and_leaves_nothing() {
    let namespace = Namespace::new("uncached").await;
    namespace.build_with("web", DOCKERFILE, &json!({"cache": {"disabled": true}}));
    let (build, first) = ended(&namespace, "web", 1).await;
    assert_eq!(json!(first.cache), Value::Null);
    let message = condition(&build, "Ready").unwrap()["message"].to_string();
    assert!(!message.contains("steps cached"), "{message}");
    request(&namespace, "web", "again").await;
    let (_, again) = ended(&namespace, "web", 2).await;
    assert_eq!(json!(again.cache), Value::Null);
    let repository = format!("{}/cache", namespace.repository("web"));
    assert_eq!(cluster().registry().tags(&repository), Vec::<String>::new());
}

#[tokio::test]
async fn the_secret_of_the_output_is_enough_for_its_cache() {
    let namespace = Namespace::new("cache-secret").await;
    let (host, (user, password)) = (cluster().registry_with_password_host(), cluster().registry_credentials());
    create_registry_secret(&namespace, "push", host, &user, &password);
    let image = format!("{host}/{}:v1", namespace.repository("web"));
    let output = json!({"output": {"image": image, "pushSecretRef": {"name": "push"}}});
    namespace.build_with("web", DOCKERFILE, &output);
    let (_, first) = ended(&namespace, "web", 1).await;
    assert_eq!(counts(&first), Some((0, 4)));
    request(&namespace, "web", "again").await;
    let (_, again) = ended(&namespace, "web", 2).await;
    assert_eq!(counts(&again), Some((4, 0)));
    let repository = format!("{}/cache", namespace.repository("web"));
    assert_ne!(cluster().registry_with_password().tags(&repository), Vec::<String>::new());
}
