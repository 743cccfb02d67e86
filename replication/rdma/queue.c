/* SPDX-License-Identifier: Apache-2.0
 * queue - what is posted to the device, and what its completions mean.
 *
 * Words to the peer are immediate data: the upper two bits say which, the lower 30 how
 * much. An announcement rides on an RDMA WRITE, so that it cannot overtake the bytes that
 * it speaks of; the others are empty SENDs. A slot that a word has used up is posted again
 * before the credit that lets the peer use it again: the peer never finds none.
 */
#include "replication/rdma/link.h"

#include "hv/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>

enum {
	WORD_SHIFT = 30,
	VALUE_MASK = (1 << WORD_SHIFT) - 1,
	BATCH = 32, /* completions looked at in one go */
	SLOTS = RING_MARKS + RING_CREDITS + 2,
};
_Static_assert((int)HELLO_RING_MAX <= (int)VALUE_MASK,
	       "an announcement holds any size of ring");

static void post(struct link *l, struct ibv_send_wr *wr, uint64_t end, int signalled)
{
	struct ibv_send_wr *bad;

	wr->wr_id = l->sq.tail;
	wr->send_flags = signalled ? IBV_SEND_SIGNALED : 0;
	if (ibv_post_send(l->qp, wr, &bad)) {
		link_end(l, -ECONNRESET); /* the queue pair is in its error state */
		return;
	}
	(void)ring_sq_push(&l->sq, end, signalled); /* the number is wr_id */
}

int queue_has_slot(const struct link *l)
{
	return ring_sq_free(&l->sq) > RING_SQ_SPARE;
}

void queue_write(struct link *l, size_t max, int tell)
{
	struct ring_piece piece;
	struct ibv_sge sge = {.lkey = l->mem_out.mr->lkey};
	struct ibv_send_wr wr = {.sg_list = &sge, .opcode = IBV_WR_RDMA_WRITE};

	wr.num_sge = ring_out_next(&l->out, max, &piece) ? 1 : 0;
	sge.addr = (uintptr_t)l->mem_out.p + piece.local_at;
	sge.length = (uint32_t)piece.len;
	wr.wr.rdma.remote_addr = l->peer.addr + piece.remote_at;
	wr.wr.rdma.rkey = l->peer.rkey;
	l->out.posted = piece.end;
	if (tell) {
		wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
		wr.imm_data = htonl(ring_out_tell(&l->out));
	}
	post(l, &wr, piece.end, ring_sq_wants_signal(&l->sq, piece.end, l->out.local));
}

static void post_word(struct link *l, enum link_word word, uint32_t value, int signalled)
{
	struct ibv_send_wr wr = {
		.opcode = IBV_WR_SEND_WITH_IMM,
		.imm_data = htonl((uint32_t)word << WORD_SHIFT | value),
	};

	post(l, &wr, l->out.posted, signalled);
}

void queue_say(struct link *l, enum link_word word)
{
	if (ring_sq_free(&l->sq))
		post_word(l, word, 0, 1);
}

void queue_probe(struct link *l)
{
	struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE};

	if (l->probing || !queue_has_slot(l))
		return;
	wr.wr.rdma.remote_addr = l->peer.addr;
	wr.wr.rdma.rkey = l->peer.rkey;
	l->probing = 1;
	l->probe = l->sq.tail;
	post(l, &wr, l->out.posted, 1);
}

/* @n more slots. */
static int post_slots(struct link *l, unsigned n)
{
	struct ibv_recv_wr wr[BATCH] = {0}, *bad;
	int r = 0;

	while (n && !r) {
		unsigned k = n < BATCH ? n : BATCH;

		for (unsigned i = 0; i < k; i++)
			wr[i].next = i + 1 < k ? &wr[i + 1] : NULL;
		r = ibv_post_recv(l->qp, wr, &bad);
		n -= k;
	}
	return -r;
}

int queue_fill(struct link *l)
{
	return post_slots(l, SLOTS);
}

static int heard(struct link *l, enum link_word word, uint32_t value)
{
	switch (word) {
	case LINK_TOLD:
		return l->end == -EPIPE ? -EBADMSG : ring_in_told(&l->in, value);
	case LINK_CREDIT:
		return ring_out_credit(&l->out, value);
	case LINK_BYE:
		link_end(l, -EPIPE);
		return value ? -EBADMSG : 0;
	case LINK_ABORT:
		link_end(l, -ECONNRESET);
		return value ? -EBADMSG : 0;
	}
	return -EBADMSG;
}

/* One word of the peer. Announcements come by WRITE only, all else by SEND only. */
static int received(struct link *l, const struct ibv_wc *wc)
{
	const uint32_t imm = ntohl(wc->imm_data);
	const enum link_word word = imm >> WORD_SHIFT;

	if (!(wc->wc_flags & IBV_WC_WITH_IMM))
		return -EBADMSG;
	if ((wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM) != (word == LINK_TOLD))
		return -EBADMSG;
	return heard(l, word, imm & VALUE_MASK);
}

static int sent(struct link *l, uint64_t number)
{
	int rc = ring_sq_done(&l->sq, number, &l->out.done);

	if (!rc && l->probing && number >= l->probe)
		l->probing = 0;
	return rc;
}

/* Returns how many slots were used up: 0 or 1. */
static unsigned completed(struct link *l, const struct ibv_wc *wc)
{
	int rc = -ECONNRESET; /* the path is dead, or the queue pair is being emptied */
	unsigned slots = 0;

	if (wc->status == IBV_WC_SUCCESS) {
		slots = wc->opcode & IBV_WC_RECV ? 1 : 0;
		rc = slots ? received(l, wc) : sent(l, wc->wr_id);
	}
	if (rc)
		link_end(l, rc);
	return slots;
}

static void give_room_back(struct link *l)
{
	uint32_t n;

	/* Without a free request it waits for the next completion, which makes one. */
	if (l->dead || l->down || !ring_in_due(&l->in) || ring_sq_free(&l->sq) <= 1)
		return;
	n = ring_in_credit(&l->in);
	post_word(l, LINK_CREDIT, n,
		  ring_sq_wants_signal(&l->sq, l->out.posted, l->out.local));
}

void queue_progress(struct link *l)
{
	struct ibv_wc wc[BATCH];
	unsigned slots;
	int n;

	do {
		slots = 0;
		n = ibv_poll_cq(l->cq, BATCH, wc);
		for (int i = 0; i < n; i++)
			slots += completed(l, &wc[i]);
		if (n < 0 || (slots && !l->end && post_slots(l, slots)))
			link_end(l, -ECONNRESET);
		if (n > 0) {
			l->changes++;
			l->last_heard = clock_mono_ns();
		}
	} while (n == BATCH);
	give_room_back(l);
	if (l->followers && n > 0)
		pthread_cond_broadcast(&l->change); /* the leader sees it by itself */
}
