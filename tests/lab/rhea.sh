# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Rhea on the two hosts of a lab: one config, etcd on the clients' side, the guest with its disk.
#
#   rhea_begin                lab, hosts and etcd up
#   rhea_daemon HOST          rhead there, and one rheactl that writes its view down
#   rhea_ctl HOST ARGS...     rheactl there
#   rhea_vm HOST              its view of the VM, as compact JSON; empty if it does not answer
#   rhea_is HOST FILTER       whether a jq filter holds for that view
#   rhea_boot_guest           VM started on A until its network is up
#   rhea_await_redis          until its redis answers
#   rhea_protect              wait until host B can carry on
#   rhea_stop_guest HOST      power button, until it is off
#   disk_counter IMAGE KEY    what redis left on a disk for a counter

# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

vm=guest
guest_image=$lab_cache/${GUEST_IMAGE:-guest}
guest_cmdline="console=ttyS0 root=/dev/vda rw quiet net.ifnames=0 mitigations=off apparmor=0 audit=0 \
selinux=0 cryptomgr.notests rcupdate.rcu_expedited=1 systemd.show_status=no fsck.mode=skip panic=-1"

# How checkpoints travel: tcp, or rdma (over rxe) or dpdk (af_packet) on the pair's own wire, with tcp
# behind it. Windows and rings are small, as the hosts are.
transport=${TRANSPORT:-tcp}
# Heartbeats until the peer is suspected. A path is given up after a third of that, and emulated hosts that
# emulate a card's ring as well are silent for longer than tcp's.
patience=15
[ "$transport" = tcp ] || patience=45

path_args() {
	case $transport in
	rdma) echo "address=$repl_net.$(host_number "$1") ring=4M send=1M" ;;
	dpdk) echo "--vdev=net_af_packet0,iface=eth1,framecnt=1024 window=4" ;;
	*) die "TRANSPORT=$transport: give tcp, rdma or dpdk" ;;
	esac
}

# both PORT: an address for each host.
both_addresses() {
	echo "{ a = \"$repl_net.$(host_number a):$1\"; b = \"$repl_net.$(host_number b):$1\"; }"
}

rhea_paths() {
	local a b
	[ "$transport" != tcp ] || return 0
	a=$(path_args a)
	b=$(path_args b)
	cat <<-C
		paths = (
		  { transport = "$transport"; address = $(both_addresses 7702); args = { a = "$a"; b = "$b"; }; },
		  { transport = "tcp"; address = $(both_addresses 7700); } );
	C
}

rhea_devices() {
	[ "$transport" = rdma ] || return 0
	host_run "$1" "modprobe rdma_rxe && modprobe rdma_ucm && rdma link add rxe0 type rxe netdev eth1"
}

# Both hosts' heartbeats go over the pair's own wire and over the clients' network. A first write to
# a page costs a guest here some hundred times what it costs on hardware, so epochs are as much longer than the default as
# leaves it most of its processor.
rhea_config() {
	local host comma=,
	echo "pair = { name = \"lab\"; key = \"$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')\"; };"
	echo "hosts = ("
	for host in a b; do
		cat <<-C
			  { name = "$host"; replication = "$repl_net.$(host_number $host):7700";
			    heartbeat = ( "$repl_net.$(host_number $host):7701",
			                  "$client_net.$(host_number $host):7701" ); }$comma
		C
		comma=
	done
	echo ");"
	rhea_paths
	cat <<-C
		arbiter = { kind = "etcd"; endpoints = ( "http://$client_ip:$etcd_port" ); };
		heartbeat = { interval_ms = ${HEARTBEAT_MS:-100}; missed = ${HEARTBEAT_MISSED:-$patience}; };
		vms = ( {
		  name = "$vm"; host = "a"; memory = "${GUEST_MEMORY:-192M}"; vcpus = ${GUEST_VCPUS:-1};
		  kernel = "$guest_image/vmlinuz"; initrd = "$guest_image/initrd";
		  cmdline = "$guest_cmdline"; interval_ms = ${EPOCH_MS:-100};
		  disks = ( { path = "/dev/vda"; serial = "system"; } ); journal_size = "128M";
		  nets = ( { tap = "vm0"; bridge = "br0"; mac = "$guest_mac"; } );
		} );
	C
}

etcd_is_up() {
	lab_in curl -s -m 1 "http://$client_ip:$etcd_port/health" | grep -q true
}

