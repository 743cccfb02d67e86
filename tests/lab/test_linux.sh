#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A stock Linux guest outlives its host: the demo, with an early power cut and a short afterplay.
set -euo pipefail
here=$(dirname "$0")
export DEMO_DIR=${DEMO_DIR:-$here/../../build/lab/test_linux}
KILL_AFTER=${KILL_AFTER:-4} AFTER_TAKEOVER=4 exec "$here/demo.sh"
