/* SPDX-License-Identifier: Apache-2.0
 * cpuid - what the guest is told about its CPUs: models, topology, what cannot be moved.
 *
 * Leaf and bit numbers: Intel SDM vol. 2A (CPUID), AMD APM vol. 3 appendix E, the x86-64 psABI
 * (micro-architecture levels), Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "hv/cpuid.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum reg { EAX, EBX, ECX, EDX };

#define BIT(n) (1u << (n))

enum {
	LEAF_TOPOLOGY = 0xB,
	LEAF_XSAVE = 0xD,
	LEAF_TOPOLOGY2 = 0x1F,
	XSAVE_LEGACY = 576, /* bytes before the first extended component */
};
enum { LEAF_KVM = 0x40000000, LEAF_KVM_FEATURES = 0x40000001 };
#define LEAF_EXT	  0x80000000u
#define LEAF_EXT_FEATURES 0x80000001u
#define LEAF_BRAND	  0x80000002u
#define LEAF_BRAND_LAST	  0x80000004u
#define LEAF_POWER	  0x80000007u
#define LEAF_SIZES	  0x80000008u
#define LEAF_AMD_CACHE	  0x8000001Du
#define LEAF_AMD_TOPOLOGY 0x8000001Eu
#define LEAF_AMD_PERFMON  0x80000022u

#define ECX1_TSC_DEADLINE BIT(24)
#define ECX1_HYPERVISOR	  BIT(31)
#define EDX1_HTT	  BIT(28)
#define ECX_EXT_CMP	  BIT(1)

/* What no guest is shown, whatever the model: things whose state is not part of a checkpoint
 * (nested virtualisation, performance counters, tracing, enclaves, AMX tiles, shadow stacks),
 * machine checks, which nobody would inject, and an invariant TSC, which a failover breaks. */
static const struct hidden {
	uint32_t fn, index;
	enum reg reg;
	uint32_t bits;
} hidden[] = {
	{1, 0, ECX, BIT(3) | BIT(5) | BIT(15)}, /* MONITOR VMX PDCM */
	{1, 0, EDX, BIT(7) | BIT(14)},		/* MCE MCA */
	{7, 0, EBX, BIT(2) | BIT(25)},		/* SGX PT */
	{7, 0, ECX, BIT(7) | BIT(30)},		/* SHSTK SGX_LC */
	{7, 0, EDX, BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25)}, /* LBR IBT AMX */
	{0xA, 0, EAX, ~0u},
	{0xA, 0, EBX, ~0u},
	{0xA, 0, ECX, ~0u},
	{0xA, 0, EDX, ~0u},
	{0xD, 0, EAX, BIT(17) | BIT(18)}, /* AMX */
	{0xD, 1, ECX, ~0u},
	{0xD, 1, EDX, ~0u}, /* supervisor states */
	{LEAF_EXT_FEATURES, 0, ECX, BIT(2) | BIT(10) | BIT(23) | BIT(24) | BIT(28)},
	{LEAF_POWER, 0, EDX, BIT(8)}, /* invariant TSC */
	{LEAF_AMD_PERFMON, 0, EAX, ~0u},
	{LEAF_AMD_PERFMON, 0, EBX, ~0u},
	/* Asynchronous page faults: a token that is out when the host dies is never answered. */
	{LEAF_KVM_FEATURES, 0, EAX, BIT(4) | BIT(10) | BIT(14) | BIT(17)},
};

/* What the named models show: the bits they require, and those that every KVM offers. */
static const struct level {
	uint32_t fn;
	enum reg reg;
	uint32_t v2, v3, platform;
} levels[] = {
	/* SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT; FMA MOVBE XSAVE AVX F16C; X2APIC, timer, HV */
	{1, ECX, 0x00982201, 0x34401000, BIT(21) | ECX1_TSC_DEADLINE | ECX1_HYPERVISOR},
	/* FPU TSC MSR PAE CX8 APIC CMOV CLFSH MMX FXSR SSE SSE2; paging, PAT, MTRR, SEP, HTT */
	{1, EDX, 0x07888371, 0, 0x1003380E},
	{7, EBX, 0, 0x00000128, 0}, /* BMI1 AVX2 BMI2 */
	{7, ECX, 0, 0, 0},
	{7, EDX, 0, 0, 0},
	{LEAF_EXT_FEATURES, ECX, BIT(0), BIT(5), ECX_EXT_CMP | BIT(22)}, /* LAHF; LZCNT */
	{LEAF_EXT_FEATURES, EDX, 0x20100800, 0,
	 0x0183F3FF}, /* SYSCALL NX LM; AMD's copies */
	{LEAF_KVM_FEATURES, EAX, BIT(3), 0, 0x01002AE3},
};
enum { XCR0_V3 = 7 }; /* x87, SSE, AVX */

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg r)
{
	switch (r) {
	case EAX:
		return &e->eax;
	case EBX:
		return &e->ebx;
	case ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

static struct kvm_cpuid_entry2 *find(struct cpuid *c, uint32_t fn, uint32_t index)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (c->e[i].function == fn && c->e[i].index == index)
			return &c->e[i];
	return NULL;
}

static void drop(struct cpuid *c, int (*unwanted)(const struct kvm_cpuid_entry2 *))
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->n; i++)
		if (!unwanted(&c->e[i]))
			c->e[n++] = c->e[i];
	c->n = n;
}

