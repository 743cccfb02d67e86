/* SPDX-License-Identifier: Apache-2.0
 * rhead - the daemon of one host: pairs it with its peer and keeps VMs alive between them.
 */
#include "ctl/config.h"
#include "ctl/host.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum { EXIT_USAGE = 2 };

struct options {
	const char *config, *host, *run_dir, *state_dir, *libexec, *modules;
	int check, verbose;
	const char *say; /* print it and be done: --help, --version */
};

static const char usage[] =
	"usage: rhead -c FILE [--host NAME] [--run-dir DIR] [--state-dir DIR] [--libexec FILE]\n"
	"             [--modules DIR] [-v]\n"
	"       rhead --check -c FILE [--host NAME]\n";

static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
					      {"host", required_argument, NULL, 'H'},
					      {"run-dir", required_argument, NULL, 'r'},
					      {"state-dir", required_argument, NULL, 's'},
					      {"libexec", required_argument, NULL, 'l'},
					      {"modules", required_argument, NULL, 'm'},
					      {"check", no_argument, NULL, 'k'},
					      {"verbose", no_argument, NULL, 'v'},
					      {"version", no_argument, NULL, 'V'},
					      {"help", no_argument, NULL, 'h'},
					      {NULL, 0, NULL, 0}};
	int c;

	*o = (struct options){.run_dir = "/run/rhea",
			      .state_dir = "/var/lib/rhea",
			      .modules = RHEA_MODULE_DIR};
	while ((c = getopt_long(argc, argv, "c:vh", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case 'H':
			o->host = optarg;
			break;
		case 'r':
			o->run_dir = optarg;
			break;
		case 's':
			o->state_dir = optarg;
			break;
		case 'l':
			o->libexec = optarg;
			break;
		case 'm':
			o->modules = optarg;
			break;
		case 'k':
			o->check = 1;
			break;
		case 'v':
			o->verbose = 1;
			break;
		case 'V':
			o->say = "rhead " RHEA_VERSION "\n";
			break;
		case 'h':
			o->say = usage;
			break;
		default:
			return EXIT_USAGE; /* getopt said what is wrong */
		}
	}
	if (o->say || (optind == argc && o->config))
		return 0;
	(void)fprintf(stderr, "rhead: %s; see rhead --help\n",
		      o->config ? "it takes no arguments, only options"
				: "-c FILE is missing");
	return EXIT_USAGE;
}

/* Beside rhead itself (a build tree), else ../libexec/rhea from there (installed). */
static const char *find_vm_program(char path[PATH_MAX])
{
	static const char *const places[] = {"rhea-vm", "../libexec/rhea/rhea-vm"};
	char dir[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
	char *slash;

	dir[n > 0 ? n : 0] = 0;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
	path[0] = 0;
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (snprintf(path, PATH_MAX, "%s/%s", dir, places[i]) < PATH_MAX &&
		    !access(path, X_OK))
			break;
	return path; /* the last place is named in the error when nothing is there */
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	log_info("%s: ending", strsignal((int)sig));
	(void)sd_notify(0, "STOPPING=1"); /* nobody may be listening */
	host_leave(arg);
}

/* systemd starts rhead anew when the loop stands still for too long. */
static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
	(void)sd_notify(0, "WATCHDOG=1"); /* nobody may be listening */
}

struct timers {
	struct event *term, *intr, *watchdog;
};

static void timers_fini(struct timers *t)
{
	if (t->term)
		event_free(t->term);
	if (t->intr)
		event_free(t->intr);
	if (t->watchdog)
		event_free(t->watchdog);
}

static int timers_init(struct timers *t, struct loop *loop, struct host *h)
{
	struct event_base *b = loop_base(loop);
	struct timeval every = {0};
	uint64_t us = 0;

	t->term = evsignal_new(b, SIGTERM, on_signal, h);
	t->intr = evsignal_new(b, SIGINT, on_signal, h);
	t->watchdog = event_new(b, -1, EV_PERSIST, on_watchdog, NULL);
	if (!t->term || !t->intr || !t->watchdog || event_add(t->term, NULL) ||
	    event_add(t->intr, NULL))
		return -ENOMEM;
	if (sd_watchdog_enabled(0, &us) <= 0)
		return 0;
	every.tv_sec = (time_t)(us / 2 / 1000000);
	every.tv_usec = (suseconds_t)(us / 2 % 1000000);
	return event_add(t->watchdog, &every) ? -ENOMEM : 0;
}

/* The loop's first turn: all is set up. */
static void on_ready(void *arg)
{
	const struct config *cfg = arg;

	log_info("rhead " RHEA_VERSION " on host %s, peer %s, %u VMs",
		 config_self(cfg)->name, config_peer(cfg)->name, cfg->n_vms);
	(void)sd_notify(0, "READY=1"); /* nobody may be listening */
}

static int serve(const struct config *cfg, const struct host_opts *opts, struct err *err)
{
	struct timers t = {0};
	struct loop *loop = NULL;
	struct host *h = NULL;
	int rc;

	rc = loop_create(&loop, err);
	if (!rc)
		rc = host_create(cfg, loop, opts, &h, err);
	if (!rc && (timers_init(&t, loop, h) || loop_post(loop, on_ready, (void *)cfg)))
		rc = err_set(err, -ENOMEM, "out of memory");
	if (!rc) {
		rc = loop_run(loop);
		if (rc)
			(void)err_sys(err, rc,
				      "the event loop failed"); /* rc is returned */
	}
	timers_fini(&t);
	host_destroy(h);
	loop_destroy(loop);
	return rc;
}

/* Only pages that were touched: whole stacks of threads that use a tenth of them would be
 * a waste, and what was never touched cannot have been swapped out. */
static void lock_memory(void)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		log_warn("memory is not locked (%s): swapping may delay heartbeats",
			 strerror(errno));
}

int main(int argc, char **argv)
{
	struct config *cfg = NULL;
	char vm_program[PATH_MAX];
	struct host_opts opts;
	struct err err = {0};
	struct options o;
	int rc;

	rc = parse_options(argc, argv, &o);
	if (rc || o.say)
		return rc ? rc : fputs(o.say, stdout) < 0;
	log_init("rhead", NULL, o.verbose ? LOG_LVL_DEBUG : LOG_LVL_INFO);
	rc = config_load(o.config, o.host, 0, &cfg, &err);
	if (!rc && o.check) {
		printf("%s: ok, host %s of pair %s, %u VMs\n", o.config,
		       config_self(cfg)->name, cfg->pair, cfg->n_vms);
	} else if (!rc) {
		opts = (struct host_opts){
			.run_dir = o.run_dir,
			.state_dir = o.state_dir,
			.module_dir = o.modules,
			.vm_program = o.libexec ? o.libexec : find_vm_program(vm_program),
			.log = o.verbose ? "debug" : "info"};
		(void)signal(SIGPIPE, SIG_IGN); /* cannot fail for a valid signal */
		lock_memory();
		rc = serve(cfg, &opts, &err);
	}
	if (rc)
		(void)fprintf(stderr, "rhead: %s\n",
			      err.msg); /* nowhere else to say it */
	config_free(cfg);
	return rc ? EXIT_FAILURE : 0;
}
