/* SPDX-License-Identifier: Apache-2.0
 * test_boot - kernel images into guest memory: good ones, and ones made to do harm.
 */
#include "hv/base/err.h"
#include "hv/boot.h"
#include "hv/gm.h"
#include "hv/layout.h"
#include "hv/vm.h"
#include "tests/unit/tinyguest.h"
#include "tests/unit/unit.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB (1ull << 20)

static struct gm *gm;

static int file_of(const void *p, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	CU_ASSERT_FATAL(fd >= 0 && write(fd, p, len) == (ssize_t)len);
	return fd;
}

/* Load @len bytes as a kernel into fresh memory. */
static int load_with(const void *p, size_t len, int initrd, const char *cmdline,
		     struct boot_entry *e, struct err *err)
{
	struct vm_kernel k = {.initrd_fd = initrd, .cmdline = cmdline};
	int rc;

	*err = (struct err){0};
	k.kernel_fd = file_of(p, len);
	CU_ASSERT_FATAL(!gm_clear(gm, err));
	rc = boot_load(gm, &k, 2, e, err);
	CU_ASSERT(rc == err->code);
	close(k.kernel_fd);
	return rc;
}

static int load(const void *p, size_t len)
{
	struct boot_entry e;
	struct err err;

	return load_with(p, len, -1, "", &e, &err);
}

enum { BZ_SETUP = 5 * 512, BZ_LEN = BZ_SETUP + 8192 };

/* A bzImage whose kernel is the byte 0xC3, often. */
static struct setup_header *bz_make(uint8_t image[BZ_LEN])
{
	struct setup_header *h = (struct setup_header *)(image + 0x1F1);

	memset(image, 0, BZ_SETUP);
	memset(image + BZ_SETUP, 0xC3, BZ_LEN - BZ_SETUP);
	h->setup_sects = 4;
	h->header = 0x53726448;
	h->version = 0x20F;
	h->jump = 0x66EB;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->initrd_addr_max = 0x7FFFFFFF;
	h->cmdline_size = 100;
	h->pref_address = 16 * MIB;
	h->init_size = 4 * MIB;
	return h;
}

static void test_bzimage(void)
{
	uint8_t image[BZ_LEN], initrd[5000], back[5000];
	struct boot_params bp;
	struct boot_entry e;
	struct err err;
	int fd;

	bz_make(image);
	memset(initrd, 0x77, sizeof(initrd));
	fd = file_of(initrd, sizeof(initrd));
	CU_ASSERT_FATAL(!load_with(image, sizeof(image), fd, "quiet", &e, &err));
	CU_ASSERT(!e.pvh && e.rip == 16 * MIB + 0x200 && e.arg == BOOT_PARAMS);
	CU_ASSERT(!memcmp(gm_at(gm, 16 * MIB, 8192), image + BZ_SETUP, 8192));
	CU_ASSERT(!gm_read(gm, BOOT_PARAMS, &bp, sizeof(bp)));
	CU_ASSERT(bp.hdr.type_of_loader == 0xFF && bp.hdr.cmd_line_ptr == BOOT_CMDLINE);
	CU_ASSERT(!strcmp(gm_at(gm, BOOT_CMDLINE, 6), "quiet"));
	CU_ASSERT(bp.hdr.ramdisk_size == sizeof(initrd));
	CU_ASSERT(bp.hdr.ramdisk_image == ((32 * MIB - sizeof(initrd)) & ~4095ull));
	CU_ASSERT(!gm_read(gm, bp.hdr.ramdisk_image, back, sizeof(back)));
	CU_ASSERT(!memcmp(back, initrd, sizeof(back)));
	CU_ASSERT(bp.acpi_rsdp_addr >= BOOT_ACPI &&
		  !memcmp(gm_at(gm, bp.acpi_rsdp_addr, 8), "RSD PTR ", 8));
	/* mov $1, %al; mov $0x602, %dx; out %al, (%dx) */
	CU_ASSERT(!memcmp(gm_at(gm, 0xFFFF0, 6), "\xB0\x01\xBA\x02\x06\xEE", 6));
	close(fd);
}

