#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What goes over the wire for a Linux guest whose redis is under redis-benchmark, to what is dirty.
#   bench_bytes.sh OUT.json [SECONDS]      rows in the form of tests/bench/kit.h
set -euo pipefail
# shellcheck source=tests/lab/rhea.sh
. "${BASH_SOURCE[0]%/*}/rhea.sh"

out=$1
seconds=${2:-20}

# Bytes of dirty pages and bytes sent, so far.
bytes() {
	rhea_vm a | jq -r '"\(.bytes_raw) \(.bytes_sent)"'
}

row() {
	jq -n --argjson raw $((raw1 - raw0)) --argjson sent $((sent1 - sent0)) \
		'{figure: "bytes sent, redis-benchmark", value: $sent, unit: "bytes", floor: $raw,
		  ratio: ($sent / $raw), target: 0.1, target_is: "ratio <=", met: ($sent / $raw <= 0.1)}'
}

{
	rhea_begin
	rhea_daemon a
	rhea_boot_guest
	rhea_daemon b
	rhea_await_redis
	rhea_protect
	read -r raw0 sent0 <<< "$(bytes)"
	say "redis-benchmark for $seconds s: SET, GET, INCR, LPUSH of 64 bytes, 10 connections"
	lab_in timeout "$seconds" redis-benchmark -h "$guest_ip" -c 10 -d 64 -r 10000 -n 100000000 -l -q \
		-t set,get,incr,lpush > "$lab_dir/benchmark.log" || true
	sleep 1 # the view is written twice a second
	rhea_is a .protected || die "protection was lost"
	read -r raw1 sent1 <<< "$(bytes)"
	[ $((raw1 - raw0)) -gt $((16 << 20)) ] || die "the guest was not busy: $(tail -n 3 "$lab_dir/benchmark.log")"
	rhea_is a '.role == "primary"' || die "the VM moved"
} >&2
row | jq -s . > "$out"
jq -r '.[] | "\(.figure): \(.value) of \(.floor) bytes, ratio \(.ratio * 1000 | round / 1000)  \(.target_is) \(.target): \(if .met then "met" else "NOT MET" end)"' "$out"
