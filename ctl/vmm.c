/* SPDX-License-Identifier: Apache-2.0
 * vmm - builds the machine and its participants and puts them into a role.
 */
#include "ctl/vmm.h"

#include "ctl/plugkeeper.h"
#include "ctl/snapmem.h"
#include "diskrep/diskrep.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/devices.h"
#include "netbuf/netbuf.h"
#include "remus/parts.h"
#include "remus/standby.h"

#include <errno.h>
#include <event2/event.h>
#include <string.h>
#include <unistd.h>

/* The participants exist before the engine that they ask for early epochs. */
static void trigger_later(void *arg, const char *why)
{
	struct vmm *m = arg;
	struct primary *p = atomic_load(&m->primary);
	struct epoch_trigger t;

	if (!p)
		return;
	t = primary_trigger(p);
	t.request(t.arg, why);
}

static void *io_main(void *arg)
{
	struct vmm *m = arg;

	if (loop_run(m->io))
		log_err("the I/O loop ended by an error");
	return NULL;
}

int vmm_start_keeper(struct vmm *m, struct err *err)
{
	const struct vmm_setup *s = &m->set;
	int ifindex[VMM_NETS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < s->nets; i++)
		if (s->plug[i])
			ifindex[n++] = s->plug[i];
	return n ? plugkeeper_start(ifindex, n, s->uid, s->gid, &m->keeper, err) : 0;
}

/* Served by vhost-net, held by the plug. */
static int build_plugged(struct vmm *m, unsigned i, struct err *err)
{
	struct vmm_setup *s = &m->set;
	int vhost = s->vhost_fd[i], sniff = s->sniff_fd[i], rc;

	s->vhost_fd[i] = s->sniff_fd[i] = -1;
	rc = netbuf_add_plugged(m->netbuf, m->net[i], sniff, plugkeeper_kernel(m->keeper),
				err);
	if (rc) {
		close(vhost);
		return rc;
	}
	return vnet_use_vhost(m->net[i], m->vm, vhost, NULL, err);
}

static int build_nets(struct vmm *m, struct err *err)
{
	struct vmm_setup *s = &m->set;
	int rc;

	for (unsigned i = 0; i < s->nets; i++) {
		rc = vnet_create(m->vm, s->net_fd[i], s->mac[i], &m->net[i], err);
		s->net_fd[i] = -1;
		if (!rc)
			rc = s->plug[i] ? build_plugged(m, i, err)
					: netbuf_add_net(m->netbuf, m->net[i], err);
		if (rc)
			return err_ctx(err, "net %u", i);
	}
	return 0;
}

static void on_console_input(evutil_socket_t fd, short what, void *arg)
{
	struct vmm *m = arg;
	uint8_t bytes[256];
	ssize_t n = read(fd, bytes, sizeof(bytes));

	if (n <= 0)
		return;
	loop_enter(m->io);
	if (serial_input(m->serial, bytes, (size_t)n) < (size_t)n)
		log_ratelimited(LOG_LVL_DEBUG, 1000,
				"console input dropped: the guest does not read");
	loop_leave(m->io);
}

/* What is typed goes to the serial port, which is the console of every stock kernel's
 * command line here; both ports' output goes to the same place. */
static int build_consoles(struct vmm *m, struct err *err)
{
	struct con_out out;
	struct event *ev;
	int rc;

	rc = evutil_make_socket_nonblocking(m->set.console_fd);
	if (rc)
		return err_set(err, -EIO, "console: cannot be made non-blocking");
	rc = netbuf_add_console(m->netbuf, m->set.console_fd, &out, err);
	if (!rc)
		rc = serial_create(m->vm, &out, &m->serial, err);
	if (!rc)
		rc = vconsole_create(m->vm, &out, &m->console, err);
	if (rc)
		return err_ctx(err, "console");
	ev = event_new(loop_base(m->io), m->set.console_fd, EV_READ | EV_PERSIST,
		       on_console_input, m);
	if (!ev || event_add(ev, NULL))
		return err_set(err, -ENOMEM, "console: out of memory");
	return 0;
}

/* Asked within a commit, so there is an engine. */
static uint64_t judged_ns(void *arg)
{
	struct vmm *m = arg;

	return primary_judged_ns(atomic_load(&m->primary));
}

/* The order of creation is the order of the PCI slots and of the state stream: alike on
 * both hosts, whatever their role. */
