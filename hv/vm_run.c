/* SPDX-License-Identifier: Apache-2.0
 * vm_run - vCPU threads, and how a VM is stopped and let go.
 *
 * Theory of operation. vm->gen is even while the VM may run and odd while it must not; each stop
 * and each go counts it up, so that nobody mistakes a second stop for the first. Whoever
 * stops makes it odd, sets immediate_exit in each vCPU's shared page and then signals the
 * vCPU's thread. A vCPU that was about to enter KVM_RUN sees immediate_exit; one that is
 * inside (running, halted, waiting for its SIPI) is thrown out by the signal; so no kick is
 * lost. It then enters KVM_RUN again for as long as an exit's I/O waits to be completed
 * (immediate_exit lets it do that and nothing more), parks, and counts vm->running down; the
 * last one wakes the stopper. Then the stopper takes the device lock.
 *
 * The I/O thread runs its callbacks under the device lock (the loop's guard). When a stop is
 * wanted it stays out, so that a busy loop cannot keep the stopper from the lock.
 */
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KICK = SIGUSR1 };

/* Sleep while *@word is @seen. Returns early for any reason: look again. */
static void sleep_on(atomic_uint *word, unsigned seen)
{
	/* EAGAIN (it changed) and EINTR both mean: look again. */
	(void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void wake(atomic_uint *word)
{
	/* Cannot fail for a valid address. */
	(void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

enum {
	SPIN_NS = 100000, /* a sleep and a wake-up cost a good part of that */
	PARK_SPIN_NS = 500000,
	SPINS = 16, /* between two looks at the clock */
};

/* Wait until *@word is not @seen, awake for the first SPIN_NS: stopping takes no longer as a rule.
 * Returns early for any reason: look again. */
static void wait_on(atomic_uint *word, unsigned seen)
{
	uint64_t end = clock_mono_ns() + SPIN_NS;

	while (clock_mono_ns() < end) {
		for (unsigned i = 0; i < SPINS; i++) {
			if (atomic_load_explicit(word, memory_order_acquire) != seen)
				return;
			__builtin_ia32_pause();
		}
	}
	sleep_on(word, seen);
}

static int must_stop(unsigned gen)
{
	return gen & 1;
}

static void guard_enter(void *arg)
{
	struct vm *vm = arg;

	for (;;) {
		unsigned gen = atomic_load(&vm->gen);

		if (must_stop(gen)) {
			sleep_on(&vm->gen, gen);
			continue;
		}
		vm_lock(vm);
		if (!must_stop(atomic_load(&vm->gen)))
			return;
		vm_unlock(vm);
	}
}

static void guard_leave(void *arg)
{
	vm_unlock(arg);
}

void vm_guard(struct vm *vm)
{
	loop_set_guard(vm->cfg.loop, guard_enter, guard_leave, vm);
}

void vm_notify(struct vm *vm, enum vm_event ev, const char *text)
{
	vm->notice.set = 1;
	vm->notice.ev = ev;
	(void)snprintf(vm->notice.text, sizeof(vm->notice.text), "%s", text);
}

/* Tell the owner. The vCPU does not run on until the VM is rebooted or loaded, however often it
 * is stopped and let go before that: a checkpoint may come first, and then holds what was asked.
 * It cannot come between the guest's asking and this, because the vCPU has not parked. */
static void tell(struct vcpu *v, const struct vm_notice *n)
{
	v->told = 1;
	v->asked = n->ev == VM_EV_POWEROFF ? VCPU_ASKED_POWEROFF
		   : n->ev == VM_EV_RESET  ? VCPU_ASKED_RESET
					   : VCPU_ASKED_NOTHING;
	if (v->vm->on_event)
		v->vm->on_event(v->vm->on_event_arg, n->ev, n->text);
}

/* What was asked before the checkpoint that this VM goes on from, and not done there. */
static void tell_again(struct vcpu *v)
{
	struct vm_notice n = {
		.ev = v->asked == VCPU_ASKED_POWEROFF ? VM_EV_POWEROFF : VM_EV_RESET,
		.text = "asked for before the checkpoint",
	};

	tell(v, &n);
}

/* Counted in before it is looked whether there still is work: whoever ends the work sees either
 * the count or nobody. */
static void join_crew(struct vm *vm)
{
	atomic_fetch_add(&vm->crew_busy, 1);
	if (atomic_load(&vm->crew) & 1)
		vm->crew_fn(vm->crew_arg, 1);
	atomic_fetch_sub(&vm->crew_busy, 1);
}

/* A pause is short, and a vCPU's thread has a processor that nobody else was meant to use
 * meanwhile: it stays awake for a while, and helps when asked. */
static void stay_awake(struct vm *vm, unsigned gen)
{
	uint64_t end = clock_mono_ns() + PARK_SPIN_NS;
	unsigned done = 0, crew;

	while (clock_mono_ns() < end) {
		for (unsigned i = 0; i < SPINS; i++) {
			if (atomic_load_explicit(&vm->gen, memory_order_acquire) != gen)
				return;
			__builtin_ia32_pause();
		}
		crew = atomic_load(&vm->crew);
		if (crew & 1 && crew != done) {
			done = crew;
			join_crew(vm);
		}
	}
}

void vm_crew(struct vm *vm, vm_crew_fn *fn, void *arg)
{
	vm->crew_fn = fn;
	vm->crew_arg = arg;
	atomic_fetch_add(&vm->crew, 1);
	fn(arg, 0);
	atomic_fetch_add(&vm->crew, 1);
	while (atomic_load(&vm->crew_busy))
		__builtin_ia32_pause();
}

static void park(struct vm *vm, unsigned gen)
{
	if (atomic_fetch_sub(&vm->running, 1) == 1)
		wake(&vm->running);
	stay_awake(vm, gen);
	while (atomic_load(&vm->gen) == gen)
		sleep_on(&vm->gen, gen);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;
	sigset_t set;

	/* Signals are other threads' business, but for the kick. */
	sigfillset(&set);
	sigdelset(&set, KICK);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	while (!atomic_load(&vm->quit)) {
		struct vm_notice notice = {0};
		unsigned gen = atomic_load(&vm->gen);

		if (must_stop(gen) && !v->io_pending) {
			park(vm, gen);
			continue;
		}
		if (!must_stop(gen) && v->told) {
			sleep_on(&vm->gen, gen);
			continue;
		}
		if (!must_stop(gen) && v->asked) {
			tell_again(v);
			continue;
		}
		vcpu_run(v, &notice);
		if (notice.set)
			tell(v, &notice);
	}
	return NULL;
}

static void on_kick(int sig)
{
	/* Only there so that the signal ends KVM_RUN. */
	(void)sig;
}

static void set_immediate_exit(struct vcpu *v, uint8_t on)
{
	__atomic_store_n(&v->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

/* vm->gen is odd already. */
static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cfg.vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];

		if (!v || !v->has_thread)
			continue;
		set_immediate_exit(v, 1);
		/* ESRCH cannot be: the thread is not joined yet. */
		(void)pthread_kill(v->thread, KICK);
	}
}

int vm_start(struct vm *vm, struct err *err)
{
	struct sigaction sa = {.sa_handler = on_kick};

	if (vm->started)
		return err_set(err, -EINVAL, "%s was started already", vm->name);
	if (sigaction(KICK, &sa, NULL))
		return err_sys(err, -errno, "signal handler for vCPUs");
	vm->started = 1;
	atomic_store(&vm->running, vm->cfg.vcpus);
	for (unsigned i = 0; i < vm->cfg.vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];
		char name[16];
		int rc;

		set_immediate_exit(v, (uint8_t)must_stop(atomic_load(&vm->gen)));
		rc = -pthread_create(&v->thread, NULL, vcpu_main, v);
		if (rc) {
			vm_stop_threads(vm);
			return err_sys(err, rc, "vCPU %u: starting its thread", i);
		}
		v->has_thread = 1;
		(void)snprintf(name, sizeof(name), "vcpu%u", i);
		/* A name is for people; it can be missing. */
		(void)pthread_setname_np(v->thread, name);
	}
	return 0;
}

int vm_tell_paused(struct vm *vm)
{
	int rc = 0;

	/* EINVAL: this vCPU's guest has no kvmclock, or not yet. */
	for (unsigned i = 0; i < vm->cfg.vcpus; i++)
		if (ioctl(vm->vcpu[i]->fd, KVM_KVMCLOCK_CTRL, 0) && errno != EINVAL &&
		    !rc)
			rc = -errno;
	return rc;
}

int vm_on_pause(struct vm *vm, const struct vm_pause_ops *ops, void *self,
		struct err *err)
{
	if (vm->npausing == VM_PAUSED_MAX)
		return err_set(err, -ENOSPC, "%s: more than %d servers beside the VM",
			       vm->name, VM_PAUSED_MAX);
	vm->pausing[vm->npausing].ops = ops;
	vm->pausing[vm->npausing++].self = self;
	return 0;
}

/* All of them, whatever one says: the guest must stand still in any case. */
static int pause_others(struct vm *vm)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->npausing; i++) {
		int r = vm->pausing[i].ops->pause(vm->pausing[i].self);

		rc = rc ? rc : r;
	}
	return rc;
}

