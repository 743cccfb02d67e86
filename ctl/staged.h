/* SPDX-License-Identifier: Apache-2.0
 * staged - a file that is replaced in two steps, so that two hosts can do it together.
 *
 * Theory of operation. staged_write() puts the new bytes under "<path>.new" in the same directory,
 * mode 0600, and syncs them: from then on only a rename is left that could fail.
 * staged_commit() swaps the two names in one step (or gives the file its name, if there was none) and
 * syncs the directory; what was there is then kept under "<path>.new" until staged_finish(), so that
 * staged_undo() can bring it back. A crash leaves either the old file or the new one whole, and
 * perhaps a "<path>.new" that the next staged_write() overwrites.
 * The open file under "<path>.new" is locked: two writers do not mix.
 *
 * One thread at a time.
 */
#ifndef CTL_STAGED_H
#define CTL_STAGED_H

#include <limits.h>
#include <stddef.h>

struct err;

enum staged_state { STAGED_NONE, STAGED_WRITTEN, STAGED_COMMITTED };

struct staged {
	enum staged_state state;
	int dir, fd; /* valid unless STAGED_NONE */
	int had_old; /* @name was there when it was staged */
	char path[PATH_MAX];
	char name[NAME_MAX + 1], temp[NAME_MAX + 1];
};

/* Write @len bytes for @path, whose directory is made (0700) if it is missing. @s is
 * zero-initialised. 0, or -errno with @err, nothing left behind. -EBUSY: another one is at it. */
int staged_write(struct staged *s, const char *path, const void *p, size_t len,
		 struct err *err);
/* Give it its name. 0, or -errno with @err and the old file in place. */
int staged_commit(struct staged *s, struct err *err);
/* Back to the old file, or to none, committed or not. Idempotent. 0, or -errno with @err. */
int staged_undo(struct staged *s, struct err *err);
/* Forget the old file. Fine if nothing was committed: then it is an undo. */
void staged_finish(struct staged *s);

#endif
