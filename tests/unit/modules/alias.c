/* SPDX-License-Identifier: Apache-2.0
 * alias - a module under the name of another one.
 */
#include "replication/module.h"

extern const struct tp_module rhea_tp_module;
const struct tp_module rhea_tp_module = {.version = TP_MODULE_VERSION, .name = "tiny"};
