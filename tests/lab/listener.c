/* SPDX-License-Identifier: Apache-2.0
 * listener - hears what the guest of tests/lab/plug says on a network, and knows what must never be heard.
 *
 *   listener INTERFACE OUT     until SIGTERM; rewrites OUT, {"ipv4":n,...,"again":n,"highest":n}
 *
 * Each number may be heard once of each kind. A number that is heard again was said by two lives of the
 * guest: the first said it in an epoch that was never committed, and it got out. "again" counts those.
 */
#include "tests/lab/plug/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NUMBERS_MAX = 1 << 20, WRITE_MS = 50, TAG = 4 };

static const char *const kind_name[CHAT_KINDS] = {"ipv4", "ipv6", "arp", "vlan"};
static uint8_t heard[CHAT_KINDS][NUMBERS_MAX];
static uint64_t frames[CHAT_KINDS], again, highest;
static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	stop = 1;
}

static int open_socket(const char *name)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET,
				 .sll_protocol = htons(ETH_P_ALL),
				 .sll_ifindex = (int)if_nametoindex(name)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), on = 1, room = 8 << 20;

	if (fd < 0 || !at.sll_ifindex ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)))
		return -errno;
	return fd;
}

/* The kernel takes a VLAN tag out of the frame, and the body is nearer to its start then. */
static void hear(const uint8_t *f, size_t len)
{
	struct chat_body b;
	size_t at = CHAT_BODY;

	if (len < CHAT_BODY + sizeof(b) - TAG)
		return;
	if (memcmp(f + at, chat_mark, sizeof(chat_mark)) != 0)
		at -= TAG;
	if (len < at + sizeof(b))
		return;
	memcpy(&b, f + at, sizeof(b));
	if (memcmp(b.mark, chat_mark, sizeof(b.mark)) != 0 || b.kind >= CHAT_KINDS ||
	    b.n >= NUMBERS_MAX)
		return;
	frames[b.kind]++;
	again += heard[b.kind][b.n];
	heard[b.kind][b.n] = 1;
	if (b.n > highest)
		highest = b.n;
}

static int write_out(const char *path)
{
	char new[256];
	FILE *f;

	(void)snprintf(new, sizeof(new), "%s.new", path); /* a lab's paths are short */
	f = fopen(new, "w");
	if (!f)
		return -errno;
	(void)fprintf(f, "{");
	for (unsigned i = 0; i < CHAT_KINDS; i++)
		(void)fprintf(f, "\"%s\":%llu,", kind_name[i],
			      (unsigned long long)frames[i]);
	(void)fprintf(f, "\"again\":%llu,\"highest\":%llu}\n", (unsigned long long)again,
		      (unsigned long long)highest);
	/* Whoever reads it sees the old one or the new one. */
	return fclose(f) || rename(new, path) ? -errno : 0;
}

int main(int argc, char **argv)
{
	struct sigaction term = {.sa_handler = on_term};
	uint8_t frame[2048];
	int fd, rc = 0;

	if (argc != 3 || sigaction(SIGTERM, &term, NULL))
		return 2;
	fd = open_socket(argv[1]);
	if (fd < 0) {
		(void)fprintf(stderr, "listener: %s: %s\n", argv[1], strerror(-fd));
		return 2;
	}
	while (!stop && !rc) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n = 0;

		(void)poll(&p, 1, WRITE_MS); /* the read tells */
		while (!stop && (n = recv(fd, frame, sizeof(frame), MSG_DONTWAIT)) > 0)
			hear(frame, (size_t)n);
		rc = write_out(argv[2]);
	}
	return rc || write_out(argv[2]) ? 2 : 0;
}