# Its data is on a disk of this machine that the test does not cut: no need to wait for it.
rhea_etcd() {
	lab_spawn etcd etcd --data-dir "$lab_dir/etcd" --unsafe-no-fsync \
		--listen-client-urls "http://$client_ip:$etcd_port" \
		--advertise-client-urls "http://$client_ip:$etcd_port" \
		--listen-peer-urls http://127.0.0.1:2380

	wait_until 20 etcd_is_up || die "etcd does not answer: $(tail -n 5 "$lab_dir/etcd.log")"
}

rhea_hosts() {
	local host
	for host in a b; do
		cp --sparse=always "$guest_image/disk.raw" "$lab_dir/$host.raw"
		host_start $host "$lab_dir/$host.raw"
	done
	rhea_etcd
	rhea_config > "$lab_dir/rhea.conf"
	for host in a b; do
		host_wait $host
		rhea_devices $host
	done
}

rhea_answers() {
	[ -n "$(rhea_vm "$1")" ]
}

# To start a program costs an emulated host more time than the guest has for a whole epoch, and
# whoever watches must not slow down what he looks at: so rheactl is started once.
rhea_daemon() {
	install -m 600 "$lab_dir/rhea.conf" "$lab_dir/$1/rhea.conf"
	host_spawn "$1" rhead "$B/rhead -c /lab/rhea.conf --host $1 --modules $B ${rhead_more:-}"
	host_spawn "$1" view "sh -c 'until $B/rheactl --json --watch=0.5 status; do sleep 0.5; done'"
	poll=0.2 wait_until 60 rhea_answers "$1" || die_with "$1" "rhead on host $1 does not answer"
}

# die_with HOST TEXT: and the end of what its rhead wrote.
die_with() {
	tail -n 30 "$lab_dir/$1/rhead.log" >&2
	die "$2"
}

rhea_begin() {
	lab_begin
	"$lab_tests/guest-image.sh"
	rhea_hosts
}

rhea_ctl() {
	local host=$1
	shift
	host_run "$host" "$B/rheactl $*"
}

# The last whole line that is there; an error message of rheactl's is none.
rhea_vm() {
	tail -n 2 "$lab_dir/$1/view.log" 2>/dev/null | grep '}$' | tail -n 1 |
		jq -c '.vms[0]' 2>/dev/null || true
}

rhea_is() {
	[ "$(rhea_vm "$1" | jq "$2" 2>/dev/null)" = true ]
}

redis_answers() {
	[ "$(lab_in timeout 2 redis-cli -h "$guest_ip" ping 2>/dev/null)" = PONG ]
}

guest_is_on_net() {
	lab_in ping -c 1 -W 1 "$guest_ip" > /dev/null 2>&1
}

rhea_boot_guest() {
	rhea_ctl a vm start $vm > "$lab_dir/start.log" || die_with a "the VM does not start"
	host_spawn a console "script -qfc '$B/rheactl vm console $vm' /dev/null"
	poll=0.5 step "booting Debian in the guest" wait_until 300 guest_is_on_net ||
		die_with a "the guest does not come to the network"
}

rhea_await_redis() {
	poll=0.5 step "waiting for its redis" wait_until 120 redis_answers ||
		die_with a "redis in the guest does not answer"
}

rhea_protect() {
	poll=0.2 step "bringing the standby up on host b" wait_until 300 rhea_is a '.protected' ||
		die_with b "the guest is not protected"
	[ "$transport" = tcp ] || poll=0.2 wait_until 150 rhea_is a \
		".link_paths[0] | .transport == \"$transport\" and .in_use" ||
		die_with a "its checkpoints do not go by $transport"
}

rhea_stop_guest() {
	rhea_ctl "$1" vm stop $vm || return
	poll=0.2 wait_until 120 rhea_is "$1" '.running | not'
}

# Ends a host in good order: what it wrote to its disk is in the image then.
host_off() {
	host_run "$1" sync || return
	host_kill "$1"
}

# disk_counter IMAGE KEY: redis' append-only file names each INCR; a new one begins with none.
disk_counter() {
	local files
	files=$(mktemp -d)
	debugfs -R "rdump /var/lib/redis/appendonlydir $files" "$1" > "$files/log" 2>&1
	cat "$files"/appendonlydir/*.incr.aof |
		awk -v RS='\r\n' -v key="$2" 'last == "INCR" && $0 == key { n++ }
			!/^[$*]/ { last = $0 } END { print n + 0 }'
	rm -rf "$files"
}
