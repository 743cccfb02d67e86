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
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

# run_test NAME SECONDS COMMAND...
run_test() {
	local name=$1 limit=$2 began=$EPOCHREALTIME status seconds cases what
	shift 2
	timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1 < /dev/null
	status=$?
	seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
	cases=$(awk '$1 == "tests" && NF == 6 { n = $4 } END { print n + 0 }' "$log")
	[ "$cases" -gt 0 ] || cases=1
	if [ $status = 0 ]; then
		passed=$((passed + cases))
		printf 'ok      %-36s %3d  %6s s\n' "$name" "$cases" "$seconds"
		return
	fi
	failed=$((failed + 1))
	what="exit status $status"
	[ $status != 124 ] || what="no end after $limit s"
	printf 'FAILED  %-36s      %6s s  (%s)\n' "$name" "$seconds" "$what"
	sed 's/^/        /' "$log" | tail -n 60
}

run_unit() {
	local src name
	for src in tests/unit/test_*.c; do
		name=$(basename "$src" .c)
		run_test "unit/$name" 120 "$B/tests/unit/$name"
	done
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
		run_test "lab/$(basename "$test" .sh)" 600 "$test"
	done
}

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
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
