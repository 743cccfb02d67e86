/* SPDX-License-Identifier: Apache-2.0
 * bootvm - the smallest VMM on hv/: boots a kernel, console on stdin and stdout.
 *
 *   bootvm -k KERNEL [-i INITRD] [-a CMDLINE] [-m MIB] [-c VCPUS] [-p CPU] [-d IMAGE]... [-t TAP]...
 *          [-b EVERY_MS] [-s MS] [-S EVERY_MS]
 *
 * -b presses the power button every so many milliseconds. -s pauses the VM after so many, saves
 * it, and lets it go on in a second VM of this process; -S does that again and again. Exit
 * status: 0 powered off, 2 an error of ours, 3 the guest crashed.
 */
#include "hv/base/buf.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/devices.h"
#include "hv/gm.h"
#include "hv/vm.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { DISKS_MAX = 4, TAPS_MAX = 4, NEVER = 0, VNET_HDR = 12 };

struct options {
	const char *kernel, *initrd, *cmdline, *cpu;
	const char *disk[DISKS_MAX], *tap[TAPS_MAX];
	unsigned disks, taps, mib, vcpus;
	uint64_t button_ms, save_ms, every_ms; /* NEVER: not at all */
};

/* One VM with its I/O thread. */
struct machine {
	struct loop *loop;
	struct vm *vm;
	struct serial *serial;
	struct event *input;
	pthread_t thread;
	int has_thread;
};

/* What vCPU threads tell the main thread. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int set;
	enum vm_event ev;
	char text[160];
} told = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_event(void *arg, enum vm_event ev, const char *text)
{
	(void)arg;
	pthread_mutex_lock(&told.lock);
	told.set = 1;
	told.ev = ev;
	(void)snprintf(told.text, sizeof(told.text), "%s", text); /* cut is fine */
	pthread_cond_signal(&told.cond);
	pthread_mutex_unlock(&told.lock);
}

/* Wait for an event until @when_ns (0: for ever). 1: there is one. */
static int wait_event(uint64_t when_ns, enum vm_event *ev)
{
	struct timespec ts = {.tv_sec = (time_t)(when_ns / 1000000000),
			      .tv_nsec = (long)(when_ns % 1000000000)};
	int set, late = 0;

	pthread_mutex_lock(&told.lock);
	while (!told.set && !late) {
		if (when_ns)
			late = pthread_cond_timedwait(&told.cond, &told.lock, &ts);
		else
			pthread_cond_wait(&told.cond, &told.lock);
	}
	set = told.set;
	told.set = 0;
	*ev = told.ev;
	pthread_mutex_unlock(&told.lock);
	return set;
}

static void put_bytes(void *self, const void *p, size_t len)
{
	(void)self;
	/* A console that nobody reads must not stop the guest. */
	(void)!write(STDOUT_FILENO, p, len);
}

static void on_input(evutil_socket_t fd, short what, void *arg)
{
	struct machine *m = arg;
	char line[16];
	ssize_t n = read(fd, line, sizeof(line));

	(void)what;
	if (n <= 0) {
		event_del(m->input);
		return;
	}
	loop_enter(m->loop);
	(void)serial_input(m->serial, line, (size_t)n); /* what is too much is lost */
	loop_leave(m->loop);
}

static int open_tap(const char *name, struct err *err)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), hdr = VNET_HDR;

	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s",
		       name); /* too long: not found */
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETVNETHDRSZ, &hdr))
		return err_sys(err, -errno, "tap %s", name);
	return fd;
}

