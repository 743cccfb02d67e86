/* SPDX-License-Identifier: Apache-2.0
 * participant - stubs for the operations that a participant has no use for.
 */
#include "remus/participant.h"

#include "hv/base/err.h"

#include <errno.h>

int part_no_setup(void *self, struct err *err)
{
	return 0;
}

int part_no_greet(void *self, struct rec_sink *s, struct err *err)
{
	return 0;
}

int part_no_sync_begin(void *self, struct rec_sink *s, struct err *err)
{
	return 0;
}

int part_no_sync_round(void *self, struct rec_sink *s, uint64_t *left_out,
		       struct err *err)
{
	*left_out = 0;
	return 0;
}

int part_no_ahead(void *self, uint64_t epoch, struct err *err)
{
	return 0;
}

int part_no_pause(void *self)
{
	return 0;
}

void part_no_resume(void *self)
{
}

int part_no_send(void *self, uint64_t epoch, struct rec_sink *s, struct err *err)
{
	return 0;
}

void part_no_committed(void *self, uint64_t epoch)
{
}

/* Whoever expects nothing from the peer refuses whatever comes. */
int part_no_peer_record(void *self, uint16_t type, const void *p, size_t len,
			struct err *err)
{
	return err_set(err, -EPROTO,
		       "record type 0x%04x is not expected from the standby", type);
}

void part_no_event(void *self)
{
}

void part_no_teardown(void *self)
{
}

int spart_no_hello(void *self, struct rec_sink *s, struct err *err)
{
	return 0;
}

void *spart_no_room(void *self, uint16_t type, uint64_t epoch, size_t len)
{
	return NULL;
}

int spart_no_check(void *self, uint64_t epoch, struct err *err)
{
	return 0;
}

int spart_no_report(void *self, struct rec_sink *s)
{
	return 0;
}

int spart_no_apply(void *self, uint64_t epoch, struct err *err)
{
	return 0;
}

int spart_no_activate(void *self, struct err *err)
{
	return 0;
}
