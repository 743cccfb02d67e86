/* SPDX-License-Identifier: Apache-2.0
 * msix - the message-signalled interrupts of one PCI function (PCI Local Bus 3.0, 6.8.2).
 *
 * The owner places the table and the pending bits in one of its BARs and tells of writes to the
 * message control register. Everything runs under the device lock, or before the guest does.
 */
#ifndef HV_MSIX_H
#define HV_MSIX_H

#include <stdint.h>

struct buf;
struct err;
struct msix;
struct reader;
struct vm;

enum {
	MSIX_VECTORS_MAX = 32,
	MSIX_CAP_ID = 0x11,
	MSIX_CAP_LEN = 10, /* of the capability's body */
	MSIX_CTRL_OFF = 2, /* of message control in the capability */
	MSIX_ENTRY = 16,   /* bytes of a table entry */
	MSIX_TABLE_SIZE = MSIX_VECTORS_MAX * MSIX_ENTRY,
	MSIX_PBA_SIZE = 8,
	MSIX_NO_VECTOR = 0xFFFF, /* virtio's "none"; never raised */
};
enum { MSIX_CTRL_MASK = 1 << 14, MSIX_CTRL_ENABLE = 1 << 15 };

/* @vectors: 1 to MSIX_VECTORS_MAX. Returns owned. */
int msix_create(struct vm *vm, unsigned vectors, struct msix **m_out, struct err *err);
void msix_destroy(struct msix *m); /* NULL is fine */
unsigned msix_vectors(const struct msix *m);

/* The capability's body for a table at @table_off and pending bits at @pba_off of BAR @bar, and
 * the mask of what the guest may write in it. */
void msix_cap(const struct msix *m, unsigned bar, uint32_t table_off, uint32_t pba_off,
	      uint8_t body[MSIX_CAP_LEN], uint8_t wmask[MSIX_CAP_LEN]);

/* The guest wrote message control: vectors that are neither masked any more and pending fire. */
void msix_control(struct msix *m, uint16_t ctrl);
int msix_enabled(const struct msix *m);
/* Accesses to the table and the pending bits, @off from their start. Entries are read and
 * written by 4 or 8 aligned bytes, as the specification has it; others read zero and are dropped. */
void msix_table_read(const struct msix *m, uint64_t off, void *data, unsigned len);
void msix_table_write(struct msix *m, uint64_t off, const void *data, unsigned len);
void msix_pba_read(const struct msix *m, uint64_t off, void *data, unsigned len);

/* Raise @vector, or keep it pending while it is masked. Dropped when MSI-X is off or there is no
 * such vector. */
void msix_raise(struct msix *m, unsigned vector);

void msix_reset(struct msix *m);
int msix_save(const struct msix *m, uint32_t instance, struct buf *b);
/* Message control is not part of it: msix_control() follows. */
int msix_load(struct msix *m, uint32_t instance, struct reader *r, struct err *err);

#endif
