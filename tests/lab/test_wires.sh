#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tcp, dpdk and rdma, as rhea-vm has them, between two emulated hosts, over the wires that netem makes:
# lossy, doubling, out of order, 100 ms long, flipping bits, silent.
#   test_wires.sh [KIND...]
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

declare -A args=(
	[tcp]=""
	[dpdk]="--vdev=net_af_packet0,iface=eth1,framecnt=2048,qdisc_bypass=0 window=4"
)
# What needs no netem, tcp and dpdk do natively, and a bare rdma in test_rdma.
declare -A first=([rdma]=hello)
# rxe counts all repetitions of one request together, so not more than one in a hundred goes wrong.
steps=("'wire=loss 1%'" "'wire=duplicate 5%'" "'wire=delay 2ms reorder 99%'" "'wire=delay 100ms'"
	"'flips=corrupt 1%'" silent)

side() { # KIND HOST NUMBER
	local words=${args[$1]-address=$repl_net.$(host_number "$2") ring=1M send=256K silence=5000}
	host_patience=240 host_run "$2" "cd $top && B=$B WIRE=eth1 timeout 230 $B/tests/lab/tpside $1 '$words' $3 \
		$mgmt_net.$(host_number b) $repl_net.$(host_number b) 7700 ${first[$1]:-} ${steps[*]}"
}

start_rxe() {
	host_run "$1" "modprobe rdma_rxe && modprobe rdma_ucm && rdma link add rxe0 type rxe netdev eth1"
}

lab_begin
for host in a b; do
	host_start $host
done
for host in a b; do
	host_wait $host
	host_run $host modprobe sch_netem
done
[ $# -gt 0 ] || set -- tcp dpdk rdma
for kind in "$@"; do
	if [ "$kind" = rdma ]; then
		start_rxe a
		start_rxe b
	fi
	say "$kind"
	side "$kind" b 1 > "$lab_dir/$kind-b.log" 2>&1 &
	other=$!
	side "$kind" a 0 || {
		cat "$lab_dir/$kind-b.log"
		die "$kind"
	}
	wait $other || {
		cat "$lab_dir/$kind-b.log"
		die "$kind, the other side"
	}
done
say "all of it held"