static void hide(struct cpuid *c)
{
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
		struct kvm_cpuid_entry2 *e = find(c, hidden[i].fn, hidden[i].index);

		if (e)
			*reg_of(e, hidden[i].reg) &= ~hidden[i].bits;
	}
}

/* Leaves that a named model has: the basic ones up to XSAVE, AMD's cache and topology. */
static int outside_models(const struct kvm_cpuid_entry2 *e)
{
	uint32_t fn = e->function;

	if (fn < LEAF_KVM)
		return fn > LEAF_XSAVE || fn == 5 || fn == 9 || (fn == 7 && e->index);
	if (fn >= LEAF_EXT)
		return fn > LEAF_SIZES && fn != LEAF_AMD_CACHE && fn != LEAF_AMD_TOPOLOGY;
	return fn > LEAF_KVM_FEATURES;
}

static void name_brand(struct cpuid *c, const char *model)
{
	char brand[48] = {0};

	(void)snprintf(brand, sizeof(brand), "Rhea %s", model); /* cut off is fine */
	for (uint32_t fn = LEAF_BRAND; fn <= LEAF_BRAND_LAST; fn++) {
		struct kvm_cpuid_entry2 *e = find(c, fn, 0);

		if (e)
			memcpy(&e->eax, brand + 16 * (fn - LEAF_BRAND), 16);
	}
}

static int fit_level(struct cpuid *c, const char *model, int level, struct err *err)
{
	struct kvm_cpuid_entry2 *e;

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		const struct level *l = &levels[i];
		uint32_t need = l->v2 | (level >= 3 ? l->v3 : 0), *r;

		e = find(c, l->fn, 0);
		if ((need && !e) || (e && (*reg_of(e, l->reg) & need) != need))
			return err_set(
				err, -ENOTSUP,
				"CPU model %s: this host's KVM lacks bits %#x of CPUID leaf %#x "
				"%s; use model \"host\" if both hosts are alike",
				model, e ? need & ~*reg_of(e, l->reg) : need, l->fn,
				(const char *[]){"EAX", "EBX", "ECX", "EDX"}[l->reg]);
		if (!e)
			continue;
		r = reg_of(e, l->reg);
		*r &= need | l->platform;
	}
	drop(c, outside_models);
	e = find(c, LEAF_XSAVE, 0);
	if (e) {
		e->eax &= level >= 3 ? XCR0_V3 : 0;
		e->edx = 0;
	}
	e = find(c, LEAF_XSAVE, 1);
	if (e)
		e->eax = 0;
	e = find(c, 6, 0);
	if (e)
		*e = (struct kvm_cpuid_entry2){.function = 6,
					       .eax = e->eax & BIT(2)}; /* ARAT */
	e = find(c, LEAF_POWER, 0);
	if (e)
		*e = (struct kvm_cpuid_entry2){.function = LEAF_POWER};
	e = find(c, LEAF_SIZES, 0);
	if (e)
		e->ebx = e->edx = 0;
	e = find(c, 7, 0);
	if (e)
		e->eax = 0;
	e = find(c, 0, 0);
	if (e && e->eax > LEAF_XSAVE)
		e->eax = LEAF_XSAVE;
	name_brand(c, model);
	return 0;
}

