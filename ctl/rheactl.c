/* SPDX-License-Identifier: Apache-2.0
 * rheactl - what people type to see and steer Rhea; speaks to rhead.
 */
#include "ctl/rheactl.h"

#include <stdio.h>
#include <string.h>

static const char help[] =
	"usage: rheactl [--socket PATH] [--json] [--watch[=SECONDS]] COMMAND\n"
	"  status                          this host, its peer, the VMs, what may be lost\n"
	"  heartbeat                       the paths to the peer\n"
	"  stats VM                        all counters of a VM (JSON)\n"
	"  vm start VM                     switch it on\n"
	"  vm stop VM [--force]            press its power button; --force: pull the plug\n"
	"  vm suspend VM                   save the guest on both hosts, and switch it off\n"
	"  vm resume VM                    go on from there, on either host\n"
	"  vm start VM --discard           boot, and forget the suspended guest\n"
	"  vm console VM                   its console; Ctrl-] leaves\n"
	"  failover VM                     let the other host take over, in good order\n"
	"  failover VM --override WORDS [--cold]\n"
	"                                  take over because you know that the other is dead\n"
	"  events [--follow] [--count N] [--after ID] [VM]\n"
	"  disk list VM                    its disks: sizes, formats, files\n"
	"  disk resize VM DISK [SIZE]      let a disk grow while the VM runs\n"
	"  disk verify VM [--repair]       compare both hosts' disks while the VM runs\n"
	"  disk resync-rate VM BYTES       how fast a sync of disks may be; 0: no limit\n"
	"  drill run kill-vm|stop-vm|cut-link VM [--force]\n"
	"                                  hurt it on purpose and measure how it goes on\n"
	"  snapshot create VM NAME [--memory]\n"
	"                                  its disks as they are now, on both hosts; its memory, too\n"
	"  snapshot list VM\n"
	"  snapshot revert VM NAME [--force] [--no-start]\n"
	"                                  stop it (--force: at once), and start it from there\n"
	"  snapshot delete VM NAME         while it runs; what is needed of it is kept\n"
	"  drill run path VM PATH cut|stall|delay=MS [--for SECONDS] [--force]\n"
	"                                  hurt one path of its link for a while (3 s)\n"
	"  link test [VM] [--path NUMBER|TRANSPORT] [--seconds N]\n"
	"                                  what each path to the peer carries\n"
	"  pair [--check] [--replace] [--config] HOST\n"
	"                                  give this host and HOST, over ssh, the same key\n"
	"  image create IMAGE --size SIZE [--type fixed|dynamic] | --parent IMAGE2\n"
	"  image info|check IMAGE          a disk image and its chain (JSON)\n"
	"  image repair IMAGE [--parent IMAGE2]\n"
	"  image resize IMAGE --size SIZE [--shrink]\n"
	"  image convert IMAGE NEW [--from F] [--to F] [--type fixed|dynamic]\n"
	"                                  between raw, vhd, qcow2 and vmdk\n"
	"  image snapshot IMAGE NEW        freeze it as NEW, go on in a child of that\n"
	"  image clone IMAGE NEW           NEW is a child of IMAGE\n"
	"  image revert IMAGE [TO]         back to what its parent, or TO, holds\n"
	"  image coalesce IMAGE            merge it with its parent\n"
	"  image export IMAGE [--since IMAGE2] [--listen PATH|ADDRESS:PORT] [--once]\n"
	"                                  serve it by NBD, read only, to backup programs\n"
	"  image changed IMAGE --since IMAGE2\n"
	"                                  what changed in between\n"
	"  version, help\n"
	"exit status: 0 done, 1 refused or failed, 2 usage, 3 rhead does not answer\n";

static int run_help(struct rc *rc, int argc, char **argv)
{
	return fputs(help, stdout) < 0 ? RC_FAILED : RC_OK;
}

static int run_version(struct rc *rc, int argc, char **argv)
{
	json_t *o;
	int status;

	printf("rheactl %s\n", RHEA_VERSION);
	o = rc_ask(rc, json_pack("{s:s}", "cmd", "ping"), &status);
	if (o)
		printf("rhead %s on host %s\n", rc_str(o, "version"), rc_str(o, "host"));
	json_decref(o);
	return status;
}

int rheactl_stats(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS, {NULL, 0, NULL, 0}};
	int c, status;
	json_t *o;

	while ((c = getopt_long(argc, argv, "jw::s:h", longs, NULL)) != -1)
		if (rc_option(rc, c))
			return rc_usage("stats VM");
	if (argc - optind != 1)
		return rc_usage("stats VM");
	o = rc_ask(rc, json_pack("{s:s,s:s}", "cmd", "stats", "vm", argv[optind]),
		   &status);
	if (o)
		rc_print_json(o, 0);
	json_decref(o);
	return status;
}

static const struct {
	const char *name;
	int (*run)(struct rc *rc, int argc, char **argv);
} commands[] = {
	{"status", rheactl_status},
	{"heartbeat", rheactl_heartbeat},
	{"vm", rheactl_vm},
	{"events", rheactl_events},
	{"failover", rheactl_failover},
	{"disk", rheactl_disk},
	{"drill", rheactl_drill},
	{"link", rheactl_link},
	{"pair", rheactl_pair},
	{"image", rheactl_image},
	{"snapshot", rheactl_snapshot},
	{"stats", rheactl_stats},
	{"version", run_version},
	{"help", run_help},
};

static int run_command(struct rc *rc, int argc, char **argv)
{
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[0], commands[i].name)) {
			optind = 0; /* getopt starts anew, and may reorder again */
			return commands[i].run(rc, argc, argv);
		}
	return rc_usage("no command \"%s\"", argv[0]);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		RC_OPTIONS, {"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
	struct rc rc = {.socket = RC_SOCKET_DEFAULT, .fd = -1};
	int c, status;

	/* "+": the command's own options are not ours. */
	while ((c = getopt_long(argc, argv, "+jw::s:hV", longs, NULL)) != -1) {
		if (c == 'h')
			return run_help(&rc, 0, NULL);
		if (c == 'V')
			return run_version(&rc, 0, NULL);
		if (rc_option(&rc, c))
			return RC_USAGE;
	}
	if (optind == argc)
		return rc_usage("what should be done?");
	status = run_command(&rc, argc - optind, argv + optind);
	rc_close(&rc);
	return status;
}
