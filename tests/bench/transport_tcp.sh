# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# transport_tcp.sh - tcp's rows of transport.sh, which sources this: $ns, $out, $work, $seconds, $turns are its.
#
# Plain (bench only) and TLS, each beside one stream of iperf3 on the same veth in the same turn: once
# bare, at the memory's speed, once shaped to 10 Gbit/s. All use cubic, Debian's default: bbr takes a
# processor that is busy elsewhere for a slow wire.

: "${ns:?}" "${out:?}" "${work:?}" "${seconds:?}" "${turns:?}"
tcp_rate=10gbit

tcp_shape() {
	local host
	for host in a b; do
		ip -n "$ns-$host" route change 10.79.5.0/24 dev wire congctl cubic
		if [ "$1" = none ]; then
			tc -n "$ns-$host" qdisc delete dev wire root 2>/dev/null || true
		else
			tc -n "$ns-$host" qdisc replace dev wire root tbf rate "$1" burst 2mb limit 16mb
		fi
	done
}

# Gbit/s that one stream of iperf3 carries, the mean of the turn.
theirs_tcp() {
	nsenter --net=/run/netns/"$ns"-b timeout $((seconds + 5)) iperf3 -s -1 -B 10.79.5.2 > "$work/iperf" &
	sleep 0.5
	nsenter --net=/run/netns/"$ns"-a iperf3 -c 10.79.5.2 -t "$seconds" -J |
		jq '.end.sum_received.bits_per_second / 1e9'
	wait $! || true
}

# GB/s that one processor encrypts with OpenSSL, in records of 16 KiB.
openssl_rate() {
	openssl speed -seconds 1 -bytes 16384 -evp aes-128-gcm 2>/dev/null |
		awk '/^AES-128-GCM/ { sub("k", "", $2); print $2 / 1e6 }'
}

# one transport's turn
tcp_turn() {
	"$out/tests/bench/bench_transport" "$1" "$2" "$ns-a" "$ns-b" "$seconds" 2> "$work/log" || {
		cat "$work/log" >&2
		return 1
	}
}

# tcp_wire NAME RATE: all rows of one wire
tcp_wire() {
	local turn
	rm -f "$work"/tcp_*
	tcp_shape "$2"
	for ((turn = 0; turn < turns; turn++)); do
		theirs_tcp >> "$work/tcp_theirs"
		tcp_turn plain 10.79.5.2 >> "$work/tcp_plain"
		tcp_turn tcp 10.79.5.2 >> "$work/tcp_tls"
		tcp_turn tcp:2 10.79.5.2 >> "$work/tcp_two"
		openssl_rate >> "$work/tcp_openssl"
	done
	tcp_shape none
	jq -n --arg wire "$1" --slurpfile theirs "$work/tcp_theirs" --slurpfile plain "$work/tcp_plain" \
		--slurpfile tls "$work/tcp_tls" --slurpfile two "$work/tcp_two" --slurpfile openssl "$work/tcp_openssl" '
		def spread: sort | [.[0], .[-1]];
		def median: sort | .[length / 2 | floor];
		def row($name; $ours; $target): ($ours | map(.gbit_s)) as $v | {
			figure: "tcp, \($name), \($wire), one way", value: $v | median, unit: "Gbit/s",
			spread: $v | spread, floor: $theirs | median, floor_spread: $theirs | spread,
			ratio: (($v | median) / ($theirs | median)), target: $target, target_is: "ratio >=",
			met: (($v | median) / ($theirs | median) >= $target)};
		def trip($name; $ours; $p): ($ours | map(.["trip_\($p)_us"])) as $v | {
			figure: "tcp, \($name), \($wire), 4 KiB and answer, \($p)", value: $v | median,
			unit: "us", spread: $v | spread};
		def core($ours): $ours | map(8 / .cpu_s_per_gb);
		core($plain) as $p | core($tls) as $t |
		[range($p | length) | $t[.] / $p[.]] as $r |
		[row("plain"; $plain; 0.9), row("TLS"; $tls; 0.7),
		 (row("TLS, 2 streams"; $two; 0) | del(.target, .target_is, .met)),
		 {figure: "tcp, TLS, \($wire), a core of both hosts", value: $t | median, unit: "Gbit/s",
		  spread: $t | spread, floor: $p | median, floor_spread: $p | spread,
		  ratio: $r | median, ratio_spread: $r | spread, target: 0.75, target_is: "ratio >=",
		  met: (($r | median) >= 0.75), openssl_gbit_s: ($openssl | median * 8)},
		 trip("plain"; $plain; "p50"), trip("plain"; $plain; "p99"),
		 trip("TLS"; $tls; "p50"), trip("TLS"; $tls; "p99"),
		 trip("TLS, 2 streams"; $two; "p50"), trip("TLS, 2 streams"; $two; "p99")]'
}

tcp_rows() {
	tcp_wire "bare veth" none
	tcp_wire "10 Gbit/s" $tcp_rate
}
