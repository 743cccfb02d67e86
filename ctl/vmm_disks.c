/* SPDX-License-Identifier: Apache-2.0
 * vmm_disks - the machine's disks: an image of one of the formats, the replicating filter before it,
 * and the device; and their journal: recovered before anybody reads an image, and what rhead is told of it.
 */
#include "ctl/vmm.h"

#include "diskrep/diskrep.h"
#include "diskrep/journal.h"
#include "hv/base/log.h"
#include "hv/base/xxh.h"
#include "hv/blk.h"
#include "hv/devices.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char REPLAYING[] = "replaying the journal of its disks";

static int open_raw(struct vmm *m, unsigned i, struct blk *blk, struct err *err)
{
	int fd = dup(m->set.disk_fd[i]);

	if (fd < 0)
		return err_sys(err, -errno, "dup");
	m->disk[i] = img_of_fd(m->set.disk_fd[i]);
	return raw_open(fd, m->io, blk, err);
}

/* The chain as rhead opened it; it is the process's for as long as it lives. */
static int open_vhd(struct vmm *m, unsigned i, struct blk *blk, struct err *err)
{
	const struct vmm_setup *s = &m->set;
	struct vhd_part part[VHD_CHAIN_MAX];
	struct vhd_image *v;
	struct stat st;
	int rc;

	for (unsigned k = 0; k < s->chain[i]; k++) {
		int fd = s->chain_fd[i][k];

		if (fstat(fd, &st))
			return err_sys(err, -errno, "image %u of the chain", k);
		part[k] = (struct vhd_part){img_of_fd(fd), fd, st.st_mtim.tv_sec};
	}
	rc = vhd_open(part, s->chain[i], s->read_only[i] ? 0 : VHD_WRITE, &v, err);
	if (rc)
		return rc;
	m->disk[i] = vhd_img(v);
	rc = vhd_blk_open(v, m->io, blk, err);
	if (rc) {
		vhd_close(v);
		return rc;
	}
	m->vhd[i] = v;
	m->vhd_blk[i] = *blk;
	return 0;
}

/* Another file in its place has another one; 0: it has none. A copy in the place of a VHD's last file, too. */
static uint64_t identity_of(const struct vmm_setup *s, unsigned i)
{
	int fd = s->vhd[i] ? s->chain_fd[i][s->chain[i] - 1] : s->disk_fd[i];
	struct {
		uint64_t ino, born_s, born_ns;
	} id = {0};
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st) ||
	    !S_ISREG(st.stx_mode) || !(st.stx_mask & STATX_BTIME))
		return 0;
	id.ino = st.stx_ino;
	id.born_s = (uint64_t)st.stx_btime.tv_sec;
	id.born_ns = st.stx_btime.tv_nsec;
	return XXH3_64bits(&id, sizeof(id)) | 1;
}

int vmm_build_disks(struct vmm *m, struct err *err)
{
	struct vmm_setup *s = &m->set;
	struct blk image = {0}, outer = {0};
	struct vblk *dev;
	int rc;

	for (unsigned i = 0; i < s->disks; i++) {
		rc = s->vhd[i] ? open_vhd(m, i, &image, err)
			       : open_raw(m, i, &image, err);
		rc = rc ? rc : vmm_shield_disk(m, i, &image, err);
		if (!rc)
			rc = diskrep_add_img(m->diskrep, image, m->disk[i], &outer, err);
		if (!rc)
			diskrep_identity(m->diskrep, i, identity_of(s, i));
		if (!rc)
			rc = vblk_create(m->vm, outer, s->serial[i], s->read_only[i],
					 &dev, err);
		if (rc)
			return err_ctx(err, "disk %u", i);
		vmm_watch_size(m, i, dev);
	}
	return 0;
}

int vmm_sync_disks(struct vmm *m)
{
	int rc, failed = 0;

	for (unsigned i = 0; i < m->set.disks; i++) {
		rc = m->set.read_only[i] || !m->disk[i].ops ? 0 : img_sync(m->disk[i]);
		if (rc)
			log_err("disk %u: %s", i, strerror(-rc));
		failed = rc ? rc : failed;
	}
	return failed;
}