/* The map names RAM, the tables and the configuration space, in order, without overlaps. */
static void test_map(void)
{
	const uint64_t sizes[] = {32 * MIB, 3072 * MIB, 4096 * MIB};

	for (size_t i = 0; i < 3; i++) {
		struct boot_range map[BOOT_MAP_MAX];
		uint64_t ram = 0, end = 0;
		struct err err = {0};
		struct gm *g;
		unsigned n;

		CU_ASSERT_FATAL(!gm_create(sizes[i], &g, &err));
		n = boot_map(g, map);
		CU_ASSERT_FATAL(n <= BOOT_MAP_MAX);
		for (unsigned j = 0; j < n; j++) {
			CU_ASSERT(map[j].addr >= end && map[j].size > 0);
			end = map[j].addr + map[j].size;
			if (map[j].type == BOOT_MEM_RAM) {
				CU_ASSERT_PTR_NOT_NULL(
					gm_at(g, map[j].addr, map[j].size));
				ram += map[j].size;
			}
		}
		CU_ASSERT(ram == sizes[i] - (MIB - BOOT_RAM_END));
		gm_destroy(g);
	}
}

static void test_bzimage_bad(void)
{
	uint8_t image[BZ_LEN];
	struct setup_header *h = bz_make(image);
	struct boot_entry e;
	struct err err;
	char longer[BOOT_CMDLINE_MAX + 1];

	CU_ASSERT(!load(image, sizeof(image)));
	h->header = 1;
	CU_ASSERT(load(image, sizeof(image)) == -ENOEXEC);
	h = bz_make(image);
	h->version = 0x20B;
	CU_ASSERT(load(image, sizeof(image)) == -ENOEXEC);
	h = bz_make(image);
	h->xloadflags = 0;
	CU_ASSERT(load(image, sizeof(image)) == -ENOEXEC);
	h = bz_make(image);
	h->setup_sects = 255;
	CU_ASSERT(load(image, sizeof(image)) == -ENOEXEC);
	h = bz_make(image);
	h->pref_address = 0x7000; /* over the boot data */
	CU_ASSERT(load(image, sizeof(image)) == -ENOEXEC);
	h->pref_address = UINT64_MAX - 4095;
	CU_ASSERT(load(image, sizeof(image)) == -ENOEXEC);
	h = bz_make(image);
	h->init_size = 0xFFFFFFFF;
	CU_ASSERT(load(image, sizeof(image)) == -EFBIG);
	bz_make(image);
	memset(longer, 'x', sizeof(longer));
	longer[101] = 0; /* one more than cmdline_size */
	CU_ASSERT(load_with(image, sizeof(image), -1, longer, &e, &err) == -E2BIG);
	longer[101] = 'x';
	longer[BOOT_CMDLINE_MAX] = 0;
	CU_ASSERT(load_with(image, sizeof(image), -1, longer, &e, &err) == -E2BIG);
	for (size_t len = 1; len < BZ_SETUP; len += 61)
		CU_ASSERT(load(image, len) == -ENOEXEC);
}

/* An initrd that does not fit between the kernel and what it may reach. */
static void test_initrd_big(void)
{
	uint8_t image[BZ_LEN];
	struct setup_header *h = bz_make(image);
	struct boot_entry e;
	struct err err;
	int fd = memfd_create("initrd", MFD_CLOEXEC);

	CU_ASSERT_FATAL(!ftruncate(fd, 12 * MIB));
	CU_ASSERT(!load_with(image, sizeof(image), fd, "", &e, &err));
	CU_ASSERT_FATAL(!ftruncate(fd, 12 * MIB + 1));
	CU_ASSERT(load_with(image, sizeof(image), fd, "", &e, &err) == -EFBIG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "initrd"));
	CU_ASSERT_FATAL(!ftruncate(fd, 4096));
	h->initrd_addr_max = 1; /* below the kernel */
	CU_ASSERT(load_with(image, sizeof(image), fd, "", &e, &err) == -EFBIG);
	CU_ASSERT_FATAL(!ftruncate(fd, 0));
	CU_ASSERT(load_with(image, sizeof(image), fd, "", &e, &err) == -ENOEXEC);
	close(fd);
}

/* The tiny guest's ELF in memory, to be damaged. */
static size_t elf_make(uint8_t **out)
{
	int fd = tg_image();
	off_t len = lseek(fd, 0, SEEK_END);

	CU_ASSERT_FATAL(fd >= 0 && len > 0);
	*out = malloc((size_t)len);
	CU_ASSERT_PTR_NOT_NULL_FATAL(*out);
	CU_ASSERT_FATAL(pread(fd, *out, (size_t)len, 0) == len);
	close(fd);
	return (size_t)len;
}

static uint64_t field(uint64_t at, unsigned len)
{
	uint64_t v = 0;

	CU_ASSERT(!gm_read(gm, at, &v, len));
	return v;
}

