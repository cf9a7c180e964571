#!/usr/bin/env bash
# Builds the programs of a node from the Go module proxy, once, and prints the directory that holds them.
# The versions are those of tools/*/go.mod; each project is a module of its own, since their dependencies disagree.
# The directory's name is a hash of everything that the programs are made from: it is complete, or it does not exist.
source "$(dirname "$0")/settings.sh"

hash=$(cd "$here" && cat build.sh tools/*/go.mod tools/*/go.sum | sha256sum | cut -c1-16)
directory=$cache/tools-$hash
if [ -d "$directory" ]; then
  echo "$directory"
  exit
fi

need gcc gcc
need pkg-config pkg-config
command -v go >/dev/null || fail "\`go\` is missing: install Go 1.26 or newer from https://go.dev/dl"
pkg-config libseccomp || fail "the library of runc is missing: install the package \`libseccomp-dev\`"

mkdir -p "$cache"
exec 9>"$cache/tools.lock"
flock 9
if [ -d "$directory" ]; then # someone else built it while we waited
  echo "$directory"
  exit
fi
unfinished=$(mktemp -d "$cache/unfinished-XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-trimpath

# build MODULE SUBDIRECTORY LINKER-FLAGS [GO-FLAGS...]: every `tool` of the module's go.mod
build() {
  local module=$1 subdirectory=$2 linker_flags=$3 started=$SECONDS
  shift 3
  (cd "$here/tools/$module" && go build "$@" -ldflags "-s -w $linker_flags" -o "$unfinished/$subdirectory/" tool) >&2
  echo "built $module in $((SECONDS - started)) s" >&2
}

# version MODULE DEPENDENCY: as go.mod pins it
version() {
  (cd "$here/tools/$1" && go list -m -f '{{.Version}}' "$2")
}

# Programs built from a dependency do not know their version; Kubernetes takes decisions by it.
containerd=$(version containerd github.com/containerd/containerd/v2)
runc=$(version runc github.com/opencontainers/runc)
kubernetes=$(version k8s k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${kubernetes#v}"
base=k8s.io/component-base/version
kubernetes_flags="-X $base.gitVersion=$kubernetes -X $base.gitMajor=$major -X $base.gitMinor=$minor"
kubernetes_flags+=" -X $base.gitTreeState=clean -X $base.buildDate=1970-01-01T00:00:00Z"
kubernetes_flags+=" -X k8s.io/client-go/pkg/version.gitVersion=$kubernetes"

build cni cni ""
build etcd . ""
mv "$unfinished/server" "$unfinished/etcd"
build containerd . "-X github.com/containerd/containerd/v2/version.Version=${containerd#v}"
# runc needs C for entering namespaces, and libseccomp for the RuntimeDefault profile.
CGO_ENABLED=1 build runc . "-extldflags -static -X main.version=${runc#v}" -tags 'seccomp netgo osusergo'
build helm . ""
build k8s . "$kubernetes_flags"

chmod 755 "$unfinished"
mv -T "$unfinished" "$directory"
echo "$directory"
