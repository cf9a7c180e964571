#!/usr/bin/env bash
# Makes the base images that tests build on, out of Debian packages, as OCI layouts; prints the directory that holds them.
# usage: images.sh [pause] [busybox] [debian]      (default: pause busybox; debian downloads a minimal root file system)
# Each layout has one layer and the tag of settings.sh. The same packages give the same digests.
source "$(dirname "$0")/settings.sh"

[ $# -gt 0 ] || set -- pause busybox
need busybox busybox-static
hash=$(cat "$here/images.sh" "$here/images/pause.c" "$(command -v busybox)" | sha256sum | cut -c1-16)
directory=$cache/images-$hash
mkdir -p "$directory"
unfinished=$(mktemp -d "$cache/unfinished-XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) architecture=$(uname -m) ;;
esac

root_of_pause() {
  need gcc gcc
  gcc -O1 -static -s -o "$1/pause" "$here/images/pause.c"
}

root_of_busybox() {
  local applet
  mkdir -p "$1"/{bin,dev,etc,proc,root,sys,tmp,var/tmp}
  chmod 1777 "$1/tmp" "$1/var/tmp"
  cp "$(command -v busybox)" "$1/bin/busybox"
  for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
  done
  printf 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\n' >"$1/etc/group"
}

root_of_debian() {
  need debootstrap debootstrap
  debootstrap --variant=minbase bookworm "$1" >&2
  rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/dev/*
}

# put LAYOUT FILE: moves the file to its content address; prints `"digest": …, "size": …`, the core of a descriptor
put() {
  local digest size
  digest=$(sha256sum "$2" | cut -d' ' -f1)
  size=$(stat --format %s "$2")
  mv "$2" "$1/blobs/sha256/$digest"
  printf '"digest": "sha256:%s", "size": %s' "$digest" "$size"
}

# layout DIRECTORY ROOT CONFIG: one gzip layer of the tree ROOT, with CONFIG as the `config` of the image
layout() {
  local layout=$1 tree=$2 config=$3 owner=() blob layer diff_id media_type=application/vnd.oci.image
  mkdir -p "$layout/blobs/sha256"
  blob=$layout/blob
  [ "$(id -u)" = 0 ] || owner=(--owner=0 --group=0)
  tar --create --directory "$tree" --sort=name --mtime=@0 --numeric-owner "${owner[@]}" --format=posix \
    --pax-option=delete=atime,delete=ctime --xform='s,^\./,,S' --file "$blob.tar" .
  diff_id=$(sha256sum "$blob.tar" | cut -d' ' -f1)
  gzip --no-name --fast <"$blob.tar" >"$blob"
  rm "$blob.tar"
  layer=$(put "$layout" "$blob")
  printf '{"architecture": "%s", "os": "linux", "config": %s, "rootfs": {"type": "layers", "diff_ids": ["sha256:%s"]}}' \
    "$architecture" "$config" "$diff_id" >"$blob"
  config=$(put "$layout" "$blob")
  printf '{"schemaVersion": 2, "mediaType": "%s.manifest.v1+json", "config": {"mediaType": "%s.config.v1+json", %s}, "layers": [{"mediaType": "%s.layer.v1.tar+gzip", %s}]}' \
    $media_type $media_type "$config" $media_type "$layer" >"$blob"
  printf '{"schemaVersion": 2, "manifests": [{"mediaType": "%s.manifest.v1+json", %s, "annotations": {"org.opencontainers.image.ref.name": "%s"}}]}\n' \
    $media_type "$(put "$layout" "$blob")" "$image_tag" >"$layout/index.json"
  echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
}

path='"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
for name; do
  [ -d "$directory/$name" ] && continue
  case $name in
    pause) config='{"Entrypoint": ["/pause"]}' ;;
    busybox) config="{$path, \"Cmd\": [\"/bin/sh\"]}" ;;
    debian) config="{$path, \"Cmd\": [\"/bin/bash\"]}" ;;
    *) fail "no image \`$name\`: there are pause, busybox and debian" ;;
  esac
  mkdir "$unfinished/$name" "$unfinished/$name-root"
  chmod 755 "$unfinished/$name-root"
  "root_of_$name" "$unfinished/$name-root"
  layout "$unfinished/$name" "$unfinished/$name-root" "$config"
  mv -T "$unfinished/$name" "$directory/$name" 2>/dev/null || [ -d "$directory/$name" ] # or someone else was faster
done
echo "$directory"
