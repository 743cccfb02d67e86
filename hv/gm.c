/* SPDX-License-Identifier: Apache-2.0
 * gm - guest memory: one memfd, its KVM slots, and the pages that were written.
 *
 * Two sources say what is dirty: KVM's log for what the guest wrote, and a bitmap of our own
 * for what devices wrote. Both are indexed alike, because the second slot follows the first in
 * the memfd and starts at a multiple of 64 pages.
 *
 * KVM's log is in manual mode: reading it changes nothing, and which pages are protected again,
 * to be logged at their next write, is ours to say. So one may look how much is dirty for the
 * price of copying a bitmap, and leave pages writable that are written all the time.
 */
#include "hv/gm.h"

#include "hv/base/err.h"
#include "hv/layout.h"

#include <errno.h>
#include <emmintrin.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GM_SLOTS = 2, PAGES_A_WORD = 64 };

_Static_assert(LAYOUT_RAM_LOW_MAX % ((uint64_t)GM_PAGE * PAGES_A_WORD) == 0,
	       "the slots' bitmaps must join at a word");

struct gm {
	int fd, vm_fd;
	uint64_t bytes, low; /* low: how much of it lies below the hole */
	uint8_t *base;
	_Atomic uint64_t *marked;	/* what we wrote; a bit a page */
	_Atomic uint64_t *words_marked; /* which words of it are not 0; a bit a word */
	uint64_t *scratch;		/* where KVM puts its log */
	int logging;
};

static uint64_t words(uint64_t bytes)
{
	return bytes / GM_PAGE / PAGES_A_WORD;
}

/* Words of the bitmap over the words. */
static uint64_t words_of_words(uint64_t bytes)
{
	return (words(bytes) + PAGES_A_WORD - 1) / PAGES_A_WORD;
}

static int map_memory(struct gm *gm, struct err *err)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW;

	gm->fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (gm->fd < 0)
		return err_sys(err, -errno, "guest memory: memfd");
	/* Sealed, so that nobody who is given the descriptor can make us fault. */
	if (ftruncate(gm->fd, (off_t)gm->bytes) || fcntl(gm->fd, F_ADD_SEALS, seals))
		return err_sys(err, -errno, "guest memory: %" PRIu64 " MiB",
			       gm->bytes >> 20);
	gm->base = mmap(NULL, gm->bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_NORESERVE, gm->fd, 0);
	if (gm->base == MAP_FAILED) {
		gm->base = NULL;
		return err_sys(err, -errno, "guest memory: mapping %" PRIu64 " MiB",
			       gm->bytes >> 20);
	}
	return 0;
}

int gm_create(uint64_t bytes, struct gm **gm_out, struct err *err)
{
	struct gm *gm;
	int rc;

	*gm_out = NULL;
	if (bytes < GM_MIN || bytes % GM_STEP || bytes > INT64_MAX)
		return err_set(err, -EINVAL,
			       "guest memory: %" PRIu64
			       " bytes; it must be a multiple of 2 MiB, "
			       "at least 16 MiB",
			       bytes);
	gm = calloc(1, sizeof(*gm));
	if (!gm)
		return err_set(err, -ENOMEM, "guest memory: out of memory");
	gm->fd = gm->vm_fd = -1;
	gm->bytes = bytes;
	gm->low = bytes < LAYOUT_RAM_LOW_MAX ? bytes : LAYOUT_RAM_LOW_MAX;
	rc = map_memory(gm, err);
	if (rc)
		goto fail;
	gm->marked = calloc(words(bytes), sizeof(*gm->marked));
	gm->words_marked = calloc(words_of_words(bytes), sizeof(*gm->words_marked));
	gm->scratch = calloc(words(bytes), sizeof(*gm->scratch));
	if (!gm->marked || !gm->words_marked || !gm->scratch) {
		rc = err_set(err, -ENOMEM,
			     "guest memory: out of memory for dirty bitmaps");
		goto fail;
	}
	*gm_out = gm;
	return 0;
fail:
	gm_destroy(gm);
	return rc;
}

void gm_destroy(struct gm *gm)
{
	if (!gm)
		return;
	free(gm->scratch);
	free((void *)gm->words_marked);
	free((void *)gm->marked);
	if (gm->base)
		(void)munmap(gm->base, gm->bytes); /* fails only for a bad range */
	if (gm->fd >= 0)
		close(gm->fd);
	free(gm);
}

uint64_t gm_bytes(const struct gm *gm)
{
	return gm->bytes;
}

uint64_t gm_pages(const struct gm *gm)
{
	return gm->bytes / GM_PAGE;
}

int gm_fd(const struct gm *gm)
{
	return gm->fd;
}

uint8_t *gm_base(const struct gm *gm)
{
	return gm->base;
}

