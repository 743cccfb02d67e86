/* SPDX-License-Identifier: Apache-2.0
 * saved_load - a saved guest into the memory of a machine that has not started.
 */
#include "remus/saved.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/gm.h"

#include <errno.h>
#include <string.h>

struct load {
	struct gm *gm;
	struct buf *state, *said;
};

static int on_state(void *arg, const void *p, size_t len)
{
	struct load *l = arg;

	return buf_add(l->state, p, len);
}

static int on_said(void *arg, const void *p, size_t len)
{
	struct load *l = arg;

	return buf_add(l->said, p, len);
}

/* The file's pages are within its own size, which is this guest's. */
static int on_pages(void *arg, uint64_t page, unsigned n, const void *p)
{
	struct load *l = arg;

	memcpy(gm_base(l->gm) + page * GM_PAGE, p, (size_t)n * GM_PAGE);
	return 0;
}

int saved_load(int fd, struct gm *gm, struct buf *state, struct buf *said,
	       struct saved_info *info, struct err *err)
{
	struct load l = {.gm = gm, .state = state, .said = said};
	const struct saved_sink sink = {
		.state = on_state, .said = on_said, .pages = on_pages, .arg = &l};
	int rc = saved_head(fd, info, err);

	if (rc)
		return rc;
	if (info->ram != gm_bytes(gm))
		return err_set(err, -EINVAL,
			       "the saved guest has %llu MiB of memory, this VM %llu MiB",
			       (unsigned long long)info->ram >> 20,
			       (unsigned long long)gm_bytes(gm) >> 20);
	return saved_read(fd, &sink, info, err);
}
