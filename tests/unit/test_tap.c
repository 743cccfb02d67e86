/* SPDX-License-Identifier: Apache-2.0
 * test_tap - taps in a fresh network namespace: flags, header length, bridge, errors, no traces.
 */
#include "ctl/tap.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void read_sys(const char *name, const char *what, char *out, size_t room)
{
	char cmd[160];
	FILE *f;

	/* /sys shows the namespace it was mounted in; ip asks the kernel about ours. */
	(void)snprintf(cmd, sizeof(cmd),
		       "ip -o -d link show dev %s | grep -o '%s' | head -n1", name, what);
	out[0] = 0;
	f = popen(cmd, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	if (!fgets(out, (int)room, f))
		out[0] = 0;
	out[strcspn(out, "\n")] = 0;
	CU_ASSERT(pclose(f) >= 0);
}

static void test_flags(void)
{
	struct ifreq ifr = {0};
	struct err err = {0};
	char text[64];
	int fd, len = 0;

	fd = tap_open("rt0", NULL, 1400, &err);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(ioctl(fd, TUNGETIFF, &ifr), 0);
	CU_ASSERT(ifr.ifr_flags & IFF_TAP);
	CU_ASSERT(ifr.ifr_flags & IFF_NO_PI);
	CU_ASSERT(ifr.ifr_flags & IFF_VNET_HDR);
	CU_ASSERT_EQUAL(ioctl(fd, TUNGETVNETHDRSZ, &len), 0);
	CU_ASSERT_EQUAL(len, TAP_HDR_LEN);
	CU_ASSERT(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CU_ASSERT(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	read_sys("rt0", ",UP", text, sizeof(text));
	CU_ASSERT_STRING_EQUAL(text, ",UP");
	read_sys("rt0", "mtu 1400", text, sizeof(text));
	CU_ASSERT_STRING_EQUAL(text, "mtu 1400");
	read_sys("rt0", "addrgenmode none", text, sizeof(text));
	CU_ASSERT_STRING_EQUAL(text, "addrgenmode none");
	CU_ASSERT_EQUAL(close(fd), 0);
	CU_ASSERT_EQUAL(if_nametoindex("rt0"), 0);
}

static void test_bridge(void)
{
	struct err err = {0};
	char text[64];
	int fd;

	CU_ASSERT_EQUAL_FATAL(system("ip link add br9 type bridge && ip link set br9 up"),
			      0);
	fd = tap_open("rt1", "br9", 0, &err);
	CU_ASSERT_FATAL(fd >= 0);
	read_sys("rt1", "master br9", text, sizeof(text));
	CU_ASSERT_STRING_EQUAL(text, "master br9");
	CU_ASSERT_EQUAL(close(fd), 0);
}

static void test_busy(void)
{
	struct err err = {0};
	int fd = tap_open("rt2", "", 0, &err);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(tap_open("rt2", "", 0, &err), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "rt2"));
	CU_ASSERT_EQUAL(close(fd), 0);
}

static void test_errors(void)
{
	struct err err = {0};

	CU_ASSERT_EQUAL(tap_open("", NULL, 0, &err), -EINVAL);
	CU_ASSERT_EQUAL(tap_open("a-name-that-is-too-long", NULL, 0, &err), -EINVAL);
	CU_ASSERT_EQUAL(tap_open("rt3", "nobridge", 0, &err), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "nobridge"));
	CU_ASSERT_EQUAL(tap_open("rt3", "lo", 0, &err), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "no bridge"));
	CU_ASSERT_EQUAL(if_nametoindex("rt3"), 0);
}

int main(void)
{
	static const struct unit_test tests[] = {{"flags", test_flags},
						 {"bridge", test_bridge},
						 {"busy", test_busy},
						 {"errors", test_errors}};

	if (unshare(CLONE_NEWNET)) {
		(void)fprintf(stderr, "test_tap needs root: %s\n", strerror(errno));
		return 2;
	}
	return UNIT_MAIN("tap", tests);
}
