/* SPDX-License-Identifier: Apache-2.0
 * vm - one virtual machine on KVM: memory, vCPUs, interrupt controllers, buses, devices.
 *
 * Life:  vm_create -> devices are added -> vm_boot or vm_load -> vm_start
 *          -> (vm_pause -> vm_save / vm_load / vm_reboot -> vm_resume)* -> vm_destroy
 *
 * Threads: vCPU threads are the VM's own. Devices run on one I/O thread, the given loop,
 * whose guard the VM installs: its callbacks, and the vCPUs' MMIO and port accesses, run under
 * the device lock. vm_pause() stops the vCPUs and then holds that lock until vm_resume(), so a
 * paused VM stands still at a request boundary.
 */
#ifndef HV_VM_H
#define HV_VM_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct bus;
struct err;
struct gm;
struct loop;
struct pci;
struct reader;
struct vm;

struct vm_config {
	const char *name;
	uint64_t ram_bytes;
	unsigned vcpus;	   /* 1 to VM_VCPUS_MAX */
	const char *cpu;   /* "host", "x86-64-v2", "x86-64-v3" */
	int kvm_fd;	   /* borrowed */
	struct loop *loop; /* borrowed; the I/O thread */
};

enum { VM_VCPUS_MAX = 4 };

enum vm_event {
	VM_EV_POWEROFF, /* the guest switched itself off */
	VM_EV_RESET,	/* the guest asks to be rebooted: pause, vm_reboot(), resume */
	VM_EV_CRASH,	/* triple fault or a KVM error; the text says which */
};
typedef void vm_event_fn(void *arg, enum vm_event ev, const char *text);

/* What boots: borrowed fds, read with pread. A bzImage, or an ELF with a PVH note. */
struct vm_kernel {
	int kernel_fd, initrd_fd; /* initrd_fd -1: none */
	const char *cmdline;
};

struct vm_device_ops {
	const char *name;
	/* VM paused. Append one or more sections (state.h). 0 or -errno. */
	int (*save)(void *self, struct buf *b);
	/* Exactly what save wrote, from hostile input. 0 or -errno with @err. */
	int (*load)(void *self, struct reader *r, struct err *err);
	/* After all devices, memory and vCPUs are loaded, before the guest runs: raise every
	 * interrupt that may have been lost, look at every queue again, issue the requests that
	 * were in flight. Under vm_lock(). */
	void (*loaded)(void *self);
	void (*reset)(void *self); /* power-on state */
	void (*destroy)(void *self);
};

/* Returns owned. Adds nothing but irqchip, memory, buses and the ACPI device. */
int vm_create(const struct vm_config *cfg, struct vm **vm_out, struct err *err);
/* Stops vCPUs if they run, destroys all devices in reverse order. NULL is fine. The loop must
 * not be running any more, or not have been started. */
void vm_destroy(struct vm *vm);

/* @fn is called on a vCPU's thread. That vCPU then stands still until vm_reboot() or vm_load(),
 * however often the VM is paused and resumed before. A power-off or reset that was asked for and
 * not acted on is part of the state: the VM that loads it calls @fn again once it runs. @fn
 * itself must neither pause the VM nor wait for a pause. Before vm_start. */
void vm_on_event(struct vm *vm, vm_event_fn *fn, void *arg);

/* The VM takes @self and calls ops->destroy at its end. The order of adding is the order of
 * the state stream; @instance tells devices of one kind apart. */
int vm_add_device(struct vm *vm, const struct vm_device_ops *ops, void *self,
		  uint32_t instance, struct err *err);

/* Something serves the guest that is neither a vCPU nor the I/O thread (vhost): it is stopped in each
 * pause, the device lock being held already, and let go in each resume. A pause that fails makes
 * vm_pause() fail. Before vm_start; for as long as the VM lives. */
struct vm_pause_ops {
	int (*pause)(void *self);
	void (*resume)(void *self);
};
int vm_on_pause(struct vm *vm, const struct vm_pause_ops *ops, void *self,
		struct err *err);

struct gm *vm_gm(struct vm *vm);
struct bus *vm_mmio(struct vm *vm);
struct bus *vm_pio(struct vm *vm);
struct pci *vm_pci(struct vm *vm);
struct loop *vm_loop(struct vm *vm);
int vm_fd(struct vm *vm);
unsigned vm_vcpus(struct vm *vm);

void vm_lock(struct vm *vm); /* the device lock; not recursive */
void vm_unlock(struct vm *vm);

/* Bind eventfd @fd to a write of @len bytes (0: any length) at MMIO address @addr. */
int vm_ioeventfd(struct vm *vm, uint64_t addr, unsigned len, int fd, int assign);

/* Clear RAM, load kernel, initrd and tables into it, and set the vCPUs to start there. VM not
 * started or paused. */
int vm_boot(struct vm *vm, const struct vm_kernel *k, struct err *err);
/* Reset all devices and vCPUs, then as vm_boot(). VM paused. */
int vm_reboot(struct vm *vm, const struct vm_kernel *k, struct err *err);

/* Create the vCPU threads and let the guest run. Once. */
int vm_start(struct vm *vm, struct err *err);
/* All vCPUs out of KVM_RUN with their pending I/O completed, then the device lock taken. Same
 * thread pauses and resumes. -errno if a vCPU failed: the VM is then still paused. */
int vm_pause(struct vm *vm);
void vm_resume(struct vm *vm); /* KVM_KVMCLOCK_CTRL is done at pause */
/* Run @fn on this thread and, beside it, on the threads of vCPUs that are parked and not yet
 * asleep: their processors have nothing else to do. @fn takes pieces of work from a counter of
 * its own until there are none; on how many threads it runs is nobody's promise. @helper: not
 * this thread. Returns when all of them have. VM paused, by this thread. */
typedef void vm_crew_fn(void *arg, int helper);
void vm_crew(struct vm *vm, vm_crew_fn *fn, void *arg);

/* vCPUs, irqchip, clock and devices as one versioned stream (STATE.md), without memory. VM
 * paused. 0 or -errno. */
int vm_save(struct vm *vm, struct buf *b);
/* Into a VM that was made with the same config and never started, or is paused. @len bytes of
 * hostile input. After an error the VM must be destroyed. Guest time continues from the
 * checkpoint: the monotonic clock never goes back, and steps forward by the wall time that
 * passed since, at most VM_CLOCK_STEP_MAX_NS. */
int vm_load(struct vm *vm, const void *data, size_t len, struct err *err);
/* Would vm_load() take this? Looks at checksum, shape of the machine and CPU features, and
 * changes nothing; so a standby finds out while the primary lives. Any thread. */
int vm_check(struct vm *vm, const void *data, size_t len, struct err *err);
#define VM_CLOCK_STEP_MAX_NS 60000000000ull

/* Press the power button (ACPI, through the generic event device). Any thread. */
void vm_power_button(struct vm *vm);

#endif
