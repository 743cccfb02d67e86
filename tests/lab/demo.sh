#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo: a Linux guest outlives its host, and its client's one connection with it.
#   KILL_AFTER=seconds SEED=number EPOCH_MS=100 TRANSPORT=tcp|rdma|dpdk demo.sh
# Writes build/demo/report.json and timeline.png. Exit status 0 only if nothing acknowledged was
# lost, the connection survived, and the disk read back afterwards is whole and holds it all.
set -euo pipefail
# shellcheck source=tests/lab/rhea.sh
. "${BASH_SOURCE[0]%/*}/rhea.sh"

demo=${DEMO_DIR:-$top/build/demo}
key=counter
after_takeover=${AFTER_TAKEOVER:-4}
seed=${SEED:-$((16#$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')))}
RANDOM=$seed
kill_after=${KILL_AFTER:-$((3 + RANDOM % 8)).$((RANDOM % 10))}
export LAB_KEEP_LOGS=$demo/logs

client_value() {
	jq -r "$1" "$lab_dir/client.json" 2>/dev/null || echo 0
}

start_clients() {
	lab_spawn client "$B/tests/lab/client" "$guest_ip" 6379 $key "$lab_dir/trace" \
		"$lab_dir/client.json"
	client_pid=$spawned
	lab_spawn ping ping -n -D -i 0.2 "$guest_ip"
	ping_pid=$spawned
}

client_counts() {
	[ -s "$lab_dir/client.json" ] && [ "$(client_value .acked_total)" -gt 0 ]
}

# The power cut comes when it wants, not when the loop below happens to look.
cut_power_later() {
	(
		sleep "$kill_after"
		now_ms > "$lab_dir/killed"
		kill -KILL "${host_pid[a]}"
	) &
	lab_pids+=($!)
	disown $!
}

# One line of what HOST's Rhea and the clients see. Keeps the view in $view.
tick() {
	local host=$1 epoch now
	view=$(rhea_vm "$host")
	now=$(now_ms)
	epoch=$(jq -r '.epochs // 0' <<< "${view:-{\}}")
	rate=-
	if [ "${tick_host:-}" = "$host" ] && [ "$epoch" -ge "$tick_epoch" ]; then
		rate=$(((epoch - tick_epoch) * 1000 / (now - tick_ms + 1)))
	fi
	tick_host=$host tick_epoch=$epoch tick_ms=$now
	say "$(printf 'host %s  %-14s epoch %-6s %4s/s   client: %6s acked, worst %6.1f ms   ping: %s' \
		"$host" "$(jq -r '.state // "no answer"' <<< "${view:-{\}}")" "$epoch" "$rate" \
		"$(client_value .acked_total)" "$(client_value '.worst_us / 1000')" \
		"$(grep -c 'bytes from' "$lab_dir/ping.log" || true) answered")"
}

# A view to begin with: an early power cut may come before the first one of the loop.
first_view() {
	before=$(rhea_vm a)
	[ -n "$before" ]
}

watch_until_killed() {
	while [ ! -e "$lab_dir/killed" ]; do
		tick a
		[ -z "$view" ] || before=$view
		sleep 0.5
	done
	killed_ms=$(cat "$lab_dir/killed")
	say "---- host a lost power (SIGKILL for its emulator) ----"
}

watch_takeover() {
	local end=$((killed_ms + 60000)) settled=0 acked
	acked=$(client_value .acked_total)
	while [ "$(now_ms)" -lt $end ]; do
		tick b
		if [ $settled = 0 ] && [ "$(jq '.role == "primary" and .running' <<< "${view:-{\}}")" = true ] &&
			[ "$(client_value .acked_total)" -gt "$((acked + 1))" ]; then
			say "---- host b runs the guest, its client goes on ----"
			settled=1
			end=$(($(now_ms) + after_takeover * 1000))
		fi
		kill -0 "$client_pid" 2>/dev/null || break
		sleep 0.5
	done
	after=${view:-null}
	[ $settled = 1 ] || say "host b did not take over within 60 s"
}

stop_clients() {
	kill -TERM "$client_pid" 2>/dev/null || true
	kill -INT "$ping_pid" 2>/dev/null || true
	wait_until 30 is_gone "$client_pid" || die "the client does not end"
	wait_until 5 is_gone "$ping_pid" || true
}

is_gone() {
	! kill -0 "$1" 2>/dev/null
}

# What the guest left on host b's disk. Sets fsck and on_disk.
read_back_disk() {
	fsck=failed on_disk=0
	step "stopping the guest by its power button" rhea_stop_guest b || return 0
	step "switching host b off" host_off b || return 0
	if step "checking the guest's file system" e2fsck -fn "$lab_dir/b.raw"; then
		fsck=clean
	fi
	on_disk=$(disk_counter "$lab_dir/b.raw" $key)
}

rhea_begin
say "hosts a and b are up, the arbiter is etcd on the clients' network"
rhea_daemon a
rhea_boot_guest
# The standby comes to a guest that runs: its first sync is part of what is shown, and a boot dirties
# so much that it would take minutes here with a checkpoint every 100 ms.
rhea_daemon b
rhea_await_redis
rhea_protect
poll=0.2 wait_until 60 first_view || die "rhead on host a does not answer"
start_clients
poll=0.2 wait_until 60 client_counts || die "the client gets no answer: $(cat "$lab_dir/client.log")"
say "power cut in $kill_after s (SEED=$seed)"
cut_power_later
watch_until_killed
watch_takeover
stop_clients
read_back_disk
mkdir -p "$demo"
cp "$lab_dir/trace" "$demo/trace"
jq -n --argjson before "$before" --argjson after "$after" --slurpfile client "$lab_dir/client.json" \
	--arg fsck "$fsck" --argjson on_disk "$on_disk" --argjson seed "$seed" \
	--argjson killed_ms "$killed_ms" --argjson kill_after "$kill_after" \
	--arg ping "$(sed -n 's/.*rtt.*//; s/ packets transmitted.*//p' "$lab_dir/ping.log" | tail -n 1)" \
	--arg pong "$(grep -c 'bytes from' "$lab_dir/ping.log" || true)" \
	'{before: $before, after: $after, client: $client[0], fsck: $fsck, on_disk: $on_disk,
	  seed: $seed, killed_ms: $killed_ms, kill_after_s: $kill_after,
	  ping_sent: ($ping | tonumber? // 0), ping_answered: ($pong | tonumber)}' > "$lab_dir/facts.json"
"$lab_tests/demo-report.sh" "$demo" "$lab_dir/facts.json"
