/* SPDX-License-Identifier: Apache-2.0
 * vmrun_start - open everything for a rhea-vm, which opens nothing itself, and start it.
 */
#include "ctl/vmrun_start.h"

#include "ctl/config.h"
#include "ctl/console.h"
#include "ctl/host.h"
#include "ctl/image_chain.h"
#include "ctl/linktest.h"
#include "ctl/snapfile.h"
#include "ctl/tap.h"
#include "ctl/tap_plug.h"
#include "ctl/vmproc.h"
#include "hv/base/err.h"
#include "hv/base/hex.h"
#include "hv/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Descriptors with the names that the setup message gives them. */
struct parcel {
	struct vmproc_start st;
	char name[VMPROC_FDS_MAX][32];
	int plug[CONFIG_NETS_MAX]; /* interfaces that hold the nets' frames; 0: none */
};

/* Takes @fd. */
static int pack(struct parcel *p, const char *name, int fd)
{
	unsigned i = p->st.fds;

	if (i == VMPROC_FDS_MAX) {
		(void)close(fd); /* nothing was written through it */
		return -E2BIG;
	}
	(void)snprintf(p->name[i], sizeof(p->name[i]), "%s", name); /* fits: "disk7" */
	p->st.fd[i].name = p->name[i];
	p->st.fd[i].fd = fd;
	p->st.fds++;
	return 0;
}

static int dup_cloexec(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static void unpack(struct parcel *p)
{
	while (p->st.fds)
		(void)close(p->st.fd[--p->st.fds].fd); /* rhea-vm has its own by now */
}

static int open_file(struct parcel *p, const char *name, const char *path, int flags,
		     struct err *err)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, -errno, "%s: open %s", name, path);
	return pack(p, name, fd);
}

/* A raw image whose content says that it is something else is only taken at somebody's word: a guest
 * writes what it likes, and so would choose what its disk is taken for. */
static int check_raw(const struct config_disk *d, int fd, struct err *err)
{
	int r = d->format == CONFIG_FORMAT_UNSAID ? image_looks_like_vhd(fd) : 0;

	if (r < 0)
		return err_sys(err, r, "%s", d->path);
	return r ? err_set(err, -EINVAL,
			   "%s looks like a VHD image: say format = \"vhd\", or \"raw\" "
			   "if it is the guest that wrote that",
			   d->path)
		 : 0;
}

static int pack_chain(struct parcel *p, unsigned disk, struct image_chain *c)
{
	char name[32];
	int rc = 0, fd;

	for (unsigned i = 0; !rc && i < c->n; i++) {
		if (i)
			(void)snprintf(name, sizeof(name), "disk%u.%u", disk,
				       i); /* fits */
		else
			(void)snprintf(name, sizeof(name), "disk%u", disk); /* fits */
		fd = dup_cloexec(c->file[i].fd);
		rc = fd < 0 ? -errno : pack(p, name, fd);
	}
	return rc;
}

/* The locks are on the open files, so they are rhea-vm's from the setup on and end with it: two
 * processes never write one image, whatever else goes wrong. */
static int open_disk(struct parcel *p, unsigned i, const struct config_disk *d,
		     struct err *err)
{
	struct image_chain chain;
	char name[16];
	int fd, rc;

	if (d->format == CONFIG_FORMAT_VHD) {
		rc = image_chain_open(d->path, d->read_only ? 0 : IMAGE_WRITE, &chain,
				      err);
		if (!rc)
			rc = pack_chain(p, i, &chain)
				     ? err_set(err, -E2BIG, "too many files for one VM")
				     : 0;
		image_chain_close(&chain);
		return rc ? err_ctx(err, "disk%u", i) : 0;
	}
	(void)snprintf(name, sizeof(name), "disk%u", i); /* fits */
	fd = image_open(d->path, !d->read_only, err);
	if (fd < 0)
		return err_ctx(err, "%s", name);
	rc = check_raw(d, fd, err);
	if (rc) {
		(void)close(fd); /* nothing was written through it */
		return err_ctx(err, "%s", name);
	}
	return pack(p, name, fd);
}

