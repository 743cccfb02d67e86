/* SPDX-License-Identifier: Apache-2.0
 * vmm_setup - the setup message of rhead, checked and taken apart.
 */
#include "ctl/vmm.h"

#include "replication/session.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int want_string(json_t *msg, const char *key, char **out, struct err *err)
{
	const char *s = json_string_value(json_object_get(msg, key));

	if (!s)
		return err_set(err, -EINVAL, "setup: \"%s\" is missing or not a string",
			       key);
	*out = strdup(s);
	return *out ? 0 : err_set(err, -ENOMEM, "setup: out of memory");
}

static int want_number(json_t *msg, const char *key, uint64_t min, uint64_t max,
		       uint64_t *out, struct err *err)
{
	json_t *v = json_object_get(msg, key);
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < 0 || (uint64_t)n < min || (uint64_t)n > max)
		return err_set(err, -EINVAL,
			       "setup: \"%s\" is missing or not in %llu..%llu", key,
			       (unsigned long long)min, (unsigned long long)max);
	*out = (uint64_t)n;
	return 0;
}

static int want_unsigned(json_t *msg, const char *key, unsigned min, unsigned max,
			 unsigned *out, struct err *err)
{
	uint64_t n = 0;
	int rc = want_number(msg, key, min, max, &n, err);

	*out = (unsigned)n;
	return rc;
}

static int parse_psk(json_t *msg, uint8_t psk[TP_PSK_LEN], struct err *err)
{
	const char *s = json_string_value(json_object_get(msg, "psk"));
	unsigned byte;
	int used;

	if (!s || strlen(s) != 2 * TP_PSK_LEN)
		return err_set(err, -EINVAL, "setup: \"psk\" must be %d hex digits",
			       2 * TP_PSK_LEN);
	for (int i = 0; i < TP_PSK_LEN; i++) {
		if (sscanf(s + 2 * i, "%2x%n", &byte, &used) != 1 || used != 2)
			return err_set(err, -EINVAL, "setup: \"psk\" must be hex digits");
		psk[i] = (uint8_t)byte;
	}
	return 0;
}

static int parse_mac(const char *s, uint8_t mac[6])
{
	int end = 0;

	if (!s || sscanf(s, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1],
			 &mac[2], &mac[3], &mac[4], &mac[5], &end) != 6)
		return -EINVAL;
	return s[end] ? -EINVAL : 0;
}

static int parse_format(json_t *disk, int *vhd)
{
	const char *format = json_string_value(json_object_get(disk, "format"));

	*vhd = format && !strcmp(format, "vhd");
	return format && (*vhd || !strcmp(format, "raw")) ? 0 : -EINVAL;
}

static int parse_devices(json_t *msg, struct vmm_setup *s, struct err *err)
{
	json_t *nets = json_object_get(msg, "nets"),
	       *disks = json_object_get(msg, "disks"), *v;
	const char *serial;
	size_t i;

	if (!json_is_array(nets) || json_array_size(nets) > VMM_NETS_MAX)
		return err_set(err, -EINVAL,
			       "setup: \"nets\" must be a list of at most %d",
			       VMM_NETS_MAX);
	if (!json_is_array(disks) || json_array_size(disks) > VMM_DISKS_MAX)
		return err_set(err, -EINVAL,
			       "setup: \"disks\" must be a list of at most %d",
			       VMM_DISKS_MAX);
	json_array_foreach(nets, i, v)
	{
		if (parse_mac(json_string_value(json_object_get(v, "mac")), s->mac[i]))
			return err_set(err, -EINVAL,
				       "setup: nets[%zu]: \"mac\" is not an address", i);
		s->plug[i] = (int)json_integer_value(json_object_get(v, "plug"));
		if (s->plug[i] < 0)
			return err_set(err, -EINVAL,
				       "setup: nets[%zu]: \"plug\" is no interface", i);
		s->plugs += s->plug[i] > 0;
		s->nets++;
	}
	json_array_foreach(disks, i, v)
	{
		serial = json_string_value(json_object_get(v, "serial"));
		s->serial[i] = strdup(serial ? serial : "");
		if (!s->serial[i])
			return err_set(err, -ENOMEM, "setup: out of memory");
		s->read_only[i] = json_is_true(json_object_get(v, "read_only"));
		if (parse_format(v, &s->vhd[i]))
			return err_set(err, -EINVAL,
				       "setup: disks[%zu]: \"format\" is not known", i);
		s->disks++;
	}
	return 0;
}

