/* SPDX-License-Identifier: Apache-2.0
 * test_cpuid - models, topology and the comparison between hosts, on a made-up CPU.
 */
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/cpuid.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

static struct kvm_cpuid_entry2 *add(struct cpuid *c, uint32_t fn, uint32_t index,
				    uint32_t eax, uint32_t ebx, uint32_t ecx,
				    uint32_t edx)
{
	c->e[c->n] = (struct kvm_cpuid_entry2){.function = fn,
					       .index = index,
					       .eax = eax,
					       .ebx = ebx,
					       .ecx = ecx,
					       .edx = edx};
	return &c->e[c->n++];
}

/* A CPU with everything. @amd or Intel. */
static void make(struct cpuid *c, int amd)
{
	memset(c, 0, sizeof(*c));
	if (amd)
		add(c, 0, 0, 0x10, 0x68747541, 0x444D4163, 0x69746E65);
	else
		add(c, 0, 0, 0x20, 0x756E6547, 0x6C65746E, 0x49656E69);
	add(c, 1, 0, 0x806F8, 0x05100800, ~0u, ~0u);
	add(c, 4, 0, 0xFC004121, 0, 0, 0); /* L1 */
	add(c, 4, 1, 0xFC01C163, 0, 0, 0); /* L3 */
	add(c, 4, 2, 0, 0, 0, 0);
	add(c, 7, 0, 2, ~0u, ~0u, ~0u);
	add(c, 7, 1, ~0u, 0, 0, 0);
	add(c, 0xA, 0, 0x07300805, 0, 0, 0x603);
	add(c, 0xB, 0, 1, 2, 0x100, 5);
	add(c, 0xD, 0, 0x602E7, 0x2B00, 0x2B00, 0);
	add(c, 0xD, 1, 0x1F, 0, 0x1900, 0);
	add(c, 0xD, 2, 0x100, 0x240, 0, 0);
	add(c, 0xD, 5, 0x40, 0x440, 0, 0);
	add(c, 0xD, 9, 8, 0xA80, 0, 0);
	add(c, 0xD, 18, 0x2000, 0xB00, 6, 0);
	add(c, 0x1F, 0, 1, 2, 0x100, 5);
	add(c, 0x40000000, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D);
	add(c, 0x40000001, 0, 0x01007EFB, 0, 0, 0);
	add(c, 0x80000001, 0, 0, 0, ~0u, ~0u);
	for (uint32_t i = 2; i <= 4; i++)
		add(c, 0x80000000 + i, 0, 0x20202020, 0x20202020, 0x20202020, 0x20202020);
	add(c, 0x80000007, 0, 0, 0, 0, 0x100);
	add(c, 0x80000008, 0, 0x302E, ~0u, 0x700F, 0);
	add(c, 0x8000001E, 0, 9, 9, 9, 9);
}

static const struct kvm_cpuid_entry2 *leaf(const struct cpuid *c, uint32_t fn,
					   uint32_t index)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (c->e[i].function == fn && c->e[i].index == index)
			return &c->e[i];
	return NULL;
}

static void test_host(void)
{
	struct cpuid c;
	struct err err = {0};

	make(&c, 0);
	CU_ASSERT_FATAL(!cpuid_fit(&c, "host", 1, &err));
	CU_ASSERT(!(leaf(&c, 1, 0)->ecx & 1u << 5));	      /* VMX */
	CU_ASSERT(!(leaf(&c, 1, 0)->edx & 1u << 7));	      /* MCE */
	CU_ASSERT(!(leaf(&c, 0x80000001, 0)->ecx & 1u << 2)); /* SVM */
	CU_ASSERT(leaf(&c, 0x80000007, 0)->edx == 0);	      /* invariant TSC */
	CU_ASSERT(leaf(&c, 0xA, 0)->eax == 0);		      /* counters */
	CU_ASSERT(
		!(leaf(&c, 0x40000001, 0)->eax & 1u << 4)); /* asynchronous page faults */
	CU_ASSERT(leaf(&c, 0x40000001, 0)->eax & 1u << 3);  /* kvmclock stays */
	CU_ASSERT(leaf(&c, 0xD, 0)->eax == 0x2E7);	    /* no AMX */
	CU_ASSERT(leaf(&c, 0xD, 0)->ecx == 0xA88 && leaf(&c, 0xD, 18)->eax == 0);
	CU_ASSERT(leaf(&c, 7, 0)->ebx & 1u << 16); /* AVX-512 stays */
}

static void test_levels(void)
{
	struct cpuid c;
	struct err err = {0};

	make(&c, 0);
	CU_ASSERT_FATAL(!cpuid_fit(&c, "x86-64-v3", 2, &err));
	CU_ASSERT(leaf(&c, 7, 0)->ebx == 0x128 && leaf(&c, 7, 0)->edx == 0);
	CU_ASSERT(leaf(&c, 0xD, 0)->eax == 7 && leaf(&c, 0xD, 0)->ecx == 0x340);
	CU_ASSERT(leaf(&c, 1, 0)->ecx & 1u << 28); /* AVX */
	CU_ASSERT(leaf(&c, 1, 0)->ecx & 1u << 31); /* a hypervisor */
	CU_ASSERT(leaf(&c, 0, 0)->eax == 0xD);
	CU_ASSERT_PTR_NULL(leaf(&c, 7, 1));
	CU_ASSERT(!memcmp(&leaf(&c, 0x80000002, 0)->eax, "Rhea x86-64-v3", 14));
	make(&c, 0);
	CU_ASSERT_FATAL(!cpuid_fit(&c, "x86-64-v2", 2, &err));
	CU_ASSERT(leaf(&c, 7, 0)->ebx == 0 && leaf(&c, 0xD, 0)->eax == 0);
	CU_ASSERT(!(leaf(&c, 1, 0)->ecx & (1u << 26 | 1u << 28)));
	CU_ASSERT(leaf(&c, 1, 0)->ecx & 1u << 20); /* SSE4.2 */
}

