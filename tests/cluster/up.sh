#!/usr/bin/env bash
# Brings up a Kubernetes of one node on this machine, with two registries, and pushes the base images. Returns when the
# node is ready. Nothing of it listens on this machine's own addresses; `down.sh` removes it without a trace.
# usage: up.sh
source "$(dirname "$0")/settings.sh"
need_root
need curl curl
need docker-registry docker-registry
need ip iproute2
need nft nftables
need openssl openssl
need perl perl-base
need skopeo skopeo
need unshare util-linux
tools=$("$here/build.sh")
images=$("$here/images.sh")
source "$here/certificates.sh"
source "$here/configuration.sh"

lock_node
! node_is_up || fail "a node is up already: run down.sh first"
"$here/down.sh" # what a killed run may have left
mkdir -p "$state/log"
started=$SECONDS
kubectl() { "$tools/kubectl" --kubeconfig "$state/kubeconfig/admin.yaml" "$@"; }

save_sysctls() { # those that kubelet sets for the whole machine
  local name
  for name in kernel/keys/root_maxbytes kernel/keys/root_maxkeys kernel/panic kernel/panic_on_oops \
    vm/overcommit_memory vm/panic_on_oom; do
    [ ! -e /proc/sys/$name ] || echo "$name $(cat /proc/sys/$name)"
  done >"$state/sysctls"
}

make_cgroups() { # in every hierarchy of cgroup v1, or once in v2
  local hierarchy resource
  if [ -e $cgroup_root/cgroup.controllers ]; then
    mkdir -p $cgroup_root/$node_name
    return
  fi
  for hierarchy in $cgroup_root/*/; do
    [ -L "${hierarchy%/}" ] || mkdir -p "$hierarchy$node_name"
  done
  for resource in cpus mems; do # a new cpuset is empty, and nothing may run in it
    cat $cgroup_root/cpuset/cpuset.$resource >$cgroup_root/cpuset/$node_name/cpuset.$resource
  done
}

start_node() {
  local parent
  setsid unshare --mount --pid --net --uts --ipc --fork --kill-child --mount-proc \
    "$here/node.sh" "$tools" </dev/null >"$state/log/node.log" 2>&1 9>&- &
  parent=$!
  wait_until 10 "process of the node" grep -q '[0-9]' /proc/$parent/task/$parent/children
  tr -d ' ' </proc/$parent/task/$parent/children >"$state/node.pid"
  ip link add $host_interface type veth peer name eth0 netns "$(cat "$state/node.pid")"
  ip address add $host_address/24 dev $host_interface
  ip link set $host_interface up
}

push_images() {
  local image
  wait_until 30 registry curl --silent --fail http://$registry/v2/
  for image in pause busybox; do
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$images/$image:$image_tag" docker://$registry/$image:$image_tag
  done
}

node_is_ready() {
  [ "$(kubectl get node $node_name --output jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

make_certificates
write_configuration
save_sysctls
make_cgroups
start_node
push_images
wait_until 180 "API server" kubectl get --raw /readyz
kubectl create clusterrolebinding kube-proxy --clusterrole=system:node-proxier --user=system:kube-proxy >/dev/null
wait_until 180 "node that is Ready" node_is_ready
wait_until 30 "service account" kubectl get serviceaccount default # before it exists, Pods are refused
echo "node $node_name is ready after $((SECONDS - started)) s" >&2