/* "disk1.2": a parent in the chain of disk 1; in order. */
static int *parent_slot(struct vmm_setup *s, const char *name)
{
	unsigned i, k;
	int end = 0;

	if (sscanf(name, "disk%u.%u%n", &i, &k, &end) != 2 || name[end] ||
	    i >= s->disks || !s->vhd[i] || k >= VHD_CHAIN_MAX || k != s->chain[i] + 1)
		return NULL;
	s->chain[i] = k;
	return &s->chain_fd[i][k];
}

static int *fd_slot(struct vmm_setup *s, const char *name)
{
	unsigned i;
	int end = 0;

	if (!strcmp(name, "kvm"))
		return &s->kvm_fd;
	if (!strcmp(name, "kernel"))
		return &s->kernel_fd;
	if (!strcmp(name, "initrd"))
		return &s->initrd_fd;
	if (!strcmp(name, "console"))
		return &s->console_fd;
	if (!strcmp(name, "activity"))
		return &s->activity_fd;
	if (!strcmp(name, "journal"))
		return &s->journal_fd;
	if (!strcmp(name, "saved"))
		return &s->saved_fd;
	if (sscanf(name, "disk%u%n", &i, &end) == 1 && !name[end] && i < s->disks)
		return &s->disk_fd[i];
	if (sscanf(name, "net%u%n", &i, &end) == 1 && !name[end] && i < s->nets)
		return &s->net_fd[i];
	if (sscanf(name, "vhost%u%n", &i, &end) == 1 && !name[end] && i < s->nets &&
	    s->plug[i])
		return &s->vhost_fd[i];
	if (sscanf(name, "sniff%u%n", &i, &end) == 1 && !name[end] && i < s->nets &&
	    s->plug[i])
		return &s->sniff_fd[i];
	return parent_slot(s, name);
}

__attribute__((nonnull(4))) static int take_fds(json_t *msg, const int *fds, int nfds,
						struct vmm_setup *s, struct err *err)
{
	json_t *names = json_object_get(msg, "fds"), *v;
	int *slot, rc = 0;
	size_t i;

	if (!json_is_array(names) || json_array_size(names) != (size_t)nfds)
		rc = err_set(err, -EINVAL,
			     "setup: \"fds\" names %zu descriptors, %d came",
			     json_array_size(names), nfds);
	for (i = 0; i < (size_t)nfds; i++) {
		v = json_array_get(names, i);
		slot = !rc && json_is_string(v) ? fd_slot(s, json_string_value(v)) : NULL;
		if (!slot || *slot >= 0) {
			close(fds[i]);
			if (!rc)
				rc = err_set(err, -EINVAL,
					     "setup: descriptor \"%s\" is not expected",
					     json_is_string(v) ? json_string_value(v)
							       : "?");
			continue;
		}
		*slot = fds[i];
	}
	if (rc)
		return rc;
	if (s->kvm_fd < 0 || s->kernel_fd < 0 || s->console_fd < 0)
		return err_set(err, -EINVAL,
			       "setup: kvm, kernel and console descriptors are needed");
	for (i = 0; i < s->disks; i++) {
		if (s->disk_fd[i] < 0)
			return err_set(err, -EINVAL, "setup: no descriptor for disk%zu",
				       i);
		s->chain_fd[i][0] = s->disk_fd[i];
		s->chain[i]++;
	}
	for (i = 0; i < s->nets; i++)
		if (s->net_fd[i] < 0 ||
		    (s->plug[i] && (s->vhost_fd[i] < 0 || s->sniff_fd[i] < 0)))
			return err_set(err, -EINVAL, "setup: no descriptor for net%zu",
				       i);
	return 0;
}

static int parse_paths(json_t *msg, struct vmm_setup *s, struct err *err)
{
	json_t *list = json_object_get(msg, "paths"), *v;
	size_t i;
	int rc = 0;

	if (!json_is_array(list) || !json_array_size(list) ||
	    json_array_size(list) > PATHSEL_MAX)
		return err_set(err, -EINVAL, "setup: \"paths\" must be a list of 1 to %d",
			       PATHSEL_MAX);
	json_array_foreach(list, i, v)
	{
		rc = rc ? rc : want_string(v, "transport", &s->path[i].transport, err);
		rc = rc ? rc : want_string(v, "args", &s->path[i].args, err);
		s->path[i].streams =
			(unsigned)json_integer_value(json_object_get(v, "streams"));
		if (!rc && s->path[i].streams > TP_TCP_STREAMS_MAX)
			rc = err_set(err, -EINVAL, "setup: too many streams");
		s->n_paths++;
	}
	return rc;
}

