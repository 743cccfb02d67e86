#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The lab keeps its own promises: KVM, networks, exit statuses, power cuts, nothing left behind.
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"

# expect STATUS COMMAND...
expect() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" = "$want" ] || die "exit status $got instead of $want: $*"
}

lab_begin
truncate -s 4M "$lab_dir/disk"
printf 'first sector' | dd of="$lab_dir/disk" conv=notrunc status=none
host_start a "$lab_dir/disk"
host_start b
host_wait a
host_wait b
expect 0 host_run a 'test -c /dev/kvm && test -c /dev/net/tun'
expect 7 host_run a 'exit 7'
expect 1 host_run b 'test -b /dev/vda'
[ "$(host_run a 'head -c 12 /dev/vda; hostname')" = "first sectorhost-a" ] || die "disk or host name"
expect 0 host_run a "ping -q -c 1 -W 5 $repl_net.$(host_number b)"
expect 0 host_run b "ping -q -c 1 -W 5 $client_ip"
expect 0 lab_in ping -q -c 1 -W 5 "$client_net.$(host_number a)"
# What a host writes comes here through /lab and by no other way.
expect 0 host_run a "touch /lab/written /rhea-lab-$$"
[ -e "$lab_dir/a/written" ] || die "a file that host a wrote is not here"
[ ! -e "/rhea-lab-$$" ] || die "host a wrote into this machine's root"

host_spawn b sleeper 'sleep 1000'
expect 0 host_run b "kill \$(cat /lab/sleeper.pid)"
# A command under way on a host that loses power ends, and tells that from a command that failed.
(sleep 1 && kill -KILL "${host_pid[b]}") &
host_patience=20 expect 255 host_run b 'sleep 1000'
expect 255 host_run b true

# A second lab may be there at once, and leaves nothing.
cat > "$lab_dir/second.sh" <<-S
	. $lab_tests/lab.sh
	set -eu
	lab_begin
	echo "\$lab_ns \$lab_dir" > $lab_dir/second
	host_start a
	exit 3
S
expect 3 "$BASH" "$lab_dir/second.sh"
read -r ns dir < "$lab_dir/second"
if [ -e "/run/netns/$ns" ] || [ -e "$dir" ]; then
	die "the second lab left $ns or $dir"
fi
expect 0 host_run a true
