#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh - all figures, each beside its floor of the same run; into build/bench/.
set -eu
out=${B:-build/out}
mkdir -p build/bench
echo "The pause of a checkpoint, natively; floor = read the dirty log and copy the pages."
"$out/tests/bench/pause" "$out/tests/guest/guest.elf" build/bench/pause.json "$@"
echo "written: build/bench/pause.json"
