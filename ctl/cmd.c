/* SPDX-License-Identifier: Apache-2.0
 * cmd - the table of commands, and the short ones.
 */
#include "ctl/cmd.h"

#include "ctl/console.h"
#include "ctl/ctlsock.h"
#include "ctl/drill.h"
#include "ctl/host.h"
#include "ctl/linktest.h"
#include "ctl/vmrun.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct vmrun *cmd_vm(struct host *h, struct ctl_conn *c, json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "vm"));
	struct vmrun *v = name ? host_find(h, name) : NULL;

	if (!name)
		ctl_error(c, "the request names no VM (\"vm\")");
	else if (!v)
		ctl_error(c, "no VM \"%s\" in the config; \"rheactl status\" lists them",
			  name);
	return v;
}

json_int_t cmd_int(json_t *req, const char *key, json_int_t min, json_int_t max,
		   json_int_t dflt)
{
	json_t *v = json_object_get(req, key);
	json_int_t n = json_integer_value(v);

	return json_is_integer(v) && n >= min && n <= max ? n : dflt;
}

json_t *cmd_progress(const struct vmrun *v, const char *fmt, ...)
{
	const struct pair *p = vmrun_pair(v);
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cutting is meant */
	va_end(ap);
	return json_pack("{s:s,s:s,s:I}", "progress", text, "state",
			 pair_state_name(p->state), "term", (json_int_t)p->term);
}

static void cmd_ping(struct host *h, struct ctl_conn *c, json_t *req)
{
	ctl_end(c, json_pack("{s:b,s:s,s:s}", "ok", 1, "host", config_self(h->cfg)->name,
			     "version", RHEA_VERSION));
}

/* From here on the socket carries the guest's bytes. */
static void cmd_console(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = cmd_vm(h, c, req);
	struct err err = {0};
	int fd;

	if (!v)
		return;
	if (console_clients(vmrun_console(v)) >= CONSOLE_CLIENTS) {
		ctl_error(c, "%s: %d people are attached to the console; let one leave",
			  vmrun_config(v)->name, CONSOLE_CLIENTS);
		return;
	}
	fd = ctl_detach(
		c, json_pack("{s:b,s:b}", "ok", 1, "running", vmrun_pair(v)->running));
	if (fd >= 0 && console_attach(vmrun_console(v), fd, &err))
		log_warn("%s: console: %s", vmrun_config(v)->name, err.msg);
}

static const struct {
	const char *name;
	void (*run)(struct host *h, struct ctl_conn *c, json_t *req);
} cmds[] = {
	{"ping", cmd_ping},
	{"status", cmd_status},
	{"stats", cmd_stats},
	{"heartbeat", cmd_heartbeat},
	{"vm-start", cmd_vm_start},
	{"vm-stop", cmd_vm_stop},
	{"vm-suspend", cmd_vm_suspend},
	{"vm-resume", cmd_vm_resume},
	{"failover", cmd_failover},
	{"console", cmd_console},
	{"events", cmd_events},
	{"drill", drill_cmd},
	{"link-test", linktest_cmd},
	{"disk-verify", cmd_disk_verify},
	{"disk-resize", cmd_disk_resize},
	{"resync-rate", cmd_resync_rate},
	{"snapshot-create", cmd_snap_create},
	{"snapshot-delete", cmd_snap_delete},
	{"snapshot-revert", cmd_snap_revert},
	{"snapshot-list", cmd_snap_list},
};

void cmd_handle(void *arg, struct ctl_conn *c, json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "cmd"));

	for (unsigned i = 0; i < sizeof(cmds) / sizeof(cmds[0]); i++)
		if (!strcmp(name, cmds[i].name)) {
			cmds[i].run(arg, c, req);
			return;
		}
	ctl_error(
		c,
		"unknown command \"%.40s\"; is rheactl of another version than rhead (%s)?",
		name, RHEA_VERSION);
}
