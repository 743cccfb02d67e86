/* SPDX-License-Identifier: Apache-2.0
 * test_gm - guest memory: what is RAM, what is not, and what counts as written.
 */
#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/layout.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct gm *make(uint64_t bytes)
{
	struct gm *gm = NULL;
	struct err err = {0};

	CU_ASSERT(!gm_create(bytes, &gm, &err));
	CU_ASSERT_PTR_NOT_NULL_FATAL(gm);
	return gm;
}

static void test_sizes(void)
{
	const uint64_t bad[] = {0,	    4096,      14 * MIB, 17 * MIB, 16 * MIB + 1,
				UINT64_MAX, 1ull << 63};
	struct err err = {0};
	struct gm *gm;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CU_ASSERT(gm_create(bad[i], &gm, &err) == -EINVAL);
		CU_ASSERT_PTR_NULL(gm);
	}
	gm = make(18 * MIB);
	CU_ASSERT(gm_bytes(gm) == 18 * MIB && gm_pages(gm) == 18 * 256);
	CU_ASSERT(ftruncate(gm_fd(gm), 4096) < 0); /* sealed */
	gm_destroy(gm);
	gm_destroy(NULL);
}

static void test_bounds(void)
{
	struct gm *gm = make(32 * MIB);

	CU_ASSERT(gm_at(gm, 0, 32 * MIB) == gm_base(gm));
	CU_ASSERT(gm_at(gm, 32 * MIB - 1, 1) == gm_base(gm) + 32 * MIB - 1);
	CU_ASSERT_PTR_NULL(gm_at(gm, 32 * MIB - 1, 2));
	CU_ASSERT_PTR_NULL(gm_at(gm, 32 * MIB, 1));
	CU_ASSERT_PTR_NULL(gm_at(gm, 0, 32 * MIB + 1));
	CU_ASSERT_PTR_NULL(gm_at(gm, 1, UINT64_MAX));
	CU_ASSERT_PTR_NULL(gm_at(gm, UINT64_MAX, 2));
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_RAM_HIGH, 1));
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_PCI_MMIO, 1));
	gm_destroy(gm);
}

/* RAM of more than 3 GiB comes in two pieces; page numbers know no hole. */
static void test_hole(void)
{
	struct gm *gm = make(4 * GIB);

	CU_ASSERT(gm_at(gm, LAYOUT_RAM_LOW_MAX - 1, 1) == gm_base(gm) + 3 * GIB - 1);
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_RAM_LOW_MAX - 1, 2));
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_RAM_LOW_MAX, 1));
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_RAM_HIGH - 1, 2));
	CU_ASSERT(gm_at(gm, LAYOUT_RAM_HIGH, GIB) == gm_base(gm) + 3 * GIB);
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_RAM_HIGH, GIB + 1));
	CU_ASSERT_PTR_NULL(gm_at(gm, LAYOUT_RAM_HIGH + GIB, 1));
	gm_destroy(gm);
}

static void test_copy(void)
{
	struct gm *gm = make(16 * MIB);
	char out[4] = "";

	CU_ASSERT(!gm_write(gm, 4094, "abc", 4));
	CU_ASSERT(!gm_read(gm, 4094, out, 4));
	CU_ASSERT(!memcmp(out, "abc", 4));
	CU_ASSERT(gm_write(gm, 16 * MIB - 2, "abc", 4) == -EFAULT);
	CU_ASSERT(gm_read(gm, 16 * MIB - 2, out, 4) == -EFAULT);
	CU_ASSERT(!gm_clear(gm, NULL));
	CU_ASSERT(!gm_read(gm, 4094, out, 4) && out[0] == 0);
	gm_destroy(gm);
}

/* A VM of KVM's with this memory. */
static int attach(struct gm *gm, int *kvm_out)
{
	struct err err = {0};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;

	CU_ASSERT_FATAL(kvm >= 0);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	CU_ASSERT_FATAL(vm >= 0);
	CU_ASSERT_FATAL(!gm_attach(gm, vm, &err));
	*kvm_out = kvm;
	return vm;
}

