/* SPDX-License-Identifier: Apache-2.0
 * bzimage - a Linux bzImage, entered at its 64-bit entry point.
 *
 * Source: Linux, Documentation/arch/x86/boot.rst, "64-bit boot protocol".
 */
#include "hv/boot.h"

#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/vm.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

enum {
	HEADER_AT = 0x1F1,	   /* of the setup header in the file */
	HEADER_JUMP_AT = 0x201,	   /* its length is the operand of a short jump there */
	HEADER_MAGIC = 0x53726448, /* "HdrS" */
	PROTOCOL_MIN = 0x20C,	   /* the first with xloadflags */
	SECTOR = 512,
	SETUP_SECTORS_OLD = 4, /* what 0 means */
	ENTRY_64 = 0x200,
	LOADER_UNDEFINED = 0xFF,
};

static int check_header(const struct setup_header *h, uint64_t file_len, struct err *err)
{
	if (h->header != HEADER_MAGIC || h->version < PROTOCOL_MIN)
		return err_set(
			err, -ENOEXEC,
			"neither a Linux bzImage of boot protocol 2.12 or later nor an ELF");
	if (!(h->xloadflags & XLF_KERNEL_64) || !(h->loadflags & LOADED_HIGH))
		return err_set(err, -ENOEXEC, "not a 64-bit kernel");
	if (((uint64_t)(h->setup_sects ? h->setup_sects : SETUP_SECTORS_OLD) + 1) *
		    SECTOR >=
	    file_len)
		return err_set(err, -ENOEXEC, "the image ends inside its setup code");
	return 0;
}

/* Where the kernel proper goes. It wants init_size bytes there to unpack itself. */
static int place(const struct gm *gm, const struct setup_header *h, uint64_t len,
		 uint64_t *at_out, uint64_t *end_out, struct err *err)
{
	uint64_t at = h->pref_address, size = h->init_size > len ? h->init_size : len;

	if (at < BOOT_KERNEL_MIN || at % GM_PAGE || at > UINT32_MAX || size > UINT32_MAX)
		return err_set(err, -ENOEXEC, "it wants %" PRIu64 " bytes at %#" PRIx64,
			       size, at);
	if (at + size > boot_low_end(gm))
		return err_set(err, -EFBIG,
			       "it needs %" PRIu64
			       " MiB of memory to start: give the VM more",
			       (at + size) >> 20);
	*at_out = at;
	*end_out = at + size;
	return 0;
}

static void fill_map(const struct gm *gm, struct boot_params *bp)
{
	struct boot_range map[BOOT_MAP_MAX];
	unsigned n = boot_map(gm, map);

	for (unsigned i = 0; i < n; i++)
		bp->e820_table[i] = (struct boot_e820_entry){
			.addr = map[i].addr, .size = map[i].size, .type = map[i].type};
	bp->e820_entries = (uint8_t)n;
}

/* The header as the file has it: as long as the file says, which may be less than we know. */
static int read_header(int fd, struct boot_params *bp, struct err *err)
{
	uint8_t jump;
	size_t len;
	int rc = boot_read(fd, HEADER_JUMP_AT, &jump, 1, err);

	if (rc)
		return rc;
	len = HEADER_JUMP_AT + 1 - HEADER_AT + (size_t)jump;
	if (len > sizeof(bp->hdr))
		len = sizeof(bp->hdr);
	return boot_read(fd, HEADER_AT, &bp->hdr, len, err);
}

int bzimage_load(struct gm *gm, const struct vm_kernel *k, uint64_t file_len,
		 uint64_t rsdp, struct boot_entry *entry_out, struct err *err)
{
	struct boot_params bp = {0};
	uint64_t setup, at = 0, end = 0, limit, initrd, initrd_len;
	int rc;

	if (file_len < HEADER_AT + sizeof(bp.hdr))
		return err_set(err, -ENOEXEC, "too short for a kernel");
	rc = read_header(k->kernel_fd, &bp, err);
	if (!rc)
		rc = check_header(&bp.hdr, file_len, err);
	if (rc)
		return rc;
	if (bp.hdr.cmdline_size && strlen(k->cmdline) > bp.hdr.cmdline_size)
		return err_set(err, -E2BIG, "it takes a command line of at most %u bytes",
			       bp.hdr.cmdline_size);
	setup = ((uint64_t)(bp.hdr.setup_sects ? bp.hdr.setup_sects : SETUP_SECTORS_OLD) +
		 1) *
		SECTOR;
	rc = place(gm, &bp.hdr, file_len - setup, &at, &end, err);
	if (!rc)
		rc = boot_read_guest(gm, k->kernel_fd, setup, at, file_len - setup, err);
	limit = (uint64_t)bp.hdr.initrd_addr_max + 1;
	if (!rc)
		rc = boot_initrd(gm, k, end, limit, &initrd, &initrd_len, err);
	if (rc)
		return rc;
	if (initrd_len > UINT32_MAX)
		return err_set(err, -EFBIG, "initrd of more than 4 GiB");
	bp.hdr.setup_data = 0;
	bp.hdr.type_of_loader = LOADER_UNDEFINED;
	bp.hdr.ramdisk_image = (uint32_t)initrd;
	bp.hdr.ramdisk_size = (uint32_t)initrd_len;
	bp.hdr.cmd_line_ptr = (uint32_t)BOOT_CMDLINE;
	bp.acpi_rsdp_addr = rsdp;
	fill_map(gm, &bp);
	if (gm_write(gm, BOOT_PARAMS, &bp, sizeof(bp)))
		return err_set(err, -EFBIG,
			       "boot parameters do not fit the guest's memory");
	*entry_out = (struct boot_entry){.rip = at + ENTRY_64, .arg = BOOT_PARAMS};
	return 0;
}
