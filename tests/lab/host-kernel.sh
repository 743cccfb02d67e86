#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes what the emulated hosts boot: Debian's generic kernel, unpacked and never installed here.
#   host-kernel.sh     build/lab/kernel/{vmlinux,initrd,lib/modules,release}; at once when up to date
set -euo pipefail

# shellcheck source=tests/lab/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

out=$lab_cache/kernel
# What a host needs at once; loading it later over 9p would take an emulated host seconds.
initrd_modules=(virtio_pci virtio_net virtio_blk 9pnet_virtio 9p overlay bridge tun kvm_amd)

# The package that a kernel metapackage stands for today.
kernel_package() {
	local real
	real=$(apt-cache depends "$1" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$real" ] && echo "$real"
}

# The lists of a machine may be missing or older than what the archive still serves.
download_kernel() {
	local dir=$1 package
	package=$(kernel_package linux-image-amd64) || return
	mkdir -p "$dir/deb"
	(cd "$dir/deb" && apt-get download "$package") || return
	dpkg -x "$dir"/deb/*.deb "$dir"
	rm -r "$dir/deb"
	echo "${package#linux-image-}" > "$dir/release"
}

# The ELF kernel inside a bzImage: an emulated processor takes seconds to unpack it at each boot.
extract_vmlinux() {
	local offset
	offset=$(LC_ALL=C grep -aboP -m 1 '\xfd7zXZ\x00' "$1" | head -n 1 | cut -d: -f1)
	xz -dc --single-stream < <(tail -c "+$((offset + 1))" "$1")
}

# make_initrd DIR RELEASE: busybox and modules that mount this machine's root.
make_initrd() {
	local dir=$1 release=$2 work m
	work=$(mktemp -d)
	mkdir -p "$work"/{bin,mods,dev,proc,sys,mnt,over,root}
	cp "$(command -v busybox)" "$work/bin/busybox"
	for m in "${initrd_modules[@]}"; do
		modprobe -d "$dir" -S "$release" --show-depends "$m"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' > "$work/list"
	while read -r m; do
		cp "$m" "$work/mods/"
		basename "$m"
	done < "$work/list" > "$work/mods/list"
	cp "$lab_tests/host-initrd" "$work/init"
	cp "$lab_tests/addresses.sh" "$work/addresses.sh"
	chmod +x "$work/init"
	(cd "$work" && find . | cpio -o -H newc | gzip -1) > "$dir/initrd"
	rm -rf "$work"
}

stamp() {
	recipe_stamp "$lab_tests/host-kernel.sh" "$lab_tests/host-initrd" "$lab_tests/addresses.sh"
}

make_kernel() {
	local new=$out.new release
	rm -rf "$out" "$new"
	mkdir -p "$new"
	download_kernel "$new" || { apt-get update && download_kernel "$new"; } ||
		die "cannot download linux-image-amd64: is Debian's main in /etc/apt?"
	release=$(cat "$new/release")
	depmod -b "$new" "$release"
	extract_vmlinux "$new/boot/vmlinuz-$release" > "$new/vmlinux"
	make_initrd "$new" "$release"
	stamp > "$new/stamp"
	mv "$new" "$out"
}

make_once make_kernel "unpacking Debian's kernel for the hosts" "${1:-}"
