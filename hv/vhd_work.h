/* SPDX-License-Identifier: Apache-2.0
 * vhd_work - what a VHD image's backend may have to wait for, on threads that may wait (internal to
 * hv/vhd_*.c).
 *
 * Two threads, so that a flush, which takes long, does not hold up who needs room for a block. A thread is
 * started when there is first something to do for it: by then its process has given up the
 * rights that it began with, which threads do not share.
 */
#ifndef HV_VHD_WORK_H
#define HV_VHD_WORK_H

#include <stdint.h>

struct err;
struct loop;
struct vhd;
struct vhd_image;
struct vhd_work;

enum vhd_job_kind { VHD_JOB_PREPARE, VHD_JOB_LOAD, VHD_JOB_ERASE, VHD_JOB_FLUSH };

/* Owned by who gives it, untouched until done() was called. */
struct vhd_job {
	enum vhd_job_kind kind;
	uint64_t off, len;			       /* PREPARE, ERASE */
	struct vhd *file;			       /* LOAD: of which file */
	uint32_t block;				       /* LOAD: which bitmap */
	void (*done)(struct vhd_job *job, int status); /* I/O thread, inside the guard */
	struct vhd_job *next;
	int status;
};

int vhd_work_create(struct vhd_image *v, struct loop *loop, struct vhd_work **out,
		    struct err *err);
/* I/O thread. Never fails itself. */
void vhd_work_give(struct vhd_work *w, struct vhd_job *job);
/* Wait for at least one job, if there is one, and call done() of all that are over. The loop does not
 * run any more. Returns how many were. */
unsigned vhd_work_wait(struct vhd_work *w);
/* Nothing is under way. NULL is fine. */
void vhd_work_destroy(struct vhd_work *w);

#endif
