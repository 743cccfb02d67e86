/* SPDX-License-Identifier: Apache-2.0
 * msix - the message-signalled interrupts of one PCI function (PCI Local Bus 3.0, 6.8.2).
 */
#include "hv/msix.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/irq.h"
#include "hv/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_MASKED = 1 };

struct msix_state {
	uint64_t addr[MSIX_VECTORS_MAX];
	uint32_t data[MSIX_VECTORS_MAX];
	uint32_t ctrl[MSIX_VECTORS_MAX]; /* vector control: bit 0 masks */
	uint32_t pending;		 /* a bit for each vector */
};

struct msix {
	unsigned vectors;
	uint16_t ctrl; /* message control */
	struct msix_state s;
	struct {
		struct irq_msi *irq;
		int routed;
		uint64_t addr; /* where irq goes now */
		uint32_t data;
	} out[MSIX_VECTORS_MAX];
};

static const struct state_field msix_fields[] = {
	STATE_INTS(1, 1, struct msix_state, addr),
	STATE_INTS(2, 1, struct msix_state, data),
	STATE_INTS(3, 1, struct msix_state, ctrl),
	STATE_INT(4, 1, struct msix_state, pending),
	STATE_END,
};
static const struct state_table msix_table = {"msix", 1, msix_fields};

int msix_create(struct vm *vm, unsigned vectors, struct msix **m_out, struct err *err)
{
	struct msix *m;
	int rc;

	*m_out = NULL;
	if (!vectors || vectors > MSIX_VECTORS_MAX)
		return err_set(err, -EINVAL, "msix: %u vectors", vectors);
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(err, -ENOMEM, "msix: out of memory");
	m->vectors = vectors;
	for (unsigned i = 0; i < vectors; i++) {
		rc = irq_msi_create(vm, &m->out[i].irq, err);
		if (rc) {
			msix_destroy(m);
			return rc;
		}
	}
	msix_reset(m);
	*m_out = m;
	return 0;
}

void msix_destroy(struct msix *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->vectors; i++)
		if (m->out[i].irq)
			irq_msi_destroy(m->out[i].irq);
	free(m);
}

unsigned msix_vectors(const struct msix *m)
{
	return m->vectors;
}

