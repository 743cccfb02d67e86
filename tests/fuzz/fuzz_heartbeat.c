/* SPDX-License-Identifier: Apache-2.0
 * fuzz_heartbeat - datagrams from anybody, and authentic ones from a peer that has gone mad.
 *
 * The input is a row of datagrams: path (low bit) and signed (next bit), length (2 bytes, little
 * endian), bytes. A signed one gets its length field and its tag put right.
 */
#include "ctl/heartbeat.h"
#include "ctl/heartbeat_track.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { TAG = 32, SIGNED = 2 };

static const uint8_t key[CONFIG_KEY_LEN] = {42};

static void must(int ok)
{
	if (!ok)
		abort();
}

static void sign(uint8_t *p, size_t len)
{
	unsigned n = TAG;

	p[6] = (uint8_t)len;
	p[7] = (uint8_t)(len >> 8);
	must(HMAC(EVP_sha256(), key, sizeof(key), p, len - TAG, p + len - TAG, &n) !=
	     NULL);
}

/* What was understood says the same again. */
static void again(const struct hb_msg *m, const uint8_t *p, size_t len)
{
	uint8_t out[HB_DATAGRAM_MAX];
	struct hb_msg twice;
	int n = hb_encode(m, key, out, sizeof(out));

	must(n == (int)len);
	must(hb_decode(out, len, key, &twice) == HB_OK);
	must(m->seq == twice.seq && m->n_vms == twice.n_vms);
	must(!memcmp(out + 72, p + 72, len - 72 - TAG)); /* all after the names */
}

static void check_track(const struct hb_track *t)
{
	must(t->peer.n_vms <= CONFIG_VMS_MAX);
	for (unsigned i = 0; i < t->peer.n_vms; i++)
		must(pair_state_check(t->peer.vms[i].state) >= 0);
	must(!t->up || t->good_at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct config cfg = {.pair = "p",
				    .hosts = {{.name = "a"}, {.name = "b"}},
				    .peer = 1,
				    .n_vms = 2,
				    .heartbeat_interval_ms = 10,
				    .heartbeat_missed = 5};
	struct hb_track t = {.cfg = &cfg, .own_boot_id = 1};
	uint8_t in[HB_DATAGRAM_MAX + 1];
	uint64_t now = 1000000000;
	struct hb_msg m;
	size_t n;

	while (len >= 3) {
		unsigned how = data[0];

		n = data[1] | (size_t)data[2] << 8;
		data += 3;
		len -= 3;
		n = n > len ? len : n;
		n = n > sizeof(in) ? sizeof(in) : n;
		memcpy(in, data, n);
		data += n;
		len -= n;
		if (how & SIGNED && n >= 8 + TAG)
			sign(in, n);
		now += 7000000;
		if (hb_decode(in, n, key, &m) == HB_OK) {
			again(&m, in, n);
			(void)hb_track_heard(&t, how & 1, &m, now,
					     now); /* any verdict is fine */
		}
		hb_track_time(&t, now);
		check_track(&t);
	}
	return 0;
}
