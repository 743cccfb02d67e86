# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154 # rhea.sh has the paths
# The two hosts' own disks, in a lab: they can fail, and what is written to them is recorded.
#
# A host's /dev/vdc holds one ext4 with all that must outlive its power: images, journal, activity log, grants. Between
# the two are dm-flakey, which lets writes fail or vanish, and above it dm-log-writes, which says in which order
# they came and what was flushed. The guest's system is on /dev/vda, which nobody writes; /dev/vdb takes the log.
#
#   stores_begin              both hosts on, their stores mounted at /store
#   store_again HOST          the same for a host whose power was cut; its log goes on in a new file
#   store_fails HOST HOW      from now on writes fail (error_writes) or vanish (drop_writes); "" heals
#   store_mark HOST TEXT      a line in the log of its writes, behind all that is there
#   store_keep HOST DIR       disk as it was and log as it is, into DIR

# shellcheck source=tests/lab/rhea.sh
. "${BASH_SOURCE[0]%/*}/../rhea.sh"

disk_image=$lab_cache/disk
store_data=raw # the format of the guest's first disk: raw, or vhd
store_size=224M log_size=1G

# The images and an empty place for rhead's state, as a file system.
stores_make() {
	local dir=$lab_dir/store host
	mkdir -p "$dir/state"
	"$B/rheactl" image convert "$disk_image/data.raw" "$dir/data.$store_data"
	"$B/rheactl" image convert "$disk_image/scratch.raw" "$dir/scratch.vhd"
	for host in a b; do
		truncate -s $store_size "$lab_dir/$host.store"
		mke2fs -q -t ext4 -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 -J size=8 -d "$dir" "$lab_dir/$host.store"
		cp --sparse=always "$lab_dir/$host.store" "$lab_dir/$host.begin"
	done
	rm -r "$dir"
}

store_power_on() {
	local host=$1
	truncate -s 0 "$lab_dir/$host.log-writes"
	truncate -s $log_size "$lab_dir/$host.log-writes"
	host_extra[$host]="-drive file=$disk_image/root.raw,format=raw,if=virtio,readonly=on
		-drive file=$lab_dir/$host.log-writes,format=raw,if=virtio,cache=unsafe"
	host_start "$host" "$lab_dir/$host.store"
}

flakey_table() { # "" | error_writes | drop_writes, "\$n" is the host's to put in
	echo "0 \$n flakey /dev/vdc 0 $([ -n "$1" ] && echo "0 1 1 $1" || echo "1 0")"
}

store_mount() {
	host_run "$1" "modprobe -a dm-flakey dm-log-writes ext4 && export DM_DISABLE_UDEV=1 && mkdir /store &&
		n=\$(blockdev --getsz /dev/vdc) &&
		dmsetup create flaky --table \"$(flakey_table "")\" &&
		dmsetup create logged --table \"0 \$n log-writes /dev/mapper/flaky /dev/vdb\" &&
		mount -t ext4 -o noatime /dev/mapper/logged /store"
}

stores_begin() {
	local host
	for host in a b; do
		store_power_on $host
	done
	rhea_etcd
	for host in a b; do
		host_wait $host
		store_mount $host || die "host $host does not mount its store"
	done
}

store_again() {
	store_power_on "$1"
	host_wait "$1"
	store_mount "$1" || die "host $1 does not mount its store any more"
}

store_fails() {
	host_run "$1" "export DM_DISABLE_UDEV=1; n=\$(blockdev --getsz /dev/vdc)
		dmsetup reload flaky --table \"$(flakey_table "$2")\" && dmsetup suspend --nolockfs --noflush flaky &&
		dmsetup resume flaky"
}

store_mark() {
	host_run "$1" "DM_DISABLE_UDEV=1 dmsetup message logged 0 mark $2"
}

store_config() {
	rhea_config | sed -e "s|kernel = \"[^\"]*\"|kernel = \"$disk_image/vmlinuz\"|" \
		-e "s|initrd = \"[^\"]*\"|initrd = \"$disk_image/initrd\"|" \
		-e 's|disks = .*|disks = (\
			{ path = "/dev/vda"; serial = "root"; read_only = true; },\
			{ path = "/store/data.'$store_data'"; serial = "data"; format = "'$store_data'"; },\
			{ path = "/store/scratch.vhd"; serial = "scratch"; format = "vhd"; } );\
		  disk_buffer = "8M"; journal_size = "16M";|'
}
