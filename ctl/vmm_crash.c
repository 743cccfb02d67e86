/* SPDX-License-Identifier: Apache-2.0
 * vmm_crash - lets a test end or delay this process at a named point of the commit path.
 *
 * Theory of operation. A test that runs a real rhead starts it with RHEA_CRASH_FILE in its
 * environment, which every rhea-vm inherits. The file is opened before the process gives up
 * everything, and read at each point; when it holds that point's name (crashpoint.h), the name is
 * taken out, so that the next process lives, and the process dies of SIGKILL, as a host does. With
 * "+N" after the name the thread that came there only sleeps for N milliseconds.
 * Without the variable nothing is opened and no point costs more than its branch. Whoever can
 * set rhead's environment is root already.
 */
#include "ctl/vmm.h"

#include "remus/crashpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NAME_ROOM = 32 };

static int file = -1;

static void sleep_ms(long ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	while (nanosleep(&ts, &ts) && errno == EINTR) {
		/* the rest of it is in @ts */
	}
}

static void at_point(enum crash_point at, uint64_t epoch)
{
	static const char none;
	char name[NAME_ROOM + 1] = {0}, *delay;
	ssize_t n = pread(file, name, NAME_ROOM, 0);

	delay = strchr(name, '+');
	if (delay)
		*delay++ = 0;
	if (n <= 0 || strcmp(name, crash_point_name(at)) != 0)
		return;
	if (pwrite(file, &none, 1, 0) != 1) {
		/* The next process will come here as well: the test sees that by itself. */
	}
	if (delay)
		sleep_ms(strtol(delay, NULL, 10));
	else
		(void)raise(SIGKILL); /* does not come back */
}

int vmm_crash_init(struct err *err)
{
	const char *path = getenv("RHEA_CRASH_FILE");

	if (!path)
		return 0;
	file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		return err_sys(err, -errno, "RHEA_CRASH_FILE %s", path);
	crash_hook_set(at_point);
	return 0;
}
