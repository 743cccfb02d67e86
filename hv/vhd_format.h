/* SPDX-License-Identifier: Apache-2.0
 * vhd_format - the bytes of a VHD image: footer, sparse header, parent locators, batmap.
 *
 * Pure: bytes in, bytes out, no I/O. From Microsoft's "Virtual Hard Disk Image Format Specification",
 * version 1.0 (2006); VHD.md says what other makers do differently. What comes in is
 * believed in nothing: each function says whether its bytes make sense by themselves, and
 * vhd_file.c whether they make sense together and inside the file.
 */
#ifndef HV_VHD_FORMAT_H
#define HV_VHD_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/wire.h"

struct err;

enum {
	VHD_SECTOR = 512,
	VHD_UUID_LEN = 16,
	VHD_LOCATORS = 8,
	VHD_NAME_UNITS = 256, /* UTF-16 code units of the parent's name */
	VHD_PATH_MAX = 4096,  /* bytes of a parent's path, with the final NUL */
	VHD_BLOCK_DEFAULT = 2 << 20,
	VHD_BLOCK_MIN = 4 << 10,
	VHD_BLOCK_MAX = 256 << 20,
	VHD_ENTRIES_MAX = 16 << 20, /* of the allocation table: 64 MiB */
};
/* The largest virtual disk: the format's own limit. */
#define VHD_SIZE_MAX   (UINT64_C(2040) << 30)
#define VHD_NO_OFFSET  UINT64_MAX
#define VHD_UNUSED     UINT32_MAX	  /* a block that is not allocated */
#define VHD_EPOCH_UNIX INT64_C(946684800) /* the second 0 of VHD's clock */

enum vhd_type { VHD_FIXED = 2, VHD_DYNAMIC = 3, VHD_DIFF = 4 };

struct vhd_footer_wire {
	char cookie[8];
	struct be32 features, version;
	struct be64 data_offset;
	struct be32 timestamp;
	char creator[4];
	struct be32 creator_version;
	char host_os[4];
	struct be64 original_size, current_size;
	struct be16 cylinders;
	uint8_t heads, sectors;
	struct be32 type, checksum;
	uint8_t uuid[VHD_UUID_LEN];
	uint8_t saved_state;
	uint8_t reserved[11];
	/* Ours, in what the format reserves: see struct vhd_mark. */
	struct be64 mark, mark_seconds;
	struct be32 mark_nanos;
	uint8_t reserved2[396];
};
WIRE_SIZE(struct vhd_footer_wire, 512);

struct vhd_locator_wire {
	struct be32 code, space, len, reserved;
	struct be64 offset;
};
WIRE_SIZE(struct vhd_locator_wire, 24);

struct vhd_header_wire {
	char cookie[8];
	struct be64 next, table_offset;
	struct be32 version, entries, block_size, checksum;
	uint8_t parent_uuid[VHD_UUID_LEN];
	struct be32 parent_time, reserved;
	struct be16 parent_name[VHD_NAME_UNITS];
	struct vhd_locator_wire locator[VHD_LOCATORS];
	uint8_t reserved2[256];
};
WIRE_SIZE(struct vhd_header_wire, 1024);

/* Beside the table in images of XenServer's tools; version 1.1 sums up signed bytes. */
struct vhd_batmap_wire {
	char cookie[8];
	struct be64 offset;
	struct be32 sectors, version, checksum;
	uint8_t rest[484];
};
WIRE_SIZE(struct vhd_batmap_wire, 512);

/* A footer that is being merged into its parent holds this mark, and when it was last changed
 * before. Nobody else looks at these bytes. */
#define VHD_MARK_MERGING UINT64_C(0x726865614d455247) /* "rheaMERG" */

struct vhd_locator {
	uint32_t code; /* four characters, VHD_LOC_... */
	uint64_t space, offset;
	uint32_t len; /* bytes */
};
#define VHD_LOC_W2KU 0x57326b75u /* absolute path of Windows, UTF-16LE */
#define VHD_LOC_W2RU 0x57327275u /* relative path of Windows, UTF-16LE */
#define VHD_LOC_MACX 0x4d616358u /* file: URL, UTF-8 */

struct vhd_header {
	uint64_t table_offset;
	uint32_t entries, block_size;
	uint8_t parent_uuid[VHD_UUID_LEN];
	uint32_t parent_time;
	struct vhd_locator locator[VHD_LOCATORS];
};

/* One's complement of the sum of the bytes, those of the checksum itself left out. */
uint32_t vhd_checksum(const void *p, size_t len, size_t at);

/* Is this a footer that can be served? 0; -ENOENT: it is none at all; -EBADMSG: damaged; or
 * -ENOTSUP, with the reason in @err. */
int vhd_footer_check(const struct vhd_footer_wire *f, struct err *err);
enum vhd_type vhd_footer_type(const struct vhd_footer_wire *f);
/* Bytes of the virtual disk, whole sectors. Old makers mean the geometry, new ones the size. */
uint64_t vhd_footer_capacity(const struct vhd_footer_wire *f);
/* A new one: creator, versions and geometry filled in, uuid random. -EIO: no randomness. */
int vhd_footer_new(enum vhd_type type, uint64_t size, int64_t unix_time,
		   struct vhd_footer_wire *out);
void vhd_footer_resize(struct vhd_footer_wire *f, uint64_t size); /* and its geometry */
void vhd_footer_seal(struct vhd_footer_wire *f);		  /* the checksum */

int vhd_header_parse(const struct vhd_header_wire *w, struct vhd_header *h,
		     struct err *err);
void vhd_header_seal(struct vhd_header_wire *w);
/* Sectors of a block's bitmap, in bytes. */
uint32_t vhd_bitmap_bytes(uint32_t block_size);
/* Entries that a disk of @size needs. */
uint64_t vhd_entries_for(uint64_t size, uint32_t block_size);

/* VHD's clock, seconds since the year 2000; what is before or after its range becomes its end. */
uint32_t vhd_time(int64_t unix_time);

/* The appendix of the specification: cylinders, heads and sectors for @sectors. */
void vhd_geometry(uint64_t sectors, struct vhd_footer_wire *out);

/* vhd_locator.c. Bytes of a locator as a path of this system: slashes instead of backslashes,
 * drive letters and URL schemes taken off. 0, -ENOTSUP: of a kind that is not known;
 * -EBADMSG. */
int vhd_locator_path(uint32_t code, const uint8_t *p, size_t len, char *out, size_t room);
/* The reverse: at most @room bytes into @out; returns how many, or -errno. */
int vhd_locator_bytes(uint32_t code, const char *path, uint8_t *out, size_t room);
/* The parent's name of the header, UTF-16BE. */
int vhd_name_get(const struct vhd_header_wire *w, char *out, size_t room);
int vhd_name_put(struct vhd_header_wire *w, const char *name);

#endif
