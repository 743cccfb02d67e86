#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What an operator does to a protected Linux guest, and the guest and its client see no more of it than they must.
#   test_lifecycle.sh [STEP...]     default: all, in this order
#   grow           a disk gets larger: the guest's ext4 grows with it
#   suspend        the guest is saved and switched off, and goes on on the other host: no reboot, its clock is right,
#                  a client's connection lives, the disk is as large as it was
#   go_back        to a snapshot with memory: what is in memory and on both disks is of the same moment
#   lose_power     of the host that it runs on: it goes on as it was left, the disk as large as it was
# The agent in the guest answers on TCP; its numbered lines come on one connection all along.
set -euo pipefail
# shellcheck source=tests/lab/disk/store.sh
. "${BASH_SOURCE[0]%/*}/disk/store.sh"
# shellcheck source=tests/lab/disk/guest.sh
. "$lab_tests/disk/guest.sh"

export GUEST_MEMORY=128M
rhead_more="--state-dir /store/state"
store_data=vhd
[ $# -gt 0 ] || set -- grow suspend go_back lose_power

# Where the guest runs, and where its standby is.
one=a other=b

swap_roles() {
	local was=$one
	one=$other other=$was
}

guest_says() {
	guest_run <<< "$1"
}

# Bytes of the second disk, and of the file system on it.
sizes() {
	# shellcheck disable=SC2016 # the guest's shell expands it
	guest_says 'b=/bin/busybox; $b blockdev --getsize64 /dev/vdc
		echo $(($($b stat -f -c "%b * %S" /scratch)))'
}

protected_on() {
	poll=0.2 wait_until 240 rhea_is "$1" '.protected' || die_with "$1" "the guest is not protected on host $1"
}

grow() {
	local before after
	mapfile -t before < <(sizes)
	rhea_ctl $one disk resize $vm scratch 56M > "$lab_dir/resize" 2>&1 || die_with $one "$(cat "$lab_dir/resize")"
	poll=0.2 wait_until 60 larger "${before[0]}" || die_with $one "the guest does not see the new size: $(sizes)"
	guest_says 'resize2fs /dev/vdc' > "$lab_dir/resize2fs" 2>&1
	mapfile -t after < <(sizes)
	[ "${after[0]}" = $((56 << 20)) ] || die "the disk has grown from ${before[0]} to ${after[0]} bytes"
	[ "${after[1]}" -gt $((before[1] + (28 << 20))) ] || die "its file system has not: $(cat "$lab_dir/resize2fs")"
	# With what was there before filled: this is beyond what was the end.
	guest_says '/bin/busybox fallocate -l 20M /scratch/room && /bin/busybox dd if=/dev/zero bs=64K count=16 2>/dev/null |
		/bin/busybox tr "\0" "x" > /scratch/full && /bin/busybox sync && echo written' | grep -q written || die "what is new cannot be written"
	grown=${after[0]}
	say "the guest sees ${after[0]} bytes, and its ext4 ${after[1]}"
}

larger() {
	[ "$(sizes | sed -n 1p)" -gt "$1" ]
}

boot_id() {
	guest_says 'cat /proc/sys/kernel/random/boot_id'
}

# By how many seconds, at least and at most, the guest's clock is before (above 0) that of the host it runs on: the closest
# of some looks, as on a busy machine one takes seconds. While it boots on an emulated processor it loses ticks, so it may be late
# from the beginning; so may the hosts, each by its own, and nobody sets their clocks.
clock_error() {
	local asked there answered took=999 at_least at_most
	for _ in 1 2 3 4 5; do
		asked=$(host_run $one 'date +%s')
		there=$(guest_says '/bin/busybox date +%s')
		answered=$(host_run $one 'date +%s')
		if [ $((answered - asked)) -lt $took ]; then
			took=$((answered - asked)) at_least=$((there - answered)) at_most=$((there - asked))
		fi
		[ $took -gt 1 ] || break
	done
	echo "$at_least $at_most"
}

# Lines with numbers from the guest, on one connection for all of the test.
stream_begin() {
	# shellcheck disable=SC2016 # the guest's shell expands it
	echo 'n=0; while :; do n=$((n + 1)); echo $n; /bin/busybox usleep 200000; done' > "$lab_dir/stream.in"
	: > "$lab_dir/stream"
	lab_spawn stream socat -t 86400 "OPEN:$lab_dir/stream.in,rdonly!!OPEN:$lab_dir/stream,creat,append" \
		"TCP:$guest_ip:$guest_port"
	stream_pid=$spawned
	poll=0.2 wait_until 30 stream_has 3 || die "the guest's lines do not come"
}

stream_ends() {
	kill "$stream_pid" 2>/dev/null || :
}

stream_has() {
	[ "$(wc -l < "$lab_dir/stream")" -ge "$1" ]
}

# It goes on, and no line was lost or came twice.
stream_goes_on() {
	poll=0.2 wait_until 90 stream_has $(($(wc -l < "$lab_dir/stream") + 5)) ||
		die_with $one "the client's connection is dead"
	kill -0 "$stream_pid" || die "the client's connection was closed"
	awk '$1 != NR { exit 1 }' <(head -n -1 "$lab_dir/stream") || die "the client's lines are not in order"
}

are_off() {
	rhea_is a '.state == "off"' && rhea_is b '.state == "off"'
}

# What the guest stood still for longer than a minute its clock is late by (DESIGN.md, "Time in the guest").
clock_right() { # WRONG_BEFORE SECONDS_IT_STOOD_STILL
	local before now late=0
	read -ra before <<< "$1"
	read -ra now <<< "$(clock_error)"
	[ "$2" -le 60 ] || late=$(($2 - 60))
	if [ "${now[1]}" -lt $((before[0] - late - 2)) ] || [ "${now[0]}" -gt $((before[1] + 2)) ]; then
		die "its clock differs from its host's by ${now[*]} s (at least, at most), and did by ${before[*]} s"
	fi
}

disk_is_large() {
	[ -z "${grown:-}" ] || [ "$(sizes | sed -n 1p)" = "$grown" ] || die "its disk is not as large as it was"
	[ -z "${grown:-}" ] || guest_says 'cat /scratch/full | /bin/busybox tr -d x | wc -c' | grep -qx 0 ||
		die "what was written where it has grown is lost"
}

suspend() {
	local boot wrong began
	boot=$(boot_id) wrong=$(clock_error) began=$SECONDS
	step "suspending the guest" rhea_ctl $one vm suspend $vm ||
		die_with $one "that did not go well"
	poll=0.2 wait_until 60 are_off || die "it is not off on both hosts"
	! guest_answers || die "a suspended guest answers"
	step "resuming it on the other host" rhea_ctl $other vm resume $vm ||
		die_with $other "that did not go well"
	began=$((SECONDS - began))
	swap_roles
	poll=0.2 wait_until 90 guest_answers || die_with $one "the guest does not answer"
	[ "$(boot_id)" = "$boot" ] || die "it has booted"
	clock_right "$wrong" $began
	stream_goes_on
	disk_is_large
	protected_on $one
	say "on host $one, it stood still for $began s at most, its client is at line $(tail -n 1 "$lab_dir/stream")"
}

# What is written, and where: in memory, and on both disks.
mark() {
	guest_says "for f in /tmp /data /scratch; do echo $1 > \$f/mark; done; /bin/busybox sync; echo written" | grep -q written
}

marks() {
	guest_says 'cat /tmp/mark /data/mark /scratch/mark' | tr '\n' ' '
}

go_back() {
	local boot wrong began
	mark first
	boot=$(boot_id) wrong=$(clock_error) began=$SECONDS
	rhea_ctl $one snapshot create $vm first --memory > "$lab_dir/snap" 2>&1 ||
		die_with $one "$(cat "$lab_dir/snap")"
	if grep -q WITHOUT "$lab_dir/snap" || ! grep -q 'on both hosts' "$lab_dir/snap"; then
		die "$(cat "$lab_dir/snap")"
	fi
	mark second
	step "taking it back to the snapshot" rhea_ctl $one snapshot revert $vm first --force ||
		die_with $one "that did not go well"
	poll=0.2 wait_until 90 guest_answers || die_with $one "the guest does not answer"
	[ "$(marks)" = "first first first " ] || die "it is not back: $(marks)"
	[ "$(boot_id)" = "$boot" ] || die "it has booted"
	clock_right "$wrong" $((SECONDS - began))
	mark third || die "it cannot write"
	disk_is_large
	protected_on $one
	stream_ends # its client knows more than the guest does now
	stream_begin
}

lose_power() {
	local boot
	boot=$(boot_id)
	host_kill $one
	poll=0.2 wait_until 90 rhea_is $other '.role == "primary" and .running' || die_with $other "host $other does not take over"
	swap_roles
	stream_goes_on
	[ "$(boot_id)" = "$boot" ] || die "it has booted"
	[ "$(marks)" = "third third third " ] || die "what was written is lost: $(marks)"
	disk_is_large
	! guest_says 'dmesg | grep -iE "ext4-fs error|I/O error|kernel panic|BUG:"' | grep . || die "its kernel complains"
}

lab_begin
"$lab_tests/disk-image.sh"
step "making the hosts' disks" stores_make
stores_begin
store_config > "$lab_dir/rhea.conf"
rhea_daemon a
guest_begin
rhea_daemon b
rhea_protect
stream_begin
for phase; do
	"$phase"
	say "$phase: done"
done
