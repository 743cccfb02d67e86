#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building, testing and the demo need; at once when all are there.
#   deps.sh            install what is missing (root)
#   deps.sh --check    only say what is missing; exit status 1 if anything is
# Kernels are not in the list on purpose: the lab downloads and unpacks them under build/.
set -euo pipefail

build=(gcc clang make pkg-config
	libevent-dev liblz4-dev libxxhash-dev libssl-dev libconfig-dev libjansson-dev liburing-dev
	libnl-3-dev libnl-route-3-dev libseccomp-dev libcap-ng-dev libsystemd-dev
	libcurl4-openssl-dev libsqlite3-dev libcunit1-dev libipsec-mb-dev libfuse3-dev
	libibverbs-dev librdmacm-dev libdpdk-dev nbdkit-plugin-dev)
lint=(clang-format clang-tidy cppcheck shellcheck git)
lab=(qemu-system-x86 qemu-utils busybox-static cpio kmod zstd socat iproute2 iputils-ping util-linux
	etcd-server redis-tools mmdebstrap debian-archive-keyring e2fsprogs dmsetup xz-utils gnuplot-nox jq
	tcpdump tshark curl rdma-core ibverbs-providers perftest dpdk nftables iperf3
	openssh-server openssh-client nbdkit libnbd-bin gnutls-bin)

missing_packages() {
	local have p
	have=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
		sed -n 's/^installed //p' || true)
	for p in "$@"; do
		[[ $'\n'$have$'\n' == *$'\n'$p$'\n'* ]] || echo "$p"
	done
}

mapfile -t missing < <(missing_packages "${build[@]}" "${lint[@]}" "${lab[@]}")
[ ${#missing[@]} -gt 0 ] || exit 0
echo "missing packages: ${missing[*]}"
if [ "${1:-}" = --check ]; then
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "to install them, run as root:  apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing them (apt-get) ..."
export DEBIAN_FRONTEND=noninteractive
# A service that a package brings along (etcd) must not be started on this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' > $policy
	chmod +x $policy
	trap 'rm -f "$log" $policy' EXIT
fi
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } \
	> "$log" 2>&1 < /dev/null; then
	tail -n 30 "$log" >&2
	echo "apt-get failed: install by hand: ${missing[*]}" >&2
	exit 1
fi
echo "installed ${#missing[@]} packages"
