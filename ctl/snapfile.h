/* SPDX-License-Identifier: Apache-2.0
 * snapfile - a snapshot of a VM's disks on one host's file system: its files, and which step they are at.
 *
 * Theory of operation. Of a disk DIR/web.vhd the snapshot NAME is DIR/web@NAME.vhd. It is made while the guest runs:
 *
 *   prepare   the description, DIR/web@NAME.json of the first disk (PREPARED); then for each disk an empty child,
 *             DIR/web@NAME.fresh, whose parent is web@NAME.vhd, changed last at a time that is chosen now
 *   switch    rhea-vm writes nothing meanwhile and has flushed. The description says SWITCHING; each image gets
 *             the time and its second name; then each child is renamed over its image; CUT
 *   confirm   the moment was the other host's, too, or nobody else's: COMPLETE
 *
 * Each step is durable before the next, so a power cut leaves: before SWITCHING the images as they were, and what can be
 * removed by abandon; from SWITCHING on what recover finishes, before anybody writes the images again. In between
 * an image has either name, and the same bytes under both. A step of switch that fails is undone by it: rename of the
 * old image over the child, which nobody has written.
 *
 * A snapshot's memory, if it has one, is a file of whoever saves memory: its path is in the description
 * (snap.memory), it is removed with the snapshot, and the VM is started from it on a revert.
 *
 * All blocking, any thread, one at a time for one VM. Only confirm, list and load may go on while the VM runs and its
 * files are being changed.
 */
#ifndef CTL_SNAPFILE_H
#define CTL_SNAPFILE_H

#include <jansson.h>
#include <limits.h>
#include <stdint.h>

#include "ctl/config.h"
#include "hv/vhd.h"

struct err;

enum { SNAP_NAME_MAX = 33, SNAP_LIST_MAX = 128 };

enum snap_state {
	SNAP_PREPARED,
	SNAP_SWITCHING,
	SNAP_CUT,
	SNAP_COMPLETE,
	SNAP_DELETING,
	SNAP_REVERTING,
	SNAP_NSTATES
};

struct snap_disk {
	unsigned disk;	      /* its number in the config */
	char image[PATH_MAX]; /* resolved */
	uint8_t uuid[VHD_UUID_LEN];
	uint64_t size; /* bytes */
	int64_t time;  /* Unix time at which it was changed last, as its child knows it */
	/* Being deleted: the file above it, "": none, and the time that this one must have in the end; 0: any. */
	char child[PATH_MAX];
	int64_t child_time;
};

struct snap {
	char vm[CONFIG_NAME_MAX], name[SNAP_NAME_MAX], host[CONFIG_NAME_MAX];
	uint64_t id; /* the same on both hosts */
	int64_t created_ms;
	uint64_t term, epoch; /* UINT64_MAX: no standby was in step */
	enum snap_state state;
	char memory[PATH_MAX]; /* "": none */
	int with_memory;       /* prepare: it is to have one */
	unsigned n;
	struct snap_disk disk[CONFIG_DISKS_MAX];
};

const char *snap_state_name(enum snap_state s);
/* Letters, digits and ". _ -", not at the front but for letters and digits. */
int snap_name_ok(const char *name);
/* The file of @d that ends in @suffix (".vhd", ".fresh", ".json"): into @out, PATH_MAX bytes. 0 or
 * -ENAMETOOLONG. */
int snap_path(const struct snap_disk *d, const char *name, const char *suffix, char *out);
/* The disks of @vm that a snapshot is of, images resolved; -EINVAL: it can have none, and @err says why. */
int snap_disks(const struct config_vm *vm, struct snap *s, struct err *err);

/* -ENOENT: there is none of that name. */
int snap_load(const struct config_vm *vm, const char *name, struct snap *s,
	      struct err *err);
/* All of the VM's, oldest first. Owned array of owned in *list_out; free with snap_list_free(). */
int snap_list(const struct config_vm *vm, struct snap ***list_out, unsigned *n_out,
	      struct err *err);
void snap_list_free(struct snap **list, unsigned n);
/* Is all of it there, on this host? */
int snap_is_complete(const struct snap *s);
/* What an operator sees of it: owned. */
json_t *snap_json(const struct snap *s);

/* snapfile_text.c. Durable when it returns; before, there is what was there. */
int snap_store(const struct snap *s, struct err *err);
/* The description at @path, which nobody needs to have written: -EBADMSG unless it can be stored, and is of @path. */
int snap_read(const char *path, struct snap *s, struct err *err);

/* snapfile_ops.c */
/* @s: name, id, created, host and term are set. fd[i]: the child of s->disk[i], owned by the caller, locked. -EEXIST. */
int snap_prepare(const struct config_vm *vm, struct snap *s, int *fd, struct err *err);
/* Not switched: nothing of it is left, also after a power cut; the description goes last. */
int snap_abandon(const struct snap *s, struct err *err);
/* s->term and s->epoch are set. A failure leaves the images as they were; -EUCLEAN: even that failed, and the
 * images must not be written before recover. */
int snap_switch(struct snap *s, struct err *err);
int snap_confirm(struct snap *s, struct err *err);
/* Nobody uses the images: finish what was broken off. */
int snap_recover(const struct config_vm *vm, struct err *err);

/* For those steps: what an image says of itself, also while it is written; a file's time of its last change, durable. */
int snap_probe(const char *path, struct vhd_info *info, struct err *err);
int snap_set_time(const char *path, int64_t time, struct err *err);
int snap_same_file(const char *a, const char *b); /* two names of one file? */

/* snapfile_delete.c. What whoever uses the chain has to do to a disk before the file can go. */
struct snap_leave {
	int needed; /* 0: nothing */
	uint8_t uuid[VHD_UUID_LEN];
	int fd; /* its child, to be written, owned by the caller; -1: that is the leaf */
	int has_parent; /* whose child the child is to become */
	uint8_t parent_uuid[VHD_UUID_LEN];
	char parent[PATH_MAX], relative[PATH_MAX];
	int64_t parent_time;
};
/* @l: one for each disk of @s. -EBUSY: there are other children. */
int snap_delete_begin(struct snap *s, struct snap_leave *l, struct err *err);
/* Nobody uses its files any more. */
int snap_delete_end(struct snap *s, struct err *err);
int snap_mend_times(const struct snap *s, struct err *err);

/* snapfile_revert.c. The VM is off. @journal, @activity: this host's, of the VM; they are removed. */
int snap_revert(struct snap *s, const char *journal, const char *activity,
		struct err *err);
int snap_revert_finish(struct snap *s, struct err *err); /* after a power cut */

#endif
