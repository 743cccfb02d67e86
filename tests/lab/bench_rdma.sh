#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rdma transport beside perftest's ib_write_bw and ib_write_lat, on one rxe device, taking turns.
#   bench_rdma.sh [TURNS]     a line for each turn, then medians, spreads and the turns' ratios
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

turns=${1:-5}
size=65536 messages=256 round_trips=500
port=7200
module=$B/rhea-tp-rdma.so

args() {
	echo "address=$repl_net.$(host_number "$1")"
}

listens() {
	host_run b "grep -qi \":$(printf %04x "$1") 0*:0000 0A\" /proc/net/tcp /proc/net/tcp6"
}

ended() {
	host_run b "! kill -0 \$(cat /lab/server.pid) 2>/dev/null"
}

# pair TCP-PORT SERVER CLIENT: run both; what the client says.
pair() {
	host_spawn b server "$2"
	wait_until 30 listens "$1" || die "no server: $2"
	host_patience=100 host_run a "$3" || die "$3"
	wait_until 20 ended || die "the server does not end: $2"
}

# ours bw|lat ROUNDS SIZE
ours() {
	local bench="$B/tests/lab/rdma_bench $module"
	pair $port "$bench '$(args b)' $port $*" \
		"$bench '$(args a)' $port $* $mgmt_net.$(host_number b)"
}

# theirs PROGRAM OPTIONS...: the line with the figures
theirs() {
	pair 18515 "$* -d rxe0 -x 1 -F" "$* -d rxe0 -x 1 -F $repl_net.$(host_number b)" |
		awk '$1 ~ /^[0-9]+$/ && NF >= 5 { line = $0 } END { print line }'
}

# summary NAME THEIRS OURS: medians and spreads of two files, and of the turns' ratios: on a busy
# machine only what ran one after the other can be compared.
summary() {
	paste "$2" "$3" | awk -v name="$1" '
		{ t[NR] = $1; o[NR] = $2; r[NR] = $2 / $1 }
		END {
			printf "%-32s perftest %s   rhea %s   ratio %s\n", name, spread(t, NR, "%.1f"),
				spread(o, NR, "%.1f"), spread(r, NR, "%.2f")
		}
		function spread(a, n, f, i, j, x) {
			for (i = 2; i <= n; i++)
				for (j = i; j > 1 && a[j] < a[j - 1]; j--) {
					x = a[j]; a[j] = a[j - 1]; a[j - 1] = x
				}
			x = (a[int((n + 1) / 2)] + a[int((n + 2) / 2)]) / 2
			return sprintf(f " (" f " to " f ")", x, a[1], a[n])
		}'
}

lab_begin
host_start a
host_start b
for host in a b; do
	host_wait $host
	host_run $host "modprobe rdma_rxe && modprobe rdma_ucm &&
		rdma link add rxe0 type rxe netdev eth1"
done
host_run a "ping -q -c 2 -W 5 $repl_net.$(host_number b)" > /dev/null
for ((turn = 1; turn <= turns; turn++)); do
	theirs ib_write_bw -s $size -n $messages | awk '{ print $4 * 1.048576 }' >> "$lab_dir/bw.theirs"
	ours bw $messages $size | tail -n 1 >> "$lab_dir/bw.ours"
	theirs ib_write_lat -s 4096 -n $round_trips > "$lab_dir/lat"
	awk '{ print $5 }' "$lab_dir/lat" >> "$lab_dir/p50.theirs"
	awk '{ print $8 }' "$lab_dir/lat" >> "$lab_dir/p99.theirs"
	ours lat $round_trips 4096 | tail -n 1 > "$lab_dir/lat"
	awk '{ print $1 }' "$lab_dir/lat" >> "$lab_dir/p50.ours"
	awk '{ print $2 }' "$lab_dir/lat" >> "$lab_dir/p99.ours"
	say "turn $turn: $(tail -qn 1 "$lab_dir"/{bw,p50,p99}.{theirs,ours} | tr '\n' ' ')"
done
summary "throughput, 64 KiB, MB/s" "$lab_dir/bw.theirs" "$lab_dir/bw.ours"
summary "latency, 4 KiB one way, p50, us" "$lab_dir/p50.theirs" "$lab_dir/p50.ours"
summary "latency, 4 KiB one way, p99, us" "$lab_dir/p99.theirs" "$lab_dir/p99.ours"