static struct diskrep_journal journal_of(const struct vmm_setup *s)
{
	return (struct diskrep_journal){
		.vm = s->vm, .fd = s->journal_fd, .bytes = s->journal};
}

static void tell_image(struct vmm *m, enum diskrep_image image, json_t *epoch,
		       const char *why)
{
	vmm_tell(m, json_pack("{s:s,s:b,s:b,s:o,s:s}", "ev", "image", "whole",
			      image != DISKREP_TORN, "all", image == DISKREP_ALL, "epoch",
			      epoch, "why", why));
}

/* The standby's threads. */
static void on_news(void *arg, enum diskrep_image image, const char *why)
{
	tell_image(arg, image == DISKREP_LOST ? DISKREP_TORN : image, json_null(), why);
	if (image == DISKREP_LOST)
		vmm_disk_lost(arg, why);
}

static void tell_found(struct vmm *m, const struct journal_found *f)
{
	char text[256];

	if (f->whole < 0 || f->state == JOURNAL_OWNED)
		return;
	if (f->state == JOURNAL_LIVE)
		(void)snprintf(text, sizeof(text), /* fits */
			       "recovered to the end of epoch %llu, %llu epochs replayed",
			       (unsigned long long)f->gen.epoch,
			       (unsigned long long)f->epochs);
	else
		(void)snprintf(text, sizeof(text),
			       "no whole state of the guest: %s", /* fits */
			       f->why[0] ? f->why : journal_state_name(f->state));
	log_info("disks: %s", text);
	tell_image(m, f->whole ? DISKREP_WHOLE : DISKREP_TORN,
		   f->state == JOURNAL_LIVE ? json_integer((json_int_t)f->gen.epoch)
					    : json_null(),
		   text);
}

int vmm_recover_disks(struct vmm *m, struct err *err)
{
	struct diskrep_journal j = journal_of(&m->set);
	struct journal_found found;
	struct vmm_slow *slow = vmm_slow_begin(m, REPLAYING);
	int rc = diskrep_recover_img(m->disk, m->set.disks, &j, &found, err);

	vmm_slow_end(slow);
	tell_found(m, &found);
	if (!rc)
		diskrep_recovered(m->diskrep, &found);
	return rc;
}

int vmm_standby_disks(struct vmm *m, struct err *err)
{
	struct vmm_setup *s = &m->set;
	struct diskrep_journal j = journal_of(s);
	struct journal_found found;
	struct vmm_slow *slow = vmm_slow_begin(m, REPLAYING);
	int rc = diskrep_standby_create_img(m->disk, s->disks, s->diskbuf, &j, &m->s_disk,
					    err);

	vmm_slow_end(slow);
	if (rc == -EIO || rc == -ENOSPC || rc == -EDQUOT)
		vmm_tell_disk(m, 1, err->msg);
	if (rc)
		return rc;
	found = diskrep_standby_found(m->s_disk);
	tell_found(m, &found);
	diskrep_standby_on_news(m->s_disk,
				(struct diskrep_news){.fn = on_news, .arg = m});
	vmm_snap_standby(m);
	diskrep_inherit(m->diskrep, m->s_disk);
	diskrep_meet(m->diskrep, m->s_disk);
	return 0;
}

/* What is safe on the standby's disks, as far as this process knows. */
json_t *vmm_durable_json(struct vmm *m)
{
	struct diskrep_durable d = {.state = DISKREP_NOT_TOLD};
	int standby = m->s_disk && !m->started;
	json_t *o;

	if (standby)
		diskrep_standby_durable(m->s_disk, &d);
	else if (m->diskrep)
		diskrep_peer_durable(m->diskrep, &d);
	if (d.state < 0)
		return json_null();
	o = json_pack("{s:s,s:o,s:I,s:I}", "state",
		      journal_state_name((enum journal_state)d.state), "epoch",
		      d.epoch == UINT64_MAX ? json_null()
					    : json_integer((json_int_t)d.epoch),
		      "journal_used", (json_int_t)d.used_bytes, "journal_size",
		      (json_int_t)d.size_bytes);
	if (o && !standby) {
		json_object_set_new(o, "lag_epochs",
				    json_integer((json_int_t)d.lag_epochs));
		json_object_set_new(o, "lag_ms", json_integer((json_int_t)d.lag_ms));
	}
	return o;
}