/* The size that leaf 0xD tells must be that of the components left. */
static void fit_xsave(struct cpuid *c)
{
	struct kvm_cpuid_entry2 *main = find(c, LEAF_XSAVE, 0);
	uint32_t size = XSAVE_LEGACY;

	if (!main)
		return;
	for (uint32_t i = 2; i < 32; i++) {
		struct kvm_cpuid_entry2 *e = find(c, LEAF_XSAVE, i);

		if (!e)
			continue;
		if (!(main->eax & BIT(i)))
			e->eax = e->ebx = e->ecx = e->edx = 0;
		else if (e->ebx + e->eax > size)
			size = e->ebx + e->eax;
	}
	main->ebx = main->ecx = main->eax ? size : 0;
}

static int is_topology(const struct kvm_cpuid_entry2 *e)
{
	return e->function == LEAF_TOPOLOGY || e->function == LEAF_TOPOLOGY2;
}

static unsigned log2_up(unsigned n)
{
	unsigned s = 0;

	while ((1u << s) < n)
		s++;
	return s;
}

/* Which CPUs share a cache: all of them the last level, nobody the others. */
static void fit_cache(struct kvm_cpuid_entry2 *e, unsigned ids, int intel)
{
	uint32_t shared = (e->eax >> 5 & 7) >= 3 ? ids - 1 : 0;

	if (!(e->eax & 0x1F))
		return; /* no cache: the list ends here */
	e->eax = (e->eax & 0x3FFF) | shared << 14;
	if (intel)
		e->eax |= (ids - 1) << 26;
}

/* One package, a core for each vCPU, one thread a core; the APIC id is the vCPU's number. */
static int fit_topology(struct cpuid *c, unsigned vcpus, struct err *err)
{
	unsigned shift = log2_up(vcpus), ids = 1u << shift;
	struct kvm_cpuid_entry2 *e = find(c, 0, 0);
	int amd = e && e->ecx == 0x444D4163; /* "cAMD" */

	drop(c, is_topology);
	if (c->n + 2 > CPUID_MAX)
		return err_set(err, -ENOSPC, "CPUID: more than %d leaves", CPUID_MAX);
	if (e && e->eax >= LEAF_TOPOLOGY) {
		const uint32_t flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

		c->e[c->n++] = (struct kvm_cpuid_entry2){.function = LEAF_TOPOLOGY,
							 .flags = flags,
							 .ebx = 1,
							 .ecx = 1 << 8};
		c->e[c->n++] = (struct kvm_cpuid_entry2){.function = LEAF_TOPOLOGY,
							 .index = 1,
							 .flags = flags,
							 .eax = shift,
							 .ebx = vcpus,
							 .ecx = 2 << 8 | 1};
	}
	for (uint32_t i = 0; i < c->n; i++) {
		e = &c->e[i];
		if (e->function == 1) {
			e->ebx = (e->ebx & 0xFF00FFFF) | ids << 16;
			e->edx = (e->edx & ~EDX1_HTT) | (vcpus > 1 ? EDX1_HTT : 0);
		} else if (e->function == 4 || e->function == LEAF_AMD_CACHE) {
			fit_cache(e, ids, e->function == 4);
		} else if (e->function == LEAF_EXT_FEATURES && amd) {
			e->ecx = (e->ecx & ~ECX_EXT_CMP) | (vcpus > 1 ? ECX_EXT_CMP : 0);
		} else if (e->function == LEAF_SIZES) {
			e->ecx = amd ? shift << 12 | (vcpus - 1) : 0;
		}
	}
	return 0;
}

int cpuid_fit(struct cpuid *c, const char *model, unsigned vcpus, struct err *err)
{
	int level = !strcmp(model, "x86-64-v2")	  ? 2
		    : !strcmp(model, "x86-64-v3") ? 3
		    : !strcmp(model, "host")	  ? 0
						  : -1;
	int rc;

	if (level < 0)
		return err_set(
			err, -EINVAL,
			"CPU model \"%s\" is unknown; there are host, x86-64-v2, x86-64-v3",
			model);
	hide(c);
	rc = level ? fit_level(c, model, level, err) : 0;
	if (rc)
		return rc;
	fit_xsave(c);
	return fit_topology(c, vcpus, err);
}

