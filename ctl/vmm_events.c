/* SPDX-License-Identifier: Apache-2.0
 * vmm_events - what rhead is told, and what happens when the guest ends, reboots or
 * crashes.
 */
#include "ctl/vmm.h"

#include "ctl/vmproto.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FINISH_MS = 3000 };

void vmm_tell(struct vmm *m, json_t *msg)
{
	int rc = msg ? vmproto_send(m->ctl_fd, msg, NULL, 0) : -ENOMEM;

	/* -EPIPE: rhead is gone; the control loop sees that too and ends the process. */
	if (rc && rc != -EPIPE)
		log_err("rhead could not be told: %s", strerror(-rc));
	json_decref(msg);
}

void vmm_end(struct vmm *m, int status)
{
	m->exit_status = status;
	loop_stop(m->ctl);
}

static void fenced(void *arg)
{
	vmm_end(arg, VMEXIT_FENCED);
}

void vmm_on_primary_state(void *arg, enum primary_state s, uint64_t term, const char *why)
{
	struct vmm *m = arg;

	if (s == PRI_ALONE || s == PRI_UNLINKED || s == PRI_FENCED)
		vmm_link_gone(m);
	/* From ARMED on a standby may hold a commit, and run the guest with a disk that works. */
	vmm_shield_all(m, s != PRI_ALONE && s != PRI_SYNCING);
	log_info("primary: %s%s%s", primary_state_name(s), why && *why ? ": " : "",
		 why ? why : "");
	vmm_tell(m, json_pack("{s:s,s:s,s:s,s:I,s:s,s:b}", "ev", "state", "role",
			      "primary", "state", primary_state_name(s), "term",
			      (json_int_t)term, "why", why ? why : "", "bye", 0));
	if (s == PRI_FENCED && loop_post(m->ctl, fenced, m))
		_exit(VMEXIT_FENCED); /* out of memory: the guest is paused, output stays
					 held */
}

struct guest_end {
	struct vmm *m;
	enum vm_event ev;
	char text[256];
};

static int reboot_between(void *arg)
{
	struct vmm *m = arg;
	struct vm_kernel k = {.kernel_fd = m->set.kernel_fd,
			      .initrd_fd = m->set.initrd_fd,
			      .cmdline = m->set.cmdline};
	struct err err = {0};
	int rc;

	vmm_snapmem_cancel(m); /* all of memory is cleared */
	rc = vm_reboot(m->vm, &k, &err);

	if (rc)
		log_err("reboot: %s", err.msg);
	return rc;
}

void vmm_tell_guest(struct vmm *m, const char *what, const char *why)
{
	log_info("the guest ended: %s%s%s", what, *why ? ": " : "", why);
	vmm_tell(m, json_pack("{s:s,s:s,s:s}", "ev", "guest", "what", what, "why", why));
}

/* A thread of its own: a reboot or a last commit may take a while, and pings are answered
 * meanwhile. */
static void *guest_event(void *arg)
{
	struct guest_end *g = arg;
	struct vmm *m = g->m;
	struct primary *p = atomic_load(&m->primary);
	int rc;

	switch (g->ev) {
	case VM_EV_RESET:
		log_info("the guest reboots");
		rc = primary_between(p, reboot_between, m);
		if (rc) {
			vmm_tell_guest(m, "crash", "the reboot failed");
			vmm_end(m, VMEXIT_CRASH);
		}
		break;
	case VM_EV_POWEROFF:
		rc = primary_finish(p, FINISH_MS);
		if (rc)
			log_warn("the last checkpoint was not committed: %s",
				 strerror(-rc));
		vmm_tell_guest(m, "poweroff", rc ? "without a last commit" : "");
		vmm_end(m, VMEXIT_OFF);
		break;
	case VM_EV_CRASH:
		vmm_tell_guest(m, "crash", g->text);
		vmm_end(m, VMEXIT_CRASH);
		break;
	}
	free(g);
	return NULL;
}

void vmm_on_guest(void *arg, enum vm_event ev, const char *text)
{
	struct vmm *m = arg;
	struct guest_end *g = calloc(1, sizeof(*g));
	pthread_t t;

	if (g) {
		g->m = m;
		g->ev = ev;
		(void)snprintf(g->text, sizeof(g->text), "%s",
			       text ? text : ""); /* truncation is fine */
		if (!pthread_create(&t, NULL, guest_event, g)) {
			pthread_detach(t);
			return;
		}
		free(g);
	}
	log_err("the guest's end could not be handled: out of memory");
	vmm_end(m, VMEXIT_CRASH);
}

/* Any thread. rhead unlinks the file: it must not be believed after the next start. */
void vmm_on_activity_failed(void *arg, int rc, int spoiled)
{
	vmm_tell(arg, json_pack("{s:s,s:s,s:b}", "ev", "activity", "why", strerror(-rc),
				"spoiled", spoiled));
}
