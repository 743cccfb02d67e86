#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rdma transport between two emulated hosts, over rxe on their replication network: all
# promises of replication/transport.h, and ends of every kind, to the power cut. (Bad wires: test_wires.)
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

peer_port=7100
module=$B/rhea-tp-rdma.so
[ -e "$module" ] || die "$module is not built: are libibverbs-dev and librdmacm-dev there?"

# Small rings: the tests are to fill them, and emulated hosts are slow. Where no silence is made, none is
# found: on a busy machine they may stand still for longer than real ones are given.
peer_args() {
	echo "address=$repl_net.$(host_number "$1") ring=1M send=256K silence=${silence:-500}"
}

start_rxe() {
	host_run "$1" "modprobe rdma_rxe && modprobe rdma_ucm && modprobe sch_netem &&
		rdma link add rxe0 type rxe netdev eth1"
}

server_listens() {
	grep -q listening "$lab_dir/b/server-$1.log" 2>/dev/null
}

server_ended() {
	host_run b "! kill -0 \$(cat /lab/server-$1.pid) 2>/dev/null"
}

# start_server NAME GROUP...: in host b, until it listens.
start_server() {
	local name=$1
	shift
	host_spawn b "server-$name" "bash -c 'WIRE=eth1 $B/tests/lab/rdma_peer $module \
		\"$(peer_args b)\" $peer_port $*; echo status \$?'"
	wait_until 30 server_listens "$name" || die "the server does not listen"
}

# both NAME GROUP...: a client in host a and a server in host b, in step.
both() {
	local name=$1
	start_server "$@"
	shift
	host_patience=200 host_run a "WIRE=eth1 $B/tests/lab/rdma_peer $module '$(peer_args a)' \
		$peer_port $mgmt_net.$(host_number b) $*" || {
		cat "$lab_dir/b/server-$name.log"
		die "the client: see above"
	}
	wait_until 20 server_ended "$name" || die "the server does not end"
	grep -q '^status 0' "$lab_dir/b/server-$name.log" || {
		cat "$lab_dir/b/server-$name.log"
		die "the server: see above"
	}
	grep '^figure' "$lab_dir/b/server-$name.log" || true
}

# seen NAME SETTINGS: what is recorded on the wire while a stream goes over it is searched for that stream:
# in how many frames tshark sees a piece of it, and how many pieces are there byte by byte.
seen() {
	local name=$1 side filter='' pieces=0 piece frames
	host_spawn b "tcpdump-$name" "tcpdump -i eth1 -U -w /lab/$name.pcap udp port 4791"
	wait_until 20 test -s "$lab_dir/b/$name.pcap" || die "tcpdump does not start"
	for side in b a; do
		host_patience=100 host_run $side "cd $top && B=$B WIRE=eth1 $2 timeout 90 $B/tests/lab/tpside rdma \
			'$(peer_args $side)' $([ $side = b ] && echo 1 || echo 0) $mgmt_net.$(host_number b) \
			$repl_net.$(host_number b) 7200 wire" > "$lab_dir/$name-$side.log" 2>&1 &
	done
	wait -n || die "$(cat "$lab_dir/$name"-*.log)"
	wait -n || die "$(cat "$lab_dir/$name"-*.log)"
	host_run b "kill -INT \$(cat /lab/tcpdump-$name.pid); sync"
	while read -r piece; do
		filter+="${filter:+ or }frame contains $piece"
		! LC_ALL=C grep -qaP "\\x${piece//:/\\x}" "$lab_dir/b/$name.pcap" || pieces=$((pieces + 1))
	done < <("$B/tests/lab/tpside" needles)
	frames=$(tshark -r "$lab_dir/b/$name.pcap" -Y "$filter" 2>/dev/null | wc -l)
	say "$name: $(stat -c %s "$lab_dir/b/$name.pcap") bytes recorded, $pieces pieces seen, in $frames frames"
	case $name in
	sealed) [ "$pieces" = 0 ] && [ "$frames" = 0 ] ;;
	bare) [ "$pieces" -gt 10 ] && [ "$frames" -gt 0 ] ;;
	esac
}

lab_begin
host_start a
host_start b
host_wait a
host_wait b
start_rxe a
start_rxe b
say "rxe is up"
silence=5000 seen sealed "" || die "the stream can be read on the wire"
silence=5000 seen bare BARE=1 || die "the search does not find what is not sealed"
silence=5000 both whole shut-in whole
silence=5000 both keys keys
both killed killed
both broken silent port
say "power cut"
start_server dies dies
host_spawn a client-dies "$B/tests/lab/rdma_peer $module '$(peer_args a)' $peer_port \
	$mgmt_net.$(host_number b) dies"
wait_until 30 grep -q waiting "$lab_dir/a/client-dies.log" || die "no link before the power cut"
host_kill b
client_ended() {
	host_run a "! kill -0 \$(cat /lab/client-dies.pid) 2>/dev/null"
}
wait_until 20 client_ended || die "the peer's death is not noticed"
cat "$lab_dir/a/client-dies.log"
grep -q '^ok .*power cut' "$lab_dir/a/client-dies.log" || die "the peer's death"
say "the last of it held too"
