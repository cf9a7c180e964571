# A large base image in five layers, of files that real images have: what this machine's Debian packages consist of.
# Sourced, never run.
# shellcheck shell=bash
# Files of 64 MiB and more are left out, and what exceeds this number of entries.
base_entries=48000

# entries: paths in the order of packages, those of a shell first; in a merged /usr, as this machine has it
entries() {
  printf '/%s\n' bin sbin lib lib64
  { dpkg-query --listfiles dash libc6 coreutils && dpkg-query --show --showformat '${binary:Package}\n' | xargs dpkg-query --listfiles 2>/dev/null; } |
    sed -n 's,^/\(bin\|sbin\|lib[0-9x]*\)/,/usr/\1/,; /^\/./p' | awk '!seen[$0]++' |
    tr '\n' '\0' | xargs -0 sh -c 'find "$@" -maxdepth 0 -size -65M 2>/dev/null' sh
}

# large_base: sets `large_layers` to the five files, made once for this set of packages
large_base() {
  local hash directory number
  entries | awk '!seen[$0]++' | head -$base_entries >"$scratch/entries" || true # `head` ends what feeds it
  hash=$(dpkg-query --show | cat - "$bench/base.sh" | sha256sum | cut -c1-16)
  directory=$cache/bench-$hash
  if [ ! -d "$directory" ]; then
    mkdir -p "$cache" "$scratch/base"
    split --number=l/5 --numeric-suffixes=1 --suffix-length=1 "$scratch/entries" "$scratch/entries-"
    for number in 1 2 3 4 5; do
      # As stock images come: one gzip member of level 6.
      tar -c -C / --no-recursion --ignore-failed-read --files-from "$scratch/entries-$number" 2>/dev/null | gzip >"$scratch/base/$number.tar.gz"
    done
    rm -rf "$cache"/bench-* # of other sets
    mv "$scratch/base" "$directory"
  fi
  large_layers=("$directory"/*.tar.gz)
}

# publish_large_base: makes it and has it in the registry, once
publish_large_base() {
  [ -z "${large_layers:-}" ] || return 0
  large_base
  publish large "${large_layers[@]}"
}

# build_alone CONTEXT: with Karve, without a cache and without a push
build_alone() {
  fresh_store
  mkdir "$store/work"
  measure "$karve" build --context "$1" --no-push --insecure-registry "$registry" --work-dir "$store/work" --keep-work-dir
}
