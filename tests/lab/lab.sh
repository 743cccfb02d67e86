# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A lab: two emulated hosts with real KVM inside, joined by networks in a namespace of its own.
#
# Theory of operation. Each host is QEMU in software emulation with AMD's SVM, so the Debian kernel
# in it has a full /dev/kvm. It boots this machine's own root file system, read-only over 9p under
# a tmpfs: what is installed and built here is there, by the same paths. All its networks live
# in one network namespace, where clients and the arbiter run too; nothing of this machine's
# network is touched. A script sources this file, calls lab_begin, and everything goes away when
# it exits, however it does: names carry the script's pid, and the emulators get SIGKILL from
# the kernel if the script dies first.
#
#   lab_begin                     namespace, bridges, a work directory ($lab_dir)
#   host_start HOST [DISK]        power on; DISK becomes /dev/vda there
#   host_wait HOST                until commands can be run in it
#   host_run HOST COMMAND...      run in it: output as it comes, exit status; 255 if it died
#   host_spawn HOST NAME COMMAND  the same in the background, output in $lab_dir/HOST/NAME.log
#   host_kill HOST                a power cut: SIGKILL for its emulator
#   lab_in COMMAND...             run on the client's side (in the namespace)
#   lab_spawn NAME COMMAND...     the same in the background, output in $lab_dir/NAME.log; $spawned
# A host sees $lab_dir/HOST as /lab: the way for files, in both directions.

# shellcheck source=tests/lab/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
# shellcheck source=tests/lab/addresses.sh
. "$lab_tests/addresses.sh"

declare -A host_pid=() host_disk=()
declare -A host_extra=() # more arguments for a host's emulator
lab_pids=()
lab_is_void=75 # the exit status of a test that an emulated host's own kernel has spoilt
host_memory=${LAB_HOST_MEMORY:-2560}

lab_begin() {
	[ "$(id -u)" = 0 ] || die "the lab makes network namespaces: run it as root"
	"$lab_tests/host-kernel.sh"
	lab_remove_leftovers
	lab_ns=rhea-lab-$$
	lab_dir=$lab_cache/run.$$
	mkdir -p "$lab_dir"
	trap lab_end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	ip netns add "$lab_ns"
	lab_in ip link set lo up
	lab_add_bridge client "$client_ip"
	lab_add_bridge repl "$repl_net.1"
	lab_add_bridge mgmt "$mgmt_net.1"
}

# A script that was killed with SIGKILL could not clean up: the next one does it.
lab_remove_leftovers() {
	local dir pid
	for dir in "$lab_cache"/run.*; do
		pid=${dir##*.}
		if [ ! -d "$dir" ] || [ -d "/proc/$pid" ]; then
			continue
		fi
		rm -rf "$dir"
		ip netns delete "rhea-lab-$pid" 2>/dev/null || true
	done
}

# The emulated hosts whose kernel says that all of its processors stood still, and how: a regular expression. Seen a few times:
# an idle host, all of whose processors stood for 27 s and then went on; and one early in a host's life, in the kernel's
# own threads and the emulator's, which never did. It says nothing of what runs there.
lab_stood_still() {
	local log
	for log in "$lab_dir"/*/power-on.log; do
		[ -e "$log" ] || continue
		[ "$(grep -oE "soft lockup - CPU#[0-9]* stuck for ($1)" "$log" | cut -d' ' -f4 | sort -u | wc -l)" -lt 2 ] ||
			basename "$(dirname "$log")"
	done
}

# It says so again after 50 s, and no idle processor is kept by what it runs.
hopeless() {
	[ -n "$(lab_stood_still '([4-9].|...+)s!')" ]
}

void() {
	[ -n "$(lab_stood_still '([3-9].|...+)s!|.*swapper')" ]
}

# After a failure: a host that is on and does not answer is looked at, for as long as it takes its kernel to say why.
lab_look_at_silent_hosts() {
	local host task
	for host in "${!host_pid[@]}"; do
		if ! host_is_alive "$host" || [ ! -e "$lab_dir/$host/up" ] || host_patience=5 host_run "$host" true 2>/dev/null; then
			continue
		fi
		echo "host $host is on and does not answer; its emulator's threads:" >&2
		for task in "/proc/${host_pid[$host]}/task"/*; do
			cat "$task/comm" "$task/wchan" "$task/syscall" 2>/dev/null | tr '\n' ' ' >&2
			echo >&2
		done
		wait_until 40 void || true
	done
}

lab_end() {
	local status=$? log
	trap - EXIT INT TERM HUP
	[ $status = 0 ] || lab_look_at_silent_hosts
	if [ $status != 0 ] && void; then
		echo "all processors of an emulated host stood still in its kernel" >&2
		status=$lab_is_void
	fi
	if [ ${#lab_pids[@]} -gt 0 ]; then
		kill -KILL "${lab_pids[@]}" 2>/dev/null || true
		wait_until 10 lab_is_quiet || true
	fi
	if [ $status != 0 ] && [ -n "${LAB_KEEP_LOGS:-}" ]; then
		mkdir -p "$LAB_KEEP_LOGS"
		while read -r log; do
			cp "$log" "$LAB_KEEP_LOGS/$(basename "$(dirname "$log")")-${log##*/}"
		done < <(find "$lab_dir" -name '*.log')
		echo "the logs of this run are in $LAB_KEEP_LOGS" >&2
	fi
	ip netns delete "$lab_ns" 2>/dev/null || true
	rm -rf "$lab_dir"
	exit "$status"
}