static int add_devices(struct machine *m, const struct options *o, struct err *err)
{
	static const struct con_out out = {.bytes = put_bytes};
	int rc = serial_create(m->vm, &out, &m->serial, err);

	for (unsigned i = 0; i < o->disks && !rc; i++) {
		struct vblk *dev;
		struct blk blk;
		char serial[16];
		int fd = open(o->disk[i], O_RDWR | O_CLOEXEC);

		if (fd < 0)
			return err_sys(err, -errno, "disk %s", o->disk[i]);
		(void)snprintf(serial, sizeof(serial), "disk%u", i);
		rc = raw_open(fd, m->loop, &blk, err);
		if (!rc)
			rc = vblk_create(m->vm, blk, serial, 0, &dev, err);
	}
	for (unsigned i = 0; i < o->taps && !rc; i++) {
		const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, (uint8_t)(i + 1)};
		struct vnet *dev;
		int fd = open_tap(o->tap[i], err);

		rc = fd < 0 ? fd : vnet_create(m->vm, fd, mac, &dev, err);
	}
	return rc ? rc : vrng_create(m->vm, err);
}

static int machine_create(struct machine *m, const struct options *o, int kvm,
			  struct err *err)
{
	struct vm_config cfg = {
		.name = "bootvm",
		.ram_bytes = (uint64_t)o->mib << 20,
		.vcpus = o->vcpus,
		.cpu = o->cpu,
		.kvm_fd = kvm,
	};
	int rc;

	*m = (struct machine){0};
	rc = loop_create(&m->loop, err);
	if (rc)
		return rc;
	cfg.loop = m->loop;
	rc = vm_create(&cfg, &m->vm, err);
	if (rc)
		return rc;
	vm_on_event(m->vm, on_event, NULL);
	return add_devices(m, o, err);
}

static void *loop_main(void *arg)
{
	struct machine *m = arg;

	if (loop_run(m->loop))
		log_err("the I/O loop failed");
	return NULL;
}

static int machine_start(struct machine *m, struct err *err)
{
	m->input = event_new(loop_base(m->loop), STDIN_FILENO, EV_READ | EV_PERSIST,
			     on_input, m);
	if (!m->input)
		return err_set(err, -ENOMEM, "console input");
	/* A closed or plain-file stdin cannot be waited for: then there is no input. */
	(void)event_add(m->input, NULL);
	if (pthread_create(&m->thread, NULL, loop_main, m))
		return err_set(err, -EAGAIN, "I/O thread");
	m->has_thread = 1;
	return vm_start(m->vm, err);
}

/* After this the devices do nothing more. A vCPU does not wait for them. */
static void stop_io(struct machine *m)
{
	loop_stop(m->loop);
	if (m->has_thread)
		(void)pthread_join(m->thread, NULL); /* joinable, and not ourselves */
	m->has_thread = 0;
}

static void machine_destroy(struct machine *m)
{
	if (m->loop)
		stop_io(m);
	if (m->input)
		event_free(m->input);
	vm_destroy(m->vm);
	loop_destroy(m->loop);
}

/* Pause, save, and go on in a new VM with a copy of the memory. */
static int move(struct machine *m, const struct options *o, int kvm, struct err *err)
{
	struct machine next = {0};
	struct buf state = {0};
	uint64_t t0, t1, t2;
	int rc = machine_create(&next, o, kvm, err);

	if (rc)
		goto out;
	stop_io(m);
	t0 = clock_mono_ns();
	rc = vm_pause(m->vm);
	t1 = clock_mono_ns();
	if (!rc)
		rc = vm_save(m->vm, &state);
	t2 = clock_mono_ns();
	if (rc) {
		err_sys(err, rc, "pausing and saving");
		goto out;
	}
	memcpy(gm_base(vm_gm(next.vm)), gm_base(vm_gm(m->vm)), gm_bytes(vm_gm(m->vm)));
	rc = vm_load(next.vm, state.data, state.len, err);
	if (rc)
		goto out;
	log_info("moved: pause %llu us, save %llu us, %zu bytes",
		 (unsigned long long)(t1 - t0) / 1000,
		 (unsigned long long)(t2 - t1) / 1000, state.len);
	machine_destroy(m);
	*m = next;
	next = (struct machine){0};
	rc = machine_start(m, err);
out:
	machine_destroy(&next);
	buf_fini(&state);
	return rc;
}

static int reboot(struct machine *m, const struct vm_kernel *k, struct err *err)
{
	int rc = vm_pause(m->vm);

	if (rc)
		return err_sys(err, rc, "pausing for a reboot");
	rc = vm_reboot(m->vm, k, err);
	vm_resume(m->vm);
	return rc;
}

