#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The same as test_linux, the checkpoints going by RDMA.
set -euo pipefail
here=$(dirname "$0")
export DEMO_DIR=${DEMO_DIR:-$here/../../build/lab/test_linux_rdma} TRANSPORT=rdma
KILL_AFTER=${KILL_AFTER:-4} AFTER_TAKEOVER=4 exec "$here/demo.sh"
