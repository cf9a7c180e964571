# The configuration files of a node's daemons, written under $state. Sourced by up.sh; $tools is what build.sh made.
# shellcheck shell=bash

write_containerd_configuration() {
  local address
  cat >"$state/containerd.toml" <<TOML
version = 3
root = '$state/containerd'
state = '$run_directory/containerd'
disabled_plugins = [
  'io.containerd.internal.v1.tracing', 'io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.blockfile',
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.erofs',
  'io.containerd.snapshotter.v1.zfs', 'io.containerd.tracing.processor.v1.otlp',
]
[grpc]
address = '$run_directory/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '$registry/pause:$image_tag'
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '$state/registries'
[plugins.'io.containerd.cri.v1.runtime']
# Where root lacks CAP_SYS_RESOURCE, no score may be lowered: without this every sandbox dies with a misleading EOF.
restrict_oom_score_adj = true
enable_cdi = false
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '$tools/runc'
SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['$tools/cni']
conf_dir = '$state/cni'
TOML
  # Both registries speak plain http.
  for address in $registry $registry_with_password; do
    mkdir -p "$state/registries/$address"
    printf 'server = "http://%s"\n[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' $address $address \
      >"$state/registries/$address/hosts.toml"
  done
}

# The bridge's own masquerading fails at teardown on kernels without some iptables modules: node.sh has one nftables rule.
write_network_configuration() {
  mkdir -p "$state/cni"
  cat >"$state/cni/10-bridge.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "$node_name", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$state/addresses",
            "ranges": [[{"subnet": "$pod_network"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}
]}
JSON
  # There is no cluster DNS: a look-up fails at once instead of timing out.
  echo "nameserver 127.0.0.1" >"$state/resolv.conf"
}

# write_registry_configuration NAME ADDRESS [AUTHENTICATION]
write_registry_configuration() {
  cat >"$state/$1.yaml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: "$state/$1"}, delete: {enabled: true}}
http: {addr: "$2"}
$3
YAML
}

write_registry_configurations() {
  local password salt
  write_registry_configuration registry $registry ""
  password=$(head -c 18 /dev/urandom | base64 | tr '+/' '-_')
  salt=$(head -c 18 /dev/urandom | base64 | tr '+/' 'ab' | cut -c1-22)
  (umask 077 && printf %s "$password" >"$state/registry-password")
  # The registry takes bcrypt only, which libcrypt makes and perl, of every Debian, reaches.
  perl -e 'print "$ARGV[0]:", crypt(scalar <STDIN>, "\$2y\$05\$$ARGV[1]"), "\n"' $registry_user "$salt" \
    <"$state/registry-password" >"$state/registry-users"
  write_registry_configuration registry-with-password $registry_with_password \
    "auth: {htpasswd: {realm: $node_name, path: \"$state/registry-users\"}}"
}

write_kubelet_configuration() {
  cat >"$state/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "$certificates/authority.crt"}
authorization: {mode: Webhook}
tlsCertFile: "$certificates/kubelet.crt"
tlsPrivateKeyFile: "$certificates/kubelet.key"
containerRuntimeEndpoint: unix://$run_directory/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$node_name
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: ["127.0.0.1"]
resolvConf: "$state/resolv.conf"
podLogsDir: "$state/log/pods"
# Tests fill no disks: what else is on this machine's must not evict their Pods.
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
  imagefs.inodesFree: 1%
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
YAML
}

write_configuration() {
  write_containerd_configuration
  write_network_configuration
  write_registry_configurations
  write_kubelet_configuration
}
