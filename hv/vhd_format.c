/* SPDX-License-Identifier: Apache-2.0
 * vhd_format - footer, header and geometry of a VHD image.
 */
#include "hv/vhd_format.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>

enum {
	FEATURES = 2, /* "reserved", always set */
	VERSION = 0x00010000,
	CREATOR_VERSION = 0x000a0000,
	CHS_MAX = 65535 * 16 * 255,
};

uint32_t vhd_checksum(const void *p, size_t len, size_t at)
{
	const uint8_t *b = p;
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		if (i < at || i >= at + sizeof(struct be32))
			sum += b[i];
	return ~sum;
}

static uint32_t footer_checksum(const struct vhd_footer_wire *f)
{
	return vhd_checksum(f, sizeof(*f), offsetof(struct vhd_footer_wire, checksum));
}

int vhd_footer_check(const struct vhd_footer_wire *f, struct err *err)
{
	uint32_t type = be32_get(f->type);
	uint64_t size = be64_get(f->current_size);

	if (memcmp(f->cookie, "conectix", sizeof(f->cookie)) != 0)
		return err_set(err, -ENOENT, "no VHD footer");
	if (be32_get(f->checksum) != footer_checksum(f))
		return err_set(err, -EBADMSG, "the footer's checksum is wrong");
	if (be32_get(f->version) >> 16 != VERSION >> 16)
		return err_set(err, -ENOTSUP, "VHD version %#x is not known",
			       be32_get(f->version));
	if (type < VHD_FIXED || type > VHD_DIFF)
		return err_set(err, -ENOTSUP, "VHD of type %u is not known", type);
	if (size < VHD_SECTOR || size > VHD_SIZE_MAX)
		return err_set(err, -EBADMSG,
			       "a virtual size of %llu bytes is not in 512 to 2040 GiB",
			       (unsigned long long)size);
	if (!vhd_footer_capacity(f))
		return err_set(err, -EBADMSG, "the geometry is empty");
	return 0;
}

enum vhd_type vhd_footer_type(const struct vhd_footer_wire *f)
{
	return (enum vhd_type)be32_get(f->type);
}

/* Virtual PC, Virtual Server and old qemu show the guest what the geometry holds. */
static int means_geometry(const struct vhd_footer_wire *f)
{
	static const char makers[][5] = {"vpc ", "vs  ", "qemu"};

	for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++)
		if (!memcmp(f->creator, makers[i], sizeof(f->creator)))
			return 1;
	return 0;
}

uint64_t vhd_footer_capacity(const struct vhd_footer_wire *f)
{
	uint64_t size = be64_get(f->current_size) / VHD_SECTOR;
	uint64_t chs = (uint64_t)be16_get(f->cylinders) * f->heads * f->sectors;

	/* The largest geometry stands for any larger size. */
	if (means_geometry(f) && chs < CHS_MAX && chs < size)
		size = chs;
	return size * VHD_SECTOR;
}

uint32_t vhd_time(int64_t unix_time)
{
	int64_t t = unix_time - VHD_EPOCH_UNIX;

	if (t < 0)
		return 0;
	return t > UINT32_MAX ? UINT32_MAX : (uint32_t)t;
}

void vhd_geometry(uint64_t sectors, struct vhd_footer_wire *out)
{
	uint32_t n = sectors > CHS_MAX ? CHS_MAX : (uint32_t)sectors;
	uint32_t spt = 255, heads = 16, by_heads = n / 255;

	if (n < 65535u * 16 * 63) {
		spt = 17;
		by_heads = n / spt;
		heads = (by_heads + 1023) / 1024;
		if (heads < 4)
			heads = 4;
		if (by_heads >= heads * 1024 || heads > 16) {
			spt = 31;
			heads = 16;
			by_heads = n / spt;
		}
		if (by_heads >= heads * 1024) {
			spt = 63;
			heads = 16;
			by_heads = n / spt;
		}
	}
	out->cylinders = be16_of((uint16_t)(by_heads / heads));
	out->heads = (uint8_t)heads;
	out->sectors = (uint8_t)spt;
}

void vhd_footer_seal(struct vhd_footer_wire *f)
{
	f->checksum = be32_of(footer_checksum(f));
}

