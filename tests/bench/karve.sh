#!/usr/bin/env bash
# Builds and pushes an image with Karve in an empty store. The environment has karve, host (the registry) and store.
# usage: karve.sh CONTEXT IMAGE CACHE
set -euo pipefail
mkdir -p "$store/work"
exec "$karve" build --context "$1" --destination "$host/$2" --cache-repo "$host/$3" \
  --insecure --insecure-registry "$host" --work-dir "$store/work" --keep-work-dir
