/* SPDX-License-Identifier: Apache-2.0
 * old - a module of another release.
 */
#include "replication/module.h"

extern const struct tp_module rhea_tp_module;
const struct tp_module rhea_tp_module = {.version = TP_MODULE_VERSION + 1, .name = "old"};
