# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Who has which address in a lab. All of it lives in a network namespace of the lab's own.
#   client net  clients, hosts' br0 (eth0), the guest: what the world sees
#   repl net    hosts' eth1: the pair's own wire
#   mgmt net    hosts' eth2: how the lab's scripts reach a host; no part of the system under test
client_net=10.88.1 repl_net=10.88.2 mgmt_net=10.88.3
client_ip=$client_net.1
guest_ip=$client_net.50
guest_mac=52:54:00:88:01:50
agent_port=7000 shell_port=7001 etcd_port=2379 guest_port=7000

# host_number HOST: the last part of its address in each net.
host_number() {
	case $1 in
	a) echo 11 ;;
	b) echo 12 ;;
	*) return 1 ;;
	esac
}
