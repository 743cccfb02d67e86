#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The dpdk transport on network cards of its own: virtio and e1000 under DPDK's drivers, through
# uio_pci_generic, with huge pages, as rhea-vm has it.
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

slot_virtio=0000:00:10.0 slot_e1000=0000:00:11.0

# cards HOST: two more, each on a wire of its own to the other host's.
cards() {
	local host=$1 number kind
	number=$(host_number "$host")
	for kind in virtio e1000; do
		if ! lab_in ip link show "$host-$kind" > /dev/null 2>&1; then
			lab_in ip tuntap add dev "$host-$kind" mode tap
			lab_in ip link set "$host-$kind" master "w-$kind" up
		fi
	done
	host_extra[$host]="-netdev tap,id=dv,ifname=$host-virtio,script=no,downscript=no
		-device virtio-net-pci,romfile=,netdev=dv,addr=0x10,mac=52:54:00:88:10:$number
		-netdev tap,id=de,ifname=$host-e1000,script=no,downscript=no
		-device e1000,romfile=,netdev=de,addr=0x11,mac=52:54:00:88:11:$number"
}

# Give both cards to DPDK and set pages aside.
prepare_host() {
	host_run "$1" "modprobe uio_pci_generic
		echo 128 > /proc/sys/vm/nr_hugepages
		mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages
		for slot in $slot_virtio $slot_e1000; do
			d=/sys/bus/pci/devices/\$slot
			[ ! -e \$d/driver ] || echo \$slot > \$d/driver/unbind
			echo uio_pci_generic > \$d/driver_override
			echo \$slot > /sys/bus/pci/drivers_probe
			[ \"\$(basename \"\$(readlink \$d/driver)\")\" = uio_pci_generic ] || exit 1
		done"
}

side() {
	host_patience=100 host_run "$1" "cd $top && B=$B timeout 90 $B/tests/lab/tpside dpdk \
		'--allow=$3 window=4' $2 $mgmt_net.$(host_number b) $repl_net.$(host_number b) 7700 wire hello idle"
}

lab_begin
for kind in virtio e1000; do
	lab_in ip link add "w-$kind" type bridge
	lab_in ip link set "w-$kind" up
done
for host in a b; do
	cards $host
	host_start $host
done
for host in a b; do
	host_wait $host
	prepare_host $host || die "host $host: the cards cannot be given to DPDK"
done
# uio_pci_generic passes on a card's one interrupt, and the driver for virtio takes messages only.
for slot in $slot_virtio $slot_e1000; do
	say "$slot"
	side b 1 "$slot" > "$lab_dir/side-b" &
	side a 0 "$slot"
	wait $!
	cat "$lab_dir/side-b"
	case $slot in
	"$slot_e1000") idle="idle by interrupts: woken by traffic" ;;
	*) idle="idle by naps: never woken by traffic" ;;
	esac
	grep -qx "$idle" "$lab_dir/side-b" || die "not so: $idle"
done
