#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Linux guest's disks through power cuts and disks that fail, on either host.
#   test_disk.sh [long] [PHASE...]     KEEP_CUTS=DIR keeps the logs for disk/cuts.sh
# One pair, one guest on two ext4 (a raw image and a VHD). A ledger and fio write, and all that reaches either host's
# disk is logged. Then those of the following that are named; without a name the first and the last, which is what there is time for in
# a run of all tests; "long": all, and more of each.
#   standby_loses_power   its journal brings its images to an epoch, and only what differs comes after it
#   standby_forgets       its disk says "written" and is not: what is lost is found, and mended
#   standby_fails         its disk fails: the guest goes on, the operator is told, and with a disk that works all is as before
#   primary_fails         its disk fails: the other host goes on, the guest sees no error
#   primary_loses_power   under pgbench: the other host goes on, and the clients' connections
#   afterwards            both hosts' power is cut at many points of those logs (disk/cuts.sh)
set -euo pipefail
# shellcheck source=tests/lab/disk/store.sh
. "${BASH_SOURCE[0]%/*}/disk/store.sh"
# shellcheck source=tests/lab/disk/guest.sh
. "$lab_tests/disk/guest.sh"

export GUEST_MEMORY=160M
rhead_more="--state-dir /store/state"
points=3 log_seconds=6 bench_seconds=60
if [ "${1:-}" = long ]; then
	points=60 log_seconds=40
	shift
	[ $# -gt 0 ] || set -- standby_loses_power standby_forgets standby_fails primary_fails primary_loses_power afterwards
fi
[ $# -gt 0 ] || set -- standby_loses_power afterwards

# Where the guest runs, and where its standby is.
one=a other=b

swap_roles() {
	local was=$one
	one=$other other=$was
}

durable() {
	rhea_vm $one | jq '.durable.epoch // 0'
}

# Whether there are enough marks in both logs, and flushes between them.
logs_suffice() {
	local host
	[ $marks -gt $((points * 2)) ] || return
	for host in a b; do
		[ "$("$B/tests/lab/replaylog" flushes "$lab_dir/$host.log-writes" marked | wc -l)" -gt $((points * 2)) ] || return
	done
}

# What a client was told, and what the standby said to be durable, into both hosts' logs of writes, behind what made it so.
note_marks() {
	local begin=$SECONDS marks=0 n
	until [ $((SECONDS - begin)) -ge $log_seconds ] && logs_suffice; do
		[ $((SECONDS - begin)) -lt $((log_seconds + 180)) ] || die_with b "too little is written and flushed"
		n=$(heard)
		store_mark a "heard=$n"
		n=$(durable)
		store_mark b "durable=$n"
		[ "$n" = 0 ] || marks=$((marks + 1))
	done
}

# What came to either host's disk so far, beside what the disk was.
keep_logs() {
	local host
	mkdir "$lab_dir/cuts"
	for host in a b; do
		cp --sparse=always "$lab_dir/$host.log-writes" "$lab_dir/cuts/"
		mv "$lab_dir/$host.begin" "$lab_dir/cuts/"
	done
	[ -z "${KEEP_CUTS:-}" ] || cp -a --sparse=always "$lab_dir/cuts" "$KEEP_CUTS"
}

# compare_images [--repair]: of both hosts, while the guest writes; the standby's are mended.
compare_images() {
	rhea_ctl $one --json disk verify "$vm" "${1:-}" > "$lab_dir/verify" 2>&1
}

# verified FILTER: what the last comparison said.
verified() {
	[ "$(jq "$1" "$lab_dir/verify")" = true ]
}

images_equal() {
	compare_images "" && verified '.differ == 0 and .chunks > 0'
}

# A power cut of the standby, and what it is after that.
standby_again() {
	host_kill $other
	poll=0.2 wait_until 60 rhea_is $one '.state == "running-alone"' || die_with $one "the guest is not alone"
	goes_on 3 || die_with $one "the guest does not go on alone"
	step "switching the standby on again" store_again $other
	rhea_daemon $other
	poll=0.2 wait_until 240 rhea_is $one '.protected' || die_with $one "the guest is not protected again"
	say "protected again: $(rhea_vm $one | jq -c '.disk_sync | {partial, why, look_bytes, sent_bytes}')"
	step "comparing both hosts' images" images_equal || die_with $one "they differ: $(cat "$lab_dir/verify")"
}

standby_loses_power() {
	standby_again
	grep -q 'recovered to the end of epoch' "$lab_dir/$other/rhead.log" ||
		die_with $other "its journal was not replayed"
	rhea_is $one '.disk_sync.partial and .disk_sync.look_bytes < 64 * 1048576' ||
		die_with $one "more was compared than either host has written"
}

# A disk that says "written" and forgets: only who looks finds it.
standby_forgets() {
	store_fails $other drop_writes
	goes_on 10 || die_with $one "the guest does not go on"
	store_fails $other ""
	host_run $other 'echo 3 > /proc/sys/vm/drop_caches'
	step "finding and mending what the standby's disk forgot" compare_images --repair ||
		die_with $one "it is not mended: $(cat "$lab_dir/verify")"
	verified '.differ > 0 and .repaired == .differ' || die_with $one "nothing was found: $(cat "$lab_dir/verify")"
	say "$(jq -c '{differ, repaired}' "$lab_dir/verify") chunks"
	step "comparing again" images_equal || die_with $one "they still differ: $(cat "$lab_dir/verify")"
}

# told HOST: the host that runs the guest says that it alone has all, HOST why.
told() {
	rhea_is $one "(.protected | not) and .safe_to_lose.$one.safe == false" &&
		grep -qE '(err|warn) .*(disk|journal|image).*fail' "$lab_dir/$1/rhead.log"
}

# await_told HOST: of which a disk has failed.
await_told() {
	poll=0.5 wait_until 60 told "$1" || die_with "$1" "nobody is told that the disk of host $1 has failed"
	say "told: $(grep -E '(err|warn) .*(disk|journal|image).*fail' "$lab_dir/$1/rhead.log" | head -n 1 | cut -d' ' -f3-)"
}

# An error of the standby's is none of the guest's.
standby_fails() {
	store_fails $other error_writes
	goes_on 10 || die_with $one "the guest does not go on"
	await_told $other
	standby_again
}

taken_over() {
	poll=0.2 wait_until 90 rhea_is $other '.role == "primary" and .running' ||
		die_with $other "host $other does not take over"
	swap_roles
	goes_on 10 || die_with $one "the guest does not go on"
	fio_is_well || die_with $one "fio: $(cat "$lab_dir/fio.log")"
}

# Nor one of the primary's, as long as there is a good side.
primary_fails() {
	store_fails $one error_writes
	taken_over
	await_told $other
	standby_again
}

primary_loses_power() {
	bench_begin $bench_seconds
	poll=0.2 wait_until 180 bench_at_work || die "pgbench does nothing: $(cat "$lab_dir/bench.log")"
	host_kill $one
	say "---- host $one lost power ----"
	taken_over
	bench_ends
	database_adds_up || die_with $one "the database does not add up"
}

# The host that the guest is on goes last, and its disk must have all that was heard of.
afterwards() {
	heard > "$lab_dir/cuts/heard"
	host_kill $other
	host_kill $one
	mv "$lab_dir/$one.store" "$lab_dir/cuts/end"
	"$lab_tests/disk/cuts.sh" "$lab_dir/cuts" $points
}

lab_begin
"$lab_tests/disk-image.sh"
step "making the hosts' disks" stores_make
stores_begin
say "hosts a and b are up"
store_config > "$lab_dir/rhea.conf"
rhea_daemon a
guest_begin
# Not later: what a guest does while its dirty pages are counted takes far longer here.
[[ " $* " != *" primary_loses_power "* ]] || database_begin
rhea_daemon b
rhea_protect
ledger_begin
fio_begin
note_marks
keep_logs
say "the guest's ledger is at $(heard), epoch $(durable) is durable"
for phase; do
	"$phase"
	say "$phase: done, the ledger is at $(heard)"
done
