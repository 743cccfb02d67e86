/* SPDX-License-Identifier: Apache-2.0
 * tiny - a module that could be loaded and has no device.
 */
#include "replication/module.h"

#include "hv/base/err.h"

#include <errno.h>

static int tiny_open(const char *args, struct tp_dev **dev_out, struct err *err)
{
	return -ENODEV;
}

extern const struct tp_module rhea_tp_module;
const struct tp_module rhea_tp_module = {
	.version = TP_MODULE_VERSION, .name = "tiny", .open = tiny_open};