static int open_plugged(struct parcel *p, const struct config_vm *vm, unsigned i,
			struct err *err)
{
	const struct config_net *n = &vm->nets[i];
	struct tap_plug plug;
	char name[16];
	int rc = tap_plug_open(n->tap, n->bridge, n->mtu, vm->netbuf_limit, &plug, err),
	    rc2;

	if (rc)
		return rc;
	p->plug[i] = plug.ifindex;
	(void)snprintf(name, sizeof(name), "net%u", i); /* these fit */
	rc = pack(p, name, plug.tap);
	(void)snprintf(name, sizeof(name), "vhost%u", i);
	rc2 = pack(p, name, plug.vhost);
	rc = rc ? rc : rc2;
	(void)snprintf(name, sizeof(name), "sniff%u", i);
	rc2 = pack(p, name, plug.sniff);
	return rc ? rc : rc2;
}

static int open_devices(struct parcel *p, const struct config_vm *vm, struct err *err)
{
	char name[16];
	int rc = 0, fd;

	for (unsigned i = 0; !rc && i < vm->n_disks; i++)
		rc = open_disk(p, i, &vm->disks[i], err);
	for (unsigned i = 0; !rc && i < vm->n_nets; i++) {
		if (vm->nets[i].vhost) {
			rc = open_plugged(p, vm, i, err);
			continue;
		}
		(void)snprintf(name, sizeof(name), "net%u", i); /* fits */
		fd = tap_open(vm->nets[i].tap, vm->nets[i].bridge, vm->nets[i].mtu, err);
		rc = fd < 0 ? fd : pack(p, name, fd);
	}
	return rc;
}

/* Its blocks are there before it is needed: a full file system is found out now. A file of another
 * size is kept, with what may have to be replayed: rhea-vm makes use of what there is. */
static int reserve(int fd, uint64_t bytes)
{
	struct stat st;
	uint64_t has;

	if (fstat(fd, &st))
		return -errno;
	has = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &has))
		return -errno;
	if (has >= bytes)
		return 0;
	if (!S_ISREG(st.st_mode))
		return -ENOSPC;
	return -posix_fallocate(fd, 0, (off_t)bytes);
}

static int open_journal(struct parcel *p, const struct host *h,
			const struct config_vm *vm, struct err *err)
{
	char path[PATH_MAX];
	int rc, fd;

	if (!vm->journal_size || !vm->n_disks)
		return 0;
	rc = vmrun_journal_path(h, vm, path, sizeof(path));
	if (rc)
		return err_sys(err, rc, "disk journal");
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, -errno, "disk journal %s", path);
	rc = flock(fd, LOCK_EX | LOCK_NB) ? -errno : reserve(fd, vm->journal_size);
	if (rc) {
		(void)close(fd); /* nothing was written through it */
		return err_sys(err, rc, "disk journal %s: %llu MiB for it", path,
			       (unsigned long long)(vm->journal_size >> 20));
	}
	return pack(p, "journal", fd);
}

int vmrun_journal_path(const struct host *h, const struct config_vm *vm, char *out,
		       size_t room)
{
	int n = vm->journal[0] ? snprintf(out, room, "%s", vm->journal)
			       : snprintf(out, room, "%s/%s.journal", h->opts.state_dir,
					  vm->name);

	return n < 0 || (size_t)n >= room ? -ENAMETOOLONG : 0;
}

static int open_console(struct parcel *p, struct console *con, struct err *err)
{
	int sv[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv))
		return err_sys(err, -errno, "console socket");
	rc = pack(p, "console", sv[1]);
	if (rc) {
		(void)close(sv[0]); /* nothing was written through it */
		return rc;
	}
	return console_source(con, sv[0], err);
}

