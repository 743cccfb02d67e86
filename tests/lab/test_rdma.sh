#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rdma transport between two emulated hosts, over rxe on their replication network: all
# promises of replication/transport.h, on a sound wire and on bad ones, to the power cut.
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

peer_port=7100
module=$B/rhea-tp-rdma.so
[ -e "$module" ] || die "$module is not built: are libibverbs-dev and librdmacm-dev there?"

# Small rings: the tests are to fill them, and emulated hosts are slow.
peer_args() {
	echo "address=$repl_net.$(host_number "$1") ring=1M send=256K"
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

lab_begin
host_start a
host_start b
host_wait a
host_wait b
start_rxe a
start_rxe b
say "rxe is up"
both whole shut-in whole
both wire wire
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
