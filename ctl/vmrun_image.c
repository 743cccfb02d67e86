/* SPDX-License-Identifier: Apache-2.0
 * vmrun_image - what the disk journal says of this host's images when rhead starts.
 *
 * The record on disk says "incomplete" from before a sync until rhea-vm has told that the disks are
 * whole, and "behind" until all that was acked is durable; after a power cut the journal knows better. Only its superblocks are read here. Recovery
 * is rhea-vm's, which reads the rest and may still find that it is damaged, and says so.
 */
#include "ctl/vmrun_impl.h"

#include "ctl/grant.h"
#include "ctl/host.h"
#include "ctl/vmrun_start.h"
#include "diskrep/journal.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the journal says; whole -1: nothing, or there is none. */
static int peek(const char *path, const char *vm, struct journal_found *f,
		struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc;
	char head[1];

	*f = (struct journal_found){.whole = -1};
	if (fd < 0)
		return errno == ENOENT ? 0
				       : err_sys(err, -errno, "disk journal %s", path);
	rc = read(fd, head, sizeof(head)) > 0 ? journal_peek(fd, vm, f, err) : 0;
	(void)close(fd); /* nothing was written through it */
	return rc ? err_ctx(err, "%s", path), rc : 0;
}

static int note(struct vmrun *v, struct grant *g, int *found, int incomplete, int owned,
		struct err *err)
{
	/* Retired before any flush of a guest's was answered here, and with all that was acked in the images. */
	int behind = g->record.behind && !owned;

	if (g->record.incomplete == incomplete && g->record.behind == behind)
		return 0;
	log_warn("%s: this host's disks are %s, says their journal", v->cfg->name,
		 incomplete ? "NOT whole" : "whole");
	g->record.incomplete = incomplete;
	g->record.behind = behind;
	g->wall_ns = 0;
	if (!*found)
		memcpy(g->owner, config_peer(v->h->cfg)->name, sizeof(g->owner));
	*found = 1;
	return grant_store(v->h->opts.state_dir, v->cfg->name, g, err);
}

/* A journal that is not used any more must never be replayed later, onto disks that went on without
 * it. One in a place of the operator's choice is his to remove. */
static int retire(struct vmrun *v, struct grant *g, int *found, struct err *err)
{
	struct journal_found f;
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s.journal", v->h->opts.state_dir,
			 v->cfg->name),
	    rc;

	if (n < 0 || (size_t)n >= sizeof(path) || access(path, F_OK))
		return 0;
	rc = peek(path, v->cfg->name, &f, err);
	if (!rc && f.whole >= 0)
		rc = note(v, g, found, 1, 0, err);
	if (!rc && unlink(path))
		rc = err_sys(err, -errno, "%s: it is not used any more: remove it", path);
	return rc;
}

int vmrun_judge_image(struct vmrun *v, struct grant *g, int *found, struct err *err)
{
	struct journal_found f;
	char path[PATH_MAX];
	int rc;

	if (!*found)
		memset(g, 0, sizeof(*g));
	if (!v->cfg->journal_size)
		return retire(v, g, found, err);
	rc = vmrun_journal_path(v->h, v->cfg, path, sizeof(path));
	if (rc)
		return err_sys(err, rc, "disk journal");
	rc = peek(path, v->cfg->name, &f, err);
	if (!rc && f.whole >= 0)
		rc = note(v, g, found, !f.whole, f.state == JOURNAL_OWNED, err);
	return rc;
}
