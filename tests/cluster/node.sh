#!/usr/bin/env bash
# PID 1 of the node: runs in mount, pid, network, uts and ipc namespaces of its own, starts the daemons and restarts
# those that end. Killing it ends every daemon and container at once, and their mounts and interfaces vanish with it.
# usage: node.sh TOOLS      (started by up.sh, which has written all configuration)
source "$(dirname "$0")/settings.sh"
tools=$1
certificates=$state/certificates
PATH=$tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

trap : TERM INT HUP # PID 1 ends by SIGKILL only
hostname $node_name
mount --make-rprivate /
mount --make-rshared / # as kubelet wants it, among the mounts of this namespace alone
mkdir -p $run_directory
mount -t tmpfs -o mode=755,size=512m $node_name $run_directory

ip link set lo up
wait_until 10 "network interface" ip link show eth0
ip address add $node_address/24 dev eth0
ip link set eth0 up
ip route add default via $host_address
echo 1 >/proc/sys/net/ipv4/ip_forward
filtering=/proc/sys/net/bridge/bridge-nf-call-iptables # Services reach Pods of the same bridge by it, where it exists
[ ! -e $filtering ] || echo 1 >$filtering
nft -f - <<NFT
table ip $node_name {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr $pod_network ip daddr != $pod_network masquerade
  }
}
NFT

# keep NAME COMMAND...: runs the command for ever
keep() {
  local name=$1
  shift
  (
    trap - TERM INT HUP
    while :; do
      "$@" >>"$state/log/$name.log" 2>&1 || true
      echo "$name ended" >>"$state/log/restarts.log"
      sleep 0.5
    done
  ) &
}

# The registries answer on all addresses of the node.
keep registry docker-registry serve "$state/registry.yaml"
keep registry-with-password docker-registry serve "$state/registry-with-password.yaml"

keep etcd etcd --name $node_name --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
  --initial-cluster $node_name=http://127.0.0.1:2380

issuer=https://kubernetes.default.svc.cluster.local
keep api-server kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 6443 \
  --advertise-address $node_address --service-cluster-ip-range $service_network --allow-privileged \
  --tls-cert-file "$certificates/api-server.crt" --tls-private-key-file "$certificates/api-server.key" \
  --client-ca-file "$certificates/authority.crt" \
  --kubelet-certificate-authority "$certificates/authority.crt" --kubelet-preferred-address-types InternalIP \
  --kubelet-client-certificate "$certificates/api-server-to-kubelet.crt" \
  --kubelet-client-key "$certificates/api-server-to-kubelet.key" \
  --service-account-issuer $issuer --api-audiences $issuer \
  --service-account-signing-key-file "$certificates/service-account.key" \
  --service-account-key-file "$certificates/service-account.pub" \
  --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction

keep containerd containerd --config "$state/containerd.toml"

# The controller manager gives up when nobody answers: it starts after the API server.
wait_until 120 "API server" curl --silent --fail --insecure https://127.0.0.1:6443/readyz

# kubeconfig NAME: the file by which a daemon uses the API server
kubeconfig() {
  echo "$state/kubeconfig/$1.yaml"
}
keep controller-manager kube-controller-manager --kubeconfig "$(kubeconfig controller-manager)" \
  --authentication-kubeconfig "$(kubeconfig controller-manager)" \
  --authorization-kubeconfig "$(kubeconfig controller-manager)" \
  --leader-elect=false --bind-address 127.0.0.1 --use-service-account-credentials \
  --service-account-private-key-file "$certificates/service-account.key" \
  --root-ca-file "$certificates/authority.crt" \
  --cluster-signing-cert-file "$certificates/authority.crt" --cluster-signing-key-file "$certificates/authority.key"
keep scheduler kube-scheduler --kubeconfig "$(kubeconfig scheduler)" \
  --authentication-kubeconfig "$(kubeconfig scheduler)" --authorization-kubeconfig "$(kubeconfig scheduler)" \
  --leader-elect=false --bind-address 127.0.0.1
keep proxy kube-proxy --kubeconfig "$(kubeconfig proxy)" --proxy-mode nftables --cluster-cidr $pod_network \
  --hostname-override $node_name --bind-address $node_address --metrics-bind-address 127.0.0.1:10249 \
  --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0

wait_until 120 "containerd" test -S $run_directory/containerd/containerd.sock
keep kubelet kubelet --config "$state/kubelet.yaml" --kubeconfig "$(kubeconfig kubelet)" \
  --root-dir "$state/kubelet" --hostname-override $node_name --node-ip $node_address

while :; do wait || true; done