/* Offset in the memfd of [gpa, gpa + len), or -1 if not all of it is RAM in one piece. */
static int64_t flat(const struct gm *gm, uint64_t gpa, uint64_t len)
{
	uint64_t start = 0, size = gm->low, skipped = 0;

	if (gpa >= LAYOUT_RAM_HIGH) {
		start = LAYOUT_RAM_HIGH;
		size = gm->bytes - gm->low;
		skipped = gm->low;
	}
	if (gpa - start > size || len > size - (gpa - start))
		return -1;
	return (int64_t)(gpa - start + skipped);
}

void *gm_at(const struct gm *gm, uint64_t gpa, uint64_t len)
{
	int64_t off = flat(gm, gpa, len);

	return off < 0 ? NULL : gm->base + off;
}

/* Mark pages [first, last]. The locked OR is also the barrier that makes the data visible
 * before the mark: a harvest that does not see the mark comes before the write as a whole.
 * The word's own bit comes after the page's, and a harvest takes them in the other order: so
 * a bit that is set already stands for a word that is still to be taken. */
static void mark_pages(struct gm *gm, uint64_t first, uint64_t last)
{
	for (uint64_t i = first; i <= last; i++) {
		uint64_t w = i / PAGES_A_WORD, bit = 1ull << (w % PAGES_A_WORD);

		atomic_fetch_or(&gm->marked[w], 1ull << (i % PAGES_A_WORD));
		if (!(atomic_load(&gm->words_marked[w / PAGES_A_WORD]) & bit))
			atomic_fetch_or(&gm->words_marked[w / PAGES_A_WORD], bit);
	}
}

void gm_mark(struct gm *gm, uint64_t gpa, uint64_t len)
{
	int64_t off = flat(gm, gpa, len);

	if (off >= 0 && len)
		mark_pages(gm, (uint64_t)off / GM_PAGE,
			   ((uint64_t)off + len - 1) / GM_PAGE);
}

int gm_write(struct gm *gm, uint64_t gpa, const void *src, uint64_t len)
{
	void *p = gm_at(gm, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, src, len);
	gm_mark(gm, gpa, len);
	return 0;
}

int gm_read(const struct gm *gm, uint64_t gpa, void *dst, uint64_t len)
{
	const void *p = gm_at(gm, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(dst, p, len);
	return 0;
}

int gm_clear(struct gm *gm, struct err *err)
{
	if (fallocate(gm->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)gm->bytes))
		return err_sys(err, -errno, "guest memory: clearing it");
	mark_pages(gm, 0, gm_pages(gm) - 1);
	return 0;
}

/* The slots are [0, low) and what lies above 4 GiB, if anything. */
static unsigned slot_count(const struct gm *gm)
{
	return gm->bytes > gm->low ? GM_SLOTS : 1;
}

unsigned gm_regions(const struct gm *gm, struct gm_region out[GM_REGIONS_MAX])
{
	for (unsigned i = 0; i < slot_count(gm); i++)
		out[i] = (struct gm_region){
			.gpa = i ? LAYOUT_RAM_HIGH : 0,
			.bytes = i ? gm->bytes - gm->low : gm->low,
			.host = gm->base + (i ? gm->low : 0),
		};
	return slot_count(gm);
}

static int set_slots(struct gm *gm, int vm_fd, uint32_t flags)
{
	struct gm_region region[GM_REGIONS_MAX];
	unsigned n = gm_regions(gm, region);

	for (unsigned i = 0; i < n; i++) {
		struct kvm_userspace_memory_region r = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = region[i].gpa,
			.memory_size = region[i].bytes,
			.userspace_addr = (uintptr_t)region[i].host,
		};

		if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &r))
			return -errno;
	}
	return 0;
}

int gm_attach(struct gm *gm, int vm_fd, struct err *err)
{
	struct kvm_enable_cap manual = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
	int rc;

	if (ioctl(vm_fd, KVM_ENABLE_CAP, &manual))
		return err_sys(err, -errno, "guest memory: KVM's dirty log by hand");
	rc = set_slots(gm, vm_fd, 0);
	if (rc)
		return err_sys(err, rc, "guest memory: giving it to KVM");
	gm->vm_fd = vm_fd;
	return 0;
}

/* Read KVM's log into the scratch bitmap, both slots. Memory that was never given to KVM has
 * only our own marks: the scratch bitmap stays as empty as it was made. */
static int fetch_log(struct gm *gm)
{
	if (gm->vm_fd < 0)
		return 0;
	for (unsigned i = 0; i < slot_count(gm); i++) {
		struct kvm_dirty_log d = {
			.slot = i,
			.dirty_bitmap = gm->scratch + (i ? words(gm->low) : 0),
		};

		if (ioctl(gm->vm_fd, KVM_GET_DIRTY_LOG, &d))
			return -errno;
	}
	return 0;
}

