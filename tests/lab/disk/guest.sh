# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154 # rhea.sh has the paths
# What the small guest of disk-image.sh does, from outside.
#
#   guest_run < SCRIPT        its shell runs it; output as it comes; a minute at most ($guest_patience)
#   guest_begin               VM started on host A until its shell answers
#   ledger_begin, heard       numbered records on both its disks; the last number that was heard of
#   fio_begin, fio_ends       fio writes and verifies on its second disk; whether it found all it wrote
#   database_begin            PostgreSQL on its first disk, until it answers
#   bench_begin SECONDS       pgbench outside, on connections that outlive the guest's host
#   bench_ends                until it is done; its words in $lab_dir/bench.log
#   database_adds_up          what the database holds is what the client was told, all of it and once

ledger_port=7100
pg_bin=/usr/lib/postgresql/15/bin

guest_run() {
	lab_in timeout "${guest_patience:-60}" socat -t 86400 - "TCP:$guest_ip:$guest_port,keepalive"
}

guest_answers() {
	[ "$(guest_patience=5 guest_run <<< 'echo up' 2>/dev/null)" = up ]
}

# "guest_does NAME COMMAND": in the background, its output in the guest's /tmp/NAME.
guest_does() {
	local name=$1
	shift
	guest_run <<< "setsid sh -c '$*; echo status \$?' > /tmp/$name 2>&1 < /dev/null &"
}

guest_begin() {
	rhea_ctl a vm start "$vm" > "$lab_dir/start.log" || die_with a "the VM does not start"
	host_spawn a console "script -qfc '$B/rheactl vm console $vm' /dev/null"
	poll=0.5 step "booting the guest" wait_until 180 guest_answers ||
		die_with a "the guest does not answer: $(tail -n 5 "$lab_dir/a/console.log")"
}

ledger_begin() {
	lab_spawn heard socat -u "UDP-RECV:$ledger_port" -
	guest_does ledger ledger run /data/ledger /scratch/ledger "$client_ip" "$ledger_port"
	poll=0.2 wait_until 60 heard_of 1 || die "the guest's ledger says nothing: $(guest_run <<< 'cat /tmp/ledger')"
}

# The last whole line.
heard() {
	local n
	n=$(tail -n 1 "$lab_dir/heard.log" 2>/dev/null)
	echo "${n:-0}"
}

heard_of() {
	[ "$(heard)" -ge "$1" ]
}

# goes_on COUNT: so many records more are heard of.
goes_on() {
	poll=0.2 wait_until "${2:-60}" heard_of $(($(heard) + $1))
}

fio_begin() {
	guest_does fio fio --name=verify --filename=/scratch/fio --rw=randwrite --bs=4k --size=2M --fsync=16 --rate_iops=50 \
		--verify=crc32c --verify_fatal=1 --loops=10000 --minimal
}

# It still runs and has said nothing; or what it said.
fio_is_well() {
	guest_run <<< 'cat /tmp/fio; pidof fio > /dev/null && echo runs' | tee "$lab_dir/fio.log" | grep -qx runs
}

pg_query() {
	lab_in chroot "$disk_image/tree" "$pg_bin/psql" -h "$guest_ip" -U postgres -At -F ' ' -c "$1" postgres
}

database_answers() {
	[ "$(PGCONNECT_TIMEOUT=5 pg_query 'select 1' 2>/dev/null)" = 1 ]
}

database_begin() {
	guest_does db su -s /bin/sh postgres -c "\"postgres -D /data/pg/db\""
	poll=0.5 step "starting PostgreSQL" wait_until 90 database_answers ||
		die "PostgreSQL does not answer: $(guest_run <<< 'cat /tmp/db')"
}

# Its connections must outlive the takeover: one that breaks is a failure that it tells.
bench_begin() {
	lab_spawn bench chroot "$disk_image/tree" "$pg_bin/pgbench" -h "$guest_ip" -U postgres -n -c 2 -T "$1" -P 1 postgres
	bench_pid=$spawned
}

bench_is_over() {
	! kill -0 "$bench_pid" 2>/dev/null
}

# Some of its transactions were answered.
bench_at_work() {
	grep -Eq '^progress: .* [0-9.]*[1-9][0-9.]* tps' "$lab_dir/bench.log"
}

bench_ends() {
	poll=0.5 wait_until 180 bench_is_over || die "pgbench does not end: $(tail -n 3 "$lab_dir/bench.log")"
	grep -q '^number of failed transactions: 0 ' "$lab_dir/bench.log" || die "pgbench: $(tail -n 5 "$lab_dir/bench.log")"
}

# A transaction that was answered is in the history, each once; and all sums are of the same transactions.
database_adds_up() {
	local told sums
	told=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$lab_dir/bench.log")
	sums=$(pg_query "select count(*), coalesce(sum(delta), 0),
		(select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
		(select sum(bbalance) from pgbench_branches) from pgbench_history")
	echo "pgbench was told of ${told:-none}; transactions, and the four sums: $sums"
	awk -v told="${told:--1}" '{ exit !(told > 0 && $1 == told && $2 == $3 && $3 == $4 && $4 == $5) }' <<< "$sums"
}