int vmm_build(struct vmm *m, struct err *err)
{
	struct vmm_setup *s = &m->set;
	struct epoch_trigger trigger = {.request = trigger_later, .arg = m};
	struct vm_config cfg = {
		.name = s->vm,
		.ram_bytes = s->ram,
		.vcpus = s->vcpus,
		.cpu = s->cpu,
		.kvm_fd = s->kvm_fd,
	};
	int rc;

	rc = loop_create(&m->io, err);
	if (rc)
		return rc;
	cfg.loop = m->io;
	rc = vm_create(&cfg, &m->vm, err);
	rc = rc ? rc : netbuf_create(s->netbuf, m->io, 1, trigger, &m->netbuf, err);
	if (!rc)
		netbuf_set_stale(m->netbuf, s->suspect_us);
	if (!rc)
		netbuf_set_judged(m->netbuf, judged_ns, m);
	rc = rc ? rc : diskrep_create(s->diskbuf, m->io, trigger, &m->diskrep, err);
	rc = rc ? rc : build_consoles(m, err);
	rc = rc ? rc : vmm_build_disks(m, err);
	rc = rc ? rc
		: diskrep_activity(m->diskrep, s->activity_fd, vmm_on_activity_failed, m,
				   err);
	if (!rc)
		diskrep_set_rate(m->diskrep, s->resync_rate);
	rc = rc ? rc : vmm_snap_create(m, err);
	rc = rc ? rc : build_nets(m, err);
	rc = rc ? rc : vrng_create(m->vm, err);
	if (rc)
		return rc;
	vm_on_event(m->vm, vmm_on_guest, m);
	return 0;
}

int vmm_run_io(struct vmm *m, struct err *err)
{
	int rc = -pthread_create(&m->io_thread, NULL, io_main, m);

	if (rc)
		return err_sys(err, rc, "I/O thread");
	m->io_running = 1;
	return diskrep_run(m->diskrep, err);
}

int vmm_build_primary(struct vmm *m, struct err *err)
{
	struct vmm_setup *s = &m->set;
	struct primary_config cfg = {
		.vm = s->vm,
		.interval_us = s->interval_us,
		.min_interval_us = s->min_interval_us,
		.latency_target_us = s->latency_target_us,
		.overhead_cap = s->overhead_cap,
		/* The plug has room for one closed epoch. */
		.max_inflight = s->plugs ? 1 : s->inflight,
		.frozen_us = s->suspect_us,
		.on_state = vmm_on_primary_state,
		.arg = m,
	};
	struct part parts[4];
	struct primary *p;
	int rc;

	rc = mach_part_create(m->vm, &m->mach, err);
	rc = rc ? rc
		: mem_part_create(vm_gm(m->vm), m->vm, s->cache, s->encoders, &m->mem,
				  err);
	if (rc)
		return rc;
	mem_part_verify(m->mem, s->verify_s * UINT64_C(1000000000));
	parts[0] = mach_part(m->mach);
	parts[1] = mem_part(m->mem);
	parts[2] = netbuf_part(m->netbuf);
	parts[3] = diskrep_part(m->diskrep);
	rc = primary_create(&cfg, parts, 4, &p, err);
	if (!rc)
		atomic_store(&m->primary, p);
	return rc;
}

void vmm_started(struct vmm *m, uint64_t term, uint64_t since)
{
	uint64_t us = (clock_mono_ns() - since) / 1000;

	m->started = 1;
	log_info("the guest runs here (%llu us)", (unsigned long long)us);
	vmm_tell(m, json_pack("{s:s,s:I,s:I}", "ev", "running", "term", (json_int_t)term,
			      "activate_us", (json_int_t)us));
}

int vmm_boot(struct vmm *m, uint64_t term, struct err *err)
{
	struct vm_kernel k = {.kernel_fd = m->set.kernel_fd,
			      .initrd_fd = m->set.initrd_fd,
			      .cmdline = m->set.cmdline};
	uint64_t since = clock_mono_ns();
	int rc;

	if (m->started || m->standby)
		return err_set(err, -EBUSY, "boot: this process has a role already");
	log_set_term(term);
	rc = vmm_recover_disks(m, err);
	rc = rc ? rc : vmm_build_primary(m, err);
	rc = rc ? rc : vm_boot(m->vm, &k, err);
	if (!rc)
		diskrep_start(m->diskrep);
	rc = rc ? rc : primary_alone(atomic_load(&m->primary), term, err);
	rc = rc ? rc : vm_start(m->vm, err);
	if (rc)
		return err_ctx(err, "boot");
	vmm_started(m, term, since);
	return 0;
}

