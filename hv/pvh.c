/* SPDX-License-Identifier: Apache-2.0
 * pvh - a 64-bit ELF with a Xen PVH note, entered in 32-bit protected mode.
 *
 * Sources: Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h; System V ABI, ELF.
 */
#include "hv/boot.h"

#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "hv/gm.h"
#include "hv/vm.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum {
	PHDRS_MAX = 64,
	NOTES_MAX = 64 << 10, /* bytes of one note segment */
	NOTE_PHYS32_ENTRY = 18,
	INFO_VERSION = 1,
	NOTE_ALIGN = 4,
};
#define INFO_MAGIC 0x336EC578u

struct start_info {
	struct le32 magic, version, flags, modules;
	struct le64 modlist, cmdline, rsdp, memmap;
	struct le32 memmap_entries, reserved;
};
WIRE_SIZE(struct start_info, 56);

struct start_module {
	struct le64 addr, size, cmdline, reserved;
};
WIRE_SIZE(struct start_module, 32);

struct start_memory {
	struct le64 addr, size;
	struct le32 type, reserved;
};
WIRE_SIZE(struct start_memory, 24);

/* All that is written at BOOT_PVH_INFO. */
struct start_page {
	struct start_info info;
	struct start_module initrd;
	struct start_memory map[BOOT_MAP_MAX];
};
_Static_assert(sizeof(struct start_page) <= BOOT_PARAMS - BOOT_PVH_INFO,
	       "they must not touch");

static uint64_t note_pad(uint64_t n)
{
	return (n + NOTE_ALIGN - 1) & ~(uint64_t)(NOTE_ALIGN - 1);
}

/* Look for the entry point in @len bytes of notes. 1: found. */
static int find_entry(const uint8_t *p, uint64_t len, uint32_t *entry_out)
{
	Elf64_Nhdr h;

	while (len >= sizeof(h)) {
		uint64_t name, desc;

		memcpy(&h, p, sizeof(h));
		name = note_pad(h.n_namesz);
		desc = note_pad(h.n_descsz);
		p += sizeof(h);
		len -= sizeof(h);
		if (name > len || desc > len - name)
			return 0;
		if (h.n_type == NOTE_PHYS32_ENTRY && h.n_namesz == 4 &&
		    !memcmp(p, "Xen", 4) && (h.n_descsz == 4 || h.n_descsz == 8)) {
			memcpy(entry_out, p + name, sizeof(*entry_out));
			return 1;
		}
		p += name + desc;
		len -= name + desc;
	}
	return 0;
}

static int read_notes(int fd, const Elf64_Phdr *ph, uint32_t *entry, int *found,
		      struct err *err)
{
	uint8_t notes[NOTES_MAX];
	int rc;

	if (ph->p_filesz > sizeof(notes))
		return err_set(err, -ENOEXEC, "%" PRIu64 " bytes of ELF notes",
			       ph->p_filesz);
	rc = boot_read(fd, ph->p_offset, notes, ph->p_filesz, err);
	if (!rc && !*found)
		*found = find_entry(notes, ph->p_filesz, entry);
	return rc;
}

/* Memory is zero already, so that only what the file has is written. */
static int load_segment(struct gm *gm, int fd, const Elf64_Phdr *ph, uint64_t file_len,
			uint64_t *end, struct err *err)
{
	uint64_t low = boot_low_end(gm);

	if (!ph->p_memsz)
		return 0;
	if (ph->p_filesz > ph->p_memsz || ph->p_offset > file_len ||
	    ph->p_filesz > file_len - ph->p_offset)
		return err_set(err, -ENOEXEC, "an ELF segment lies outside of the file");
	if (ph->p_paddr < BOOT_KERNEL_MIN)
		return err_set(err, -ENOEXEC,
			       "an ELF segment at %#" PRIx64 ", below 1 MiB",
			       ph->p_paddr);
	if (ph->p_paddr > low || ph->p_memsz > low - ph->p_paddr)
		return err_set(err, -EFBIG,
			       "an ELF segment of %" PRIu64 " bytes at %#" PRIx64
			       " does not fit the guest's memory",
			       ph->p_memsz, ph->p_paddr);
	if (ph->p_paddr + ph->p_memsz > *end)
		*end = ph->p_paddr + ph->p_memsz;
	return ph->p_filesz ? boot_read_guest(gm, fd, ph->p_offset, ph->p_paddr,
					      ph->p_filesz, err)
			    : 0;
}

