/* SPDX-License-Identifier: Apache-2.0
 * parts - the two participants that every VM has: its memory and its machine state.
 */
#ifndef REMUS_PARTS_H
#define REMUS_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "remus/participant.h"

struct err;
struct gm;
struct mem_part;
struct memsave;
struct mem_standby;
struct mach_part;
struct mach_standby;
struct pc_stats;
struct vm;

/* Memory: harvest, copy, encode. @cache_bytes bounds the copies kept as delta bases. It
 * never asks for an early end: how much is dirty is only known by harvesting it. @vm: whose
 * parked vCPUs help to copy (borrowed); NULL: nobody does. @encoders: threads that encode, 8 at
 * most; 0: as many as suit this host. */
int mem_part_create(struct gm *gm, struct vm *vm, size_t cache_bytes, unsigned encoders,
		    struct mem_part **m_out, struct err *err);
struct part mem_part(struct mem_part *m);
/* Compare all of memory with the standby's once in @ns, piece by piece, without a pause; 0, the
 * default: never. Before primary_create(). */
void mem_part_verify(struct mem_part *m, uint64_t ns);
void mem_part_stats(struct mem_part *m, struct pc_stats *out); /* any thread */
uint64_t mem_part_last_dirty(struct mem_part *m); /* pages of the last capture */
void mem_part_destroy(struct mem_part *m);

/* Staged pages of epochs not yet applied, at most @stage_bytes; then the link is given up. */
int mem_standby_create(struct gm *gm, size_t stage_bytes, struct mem_standby **m_out,
		       struct err *err);
struct standby_part mem_standby(struct mem_standby *m);
/* Bring memory to the last applied epoch; from then on @save (memsave.h; borrowed) is told of each page
 * before it is written, until it is forgotten. One that was told before is cancelled. Receive thread, or when there is
 * no link; both. */
void mem_standby_save(struct mem_standby *m, struct memsave *save);
void mem_standby_forget(struct mem_standby *m, const struct memsave *save);
/* Bytes of memory taken by what is staged and not yet applied: now, at most so far, and the bound. */
struct mem_standby_stats {
	size_t staged, staged_max, limit;
};
void mem_standby_stats(struct mem_standby *m,
		       struct mem_standby_stats *out); /* any thread */
void mem_standby_destroy(struct mem_standby *m);

/* Machine: stops and resumes the guest, saves vCPUs, irqchip, clock and devices. First in the
 * array. */
int mach_part_create(struct vm *vm, struct mach_part **m_out, struct err *err);
struct part mach_part(struct mach_part *m);
void mach_part_destroy(struct mach_part *m);

/* Keeps the last applied state; activate loads it into @vm (vm_load). */
int mach_standby_create(struct vm *vm, struct mach_standby **m_out, struct err *err);
struct standby_part mach_standby(struct mach_standby *m);
/* The state of the last applied checkpoint; borrowed, until the next is applied. Receive thread, or when
 * there is no link. */
const void *mach_standby_state(const struct mach_standby *m, size_t *len_out);
void mach_standby_destroy(struct mach_standby *m);

#endif
