/* SPDX-License-Identifier: Apache-2.0
 * chatter - the first and only process of a Linux guest: says numbers in frames of four kinds.
 *
 * Each turn sends one frame of each kind in plug/frame.h with the turn's number. Static, so that it can
 * be all of an initramfs but the modules, which it loads in the order of /mods/list.
 */
#include "tests/lab/plug/frame.h"

#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TURN_NS = 5000000, SAY_EVERY = 400 };

static void load(const char *name)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "/mods/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		printf("chatter: %s cannot be loaded\n", path);
	close(fd);
}

static void load_all(void)
{
	FILE *list = fopen("/mods/list", "r");
	char name[96];

	while (list && fgets(name, sizeof(name), list)) {
		name[strcspn(name, "\n")] = 0;
		load(name);
	}
	if (list)
		(void)fclose(list); /* was only read */
}

/* Up, and a socket on it; the device appears some time after its driver. */
static int open_card(struct sockaddr_ll *at)
{
	const struct timespec nap = {.tv_nsec = 10000000};
	struct ifreq ifr = {.ifr_name = "eth0", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	while (!if_nametoindex("eth0"))
		(void)nanosleep(&nap, NULL); /* shorter is fine */
	*at = (struct sockaddr_ll){.sll_family = AF_PACKET,
				   .sll_ifindex = (int)if_nametoindex("eth0")};
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr))
		printf("chatter: eth0 does not come up\n");
	return fd;
}

int main(void)
{
	const struct timespec turn = {.tv_nsec = TURN_NS};
	uint8_t frame[CHAT_FRAME];
	struct sockaddr_ll at;
	int fd;

	(void)setvbuf(stdout, NULL, _IOLBF, 0); /* else it is said late */
	load_all();
	fd = open_card(&at);
	for (uint64_t n = 1;; n++) {
		for (unsigned kind = 0; kind < CHAT_KINDS; kind++) {
			size_t len = chat_frame(frame, kind, n);

			/* A full card loses frames, as any does: numbers may be missing. */
			(void)!sendto(fd, frame, len, 0, (struct sockaddr *)&at,
				      sizeof(at));
		}
		if (n % SAY_EVERY == 0)
			printf("chatter: %llu\n", (unsigned long long)n);
		(void)nanosleep(&turn, NULL); /* shorter is fine */
	}
}
