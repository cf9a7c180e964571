#!/usr/bin/env bash
# Prints what a shell needs to work with the node: eval "$(tests/cluster/env.sh)"
source "$(dirname "$0")/settings.sh"
lock_node # a node that is coming up is waited for
node_is_up || fail "there is no node: run \`make cluster\` first"
cat <<SHELL
export KUBECONFIG='$state/kubeconfig/admin.yaml'
export PATH='$("$here/build.sh")':"\$PATH"
export REGISTRY=$registry
export REGISTRY_WITH_PASSWORD=$registry_with_password
export REGISTRY_USER=$registry_user
export REGISTRY_PASSWORD_FILE='$state/registry-password'
SHELL
