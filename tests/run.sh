#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs test suites: one line a test, what it printed if it failed, and one closing line of counts.
#   B=build/out run.sh unit|native|lab...
#     unit     each tests/unit/test_*.c, and the self-test of the layer check
#     native   each tests/native/test_*, on this machine's /dev/kvm, or in an emulated host
#              when there is none
#     lab      each tests/lab/test_*.sh, on two emulated hosts
# A test is a program that exits 0. What it needs and does not find is a failure: nothing is
# skipped. A unit test program counts as as many tests as it ran.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export B=${B:-build/out}
log=$(mktemp)
counts=${RHEA_TEST_COUNTS:-$log.counts} # a line a test: how many cases passed, how many failed
trap 'rm -f "$log"; [ -n "${RHEA_TEST_COUNTS-}" ] || rm -f "$counts"' EXIT
trap 'exit 130' INT TERM

# told WHAT... : on stdout and in one piece, whoever else is printing.
told() {
	exec 9>> "$counts"
	flock 9
	printf '%s\n' "$@"
	exec 9>&-
}

# run_test NAME SECONDS COMMAND...    With $void set, once more if the exit status is that.
run_test() {
	local name=$1 limit=$2 began=$EPOCHREALTIME status seconds cases what
	shift 2
	timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1 < /dev/null
	status=$?
	seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
	cases=$(awk '$1 == "tests" && NF == 6 { n = $4 } END { print n + 0 }' "$log")
	[ "$cases" -gt 0 ] || cases=1
	if [ $status = "${void:-0}" ] && [ $status != 0 ]; then
		void=
		told "$(printf 'void    %-36s      %6s s  (begun again)' "$name" "$seconds")" "$(tail -n 1 "$log" | sed 's/^/        /')"
		run_test "$name" "$limit" "$@"
		return
	fi
	if [ $status = 0 ]; then
		echo "$cases 0" >> "$counts"
		told "$(printf 'ok      %-36s %3d  %6s s' "$name" "$cases" "$seconds")"
		return
	fi
	echo "0 1" >> "$counts"
	what="exit status $status"
	[ $status != 124 ] || what="no end after $limit s"
	told "$(printf 'FAILED  %-36s      %6s s  (%s)' "$name" "$seconds" "$what")" \
		"$(sed 's/^/        /' "$log" | tail -n 60)"
}

# Several at a time: they share nothing and time nothing.
run_unit() {
	local src
	export RHEA_TEST_COUNTS=$counts
	for src in tests/unit/test_*.c; do
		basename "$src" .c
	done | xargs -n 1 -P "$(nproc)" tests/run.sh unit-one || echo "0 1" >> "$counts"
	unset RHEA_TEST_COUNTS
	run_test unit/layers 30 tests/layers.sh --self-test
}

run_native() {
	local test name
	for test in tests/native/test_*.c tests/native/test_*.sh; do
		[ -e "$test" ] || continue
		name=$(basename "${test%.*}")
		[[ $test = *.sh ]] || test=$B/tests/native/$name
		if [ -c /dev/kvm ]; then
			run_test "native/$name" 480 "$test"
		else
			run_test "native/$name (in the lab)" 900 tests/lab/inside.sh "$test"
		fi
	done
}

run_lab() {
	local test
	for test in tests/lab/test_*.sh; do
		void=75 # of tests/lab/lab.sh: the emulator's fault
		run_test "lab/$(basename "$test" .sh)" 900 "$test"
	done
}

if [ "${1-}" = unit-one ]; then
	run_test "unit/$2" 120 "$B/tests/unit/$2"
	exit
fi
: > "$counts"
[ $# -gt 0 ] || set -- unit native lab
for suite in "$@"; do
	case $suite in
	unit | native | lab) "run_$suite" ;;
	*)
		echo "no suite is called $suite" >&2
		exit 2
		;;
	esac
done
awk '{ passed += $1; failed += $2 } END {
	print passed + 0 " passed, " failed + 0 " failed"; exit failed > 0 || passed == 0 }' "$counts"
