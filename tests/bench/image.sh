#!/usr/bin/env bash
# Makes an image of layers that are gzipped tars, as an OCI layout with a history, which some builders insist on.
# usage: image.sh LAYOUT TAG LAYER.tar.gz...      (lowest first; the layers are linked, or copied)
set -euo pipefail

layout=$1 tag=$2
shift 2
mkdir -p "$layout/blobs/sha256"

# put FILE: moves it to its content address; prints `"digest": …, "size": …`, the core of a descriptor
put() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat --format %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  printf '"digest": "sha256:%s", "size": %s' "$digest" "$size"
}

# descriptor MEDIA-TYPE FILE
descriptor() {
  printf '{"mediaType": "application/vnd.oci.image.%s", %s}' "$1" "$(put "$2")"
}

# join ITEM...: a list of JSON
join() {
  local IFS=,
  printf '[%s]' "$*"
}

layers=() diff_ids=() history=()
for layer; do
  diff_ids+=("\"sha256:$(gzip -dc "$layer" | sha256sum | cut -d' ' -f1)\"")
  history+=('{"created_by": "tar"}')
  ln "$layer" "$layout/new" 2>/dev/null || cp "$layer" "$layout/new"
  layers+=("$(descriptor layer.v1.tar+gzip "$layout/new")")
done
printf '{"architecture": "%s", "os": "linux", "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}, "rootfs": {"type": "layers", "diff_ids": %s}, "history": %s}' \
  "$(dpkg --print-architecture)" "$(join "${diff_ids[@]}")" "$(join "${history[@]}")" >"$layout/new"
config=$(descriptor config.v1+json "$layout/new")
printf '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": %s, "layers": %s}' \
  "$config" "$(join "${layers[@]}")" >"$layout/new"
printf '{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", %s, "annotations": {"org.opencontainers.image.ref.name": "%s"}}]}\n' \
  "$(put "$layout/new")" "$tag" >"$layout/index.json"
echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
