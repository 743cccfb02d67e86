#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs one program of this checkout on an emulated host, for machines that have no /dev/kvm.
#   inside.sh PROGRAM [ARGS...]       its output and exit status are those of the program
set -euo pipefail
# shellcheck source=tests/lab/lab.sh
. "${BASH_SOURCE[0]%/*}/lab.sh"
lab_begin
host_start a
host_wait a
host_run a "cd '$top' && B='$B' $*"
