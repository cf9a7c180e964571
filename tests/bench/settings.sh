# What the scripts of this folder have in common: a registry, fresh stores and a stopwatch. Sourced, never run.
# shellcheck shell=bash disable=SC2034
source "$(dirname "${BASH_SOURCE[0]}")/../cluster/settings.sh"

bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
store=$scratch/store
registry_pid=

clean_up() {
  set +e # whatever of this fails, the rest must be done
  empty_store
  [ -z "$registry_pid" ] || kill "$registry_pid"
  find "$cgroup_root" -depth -type d -path '*/karve-bench*' -exec rmdir {} + # BuildKit's
  rm -rf "$scratch"
}
trap clean_up EXIT

# Everything that a build leaves lies in the store, an ext4 file system of its own that nothing was deleted on before: where
# ext4 has just deleted a big tree, it creates files three times slower. All builders get the same.
fresh_store() {
  empty_store
  truncate --size 24G "$scratch/store.image"
  mkfs.ext4 -q -F "$scratch/store.image"
  mkdir -p "$store"
  mount -o loop "$scratch/store.image" "$store"
}

# What writes to the disk afterwards would disturb the next build.
empty_store() {
  ! mountpoint --quiet "$store" || wait_until 30 "end of what uses the store" umount --recursive "$store"
  rm -f "$scratch/store.image"
  sync
}

# The registry is all that outlives a build. The kernel chooses its port; the log has a line for each request.
start_registry() {
  printf '{"version": 0.1, "log": {"level": "info"}, "storage": {"filesystem": {"rootdirectory": "%s"}}, "http": {"addr": "127.0.0.1:0"}}' \
    "$scratch/registry" >"$scratch/registry.yaml"
  docker-registry serve "$scratch/registry.yaml" >"$scratch/registry.log" 2>&1 &
  registry_pid=$!
  wait_until 30 registry grep -q 'listening on' "$scratch/registry.log"
  registry=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$scratch/registry.log" | head -1)
}

# publish NAME LAYER.tar.gz...: an image in the registry, as a base for all builders
publish() {
  "$bench/image.sh" "$scratch/layout" "$image_tag" "${@:2}"
  skopeo copy --quiet --dest-tls-verify=false "oci:$scratch/layout:$image_tag" "docker://$registry/base/$1:$image_tag"
  rm -rf "$scratch/layout"
}

# measure COMMAND...: sets `seconds`, `largest` and `together` (MiB: the largest process, and all at the worst moment)
measure() {
  seconds=- largest=- together=-
  python3 "$bench/measure.py" "$scratch/measured" "$@" >"$scratch/log" 2>&1 || {
    tail -20 "$scratch/log" >&2
    echo "failed: $*" >&2
    return 0
  }
  read -r seconds largest together <"$scratch/measured"
}

# count_traffic COMMAND...: runs it, then sets `pulled` and `pushed`, the bytes of layers that went over the wire, `requests`, how
# many there were, and `answering`, the seconds of a core that the registry took for them
count_traffic() {
  local before began
  before=$(stat --format %s "$scratch/registry.log")
  began=$(registry_seconds)
  "$@"
  answering=$(echo "$began $(registry_seconds)" | awk '{ printf "%.2f", $2 - $1 }')
  read -r pulled pushed requests < <(python3 "$bench/traffic.py" "$scratch/registry.log" "$before" "$scratch/registry")
}

# registry_seconds: for how long the threads of the registry have run
registry_seconds() {
  cat /proc/"$registry_pid"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.6f", sum / 1e9 }'
}

# ratio A B: two digits, or a dash where one is missing
ratio() {
  awk -v a="$1" -v b="$2" 'BEGIN { if (a == "-" || b == "-" || b == 0) print "-"; else printf "%.2f\n", a / b }'
}

# faster A B: the smaller of two times
faster() {
  awk -v a="$1" -v b="$2" 'BEGIN { print a == "-" ? b : b == "-" ? a : a < b ? a : b }'
}
