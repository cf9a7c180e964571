#!/usr/bin/env bash
# Measures `karve build` on this machine, without a cluster, and prints a Markdown table: seconds, the largest resident
# memory of any process, and the ratio to a floor made of plain tools that do no more than they must.
# usage: tests/bench.sh KARVE      (KARVE: the program; needs about 8 GB in TMPDIR)
source "$(dirname "$0")/cluster/settings.sh"
karve=$(realpath "$1")
need time time

base=$("$here/images.sh" busybox)/busybox:1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch"/{large,many,work}
head -c 1G /dev/urandom >"$scratch/large/file"
for directory in $(seq 100); do
  mkdir "$scratch/many/$directory"
  for file in $(seq 200); do echo "$directory/$file" >"$scratch/many/$directory/$file"; done
done

# measure COMMAND...: prints seconds and mebibytes of the largest process
measure() {
  command time --output "$scratch/time" --format '%e %M' "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "failed: $*"; }
  awk '{ printf "%s %d\n", $1, $2 / 1024 }' "$scratch/time"
}

# row NAME CONTEXT DOCKERFILE FLOOR: one build beside its floor, a shell command
row() {
  local floor seconds memory
  printf '%b' "$3" >"$scratch/Dockerfile"
  read -r floor _ < <(measure sh -c "$4")
  read -r seconds memory < <(measure "$karve" build --context "$2" --dockerfile "$scratch/Dockerfile" --no-push --work-dir "$scratch/work")
  printf '| %s | %s | %s | %s | %s |\n' "$1" "$seconds" "$floor" "$(awk "BEGIN { printf \"%.2f\", $seconds / ($floor + 0.001) }")" "$memory"
}

echo '| workload | seconds | floor, seconds | ratio | peak memory, MiB |'
echo '|---|---|---|---|---|'
row 'COPY of 1 GiB, one file' "$scratch/large" 'FROM scratch\nCOPY . /\n' "tar -C $scratch/large -c . | gzip -4 >$scratch/floor"
row 'RUN that writes 1 GiB' "$scratch/work" "FROM oci-layout:$base\nRUN head -c 1073741824 /dev/urandom >/file\n" "head -c 1G /dev/urandom | gzip -4 >$scratch/floor"
row 'COPY of 20,000 files' "$scratch/many" 'FROM scratch\nCOPY . /\n' "tar -C $scratch/many -c . | gzip -4 >$scratch/floor"
row '15 RUN steps that do nothing' "$scratch/work" "FROM oci-layout:$base\n$(printf 'RUN true\\n%.0s' $(seq 15))" "for i in \$(seq 15); do unshare --user --map-root-user --mount --pid --fork busybox true; done"