static int open_activity(struct parcel *p, struct host *h, const struct config_vm *vm,
			 struct err *err)
{
	int fd = vm->n_disks ? vmrun_activity_open(h, vm) : -ENOENT;

	if (fd == -EAGAIN)
		return err_sys(err, fd, "the activity log of %s is in use", vm->name);
	return fd < 0 ? 0 : pack(p, "activity", fd);
}

static int open_saved(struct parcel *p, const struct host *h, const struct config_vm *vm,
		      struct err *err)
{
	int fd = vmrun_saved_open(h, vm, err);

	return fd < 0 ? fd : pack(p, "saved", fd);
}

static int open_all(struct parcel *p, struct host *h, const struct config_vm *vm,
		    int resumes, struct console *con, struct err *err)
{
	int rc;

	rc = open_file(p, "kvm", "/dev/kvm", O_RDWR, err);
	if (!rc)
		rc = open_file(p, "kernel", vm->kernel, O_RDONLY, err);
	if (!rc && vm->initrd[0])
		rc = open_file(p, "initrd", vm->initrd, O_RDONLY, err);
	if (!rc)
		rc = open_console(p, con, err);
	if (!rc)
		rc = open_devices(p, vm, err);
	if (!rc)
		rc = open_activity(p, h, vm, err);
	if (!rc)
		rc = open_journal(p, h, vm, err);
	if (!rc && resumes)
		rc = open_saved(p, h, vm, err);
	return rc;
}

static json_t *list_devices(const struct config_vm *vm, const struct parcel *p,
			    json_t **disks_out)
{
	json_t *nets = json_array(), *disks = json_array();

	/* A failed append leaves the list short, which rhea-vm refuses. */
	for (unsigned i = 0; i < vm->n_nets; i++)
		json_array_append_new(nets,
				      json_pack("{s:s,s:i}", "mac", vm->nets[i].mac_text,
						"plug", p->plug[i]));
	for (unsigned i = 0; i < vm->n_disks; i++)
		json_array_append_new(
			disks,
			json_pack("{s:s,s:b,s:s}", "serial", vm->disks[i].serial,
				  "read_only", vm->disks[i].read_only, "format",
				  vm->disks[i].format == CONFIG_FORMAT_VHD ? "vhd"
									   : "raw"));
	*disks_out = disks;
	return nets;
}

static json_t *list_paths(const struct config *cfg)
{
	json_t *paths = json_array();

	/* A failed append leaves the list short, which the peer refuses. */
	for (unsigned i = 0; i < cfg->n_paths; i++)
		json_array_append_new(
			paths,
			json_pack("{s:s,s:s,s:i}", "transport", cfg->paths[i].transport,
				  "args", cfg->paths[i].args, "streams",
				  (int)config_path_streams(&cfg->paths[i])));
	return paths;
}

static int hex_key(const struct config *cfg, char out[2 * CONFIG_KEY_LEN + 1])
{
	uint8_t key[CONFIG_KEY_LEN];
	int rc = config_derive_key(cfg, "rhea stream", key);

	if (!rc)
		hex_put(out, key, CONFIG_KEY_LEN);
	explicit_bzero(key, sizeof(key));
	return rc;
}

/* After so long a stop of this host the peer may act: it counts from the last heartbeat, which left
 * up to one interval before the stop. */
static unsigned suspect_us(const struct config *cfg)
{
	return cfg->heartbeat_interval_ms * (cfg->heartbeat_missed - 1) * 1000;
}