/* Until the guest is off. The exit status, or -errno. */
static int supervise(struct machine *m, const struct options *o,
		     const struct vm_kernel *k, int kvm, struct err *err)
{
	const uint64_t ms = 1000000, start = clock_real_ns();
	uint64_t button = o->button_ms ? start + o->button_ms * ms : NEVER;
	uint64_t save = o->save_ms ? start + o->save_ms * ms : NEVER;
	int rc = 0;

	while (!rc) {
		uint64_t next = button && (!save || button < save) ? button : save;
		enum vm_event ev;

		if (wait_event(next, &ev)) {
			log_info("guest: %s", told.text);
			if (ev == VM_EV_POWEROFF)
				return 0;
			if (ev == VM_EV_CRASH)
				return 3;
			rc = reboot(m, k, err);
		} else if (next == button) {
			button += o->button_ms * ms;
			vm_power_button(m->vm);
		} else {
			rc = move(m, o, kvm, err);
			save = o->every_ms ? clock_real_ns() + o->every_ms * ms : NEVER;
		}
	}
	return rc;
}

static int parse(int argc, char **argv, struct options *o)
{
	int c;

	*o = (struct options){
		.cmdline = "console=ttyS0", .cpu = "host", .mib = 256, .vcpus = 1};
	while ((c = getopt(argc, argv, "k:i:a:m:c:p:d:t:b:s:S:")) != -1) {
		if (c == 'k')
			o->kernel = optarg;
		else if (c == 'i')
			o->initrd = optarg;
		else if (c == 'a')
			o->cmdline = optarg;
		else if (c == 'm')
			o->mib = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'c')
			o->vcpus = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'p')
			o->cpu = optarg;
		else if (c == 'd' && o->disks < DISKS_MAX)
			o->disk[o->disks++] = optarg;
		else if (c == 't' && o->taps < TAPS_MAX)
			o->tap[o->taps++] = optarg;
		else if (c == 'b')
			o->button_ms = strtoull(optarg, NULL, 10);
		else if (c == 's')
			o->save_ms = strtoull(optarg, NULL, 10);
		else if (c == 'S')
			o->save_ms = o->every_ms = strtoull(optarg, NULL, 10);
		else
			return -EINVAL;
	}
	/* A tap has one owner at a time. */
	return o->kernel && !(o->taps && o->save_ms) ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct vm_kernel k = {.initrd_fd = -1};
	struct machine m = {0};
	struct err err = {0};
	struct options o;
	int kvm, rc;

	if (parse(argc, argv, &o)) {
		(void)fprintf(
			stderr,
			"usage: bootvm -k KERNEL [-i INITRD] [-a CMDLINE] [-m MIB] "
			"[-c VCPUS] [-p CPU]\n  [-d IMAGE]... [-t TAP]... [-b EVERY_MS] "
			"[-s MS] [-S EVERY_MS]\n");
		return 2;
	}
	log_init("bootvm", NULL, LOG_LVL_INFO);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	k.kernel_fd = open(o.kernel, O_RDONLY | O_CLOEXEC);
	k.cmdline = o.cmdline;
	if (o.initrd)
		k.initrd_fd = open(o.initrd, O_RDONLY | O_CLOEXEC);
	if (kvm < 0 || k.kernel_fd < 0 || (o.initrd && k.initrd_fd < 0)) {
		log_err("/dev/kvm, %s or %s cannot be opened", o.kernel,
			o.initrd ? o.initrd : "-");
		return 2;
	}
	rc = machine_create(&m, &o, kvm, &err);
	if (!rc)
		rc = vm_boot(m.vm, &k, &err);
	if (!rc)
		rc = machine_start(&m, &err);
	if (!rc)
		rc = supervise(&m, &o, &k, kvm, &err);
	machine_destroy(&m);
	if (rc < 0) {
		log_err("%s", err.msg);
		return 2;
	}
	return rc;
}