/* Two hosts of unlike age show the same in a model that both can run. */
static void test_alike(void)
{
	struct cpuid a, b;
	struct cpuid_features fa, fb;
	struct err err = {0};

	make(&a, 0);
	make(&b, 0);
	for (uint32_t i = 0; i < b.n; i++) {
		if (b.e[i].function == 7) /* no AVX-512 there, and no mitigations */
			b.e[i] = (struct kvm_cpuid_entry2){.function = 7,
							   .index = b.e[i].index,
							   .ebx = b.e[i].index ? 0
									       : 0x128};
		if (b.e[i].function == 0xD && !b.e[i].index)
			b.e[i].eax = 7;
	}
	CU_ASSERT(!cpuid_fit(&a, "x86-64-v3", 2, &err) &&
		  !cpuid_fit(&b, "x86-64-v3", 2, &err));
	cpuid_features(&a, &fa);
	cpuid_features(&b, &fb);
	CU_ASSERT(!memcmp(&fa, &fb, sizeof(fa)));
}

static void test_lacking(void)
{
	struct cpuid c;
	struct err err = {0};

	make(&c, 0);
	c.e[1].ecx &= ~(1u << 20);
	CU_ASSERT(cpuid_fit(&c, "x86-64-v2", 1, &err) == -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "0x100000 of CPUID leaf 0x1 ECX"));
	CU_ASSERT(cpuid_fit(&c, "x86-64-v9", 1, &err) == -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "x86-64-v9"));
}

static void test_topology(void)
{
	for (unsigned n = 1; n <= 4; n++) {
		const unsigned ids = n > 2 ? 4 : n, shift = n > 2 ? 2 : n - 1;
		struct cpuid c;
		struct err err = {0};

		make(&c, 0);
		CU_ASSERT_FATAL(!cpuid_fit(&c, "host", n, &err));
		cpuid_personal(&c, n - 1);
		CU_ASSERT((leaf(&c, 1, 0)->ebx >> 16 & 0xFF) == ids);
		CU_ASSERT(leaf(&c, 1, 0)->ebx >> 24 == n - 1);
		CU_ASSERT(!!(leaf(&c, 1, 0)->edx & 1u << 28) == (n > 1));
		CU_ASSERT(leaf(&c, 4, 0)->eax >> 26 == ids - 1);
		CU_ASSERT((leaf(&c, 4, 0)->eax >> 14 & 0xFFF) == 0);
		CU_ASSERT((leaf(&c, 4, 1)->eax >> 14 & 0xFFF) == ids - 1);
		CU_ASSERT(leaf(&c, 4, 2)->eax == 0);
		CU_ASSERT(leaf(&c, 0xB, 0)->ebx == 1 && leaf(&c, 0xB, 0)->ecx == 0x100);
		CU_ASSERT(leaf(&c, 0xB, 1)->eax == shift && leaf(&c, 0xB, 1)->ebx == n);
		CU_ASSERT(leaf(&c, 0xB, 0)->edx == n - 1 &&
			  leaf(&c, 0xB, 1)->edx == n - 1);
		CU_ASSERT_PTR_NULL(leaf(&c, 0x1F, 0));
		make(&c, 1);
		CU_ASSERT_FATAL(!cpuid_fit(&c, "host", n, &err));
		cpuid_personal(&c, n - 1);
		CU_ASSERT(leaf(&c, 0x80000008, 0)->ecx == (shift << 12 | (n - 1)));
		CU_ASSERT(leaf(&c, 0x8000001E, 0)->eax == n - 1 &&
			  leaf(&c, 0x8000001E, 0)->ebx == n - 1 &&
			  leaf(&c, 0x8000001E, 0)->ecx == 0);
	}
}

static int moved(const struct cpuid *from, const struct cpuid *to, struct err *err)
{
	struct buf b = {0};
	struct reader r;
	int rc;

	CU_ASSERT_FATAL(!cpuid_save(from, &b));
	r = reader_of(b.data, b.len);
	rc = cpuid_load(to, &r, err);
	buf_fini(&b);
	return rc;
}

/* A guest goes where there is more, not where there is less, nor to another make of CPU. */
static void test_compare(void)
{
	struct cpuid more, less, amd;
	struct err err = {0};

	make(&more, 0);
	make(&less, 0);
	make(&amd, 1);
	less.e[5].ebx &= ~(1u << 5);
	CU_ASSERT(!moved(&more, &more, &err));
	CU_ASSERT(!moved(&less, &more, &err));
	CU_ASSERT(moved(&more, &less, &err) == -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "leaf 7 EBX, bits 0x20"));
	CU_ASSERT(moved(&more, &amd, &err) == -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "vendor"));
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"host", test_host},	     {"levels", test_levels},
		{"hosts alike", test_alike}, {"lacking", test_lacking},
		{"topology", test_topology}, {"comparison", test_compare},
	};

	return UNIT_MAIN("cpuid", tests);
}
