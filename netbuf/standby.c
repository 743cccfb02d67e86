/* SPDX-License-Identifier: Apache-2.0
 * standby - keeps the addresses that the guest is known to speak from, epoch by epoch.
 */
#include "netbuf/standby.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>

static void forget(struct netbuf_standby *s, struct nb_staged **at)
{
	struct nb_staged *e;

	while ((e = *at)) {
		*at = e->next;
		free(e);
		s->count--;
	}
}

static int nbs_hello(void *self, struct rec_sink *sink, struct err *err)
{
	struct netbuf_standby *s = self;

	forget(s, &s->staged);
	s->any = 0;
	return 0;
}

static int nbs_record(void *self, uint16_t type, uint64_t epoch, const void *p,
		      size_t len, struct err *err)
{
	struct netbuf_standby *s = self;
	struct nb_staged *e, **at = &s->staged;
	int rc;

	if (type != NB_REC_ADDRS || epoch == REC_EPOCH_SYNC)
		return err_set(err, -EBADMSG, "output: record of unknown type %#x", type);
	while (*at && (*at)->epoch < epoch)
		at = &(*at)->next;
	if (*at || (s->any && epoch <= s->checked))
		return err_set(err, -EBADMSG, "output: address table out of order");
	if (s->count >= NB_STAGED_MAX)
		return err_set(err, -ENOBUFS, "output: too many epochs are not applied");
	e = calloc(1, sizeof(*e));
	if (!e)
		return err_set(err, -ENOMEM, "output: no memory for an address table");
	rc = nb_table_decode(&e->table, p, len, err);
	if (rc) {
		free(e);
		return rc;
	}
	e->epoch = epoch;
	*at = e;
	s->count++;
	return 0;
}

static int nbs_check(void *self, uint64_t epoch, struct err *err)
{
	struct netbuf_standby *s = self;

	s->any = 1;
	s->checked = epoch;
	return 0;
}

static int nbs_apply(void *self, uint64_t epoch, struct err *err)
{
	struct netbuf_standby *s = self;
	struct nb_staged *e;

	while ((e = s->staged) && e->epoch <= epoch) {
		s->table = e->table;
		s->staged = e->next;
		s->count--;
		free(e);
	}
	return 0;
}

/* An epoch that was checked may have been acked, and then is still to be applied: it stays until
 * activate or the next hello. */
static void nbs_drop(void *self)
{
	struct netbuf_standby *s = self;
	struct nb_staged **at = &s->staged;

	while (*at && s->any && (*at)->epoch <= s->checked)
		at = &(*at)->next;
	forget(s, at);
}

static int nbs_activate(void *self, struct err *err)
{
	struct netbuf_standby *s = self;

	forget(s, &s->staged);
	return 0;
}

static const struct standby_part_ops standby_ops = {
	.name = "output",
	.kind = NB_REC_KIND,
	.hello = nbs_hello,
	.room = spart_no_room,
	.record = nbs_record,
	.check = nbs_check,
	.report = spart_no_report,
	.apply = nbs_apply,
	.drop = nbs_drop,
	.activate = nbs_activate,
	.teardown = part_no_teardown,
};

int netbuf_standby_said(const struct netbuf_standby *s, struct buf *b)
{
	nb_table_encode(&s->table, b);
	return b->failed ? -ENOMEM : 0;
}

int netbuf_standby_hear(struct netbuf_standby *s, const void *p, size_t len,
			struct err *err)
{
	return nb_table_decode(&s->table, p, len, err);
}

int netbuf_standby_create(struct netbuf_standby **s_out, struct err *err)
{
	*s_out = calloc(1, sizeof(**s_out));
	return *s_out ? 0
		      : err_set(err, -ENOMEM,
				"output: no memory for the standby's table");
}

void netbuf_standby_destroy(struct netbuf_standby *s)
{
	if (s)
		forget(s, &s->staged);
	free(s);
}

struct standby_part netbuf_standby_part(struct netbuf_standby *s)
{
	return (struct standby_part){.ops = &standby_ops, .self = s};
}
