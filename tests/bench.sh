#!/usr/bin/env bash
# Measures `karve build` side by side with BuildKit, Debian's buildah and a floor of plain tools, and prints Markdown tables.
# usage: tests/bench.sh KARVE [WORKLOAD...]      (as root; about 30 GB in TMPDIR; see bench/workloads.sh, and `unpack`, `scale`)
#
# A registry on this machine is all that outlives a build: every build begins with an empty store. BuildKit's daemon is started
# for each build, and its start is part of the time.
source "$(dirname "$0")/bench/settings.sh"
source "$bench/workloads.sh"
karve=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- "${workloads[@]}" unpack scale
need_root
need docker-registry docker-registry
need skopeo skopeo
need python3 python3
need curl curl
need mkfs.ext4 e2fsprogs
buildkit=$("$here/../judge/build.sh")
base_layer=$(find "$("$here/images.sh" busybox)/busybox/blobs" -size +100k)
start_registry
publish busybox "$base_layer"
host=$registry
export karve buildkit host store scratch base_layer

# build TOOL WORKLOAD: with a cache of the tool's own; sets `seconds`, `largest` and `together`
build() {
  fresh_store
  measure "$bench/$1.sh" "$scratch/$2" "$1/$2:latest" "$1/$2/cache"
}

# row WORKLOAD STATE: one build by everybody. A build after a change is short, and done three times, one builder after the other;
# the best of each counts.
row() {
  local best shared start=- versions=1 by_floor=- by_buildkit=- by_buildah=- by_karve=-
  [ "$2" != changed ] || versions="1 2 3"
  for version in $versions; do
    [ "$2" != changed ] || change_one_file "$scratch/$1" "$version"
    if command -v buildah >/dev/null; then # a dash where it is not installed
      build buildah "$1"
      by_buildah=$(faster "$by_buildah" "$seconds")
    fi
    build buildkit "$1"
    by_buildkit=$(faster "$by_buildkit" "$seconds")
    [ ! -e "$store/started" ] || start=$(cat "$store/started")
    fresh_store
    measure "$bench/floor.sh" "$1" "$2" "$scratch/$1"
    by_floor=$(faster "$by_floor" "$seconds")
    count_traffic build karve "$1"
    by_karve=$(faster "$by_karve" "$seconds")
  done
  best=$(faster "$by_buildkit" "$by_buildah")
  shared=$(echo "$by_floor $answering $(nproc)" | awk '{ print $1 == "-" ? "-" : $1 + $2 / $3 }')
  printf '| %s | %s | %s | %s (%s) | %s | %s | %s | %s | %s | %s / %s | %s | %s | %s (%s) |\n' "${titles[$1]}" "$2" "$by_karve" "$by_buildkit" "$start" \
    "$by_buildah" "$by_floor" "$(ratio "$by_karve" "$best")" "$(ratio "$by_karve" "$by_floor")" "$(ratio "$by_karve" "$shared")" \
    "$largest" "$together" "$pulled" "$pushed" "$requests" "$answering"
}

# workload NAME: cold, unchanged and changed
workload() {
  "context_$1" "$scratch/$1"
  row "$1" cold
  row "$1" unchanged
  row "$1" changed
  rm -rf "${scratch:?}/$1"
}

heading() {
  echo '| workload | build | Karve, s | BuildKit, s (its start) | buildah, s | floor, s | Karve / faster of the two | Karve / floor | Karve / floor and registry | peak memory, MiB (largest process / all) | layer bytes pulled | pushed | requests (what they took of a core in the registry, s) |'
  echo '|---|---|---|---|---|---|---|---|---|---|---|---|---|'
}

for name; do
  case $name in
    unpack | scale) source "$bench/$name.sh" ;;
    *)
      [ -n "${headed:-}" ] || heading
      headed=yes
      workload "$name"
      ;;
  esac
done
