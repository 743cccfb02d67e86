/* SPDX-License-Identifier: Apache-2.0
 * state - sections of a state stream, written and read by field table (format: STATE.md).
 */
#include "hv/state.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"

#include <errno.h>
#include <string.h>

/* Values are copied as they are in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the stream is little-endian");

enum { NAME_LEN = 32 };

struct section_wire {
	uint8_t name[NAME_LEN]; /* padded with zeroes, at least one */
	struct le32 instance;
	struct le16 version;
	struct le16 fields;
	struct le32 len; /* of all fields, with their heads */
};
WIRE_SIZE(struct section_wire, 44);

struct field_wire {
	struct le16 id;
	struct le32 len; /* of the value that follows */
};
WIRE_SIZE(struct field_wire, 6);

static uint64_t value_len(const struct state_field *f)
{
	return (uint64_t)f->size * f->count;
}

/* What version @version of the table holds: number of fields and their length on the wire. */
static unsigned measure(const struct state_table *t, unsigned version, uint64_t *len_out)
{
	unsigned n = 0;
	uint64_t len = 0;

	for (const struct state_field *f = t->field; f->name; f++) {
		if (f->since > version)
			continue;
		len += sizeof(struct field_wire) + value_len(f);
		n++;
	}
	*len_out = len;
	return n;
}

int state_save(struct buf *b, const struct state_table *t, uint32_t instance,
	       const void *obj)
{
	struct section_wire s = {.instance = le32_of(instance),
				 .version = le16_of(t->version)};
	size_t name_len = strnlen(t->name, NAME_LEN - 1);
	uint64_t len;
	uint8_t *p;

	memcpy(s.name, t->name, name_len);
	s.fields = le16_of((uint16_t)measure(t, t->version, &len));
	if (len > UINT32_MAX)
		return -EINVAL;
	s.len = le32_of((uint32_t)len);
	p = buf_grow(b, sizeof(s) + len);
	if (!p)
		return -ENOMEM;
	memcpy(p, &s, sizeof(s));
	p += sizeof(s);
	for (const struct state_field *f = t->field; f->name; f++) {
		struct field_wire w = {.id = le16_of(f->id),
				       .len = le32_of((uint32_t)value_len(f))};

		memcpy(p, &w, sizeof(w));
		memcpy(p + sizeof(w), (const uint8_t *)obj + f->offset, value_len(f));
		p += sizeof(w) + value_len(f);
	}
	return 0;
}

/* Read and judge a section's head. Returns the version, or -EBADMSG. */
static int read_head(struct reader *r, const struct state_table *t, uint32_t instance,
		     struct err *err)
{
	struct section_wire s;
	uint64_t len;
	unsigned version, n;

	if (rd_bytes(r, &s, sizeof(s)))
		return err_set(err, -EBADMSG, "state: ends before section %s.%u", t->name,
			       instance);
	s.name[NAME_LEN - 1] = 0;
	if (strcmp((const char *)s.name, t->name) != 0)
		return err_set(err, -EBADMSG, "state: section \"%.31s\" where %s is due",
			       (const char *)s.name, t->name);
	if (le32_get(s.instance) != instance)
		return err_set(err, -EBADMSG, "state: %s.%u where %s.%u is due", t->name,
			       le32_get(s.instance), t->name, instance);
	version = le16_get(s.version);
	if (!version || version > t->version)
		return err_set(err, -EBADMSG,
			       "state: %s has version %u, this program reads up to %u",
			       t->name, version, t->version);
	n = measure(t, version, &len);
	if (le16_get(s.fields) != n || le32_get(s.len) != len)
		return err_set(
			err, -EBADMSG,
			"state: %s version %u has %u fields in %u bytes, not %u in %u",
			t->name, version, le16_get(s.fields), le32_get(s.len), n,
			(unsigned)len);
	return (int)version;
}

/* Walk the fields that @version has; with @obj NULL only look whether all is as it must be. */
static int read_fields(struct reader *r, const struct state_table *t, int version,
		       void *obj, struct err *err)
{
	for (const struct state_field *f = t->field; f->name; f++) {
		struct field_wire w;
		const void *value;

		if (f->since > version)
			continue;
		if (rd_bytes(r, &w, sizeof(w)))
			return err_set(err, -EBADMSG, "state: ends before %s.%s", t->name,
				       f->name);
		if (le16_get(w.id) != f->id || le32_get(w.len) != value_len(f))
			return err_set(
				err, -EBADMSG,
				"state: %s: field %u of %u bytes where %s (%u) of %u is due",
				t->name, le16_get(w.id), le32_get(w.len), f->name, f->id,
				(unsigned)value_len(f));
		value = rd_take(r, value_len(f));
		if (!value)
			return err_set(err, -EBADMSG, "state: ends inside %s.%s", t->name,
				       f->name);
		if (obj)
			memcpy((uint8_t *)obj + f->offset, value, value_len(f));
	}
	return 0;
}

int state_load(struct reader *r, const struct state_table *t, uint32_t instance,
	       void *obj, struct err *err)
{
	int version = read_head(r, t, instance, err), rc;
	struct reader look;

	if (version < 0)
		return version;
	look = *r; /* first without effect, so that a bad section changes nothing */
	rc = read_fields(&look, t, version, NULL, err);
	if (rc) {
		r->failed = 1;
		return rc;
	}
	return read_fields(r, t, version, obj, err);
}