int vm_pause(struct vm *vm)
{
	unsigned n;
	int rc;

	atomic_fetch_add(&vm->gen, 1);
	kick_all(vm);
	while (vm->started && (n = atomic_load(&vm->running)) != 0)
		wait_on(&vm->running, n);
	vm_lock(vm);
	vm->paused = 1;
	rc = pause_others(vm);
	rc = rc ? rc : vm_tell_paused(vm);
	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++)
		rc = vm->vcpu[i]->failed;
	return rc;
}

void vm_resume(struct vm *vm)
{
	for (unsigned i = vm->npausing; i--;)
		vm->pausing[i].ops->resume(vm->pausing[i].self);
	for (unsigned i = 0; i < vm->cfg.vcpus; i++)
		set_immediate_exit(vm->vcpu[i], 0);
	atomic_store(&vm->running, vm->cfg.vcpus);
	vm->paused = 0;
	atomic_fetch_add(&vm->gen, 1);
	vm_unlock(vm);
	wake(&vm->gen);
}

void vm_stop_threads(struct vm *vm)
{
	atomic_store(&vm->quit, 1);
	/* Odd, and a new number, so that parked vCPUs look as well. */
	atomic_fetch_add(&vm->gen, must_stop(atomic_load(&vm->gen)) ? 2 : 1);
	kick_all(vm);
	wake(&vm->gen);
	for (unsigned i = 0; i < vm->cfg.vcpus; i++) {
		struct vcpu *v = vm->vcpu[i];

		if (!v || !v->has_thread)
			continue;
		(void)pthread_join(v->thread, NULL); /* joinable, and not ourselves */
		v->has_thread = 0;
	}
}
