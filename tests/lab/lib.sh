# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034 # the paths are for those who source this
# What all lab scripts share: paths, messages with progress, cached build steps.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
B=${B:-build/out}
[[ $B = /* ]] || B=$top/$B
lab_cache=$top/build/lab
lab_tests=$top/tests/lab

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

now_ms() {
	echo $((${EPOCHREALTIME/./} / 1000))
}

lab_began_ms=$(now_ms)

# A message with the seconds since the script began.
say() {
	printf '%6.1f s  %s\n' "$(seconds_since "$lab_began_ms")" "$*"
}

seconds_since() {
	local d=$(($(now_ms) - $1))
	printf '%d.%03d' $((d / 1000)) $((d % 1000))
}

# step "text" command...: one line with the time it took; a failure shows what the command printed.
step() {
	local text=$1 log began ok=1
	shift
	log=$(mktemp)
	began=$(now_ms)
	printf '%6.1f s  %s ... ' "$(seconds_since "$lab_began_ms")" "$text"
	"$@" > "$log" 2>&1 < /dev/null || ok=0
	if [ $ok = 1 ]; then
		printf '%.1f s\n' "$(seconds_since "$began")"
	else
		printf 'FAILED\n'
		tail -n 40 "$log" >&2
	fi
	rm -f "$log"
	[ $ok = 1 ]
}

# Whether nothing that is waited for will ever come; for who knows such a thing.
hopeless() { false; }

# wait_until SECONDS command...: polls, every $poll seconds if set, what nothing can signal to a shell.
wait_until() {
	local end=$(($(now_ms) + $1 * 1000)) ask=$((SECONDS + 10))
	shift
	until "$@"; do
		[ "$(now_ms)" -lt $end ] || return 1
		if [ $SECONDS -ge $ask ]; then # seldom: it costs more than a look at what is waited for
			ask=$((SECONDS + 10))
			! hopeless || return 1
		fi
		sleep "${poll:-0.05}"
	done
}

# The content of @files as one word: what a cached result was made from.
recipe_stamp() {
	cat "$@" | sha256sum | cut -c1-16
}

# make_once FUNCTION "text" ARG: the end of a script that makes something cached in $out. Called
# plainly it runs itself again with --make, in a process of its own, so that `set -e` holds there;
# the lock makes a second script wait and then find the result. Needs the script's stamp().
make_once() {
	if [ "$3" = --make ]; then
		"$1"
		return
	fi
	mkdir -p "$lab_cache"
	exec 9> "${out:?}.lock"
	flock 9
	[ "$(cat "$out/stamp" 2>/dev/null)" = "$(stamp)" ] || step "$2" "$BASH" "$0" --make
	exec 9>&-
}
