# The same work with plain tools, which do no more than they must: unpack what a step reads, run the step, pack what it wrote.
# `floor_NAME STATE CONTEXT`, with STATE cold or changed. Sourced, never run.
# shellcheck shell=bash

# What a cold floor has packed, for the changed one: the layers that a cache would hold.
packed=$scratch/packed
root=$store/root

# unpack FILE...: layers over each other
unpack() {
  local layer
  mkdir -p "$root"
  for layer; do tar -xpzf "$layer" -C "$root"; done
}

# pack NAME PATH...: a layer of these paths of the root
pack() {
  local name=$1
  shift
  mkdir -p "$packed"
  tar -c -C "$root" "$@" | gzip -4 >"$packed/$name.tar.gz"
}

run() {
  chroot "$root" sh -c "$1"
}

# floor_unchanged: the question whether the image is there
floor_unchanged() {
  curl --silent --fail --output /dev/null --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
    "http://$host/v2/base/busybox/manifests/$image_tag"
}

floor_one-file() {
  mkdir -p "$root"
  cp "$2/src/main" "$root/"
  pack main main
}

floor_steps() {
  local number=1
  unpack "$base_layer"
  [ "$1" = cold ] || number=9
  for number in $(seq $number 14); do
    [ "$number" != 9 ] || { cp -r "$2/src" "$root/" && pack src src; }
    run "cat /etc/passwd >/step-$number"
    pack "step-$number" "step-$number"
  done
}

# floor_builder STATE CONTEXT NAME COUNT: dependencies and a step that reads them
floor_builder() {
  if [ "$1" = cold ]; then
    unpack "$base_layer"
    run "$(modules /modules "$4")"
    pack "$3-modules" modules
  else
    unpack "$base_layer" "$packed/$3-modules.tar.gz"
  fi
  cp -r "$2/src" "$root/"
  pack "$3-src" src
  run "$compile"
  pack "$3-result" result
}

floor_dependencies() {
  floor_builder "$1" "$2" dependencies 20000
}

# The second builder alone, if nothing of the first has changed.
floor_two-builders() {
  [ "$1" = changed ] || floor_builder "$1" "$2" one 5000
  rm -rf "$root"
  floor_builder "$1" "$2" two 4000
  pack two-files result modules/2
}

floor_large-layer() {
  if [ "$1" = cold ]; then
    unpack "$base_layer"
    head -c 1G /dev/urandom >"$root/large" # there is no /dev in the root
    pack large large
  else
    unpack "$base_layer" "$packed/large.tar.gz"
  fi
  cp -r "$2/src" "$root/"
  pack src src
  run "$compile"
  pack result result
}

floor_large-context() {
  mkdir -p "$packed"
  tar -c -C "$2" . | gzip -4 >"$packed/context.tar.gz"
}
