#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# disk.sh - what protection costs a guest's disk, what VHD images do, what a resync moves, and what the journal
# and the activity log cost.
#   disk.sh [SECONDS a turn] [TURNS]      table on stdout, build/bench/disk.json
# RHEA_BENCH_ONLY="disk resync" runs only what is named (disk vhd resync journal lab). The files are in
# build/bench: what reaches stable storage reaches it there, on both sides the same disk.
set -euo pipefail
out=${B:-build/out}
dir=build/bench
mkdir -p $dir
parts=()

# part NAME COMMAND...: COMMAND writes the rows to $dir/disk-NAME.part.json
part() {
	local name=$1
	shift
	case ${RHEA_BENCH_ONLY:-$name} in
	*"$name"*)
		"$@"
		parts+=("$dir/disk-$name.part.json")
		;;
	esac
}

rm -f $dir/disk-*.part.json
part disk "$out/tests/bench/bench_disk" "$out/tests/guest/guest.elf" \
	$dir/disk-disk.part.json "$@"
part vhd "$out/tests/bench/bench_vhd" "$out/tests/guest/guest.elf" \
	$dir/disk-vhd.part.json "$@"
part resync "$out/tests/bench/bench_resync" $dir $dir/disk-resync.part.json
part journal "$out/tests/bench/bench_journal" $dir $dir/disk-journal.part.json
part lab tests/lab/bench_fio.sh $dir/disk-lab.part.json "$@"
[ ${#parts[@]} -gt 0 ] || { echo "nothing is called ${RHEA_BENCH_ONLY:-}" >&2; exit 2; }
jq -s add "${parts[@]}" > $dir/disk.json
rm -f "${parts[@]}"
echo "$(jq '[.[] | select(.met == true)] | length' $dir/disk.json) of \
$(jq '[.[] | select(has("met"))] | length' $dir/disk.json) targets met; written: $dir/disk.json"
