# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # guest-image.sh sources this
# What the guest of bench_bytes.sh has beside the demo's: PostgreSQL with a filled pgbench database,
# what it takes to compile this project, and an agent that runs what it is sent.

image_size=760M
packages+=(postgresql-15 gcc libc6-dev make pkg-config
	libevent-dev liblz4-dev libxxhash-dev libssl-dev libconfig-dev libjansson-dev liburing-dev
	libnl-3-dev libnl-route-3-dev libseccomp-dev libcap-ng-dev libsystemd-dev
	libcurl4-openssl-dev libsqlite3-dev)
pg_bin=/usr/lib/postgresql/15/bin
pg_data=/var/lib/postgresql/15/main
pg_etc=/etc/postgresql/15/main
pg_scale=4 # as many as bench_bytes.sh has clients, so that they do not wait for each other

# Debian's own cluster, started without the Perl that Debian starts it with.
add_database() {
	local root=$1
	cat > "$root/etc/systemd/system/database.service" <<-N
		[Unit]
		Description=PostgreSQL as Debian sets it up
		After=network.target
		[Service]
		Type=notify
		User=postgres
		RuntimeDirectory=postgresql
		ExecStart=$pg_bin/postgres -D $pg_data -c config_file=$pg_etc/postgresql.conf
		TimeoutSec=300
		[Install]
		WantedBy=multi-user.target
	N
	chroot "$root" systemctl -q disable postgresql.service
	ln -sf /dev/null "$root/etc/systemd/system/postgresql.service"
	chroot "$root" systemctl -q enable database.service
}

# In a process namespace of its own, so that no server outlives a script that failed. Without a
# network and without /dev/shm, which a directory that is no machine yet does not have.
fill_database() {
	local root=$1
	install -d -o "$(stat -c %u "$root$pg_data")" "$root/run/postgresql"
	unshare --pid --fork --kill-child chroot --userspec=postgres:postgres "$root" /bin/sh -e -c "
		$pg_bin/pg_ctl -s -w -D $pg_data -l /tmp/fill.log start -o '-c config_file=$pg_etc/postgresql.conf \
			-c listen_addresses= -c dynamic_shared_memory_type=mmap -c fsync=off'
		$pg_bin/createdb bench
		$pg_bin/pgbench -q -i -s $pg_scale bench
		$pg_bin/pg_ctl -s -w -D $pg_data -m fast stop" < /dev/null
	rm "$root/tmp/fill.log"
}

# A script that comes in over a connection runs, and its output goes back.
add_agent() {
	local root=$1
	cat > "$root/etc/systemd/system/agent.socket" <<-N
		[Socket]
		ListenStream=$guest_port
		Accept=yes
		[Install]
		WantedBy=sockets.target
	N
	cat > "$root/etc/systemd/system/agent@.service" <<-N
		[Service]
		ExecStart=/bin/bash
		WorkingDirectory=/root
		Environment=HOME=/root
		StandardInput=socket
		StandardOutput=socket
		StandardError=socket
	N
	chroot "$root" systemctl -q enable agent.socket
}

add_workloads() {
	local root=$1
	add_database "$root"
	fill_database "$root"
	add_agent "$root"
	# Only a just-in-time compiler that these queries are too short for would use it.
	rm -rf "$root"/usr/lib/x86_64-linux-gnu/libLLVM* "$root"/usr/lib/postgresql/15/lib/{llvm,bitcode}*
	# No sanitizers and no link-time optimisation either; and both hosts read the whole disk.
	rm -f "$root"/usr/lib/gcc/x86_64-linux-gnu/12/{lto1,lib*san*} \
		"$root"/usr/lib/x86_64-linux-gnu/lib*san.so.*
}
