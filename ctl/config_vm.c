/* SPDX-License-Identifier: Apache-2.0
 * config_vm - the vms list of the config: each VM, its disks and its network cards.
 */
#include "ctl/config_read.h"

#include "ctl/tap_plug.h"
#include "hv/base/err.h"
#include "hv/base/hex.h"
#include "hv/gm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static const char *const vm_keys[] = {"name",
				      "host",
				      "memory",
				      "vcpus",
				      "cpu",
				      "kernel",
				      "initrd",
				      "cmdline",
				      "interval_ms",
				      "interval_us",
				      "min_interval_us",
				      "latency_target_us",
				      "overhead_cap",
				      "verify_interval_s",
				      "encoders",
				      "inflight",
				      "delta_cache",
				      "netbuf_limit",
				      "disk_buffer",
				      "resync_rate",
				      "journal",
				      "journal_size",
				      "policy",
				      "autostart",
				      "disks",
				      "nets",
				      NULL};
static const char *const disk_keys[] = {"path", "serial", "read_only", "format", NULL};
static const char *const net_keys[] = {"tap", "bridge", "mac", "mtu", "vhost", NULL};

/* A file of this host that must be there; @write: and be ours to change. */
static int check_file(struct config_reader *r, config_setting_t *parent, const char *key,
		      const char *path, int write)
{
	config_setting_t *s = config_setting_get_member(parent, key);
	struct stat st;

	if (path[0] != '/')
		return config_fail(r, s, -EINVAL,
				   "\"%s\" must be a whole path, from / on", path);
	if (r->flags & CONFIG_NO_FILES)
		return 0;
	if (stat(path, &st))
		return config_fail(r, s, -errno, "%s: %s; create it or correct the path",
				   path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return config_fail(r, s, -EINVAL,
				   "%s is neither a file nor a block device", path);
	if (access(path, write ? R_OK | W_OK : R_OK))
		return config_fail(r, s, -errno, "%s: %s; give rhead the right to %s it",
				   path, strerror(errno),
				   write ? "read and write" : "read");
	return 0;
}

static int parse_mac(const char *t, uint8_t *mac)
{
	if (strlen(t) != 17)
		return -EINVAL;
	for (unsigned i = 0; i < 6; i++) {
		int hi = hex_digit(t[3 * i]), lo = hex_digit(t[3 * i + 1]);

		if (hi < 0 || lo < 0 || (i < 5 && t[3 * i + 2] != ':'))
			return -EINVAL;
		mac[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

static int read_mac(struct config_reader *r, config_setting_t *s, struct config_net *n)
{
	static const uint8_t zero[6];
	char text[64];
	int rc = config_text(r, s, "mac", NULL, text, sizeof(text));

	if (rc)
		return rc;
	s = config_setting_get_member(s, "mac");
	if (parse_mac(text, n->mac) || !memcmp(n->mac, zero, sizeof(zero)))
		return config_fail(
			r, s, -EINVAL,
			"\"%s\" is no MAC; write it like \"52:54:00:12:34:56\"", text);
	if (n->mac[0] & 1)
		return config_fail(r, s, -EINVAL,
				   "\"%s\" is a multicast MAC; make the first byte even",
				   text);
	(void)snprintf(n->mac_text, sizeof(n->mac_text),
		       "%02x:%02x:%02x:%02x:%02x:%02x", /* fits */
		       n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4], n->mac[5]);
	return 0;
}

static int read_ifname(struct config_reader *r, config_setting_t *parent, const char *key,
		       const char *dflt, char *out)
{
	int rc = config_host_text(r, parent, key, dflt, out, IFNAMSIZ);

	if (rc)
		return rc;
	if (strpbrk(out, "/ :%") || !strcmp(out, ".") || !strcmp(out, ".."))
		return config_fail(r, config_setting_get_member(parent, key), -EINVAL,
				   "\"%s\" is no interface name", out);
	return 0;
}

static int read_net(struct config_reader *r, config_setting_t *s, struct config_net *n)
{
	uint64_t mtu;
	int rc = read_ifname(r, s, "tap", NULL, n->tap);

	if (!rc && !n->tap[0])
		rc = config_fail(r, config_setting_get_member(s, "tap"), -EINVAL,
				 "is empty; name a tap device");
	if (!rc)
		rc = read_ifname(r, s, "bridge", "", n->bridge);
	if (!rc)
		rc = read_mac(r, s, n);
	if (!rc)
		rc = config_uint(r, s, "mtu", 1500, 576, 9216, &mtu);
	if (!rc)
		n->mtu = (unsigned)mtu;
	if (!rc)
		rc = config_bool(r, s, "vhost", 0, &n->vhost);
	if (!rc && n->vhost && strlen(n->tap) > TAP_PLUG_NAME_MAX)
		rc = config_fail(
			r, config_setting_get_member(s, "tap"), -EINVAL,
			"\"%s\": with vhost a tap's name has at most %d characters",
			n->tap, TAP_PLUG_NAME_MAX);
	return rc;
}

/* Never found out from what a guest may have written into the image. */
static int read_format(struct config_reader *r, config_setting_t *s,
		       struct config_disk *d)
{
	char text[16];
	int rc = config_text(r, s, "format", "", text, sizeof(text));

	if (rc)
		return rc;
	if (!text[0])
		d->format = CONFIG_FORMAT_UNSAID;
	else if (!strcmp(text, "raw"))
		d->format = CONFIG_FORMAT_RAW;
	else if (!strcmp(text, "vhd"))
		d->format = CONFIG_FORMAT_VHD;
	else
		return config_fail(r, config_setting_get_member(s, "format"), -EINVAL,
				   "\"%s\" is no format; give \"raw\" or \"vhd\"", text);
	return 0;
}

static int read_disk(struct config_reader *r, config_setting_t *s, unsigned i,
		     struct config_disk *d)
{
	char dflt[CONFIG_SERIAL_MAX];
	int rc;

	(void)snprintf(dflt, sizeof(dflt), "disk%u", i); /* fits */
	rc = config_host_text(r, s, "path", NULL, d->path, sizeof(d->path));
	if (!rc)
		rc = config_text(r, s, "serial", dflt, d->serial, sizeof(d->serial));
	if (!rc)
		rc = config_bool(r, s, "read_only", 0, &d->read_only);
	if (!rc)
		rc = read_format(r, s, d);
	if (!rc)
		rc = check_file(r, s, "path", d->path, !d->read_only);
	return rc;
}

static int read_disks(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	config_setting_t *list, *e;
	int rc = config_list(r, s, "disks", 0, CONFIG_DISKS_MAX, &list);

	for (unsigned i = 0; !rc && list && i < (unsigned)config_setting_length(list);
	     i++) {
		rc = config_elem_group(r, list, i, disk_keys, &e);
		if (!rc)
			rc = read_disk(r, e, i, &v->disks[i]);
		for (unsigned k = 0; !rc && k < i; k++)
			if (!strcmp(v->disks[k].serial, v->disks[i].serial))
				rc = config_fail(
					r, e, -EEXIST,
					"serial \"%s\" is that of disks[%u]; choose another",
					v->disks[i].serial, k);
		v->n_disks = i + 1;
	}
	return rc;
}

static int read_nets(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	config_setting_t *list, *e;
	int rc = config_list(r, s, "nets", 0, CONFIG_NETS_MAX, &list);

	for (unsigned i = 0; !rc && list && i < (unsigned)config_setting_length(list);
	     i++) {
		rc = config_elem_group(r, list, i, net_keys, &e);
		if (!rc)
			rc = read_net(r, e, &v->nets[i]);
		v->n_nets = i + 1;
	}
	return rc;
}

/* interval_ms may have a fraction; interval_us is the same in whole microseconds. */
static int read_interval(struct config_reader *r, config_setting_t *s,
			 struct config_vm *v)
{
	config_setting_t *ms = config_setting_get_member(s, "interval_ms");
	uint64_t us;
	double f;
	int rc;

	rc = config_uint(r, s, "interval_us", 25000, 200, 10000000, &us);
	if (rc)
		return rc;
	if (ms) {
		if (config_setting_get_member(s, "interval_us"))
			return config_fail(r, ms, -EINVAL,
					   "is given as interval_us too; keep one");
		if (config_setting_type(ms) == CONFIG_TYPE_FLOAT)
			f = config_setting_get_float(ms);
		else if (config_setting_type(ms) == CONFIG_TYPE_INT)
			f = config_setting_get_int(ms);
		else
			return config_fail(
				r, ms, -EINVAL,
				"must be a number of milliseconds, like 25 or 2.5");
		if (!(f >= 0.2 && f <= 10000))
			return config_fail(r, ms, -ERANGE,
					   "out of range; give 0.2 to 10000");
		us = (uint64_t)(f * 1000 + 0.5);
	}
	v->interval_us = (unsigned)us;
	rc = config_uint(r, s, "min_interval_us", us < 200 ? us : 200, 100, us, &us);
	v->min_interval_us = (unsigned)us;
	return rc;
}

/* What the epoch controller is to keep (remus/control.h). */
static int read_latency(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	uint64_t us, cap, verify, encoders;
	int rc = config_uint(r, s, "latency_target_us", 500, 0, 10000000, &us);

	rc = rc ? rc : config_uint(r, s, "overhead_cap", 20, 1, 100, &cap);
	rc = rc ? rc : config_uint(r, s, "verify_interval_s", 600, 0, 86400, &verify);
	rc = rc ? rc : config_uint(r, s, "encoders", 0, 0, 8, &encoders);
	if (rc)
		return rc;
	v->verify_s = (unsigned)verify;
	v->encoders = (unsigned)encoders;
	v->latency_target_us = (unsigned)us;
	v->overhead_cap = (unsigned)cap;
	return 0;
}

static int read_cpu(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	static const char *const known[] = {"x86-64-v2", "x86-64-v3", "host"};
	int rc = config_text(r, s, "cpu", known[0], v->cpu, sizeof(v->cpu));

	if (rc)
		return rc;
	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(v->cpu, known[i]))
			return 0;
	return config_fail(
		r, config_setting_get_member(s, "cpu"), -EINVAL,
		"\"%s\" is no CPU model; give \"x86-64-v2\", \"x86-64-v3\" or \"host\"",
		v->cpu);
}

static int read_host(struct config_reader *r, config_setting_t *s,
		     const struct config *cfg, struct config_vm *v)
{
	char name[CONFIG_NAME_MAX];
	int rc = config_text(r, s, "host", cfg->hosts[0].name, name, sizeof(name));

	if (rc)
		return rc;
	for (v->host = 0; v->host < CONFIG_HOSTS; v->host++)
		if (!strcmp(cfg->hosts[v->host].name, name))
			return 0;
	return config_fail(r, config_setting_get_member(s, "host"), -ENOENT,
			   "\"%s\" is no host of this pair; give \"%s\" or \"%s\"", name,
			   cfg->hosts[0].name, cfg->hosts[1].name);
}

static int read_boot(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	int rc = config_host_text(r, s, "kernel", NULL, v->kernel, sizeof(v->kernel));

	if (!rc)
		rc = check_file(r, s, "kernel", v->kernel, 0);
	if (!rc)
		rc = config_host_text(r, s, "initrd", "", v->initrd, sizeof(v->initrd));
	if (!rc && v->initrd[0])
		rc = check_file(r, s, "initrd", v->initrd, 0);
	if (!rc)
		rc = config_text(r, s, "cmdline", "", v->cmdline, sizeof(v->cmdline));
	return rc;
}

static int read_policy(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	char text[16];
	int rc = config_text(r, s, "policy", "hold", text, sizeof(text));

	v->policy = CONFIG_POLICY_HOLD;
	if (!rc && strcmp(text, "hold") != 0)
		rc = config_fail(
			r, config_setting_get_member(s, "policy"), -EINVAL,
			"\"%s\" is no policy; the only one is \"hold\" (output waits while "
			"peer and arbiter are both gone)",
			text);
	return rc;
}

/* What hv/gm.h can make a guest's memory of. */
static int read_memory(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	_Static_assert(GM_STEP % MIB == 0, "the advice is in whole MiB");
	uint64_t below;
	int rc = config_size(r, s, "memory", UINT64_MAX, GM_MIN, 256 * GIB, &v->memory);

	if (rc || v->memory % GM_STEP == 0)
		return rc;
	below = v->memory - v->memory % GM_STEP;
	return config_fail(r, config_setting_get_member(s, "memory"), -EINVAL,
			   "must be a multiple of %lluM; give \"%lluM\" or \"%lluM\"",
			   GM_STEP / MIB, (unsigned long long)(below / MIB),
			   (unsigned long long)((below + GM_STEP) / MIB));
}

static int read_journal(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	uint64_t least = 2 * v->disk_buffer, dflt = least > 256 * MIB ? least : 256 * MIB;
	int rc = config_host_text(r, s, "journal", "", v->journal, sizeof(v->journal));

	if (!rc && v->journal[0] && v->journal[0] != '/')
		rc = config_fail(r, config_setting_get_member(s, "journal"), -EINVAL,
				 "\"%s\" must be a whole path, from / on", v->journal);
	if (!rc)
		rc = config_size(r, s, "journal_size", dflt, 0, 64 * GIB,
				 &v->journal_size);
	/* An epoch must fit, and the next one while that is being flushed. */
	if (!rc && v->journal_size && v->journal_size < least)
		rc = config_fail(
			r, config_setting_get_member(s, "journal_size"), -EINVAL,
			"must be 0, for none, or at least twice disk_buffer: \"%lluM\"",
			(unsigned long long)((least + MIB - 1) / MIB));
	return rc;
}

static int read_limits(struct config_reader *r, config_setting_t *s, struct config_vm *v)
{
	uint64_t n;
	int rc = read_memory(r, s, v);

	if (!rc)
		rc = config_uint(r, s, "vcpus", 1, 1, CONFIG_VCPUS_MAX, &n);
	if (!rc)
		v->vcpus = (unsigned)n;
	if (!rc)
		rc = config_uint(r, s, "inflight", 2, 1, 16, &n);
	if (!rc)
		v->inflight = (unsigned)n;
	if (!rc)
		rc = config_size(r, s, "delta_cache", v->memory / 4, 0, 64 * GIB,
				 &v->delta_cache);
	if (!rc)
		rc = config_size(r, s, "netbuf_limit", 64 * MIB, MIB, 4 * GIB,
				 &v->netbuf_limit);
	if (!rc)
		rc = config_size(r, s, "disk_buffer", 64 * MIB, MIB, 16 * GIB,
				 &v->disk_buffer);
	if (!rc)
		rc = config_size(r, s, "resync_rate", 0, 0, 1024 * GIB, &v->resync_rate);
	if (!rc && v->resync_rate && v->resync_rate < MIB)
		rc = config_fail(r, config_setting_get_member(s, "resync_rate"), -EINVAL,
				 "must be 0, for no limit, or at least \"1M\"");
	if (!rc)
		rc = read_journal(r, s, v);
	if (!rc)
		rc = config_bool(r, s, "autostart", 0, &v->autostart);
	return rc;
}

static int read_vm(struct config_reader *r, config_setting_t *s, struct config *cfg,
		   struct config_vm *v)
{
	int rc = config_name(r, s, "name", v->name, sizeof(v->name));

	if (!rc)
		rc = read_host(r, s, cfg, v);
	if (!rc)
		rc = read_limits(r, s, v);
	if (!rc)
		rc = read_cpu(r, s, v);
	if (!rc)
		rc = read_interval(r, s, v);
	if (!rc)
		rc = read_latency(r, s, v);
	if (!rc)
		rc = read_policy(r, s, v);
	if (!rc)
		rc = read_boot(r, s, v);
	if (!rc)
		rc = read_disks(r, s, v);
	if (!rc)
		rc = read_nets(r, s, v);
	return rc;
}

/* Two cards that share a MAC or a tap, or two disks on one image, would destroy each other. */
static int check_nets(struct config_reader *r, config_setting_t *s,
		      const struct config_vm *a, const struct config_vm *b)
{
	for (unsigned i = 0; i < b->n_nets; i++) {
		for (unsigned k = 0; k < (a == b ? i : a->n_nets); k++) {
			if (!memcmp(a->nets[k].mac, b->nets[i].mac, 6))
				return config_fail(
					r, s, -EEXIST,
					"nets[%u]: mac %s is that of %s nets[%u]; choose another",
					i, b->nets[i].mac_text, a->name, k);
			if (!strcmp(a->nets[k].tap, b->nets[i].tap))
				return config_fail(
					r, s, -EEXIST,
					"nets[%u]: tap %s is that of %s nets[%u]; choose another",
					i, b->nets[i].tap, a->name, k);
		}
	}
	return 0;
}

static int check_disks(struct config_reader *r, config_setting_t *s,
		       const struct config_vm *a, const struct config_vm *b)
{
	for (unsigned i = 0; i < b->n_disks; i++) {
		for (unsigned k = 0; k < (a == b ? i : a->n_disks); k++) {
			if (a->disks[k].read_only && b->disks[i].read_only)
				continue;
			if (!strcmp(a->disks[k].path, b->disks[i].path))
				return config_fail(
					r, s, -EEXIST,
					"disks[%u]: %s is that of %s disks[%u]; a "
					"writable image belongs to one disk",
					i, b->disks[i].path, a->name, k);
		}
	}
	return 0;
}

static int check_unique(struct config_reader *r, config_setting_t *s,
			const struct config *cfg, unsigned i)
{
	const struct config_vm *b = &cfg->vms[i];
	int rc = 0;

	for (unsigned k = 0; k <= i && !rc; k++) {
		if (k < i && !strcmp(cfg->vms[k].name, b->name))
			return config_fail(
				r, config_setting_get_member(s, "name"), -EEXIST,
				"\"%s\" is the name of vms[%u]; choose another", b->name,
				k);
		rc = check_nets(r, s, &cfg->vms[k], b);
		if (!rc)
			rc = check_disks(r, s, &cfg->vms[k], b);
	}
	return rc;
}

int config_vms(struct config_reader *r, config_setting_t *root, struct config *cfg)
{
	config_setting_t *list, *e;
	int rc = config_list(r, root, "vms", 1, CONFIG_VMS_MAX, &list);
	unsigned n;

	if (rc)
		return rc;
	n = (unsigned)config_setting_length(list);
	cfg->vms = calloc(n, sizeof(*cfg->vms));
	if (!cfg->vms)
		return err_set(r->err, -ENOMEM, "%s: out of memory", r->name);
	for (unsigned i = 0; i < n && !rc; i++) {
		rc = config_elem_group(r, list, i, vm_keys, &e);
		if (!rc)
			rc = read_vm(r, e, cfg, &cfg->vms[i]);
		if (!rc)
			rc = check_unique(r, e, cfg, i);
		cfg->n_vms = i + 1;
	}
	return rc;
}
