/* SPDX-License-Identifier: Apache-2.0
 * args - the config's words for an RDMA device, and what follows from them.
 */
#include "hv/base/err.h"
#include "replication/rdma/hello.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	WORD_MAX = 80, /* the longest address with its name, and some */
	RING_DEFAULT = 32 << 20,
	/* Small enough to stay in the processor's cache between the copy and the device. */
	SEND_DEFAULT = 4 << 20,
	SILENCE_DEFAULT_MS = 500, /* as the heartbeat's */
	SILENCE_MIN_MS = 10,
	SILENCE_MAX_MS = 60000,
	SPIN_DEFAULT_US = 50,
	SPIN_MAX_US = 100000,
};

/* Digits, and K or M if @units; ULONG_MAX when it is no number. */
static unsigned long number_of(const char *s, int units)
{
	unsigned long n, unit = 1;
	char *end;

	n = strtoul(s, &end, 10); /* what is too much becomes the most there is */
	if (end == s || *s < '0' || *s > '9')
		return -1ul;
	if (units && *end == 'K')
		unit = 1ul << 10, end++;
	else if (units && *end == 'M')
		unit = 1ul << 20, end++;
	if (*end || n > (1ul << 40))
		return -1ul;
	return n * unit;
}

static int set_address(struct hello_args *a, const char *value)
{
	if (inet_pton(AF_INET, value, a->addr) == 1)
		a->family = 4;
	else if (inet_pton(AF_INET6, value, a->addr) == 1)
		a->family = 6;
	else
		return -EINVAL;
	return 0;
}

static int set_number(unsigned long n, unsigned long min, unsigned long max,
		      uint32_t *out)
{
	if (n < min || n > max)
		return -EINVAL;
	*out = (uint32_t)n;
	return 0;
}

static int set_word(struct hello_args *a, const char *word)
{
	const char *eq = strchr(word, '=');
	size_t n = eq ? (size_t)(eq - word) : 0;
	int rc = -EINVAL;

	if (n == 7 && !memcmp(word, "address", n))
		rc = set_address(a, eq + 1);
	else if (n == 4 && !memcmp(word, "ring", n))
		rc = set_number(number_of(eq + 1, 1), HELLO_RING_MIN, HELLO_RING_MAX,
				&a->ring);
	else if (n == 4 && !memcmp(word, "send", n))
		rc = set_number(number_of(eq + 1, 1), HELLO_RING_MIN, HELLO_RING_MAX,
				&a->send);
	else if (n == 7 && !memcmp(word, "silence", n))
		rc = set_number(number_of(eq + 1, 0), SILENCE_MIN_MS, SILENCE_MAX_MS,
				&a->silence_ms);
	else if (n == 4 && !memcmp(word, "spin", n))
		rc = set_number(number_of(eq + 1, 0), 0, SPIN_MAX_US, &a->spin_us);
	return rc;
}

int hello_args_parse(const char *text, struct hello_args *a_out, struct err *err)
{
	struct hello_args a = {
		.ring = RING_DEFAULT,
		.send = SEND_DEFAULT,
		.silence_ms = SILENCE_DEFAULT_MS,
		.spin_us = SPIN_DEFAULT_US,
	};
	char word[WORD_MAX];

	for (const char *p = text + strspn(text, " "); *p; p += strspn(p, " ")) {
		size_t n = strcspn(p, " ");

		if (n < sizeof(word)) {
			memcpy(word, p, n);
			word[n] = 0;
		}
		if (n >= sizeof(word) || set_word(&a, word))
			return err_set(err, -EINVAL,
				       "rdma: \"%.*s\" is none of address=A, "
				       "ring=BYTES, send=BYTES (64K to 512M), "
				       "silence=MS (10 to 60000), spin=US (0 to 100000)",
				       (int)(n < WORD_MAX ? n : WORD_MAX), p);
		p += n;
	}
	if (!a.family)
		return err_set(err, -EINVAL,
			       "rdma: the config must say address=A, this "
			       "host's own on the RDMA network");
	*a_out = a;
	return 0;
}

unsigned hello_ack_timeout(unsigned silence_ms)
{
	/* 4.096 us * 2^exponent for each try; a tenth more than asked is near enough. */
	const uint64_t ns = (uint64_t)silence_ms * 1100000 / (HELLO_RETRIES + 1);
	unsigned exponent = 1;

	while (exponent < 31 && (4096ull << (exponent + 1)) <= ns)
		exponent++;
	return exponent;
}
