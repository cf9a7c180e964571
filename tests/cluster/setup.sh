#!/usr/bin/env bash
# Installs the Debian packages and Rust components that building and testing need, and touches nothing that is there.
# usage: setup.sh [small]      small: what building Karve and `make demo` need, without what the cluster needs
source "$(dirname "$0")/settings.sh"

# C compiler for the bundled C libraries of our crates; busybox and openssl for base images and certificates.
packages=(gcc libc6-dev make git ca-certificates busybox-static)
[ "${1:-}" = small ] || packages+=(
  bzip2 python3 xz-utils zstd           # other writers of archives, for tests of layers and of ADD
  openssh-client                        # keys and another client, for tests of SSH agents
  curl openssl perl-base                # certificates, readiness, the registry's password file
  docker-registry skopeo                # the registry, and an independent client of it
  iproute2 nftables                     # the node's network
  libseccomp-dev pkg-config             # runc, for the node and for BuildKit
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done

# Debian starts a freshly installed registry as a service; ours run in namespaces and temporary directories only.
install_without_starting() {
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "$@"
}

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "these packages are missing, and this is no Debian: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "run as root, or install these packages: ${missing[*]}"
  echo "installing ${missing[*]}" >&2
  install_without_starting "${missing[@]}" >&2
fi

command -v cargo >/dev/null || fail "\`cargo\` is missing: install Rust, with rustup for the components"
if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
  need rustup rustup
  rustup component add rustfmt clippy
fi
