#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Who may include whom: the table of folders in DESIGN.md, held against every #include.
#   layers.sh               exit status 1 and one line for each include that breaks it
#   layers.sh --self-test   shows that it goes red for each kind of breach
set -euo pipefail
cd "$(dirname "$0")/.."

# The innermost folder of the table that a path is in.
layer_of() {
	case $1 in
	hv/base/*) echo hv/base ;;
	*/*) echo "${1%%/*}" ;;
	*) echo none ;;
	esac
}

# may_include FOLDER HEADER: "from remus only participant.h" is the one rule below a folder.
may_include() {
	local from=$1 to
	to=$(layer_of "$2")
	case "$from:$to" in
	tests:* | ctl:hv/base | ctl:hv | ctl:replication | ctl:remus | ctl:netbuf | ctl:diskrep) ;;
	hv/base:hv/base | hv:hv/base | hv:hv) ;;
	replication:hv/base | replication:replication) ;;
	remus:hv/base | remus:hv | remus:replication | remus:remus) ;;
	netbuf:hv/base | netbuf:hv | netbuf:netbuf) ;;
	diskrep:hv/base | diskrep:hv | diskrep:replication | diskrep:diskrep) ;;
	ctl:ctl) ;;
	netbuf:remus | diskrep:remus) [ "$2" = remus/participant.h ] ;;
	*) return 1 ;;
	esac
}

# check_tree DIR: every "..." include of the C files below DIR.
check_tree() {
	local bad=0 file number header
	while IFS=: read -r file number header; do
		header=${header#*\"}
		header=${header%%\"*}
		if ! may_include "$(layer_of "$file")" "$header"; then
			echo "$file:$number: $(layer_of "$file")/ may not include \"$header\""
			bad=1
		elif [ ! -e "$1/$header" ]; then
			echo "$file:$number: \"$header\" is not a path from the top folder"
			bad=1
		fi
	done < <(cd "$1" && grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' \
		--include='*.[chS]' hv replication remus netbuf diskrep ctl tests)
	return $bad
}

# expect red|green FILE HEADER, in a tree with that one include.
expect() {
	local tree=$work/tree got=green
	rm -rf "$tree"
	mkdir -p "$tree"/{hv/base,replication,remus,netbuf,diskrep,ctl,tests}
	mkdir -p "$tree/$(dirname "$2")" "$tree/$(dirname "$3")"
	[ "${4:-}" = missing ] || : > "$tree/$3"
	printf '#include <stdio.h>\n#include "%s"\n' "$3" > "$tree/$2"
	check_tree "$tree" > /dev/null || got=red
	[ $got = "$1" ] || {
		echo "$2 including $3 ${4:-} is $got, should be $1"
		return 1
	}
}

self_test() {
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	expect green hv/a.c hv/base/err.h
	expect green remus/a.c replication/record.h
	expect green netbuf/a.c remus/participant.h
	expect green ctl/a.c diskrep/diskrep.h
	expect green tests/unit/a.c ctl/config.h
	expect red hv/base/a.c hv/vm.h
	expect red hv/a.c remus/primary.h
	expect red replication/a.c hv/vm.h
	expect red replication/a.c remus/participant.h
	expect red remus/a.c netbuf/netbuf.h
	expect red netbuf/a.c remus/primary.h
	expect red netbuf/a.c replication/record.h
	expect red diskrep/a.c remus/standby.h
	expect red ctl/a.c tests/unit/unit.h
	expect red hv/a.c err.h
	expect red hv/a.c hv/gone.h missing
}

if [ "${1:-}" = --self-test ]; then
	self_test
else
	check_tree .
fi
