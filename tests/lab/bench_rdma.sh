#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rdma transport beside perftest's ib_write_bw and ib_write_lat, on one rxe device, taking turns.
#   bench_rdma.sh [TURNS [FILE]]   a line for each turn, then medians, spreads and the turns' ratios; the
#                                  same as JSON, in the form of `make bench`'s, to FILE
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

turns=${1:-5}
size=65536 messages=256 round_trips=500
port=7200
module=$B/rhea-tp-rdma.so

# perftest never sleeps. On an emulated device a round trip takes milliseconds, so ours must be told to wait as
# long as that for it.
args() {
	echo "address=$repl_net.$(host_number "$1") spin=20000"
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

# row FIGURE UNIT NAME TARGET HOW: one figure of both, from the turns' files, as JSON. The ratio is the turns'
# median: on a busy machine only what ran one after the other can be compared.
row() {
	jq -n --arg figure "$1" --arg unit "$2" --argjson target "$4" --arg how "$5" \
		--slurpfile floor "$lab_dir/$3.theirs" --slurpfile ours "$lab_dir/$3.ours" '
		def spread: sort | [.[0], .[-1]];
		def median: sort | .[length / 2 | floor];
		[range($ours | length) | $ours[.] / $floor[.]] as $r | ($r | median) as $m |
		{figure: $figure, value: $ours | median, unit: $unit, spread: $ours | spread,
		 floor: $floor | median, floor_spread: $floor | spread, ratio: $m, ratio_spread: $r | spread,
		 target: $target, target_is: $how,
		 met: (if $how == "ratio >=" then $m >= $target else $m <= $target end)}'
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
{
	row "rdma (rxe), 64 KiB, one way" MB/s bw 0.8 "ratio >="
	row "rdma (rxe), 4 KiB one way, p50" us p50 1.25 "ratio <="
	row "rdma (rxe), 4 KiB one way, p99" us p99 1.25 "ratio <="
} | jq -s . > "$lab_dir/rows"
jq -r 'def two: . * 100 | round / 100;
	.[] | "\(.figure): perftest \(.floor | two) \(.floor_spread | map(two)), rhea \(.value | two) " +
	"\(.spread | map(two)) \(.unit), ratio \(.ratio | two) \(.ratio_spread | map(two))"' "$lab_dir/rows"
if [ $# -gt 1 ]; then
	cp "$lab_dir/rows" "$2"
fi
