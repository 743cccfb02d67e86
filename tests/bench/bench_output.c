/* SPDX-License-Identifier: Apache-2.0
 * bench_output - the output buffer: frames held for an epoch and then written to a real tap.
 *
 * The floor is writing the same frames to the same tap at once.
 *
 *   bench_output GUEST.elf OUT.json [SECONDS a turn] [TURNS]
 */
#include "tests/bench/kit.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/devices.h"
#include "hv/vm.h"
#include "netbuf/nb.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LIMIT = 256 << 20, FRAME_MAX = NB_VNET_HDR + 65536, HDR_LEN = NB_VNET_HDR };
static const double epoch_s = 0.025;

static int open_tap(void)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), hdr = HDR_LEN;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || s < 0 || ioctl(fd, TUNSETIFF, &r) ||
	    ioctl(fd, TUNSETVNETHDRSZ, &hdr))
		kit_die("tap", NULL);
	r.ifr_flags = IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &r))
		kit_die("tap up", NULL);
	close(s);
	return fd;
}

struct held {
	struct kit_vm vm;
	struct part part;
	struct vnet *net;
	uint8_t frame[FRAME_MAX];
	uint64_t epoch;
};

static void begin(const struct kit *k, struct held *h, size_t len)
{
	struct epoch_trigger t = {0};
	struct err e = {0};

	kit_vm_up(k, &h->vm, 32 << 20, 1, open_tap(), NULL, NULL);
	if (netbuf_create(LIMIT, h->vm.loop, 0, t, &h->vm.nb, &e) ||
	    netbuf_add_net(h->vm.nb, h->vm.net, &e))
		kit_die("output buffer", &e);
	h->part = netbuf_part(h->vm.nb);
	memset(h->frame, 0, sizeof(h->frame));
	memset(h->frame + HDR_LEN, 0xff, 6); /* to all */
	h->frame[HDR_LEN + 6] = 2;	     /* from a local address */
	h->frame[HDR_LEN + 12] = 0x88;	     /* of a type that nobody listens to */
	h->frame[HDR_LEN + 13] = 0xB5;
	h->epoch = 0;
	if (h->part.ops->sync_begin(h->part.self, NULL, &e) ||
	    h->part.ops->capture(h->part.self, h->epoch++, &e))
		kit_die("holding", &e);
}

/* Frames a second through the queue and out, one thread doing both. */
static double through(struct held *h, size_t len, unsigned frames, unsigned seconds)
{
	struct iovec iov = {.iov_base = h->frame, .iov_len = HDR_LEN + len};
	uint64_t start = clock_mono_ns(), end = start + seconds * 1000000000ull, n = 0;
	struct netbuf_stats before, after;
	struct err e = {0};

	netbuf_stats(h->vm.nb, &before);
	while (clock_mono_ns() < end) {
		for (unsigned i = 0; i < frames; i++)
			if (nb_guest_frame(&h->vm.nb->port[0], &iov, 1))
				kit_die("a frame is refused", NULL);
		if (h->part.ops->capture(h->part.self, h->epoch, &e))
			kit_die("capture", &e);
		h->part.ops->committed(h->part.self, h->epoch++);
		n += frames;
	}
	netbuf_stats(h->vm.nb, &after);
	if (after.dropped_bytes != before.dropped_bytes ||
	    after.released_frames - before.released_frames != n)
		kit_die("frames were dropped", NULL);
	return (double)n * 1e9 / (double)(clock_mono_ns() - start);
}

static double straight(struct held *h, size_t len, unsigned seconds)
{
	struct iovec iov = {.iov_base = h->frame, .iov_len = HDR_LEN + len};
	uint64_t start = clock_mono_ns(), end = start + seconds * 1000000000ull, n = 0;

	for (; clock_mono_ns() < end; n++)
		if (vnet_tap_write(h->vm.net, &iov, 1))
			kit_die("tap", NULL);
	return (double)n * 1e9 / (double)(clock_mono_ns() - start);
}

static void bench(struct kit *k, const char *name, const char *unit, size_t len,
		  double scale, double target)
{
	double held[KIT_TURNS_MAX], floor[KIT_TURNS_MAX];
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		kit_die("memory", NULL);
	for (unsigned t = 0; t < k->turns; t++) {
		begin(k, h, len);
		held[t] = through(h, len, (unsigned)(target / scale * epoch_s),
				  k->seconds) *
			  scale;
		floor[t] = straight(h, len, 1) * scale;
		kit_vm_down(&h->vm);
	}
	free(h);
	kit_row(k, name, unit, spread_of(held, k->turns), spread_of(floor, k->turns),
		VALUE_AT_LEAST, target);
}

int main(int argc, char **argv)
{
	const char *only = getenv("RHEA_BENCH_ONLY");
	struct kit k;

	kit_begin(&k, argc, argv);
	if (!only || strstr(only, "output")) {
		bench(&k, "output, 64 KiB segments, 25 ms", "Gbit/s", 65536,
		      65536 * 8 / 1e9, 10);
		bench(&k, "output, 100-byte frames, 25 ms", "1/s", 100, 1, 300000);
	}
	return kit_end(&k, argv[2]);
}
