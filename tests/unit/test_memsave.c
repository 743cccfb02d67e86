/* SPDX-License-Identifier: Apache-2.0
 * test_memsave - memory that is written out while a guest writes on: the file has it as it was at one
 * instant, exactly.
 */
#include "remus/memsave.h"

#include "hv/base/buf.h"
#include "remus/saved.h"
#include "tests/unit/mem_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = RAM / GM_PAGE, WRITERS = 2, BEFORE = 3000 };

struct writer {
	struct gm *gm;
	struct memsave *m;
	enum memsave_how how;
	uint64_t seed;
	unsigned writes;
	pthread_t thread;
	int *stop;
	int pipe[2];
};

/* One word anywhere; by hand, or by the kernel for us. */
static void write_somewhere(struct writer *w)
{
	uint64_t page, at;

	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	page = w->seed % PAGES;
	at = page * GM_PAGE + (w->seed >> 32) % (GM_PAGE / 8) * 8;
	if (w->how == MEMSAVE_TOLD)
		memsave_touch(w->m, page);
	if (w->how == MEMSAVE_PROTECTED && w->seed % 3 == 0) {
		if (write(w->pipe[1], &w->seed, 8) != 8 ||
		    read(w->pipe[0], gm_base(w->gm) + at, 8) != 8)
			abort();
	} else {
		memcpy(gm_base(w->gm) + at, &w->seed, 8);
	}
	__atomic_fetch_add(&w->writes, 1, __ATOMIC_SEQ_CST);
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;

	while (!__atomic_load_n(w->stop, __ATOMIC_SEQ_CST))
		write_somewhere(w);
	return NULL;
}

static struct saved_writer *new_file(int *fd_out)
{
	struct saved_info i = {.ram = RAM, .vm = "m"};
	struct saved_writer *out;
	struct err err = {0};

	*fd_out = memfd_create("saved", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CU_ASSERT_FATAL(*fd_out >= 0 && !saved_create(*fd_out, &i, &out, &err));
	return out;
}

/* What the file holds is @then. */
static void compare(int fd, const uint8_t *then)
{
	struct buf state = {0}, said = {0};
	struct saved_info i;
	struct err err = {0};
	struct gm *gm;

	CU_ASSERT_FATAL(!gm_create(RAM, &gm, &err));
	CU_ASSERT_EQUAL(saved_load(fd, gm, &state, &said, &i, &err), 0);
	CU_ASSERT(!memcmp(gm_base(gm), then, RAM));
	gm_destroy(gm);
	close(fd);
}

static void start(struct writer *w, struct gm *gm, struct memsave *m,
		  enum memsave_how how, int *stop)
{
	*stop = 0;
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){
			.gm = gm, .m = m, .how = how, .seed = rnd() | 1, .stop = stop};
		CU_ASSERT_FATAL(!pipe(w[i].pipe));
		CU_ASSERT_FATAL(!pthread_create(&w[i].thread, NULL, writer_main, &w[i]));
	}
}

static unsigned end(struct writer *w, int *stop)
{
	unsigned writes = 0;

	__atomic_store_n(stop, 1, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(w[i].thread, NULL);
		close(w[i].pipe[0]);
		close(w[i].pipe[1]);
		writes += w[i].writes;
	}
	return writes;
}

