/* SPDX-License-Identifier: Apache-2.0
 * config_paths - the paths of the replication link, in order of preference.
 */
#include "ctl/config_read.h"

#include "hv/base/err.h"
#include "replication/modules.h"
#include "replication/session.h"
#include "replication/transport.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A stream keeps a processor busy on either side, and the guest and the encoders need theirs. */
enum { PROCESSORS_A_STREAM = 8, STREAMS_DEFAULT_MAX = 4 };

static const char *const path_keys[] = {"transport", "address", "args", "streams", NULL};

static int read_address(struct config_reader *r, config_setting_t *s, struct config *cfg,
			struct config_path *p)
{
	const char *keys[CONFIG_HOSTS + 1] = {cfg->hosts[0].name, cfg->hosts[1].name,
					      NULL};
	config_setting_t *g, *e;
	int rc = config_group(r, s, "address", &g);

	if (!rc)
		rc = config_check_keys(r, g, keys);
	for (unsigned i = 0; !rc && i < CONFIG_HOSTS; i++) {
		e = config_setting_get_member(g, keys[i]);
		rc = e ? config_addr(r, e, &p->addr[i])
		       : config_fail(r, g, -EINVAL,
				     "%s is missing; add %s = \"addr:port\";", keys[i],
				     keys[i]);
	}
	if (!rc && p->addr[0].ss.ss_family != p->addr[1].ss.ss_family)
		rc = config_fail(r, g, -EINVAL,
				 "is IPv4 on one host and IPv6 on the other");
	return rc;
}

static int read_path(struct config_reader *r, config_setting_t *s, struct config *cfg,
		     struct config_path *p)
{
	uint64_t streams = 0;
	int rc = config_text(r, s, "transport", NULL, p->transport, sizeof(p->transport));

	if (!rc && !tp_module_name_ok(p->transport))
		rc = config_fail(
			r, config_setting_get_member(s, "transport"), -EINVAL,
			"\"%s\" is no transport; give \"tcp\", \"rdma\" or \"dpdk\"",
			p->transport);
	if (!rc)
		rc = config_host_text(r, s, "args", "", p->args, sizeof(p->args));
	if (!rc && p->args[0] && !strcmp(p->transport, "tcp"))
		rc = config_fail(r, config_setting_get_member(s, "args"), -EINVAL,
				 "tcp has no args; leave it out");
	if (!rc)
		rc = config_uint(r, s, "streams", 0, 1, TP_TCP_STREAMS_MAX, &streams);
	if (!rc && streams && strcmp(p->transport, "tcp") != 0)
		rc = config_fail(r, config_setting_get_member(s, "streams"), -EINVAL,
				 "only tcp has streams; leave it out");
	p->streams = (unsigned)streams;
	return rc ? rc : read_address(r, s, cfg, p);
}

unsigned config_path_streams(const struct config_path *p)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN) / PROCESSORS_A_STREAM;

	if (p->streams)
		return p->streams;
	if (n > STREAMS_DEFAULT_MAX)
		n = STREAMS_DEFAULT_MAX;
	return n > 1 ? (unsigned)n : 1;
}

/* As simple as it was: one tcp path between the hosts' replication addresses. */
static void one_path(struct config *cfg)
{
	struct config_path *p = &cfg->paths[0];

	memcpy(p->transport, "tcp", 4);
	for (unsigned i = 0; i < CONFIG_HOSTS; i++)
		p->addr[i] = cfg->hosts[i].replication;
	cfg->n_paths = 1;
}

int config_paths(struct config_reader *r, config_setting_t *root, struct config *cfg)
{
	config_setting_t *list, *e;
	int rc = config_size(r, root, "path_buffer", SES_REPLAY_DEFAULT, SES_REPLAY_MIN,
			     1u << 30, &cfg->path_buffer);

	if (rc)
		return rc;
	if (!config_setting_get_member(root, "paths")) {
		one_path(cfg);
		return 0;
	}
	rc = config_list(r, root, "paths", 1, CONFIG_LINKS_MAX, &list);
	for (unsigned i = 0; !rc && i < (unsigned)config_setting_length(list); i++) {
		rc = config_elem_group(r, list, i, path_keys, &e);
		if (!rc)
			rc = read_path(r, e, cfg, &cfg->paths[i]);
		cfg->n_paths = i + 1;
	}
	return rc;
}
