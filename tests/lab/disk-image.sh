#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the guest of test_disk.sh: small, soon up, with disks that are small enough to be replayed often.
#   disk-image.sh     build/lab/disk/{vmlinuz,initrd,root.raw,data.raw,scratch.raw,tree}; at once when up to date
# root.raw is read only: busybox, fio and PostgreSQL of Debian's packages, unpacked and not installed.
# data.raw is a file system with a filled pgbench database, scratch.raw an empty one. tree is what root.raw was
# made of, for clients: chroot into it.
set -euo pipefail
# shellcheck source=tests/lab/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
# shellcheck source=tests/lab/addresses.sh
. "$lab_tests/addresses.sh"
# shellcheck source=tests/lab/debian.sh
. "$lab_tests/debian.sh"

out=$lab_cache/disk
guest=$lab_cache/guest
packages=(busybox-static fio postgresql-15 e2fsprogs)
data_size=112M scratch_size=24M
pg_bin=/usr/lib/postgresql/15/bin
programs=(/sbin/resize2fs /usr/bin/fio "$pg_bin"/{initdb,pg_ctl,postgres,pgbench,psql})
pg_user=70 # of no system user of this machine's

# What the guest's kernel has not built in.
modules=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover
	virtio_net virtio_blk)

# find_module TREE NAME
find_module() {
	find "$1" -name "$2.ko" | grep -m 1 .
}

# The guest's drivers, out of the image and the initrd that guest-image.sh has made.
make_initrd() {
	local work=$1 name file
	mkdir -p "$work"/{old,image,initrd/{bin,mods,dev,proc,sys,root}}
	zstd -qdc "$guest/initrd" | (cd "$work/old" && cpio -id --quiet)
	debugfs -R "rdump /usr/lib/modules $work/image" "$guest/disk.raw" 2>/dev/null
	for name in "${modules[@]}"; do
		file=$(find_module "$work/old" "$name" || find_module "$work/image" "$name") ||
			die "the guest's kernel has no module $name"
		cp "$file" "$work/initrd/mods/"
		echo "$name.ko" >> "$work/initrd/mods/list"
	done
	cp "$work/root/bin/busybox" "$work/initrd/bin/"
	install "$lab_tests/disk/init" "$work/initrd/init"
	mknod "$work/initrd/dev/console" c 5 1
	(cd "$work/initrd" && find . | cpio -o -H newc --quiet | gzip -1) > "$2"
}

# Debian's packages as they come, without what their installation would do.
unpack_packages() {
	local root=$1 sources=$2
	debian_lists "$sources"
	mmdebstrap --mode=root --variant=extract --format=directory --aptopt="$sources.conf" \
		--include="$(IFS=,; echo "${packages[*]}")" bookworm "$root" "$sources"
}

# The libraries that @programs need, as paths in ROOT.
libraries_of() {
	local program
	for program in "${programs[@]}"; do
		chroot "$1" /lib64/ld-linux-x86-64.so.2 --list "$program"
	done | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | sort -u
}

# make_root ALL ROOT: of all that was unpacked what the guest runs, because both hosts read the whole disk.
make_root() {
	local all=$1 root=$2
	mkdir -p "$root"/{data,scratch,proc,sys,dev,run,tmp,root,etc}
	chmod 1777 "$root/tmp"
	mknod -m 666 "$root/dev/null" c 1 3 # until the guest has its own
	libraries_of "$all" > "$root.list"
	printf '%s\n' "${programs[@]}" /bin/busybox /usr/share/zoneinfo/Etc/UTC >> "$root.list"
	(cd "$all" && sed 's|^/||' "$root.list" | xargs cp -L --parents -t "$root")
	(cd "$all" && cp -a --parents usr/lib/postgresql usr/share/postgresql "$root")
	rm -rf "$root"/usr/lib/postgresql/15/lib/{llvm,bitcode}*
	mkdir -p "$root/lib64"
	cp -L "$all/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
	printf 'root:x:0:0::/root:/bin/sh\npostgres:x:%d:%d::/data/pg:/bin/sh\n' $pg_user $pg_user > "$root/etc/passwd"
	cp -r "$all"/etc/ld.so.conf{,.d} "$root/etc/"
	ldconfig -r "$root"
	chroot "$root" /bin/busybox --install -s /bin
}

# In a process namespace of its own, so that no server outlives this. Short segments of its log: the disk is small.
fill_database() {
	local root=$1
	install -d -o $pg_user "$root/data/pg"
	unshare --pid --fork --kill-child chroot --userspec=$pg_user:$pg_user "$root" /bin/sh -e -c "
		$pg_bin/initdb -N -A trust -U postgres --locale=C --wal-segsize=1 -D /data/pg/db
		cat >> /data/pg/db/postgresql.conf <<-C
			listen_addresses = '*'
			unix_socket_directories = '/tmp'
			dynamic_shared_memory_type = mmap
			shared_buffers = 16MB
			min_wal_size = 2MB
			max_wal_size = 8MB
			jit = off
		C
		echo 'host all all 0.0.0.0/0 trust' >> /data/pg/db/pg_hba.conf
		$pg_bin/pg_ctl -s -w -D /data/pg/db -l /tmp/fill.log start -o '-c fsync=off -c listen_addresses='
		$pg_bin/pgbench -h /tmp -U postgres -q -i -s 1 postgres
		$pg_bin/pg_ctl -s -w -D /data/pg/db -m fast stop" < /dev/null
	rm "$root/tmp/fill.log"
}

# make_disk DIR SIZE FILE
make_disk() {
	truncate -s "$2" "$3"
	mke2fs -q -t ext4 -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 -J size=4 -d "$1" "$3"
}

make_images() {
	local work new=$out.new
	work=$(mktemp -d "$lab_cache/disk-root.XXXXXX")
	# shellcheck disable=SC2064 # this very directory
	trap "rm -rf '$work'" EXIT
	rm -rf "$new"
	mkdir -p "$new" "$work/empty"
	unpack_packages "$work/all" "$work/debian.list"
	make_root "$work/all" "$work/root"
	gcc -std=gnu17 -O2 -Wall -static -D_GNU_SOURCE -I"$top" "$lab_tests/disk/ledger.c" -o "$work/root/bin/ledger"
	cp "$lab_tests/addresses.sh" "$work/root/etc/"
	install "$lab_tests/disk/guest-init" "$work/root/bin/guest-init"
	fill_database "$work/root"
	make_disk "$work/root/data" $data_size "$new/data.raw"
	rm -rf "$work/root/data/pg"
	make_disk "$work/empty" $scratch_size "$new/scratch.raw"
	make_disk "$work/root" "$(($(du -sm "$work/root" | cut -f1) * 17 / 16 + 8))M" "$new/root.raw"
	make_initrd "$work" "$new/initrd"
	cp "$guest/vmlinuz" "$new/"
	mv "$work/root" "$new/tree"
	stamp > "$new/stamp"
	rm -rf "$out"
	mv "$new" "$out"
}

stamp() {
	recipe_stamp "$lab_tests"/{disk-image.sh,addresses.sh,debian.sh} "$lab_tests"/disk/{init,guest-init,ledger.c} \
		"$guest/stamp"
}

[ "${1:-}" = --make ] || "$lab_tests/guest-image.sh"
make_once make_images "making the disks of a small guest (${out##*/})" "${1:-}"
