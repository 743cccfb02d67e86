/* SPDX-License-Identifier: Apache-2.0
 * fuzz_lane - frames from anybody: what the parser makes of them, and what a lane does then.
 *
 * The input is a row of frames: flags (bit 0: put the sum right; bit 1: put id and sender right),
 * length (1 byte, times 8), bytes.
 */
#include "replication/lane.h"
#include "replication/lane_wire.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { ROOM = 2048, SLOTS = 64, SUM = 1, OURS = 2 };

static unsigned held;

static void must(int ok)
{
	if (!ok)
		abort();
}

static void *get(void *self, uint8_t **data_out)
{
	uint8_t *f = calloc(1, ROOM);

	must(f != NULL);
	held++;
	*data_out = f;
	return f;
}

static void put(void *self, void *frame)
{
	held--;
	free(frame);
}

static void *again(void *self, void *frame, size_t len, uint8_t **data_out)
{
	void *f = get(self, data_out);

	memcpy(f, frame, len);
	return f;
}

static unsigned room(void *self)
{
	return 8;
}

/* What a lane says can be understood, and says the same again. */
static void send_frame(void *self, void *frame, size_t len)
{
	uint8_t twice[ROOM] = {0};
	struct lane_msg m;

	must(lane_parse(frame, len, &m) == LANE_GOOD);
	memcpy(twice, frame, len);
	must(lane_build(&m, twice) == len && !memcmp(twice, frame, len));
	put(self, frame);
}

static const struct lane_ops ops = {
	.get = get, .put = put, .again = again, .room = room, .send = send_frame};

static const struct lane_cfg cfg = {
	.own_id = 0x1111111122222222,
	.peer_id = 0x33333333fffffff0,
	.own_mac = {2, 0, 0, 0, 0, 1},
	.peer_mac = {2, 0, 0, 0, 0, 2},
	.mtu = 1500,
	.tx_slots = SLOTS,
	.rx_slots = SLOTS,
	.dead_ms = 1000,
};

static void put_right(uint8_t *f, size_t len, unsigned how)
{
	struct lane_head h;

	if (len < LANE_HEAD)
		return;
	memcpy(&h, f, sizeof(h));
	if (how & OURS) {
		memcpy(h.from, cfg.peer_mac, sizeof(h.from));
		memcpy(h.to, cfg.own_mac, sizeof(h.to));
		h.id = le64_of(cfg.own_id);
	}
	if (how & SUM) {
		h.sum = le32_of(0);
		h.sum = le32_of((uint32_t)XXH3_64bits(
			&h.magic, LANE_HEAD - offsetof(struct lane_head, magic)));
	}
	memcpy(f, &h, sizeof(h));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint64_t now = 1000000000;
	struct lane *l = lane_new(&cfg, &ops, NULL, now);
	struct lane_piece p;
	struct lane_msg m;

	must(l != NULL);
	while (len >= 2) {
		unsigned how = data[0];
		size_t n = 8u * data[1];
		uint8_t *f;

		data += 2;
		len -= 2;
		n = n < len ? n : len;
		n = n < ROOM ? n : ROOM;
		(void)get(NULL, &f);
		memcpy(f, data, n);
		data += n;
		len -= n;
		put_right(f, n, how);
		now += 500000;
		if (lane_parse(f, n, &m) != LANE_GOOD ||
		    (m.id != cfg.own_id && !lane_reset_names(l, &m)) ||
		    !lane_input(l, &m, f, now))
			put(NULL, f);
		(void)lane_output(l, now); /* any time is fine */
		must(held <= 2 * SLOTS);
		if (lane_state(l) == LANE_ST_OPEN && lane_room(l) &&
		    !lane_send_error(l)) {
			(void)get(NULL, &f);
			lane_push(l, f, 10);
		}
		if (how & 4 && lane_take(l, &p, 1))
			put(NULL, p.frame);
	}
	lane_free(l);
	must(held == 0);
	return 0;
}
