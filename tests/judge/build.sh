#!/usr/bin/env bash
# Builds BuildKit and the runc that it needs from the Go module proxy, once, and prints the directory that holds them.
# The versions are those of tools/buildkit/go.mod here and of tools/runc/go.mod of the node.
# The directory's name is a hash of everything that the programs are made from: it is complete, or it does not exist.
# It is not the node's: whoever works on the language need not build Kubernetes, and the other way round.
source "$(dirname "$0")/../cluster/settings.sh"

judge=$(cd "$(dirname "$0")" && pwd)
buildkit=$judge/tools/buildkit
runc=$here/tools/runc
hash=$(cat "$judge/build.sh" "$buildkit"/go.{mod,sum} "$runc"/go.{mod,sum} | sha256sum | cut -c1-16)
directory=$cache/judge-$hash
if [ -d "$directory" ]; then
  echo "$directory"
  exit
fi

need gcc gcc
need pkg-config pkg-config
command -v go >/dev/null || fail "\`go\` is missing: install Go 1.26 or newer from https://go.dev/dl"
pkg-config libseccomp || fail "the library of runc is missing: install the package \`libseccomp-dev\`"

mkdir -p "$cache"
exec 9>"$cache/judge.lock"
flock 9
if [ -d "$directory" ]; then # someone else built it while we waited
  echo "$directory"
  exit
fi
unfinished=$(mktemp -d "$cache/unfinished-XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
export GOTOOLCHAIN=local GOFLAGS=-trimpath

# build MODULE CGO LINKER-FLAGS [GO-FLAGS...]: every `tool` of the module's go.mod
build() {
  local module=$1 cgo=$2 linker_flags=$3 started=$SECONDS
  shift 3
  (cd "$module" && CGO_ENABLED=$cgo go build "$@" -ldflags "-s -w $linker_flags" -o "$unfinished/" tool) >&2
  echo "built ${module##*/} in $((SECONDS - started)) s" >&2
}

# Programs built from a dependency do not know their version.
version=$(cd "$buildkit" && go list -m -f '{{.Version}}' github.com/moby/buildkit)
build "$buildkit" 0 "-X github.com/moby/buildkit/version.Version=$version"
# As the node's: C for entering namespaces, and libseccomp.
build "$runc" 1 "-extldflags -static" -tags 'seccomp netgo osusergo'

chmod 755 "$unfinished"
mv -T "$unfinished" "$directory"
echo "$directory"