static int load_elf(struct gm *gm, int fd, uint64_t file_len, uint32_t *entry_out,
		    uint64_t *end_out, struct err *err)
{
	Elf64_Phdr ph[PHDRS_MAX];
	Elf64_Ehdr eh;
	int found = 0, rc = boot_read(fd, 0, &eh, sizeof(eh), err);

	if (rc)
		return rc;
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh.e_machine != EM_X86_64 || eh.e_phentsize != sizeof(Elf64_Phdr))
		return err_set(err, -ENOEXEC, "an ELF, but not for 64-bit x86");
	if (!eh.e_phnum || eh.e_phnum > PHDRS_MAX || eh.e_phoff > file_len)
		return err_set(err, -ENOEXEC, "an ELF with %u segments", eh.e_phnum);
	rc = boot_read(fd, eh.e_phoff, ph, eh.e_phnum * sizeof(ph[0]), err);
	for (unsigned i = 0; i < eh.e_phnum && !rc; i++) {
		if (ph[i].p_type == PT_LOAD)
			rc = load_segment(gm, fd, &ph[i], file_len, end_out, err);
		else if (ph[i].p_type == PT_NOTE)
			rc = read_notes(fd, &ph[i], entry_out, &found, err);
	}
	if (!rc && !found)
		rc = err_set(err, -ENOEXEC, "an ELF without a PVH entry point");
	return rc;
}

int pvh_load(struct gm *gm, const struct vm_kernel *k, uint64_t file_len, uint64_t rsdp,
	     struct boot_entry *entry_out, struct err *err)
{
	const uint64_t modlist = BOOT_PVH_INFO + offsetof(struct start_page, initrd);
	const uint64_t memmap = BOOT_PVH_INFO + offsetof(struct start_page, map);
	struct boot_range map[BOOT_MAP_MAX];
	struct start_page page = {0};
	uint64_t end = BOOT_KERNEL_MIN, initrd, initrd_len;
	unsigned n = boot_map(gm, map);
	uint32_t entry = 0;
	int rc = load_elf(gm, k->kernel_fd, file_len, &entry, &end, err);

	if (!rc)
		rc = boot_initrd(gm, k, end, UINT32_MAX, &initrd, &initrd_len, err);
	if (rc)
		return rc;
	page.info.magic = le32_of(INFO_MAGIC);
	page.info.version = le32_of(INFO_VERSION);
	page.info.cmdline = le64_of(BOOT_CMDLINE);
	page.info.rsdp = le64_of(rsdp);
	page.info.memmap = le64_of(memmap);
	page.info.memmap_entries = le32_of(n);
	if (initrd_len) {
		page.info.modules = le32_of(1);
		page.info.modlist = le64_of(modlist);
		page.initrd.addr = le64_of(initrd);
		page.initrd.size = le64_of(initrd_len);
	}
	for (unsigned i = 0; i < n; i++) {
		page.map[i].addr = le64_of(map[i].addr);
		page.map[i].size = le64_of(map[i].size);
		page.map[i].type = le32_of(map[i].type);
	}
	if (gm_write(gm, BOOT_PVH_INFO, &page, sizeof(page)))
		return err_set(err, -EFBIG, "start info does not fit the guest's memory");
	*entry_out = (struct boot_entry){.pvh = 1, .rip = entry, .arg = BOOT_PVH_INFO};
	return 0;
}
