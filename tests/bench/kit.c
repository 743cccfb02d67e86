/* SPDX-License-Identifier: Apache-2.0
 * kit - what the benchmarks share: VMs with the ring-3 guest, and rows of figures.
 */
#include "tests/bench/kit.h"
#include "tests/bench/kit_slow.h"

#include "diskrep/diskrep.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/devices.h"
#include "hv/gm.h"
#include "hv/vm.h"
#include "netbuf/netbuf.h"
#include "tests/guest/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

void kit_die(const char *what, const struct err *e)
{
	(void)fprintf(stderr, "bench: %s: %s\n", what, e ? e->msg : strerror(errno));
	_exit(1); /* threads may run: no handlers, no cleaning up behind them */
}

void kit_sleep_us(unsigned us)
{
	struct timespec ts = {.tv_sec = us / 1000000,
			      .tv_nsec = (long)(us % 1000000) * 1000};

	(void)nanosleep(&ts, NULL); /* no signals here */
}

void kit_begin(struct kit *k, int argc, char **argv)
{
	*k = (struct kit){.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC),
			  .guest_fd = -1,
			  .seconds = argc > 3 ? (unsigned)atoi(argv[3]) : 3,
			  .turns = argc > 4 ? (unsigned)atoi(argv[4]) : 3,
			  .rows = json_array()};
	if (argc < 3 || !k->turns || k->turns > KIT_TURNS_MAX || !k->seconds) {
		(void)fprintf(stderr,
			      "usage: %s GUEST.elf OUT.json [SECONDS] [TURNS<=%d]\n",
			      argv[0], KIT_TURNS_MAX);
		exit(2);
	}
	if (k->kvm_fd < 0)
		kit_die("/dev/kvm", NULL);
	k->guest_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (k->guest_fd < 0)
		kit_die(argv[1], NULL);
	log_init("bench", NULL, LOG_LVL_WARN);
	(void)prctl(PR_SET_TIMERSLACK, 1000ul); /* as rhea-vm does */
}

int kit_end(struct kit *k, const char *out)
{
	int rc = json_dump_file(k->rows, out, JSON_INDENT(1));

	if (rc)
		(void)fprintf(stderr, "bench: %s: cannot be written\n", out);
	json_decref(k->rows);
	close(k->kvm_fd);
	close(k->guest_fd);
	return rc ? 1 : 0;
}

static void *io_main(void *arg)
{
	(void)loop_run(arg); /* ends by loop_stop */
	return NULL;
}

static void guest_event(void *arg, enum vm_event ev, const char *text)
{
	struct err e = {0};

	err_set(&e, -EIO, "event %d: %s", (int)ev, text ? text : "");
	kit_die("the guest ended", &e);
}

enum { DISK_BUFFER = 256 << 20 };

static void add_disk(struct kit_vm *v, const struct kit_disk *d)
{
	struct blk image, outer;
	struct vblk *dev;
	struct err e = {0};

	if (d->open)
		image = d->open(d->arg, v->loop);
	else if (raw_open(dup(d->fd), v->loop, &image, &e))
		kit_die("the disk", &e);
	if (d->slow_us)
		image = kit_slow(image, v->loop, d->slow_us, d->slow_bytes_s);
	outer = image;
	if (d->replicated &&
	    (diskrep_create(DISK_BUFFER, v->loop, d->trigger, &v->dr, &e) ||
	     diskrep_add(v->dr, image, d->fd, &outer, &e) ||
	     diskrep_activity(v->dr, d->activity_fd, NULL, NULL, &e)))
		kit_die("the disk's replication", &e);
	if (vblk_create(v->vm, outer, "bench", 0, &dev, &e))
		kit_die("the disk's device", &e);
}

