#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What goes over the wire for a protected Linux guest at work, to what it dirties: redis under
# redis-benchmark, PostgreSQL under pgbench, and a compilation of this project with gcc.
#   bench_bytes.sh OUT.json [SECONDS]      rows in the form of tests/bench/kit.h
# Both numbers are the primary's counters, of all checkpoints from a workload's begin to its end.
# Dirty ("bytes_raw"): 4096 for each page that differs from the checkpoint before, and what goes
# over the wire for the machine's state and the disks' writes. Sent ("bytes_sent"): payload of all records.
# BYTES_DETAIL=DIR keeps all counters before and after each workload there; WORKLOADS="redis compile" runs
# only these.
set -euo pipefail
export GUEST_IMAGE=workloads GUEST_MEMORY=${GUEST_MEMORY:-512M} LAB_HOST_MEMORY=${LAB_HOST_MEMORY:-2560}
# shellcheck source=tests/lab/rhea.sh
. "${BASH_SOURCE[0]%/*}/rhea.sh"

pg_bin=/usr/lib/postgresql/15/bin

out=$1
seconds=${2:-30}
compile_seconds=$((seconds * 4)) # of which the first half minute is make's own
dirty_min=$((16 << 20)) # less, and the guest was not at work

counters() {
	rhea_ctl a stats $vm
}

# The guest's agent runs what comes in here; what it prints comes back, for $guest_patience seconds.
guest_run() {
	lab_in timeout "${guest_patience:-$((seconds + 120))}" socat -t 86400 - "TCP:$guest_ip:$guest_port,keepalive"
}

database_answers() {
	[ "$(guest_patience=10 guest_run <<< 'systemctl is-active database')" = active ]
}

# This project's tree as it is here.
send_sources() {
	{
		echo 'mkdir src && tar -x -C src && sync && echo sent'
		tar -c -C "$top" Makefile hv remus replication netbuf diskrep ctl
	} | guest_run | grep -q '^sent$'
}

redis() {
	lab_in timeout "$seconds" redis-benchmark -h "$guest_ip" -c 10 -d 64 -r 10000 -n 100000000 -l --csv \
		-t set,get,incr,lpush || true
}

# In the guest: an answer that waits for its checkpoint takes so long here that a client outside
# would mostly sleep.
pgbench() {
	guest_run <<< "cd /; su postgres -c '$pg_bin/pgbench -n -c 4 -T $seconds bench'" |
		tee /dev/stderr | grep -q 'transactions actually processed: [1-9]'
}

compile() {
	guest_patience=$((compile_seconds + 120)) guest_run <<< "timeout $compile_seconds make -C src -s B=/root/out programs
		case \$? in 0 | 124) echo compiled: \$(find out -name '*.o' | wc -l) ;; esac" |
		tee /dev/stderr | grep -q 'compiled: [1-9]'
}

# row FIGURE TARGET: from the counters in $before and $after.
row() {
	jq -nc --argjson a "$before" --argjson b "$after" --arg figure "$1" --argjson target "$2" '
		($b.primary.bytes_raw - $a.primary.bytes_raw) as $raw |
		($b.primary.bytes_sent - $a.primary.bytes_sent) as $sent |
		{figure: $figure, value: $sent, unit: "bytes", floor: $raw, ratio: ($sent / $raw),
		 target: $target, target_is: "ratio <=", met: ($sent / $raw <= $target)}'
}

# measure FIGURE TARGET WORKLOAD: adds a row to $rows.
measure() {
	local log=$lab_dir/$3.log
	[[ " ${WORKLOADS:-redis pgbench compile} " == *" $3 "* ]] || return 0
	before=$(counters)
	step "$3" at_work "$3" "$log" || die "$(tail -n 20 "$log")"
	after=$(counters)
	rhea_is a '.protected and .role == "primary"' || die "protection was lost"
	row "bytes sent, $1" "$2" >> "$lab_dir/rows"
	if [ -n "${BYTES_DETAIL:-}" ]; then
		mkdir -p "$BYTES_DETAIL"
		jq -n --argjson a "$before" --argjson b "$after" '{before: $a, after: $b}' > "$BYTES_DETAIL/$3.json"
		cp "$log" "$BYTES_DETAIL/$3.log"
	fi
	[ "$(tail -n 1 "$lab_dir/rows" | jq .floor)" -gt $dirty_min ] ||
		die "the guest was not busy: $(tail -c 300 "$log")"
}

at_work() {
	"$1" > "$2" 2>&1
}

{
	rhea_begin
	rhea_daemon a
	rhea_boot_guest
	rhea_await_redis
	poll=3 step "waiting for its database" wait_until 120 database_answers
	step "giving it this project's sources" send_sources
	# Not sooner: what a guest does while its dirty pages are counted takes far longer here.
	rhea_daemon b
	rhea_protect
	measure redis-benchmark 0.1 redis
	measure pgbench 0.1 pgbench
	measure "C compilation" 0.25 compile
} >&2
jq -s . "$lab_dir/rows" > "$out"
jq -r '.[] | "\(.figure): \(.value) of \(.floor) bytes, ratio \(.ratio * 1000 | round / 1000)  \(.target_is) \(.target): \(if .met then "met" else "NOT MET" end)"' "$out"
