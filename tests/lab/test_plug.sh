#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A protected guest behind real vhost-net and sch_plug: frames of all kinds wait for the ack.
#
# The guest says numbers in IPv4, IPv6, ARP and VLAN frames; a listener on the clients' network hears
# them. When the pair's wire is cut, so that no ack comes, nothing more may be heard of any kind while the
# guest goes on talking. Then its process is killed: what was held must not get out by that, and
# what the standby says continues where the last ack was, so no number is ever heard twice.
set -euo pipefail
# shellcheck source=tests/lab/rhea.sh
. "${BASH_SOURCE[0]%/*}/rhea.sh"

export GUEST_MEMORY=96M
kinds=(ipv4 ipv6 arp vlan)
enough=40 # numbers more, to be sure that the guest talks

# The guest's kernel with its drivers and tests/lab/plug/chatter.c, and nothing else.
make_initrd() {
	local work=$1 image=$lab_cache/guest/disk.raw modules file
	mkdir -p "$work"/{mods,dev}
	modules=$(debugfs -R 'ls -p /usr/lib/modules' "$image" 2>/dev/null |
		awk -F/ '$6 ~ /amd64$/ { print "/usr/lib/modules/" $6 "/kernel" }')
	for file in drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev \
		drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci net/core/failover \
		drivers/net/net_failover drivers/net/virtio_net; do
		debugfs -R "dump $modules/$file.ko $work/mods/${file##*/}.ko" "$image" 2>/dev/null
		[ -s "$work/mods/${file##*/}.ko" ] || return
		echo "${file##*/}.ko" >> "$work/mods/list"
	done
	gcc -std=gnu17 -O2 -Wall -static -D_GNU_SOURCE -I"$top" "$lab_tests/plug/chatter.c" -o "$work/init"
	mknod "$work/dev/console" c 5 1
	(cd "$work" && find . | cpio -o -H newc | gzip -1) > "$lab_dir/initrd"
}

plug_config() {
	rhea_config | sed -e "s|initrd = \"[^\"]*\"|initrd = \"$lab_dir/initrd\"|" \
		-e '/disks = /d' -e 's|bridge = "br0";|& vhost = true;|'
}

plug_hosts() {
	local host
	host_start a
	host_start b
	rhea_etcd
	plug_config > "$lab_dir/rhea.conf"
	for host in a b; do
		host_wait $host
		host_run $host 'modprobe -a vhost_net ifb sch_plug sch_ingress cls_matchall act_mirred'
	done
}

heard() {
	jq ".$1" "$lab_dir/heard.json"
}

heard_all() {
	local kind
	for kind in "${kinds[@]}"; do
		printf '%s=%s ' "$kind" "$(heard "$kind")"
	done
}

# heard_more COUNTS: whether of each kind $enough more were heard than COUNTS, in the order of kinds.
heard_more() {
	local kind i=0 before=("$@")
	for kind in "${kinds[@]}"; do
		[ "$(heard "$kind")" -ge $((before[i++] + enough)) ] || return
	done
}

counts() {
	local kind
	for kind in "${kinds[@]}"; do
		heard "$kind"
	done
}

held_frames() {
	rhea_vm a | jq '.plug.held_frames // 0'
}

holds() {
	[ "$(held_frames)" -ge "$1" ]
}

lab_begin
"$lab_tests/guest-image.sh"
step "making a guest that only talks" make_initrd "$lab_dir/initrd.d"
step "switching two hosts on" plug_hosts
lab_spawn listener "$B/tests/lab/listener" client "$lab_dir/heard.json"
rhea_daemon a
rhea_daemon b
rhea_ctl a vm start $vm > "$lab_dir/start.log" || die_with a "the VM does not start"
poll=0.2 step "booting it and protecting it" wait_until 120 rhea_is a '.protected' ||
	die_with a "the guest is not protected"
mapfile -t before < <(counts)
poll=0.1 step "hearing all kinds of frames" wait_until 120 heard_more "${before[@]}" ||
	die_with a "not all kinds of frames are heard: $(heard_all)"
# What vhost's stop and start and the plug cost an epoch.
rhea_ctl a stats $vm | jq -c '.primary | {stop_us, resume_us, hold_us: .capture_part_us.netbuf} | map_values({p50, p99})'

# No ack from here on; what was on its way has arrived when the guest has said much more.
lab_in ip link set a-repl down
held=$(held_frames)
poll=0.1 wait_until 60 holds $((held + 4 * enough)) || die_with a "nothing is held: $(rhea_vm a)"
mapfile -t before < <(counts)
held=$(held_frames)
poll=0.1 wait_until 60 holds $((held + 4 * enough)) || die_with a "the guest talks no more"
mapfile -t after < <(counts)
[ "${before[*]}" = "${after[*]}" ] || die_with a "heard without an ack: ${before[*]}, then ${after[*]}"
say "no ack: $(held_frames) frames are held, none of ${kinds[*]} was heard"

host_run a "kill -KILL $(rhea_vm a | jq .pid)"
poll=0.2 step "the standby takes over" wait_until 60 rhea_is b '.role == "primary" and .running' ||
	die_with b "host b does not run the guest"
poll=0.1 wait_until 30 heard_more "${after[@]}" ||
	die_with b "the guest is not heard from host b: $(heard_all)"
[ "$(heard again)" = 0 ] || die_with b "$(heard again) numbers were heard twice: $(cat "$lab_dir/heard.json")"
say "heard in all: $(heard_all)"
