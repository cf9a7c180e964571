#!/usr/bin/env bash
# Builds Karve's two images with Karve itself, as OCI layouts OUTPUT/operator and OUTPUT/executor.
# usage: images/build.sh BINARIES OUTPUT VERSION      (BINARIES: the directory of `karve` and `karve-operator`)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binaries=$1 output=$2 version=$3
certificates=/etc/ssl/certs/ca-certificates.crt
[ -e $certificates ] || { echo "$certificates is missing: install the package \`ca-certificates\`" >&2; exit 1; }

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
mkdir -p "$output"
for image in operator:karve-operator executor:karve; do
  name=${image%:*} program=${image#*:}
  context=$staging/$name
  mkdir "$context"
  cp "$binaries/$program" "$context/$program"
  cp --dereference $certificates "$context/ca-certificates.crt"
  rm -rf "${output:?}/$name"
  "$binaries/karve" build --context "dir://$context" --dockerfile "$here/$name.Dockerfile" \
    --destination "karve/$name:$version" --no-push --oci-layout-path "$output/$name"
done
