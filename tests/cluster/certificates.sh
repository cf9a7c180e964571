# The certificates and kubeconfigs of a node, made by openssl under $state. Sourced by up.sh.
# shellcheck shell=bash

certificates=$state/certificates

make_authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=$node_name \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$certificates/authority.key" -out "$certificates/authority.crt" 2>/dev/null
}

# make_certificate NAME SUBJECT [ALTERNATIVE-NAMES]: for servers and clients alike
make_certificate() {
  local name=$certificates/$1 extensions="basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment"
  extensions+="\nextendedKeyUsage=serverAuth,clientAuth\n${3:+subjectAltName=$3\n}"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" \
    -keyout "$name.key" -out "$name.csr" 2>/dev/null
  printf '%b' "$extensions" | openssl x509 -req -in "$name.csr" -days 30 -extfile /dev/stdin -CAcreateserial \
    -CA "$certificates/authority.crt" -CAkey "$certificates/authority.key" -out "$name.crt" 2>/dev/null
}

# make_kubeconfig NAME: for the holder of the certificate of that name
make_kubeconfig() {
  cat >"$state/kubeconfig/$1.yaml" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: $node_name, cluster: {server: "$api_server", certificate-authority: "$certificates/authority.crt"}}]
users: [{name: $1, user: {client-certificate: "$certificates/$1.crt", client-key: "$certificates/$1.key"}}]
contexts: [{name: $node_name, context: {cluster: $node_name, user: $1}}]
current-context: $node_name
YAML
}

make_certificates() {
  local name service=kubernetes.default.svc
  mkdir -p "$certificates" "$state/kubeconfig"
  make_authority
  make_certificate api-server /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$node_address,IP:${service_network%.0/*}.1,DNS:localhost,DNS:kubernetes,DNS:$service,DNS:$service.cluster.local"
  make_certificate api-server-to-kubelet /O=system:masters/CN=apiserver-kubelet-client
  make_certificate kubelet "/O=system:nodes/CN=system:node:$node_name" "DNS:$node_name,IP:$node_address"
  make_certificate controller-manager /CN=system:kube-controller-manager
  make_certificate scheduler /CN=system:kube-scheduler
  make_certificate proxy /CN=system:kube-proxy
  make_certificate admin /O=system:masters/CN=admin
  for name in admin kubelet controller-manager scheduler proxy; do
    make_kubeconfig "$name"
  done
  openssl genrsa -out "$certificates/service-account.key" 2048 2>/dev/null
  openssl rsa -in "$certificates/service-account.key" -pubout -out "$certificates/service-account.pub" 2>/dev/null
}
