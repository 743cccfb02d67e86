#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rheactl pair between two hosts, over a real sshd: what it does, what it refuses and how it says so,
# and that the key is nowhere but in the two key files. A host is a network, mount and host name
# namespace; both have their own $dir/etc.
set -euo pipefail
cd "$(dirname "$0")/../.."
B=$(readlink -f "${B:-build/out}")
dir=$(mktemp -d)
ns_a=pair-a-$$ ns_b=pair-b-$$
sshd=0 rhead=0

cleanup() {
	local pid
	for pid in $sshd $rhead; do
		[ "$pid" = 0 ] || kill -9 "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null
	ip netns del $ns_a 2>/dev/null || true
	ip netns del $ns_b 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT

fail() {
	echo "FAIL: $*" >&2
	tail -n 20 "$dir/out" "$dir/sshd.log" >&2 || true
	exit 1
}

# on a|b COMMAND...: in that host's namespaces. Takes the place of the shell: use ( ) or &.
on() {
	local host=$1 ns=pair-$1-$$
	shift
	# shellcheck disable=SC2016 # expands in there
	exec ip netns exec "$ns" unshare --mount --uts sh -ec '
		host=$1 dir=$2
		shift 2
		mount --make-rprivate /
		hostname "$host"
		mount --bind "$dir/$host/etc" "$dir/etc"
		mount --bind "$dir/$host/root" /root
		mount -t tmpfs none /run
		mkdir -p -m 755 /run/sshd
		exec "$@"' on "$host" "$dir" "$@"
}

make_hosts() {
	mkdir -p "$dir"/{etc,a/etc,b/etc,a/root,b/root}
	ip netns add $ns_a
	ip netns add $ns_b
	ip -n $ns_a link add r0 type veth peer name r0 netns $ns_b
	ip -n $ns_a addr add 10.79.0.1/24 dev r0
	ip -n $ns_b addr add 10.79.0.2/24 dev r0
	for ns in $ns_a $ns_b; do
		ip -n "$ns" link set lo up
		ip -n "$ns" link set r0 up
	done
	cat > "$dir/a/etc/rhea.conf" <<-EOF
		pair = { name = "p"; key_file = "$dir/etc/key"; };
		hosts = (
		  { name = "a"; replication = "10.79.0.1:7801"; heartbeat = ( "10.79.0.1:7800" ); },
		  { name = "b"; replication = "10.79.0.2:7801"; heartbeat = ( "10.79.0.2:7800" ); } );
		arbiter = { kind = "manual"; };
		vms = ( { name = "v"; memory = "64M"; kernel = "/k"; } );
	EOF
	chmod 600 "$dir/a/etc/rhea.conf"
}

start_sshd() {
	ssh-keygen -q -t ed25519 -N '' -f "$dir/host"
	ssh-keygen -q -t ed25519 -N '' -f "$dir/user"
	cp "$dir/user.pub" "$dir/authorized"
	echo "[10.79.0.2]:2222 $(cut -d' ' -f1,2 "$dir/host.pub")" > "$dir/known"
	cat > "$dir/sshd.conf" <<-EOF
		Port 2222
		ListenAddress 10.79.0.2
		HostKey $dir/host
		AuthorizedKeysFile $dir/authorized
		StrictModes no
		UsePAM no
		PasswordAuthentication no
		KbdInteractiveAuthentication no
		PermitRootLogin prohibit-password
		PidFile none
		LogLevel DEBUG3
	EOF
	on b "$(command -v sshd || echo /usr/sbin/sshd)" -D -E "$dir/sshd.log" -f "$dir/sshd.conf" &
	sshd=$!
	timeout 30 sh -c "until grep -q 'Server listening' '$dir/sshd.log'; do sleep 0.1; done" \
		2>/dev/null || fail "sshd did not start"
}

# Between sshd and rheactl on host b: keeps what comes in, and when all is proved, before anything
# is renamed, the command lines and environments of all processes.
make_spy() {
	cat > "$dir/spy" <<-EOF
		#!/bin/sh
		tee -a '$dir/wire' | '$B/rheactl' "\$@" | perl -e '
			\$| = 1;
			while (sysread(STDIN, \$b, 4096)) {
				if (\$b =~ /ready 0/) {
					system("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ" .
						" > \"$dir/procs\" 2>/dev/null; true");
				}
				syswrite(STDOUT, \$b);
			}'
	EOF
	chmod +x "$dir/spy"
}

opts=(--port 2222 --ssh-option "IdentityFile=$dir/user" --ssh-option IdentitiesOnly=yes
	--ssh-option "UserKnownHostsFile=$dir/known" --ssh-option GlobalKnownHostsFile=/dev/null
	--ssh-option BatchMode=yes --ssh-option LogLevel=DEBUG3
	-c "$dir/etc/rhea.conf" --socket "$dir/etc/rhead.sock")

# pair STATUS OPTION...: on host a, must end so. Its output is in $dir/out, and kept in $dir/all.
pair() {
	local want=$1 status=0
	shift
	(on a "$B/rheactl" pair "${opts[@]}" --remote-program "$dir/spy" "$@") \
		> "$dir/out" 2>&1 < /dev/null || status=$?
	cat "$dir/out" >> "$dir/all"
	[ $status = "$want" ] || fail "pair $*: exit status $status, not $want"
}

# says TEXT: in the last line or lines of our own.
says() {
	grep -v '^  ' "$dir/out" | grep -qF -- "$1" || fail "it does not say: $1"
}

same_keys() {
	cmp -s "$dir/a/etc/key" "$dir/b/etc/key"
}

# has_key FILE: the pair's key as text or as bytes.
has_key() {
	perl -e '
		local $/;
		open(K, "<", $ARGV[0]) or die; $k = <K>; $k =~ s/\s//g;
		open(F, "<:raw", $ARGV[1]) or die "$ARGV[1]: $!"; $f = <F>;
		exit(index(lc $f, lc $k) < 0 && index($f, pack("H*", $k)) < 0)' \
		"$dir/a/etc/key" "$1"
}

test_errors() {
	pair 1 --port 2223 root@10.79.0.2
	says "no ssh server answers there"
	pair 1 nobody-is-called-so@10.79.0.2
	says "ssh may not log in there"
	pair 1 --remote-program /nonexistent root@10.79.0.2
	says "rheactl is not found there"
	mv "$dir/known" "$dir/known.away"
	pair 1 --ssh-option StrictHostKeyChecking=yes root@10.79.0.2
	says "its host key is not known here"
	mv "$dir/known.away" "$dir/known"
	echo 'echo "Welcome back, have a lot of fun"' > "$dir/b/root/.bashrc"
	pair 1 root@10.79.0.2
	says "does a login script there print something?"
	rm "$dir/b/root/.bashrc"
	pair 2 -- -oProxyCommand=false
	[ ! -e "$dir/a/etc/key" ] || fail "a failure left a key"
}

test_pairing() {
	pair 1 root@10.79.0.2
	says "cannot use its config"
	pair 0 --config root@10.79.0.2
	says "hosts a and b have a new key"
	same_keys || fail "the keys differ"
	cmp -s "$dir/a/etc/rhea.conf" "$dir/b/etc/rhea.conf" || fail "the configs differ"
	[ "$(stat -c %a "$dir/a/etc/key" "$dir/b/etc/key" | uniq)" = 600 ] || fail "key's mode"
	has_key "$dir/wire" || fail "the search does not find the key where it is"
	has_key "$dir/b/etc/key" || fail "the search does not find the key where it is"
	pair 0 root@10.79.0.2
	says "have the same key already"
}

test_check() {
	pair 0 --check root@10.79.0.2
	[ "$(grep -cE '^(same|path|heartbeat).* yes ' "$dir/out")" = 6 ] || fail "not all is well"
	sed -i 's/64M/80M/' "$dir/b/etc/rhea.conf"
	pair 1 --check root@10.79.0.2
	says "vms[0].memory"
	pair 1 root@10.79.0.2
	says "its config differs in vms[0].memory; --config copies this host's over it"
	pair 0 --config root@10.79.0.2
	says "host b has this host's config now"
	pair 0 --check --json root@10.79.0.2
}

test_replace() {
	local old
	old=$(cat "$dir/a/etc/key")
	printf '%064d\n' 7 > "$dir/b/etc/key"
	pair 1 root@10.79.0.2
	says "it has another key than this host"
	[ "$(cat "$dir/a/etc/key")" = "$old" ] || fail "the key was replaced unasked"
	on b socat "UNIX-LISTEN:$dir/etc/rhead.sock,fork" /dev/null &
	rhead=$!
	timeout 30 sh -c "until [ -S '$dir/b/etc/rhead.sock' ]; do sleep 0.1; done"
	pair 1 --replace root@10.79.0.2
	says "rhead runs on that host"
	pair 0 --replace --force root@10.79.0.2
	says "restart rhead on both"
	same_keys || fail "the keys differ"
	[ "$(cat "$dir/a/etc/key")" != "$old" ] || fail "the key was not replaced"
	rm "$dir/b/etc/key"
	pair 0 root@10.79.0.2
	says "host b has the key of host a now"
	same_keys || fail "the keys differ"
}

# After the last exchange, in which this key went over the wire.
test_secret() {
	local f
	[ -s "$dir/procs" ] || fail "no process was looked at"
	tr '\0' '\n' < "$dir/procs" | grep -qx -- --receive || fail "rheactl was not looked at"
	has_key "$dir/wire" || fail "the search does not find the key where it is"
	for f in procs all sshd.log; do
		[ -s "$dir/$f" ] || fail "$f is empty"
		! has_key "$dir/$f" || fail "the key is in $f"
	done
	[ "$(find "$dir/a/etc" "$dir/b/etc" -name '*.new' | wc -l)" = 0 ] || fail "litter"
}

make_hosts
make_spy
start_sshd
test_errors
test_pairing
test_check
test_replace
test_secret
echo "pair: all is well"
