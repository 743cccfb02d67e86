/* SPDX-License-Identifier: Apache-2.0
 * args - what the config says of a DPDK port, for DPDK and for us.
 *
 * Words between blanks. Those that begin with "-" are DPDK's (--vdev=net_af_packet0,iface=X;
 * --allow=0000:03:00.0); ours are port=NAME mtu=BYTES window=MIB core=NUMBER.
 */
#include "replication/dpdk/port_impl.h"

#include "hv/base/err.h"
#include "replication/lane_wire.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	MTU = 1500,
	WINDOW_MIB = 64,
	WINDOW_MAX_MIB = 1024,
	ROOM_MIN = 2048,
	CORE_MAX = 1023,
	ROOM_JUMBO = 4096
};

static int number(const char *word, size_t name, unsigned min, unsigned max,
		  unsigned *out, struct err *err)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(word + name, &end, 10);
	if (errno || *end || end == word + name || v < min || v > max)
		return err_set(err, -EINVAL, "dpdk: %s: a number from %u to %u is wanted",
			       word, min, max);
	*out = (unsigned)v;
	return 0;
}

static int our_word(struct port_args *a, const char *w, struct err *err)
{
	unsigned core = 0;
	int rc;

	if (!strncmp(w, "mtu=", 4))
		return number(w, 4, LANE_MTU_MIN, LANE_MTU_MAX, &a->mtu, err);
	if (!strncmp(w, "window=", 7))
		return number(w, 7, 1, WINDOW_MAX_MIB, &a->window_mib, err);
	if (!strncmp(w, "core=", 5)) {
		rc = number(w, 5, 0, CORE_MAX, &core, err);
		a->core = rc ? -1 : (int)core;
		return rc;
	}
	if (!strncmp(w, "port=", 5) && strlen(w + 5) < sizeof(a->name)) {
		memcpy(a->name, w + 5, strlen(w + 5) + 1);
		return 0;
	}
	return err_set(err, -EINVAL,
		       "dpdk: %s: neither DPDK's (--...) nor "
		       "port=, mtu=, window= or core=",
		       w);
}

/* net_af_packet wants buffers as long as the frames of its ring, used or not. */
static unsigned ring_frame(const char *w)
{
	const char *p = strstr(w, "framesz=");

	return p ? (unsigned)strtoul(p + 8, NULL, 10) : 0;
}

static void remember_iface(struct port_args *a, const char *w)
{
	const char *p = strstr(w, ",iface=");
	size_t n = p ? strcspn(p + 7, ",") : 0;

	if (n && n < sizeof(a->iface)) {
		memcpy(a->iface, p + 7, n);
		a->iface[n] = 0;
	}
}

static int add_eal(struct port_args *a, char *w, struct err *err)
{
	if (a->n_eal == PORT_WORDS - 1) /* a NULL goes last */
		return err_set(err, -E2BIG, "dpdk: more than %d arguments", PORT_WORDS);
	a->eal[a->n_eal++] = w;
	return 0;
}

/* Is a huge page of any size free? */
static int have_huge_pages(void)
{
	const char *dir = "/sys/kernel/mm/hugepages";
	DIR *d = opendir(dir);
	struct dirent *e;
	int found = 0;

	while (d && !found && (e = readdir(d))) {
		char path[512];
		FILE *f;
		long n = 0;

		if (e->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s/free_hugepages", dir,
			       e->d_name);
		f = fopen(path, "re");
		found = f && fscanf(f, "%ld", &n) == 1 && n > 0;
		if (f)
			(void)fclose(f); /* was only read */
	}
	if (d)
		(void)closedir(d); /* the same */
	return found;
}

unsigned port_ring(const struct port_args *a)
{
	return a->frame_room > ROOM_JUMBO ? PORT_RING_JUMBO : PORT_RING;
}

unsigned port_margin(const struct port_args *a)
{
	return 4 * port_ring(a) + 4 * PORT_CACHE;
}

/* What DPDK must know of how we use it: one thread, nothing shared, no files left. */
static int add_ours(struct port_args *a, struct err *err)
{
	static char program[] = "rhea", memory[] = "--in-memory",
		    quiet[] = "--no-telemetry", small[] = "--no-huge",
		    alone[] = "--no-shconf", level[] = "--log-level=error",
		    virtual[] = "--iova-mode=va", no_pci[] = "--no-pci",
		    lcores[] = "--lcores";
	static char set[64], mib[16], m[] = "-m";
	int vdev = 0, allow = 0, rc = 0;

	for (int i = 1; i < a->n_eal; i++) {
		vdev |= !strncmp(a->eal[i], "--vdev", 6);
		allow |=
			!strncmp(a->eal[i], "--allow", 7) || !strncmp(a->eal[i], "-a", 2);
	}
	a->eal[0] = program;
	/* One logical core, on a processor of the config's or on all. */
	if (a->core >= 0)
		(void)snprintf(set, sizeof(set), "0@%d", a->core);
	else
		(void)snprintf(set, sizeof(set), "0@(0-%ld)",
			       sysconf(_SC_NPROCESSORS_CONF) - 1);
	if ((rc = add_eal(a, lcores, err)) || (rc = add_eal(a, set, err)) ||
	    (rc = add_eal(a, quiet, err)) || (rc = add_eal(a, level, err)))
		return rc;
	/* No bus address is needed of what only the kernel touches. */
	if (vdev && !allow &&
	    ((rc = add_eal(a, no_pci, err)) || (rc = add_eal(a, virtual, err))))
		return rc;
	if (a->huge)
		return add_eal(a, memory, err);
	/* Without huge pages all memory is taken at once: two windows and the margin. */
	(void)snprintf(mib, sizeof(mib), "%u",
		       a->window_mib * 4 +
			       port_margin(a) * (a->frame_room / 512 + 1) / 2048 + 64);
	if ((rc = add_eal(a, small, err)) || (rc = add_eal(a, alone, err)) ||
	    (rc = add_eal(a, m, err)))
		return rc;
	return add_eal(a, mib, err);
}

int port_args_parse(struct port_args *a, const char *args, struct err *err)
{
	char *save = NULL;
	int rc = 0;

	*a = (struct port_args){.mtu = MTU, .window_mib = WINDOW_MIB, .core = -1};
	a->text = strdup(args);
	if (!a->text)
		return err_set(err, -ENOMEM, "dpdk: out of memory");
	a->frame_room = ROOM_MIN;
	a->n_eal = 1;
	for (char *w = strtok_r(a->text, " \t\n", &save); w && !rc;
	     w = strtok_r(NULL, " \t\n", &save)) {
		unsigned ring = ring_frame(w);

		a->frame_room = ring > a->frame_room ? ring : a->frame_room;
		remember_iface(a, w);
		rc = w[0] == '-' ? add_eal(a, w, err) : our_word(a, w, err);
	}
	if (rc)
		return rc;
	if (a->mtu + LANE_ETHER > a->frame_room)
		a->frame_room = a->mtu + LANE_ETHER;
	if (a->frame_room > UINT16_MAX - RTE_PKTMBUF_HEADROOM)
		return err_set(err, -EINVAL, "dpdk: frames of %u bytes are too long",
			       a->frame_room);
	a->huge = have_huge_pages();
	return add_ours(a, err);
}

void port_args_free(struct port_args *a)
{
	free(a->text);
	a->text = NULL;
}
