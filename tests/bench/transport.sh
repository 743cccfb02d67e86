#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# transport.sh - what the transports carry between two network namespaces, rdma between two emulated
# hosts, each beside another program on the same wire in the same run.
#   transport.sh [SECONDS a turn] [TURNS]      table on stderr, build/bench/transport.json
# RHEA_BENCH_RDMA_TURNS=0 leaves the emulated hosts out.
# Turns alternate: ours, theirs. Rates are of payload, at the same length of frame.
set -euo pipefail
out=${B:-build/out}
export B=$out
seconds=${1:-3} turns=${2:-3}
ns=rhea-bench-$$
dir=build/bench
work=$(mktemp -d)
mkdir -p $dir

clean_up() {
	ip netns delete $ns-a 2>/dev/null || true
	ip netns delete $ns-b 2>/dev/null || true
	rm -rf "$work"
}
trap clean_up EXIT

for host in a b; do
	ip netns add $ns-$host
	ip -n $ns-$host link set lo up
done
ip -n $ns-a link add wire type veth peer name wire netns $ns-b
for host in a b; do
	ip -n $ns-$host link set wire addrgenmode none up
done
ip -n $ns-a address add 10.79.5.1/24 dev wire
ip -n $ns-b address add 10.79.5.2/24 dev wire

# shellcheck source=tests/bench/transport_tcp.sh
. tests/bench/transport_tcp.sh
# shellcheck source=tests/bench/transport_dpdk.sh
. tests/bench/transport_dpdk.sh
{
	tcp_rows
	dpdk_rows
	rdma_rows
} | jq -s add > $dir/transport.json
jq -r '.[] | "\(.figure): \(.value) \(.unit) \(.spread)\(if .floor then
	"  beside \(.floor) \(.floor_spread), ratio \(.ratio * 100 | floor / 100)" else "" end)"' \
	$dir/transport.json >&2
