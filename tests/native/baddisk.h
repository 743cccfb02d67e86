/* SPDX-License-Identifier: Apache-2.0
 * baddisk - a file system over a folder, whose files fail, lose what was written, or take their time, as
 * they are told.
 *
 * For machines without device-mapper, and for whatever way a file is used: io_uring does not come by a preloaded
 * library. It is a FUSE in a process of its own; nothing is cached above it.
 */
#ifndef TESTS_NATIVE_BADDISK_H
#define TESTS_NATIVE_BADDISK_H

#include <stdatomic.h>
#include <sys/types.h>

/* By the name's end. */
enum bad_kind { BAD_IMAGE, BAD_JOURNAL, BAD_ACTIVITY, BAD_KINDS };

/* Shared with the process: change them at any time. Errors as errno, 0: none. */
struct baddisk_knobs {
	struct {
		atomic_int read, write, sync;
		atomic_uint delay_ms;	   /* of each of these */
		atomic_int lose;	   /* writes are said to be done, and are not */
		atomic_int tear;	   /* likewise, but for their first sector */
		atomic_uint failed, lost;  /* count what was harmed */
		atomic_uint writes, syncs; /* and what came */
	} kind[BAD_KINDS];
};

struct baddisk {
	char at[256]; /* where the files are seen */
	struct baddisk_knobs *knobs;
	pid_t pid;
};

/* Show the folder @real at @at, both made if they are not there. 0, or -1 with a message. At the exit of
 * this process, however it comes about, it is gone. */
int baddisk_up(struct baddisk *b, const char *real, const char *at);
void baddisk_down(struct baddisk *b); /* idempotent */

#endif
