#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cuts the power of two hosts afterwards, at many moments of what dm-log-writes saw of their disks.
#   cuts.sh DIR POINTS [SEED]
# DIR has a.begin and b.begin, the hosts' stores before, and a.log-writes and b.log-writes, what came then; a was the
# primary of a guest with tests/lab/disk/ledger on both its disks, b its standby. At each point the store is made as a
# disk may have it that lost its power there: all that was flushed, and any of what came after. Then, as a host
# that boots: its ext4 replays its journal, ours is replayed onto the images, and these must be
#   standby   of one epoch: two cuts that end at one epoch have the same bytes; not an epoch before what was told to be
#             durable ("durable=N" in the log of writes); whole from the first one on
#   primary   what the guest had flushed: no record is missing that a client heard of ("heard=N"); and what differs
#             from the standby's images of the epoch that its activity log claims is marked there
#   both      file systems that their own journals mend, a VHD that checks clean, ledgers without a gap
# DIR may also have "end", the store of the host that the guest was on last, whose power was cut when its ledger had been
# heard of up to the number in "heard": the same as of a primary.
set -euo pipefail
# shellcheck source=tests/lab/lib.sh
. "${BASH_SOURCE[0]%/*}/../lib.sh"

dir=$1 points=$2
RANDOM=${3:-1}
vm=guest
tools=$B/tests/lab
ledger=$lab_cache/disk/tree/bin/ledger
work=$(mktemp -d "$dir/cuts.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$dir/known"

# mend FILE: as the boot of a machine would; more than its journal and it fails.
mend() {
	local status=0
	e2fsck -fp "$1" > "$1.fsck" 2>&1 || status=$?
	[ $status -le 1 ] || { cat "$1.fsck"; return 1; }
	# What -p has mended may only be what a journal leaves: counts, and orphans of files that were deleted.
	e2fsck -fn "$1" > "$1.fsck" 2>&1 || { cat "$1.fsck"; return 1; }
}

# take_out STORE TO: the files of a host's store.
take_out() {
	mkdir -p "$2"
	ln -sf "$lab_cache/disk/root.raw" "$2/root.raw"
	debugfs -R "dump /data.raw $2/data.raw" "$1" 2>/dev/null
	debugfs -R "dump /scratch.vhd $2/scratch.vhd" "$1" 2>/dev/null
	debugfs -R "dump /state/$vm.journal $2/$vm.journal" "$1" 2>/dev/null
	debugfs -R "dump /state/$vm.activity $2/$vm.activity" "$1" 2>/dev/null
	# What the host has not made yet is not there.
	find "$2" -empty -name "$vm.*" -delete
}

# ledger_in IMAGE: the last record of its ledger; 0 before there is one.
ledger_in() {
	debugfs -R "dump /ledger $1.ledger" "$1" 2>/dev/null
	[ -s "$1.ledger" ] || { echo 0; return; }
	"$ledger" check "$1.ledger" || { echo "the ledger in $1 has a gap" >&2; return 1; }
}

# Sets data_n and scratch_n from the guest's disks in DIR.
look_at_guest() {
	"$B/rheactl" image check "$1/scratch.vhd" > "$1/check" 2>&1 || { cat "$1/check"; return 1; }
	"$B/rheactl" image convert "$1/scratch.vhd" "$1/scratch.raw" > "$1/check" 2>&1 || { cat "$1/check"; return 1; }
	mend "$1/data.raw" || return
	mend "$1/scratch.raw" || return
	data_n=$(ledger_in "$1/data.raw") || return
	scratch_n=$(ledger_in "$1/scratch.raw") || return
	if [ "$data_n" -lt "$scratch_n" ] || [ "$data_n" -gt $((scratch_n + 1)) ]; then
		echo "the ledgers are at $data_n and $scratch_n: not one moment"
		return 1
	fi
}

# marked HOST KEY BEFORE: the last number of such a mark before an entry of the log.
marked() {
	awk -v key="$2=" -v before="$3" '$1 < before && index($5, key) == 1 { n = substr($5, length(key) + 1) }
		END { print n + 0 }' "$work/$1.list"
}

# at HOST FROM TO SEED NAME: $work/NAME, the store after entry FROM - 1, with some of those before TO.
at() {
	cp --sparse=always "$work/$1.now" "$work/$5.store"
	"$tools/replaylog" tear "$dir/$1.log-writes" "$work/$5.store" "$2" "$3" "$4" || return
	mend "$work/$5.store" && take_out "$work/$5.store" "$work/$5"
}

# recover NAME [EPOCH]: the standby's journal, into its images. Sets epoch; -1: the images are nobody's, and why is in found.
recover() {
	local at
	rm -f "$work/$1.digests" # of before: it may have a second name by now
	found=$("$tools/cutcheck" standby $vm "$work/$1" "$work/$1.digests" ${2:+"$2"}) || return
	epoch=-1
	[ "$(jq '.state == "live" and .whole == 1' <<< "$found")" = true ] || return 0
	epoch=$(jq .epoch <<< "$found")
	at=$dir/known/$(jq -r '"\(.base).\(.epoch)"' <<< "$found")
	# Others may be here, too: who is first has made the file as a whole.
	ln "$work/$1.digests" "$at" 2>/dev/null || cmp "$work/$1.digests" "$at" ||
		{ echo "epoch $epoch is not what it was"; return 1; }
}

# The point NAME of the standby, at entry FROM.
check_standby() {
	local name=$1 told
	told=$(marked b durable "$2")
	recover "$name" || return
	[ "$epoch" -ge "$told" ] || [ "$told" = 0 ] || { echo "epoch $told was durable: $found"; return 1; }
	if [ "$epoch" -lt 0 ]; then
		echo "$found"
		return
	fi
	look_at_guest "$work/$name" || return
	echo "$(jq -c '{epoch, epochs, bytes}' <<< "$found") durable $told, ledger $data_n $scratch_n"
}

# flushed N NAME: the standby's store as its Nth flush has left it, taken out as NAME.
flushed() {
	rm -rf "${work:?}/$2"
	cp --sparse=always "$dir/b.begin" "$work/$2.store"
	"$tools/replaylog" apply "$dir/b.log-writes" "$work/$2.store" 0 "$1" || return
	mend "$work/$2.store" && take_out "$work/$2.store" "$work/$2"
}

# find_epoch EPOCH: the standby's images as of EPOCH become known: out of the first flush with which it comes back
# there, or later; then its batch is cut short behind EPOCH.
find_epoch() {
	local all low=0 high middle name=find.$BASHPID
	mapfile -t all < <("$tools/replaylog" flushes "$dir/b.log-writes")
	high=${#all[@]}
	while [ "$low" -lt "$high" ]; do
		middle=$(((low + high) / 2))
		flushed "${all[middle]}" "$name" && recover "$name" || return
		if [ "$epoch" -lt "$1" ]; then
			low=$((middle + 1))
		else
			high=$middle
		fi
	done
	[ "$low" -lt ${#all[@]} ] || { echo "the standby was never at epoch $1"; return 1; }
	flushed "${all[low]}" "$name" && recover "$name" "$1" || return
	rm -rf "${work:?}/$name" "$work/$name".*
	[ "$epoch" = "$1" ] || { echo "epoch $1 cannot be made: $found"; return 1; }
}

check_primary() {
	local name=$1 from=$2 told said claim
	told=$(marked a heard "$from")
	claim=$("$tools/cutcheck" primary $vm "$work/$name") || return
	if [ "$(jq .role <<< "$claim")" != 0 ]; then
		claim=$(jq -r '"\(.base) \(.epoch)"' <<< "$claim")
		(
			flock 9
			# Of a later link the log says nothing.
			[ -e "$dir/known/${claim/ /.}" ] || ! compgen -G "$dir/known/${claim% *}.*" > /dev/null ||
				find_epoch "${claim#* }"
		) 9> "$work/finding" || return
	fi
	said=$("$tools/cutcheck" primary $vm "$work/$name" "$dir"/known/*) || return
	[ "$(jq '.unmarked == 0' <<< "$said")" = true ] || { echo "changed and not marked: $said"; return 1; }
	# Before the guest has run there may be no log yet.
	[ "$told" = 0 ] || [ "$(jq .believed <<< "$said")" = 1 ] || { echo "no activity log: $said"; return 1; }
	look_at_guest "$work/$name" || return
	[ "$scratch_n" -ge "$told" ] || { echo "record $told was heard of, and $scratch_n is the last one"; return 1; }
	echo "$(jq -c '{epoch, marked, compared, differ}' <<< "$said") heard $told, ledger $data_n $scratch_n"
}

# point HOST FROM TO SEED: one cut, looked at.
point() {
	local name=$1.$2.$4 log=$work/$1.$2.$4.log status=ok
	{ at "$1" "$2" "$3" "$4" "$name" && "check_$([ "$1" = a ] && echo primary || echo standby)" "$name" "$2"; } \
		> "$log" 2>&1 || status=BAD
	[ $status = ok ] || touch "$work/bad"
	echo "$1 cut at $2 to $3: $status: $(cat "$log")"
	rm -rf "${work:?}/$name" "$work/$name".*
}

# flush_after HOST ENTRY: the number behind the next flush, be there marks behind it or not; of all entries if there is none. What
# comes after a flush may only be there in part until then.
flush_after() {
	{ "$tools/replaylog" flushes "$dir/$1.log-writes" && wc -l < "$work/$1.list"; } | awk -v at="$2" '!found && $1 > at { print; found = 1 }'
}

# cut HOST: $points flushes of it, evenly, each once as it ended and once with some of what came before the next one.
cut() {
	local host=$1 now=0 all i n next
	"$tools/replaylog" list "$dir/$host.log-writes" > "$work/$host.list"
	cp --sparse=always "$dir/$host.begin" "$work/$host.now"
	mapfile -t all < <("$tools/replaylog" flushes "$dir/$host.log-writes" marked)
	# Marks that say nothing would prove nothing.
	grep -Eq '=[1-9]' "$work/$host.list" || die "no mark in the log of host $host says anything"
	[ ${#all[@]} -gt "$points" ] || die "the log of host $host has only ${#all[@]} flushes while marks were made"
	echo "host $host: $(wc -l < "$work/$host.list") entries, ${#all[@]} flushes while marks were made"
	for ((i = 0; i < points; i++)); do
		n=$((${#all[@]} - 1 - (points - 1 - i) * ${#all[@]} / points))
		next=$(flush_after "$host" "${all[n]}")
		"$tools/replaylog" apply "$dir/$host.log-writes" "$work/$host.now" "$now" "${all[n]}"
		now=${all[n]}
		point "$host" "$now" "$now" 0 &
		point "$host" "$now" "$next" "$RANDOM" &
		wait
	done
}

# Nothing is undone here: this host's guest wrote to its images.
look_at_end() {
	mend "$dir/end" || return
	take_out "$dir/end" "$work/end"
	look_at_guest "$work/end" || return
	[ "$scratch_n" -ge "$(cat "$dir/heard")" ] || { echo "record $(cat "$dir/heard") was heard of"; return 1; }
	echo "the guest's last host: heard $(cat "$dir/heard"), ledger $data_n $scratch_n"
}

[ ! -e "$dir/end" ] || look_at_end || die "the guest's last host has lost something"
cut b
cut a
[ ! -e "$work/bad" ] || die "a power cut would have done harm"
