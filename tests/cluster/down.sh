#!/usr/bin/env bash
# Removes the node and everything that it left: processes, mounts, interface, cgroups, sysctls, files. Runs any number of
# times, whatever a killed run may have left, and fails when something stays.
# usage: down.sh
source "$(dirname "$0")/settings.sh"
need_root
lock_node

stop_node() {
  local pid
  node_is_up || return 0
  pid=$(cat "$state/node.pid")
  kill -KILL "$pid"
  # Its end is the end of every process in its pid namespace.
  wait_until 30 "end of the node's processes" test ! -e "/proc/$pid"
}

# Bottom up; a cgroup stays busy for a moment after its last process has ended.
remove_cgroups() {
  local directory status=0
  for directory in $cgroup_root/$node_name $cgroup_root/*/$node_name; do
    [ ! -d "$directory" ] || find "$directory" -depth -type d -exec rmdir {} + || status=1
  done
  return $status
}

restore_sysctls() {
  local name value
  [ -e "$state/sysctls" ] || return 0
  while read -r name value; do
    [ "$(cat "/proc/sys/$name")" = "$value" ] || echo "$value" >"/proc/sys/$name"
  done <"$state/sysctls"
}

stop_node
ip link delete $host_interface 2>/dev/null || true
wait_until 10 "end of the node's cgroups" remove_cgroups
restore_sysctls
rm -rf --one-file-system "$state"
rmdir $run_directory 2>/dev/null || true

if ip link show $host_interface >/dev/null 2>&1 || grep -q $node_name /proc/mounts || [ -e $run_directory ]; then
  fail "something of the node is still there: see \`ip link\`, /proc/mounts and $run_directory"
fi
