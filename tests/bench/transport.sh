#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# transport.sh - what the transports carry between two network namespaces, beside another program
# on the same wire in the same run.
#   transport.sh [SECONDS a turn] [TURNS]      table on stderr, build/bench/transport.json
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

# testpmd HOST SECONDS VDEV ARGS...: its statistics, one block a second.
testpmd() {
	local host=$1 time=$2 vdev=$3
	shift 3
	sleep "$time" | nsenter --net=/run/netns/$ns-"$host" timeout -s INT "$time" \
		dpdk-testpmd --no-huge -m 400 --no-pci --no-shconf --no-telemetry --iova-mode=va \
		--log-level=error --lcores '0@(0-1),1@(0-1)' --vdev="$vdev" -- --nb-cores=1 \
		--total-num-mbufs=16384 --stats-period 1 "$@" 2>&1 || true
}

# Gbit/s that one stream of iperf3 carries, the mean of the turn.
theirs_tcp() {
	nsenter --net=/run/netns/$ns-b timeout $((seconds + 5)) iperf3 -s -1 -B 10.79.5.2 > "$work/iperf" &
	sleep 0.5
	nsenter --net=/run/netns/$ns-a iperf3 -c 10.79.5.2 -t "$seconds" -J |
		jq '.end.sum_received.bits_per_second / 1e9'
	wait $! || true
}

# Gbit/s of Ethernet payload that arrive: the best second of its receiver.
theirs_dpdk() {
	testpmd b $((seconds + 3)) "$1" --forward-mode=rxonly > "$work/rx" &
	testpmd a $((seconds + 2)) "$1" --forward-mode=txonly --txpkts=1514 > "$work/tx"
	wait $!
	grep -aoE 'Rx-pps: +[0-9]+' "$work/rx" | awk '$2 > m { m = $2 } END { print m * 1500 * 8 / 1e9 }'
}

# compare NAME MODULE ARGS TARGET THEIRS...: to what the command THEIRS says in the same turn
compare() {
	local turn name=$1 module=$2 args=$3 target=$4
	shift 4
	: > "$work/ours"
	: > "$work/theirs"
	for ((turn = 0; turn < turns; turn++)); do
		"$@" >> "$work/theirs"
		"$out/tests/bench/bench_transport" "$module" "$args" $ns-a $ns-b "$seconds" >> "$work/ours" \
			2> "$work/log" || {
			cat "$work/log" >&2
			exit 1
		}
	done
	jq -s --arg name "$name" --argjson target "$target" --slurpfile floor "$work/theirs" '
		def spread: sort | [.[0], .[-1]];
		def median: sort | .[length / 2 | floor];
		(map(.gbit_s) | median) as $v | ($floor | median) as $f |
		[{figure: "\($name), one way", value: $v, unit: "Gbit/s", spread: map(.gbit_s) | spread,
		  floor: $f, floor_spread: $floor | spread, ratio: ($v / $f), target: $target,
		  target_is: "ratio >=", met: ($v / $f >= $target)},
		 {figure: "\($name), 4 KiB and answer, p50", value: map(.trip_p50_us) | median, unit: "us",
		  spread: map(.trip_p50_us) | spread},
		 {figure: "\($name), 4 KiB and answer, p99", value: map(.trip_p99_us) | median, unit: "us",
		  spread: map(.trip_p99_us) | spread}]' "$work/ours"
}

packet=net_af_packet0,iface=wire,framecnt=8192 xdp=net_af_xdp0,iface=wire
{
	compare "tcp, TLS" tcp 10.79.5.2 0.7 theirs_tcp
	compare "dpdk, af_packet" dpdk "--vdev=$packet" 0.9 theirs_dpdk $packet
	compare "dpdk, af_packet, sealed" sealed:dpdk "--vdev=$packet" 0.7 theirs_dpdk $packet
	compare "dpdk, af_xdp" dpdk "--vdev=$xdp" 0.9 theirs_dpdk $xdp
	compare "dpdk, af_xdp, sealed" sealed:dpdk "--vdev=$xdp" 0.7 theirs_dpdk $xdp
} | jq -s add > $dir/transport.json
jq -r '.[] | "\(.figure): \(.value) \(.unit) \(.spread)\(if .floor then
	"  beside \(.floor) \(.floor_spread), ratio \(.ratio * 100 | floor / 100)" else "" end)"' \
	$dir/transport.json >&2
