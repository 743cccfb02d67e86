# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# transport_dpdk.sh - dpdk's and rdma's rows of transport.sh, which sources this: $ns, $out, $work,
# $seconds, $turns are its.
#
# dpdk: beside dpdk-testpmd on the same driver and wire, frames as long, in the same turn. It sends what nobody
# fills and drops what it receives; what is lost on the way is not counted as carried. Both may use all
# processors. All of them run before others on the machine, because two pollers on few processors
# measure nothing else but what these have left.

: "${ns:?}" "${out:?}" "${work:?}" "${seconds:?}" "${turns:?}"

first() {
	nice -n -15 "$@"
}

# testpmd HOST SECONDS VDEV ARGS...: its statistics, one block a second.
testpmd() {
	local host=$1 time=$2 vdev=$3 buffer=$4
	shift 4
	sleep "$time" | first nsenter --net=/run/netns/"$ns-$host" timeout -s INT "$time" \
		dpdk-testpmd --no-huge -m 600 --no-pci --no-shconf --no-telemetry --iova-mode=va \
		--log-level=error --lcores '0@(0-1),1@(0-1)' --vdev="$vdev" -- --mbuf-size="$buffer" --nb-cores=1 \
		--total-num-mbufs=8192 --stats-period 1 "$@" 2>&1 || true
}

# Gbit/s of Ethernet payload that arrive: the median of its receiver's whole seconds.
theirs_dpdk() {
	local vdev=$1 mtu=$2 burst=$3 buffer=2176
	[ "$mtu" -le 1500 ] || buffer=16512 # the driver wants room for its ring's frames
	testpmd b $((seconds + 3)) "$vdev" $buffer --forward-mode=rxonly --burst="$burst" > "$work/rx" &
	testpmd a $((seconds + 2)) "$vdev" $buffer --forward-mode=txonly --burst="$burst" \
		--txpkts=$((mtu + 14)) > "$work/tx"
	wait $!
	grep -aoE 'Rx-pps: +[1-9][0-9]*' "$work/rx" | awk -v mtu="$mtu" '{ print $2 * mtu * 8 / 1e9 }' |
		sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] + 0 }'
}

# GB/s that one processor encrypts in records as long as ours.
openssl_rate_256() {
	first openssl speed -seconds 1 -bytes 65536 -evp aes-256-gcm 2>/dev/null |
		awk '/^AES-256-GCM/ { sub("k", "", $2); print $2 / 1e6 }'
}

dpdk_turn() {
	first "$out/tests/bench/bench_transport" "$1" "$2" "$ns-a" "$ns-b" "$seconds" 2> "$work/log" || {
		cat "$work/log" >&2
		return 1
	}
}

# dpdk_wire NAME VDEV MTU BURST: all rows of one driver. BURST: testpmd's better one of 32 and 64.
dpdk_wire() {
	local turn args="--vdev=$2 mtu=$3"
	rm -f "$work"/dpdk_*
	for host in a b; do
		ip -n "$ns-$host" link set wire mtu "$3"
	done
	for ((turn = 0; turn < turns; turn++)); do
		theirs_dpdk "$2" "$3" "$4" >> "$work/dpdk_theirs"
		dpdk_turn dpdk "$args" >> "$work/dpdk_plain"
		dpdk_turn sealed:dpdk "$args" >> "$work/dpdk_sealed"
		openssl_rate_256 >> "$work/dpdk_openssl"
	done
	for host in a b; do
		ip -n "$ns-$host" link set wire mtu 1500
	done
	jq -n --arg name "dpdk, $1" --slurpfile theirs "$work/dpdk_theirs" --slurpfile plain "$work/dpdk_plain" \
		--slurpfile sealed "$work/dpdk_sealed" --slurpfile openssl "$work/dpdk_openssl" '
		def spread: sort | [.[0], .[-1]];
		def median: sort | .[length / 2 | floor];
		def beside($figure; $unit; $ours; $floor; $target):
			[range($ours | length) | $ours[.] / $floor[.]] as $r |
			{figure: $figure, value: $ours | median, unit: $unit, spread: $ours | spread,
			 floor: $floor | median, floor_spread: $floor | spread, ratio: $r | median,
			 ratio_spread: $r | spread, target: $target, target_is: "ratio >=",
			 met: (($r | median) >= $target)};
		def alone($figure; $unit; $v): {figure: $figure, value: $v | median, unit: $unit, spread: $v | spread};
		def rate: map(.gbit_s);
		def core: map(8 / .cpu_s_per_gb);
		[beside("\($name), one way"; "Gbit/s"; $plain | rate; $theirs; 0.9),
		 beside("\($name), sealed, one way"; "Gbit/s"; $sealed | rate; $theirs; 0.7),
		 (beside("\($name), sealed, a core of both hosts"; "Gbit/s"; $sealed | core; $plain | core; 0.75) +
			{openssl_gbit_s: ($openssl | median * 8)}),
		 (("", "sealed, ") as $how | (if $how == "" then $plain else $sealed end) as $v |
			alone("\($name), \($how)4 KiB and answer, p50"; "us"; $v | map(.trip_p50_us)),
			alone("\($name), \($how)4 KiB and answer, p99"; "us"; $v | map(.trip_p99_us))),
		 (alone("\($name), idle, of a core"; "%"; $plain | map(.idle_percent)) | . +
			{target: 2, target_is: "value <=", met: (.value <= 2)}),
		 alone("\($name), first message after 20 ms, p50"; "us"; $plain | map(.first_p50_us)),
		 alone("\($name), first message after 20 ms, longest"; "us"; $plain | map(.first_max_us))]'
}

dpdk_rows() {
	dpdk_wire "af_packet" net_af_packet0,iface=wire,framecnt=8192 1500 32
	dpdk_wire "af_xdp" net_af_xdp0,iface=wire 1500 64
	dpdk_wire "af_packet, frames of 9000" \
		net_af_packet0,iface=wire,framesz=16384,blocksz=65536,framecnt=512 9000 32
}

# Two emulated hosts with rxe: a part of its own, because it takes minutes. Without RDMA_TURNS it is left out.
rdma_rows() {
	if [ "${RHEA_BENCH_RDMA_TURNS:-3}" = 0 ]; then
		echo '[]'
		return
	fi
	timeout 600 tests/lab/bench_rdma.sh "${RHEA_BENCH_RDMA_TURNS:-3}" "$work/rdma" >&2
	cat "$work/rdma"
}
