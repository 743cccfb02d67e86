#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What protection at 25 ms leaves of a Linux guest's disk, as fio in it sees: rows in the form of tests/bench/kit.h.
#   bench_fio.sh OUT.json [SECONDS a turn] [TURNS]
# Two emulated hosts: each first write to a page costs such a guest some hundred times what it costs on
# hardware, all that protection computes is emulated as well, and both hosts share this machine's processors. So the
# ratio says what is left here, and not what hardware leaves; bench_disk tells more of that. Turns alone and
# turns protected alternate; for a turn alone the standby's rhead is ended.
set -euo pipefail
export EPOCH_MS=25 GUEST_MEMORY=160M
# shellcheck source=tests/lab/disk/store.sh
. "${BASH_SOURCE[0]%/*}/disk/store.sh"
# shellcheck source=tests/lab/disk/guest.sh
. "$lab_tests/disk/guest.sh"

out=$1 seconds=${2:-10} turns=${3:-2}
rhead_more="--state-dir /store/state"
target=0.9
declare -A kinds=([4K]="--rw=randwrite --bs=4k" [64K]="--rw=randwrite --bs=64k")

# turn KIND HOW: bytes a second of one run of fio, as a line of $lab_dir/KIND.HOW
turn() {
	local words=${kinds[$1]}
	guest_patience=$((seconds * 4 + 120)) guest_run > "$lab_dir/fio.json" <<-S
		fio --name=bench --filename=/scratch/bench --size=12M --direct=1 --ioengine=libaio --iodepth=16 $words \
			--time_based=1 --runtime=$seconds --output-format=json
	S
	jq -e '.jobs[0].write.bw_bytes | select(. > 0)' "$lab_dir/fio.json" >> "$lab_dir/$1.$2"
}

each_kind() {
	local kind
	for kind in "${!kinds[@]}"; do
		step "fio, $kind, $1" turn "$kind" "$1" || die "fio: $(tail -c 500 "$lab_dir/fio.json")"
	done
}

standby_leaves() {
	host_run b "kill -KILL \$(cat /lab/rhead.pid) \$(cat /lab/view.pid)"
	poll=0.2 wait_until 60 rhea_is a '.state == "running-alone"' || die_with a "the guest is not alone"
}

# row KIND: medians of its turns, and their spread.
row() {
	jq -nc --arg kind "$1" --argjson target $target --slurpfile v "$lab_dir/$1.protected" --slurpfile f "$lab_dir/$1.alone" '
		def med: sort | if length % 2 == 1 then .[length / 2 | floor]
			else (.[length / 2 - 1] + .[length / 2]) / 2 end;
		{figure: "lab: fio in a Linux guest, random \($kind) writes", value: ($v | med), unit: "bytes/s", spread: ($v | [min, max]),
		 turns: ($v | length), floor: ($f | med), floor_spread: ($f | [min, max]), ratio: (($v | med) / ($f | med)), target: $target,
		 target_is: "ratio >=", met: (($v | med) / ($f | med) >= $target)}'
}

{
	lab_begin
	"$lab_tests/disk-image.sh"
	step "making the hosts' disks" stores_make
	stores_begin
	store_config > "$lab_dir/rhea.conf"
	rhea_daemon a
	guest_begin
	for ((i = 0; i < turns; i++)); do
		[ $i = 0 ] || standby_leaves
		each_kind alone
		rhea_daemon b
		rhea_protect
		each_kind protected
	done
} >&2
for kind in 4K 64K; do
	row $kind
done | jq -s . > "$out"
jq -r '.[] | "\(.figure): \(.value / 1048576 * 100 | round / 100) MiB/s of \(.floor / 1048576 * 100 | round / 100), ratio \(.ratio * 100 | round / 100)  \(.target_is) \(.target): \(if .met then "met" else "NOT MET" end) (emulated hosts)"' "$out"
