/* SPDX-License-Identifier: Apache-2.0
 * memsave_fault - the kernel stops whoever writes to a page that is not copied, until it is.
 *
 * userfaultfd write-protects the mapping of guest memory, pages that were never written included, and
 * tells of each first write: of vCPUs, of our threads, and of the kernel when it writes for us (so it
 * is made with privileges). One thread copies such a page and lets the writer go. It takes no lock
 * that a writer may hold. What goes past the mapping (gm_clear()) is not seen: who does that cancels.
 */
#include "remus/memsave_priv.h"

#include "hv/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MESSAGES = 32 };

int memsave_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
					     UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), rc;

	if (fd < 0)
		return -errno;
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	rc = -errno;
	(void)close(fd); /* nothing was done with it */
	return rc;
}

static struct uffdio_range range_of(const struct memsave *m, uint64_t page, uint64_t n)
{
	return (struct uffdio_range){.start = (uintptr_t)gm_base(m->gm) + page * GM_PAGE,
				     .len = n * GM_PAGE};
}

static int write_protect(struct memsave *m, uint64_t page, uint64_t n, int on)
{
	struct uffdio_writeprotect wp = {.range = range_of(m, page, n),
					 .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};

	while (ioctl(m->uffd, UFFDIO_WRITEPROTECT, &wp))
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

void memsave_unprotect(struct memsave *m, uint64_t page, unsigned n)
{
	int rc = write_protect(m, page, n, 0);

	/* ENOENT: nothing is protected any more. Else it would stop for ever: give up the protection
	 * of everything. */
	if (rc && rc != -ENOENT) {
		log_err("saving memory: a page stays protected: %s", strerror(-rc));
		pthread_mutex_lock(&m->lock);
		m->failed = rc;
		pthread_mutex_unlock(&m->lock);
		memsave_cancel(m);
	}
}

static void on_faults(struct memsave *m)
{
	struct uffd_msg msg[MESSAGES];
	ssize_t n = read(m->uffd, msg, sizeof(msg));

	/* EAGAIN: whoever waited does not any more. */
	for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(msg[0]); i++) {
		uint64_t page;

		if (msg[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		page = (msg[i].arg.pagefault.address - (uintptr_t)gm_base(m->gm)) /
		       GM_PAGE;
		memsave_touch(m, page);
		memsave_unprotect(m, page, 1);
	}
}

static void *fault_main(void *arg)
{
	struct memsave *m = arg;
	struct pollfd p[2] = {{.fd = m->uffd, .events = POLLIN},
			      {.fd = m->stop_fd, .events = POLLIN}};

	while (!(p[1].revents & POLLIN)) {
		if (poll(p, 2, -1) > 0 && p[0].revents & POLLIN)
			on_faults(m);
	}
	return NULL;
}

static int start_thread(struct memsave *m)
{
	sigset_t all, old;
	int rc;

	/* The kick that ends KVM_RUN is the vCPUs' business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&m->thread, NULL, fault_main, m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	m->has_thread = !rc;
	return rc;
}

int memsave_protect(struct memsave *m)
{
	struct uffdio_register reg = {.range = range_of(m, 0, m->pages),
				      .mode = UFFDIO_REGISTER_MODE_WP};
	int rc;

	if (m->uffd < 0)
		return -ENOSYS;
	m->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->stop_fd < 0)
		return -errno;
	rc = start_thread(m);
	if (!rc && ioctl(m->uffd, UFFDIO_REGISTER, &reg))
		rc = -errno;
	m->armed = !rc;
	rc = rc ? rc : write_protect(m, 0, m->pages, 1);
	if (rc)
		memsave_unprotect_all(m);
	return rc;
}

/* The thread last: until nothing is protected any more somebody may wait for it. */
void memsave_unprotect_all(struct memsave *m)
{
	struct uffdio_range all = range_of(m, 0, m->pages);
	uint64_t one = 1;

	if (m->armed && ioctl(m->uffd, UFFDIO_UNREGISTER, &all))
		log_err("saving memory: it stays protected: %s", strerror(errno));
	/* Who waits already is woken by the kernel for missing pages only. */
	if (m->armed && ioctl(m->uffd, UFFDIO_WAKE, &all))
		log_err("saving memory: who waits is not woken: %s", strerror(errno));
	m->armed = 0;
	if (m->has_thread && write(m->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(m->thread, NULL); /* ours, and joined by nobody else */
	m->has_thread = 0;
	if (m->stop_fd >= 0)
		(void)close(m->stop_fd); /* an event counter: nothing is lost */
	m->stop_fd = -1;
}