static void save_under_writers(enum memsave_how how, size_t copies_max)
{
	int uffd = how == MEMSAVE_PROTECTED ? memsave_uffd() : -1, fd, stop;
	struct writer w[WRITERS];
	struct saved_writer *out;
	struct memsave *m;
	struct err err = {0};
	uint8_t *then = malloc(RAM);
	struct gm *gm;

	CU_ASSERT_FATAL(how != MEMSAVE_PROTECTED || uffd >= 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(then);
	CU_ASSERT_FATAL(!gm_create(RAM, &gm, &err));
	scribble(gm, BEFORE);
	CU_ASSERT_FATAL(!memsave_create(gm, how, uffd, copies_max, &m, &err));
	memcpy(then, gm_base(gm), RAM / 2); /* the other half is never read: holes stay */
	memset(then + RAM / 2, 0, RAM / 2);
	for (uint64_t p = PAGES / 2; p < PAGES; p++)
		if (lseek(gm_fd(gm), (off_t)(p * GM_PAGE), SEEK_DATA) ==
		    (off_t)(p * GM_PAGE))
			memcpy(then + p * GM_PAGE, gm_base(gm) + p * GM_PAGE, GM_PAGE);
	out = new_file(&fd);
	CU_ASSERT_FATAL(!memsave_arm(m));
	start(w, gm, m, how, &stop);
	/* Of one of them: once the room for copies is used up, the others wait for the walk. */
	for (unsigned i = 0; !__atomic_load_n(&w[i].writes, __ATOMIC_SEQ_CST);
	     i = (i + 1) % WRITERS)
		sched_yield();
	CU_ASSERT_EQUAL(memsave_run(m, out, &err), 0);
	CU_ASSERT_EQUAL(memsave_left(m), 0);
	CU_ASSERT_EQUAL(saved_finish(out, &err), 0);
	CU_ASSERT(end(w, &stop) > 0);
	saved_free(out);
	CU_ASSERT(memcmp(gm_base(gm), then, RAM) != 0); /* it did change */
	compare(fd, then);
	memsave_destroy(m);
	gm_destroy(gm);
	free(then);
	if (uffd >= 0)
		close(uffd);
}

static void test_still(void)
{
	struct saved_writer *out;
	struct memsave *m;
	struct err err = {0};
	struct gm *gm;
	int fd;

	CU_ASSERT_FATAL(!gm_create(RAM, &gm, &err));
	scribble(gm, BEFORE);
	CU_ASSERT_FATAL(!memsave_create(gm, MEMSAVE_STILL, -1, 0, &m, &err));
	CU_ASSERT_FATAL(!memsave_arm(m));
	out = new_file(&fd);
	CU_ASSERT_EQUAL(memsave_run(m, out, &err), 0);
	CU_ASSERT_EQUAL(saved_finish(out, &err), 0);
	CU_ASSERT(saved_bytes(out) < RAM);
	saved_free(out);
	compare(fd, gm_base(gm));
	memsave_destroy(m);
	gm_destroy(gm);
}

static void test_told(void)
{
	save_under_writers(MEMSAVE_TOLD, RAM);
	save_under_writers(MEMSAVE_TOLD, 16 * GM_PAGE); /* they wait for the walker */
}

static void test_protected(void)
{
	save_under_writers(MEMSAVE_PROTECTED, RAM);
	save_under_writers(MEMSAVE_PROTECTED, 16 * GM_PAGE);
}

/* Nobody is left waiting, whatever becomes of the file. */
static void give_up(enum memsave_how how, int full_disk)
{
	int uffd = how == MEMSAVE_PROTECTED ? memsave_uffd() : -1, fd, stop, rc;
	struct writer w[WRITERS];
	struct saved_writer *out;
	struct memsave *m;
	struct err err = {0};
	struct gm *gm;

	CU_ASSERT_FATAL(!gm_create(RAM, &gm, &err));
	scribble(gm, BEFORE);
	CU_ASSERT_FATAL(!memsave_create(gm, how, uffd, 0, &m, &err));
	out = new_file(&fd);
	if (full_disk) {
		CU_ASSERT_FATAL(!ftruncate(fd, GM_PAGE));
		CU_ASSERT_FATAL(!fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	}
	CU_ASSERT_FATAL(!memsave_arm(m));
	start(w, gm, m, how, &stop);
	if (!full_disk) {
		memsave_cancel(m);
		memsave_cancel(m);
	}
	rc = memsave_run(m, out, &err);
	rc = rc ? rc : saved_finish(out, &err); /* a small file fails there */
	CU_ASSERT(rc == (full_disk ? -EPERM : -ECANCELED));
	(void)end(w, &stop); /* that it ends is what counts */
	saved_free(out);
	memsave_destroy(m);
	gm_destroy(gm);
	close(fd);
	if (uffd >= 0)
		close(uffd);
}

static void test_give_up(void)
{
	give_up(MEMSAVE_TOLD, 0);
	give_up(MEMSAVE_TOLD, 1);
	give_up(MEMSAVE_PROTECTED, 0);
	give_up(MEMSAVE_PROTECTED, 1);
}

/* Armed, and then nobody ever runs it. */
static void test_never_run(void)
{
	int uffd = memsave_uffd();
	struct memsave *m;
	struct err err = {0};
	struct gm *gm;

	CU_ASSERT_FATAL(uffd >= 0 && !gm_create(RAM, &gm, &err));
	CU_ASSERT_FATAL(!memsave_create(gm, MEMSAVE_PROTECTED, uffd, RAM, &m, &err));
	CU_ASSERT_FATAL(!memsave_arm(m));
	gm_base(gm)[GM_PAGE] = 1;
	memsave_destroy(m);
	gm_base(gm)[2 * GM_PAGE] = 1;
	gm_destroy(gm);
	close(uffd);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"a guest that stands still", test_still},
		{"a guest that says what it writes", test_told},
		{"a guest that is stopped at each page", test_protected},
		{"given up", test_give_up},
		{"armed and never run", test_never_run},
	};
	return UNIT_MAIN("memsave", tests);
}
