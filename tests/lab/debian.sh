# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Where this machine's apt gets Debian from, in the form that mmdebstrap reads.

# This machine's own Debian archives.
debian_sources() {
	# shellcheck disable=SC2016 # apt replaces these, not the shell
	apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' \
		'Created-By: Packages' 'Origin: Debian' | grep -E ' bookworm(-updates|-security)? main$' |
		sort -u
}

# Proxies and the like that this machine's apt was told.
apt_options() {
	apt-config dump | grep -E '^Acquire::(http|https|ftp|Check-|Retries)' || true
}

# debian_lists FILE: the archives into FILE, apt's options into FILE.conf.
debian_lists() {
	debian_sources > "$1"
	[ -s "$1" ] || { apt-get update; debian_sources > "$1"; }
	[ -s "$1" ] || die "apt knows no Debian 12 archive: look at /etc/apt/sources.list.d"
	apt_options > "$1.conf"
}
