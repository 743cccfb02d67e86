/* SPDX-License-Identifier: Apache-2.0
 * vmm_crash - lets a test end this process at a named point of the commit path.
 *
 * Theory of operation. A test that runs a real rhead starts it with RHEA_CRASH_FILE in its
 * environment, which every rhea-vm inherits. The file is opened before the process gives up
 * everything, and read at each point; when it holds that point's name (crashpoint.h), the name is
 * taken out, so that the next process lives, and the process dies of SIGKILL, as a host does.
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
#include <unistd.h>

enum { NAME_ROOM = 32 };

static int file = -1;

static void maybe_die(enum crash_point at, uint64_t epoch)
{
	char name[NAME_ROOM + 1] = {0};
	ssize_t n = pread(file, name, NAME_ROOM, 0);

	if (n <= 0 || strcmp(name, crash_point_name(at)))
		return;
	memset(name, 0, sizeof(name));
	if (pwrite(file, name, (size_t)n, 0) != n) {
		/* The next process will die here as well: the test sees that by itself. */
	}
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
	crash_hook_set(maybe_die);
	return 0;
}