void vhd_footer_resize(struct vhd_footer_wire *f, uint64_t size)
{
	f->current_size = be64_of(size);
	vhd_geometry(size / VHD_SECTOR, f);
	/* One of a maker that means the geometry would have to keep it: the size counts now. */
	memcpy(f->creator, "win ", sizeof(f->creator));
	vhd_footer_seal(f);
}

int vhd_footer_new(enum vhd_type type, uint64_t size, int64_t unix_time,
		   struct vhd_footer_wire *out)
{
	*out = (struct vhd_footer_wire){
		.features = be32_of(FEATURES),
		.version = be32_of(VERSION),
		.data_offset = be64_of(type == VHD_FIXED ? VHD_NO_OFFSET : VHD_SECTOR),
		.timestamp = be32_of(vhd_time(unix_time)),
		.creator_version = be32_of(CREATOR_VERSION),
		.original_size = be64_of(size),
		.type = be32_of(type),
	};
	memcpy(out->cookie, "conectix", sizeof(out->cookie));
	memcpy(out->host_os, "Wi2k", sizeof(out->host_os));
	if (getrandom(out->uuid, sizeof(out->uuid), 0) != sizeof(out->uuid))
		return -EIO;
	out->uuid[6] = (uint8_t)((out->uuid[6] & 0x0f) | 0x40); /* RFC 4122: random */
	out->uuid[8] = (uint8_t)((out->uuid[8] & 0x3f) | 0x80);
	vhd_footer_resize(out, size);
	return 0;
}

static uint32_t header_checksum(const struct vhd_header_wire *w)
{
	return vhd_checksum(w, sizeof(*w), offsetof(struct vhd_header_wire, checksum));
}

void vhd_header_seal(struct vhd_header_wire *w)
{
	w->checksum = be32_of(header_checksum(w));
}

uint32_t vhd_bitmap_bytes(uint32_t block_size)
{
	uint32_t bytes = block_size / VHD_SECTOR / 8;

	return (bytes + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
}

uint64_t vhd_entries_for(uint64_t size, uint32_t block_size)
{
	return size / block_size + (size % block_size != 0);
}

/* Some makers count the room for a locator in sectors, as the specification means it, others in
 * bytes. No path needs 512 sectors, so a number from there on is bytes. */
static uint64_t locator_space(uint32_t space)
{
	return space < VHD_SECTOR ? (uint64_t)space * VHD_SECTOR : space;
}

int vhd_header_parse(const struct vhd_header_wire *w, struct vhd_header *h,
		     struct err *err)
{
	*h = (struct vhd_header){
		.table_offset = be64_get(w->table_offset),
		.entries = be32_get(w->entries),
		.block_size = be32_get(w->block_size),
		.parent_time = be32_get(w->parent_time),
	};
	memcpy(h->parent_uuid, w->parent_uuid, sizeof(h->parent_uuid));
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator_wire *l = &w->locator[i];

		h->locator[i] = (struct vhd_locator){
			.code = be32_get(l->code),
			.space = locator_space(be32_get(l->space)),
			.offset = be64_get(l->offset),
			.len = be32_get(l->len),
		};
	}
	if (memcmp(w->cookie, "cxsparse", sizeof(w->cookie)) != 0)
		return err_set(err, -EBADMSG, "no sparse header where the footer says");
	if (be32_get(w->checksum) != header_checksum(w))
		return err_set(err, -EBADMSG, "the sparse header's checksum is wrong");
	if (be32_get(w->version) >> 16 != VERSION >> 16)
		return err_set(err, -ENOTSUP, "sparse header version %#x is not known",
			       be32_get(w->version));
	if (h->block_size < VHD_BLOCK_MIN || h->block_size > VHD_BLOCK_MAX ||
	    (h->block_size & (h->block_size - 1)))
		return err_set(
			err, -ENOTSUP,
			"a block size of %u is no power of two in 4 KiB to 256 MiB",
			h->block_size);
	if (!h->entries || h->entries > VHD_ENTRIES_MAX)
		return err_set(err, -ENOTSUP,
			       "an allocation table of %u entries is not in 1 to %d",
			       h->entries, VHD_ENTRIES_MAX);
	return 0;
}
