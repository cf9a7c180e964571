#!/usr/bin/env bash
# Does by plain tools what a workload needs. The environment has scratch, store, host and base_layer.
# usage: floor.sh WORKLOAD cold|unchanged|changed CONTEXT
set -euo pipefail
image_tag=1
source "$(dirname "$0")/workloads.sh"
source "$(dirname "$0")/floors.sh"
if [ "$2" = unchanged ]; then floor_unchanged; else "floor_$1" "$2" "$3"; fi
