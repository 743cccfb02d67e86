#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# make lab: two emulated hosts with Rhea and a Linux guest to play with; all gone at the end.
#   shell.sh               a shell with the commands a, b and client; without a terminal it
#                          reads the commands from its standard input
#   a [COMMAND...]         a shell, or one command, on host a (b: on host b)
#   standby                start rhead on host b
#   client COMMAND...      on the clients' network
#   power-cut a|b          SIGKILL for a host's emulator
set -euo pipefail
# shellcheck source=tests/lab/rhea.sh
. "${BASH_SOURCE[0]%/*}/rhea.sh"

# A command of its own for HOST, so that it is there in any shell.
make_host_command() {
	cat > "$lab_dir/bin/$1" <<-C
		#!/usr/bin/env bash
		lab_ns=$lab_ns lab_dir=$lab_dir
		. $lab_tests/lab.sh
		host_pid[$1]=${host_pid[$1]}
		if [ \$# -gt 0 ]; then
			host_run $1 "\$@"
		else
			lab_in socat -,raw,echo=0 TCP:$mgmt_net.$(host_number "$1"):$shell_port
		fi
	C
	host_run "$1" "ln -sf $B/rheactl $B/rhead /usr/local/bin/"
	host_spawn "$1" shell "socat TCP-LISTEN:$shell_port,fork,reuseaddr \
		EXEC:'bash -li',pty,stderr,setsid,ctty,sane"
}

make_commands() {
	local host
	mkdir "$lab_dir/bin"
	for host in a b; do
		make_host_command $host
	done
	cat > "$lab_dir/bin/standby" <<-C
		#!/usr/bin/env bash
		export B=$B
		. $lab_tests/rhea.sh
		lab_ns=$lab_ns lab_dir=$lab_dir
		host_pid[b]=${host_pid[b]}
		rhea_daemon b
	C
	cat > "$lab_dir/bin/client" <<-C
		#!/usr/bin/env bash
		exec nsenter --net=/run/netns/$lab_ns "\$@"
	C
	cat > "$lab_dir/bin/power-cut" <<-C
		#!/usr/bin/env bash
		case \$1 in
		a) kill -KILL ${host_pid[a]} ;;
		b) kill -KILL ${host_pid[b]} ;;
		*) echo "power-cut a|b" >&2; exit 2 ;;
		esac
	C
	chmod +x "$lab_dir"/bin/*
}

rhea_begin
rhea_daemon a
make_commands
cat <<T

Two hosts are up, host a with rhead; the arbiter is etcd on the clients' network.
  a, b                       a shell on that host; a COMMAND... for one command
  a rheactl vm start $vm   boot the guest; a rheactl status says how far it is
  standby                    rhead on host b: best once the guest is up, for a boot that is protected
                             takes minutes in emulation
  client COMMAND...          on the clients' network: client redis-cli -h $guest_ip incr x
  power-cut a                SIGKILL for the host's emulator
  exit                       takes everything down
T
export PATH=$lab_dir/bin:$B:$PATH
if [ -t 0 ]; then
	PS1='lab> ' bash --norc -i || true
else
	bash --norc
fi
