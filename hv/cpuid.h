/* SPDX-License-Identifier: Apache-2.0
 * cpuid - what the guest is told about its CPUs.
 *
 * A model is a set of features that a host must have to run it; all else is hidden, so that
 * the guest finds the same CPU on both hosts. "host" shows everything that can be moved.
 */
#ifndef HV_CPUID_H
#define HV_CPUID_H

#include <linux/kvm.h>
#include <stdint.h>

struct buf;
struct err;
struct reader;

enum { CPUID_MAX = 160, CPUID_WORDS = 15 };

struct cpuid {
	uint32_t n;
	struct kvm_cpuid_entry2 e[CPUID_MAX];
};

/* The table for @model on this host with @vcpus CPUs (no CPU's own ids yet). 0, -EINVAL for an
 * unknown model, -ENOTSUP with @err naming what the host lacks. */
int cpuid_make(int kvm_fd, const char *model, unsigned vcpus, struct cpuid *out,
	       struct err *err);
/* Fit what KVM offers (in @c) to @model; the pure part of cpuid_make(). */
int cpuid_fit(struct cpuid *c, const char *model, unsigned vcpus, struct err *err);
/* Put in what differs from CPU to CPU. */
void cpuid_personal(struct cpuid *c, unsigned id);

/* The features shown to the guest, as words of bits, to be compared between hosts. */
struct cpuid_features {
	uint32_t word[CPUID_WORDS];
};
void cpuid_features(const struct cpuid *c, struct cpuid_features *out);
int cpuid_save(const struct cpuid *c, struct buf *b);
/* -ENOTSUP, with @err naming the register and bits, when the stream's guest was shown a feature
 * that @c has not. */
int cpuid_load(const struct cpuid *c, struct reader *r, struct err *err);

#endif
