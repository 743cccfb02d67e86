#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the guest that is protected: a Debian 12 disk image with redis, and its kernel and initrd.
#   guest-image.sh     build/lab/guest/{disk.raw,vmlinuz,initrd}; at once when they are up to date
#   GUEST_IMAGE=workloads guest-image.sh     build/lab/workloads/...: with more in it, see there
# The packages come from where this machine's apt gets Debian. The kernel is installed inside the
# image, so that Debian's own scripts make its initrd.
set -euo pipefail
# shellcheck source=tests/lab/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
# shellcheck source=tests/lab/addresses.sh
. "$lab_tests/addresses.sh"
# shellcheck source=tests/lab/debian.sh
. "$lab_tests/debian.sh"

out=$lab_cache/${GUEST_IMAGE:-guest}
recipe=("$lab_tests"/{guest-image,addresses,debian}.sh)
image_size=400M
packages=(systemd-sysv udev acpid login passwd iproute2 redis-server linux-image-cloud-amd64
	initramfs-tools zstd)
# Jobs that a short-lived guest has no use for; each would only make its boot longer, and an
# emulated processor takes seconds where a real one takes milliseconds.
masked=(apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service
	fstrim.timer dpkg-db-backup.timer systemd-tmpfiles-clean.timer logrotate.timer
	getty@tty1.service systemd-random-seed.service systemd-update-utmp.service
	systemd-update-utmp-runlevel.service systemd-pstore.service systemd-timesyncd.service
	systemd-sysusers.service systemd-networkd.service systemd-binfmt.service
	modprobe@drm.service modprobe@configfs.service modprobe@dm_mod.service
	modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service
	dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
	sys-kernel-config.mount sys-fs-fuse-connections.mount
	proc-sys-fs-binfmt_misc.automount systemd-journal-flush.service
	systemd-logind.service dbus.service dbus.socket acpid.path
	systemd-ask-password-console.path systemd-ask-password-wall.path getty-static.service
	systemd-modules-load.service kmod-static-nodes.service systemd-sysctl.service)
generators=(bless-boot cryptsetup debug gpt-auto hibernate-resume integritysetup rc-local run
	system-update sysv veritysetup network)

# add_workloads ROOT: what another image has beside the demo's.
add_workloads() { :; }
if [ "${GUEST_IMAGE:-guest}" = workloads ]; then
	# shellcheck source=tests/lab/guest-workloads.sh
	. "$lab_tests/guest-workloads.sh"
	recipe+=("$lab_tests/guest-workloads.sh")
fi

configure_guest() {
	local root=$1 unit
	echo guest > "$root/etc/hostname"
	printf '127.0.0.1 localhost\n%s guest\n' "$guest_ip" > "$root/etc/hosts"
	echo '/dev/vda / ext4 rw,noatime,errors=remount-ro 0 0' > "$root/etc/fstab"
	cat > "$root/etc/systemd/system/guest-address.service" <<-N
		[Unit]
		Description=The address that clients know
		DefaultDependencies=no
		Wants=network.target sys-subsystem-net-devices-eth0.device
		After=sys-subsystem-net-devices-eth0.device
		Before=network.target
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/bin/ip address add $guest_ip/24 dev eth0
		ExecStart=/bin/ip link set eth0 up
		[Install]
		WantedBy=multi-user.target
	N
	# The power button without logind, which needs D-Bus: two more services to wait for. Forced: all
	# processes are told to end and the disk is unmounted, but no unit is stopped one by one.
	printf 'event=button/power.*\naction=/bin/systemctl --force poweroff\n' \
		> "$root/etc/acpi/events/power"
	chroot "$root" systemctl -q enable guest-address.service redis-server.service acpid.service
	chroot "$root" systemctl -q set-default multi-user.target
	mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system-generators"
	printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/guest.conf"
	for unit in "${generators[@]}"; do
		ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$unit-generator"
	done
	sed -i -e 's/^bind .*/bind 0.0.0.0/' -e 's/^protected-mode .*/protected-mode no/' \
		-e 's/^appendonly .*/appendonly yes/' "$root/etc/redis/redis.conf"
	for unit in "${masked[@]}"; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
	# Whoever has the console of a test guest may log in.
	chroot "$root" passwd -q -d root
}

# Debian's initrd with what this machine's hypervisor shows, instead of drivers for every machine.
make_initrd() {
	local root=$1
	echo 'MODULES=list' > "$root/etc/initramfs-tools/conf.d/guest"
	printf '%s\n' virtio_pci virtio_blk ext4 >> "$root/etc/initramfs-tools/modules"
	chroot "$root" update-initramfs -u -k all > /dev/null
	cp -L "$root/initrd.img" "$2"
}

# What only takes room: the disk is read by two hosts again and again.
trim_guest() {
	local root=$1
	rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
	# The kernel and the initrd come from outside, and this guest has few devices.
	rm -f "$root"/boot/{vmlinuz,initrd.img,System.map,config}-*
	find "$root"/usr/lib/modules/*/kernel/fs -mindepth 1 -maxdepth 1 ! -name autofs -exec rm -r {} +
	rm -rf "$root"/usr/lib/modules/*/kernel/drivers/{comedi,gpu,hid,infiniband,md,scsi,target} \
		"$root"/usr/lib/modules/*/kernel/net/{bridge,netfilter,sched,sunrpc}
	# Names of devices that it will never have, character sets, and what only packages' scripts use.
	rm -rf "$root"/usr/lib/udev/hwdb.* "$root"/usr/share/perl \
		"$root"/usr/lib/x86_64-linux-gnu/{gconv,perl,libperl.so*}
	mkdir -p "$root/var/cache/apt/archives/partial"
}

make_guest() {
	local work new=$out.new sources
	work=$(mktemp -d "$lab_cache/guest-root.XXXXXX")
	# shellcheck disable=SC2064 # this very directory
	trap "rm -rf '$work'" EXIT
	rm -rf "$new"
	mkdir -p "$new"
	sources=$work/debian.list
	debian_lists "$sources"
	mmdebstrap --mode=root --variant=minbase --format=directory --skip=cleanup/apt \
		--aptopt="$sources.conf" --include="$(IFS=,; echo "${packages[*]}")" \
		bookworm "$work/root" "$sources"
	cp -L "$work/root/vmlinuz" "$new/vmlinuz"
	make_initrd "$work/root" "$new/initrd"
	configure_guest "$work/root"
	add_workloads "$work/root"
	trim_guest "$work/root"
	truncate -s "$image_size" "$new/disk.raw"
	mke2fs -q -t ext4 -E lazy_itable_init=0 -L guest \
		-d "$work/root" "$new/disk.raw"
	stamp > "$new/stamp"
	rm -rf "$out"
	mv "$new" "$out"
}

stamp() {
	recipe_stamp "${recipe[@]}"
}

make_once make_guest "making the guest's Debian 12 disk image (${out##*/})" "${1:-}"
