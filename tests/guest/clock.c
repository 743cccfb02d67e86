/* SPDX-License-Identifier: Apache-2.0
 * clock - the guest's monotonic time, from KVM's paravirtual clock (Linux,
 * Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW).
 */
#include "tests/guest/clock.h"

#include "tests/guest/io.h"

/* The host fills it in, in a page that entry.S told it. An odd version: it is doing so now. */
struct clock_page {
	uint32_t version, padding;
	uint64_t tsc, ns; /* at @tsc it was @ns */
	uint32_t mul;	  /* ns = ((tsc << shift) * mul) >> 32 */
	int8_t shift;
	uint8_t flags, padding2[2];
};
extern volatile struct clock_page clock_page;

uint64_t clock_ns(void)
{
	uint64_t delta, ns;
	uint32_t version;
	int shift;

	do {
		version = clock_page.version;
		io_order();
		delta = io_tsc() - clock_page.tsc;
		shift = clock_page.shift;
		delta = shift < 0 ? delta >> -shift : delta << shift;
		ns = clock_page.ns +
		     (uint64_t)(((unsigned __int128)delta * clock_page.mul) >> 32);
		io_order();
	} while ((version & 1) || version != clock_page.version);
	return ns;
}
