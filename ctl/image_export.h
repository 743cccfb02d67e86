/* SPDX-License-Identifier: Apache-2.0
 * image_export - a disk image that nobody writes, for backup programs: served by NBD, and what
 * changed in it since an older snapshot.
 *
 * The image and its parents stay locked as long as it is open, against whoever would write, merge or resize
 * them. Blocking; one thread.
 */
#ifndef CTL_IMAGE_EXPORT_H
#define CTL_IMAGE_EXPORT_H

#include "ctl/image_chain.h"

struct image_export {
	struct image_chain chain; /* of a VHD */
	struct vhd_image *v;	  /* NULL: raw */
	int fd;			  /* of a raw image; -1: none */
	uint64_t bytes;
	unsigned
		since; /* the older snapshot's number in the chain; its length: none is given */
};

/* @since: a VHD image further down the chain of @path; or NULL. Close @x in any case. */
int image_export_open(struct image_export *x, const char *path, int raw,
		      const char *since, struct err *err);
void image_export_close(struct image_export *x);

/* Call @run for each stretch that changed since the older snapshot, in order; it returns 0, or -errno to end
 * it. */
int image_export_changed(struct image_export *x,
			 int (*run)(void *arg, uint64_t at, uint64_t len, int zero),
			 void *arg, struct err *err);

/* How to serve it. */
struct image_nbd {
	const char *where;			/* a path, or ADDRESS:PORT */
	const char *tls_certificates, *tls_psk; /* a folder, a file; NULL: none */
	int once;				/* until the last client has gone */
};
struct image_served {
	uint64_t clients, reads, bytes;
};
/* How clients name it: before, the export's name, after. */
struct image_uri {
	char before[128], after[512];
};
/* image_nbd.c. nbdkit serves @x until it is told to end by SIGINT, SIGTERM or SIGHUP, or its once is
 * over. @ready hears where as soon as clients are served. The signals are handled anew. */
int image_export_serve(const struct image_export *x, const struct image_nbd *how,
		       void (*ready)(void *arg, const struct image_uri *uri), void *arg,
		       struct image_served *served_out, struct err *err);

/* image_listen.c. Returns a listening socket, owned. Without TLS only a Unix socket or a loopback
 * address is taken. */
int image_listen(const struct image_nbd *how, struct image_uri *uri, struct err *err);

#endif
