#!/usr/bin/env bash
# Builds and pushes an image with a BuildKit daemon of its own in an empty store, and writes the seconds until the daemon was
# ready to $store/started. The environment has buildkit (the directory of its programs), host (the registry) and store.
# usage: buildkit.sh CONTEXT IMAGE CACHE
source "$(dirname "$0")/../cluster/settings.sh"
began=$(date +%s.%N)
address=unix://$store/socket
cat >"$store/buildkitd.toml" <<END
root = "$store/root"
[grpc]
address = ["$address"]
[worker.oci]
snapshotter = "overlayfs"
defaultCgroupParent = "/karve-bench"
[registry."$host"]
http = true
END

# In namespaces of its own, so that its end takes every mount and process along.
PATH=$buildkit:$PATH unshare --mount --pid --mount-proc --fork --kill-child \
  buildkitd --config "$store/buildkitd.toml" >"$store/log" 2>&1 &
daemon=$!
end() {
  kill -KILL $daemon
  wait $daemon || true
}
trap end EXIT
wait_until 60 daemon grep -q 'running server on' "$store/log"
echo "$(date +%s.%N) $began" | awk '{ printf "%.2f\n", $1 - $2 }' >"$store/started"

cache=type=registry,ref=$host/$3,registry.insecure=true
import=(--import-cache "$cache")
"$buildkit/buildctl" --addr "$address" build --progress plain --frontend dockerfile.v0 \
  --local "context=$1" --local "dockerfile=$1" "${import[@]}" --export-cache "$cache,mode=max" \
  --output "type=image,name=$host/$2,push=true,registry.insecure=true"