lab_is_quiet() {
	! kill -0 "${lab_pids[@]}" 2>/dev/null
}

lab_add_bridge() {
	lab_in ip link add "$1" type bridge
	lab_in ip address add "$2/24" dev "$1"
	lab_in ip link set "$1" up
}

lab_in() {
	nsenter --net="/run/netns/$lab_ns" "$@"
}

# In the background, ended with the lab. The child dies with this script even if that gets SIGKILL.
lab_spawn() {
	local name=$1
	shift
	nsenter --net="/run/netns/$lab_ns" setpriv --pdeathsig KILL "$@" \
		> "$lab_dir/$name.log" 2>&1 < /dev/null &
	spawned=$!
	disown "$spawned" # bash would announce its death on the terminal
	lab_pids+=("$spawned")
}

# The emulator's arguments for one network card on a bridge.
host_nic() {
	local tap=$1-$2 number
	number=$(host_number "$1")
	if ! lab_in ip link show "$tap" > /dev/null 2>&1; then
		lab_in ip tuntap add dev "$tap" mode tap
		lab_in ip link set "$tap" master "$2" up
	fi
	echo "-netdev tap,id=$2,ifname=$tap,script=no,downscript=no
		-device virtio-net-pci,romfile=,netdev=$2,mac=52:54:00:88:$3:$number"
}

# no_timer_check: on a busy machine an emulated timer fails the kernel's test of it, a panic.
# tsc=reliable: all emulated processors have one TSC, but the kernel does not know and would ask the
# HPET for the time, which is the slowest thing there is in emulation.
# -erms, -fsrm: else libraries and kernel copy with rep movsb, which is emulated byte by byte
# (15 MB/s; without, 300).
host_start() {
	local host=$1 disk=${2:-} dir=$lab_dir/$1 nics
	mkdir -p "$dir/run"
	rm -f "$dir/up"
	host_disk[$host]=$disk
	nics="$(host_nic "$host" client 01) $(host_nic "$host" repl 02) $(host_nic "$host" mgmt 03)"
	# shellcheck disable=SC2086 # words are wanted
	lab_spawn "host-$host" qemu-system-x86_64 -name "rhea-lab-$host" -nodefaults -no-user-config \
		-M q35 -accel tcg,thread=multi -cpu max,+svm,-erms,-fsrm -smp 2 -m "$host_memory" -display none \
		-no-reboot -serial "file:$dir/power-on.log" -kernel "$lab_cache/kernel/vmlinux" \
		-initrd "$lab_cache/kernel/initrd" -append "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check tsc=reliable \
		rhea.host=$host rhea.lab=$lab_tests rhea.cache=$lab_cache" \
		-virtfs "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap" \
		-virtfs "local,path=$dir,mount_tag=lab,security_model=none,multidevs=remap" \
		-device virtio-rng-pci $nics ${host_extra[$host]:-} \
		${disk:+-drive file=$disk,format=raw,if=virtio}
	host_pid[$host]=$spawned
}

host_is_alive() {
	kill -0 "${host_pid[$1]}" 2>/dev/null
}

host_is_gone() {
	! host_is_alive "$1"
}

host_is_up() {
	[ -e "$lab_dir/$1/up" ] || ! host_is_alive "$1"
}

# Some power-ons end in a host one of whose emulated processors never wakes up again
# ("timer wakeup didn't happen"). Nothing of ours runs there yet: off and on again, and say so.
host_wait() {
	local seconds
	for seconds in 20 40 180; do # 2 s on a quiet machine
		if wait_until $seconds host_is_up "$1" && host_is_alive "$1"; then
			return
		fi
		tail -n 20 "$lab_dir/host-$1.log" "$lab_dir/$1/power-on.log" >&2 || true
		[ $seconds != 180 ] || die "host $1 did not come up"
		say "host $1 stands still in its power-on: switching it off and on again"
		host_kill "$1" || true
		host_start "$1" "${host_disk[$1]}"
	done
}

host_kill() {
	kill -KILL "${host_pid[$1]}" 2>/dev/null || true
	wait_until 10 host_is_gone "$1"
}

# With $host_patience set, a command that takes so many seconds is given up. An emulated host may stand still for half a
# minute: it is called again; and one that dies in the middle is noticed by keep-alive.
host_agent() {
	echo "$mgmt_net.$(host_number "$1"):$agent_port,retry=8,interval=1,keepalive,keepidle=5,keepintvl=5,keepcnt=7"
}

# The host's agent gets an id in the first line and a script in the rest. The exit status comes
# through the file run/ID, so that a host that died in the middle is told from a command that failed.
host_run() {
	local host=$1 id=$BASHPID.$RANDOM status
	shift
	host_is_alive "$host" || return 255
	# shellcheck disable=SC2086 # words are wanted
	printf '%s\n%s\n' "$id" "$*" |
		lab_in ${host_patience:+timeout $host_patience} socat -t 86400 - "TCP:$(host_agent "$host")" || true
	status=$(cat "$lab_dir/$host/run/$id" 2>/dev/null) || status=255
	return "${status:-255}"
}

host_spawn() {
	local host=$1 name=$2
	shift 2
	host_run "$host" "cd /; setsid $* > /lab/$name.log 2>&1 < /dev/null & echo \$! > /lab/$name.pid"
}