void kit_vm_up(const struct kit *k, struct kit_vm *v, uint64_t ram, int with_net, int tap,
	       const char *cmdline, const struct kit_disk *disk)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 0x77, 0, 1};
	struct vm_kernel kernel = {
		.kernel_fd = k->guest_fd, .initrd_fd = -1, .cmdline = cmdline};
	struct vm_config cfg = {.name = "bench",
				.ram_bytes = ram,
				.vcpus = 1,
				.cpu = "host",
				.kvm_fd = k->kvm_fd};
	struct err e = {0};

	*v = (struct kit_vm){0};
	if (loop_create(&v->loop, &e))
		kit_die("loop", &e);
	cfg.loop = v->loop;
	if (vm_create(&cfg, &v->vm, &e))
		kit_die("vm", &e);
	vm_on_event(v->vm, guest_event, NULL);
	if (with_net && vnet_create(v->vm, tap, mac, &v->net, &e))
		kit_die("net", &e);
	if (disk)
		add_disk(v, disk);
	if (cmdline && vm_boot(v->vm, &kernel, &e))
		kit_die("boot", &e);
	errno = -pthread_create(&v->io, NULL, io_main, v->loop);
	if (errno)
		kit_die("thread", NULL);
}

void kit_vm_down(struct kit_vm *v)
{
	loop_stop(v->loop);
	pthread_join(v->io, NULL);
	vm_destroy(v->vm);
	netbuf_destroy(v->nb);
	diskrep_destroy(v->dr);
	loop_destroy(v->loop);
}

uint64_t kit_progress(const struct kit_vm *v)
{
	const void *p = gm_at(vm_gm(v->vm), GP_PROGRESS_GPA, 8);

	return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}

static int cmp(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct spread spread_of(const double *v, unsigned n)
{
	double s[KIT_TURNS_MAX];

	memcpy(s, v, n * sizeof(*v));
	qsort(s, n, sizeof(*s), cmp);
	return (struct spread){s[0], s[n / 2], s[n - 1], n};
}

void kit_hist_since(struct hist *h, const struct hist *before)
{
	h->count -= before->count;
	h->sum -= before->sum;
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		h->bucket[i] -= before->bucket[i];
}

static int met(enum kit_target how, double value, double ratio, double target)
{
	switch (how) {
	case VALUE_AT_MOST:
		return value <= target;
	case VALUE_AT_LEAST:
		return value >= target;
	case RATIO_AT_MOST:
		return ratio <= target;
	case RATIO_AT_LEAST:
		return ratio >= target;
	case NO_TARGET:
		return 1;
	}
	return 0;
}

static const char *const wanted[] = {
	[VALUE_AT_MOST] = "value <=",
	[VALUE_AT_LEAST] = "value >=",
	[RATIO_AT_MOST] = "ratio <=",
	[RATIO_AT_LEAST] = "ratio >=",
	[NO_TARGET] = "",
};

void kit_row(struct kit *k, const char *figure, const char *unit, struct spread value,
	     struct spread floor, enum kit_target how, double target)
{
	double ratio = floor.n && floor.med > 0 ? value.med / floor.med : 0;
	json_t *row = json_pack("{s:s,s:f,s:s,s:[ff],s:i}", "figure", figure, "value",
				value.med, "unit", unit, "spread", value.min, value.max,
				"turns", (int)value.n);

	if (!row)
		kit_die("json", NULL);
	if (floor.n) {
		json_object_set_new(row, "floor", json_real(floor.med));
		json_object_set_new(row, "floor_spread",
				    json_pack("[ff]", floor.min, floor.max));
		json_object_set_new(row, "ratio", json_real(ratio));
	}
	if (how != NO_TARGET) {
		json_object_set_new(row, "target", json_real(target));
		json_object_set_new(row, "target_is", json_string(wanted[how]));
		json_object_set_new(row, "met",
				    json_boolean(met(how, value.med, ratio, target)));
	}
	json_array_append_new(k->rows, row);
	printf("%-34s %9.2f [%.2f-%.2f] %-6s", figure, value.med, value.min, value.max,
	       unit);
	if (floor.n)
		printf(" floor %9.2f [%.2f-%.2f] ratio %5.2f", floor.med, floor.min,
		       floor.max, ratio);
	if (how != NO_TARGET)
		printf("  %s %g: %s", wanted[how], target,
		       met(how, value.med, ratio, target) ? "met" : "NOT MET");
	printf("\n");
	(void)fflush(stdout);
}
