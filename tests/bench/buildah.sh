#!/usr/bin/env bash
# Builds and pushes an image with Debian's buildah in an empty store. The environment has host (the registry) and store.
# usage: buildah.sh CONTEXT IMAGE CACHE
set -euo pipefail
options=(--root "$store/root" --runroot "$store/run" --storage-driver overlay)
buildah "${options[@]}" build --isolation chroot --layers --tls-verify=false \
  --cache-to "$host/$3" --cache-from "$host/$3" --tag "$host/$2" "$1"
buildah "${options[@]}" push --tls-verify=false "$host/$2"
