/* SPDX-License-Identifier: Apache-2.0
 * cmd_heartbeat - the heartbeat paths as JSON, also for the status.
 */
#ifndef CTL_CMD_HEARTBEAT_H
#define CTL_CMD_HEARTBEAT_H

#include <jansson.h>

struct host;

/* Returns an owned array, or NULL: out of memory. */
json_t *cmd_heartbeat_paths(const struct host *h);

#endif
