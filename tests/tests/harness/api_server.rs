//! The API server, asked by the client that the operator uses.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use karve_tests::api_server::ApiServer;
use kube::{
    Api,
    api::{ListParams, PostParams},
};

#[tokio::test]
async fn the_admin_may_do_everything_and_others_what_rbac_says() {
    let server = ApiServer::start();
    let client = server.client().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert!(namespaces.get_opt("default").await.expect("the admin may read").is_some());

    // A Pod needs no service account here, which nobody would make.
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod =
        serde_json::json!({"metadata": {"name": "pod"}, "spec": {"containers": [{"name": "main", "image": "none"}]}});
    let pod: Pod = serde_json::from_value(pod).expect("this is a Pod");
    pods.create(&PostParams::default(), &pod).await.expect("the admin may write");

    let stranger = server.client_as("system:serviceaccount:default:stranger").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(stranger);
    let refusal = maps.list(&ListParams::default()).await.expect_err("a stranger may nothing");
    assert!(matches!(refusal, kube::Error::Api(status) if status.code == 403));
}