static int is_set(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

static unsigned count(const uint64_t *bits, uint64_t pages)
{
	unsigned n = 0;

	for (uint64_t i = 0; i < pages / 64; i++)
		n += (unsigned)__builtin_popcountll(bits[i]);
	return n;
}

static void test_marks(void)
{
	struct gm *gm = make(4 * GIB);
	uint64_t *bits = calloc(gm_pages(gm) / 64, 8);
	struct err err = {0};
	int kvm, vm = attach(gm, &kvm);

	CU_ASSERT_PTR_NOT_NULL_FATAL(bits);
	CU_ASSERT(gm_harvest(gm, bits) == -EINVAL); /* no log yet */
	gm_mark(gm, 0, 1);
	CU_ASSERT_FATAL(!gm_log(gm, 1, &err)); /* starts empty */
	CU_ASSERT(!gm_harvest(gm, bits) && count(bits, gm_pages(gm)) == 0);
	gm_mark(gm, 4095, 2);			     /* two pages */
	gm_mark(gm, 10 * 4096, 4096);		     /* one */
	gm_mark(gm, 20 * 4096, 0);		     /* none */
	gm_mark(gm, LAYOUT_PCI_MMIO, 4096);	     /* not RAM */
	gm_mark(gm, UINT64_MAX, 2);		     /* nonsense */
	gm_mark(gm, LAYOUT_RAM_HIGH + 4096, 1);	     /* behind the hole */
	CU_ASSERT(!gm_write(gm, 64 * 4096, "x", 1)); /* marks by itself */
	CU_ASSERT(!gm_harvest(gm, bits));
	CU_ASSERT(count(bits, gm_pages(gm)) == 5);
	CU_ASSERT(is_set(bits, 0) && is_set(bits, 1) && is_set(bits, 10) &&
		  is_set(bits, 64));
	CU_ASSERT(is_set(bits, 3 * GIB / 4096 + 1));
	/* A harvest adds to the bitmap, and takes nothing away. */
	gm_mark(gm, 2 * 4096, 1);
	CU_ASSERT(!gm_harvest(gm, bits) && count(bits, gm_pages(gm)) == 6);
	gm_mark(gm, 2 * 4096, 1);
	CU_ASSERT_FATAL(!gm_log(gm, 1, &err)); /* on again: empty again */
	memset(bits, 0, gm_pages(gm) / 8);
	CU_ASSERT(!gm_harvest(gm, bits) && count(bits, gm_pages(gm)) == 0);
	CU_ASSERT_FATAL(!gm_log(gm, 0, &err));
	CU_ASSERT(gm_harvest(gm, bits) == -EINVAL);
	free(bits);
	close(vm);
	close(kvm);
	gm_destroy(gm);
}

/* To look takes our marks and leaves nothing behind; to protect asks for a log. */
static void test_peek(void)
{
	struct gm *gm = make(4 * GIB);
	uint64_t all = gm_pages(gm) / 64, *bits = calloc(all, 8),
		 *which = calloc(all / 64, 8);
	struct err err = {0};
	int kvm, vm = attach(gm, &kvm);

	CU_ASSERT_FATAL(bits && which);
	CU_ASSERT(gm_peek(gm, bits, NULL) == -EINVAL);
	CU_ASSERT(gm_protect(gm, bits, 0, all) == -EINVAL);
	CU_ASSERT_FATAL(!gm_log(gm, 1, &err));
	gm_mark(gm, 70 * 4096, 1);
	gm_mark(gm, LAYOUT_RAM_HIGH + GIB - 4096, 1);
	CU_ASSERT(!gm_peek(gm, bits, which) && count(bits, gm_pages(gm)) == 2);
	CU_ASSERT(is_set(bits, 70) && is_set(bits, gm_pages(gm) - 1));
	CU_ASSERT(is_set(which, 1) && is_set(which, all - 1) && count(which, all) == 2);
	CU_ASSERT(!gm_protect(gm, bits, 0, all)); /* both slots, first and last word */
	CU_ASSERT(!gm_protect(gm, bits, 1, 2) && !gm_protect(gm, bits, all - 1, all));
	memset(bits, 0, gm_pages(gm) / 8);
	CU_ASSERT(!gm_protect(gm, bits, 0, all)); /* nothing */
	CU_ASSERT(!gm_peek(gm, bits, NULL) && count(bits, gm_pages(gm)) == 0);
	free(which);
	free(bits);
	close(vm);
	close(kvm);
	gm_destroy(gm);
}

enum { MARKS = 200000 };

static void *marker(void *arg)
{
	struct gm *gm = arg;

	for (uint64_t i = 0; i < MARKS; i++) {
		uint64_t page = i % 1024;

		__atomic_store_n((uint64_t *)(void *)(gm_base(gm) + page * GM_PAGE),
				 i + 1, __ATOMIC_RELAXED);
		gm_mark(gm, page * GM_PAGE, 8);
	}
	return NULL;
}

/* Copies of what each harvest names end up equal to the memory: no write falls between. */
static void test_race(void)
{
	struct gm *gm = make(16 * MIB);
	uint64_t bits[16 * MIB / 4096 / 64], copy[1024] = {0}, now;
	struct err err = {0};
	pthread_t t;
	int kvm, vm = attach(gm, &kvm), last = 0;

	CU_ASSERT_FATAL(!gm_log(gm, 1, &err));
	CU_ASSERT_FATAL(!pthread_create(&t, NULL, marker, gm));
	while (!last) {
		last = !pthread_tryjoin_np(t, NULL);
		memset(bits, 0, sizeof(bits));
		CU_ASSERT_FATAL(!gm_harvest(gm, bits));
		for (uint64_t i = 0; i < 1024; i++)
			if (is_set(bits, i))
				copy[i] = __atomic_load_n(
					(uint64_t *)(void *)(gm_base(gm) + i * GM_PAGE),
					__ATOMIC_RELAXED);
	}
	for (uint64_t i = 0; i < 1024; i++) {
		CU_ASSERT(!gm_read(gm, i * GM_PAGE, &now, sizeof(now)));
		CU_ASSERT(copy[i] == now);
	}
	close(vm);
	close(kvm);
	gm_destroy(gm);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"sizes", test_sizes},
		{"bounds", test_bounds},
		{"the hole", test_hole},
		{"copies", test_copy},
		{"marks", test_marks},
		{"looking and protecting", test_peek},
		{"marks while harvesting", test_race},
	};

	return UNIT_MAIN("gm", tests);
}
