/* SPDX-License-Identifier: Apache-2.0
 * linkcarry - from what was measured of a path to what it can carry of a VM. Pure.
 *
 * An epoch of n pages commits in one round trip of a page and its answer, and the time that the other
 * pages take at the measured bandwidth; one epoch at a time. Pauses, encoding and checking are
 * not in it: `rheactl status` shows those.
 */
#ifndef CTL_LINKCARRY_H
#define CTL_LINKCARRY_H

#include <stdint.h>

enum {
	CARRY_PAGE = 4096 + 16, /* a page as it travels uncompressed */
	CARRY_EPOCH = 1000,	/* pages, of the example */
};

enum carry_limit { CARRY_BY_BANDWIDTH, CARRY_BY_LATENCY };
enum carry_verdict {
	CARRY_UNMEASURED, /* there is no bandwidth to judge by */
	CARRY_GOOD,	  /* the VM's epochs commit within an interval */
	CARRY_LATE,	  /* they take longer, but do not pile up */
	CARRY_SLOW,	  /* they pile up: the guest will have to wait */
};
const char *carry_limit_name(enum carry_limit l);
const char *carry_verdict_name(enum carry_verdict v);

struct carry_in {
	uint64_t bytes, ns;   /* so many in so long */
	uint64_t trip_ns;     /* of a page and its answer */
	unsigned interval_us; /* of the VM */
	double page_bytes;    /* that a changed page takes now; 0: not known */
	uint64_t pages;	      /* of a large epoch of this VM, if page_bytes is known */
};

struct carry_epoch {
	double commit_ms, per_s;
	enum carry_limit limit;
};

struct carry {
	double bytes_per_s, bytes_per_epoch;
	uint64_t pages_raw, pages_encoded; /* in an epoch; encoded: 0 if not known */
	struct carry_epoch raw, encoded;   /* of CARRY_EPOCH pages */
	struct carry_epoch
		load; /* of in.pages, as encoded; of one raw page if not known */
	enum carry_verdict verdict;
};

void carry_judge(const struct carry_in *in, struct carry *out);

#endif