static json_t *setup_message(struct host *h, const struct config_vm *vm,
			     const struct parcel *p)
{
	const struct config *cfg = h->cfg;
	const struct passwd *pw = getpwnam("rhea-vm");
	char psk[2 * CONFIG_KEY_LEN + 1];
	json_t *msg, *nets, *disks;

	if (hex_key(cfg, psk))
		return NULL;
	nets = list_devices(vm, p, &disks);
	msg = json_pack(
		"{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:i,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:I,s:I,s:I,s:I,"
		"s:s,s:o,s:o,s:i,s:i,s:o,s:s,s:I,s:I,s:I}",
		"op", "setup", "vm", vm->name, "host", config_self(cfg)->name, "peer",
		config_peer(cfg)->name, "pair", cfg->pair, "psk", psk, "ram",
		(json_int_t)vm->memory, "vcpus", (int)vm->vcpus, "cpu", vm->cpu,
		"cmdline", vm->cmdline, "interval_us", (int)vm->interval_us,
		"min_interval_us", (int)vm->min_interval_us, "latency_target_us",
		(int)vm->latency_target_us, "overhead_cap", (int)vm->overhead_cap,
		"verify_s", (int)vm->verify_s, "encoders", (int)vm->encoders, "inflight",
		(int)vm->inflight, "suspect_us", (json_int_t)suspect_us(cfg), "cache",
		(json_int_t)vm->delta_cache, "netbuf", (json_int_t)vm->netbuf_limit,
		"diskbuf", (json_int_t)vm->disk_buffer, "log", h->opts.log, "nets", nets,
		"disks", disks, "uid", pw ? (int)pw->pw_uid : 0, "gid",
		pw ? (int)pw->pw_gid : 0, "paths", list_paths(cfg), "module_dir",
		h->opts.module_dir, "path_buffer", (json_int_t)cfg->path_buffer,
		"resync_rate", (json_int_t)vm->resync_rate, "journal",
		(json_int_t)vm->journal_size);
	explicit_bzero(psk, sizeof(psk));
	return msg;
}

json_t *vmrun_tester_setup(struct host *h, const char *name)
{
	const struct config *cfg = h->cfg;
	const struct passwd *pw = getpwnam("rhea-vm");
	char psk[2 * CONFIG_KEY_LEN + 1];
	json_t *msg;

	if (hex_key(cfg, psk))
		return NULL;
	msg = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:o,s:s}", "op",
			"setup-tester", "vm", name, "host", config_self(cfg)->name,
			"peer", config_peer(cfg)->name, "pair", cfg->pair, "psk", psk,
			"log", h->opts.log, "uid", pw ? (int)pw->pw_uid : 0, "gid",
			pw ? (int)pw->pw_gid : 0, "paths", list_paths(cfg), "module_dir",
			h->opts.module_dir);
	explicit_bzero(psk, sizeof(psk));
	return msg;
}

void vmrun_clean(const struct config_vm *vm)
{
	struct err err = {0};

	for (unsigned i = 0; i < vm->n_nets; i++)
		if (vm->nets[i].vhost && tap_plug_remove(vm->nets[i].tap, &err))
			log_warn("%s: %s", vm->name, err.msg);
}

int vmrun_start(struct host *h, const struct config_vm *vm, int resumes,
		struct console *con, const struct vmproc_ops *ops, void *arg,
		struct vmproc **p_out, struct err *err)
{
	struct parcel p = {.st = {.program = h->opts.vm_program,
				  .vm = vm->name,
				  .ping_ms = h->cfg->heartbeat_interval_ms,
				  .hung_ms = h->cfg->heartbeat_interval_ms *
					     h->cfg->heartbeat_missed}};
	int rc;

	*p_out = NULL;
	linktest_yield(h->linktest);
	/* Before anybody writes to an image. */
	rc = snap_recover(vm, err);
	rc = rc ? rc : open_all(&p, h, vm, resumes, con, err);
	if (!rc) {
		p.st.setup = setup_message(h, vm, &p);
		rc = p.st.setup ? vmproc_spawn(h->loop, &p.st, ops, arg, p_out, err)
				: err_set(err, -ENOMEM, "set up rhea-vm: out of memory");
	}
	json_decref(p.st.setup);
	unpack(&p);
	if (rc)
		vmrun_clean(vm);
	if (rc)
		(void)console_source(con, -1,
				     NULL); /* nobody is at its other end: cannot fail */
	return rc;
}