int cpuid_make(int kvm_fd, const char *model, unsigned vcpus, struct cpuid *out,
	       struct err *err)
{
	struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + sizeof(out->e));
	struct kvm_cpuid_entry2 *e;
	int rc = 0;

	if (!k)
		return err_set(err, -ENOMEM, "CPUID: out of memory");
	k->nent = CPUID_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, k)) {
		rc = err_sys(err, -errno, "CPUID: asking KVM what it supports");
		goto out;
	}
	out->n = k->nent;
	memcpy(out->e, k->entries, k->nent * sizeof(out->e[0]));
	e = find(out, 1, 0);
	if (!e) {
		rc = err_set(err, -ENOTSUP, "CPUID: KVM offers no leaf 1");
		goto out;
	}
	/* KVM leaves both to us: the first hangs on the in-kernel APIC, which we have. */
	if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		e->ecx |= ECX1_TSC_DEADLINE;
	e->ecx |= ECX1_HYPERVISOR;
	rc = cpuid_fit(out, model, vcpus, err);
out:
	free(k);
	return rc;
}

void cpuid_personal(struct cpuid *c, unsigned id)
{
	for (uint32_t i = 0; i < c->n; i++) {
		struct kvm_cpuid_entry2 *e = &c->e[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0x00FFFFFF) | id << 24;
		else if (e->function == LEAF_TOPOLOGY)
			e->edx = id;
		else if (e->function == LEAF_AMD_TOPOLOGY)
			*e = (struct kvm_cpuid_entry2){.function = e->function,
						       .index = e->index,
						       .flags = e->flags,
						       .eax = id,
						       .ebx = id};
	}
}

/* What is compared between hosts. Bits in @mine are the guest's own switches shown back. */
static const struct word {
	uint32_t fn, index;
	enum reg reg;
	int exact;
	uint32_t mine;
	const char *name;
} words[CPUID_WORDS] = {
	{0, 0, EBX, 1, 0, "vendor"},
	{0, 0, ECX, 1, 0, "vendor"},
	{0, 0, EDX, 1, 0, "vendor"},
	{1, 0, ECX, 0, BIT(27), "leaf 1 ECX"},
	{1, 0, EDX, 0, 0, "leaf 1 EDX"},
	{7, 0, EBX, 0, 0, "leaf 7 EBX"},
	{7, 0, ECX, 0, BIT(4), "leaf 7 ECX"},
	{7, 0, EDX, 0, 0, "leaf 7 EDX"},
	{7, 1, EAX, 0, 0, "leaf 7.1 EAX"},
	{LEAF_XSAVE, 0, EAX, 0, 0, "leaf 0xD EAX"},
	{LEAF_XSAVE, 1, EAX, 0, 0, "leaf 0xD.1 EAX"},
	{LEAF_EXT_FEATURES, 0, ECX, 0, 0, "leaf 0x80000001 ECX"},
	{LEAF_EXT_FEATURES, 0, EDX, 0, 0, "leaf 0x80000001 EDX"},
	{LEAF_SIZES, 0, EBX, 0, 0, "leaf 0x80000008 EBX"},
	{LEAF_KVM_FEATURES, 0, EAX, 0, 0, "KVM features"},
};

static const struct state_field feature_fields[] = {
	STATE_INTS(1, 1, struct cpuid_features, word),
	STATE_END,
};
static const struct state_table feature_table = {"cpuid", 1, feature_fields};

void cpuid_features(const struct cpuid *c, struct cpuid_features *out)
{
	for (unsigned i = 0; i < CPUID_WORDS; i++) {
		/* find() only looks; the cast spares a second copy of it. */
		struct kvm_cpuid_entry2 *e =
			find((struct cpuid *)c, words[i].fn, words[i].index);

		out->word[i] = e ? *reg_of(e, words[i].reg) & ~words[i].mine : 0;
	}
}

int cpuid_save(const struct cpuid *c, struct buf *b)
{
	struct cpuid_features f;

	cpuid_features(c, &f);
	return state_save(b, &feature_table, 0, &f);
}

int cpuid_load(const struct cpuid *c, struct reader *r, struct err *err)
{
	struct cpuid_features was, now;
	int rc = state_load(r, &feature_table, 0, &was, err);

	if (rc)
		return rc;
	cpuid_features(c, &now);
	for (unsigned i = 0; i < CPUID_WORDS; i++) {
		uint32_t lost = words[i].exact ? was.word[i] ^ now.word[i]
					       : was.word[i] & ~now.word[i];

		if (lost)
			return err_set(
				err, -ENOTSUP,
				"this host's CPU lacks what the guest was shown: %s, bits %#x; "
				"use a CPU model that both hosts can run",
				words[i].name, lost);
	}
	return 0;
}