/* Protect what is set in words [from, to) of @bitmap, as far as they belong to slot @slot. One call
 * from the first to the last that is: each costs a flush of all vCPUs' TLBs. */
static int protect_slot(struct gm *gm, unsigned slot, const uint64_t *bitmap,
			uint64_t from, uint64_t to)
{
	struct kvm_clear_dirty_log c = {.slot = slot};
	uint64_t start = slot ? words(gm->low) : 0;
	uint64_t end = slot ? words(gm->bytes) : words(gm->low);

	from = from > start ? from : start;
	to = to < end ? to : end;
	while (from < to && !bitmap[from])
		from++;
	if (from >= to)
		return 0;
	while (!bitmap[to - 1])
		to--;
	c.first_page = (from - start) * PAGES_A_WORD;
	c.num_pages = (uint32_t)((to - from) * PAGES_A_WORD);
	c.dirty_bitmap = (void *)(bitmap + from);
	return ioctl(gm->vm_fd, KVM_CLEAR_DIRTY_LOG, &c) ? -errno : 0;
}

int gm_protect(struct gm *gm, const uint64_t *bitmap, uint64_t from, uint64_t to)
{
	int rc;

	if (!gm->logging)
		return -EINVAL;
	if (gm->vm_fd < 0)
		return 0;
	rc = protect_slot(gm, 0, bitmap, from, to);
	return rc || slot_count(gm) == 1 ? rc : protect_slot(gm, 1, bitmap, from, to);
}

/* Word @w of @bitmap has bits more. */
static void add_word(uint64_t *bitmap, uint64_t *which, uint64_t w, uint64_t bits)
{
	bitmap[w] |= bits;
	if (which && bits)
		which[w / PAGES_A_WORD] |= 1ull << (w % PAGES_A_WORD);
}

/* What we marked goes to @bitmap, or nowhere. */
static void take_marks(struct gm *gm, uint64_t *bitmap, uint64_t *which_out)
{
	for (uint64_t i = 0; i < words_of_words(gm->bytes); i++) {
		uint64_t which = 0;

		/* Most are empty: look before the locked exchange. */
		if (atomic_load_explicit(&gm->words_marked[i], memory_order_relaxed))
			which = atomic_exchange(&gm->words_marked[i], 0);
		for (; which; which &= which - 1) {
			uint64_t w = i * PAGES_A_WORD + (uint64_t)__builtin_ctzll(which);
			uint64_t marks = atomic_exchange(&gm->marked[w], 0);

			if (bitmap)
				add_word(bitmap, which_out, w, marks);
		}
	}
}

int gm_log(struct gm *gm, int on, struct err *err)
{
	int rc = 0;

	/* Our marks first: what is marked from here on is kept. */
	if (on)
		take_marks(gm, NULL, NULL);
	if (gm->vm_fd >= 0 && !(on && gm->logging))
		rc = set_slots(gm, gm->vm_fd, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	else if (on && gm->logging) {
		rc = fetch_log(gm);
		rc = rc ? rc : gm_protect(gm, gm->scratch, 0, words(gm->bytes));
	}
	if (rc)
		return err_sys(err, rc, "guest memory: dirty log %s", on ? "on" : "off");
	gm->logging = on;
	return 0;
}

enum { STRIDE = 8 }; /* words looked at together: a cache line */
_Static_assert(GM_STEP / GM_PAGE / PAGES_A_WORD % STRIDE == 0, "no stride at the end");

/* Most of a large guest's bitmap is looked at here, in each pause. */
static int is_empty(const uint64_t w[STRIDE])
{
	const __m128i *v = (const __m128i *)w, zero = _mm_setzero_si128();
	__m128i a = _mm_or_si128(_mm_loadu_si128(v), _mm_loadu_si128(v + 1));
	__m128i b = _mm_or_si128(_mm_loadu_si128(v + 2), _mm_loadu_si128(v + 3));

	return _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_or_si128(a, b), zero)) == 0xffff;
}

int gm_peek(struct gm *gm, uint64_t *bitmap, uint64_t *which)
{
	uint64_t n = words(gm->bytes);
	int rc;

	if (!gm->logging)
		return -EINVAL;
	rc = fetch_log(gm);
	if (rc)
		return rc;
	for (uint64_t i = 0; i < n; i += STRIDE) {
		const uint64_t *w = gm->scratch + i;

		if (is_empty(w))
			continue;
		for (unsigned k = 0; k < STRIDE; k++)
			add_word(bitmap, which, i + k, w[k]);
	}
	take_marks(gm, bitmap, which);
	return 0;
}

int gm_harvest(struct gm *gm, uint64_t *bitmap)
{
	int rc = gm_peek(gm, bitmap, NULL);

	/* Not @bitmap: what was set there before is no news of KVM's. */
	return rc ? rc : gm_protect(gm, gm->scratch, 0, words(gm->bytes));
}