static void put32(uint8_t *p, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

void msix_cap(const struct msix *m, unsigned bar, uint32_t table_off, uint32_t pba_off,
	      uint8_t body[MSIX_CAP_LEN], uint8_t wmask[MSIX_CAP_LEN])
{
	memset(wmask, 0, MSIX_CAP_LEN);
	body[0] = (uint8_t)(m->vectors - 1);
	body[1] = 0;
	put32(body + 2, table_off | bar);
	put32(body + 6, pba_off | bar);
	wmask[1] = (MSIX_CTRL_MASK | MSIX_CTRL_ENABLE) >> 8;
}

static int is_open(const struct msix *m, unsigned v)
{
	return (m->ctrl & MSIX_CTRL_ENABLE) && !(m->ctrl & MSIX_CTRL_MASK) &&
	       !(m->s.ctrl[v] & ENTRY_MASKED);
}

/* Changing a route is slow (KVM waits for its readers), so only when it is a new one, and not
 * before the vector is open: guests write address and data while it is masked. */
static int route(struct msix *m, unsigned v)
{
	int rc;

	if (m->out[v].routed && m->out[v].addr == m->s.addr[v] &&
	    m->out[v].data == m->s.data[v])
		return 0;
	rc = irq_msi_route(m->out[v].irq, m->s.addr[v], m->s.data[v]);
	if (rc) {
		log_ratelimited(LOG_LVL_WARN, 1000,
				"msix: vector %u cannot be routed: %s", v, strerror(-rc));
		m->out[v].routed = 0;
		return rc;
	}
	m->out[v].routed = 1;
	m->out[v].addr = m->s.addr[v];
	m->out[v].data = m->s.data[v];
	return 0;
}

/* Bring vector @v to where its registers say it should be. */
static void update(struct msix *m, unsigned v)
{
	if (!is_open(m, v) || route(m, v))
		return;
	if (m->s.pending & (1u << v)) {
		m->s.pending &= ~(1u << v);
		irq_msi_raise(m->out[v].irq);
	}
}

void msix_control(struct msix *m, uint16_t ctrl)
{
	m->ctrl = ctrl;
	for (unsigned i = 0; i < m->vectors; i++)
		update(m, i);
}

int msix_enabled(const struct msix *m)
{
	return !!(m->ctrl & MSIX_CTRL_ENABLE);
}

static uint32_t entry_get(const struct msix *m, unsigned v, unsigned word)
{
	switch (word) {
	case 0:
		return (uint32_t)m->s.addr[v];
	case 1:
		return (uint32_t)(m->s.addr[v] >> 32);
	case 2:
		return m->s.data[v];
	default:
		return m->s.ctrl[v];
	}
}

static void entry_set(struct msix *m, unsigned v, unsigned word, uint32_t val)
{
	switch (word) {
	case 0:
		m->s.addr[v] = (m->s.addr[v] & ~0xFFFFFFFFull) | (val & ~3u);
		break;
	case 1:
		m->s.addr[v] = (m->s.addr[v] & 0xFFFFFFFFull) | (uint64_t)val << 32;
		break;
	case 2:
		m->s.data[v] = val;
		break;
	default:
		m->s.ctrl[v] = val & ENTRY_MASKED;
		break;
	}
}

static int entry_ok(const struct msix *m, uint64_t off, unsigned len)
{
	return (len == 4 || len == 8) && off % len == 0 && off / MSIX_ENTRY < m->vectors;
}

void msix_table_read(const struct msix *m, uint64_t off, void *data, unsigned len)
{
	uint8_t *p = data;

	memset(data, 0, len);
	if (!entry_ok(m, off, len))
		return;
	for (unsigned i = 0; i < len; i += 4)
		put32(p + i, entry_get(m, (unsigned)(off / MSIX_ENTRY),
				       (unsigned)((off + i) % MSIX_ENTRY / 4)));
}

void msix_table_write(struct msix *m, uint64_t off, const void *data, unsigned len)
{
	const uint8_t *p = data;
	unsigned v = (unsigned)(off / MSIX_ENTRY);

	if (!entry_ok(m, off, len))
		return;
	for (unsigned i = 0; i < len; i += 4)
		entry_set(m, v, (unsigned)((off + i) % MSIX_ENTRY / 4),
			  p[i] | p[i + 1] << 8 | p[i + 2] << 16 |
				  (uint32_t)p[i + 3] << 24);
	update(m, v);
}

void msix_pba_read(const struct msix *m, uint64_t off, void *data, unsigned len)
{
	uint8_t *p = data;

	for (unsigned i = 0; i < len; i++)
		p[i] = off + i < 4 ? (uint8_t)(m->s.pending >> (8 * (off + i))) : 0;
}

void msix_raise(struct msix *m, unsigned vector)
{
	if (vector >= m->vectors || !msix_enabled(m))
		return;
	m->s.pending |= 1u << vector;
	update(m, vector);
}

void msix_reset(struct msix *m)
{
	memset(&m->s, 0, sizeof(m->s));
	m->ctrl = 0;
	for (unsigned i = 0; i < MSIX_VECTORS_MAX; i++)
		m->s.ctrl[i] = ENTRY_MASKED;
}

int msix_save(const struct msix *m, uint32_t instance, struct buf *b)
{
	return state_save(b, &msix_table, instance, &m->s);
}

int msix_load(struct msix *m, uint32_t instance, struct reader *r, struct err *err)
{
	uint64_t known = (1ull << m->vectors) - 1;
	struct msix_state in = {0};
	int rc = state_load(r, &msix_table, instance, &in, err);

	if (rc)
		return rc;
	if (in.pending & ~known)
		return err_set(err, -EBADMSG,
			       "msix %u: pending vectors that do not exist", instance);
	m->s = in;
	m->ctrl = 0;
	return 0;
}
