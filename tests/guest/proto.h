/* SPDX-License-Identifier: Apache-2.0
 * proto - the Ethernet frames between the ring-3 guest and those who watch or ask it.
 *
 * EtherType 0x88B5 (local experimental). Integers are little-endian; structs are packed.
 */
#ifndef TESTS_GUEST_PROTO_H
#define TESTS_GUEST_PROTO_H

#include <stdint.h>

#define GP_ETHERTYPE 0x88B5
#define GP_MAGIC     0x61656872u /* "rhea" */

enum gp_type {
	GP_COUNT = 1, /* guest -> all: one turn of the work loop is done */
	GP_FAIL =
		2, /* guest -> all: a self-check failed; text says which; the guest stops */
	GP_PING = 3, /* client -> guest: seq */
	GP_PONG = 4, /* guest -> the asker: seq as asked, n */
};

struct gp_frame {
	uint8_t dst[6], src[6];
	uint16_t ethertype; /* big-endian, as on every Ethernet */
	uint32_t magic;
	uint32_t type;
	uint64_t
		boot_id; /* drawn once, at the guest's start: another one means a reboot */
	uint64_t n;	 /* the counter: grows by one each turn */
	uint64_t mem_n;	 /* what all dirtied pages held, every word checked */
	uint64_t
		disk_n; /* what the header block on disk holds: written and completed; == n when disk=1 */
	uint64_t
		seq; /* of a PING; of a COUNT with grow=1: blocks of all disks, as they are used */
	uint64_t tsc;  /* when it was made, on the guest's clock */
	char text[40]; /* of a FAIL */
} __attribute__((packed));

_Static_assert(sizeof(struct gp_frame) == 110, "gp_frame");

/* On disk: block 0 (4 KiB) is the header, blocks 1.. hold one turn each, n modulo their number; the last ones
 * are scattered's, if it is asked for, and hold some time or other.
 * Every 8-byte word of a block is its n, XORed with the word's index. */
#define GP_BLOCK 4096

/* Fixed guest-physical addresses that a harness may read from outside. */
#define GP_PROGRESS_GPA 0x0F000u /* u64: turns of the loop (also in mode=dirty) */

#endif
