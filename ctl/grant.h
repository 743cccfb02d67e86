/* SPDX-License-Identifier: Apache-2.0
 * grant - the record of a VM that survives power cuts: which term this host was granted
 * or follows.
 *
 * One small file a VM, "<dir>/<vm>.grant": a version, a length, the fields and a
 * checksum. It is replaced as a whole: a temporary file is written and fsynced, renamed
 * over the old one, and the directory fsynced, so that after a crash at any point either
 * the old or the new record is there, and after grant_store() returned 0 it is the new
 * one. The first frame of a new term leaves only after that.
 */
#ifndef CTL_GRANT_H
#define CTL_GRANT_H

#include <stdint.h>

#include "ctl/pair.h"

struct err;

#define GRANT_DIR_DEFAULT "/var/lib/rhea"

struct grant {
	struct pair_record record;
	char owner[32];	  /* name of the host that owns record.term; CONFIG_NAME_MAX */
	uint64_t wall_ns; /* CLOCK_REALTIME when it was stored, for people */
};

/* Create @dir (one level, mode 0700) if it is not there, and remove what an interrupted
 * grant_store() left in it. Blocks on the disk. */
int grant_dir_prepare(const char *dir, struct err *err);

/* Write it durably. Blocks on the disk: call it where that is fine, one call for one VM
 * at a time. On failure the old record is still there. */
int grant_store(const char *dir, const char *vm, const struct grant *g, struct err *err);

/* 0; -ENOENT: there is none (@err untouched); -EBADMSG: damaged, @err says which file and
 * what to do; or another negative errno. @host is this host's name: sets record.mine. */
int grant_load(const char *dir, const char *vm, const char *host, struct grant *out,
	       struct err *err);

#endif