/* What a process that only measures needs, too. */
static int parse_link(json_t *msg, struct vmm_setup *s, struct err *err)
{
	int rc = 0;

	rc = rc ? rc : want_string(msg, "vm", &s->vm, err);
	rc = rc ? rc : want_string(msg, "host", &s->host, err);
	rc = rc ? rc : want_string(msg, "peer", &s->peer, err);
	rc = rc ? rc : want_string(msg, "pair", &s->pair, err);
	rc = rc ? rc : want_string(msg, "log", &s->log, err);
	rc = rc ? rc : parse_psk(msg, s->psk, err);
	rc = rc ? rc : want_string(msg, "module_dir", &s->module_dir, err);
	rc = rc ? rc : want_unsigned(msg, "uid", 0, INT_MAX, &s->uid, err);
	rc = rc ? rc : want_unsigned(msg, "gid", 0, INT_MAX, &s->gid, err);
	return rc;
}

static int parse_scalars(json_t *msg, struct vmm_setup *s, struct err *err)
{
	int rc = parse_link(msg, s, err);

	rc = rc ? rc : want_string(msg, "cpu", &s->cpu, err);
	rc = rc ? rc : want_string(msg, "cmdline", &s->cmdline, err);
	rc = rc ? rc : want_number(msg, "ram", 16 << 20, 1ull << 40, &s->ram, err);
	rc = rc ? rc : want_unsigned(msg, "vcpus", 1, VM_VCPUS_MAX, &s->vcpus, err);
	rc = rc ? rc
		: want_unsigned(msg, "interval_us", 100, 60000000, &s->interval_us, err);
	rc = rc ? rc
		: want_unsigned(msg, "min_interval_us", 0, 60000000, &s->min_interval_us,
				err);
	rc = rc ? rc
		: want_unsigned(msg, "latency_target_us", 0, 60000000,
				&s->latency_target_us, err);
	rc = rc ? rc : want_unsigned(msg, "overhead_cap", 1, 100, &s->overhead_cap, err);
	rc = rc ? rc : want_unsigned(msg, "verify_s", 0, 86400, &s->verify_s, err);
	rc = rc ? rc : want_unsigned(msg, "encoders", 0, 8, &s->encoders, err);
	rc = rc ? rc : want_unsigned(msg, "inflight", 1, 64, &s->inflight, err);
	rc = rc ? rc : want_unsigned(msg, "suspect_us", 0, INT_MAX, &s->suspect_us, err);
	rc = rc ? rc : want_number(msg, "cache", 0, 1ull << 40, &s->cache, err);
	rc = rc ? rc : want_number(msg, "netbuf", 1 << 16, 1ull << 40, &s->netbuf, err);
	rc = rc ? rc : want_number(msg, "diskbuf", 1 << 20, 1ull << 40, &s->diskbuf, err);
	rc = rc ? rc : want_number(msg, "journal", 0, 1ull << 40, &s->journal, err);
	rc = rc ? rc
		: want_number(msg, "resync_rate", 0, 1ull << 40, &s->resync_rate, err);
	rc = rc ? rc
		: want_number(msg, "path_buffer", SES_REPLAY_MIN, 1u << 30,
			      &s->path_buffer, err);
	return rc;
}

int vmm_setup_parse_tester(json_t *msg, struct vmm_setup *s, struct err *err)
{
	int rc;

	memset(s, 0, sizeof(*s));
	rc = parse_link(msg, s, err);
	return rc ? rc : parse_paths(msg, s, err);
}

int vmm_setup_parse(json_t *msg, const int *fds, int nfds, struct vmm_setup *s,
		    struct err *err)
{
	int rc, rc2;

	memset(s, 0, sizeof(*s));
	s->kvm_fd = s->kernel_fd = s->initrd_fd = s->console_fd = -1;
	s->activity_fd = s->journal_fd = s->saved_fd = -1;
	for (int i = 0; i < VMM_DISKS_MAX; i++) {
		s->disk_fd[i] = -1;
		for (int k = 0; k < VHD_CHAIN_MAX; k++)
			s->chain_fd[i][k] = -1;
	}
	for (int i = 0; i < VMM_NETS_MAX; i++)
		s->net_fd[i] = s->vhost_fd[i] = s->sniff_fd[i] = -1;
	rc = parse_scalars(msg, s, err);
	rc = rc ? rc : parse_devices(msg, s, err);
	rc = rc ? rc : parse_paths(msg, s, err);
	rc2 = take_fds(msg, fds, nfds, s, rc ? NULL : err);
	return rc ? rc : rc2;
}
