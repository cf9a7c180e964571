# Addresses, directories and small functions: what every script of this folder has in common. Sourced, never run.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# What can be made again at any time. Outside of the tree, so that neither `git clean` nor a fresh clone costs ten minutes.
cache=${KARVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/karve}

# Everything that a running node writes, certificates and passwords included. `down.sh` deletes it.
state=$cache/node

# The node's own network: the host at one end of a veth pair, the node at the other.
# One name serves everywhere: the host, the node and every Pod reach the registries at the same addresses.
host_address=172.30.0.1
node_address=172.30.0.2
registry=$node_address:5000
registry_with_password=$node_address:5001
registry_user=karve
api_server=https://$node_address:6443
pod_network=10.88.0.0/16
service_network=10.96.0.0/16

# One name for everything that the node leaves in the kernel: cgroups, the nftables table, the mount on /run.
node_name=karve-node
host_interface=karve0
run_directory=/run/$node_name
cgroup_root=/sys/fs/cgroup

# The tag of the images that `images.sh` makes.
image_tag=1

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# wait_until SECONDS WHAT COMMAND...: polls until the command succeeds; the only place where these scripts wait.
wait_until() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "no $what in time: see $state/log"
    sleep 0.05
  done
}

# need PROGRAM PACKAGE: the name of the Debian package beats `command not found`.
need() {
  command -v "$1" >/dev/null || fail "\`$1\` is missing: install the package \`$2\`, or run tests/cluster/setup.sh"
}

need_root() {
  [ "$(id -u)" = 0 ] || fail "a node makes namespaces, cgroups and interfaces: run as root"
}

# The process number that is on record may have become another program's.
node_is_up() {
  [ -e "$state/node.pid" ] && grep -qs /tests/cluster/node.sh "/proc/$(cat "$state/node.pid")/cmdline"
}

# One script at a time changes the node; a script that another one runs has the lock already.
lock_node() {
  [ -z "${KARVE_NODE_LOCK:-}" ] || return 0
  mkdir -p "$cache"
  exec 9>"$cache/node.lock"
  flock 9
  export KARVE_NODE_LOCK=held
}
