/* SPDX-License-Identifier: Apache-2.0
 * img_copy - one image into another, and one beside another, holes left out.
 */
#include "hv/vhd_make.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 1 << 20, GRAIN = 4096 };

static int is_zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Only what is not zeroes, in pieces of a page. */
static int write_data(struct img to, const uint8_t *p, uint64_t len, uint64_t at)
{
	uint64_t from = 0, n;
	int rc = 0;

	while (!rc && from < len) {
		uint64_t end = from;

		while (end < len &&
		       !is_zero(p + end, n = len - end < GRAIN ? len - end : GRAIN))
			end += n;
		if (end > from)
			rc = img_write(to, p + from, end - from, at + from);
		from = end;
		while (!rc && from < len &&
		       is_zero(p + from, n = len - from < GRAIN ? len - from : GRAIN))
			from += n;
	}
	return rc;
}

int img_copy(struct img from, struct img to, uint64_t bytes,
	     void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg,
	     struct err *err)
{
	uint8_t *buf = malloc(STEP);
	uint64_t at = 0, n;
	int rc = 0;

	if (!buf)
		return err_set(err, -ENOMEM, "copying: out of memory");
	while (!rc && (at = img_data(from, at)) < bytes) {
		n = STEP - at % STEP;
		n = bytes - at < n ? bytes - at : n;
		rc = img_read(from, buf, n, at);
		if (rc) {
			(void)err_sys(err, rc, "reading at %llu", (unsigned long long)at);
			break; /* rc is returned */
		}
		rc = write_data(to, buf, n, at);
		if (rc)
			(void)err_sys(err, rc, "writing at %llu",
				      (unsigned long long)at); /* rc is returned */
		at += n;
		if (progress)
			progress(arg, at, bytes);
	}
	free(buf);
	if (!rc) {
		rc = img_sync(to);
		rc = rc ? err_sys(err, rc, "making the copy durable") : 0;
	}
	return rc;
}

int img_compare(struct img a, struct img b, uint64_t bytes, uint64_t *at_out)
{
	uint8_t *x = malloc(STEP), *y = malloc(STEP);
	uint64_t at = 0, n;
	int rc = x && y ? 0 : -ENOMEM;

	while (!rc && at < bytes) {
		uint64_t in_a = img_data(a, at), in_b = img_data(b, at);

		at = in_a < in_b ? in_a : in_b;
		if (at >= bytes)
			break;
		n = bytes - at < STEP ? bytes - at : STEP;
		rc = img_read(a, x, n, at);
		rc = rc ? rc : img_read(b, y, n, at);
		if (rc || !memcmp(x, y, n)) {
			at += n;
			continue;
		}
		for (*at_out = at; x[*at_out - at] == y[*at_out - at]; (*at_out)++)
			;
		rc = 1;
	}
	free(x);
	free(y);
	return rc;
}
