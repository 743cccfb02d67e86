#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formatting, clang-tidy, cppcheck and shellcheck over all tracked files. Exit status 1 on any word.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
bad=0

# run NAME COMMAND...
run() {
	local name=$1
	shift
	if "$@"; then
		echo "ok      $name"
	else
		echo "FAILED  $name"
		bad=1
	fi
}

packages=(libevent libevent_pthreads liblz4 libxxhash openssl libconfig jansson liburing
	libnl-route-3.0 libseccomp libcap-ng libsystemd libcurl sqlite3 libdpdk)
mapfile -t c < <(git ls-files '*.c' | grep -v '^tests/guest/')
mapfile -t all < <(git ls-files '*.c' '*.h')
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)

# clang-tidy reads its compiler flags from here. Libraries' headers are the system's: not ours to judge.
mkdir -p build/lint
# shellcheck disable=SC2046 # words are wanted
printf '%s\n' -xc -std=gnu17 -D_GNU_SOURCE '-DRHEA_VERSION="lint"' '-DRHEA_MODULE_DIR="lint"' "-I$PWD" \
	$(pkg-config --cflags "${packages[@]}" | sed 's/-I/-isystem/g') > build/lint/compile_flags.txt

run clang-format clang-format --dry-run -Werror "${all[@]}"
run shellcheck shellcheck -x "${scripts[@]}"
# cppcheck does not read libraries' headers: it is told, as one turn of the loop (a definition
# must do without semicolons), the macro that looks like no C.
each='json_array_foreach(a,i,v)=if((i=0),(v=json_array_get(a,i)))'
run cppcheck cppcheck --quiet -j "$(nproc)" --std=c11 --error-exitcode=1 --inline-suppr \
	--enable=warning,portability --suppress=missingIncludeSystem -D__x86_64__ "-D$each" -I. "${c[@]}"
run clang-tidy xargs -a <(printf '%s\n' "${c[@]}") -n 8 -P "$(nproc)" \
	clang-tidy --quiet -p build/lint --warnings-as-errors='*'
exit $bad
