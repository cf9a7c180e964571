#!/usr/bin/env bash
# Installs Karve on the node with Helm, from the images that `make images` left.
# usage: install.sh IMAGES VERSION [HELM-FLAGS...]      (IMAGES: the directory of the layouts `operator` and `executor`)
source "$(dirname "$0")/settings.sh"
images=$1 version=$2
shift 2
node_is_up || fail "there is no node: run up.sh first"

for image in operator executor; do
  [ -d "$images/$image" ] || fail "no image in \`$images/$image\`: run \`make images\` first"
  skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$images/$image" "docker://$registry/karve/$image:$version"
done

"$("$here/build.sh")/helm" --kubeconfig "$state/kubeconfig/admin.yaml" upgrade karve "$here/../../charts/karve" \
  --install --namespace karve-system --create-namespace --wait --timeout 60s \
  --set "image.registry=$registry,image.repository=karve/operator,image.tag=$version" \
  --set "executor.image.registry=$registry,executor.image.repository=karve/executor,executor.image.tag=$version" \
  --set "registries.plainHTTP={$registry,$registry_with_password}" "$@"