static void test_pvh(void)
{
	struct boot_entry e;
	struct err err;
	uint8_t *elf;
	size_t len = elf_make(&elf);
	int fd = file_of("initrd", 6);

	CU_ASSERT_FATAL(!load_with(elf, len, fd, "hello", &e, &err));
	CU_ASSERT(e.pvh && e.rip == TG_LOAD + tg_distance(tg_start, tg_entry));
	CU_ASSERT(e.arg == BOOT_PVH_INFO);
	CU_ASSERT(!memcmp(gm_at(gm, TG_LOAD, 16), tg_start, 16));
	CU_ASSERT(field(BOOT_PVH_INFO, 4) == 0x336EC578 &&
		  field(BOOT_PVH_INFO + 4, 4) == 1);
	CU_ASSERT(field(BOOT_PVH_INFO + 12, 4) == 1); /* modules */
	CU_ASSERT(field(field(BOOT_PVH_INFO + 16, 8) + 8, 8) == 6);
	CU_ASSERT(!strcmp(gm_at(gm, field(BOOT_PVH_INFO + 24, 8), 6), "hello"));
	CU_ASSERT(!memcmp(gm_at(gm, field(BOOT_PVH_INFO + 32, 8), 8), "RSD PTR ", 8));
	CU_ASSERT(field(BOOT_PVH_INFO + 48, 4) >= 4); /* ranges of memory */
	close(fd);
	free(elf);
}

static void test_pvh_bad(void)
{
	uint8_t *elf;
	size_t len = elf_make(&elf);
	Elf64_Ehdr *eh = (Elf64_Ehdr *)elf;
	Elf64_Phdr *ph = (Elf64_Phdr *)(elf + sizeof(*eh));
	const Elf64_Phdr was = ph[0], note = ph[1];

	CU_ASSERT(!load(elf, len));
	eh->e_ident[EI_CLASS] = ELFCLASS32;
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	eh->e_ident[EI_CLASS] = ELFCLASS64;
	eh->e_phnum = 0xFFFF;
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	eh->e_phnum = 1; /* no note */
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	eh->e_phnum = 2;
	eh->e_phoff = UINT64_MAX;
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	eh->e_phoff = sizeof(*eh);
	ph[0].p_paddr = UINT64_MAX - 1;
	CU_ASSERT(load(elf, len) == -EFBIG);
	ph[0].p_paddr = 0x1000;
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	ph[0] = was;
	ph[0].p_memsz = UINT64_MAX;
	CU_ASSERT(load(elf, len) == -EFBIG);
	ph[0].p_memsz = 1; /* less than in the file */
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	ph[0] = was;
	ph[0].p_offset = UINT64_MAX;
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	ph[0] = was;
	ph[1].p_filesz = UINT64_MAX;
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	ph[1] = note;
	ph[1].p_filesz = 13; /* ends inside the note */
	CU_ASSERT(load(elf, len) == -ENOEXEC);
	free(elf);
}

/* Whatever byte is wrong: an error or a guest that does not run, never harm to us. */
static void test_mutations(void)
{
	uint8_t *elf, image[BZ_LEN];
	size_t len = elf_make(&elf),
	       head = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr) + 24;

	for (size_t i = 4; i < head; i++)
		for (unsigned v = 0x7F; v <= 0xFF; v += 0x80) {
			const uint8_t was = elf[i];

			elf[i] = (uint8_t)v;
			(void)load(elf, len); /* must only survive */
			elf[i] = was;
		}
	for (size_t i = 0x1F1; i < 0x1F1 + sizeof(struct setup_header); i++) {
		bz_make(image);
		image[i] ^= 0xFF;
		(void)load(image, sizeof(image)); /* as above */
	}
	for (size_t n = 4; n < len; n += 29)
		CU_ASSERT(load(elf, n) == -ENOEXEC);
	free(elf);
}

static void test_no_file(void)
{
	struct vm_kernel k = {.kernel_fd = -1, .initrd_fd = -1, .cmdline = ""};
	struct boot_entry e;
	struct err err = {0};
	int p[2];

	CU_ASSERT(boot_load(gm, &k, 1, &e, &err) == -EBADF);
	CU_ASSERT_FATAL(!pipe(p));
	k.kernel_fd = p[0]; /* nothing that pread works on */
	CU_ASSERT(boot_load(gm, &k, 1, &e, &err) == -ENOEXEC);
	close(p[0]);
	close(p[1]);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"bzImage", test_bzimage},
		{"memory map", test_map},
		{"bad bzImages", test_bzimage_bad},
		{"initrd too big", test_initrd_big},
		{"PVH", test_pvh},
		{"bad ELFs", test_pvh_bad},
		{"mutations", test_mutations},
		{"no file", test_no_file},
	};
	struct err err = {0};
	int rc;

	if (gm_create(32 * MIB, &gm, &err))
		return 2;
	rc = UNIT_MAIN("boot", tests);
	gm_destroy(gm);
	return rc;
}