static void on_standby_state(void *arg, enum standby_state s, uint64_t term, int bye,
			     const char *why)
{
	struct vmm *m = arg;

	if (s != SB_SYNCING && s != SB_READY)
		vmm_link_gone(m);
	/* "Ended in good order" means that this host's disks can be started from, also after a
	 * power cut. */
	if (bye && diskrep_standby_sync(m->s_disk)) {
		log_err("the guest has ended, but this host's disks could not be flushed");
		bye = 0;
	}
	log_info("standby: %s%s%s", standby_state_name(s), why ? ": " : "",
		 why ? why : "");
	vmm_tell(m, json_pack("{s:s,s:s,s:s,s:I,s:s,s:b,s:b}", "ev", "state", "role",
			      "standby", "state", standby_state_name(s), "term",
			      (json_int_t)term, "why", why ? why : "", "bye", bye,
			      "saved", bye == STANDBY_BYE_SAVED));
}

int vmm_be_standby(struct vmm *m, uint64_t term, struct err *err)
{
	struct vmm_setup *s = &m->set;
	struct standby_config cfg = {.vm = s->vm,
				     .on_state = on_standby_state,
				     .on_save = vmm_on_save,
				     .arg = m};
	struct standby_part parts[4];
	int rc;

	if (m->started || m->standby)
		return err_set(err, -EBUSY, "standby: this process has a role already");
	rc = mach_standby_create(m->vm, &m->s_mach, err);
	/* Twice: pages that were compressed are staged in both forms. */
	rc = rc ? rc : mem_standby_create(vm_gm(m->vm), 2 * s->ram, &m->s_mem, err);
	rc = rc ? rc : netbuf_standby_create(&m->s_net, err);
	rc = rc ? rc : vmm_standby_disks(m, err);
	if (rc)
		return rc;
	parts[0] = mach_standby(m->s_mach);
	parts[1] = mem_standby(m->s_mem);
	parts[2] = netbuf_standby_part(m->s_net);
	parts[3] = diskrep_standby_part(m->s_disk);
	rc = standby_create(&cfg, parts, 4, &m->standby, err);
	if (!rc)
		on_standby_state(m, SB_EMPTY, term, 0, "waiting for the primary");
	return rc;
}

int vmm_activate(struct vmm *m, uint64_t term, struct err *err)
{
	uint64_t since = clock_mono_ns();
	int rc;

	if (!m->standby || m->started)
		return err_set(err, -EPERM, "activate: this process is not a standby");
	log_set_term(term);
	/* Memory is about to change, and nobody would tell it. */
	if (m->copy)
		snapmem_cancel(m->copy);
	vmm_snapmem_cancel(m);
	rc = standby_activate(m->standby, term, err);
	if (!rc)
		diskrep_start(m->diskrep);
	rc = rc ? rc : vmm_build_primary(m, err);
	/* The grant is on disk before rhead says "activate", so output may pass from the
	 * start. */
	rc = rc ? rc : primary_alone(atomic_load(&m->primary), term, err);
	rc = rc ? rc : vm_start(m->vm, err);
	if (rc)
		return err_ctx(err, "activate");
	vmm_started(m, term, since);
	rc = netbuf_announce(m->netbuf, m->s_net, err);
	if (rc) {
		log_warn("the guest runs, but its addresses were not announced: %s",
			 err->msg);
		*err = (struct err){0};
	}
	return 0;
}

void vmm_role(struct vmm *m, const char **role_out, const char **state_out,
	      uint64_t *term_out)
{
	struct primary *p = atomic_load(&m->primary);
	struct primary_stats ps;
	struct standby_stats ss;

	*role_out = "none";
	*state_out = "none";
	*term_out = 0;
	if (p) {
		primary_stats(p, &ps);
		*role_out = "primary";
		*state_out = primary_state_name(ps.state);
		*term_out = ps.term;
	} else if (m->standby) {
		standby_stats(m->standby, &ss);
		*role_out = "standby";
		*state_out = standby_state_name(ss.state);
		*term_out = ss.term;
	}
}
