/* SPDX-License-Identifier: Apache-2.0
 * fuzz_config - any text as a config: a config that keeps all promises, or one line of error.
 */
#include "ctl/config.h"
#include "hv/base/err.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

const char *__asan_default_options(void);

/* libconfig forgets the text of a string that the file ends in, and looking for leaks after each
 * such input would take all the time. Our own leaks are looked for in test_config. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

static void must(int ok)
{
	if (!ok)
		abort();
}

static int ends(const char *text, size_t room)
{
	return memchr(text, '\0', room) != NULL;
}

static void check_vm(const struct config_vm *v)
{
	must(v->name[0] && ends(v->name, sizeof(v->name)) && !strchr(v->name, '/'));
	must(v->host < CONFIG_HOSTS && v->vcpus >= 1 && v->vcpus <= CONFIG_VCPUS_MAX);
	must(v->memory && v->memory % (1 << 20) == 0);
	must(v->interval_us >= 200 && v->min_interval_us <= v->interval_us &&
	     v->inflight);
	must(v->kernel[0] == '/' && ends(v->kernel, sizeof(v->kernel)));
	must(v->n_disks <= CONFIG_DISKS_MAX && v->n_nets <= CONFIG_NETS_MAX);
	for (unsigned i = 0; i < v->n_disks; i++)
		must(v->disks[i].path[0] == '/' &&
		     ends(v->disks[i].serial, CONFIG_SERIAL_MAX));
	for (unsigned i = 0; i < v->n_nets; i++)
		must(v->nets[i].tap[0] && ends(v->nets[i].tap, IFNAMSIZ) &&
		     !(v->nets[i].mac[0] & 1));
}

static void check(const struct config *c)
{
	must(c->pair[0] && ends(c->pair, sizeof(c->pair)));
	must(c->self + c->peer == 1 && c->n_vms >= 1 && c->n_vms <= CONFIG_VMS_MAX);
	must(c->heartbeat_interval_ms && c->heartbeat_missed);
	must(config_self(c)->n_heartbeat == config_peer(c)->n_heartbeat);
	must(config_self(c)->n_heartbeat >= 1 &&
	     config_self(c)->n_heartbeat <= CONFIG_PATHS_MAX);
	must(c->arbiter.kind == CONFIG_ARBITER_MANUAL || c->arbiter.n_endpoints >= 1);
	for (unsigned i = 0; i < c->n_vms; i++) {
		check_vm(&c->vms[i]);
		must(config_find_vm(c, c->vms[i].name) == (int)i);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct config *a = NULL, *b = NULL;
	struct err err = {0};

	if (config_parse((const char *)data, len, "fuzz", "a", CONFIG_NO_FILES, &a,
			 &err)) {
		must(!a && err.code < 0 && err.msg[0] && !strchr(err.msg, '\n'));
		must(!strncmp(err.msg, "fuzz:", 5));
		return 0;
	}
	check(a);
	/* The other host reads the same, or does not read it at all for its own half. */
	if (!config_parse((const char *)data, len, "fuzz", "b", CONFIG_NO_FILES, &b,
			  &err) &&
	    a->self != b->self)
		must(!memcmp(a->digest, b->digest, sizeof(a->digest)));
	config_free(a);
	config_free(b);
	return 0;
}
